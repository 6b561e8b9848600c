//! Events of the replacement of a process.

use std::net::SocketAddr;

use tracing::{info, warn};

use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event};
use crate::telemetry::family::{families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Replacements of a process on this machine, as this process saw them.
    TAKEOVERS: Counter = "usher_takeovers_total", { outcome: TakeoverOutcome }, shown;
}

words! {
    enum TakeoverOutcome {
        /// This process took over from another one.
        Taken = "taken",
        /// Another process took over from this one.
        HandedOver = "handed_over",
        /// Another process failed to take over from this one, and nothing has changed.
        Failed = "failed",
        /// The link to the other process ended before this process did.
        LinkLost = "link_lost",
    }
}

/// This process took over from another one.
#[derive(Debug)]
pub struct TakenOver<'a> {
    pub addresses: &'a [SocketAddr],
    pub tickets: usize,
    pub revocations: usize,
}

/// Another process took over from this one.
#[derive(Debug)]
pub struct HandedOver<'a> {
    pub addresses: &'a [SocketAddr],
    pub tickets: usize,
    pub revocations: usize,
}

/// Another process could not take over. This one serves as before.
#[derive(Debug)]
pub struct HandOverFailed<'a> {
    pub why: &'a str,
}

/// SIGUSR2 started a new process, which will take over.
#[derive(Debug)]
pub struct ReplacementStarted {
    pub pid: u32,
}

/// SIGUSR2 could not start a new process.
#[derive(Debug)]
pub struct ReplacementNotStarted<'a> {
    pub why: &'a str,
}

/// The process that SIGUSR2 started has ended before this one. Its own log has the reason.
#[derive(Debug)]
pub struct ReplacementEnded<'a> {
    pub status: &'a str,
}

/// The process that has taken over is gone. Its tickets and orders are out of reach, so the
/// sessions here end at once.
#[derive(Debug)]
pub struct SuccessorLost;

/// A list of revoked client certificates of the process that has taken over could not be read. The
/// lists of before stay in force for the sessions here.
#[derive(Debug)]
pub struct CrlsUnread<'a> {
    pub why: &'a str,
}

impl Event for TakenOver<'_> {
    fn log(&self) {
        info!(
            target: "usher", event = "taken_over", addresses = ?self.addresses,
            tickets = self.tickets, revocations = self.revocations, "took over"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TAKEOVERS, (TakeoverOutcome::Taken,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} tickets, {} revocations", self.tickets, self.revocations);
        Some(AuditLine::of_process("taken_over", ACCEPTED, detail))
    }
}

impl Event for HandedOver<'_> {
    fn log(&self) {
        info!(
            target: "usher", event = "handed_over", addresses = ?self.addresses,
            tickets = self.tickets, revocations = self.revocations,
            "another process has taken over"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TAKEOVERS, (TakeoverOutcome::HandedOver,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} tickets, {} revocations", self.tickets, self.revocations);
        Some(AuditLine::of_process("handed_over", ACCEPTED, detail))
    }
}

impl Event for HandOverFailed<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "hand_over_failed", why = self.why,
            "another process failed to take over; this process goes on"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TAKEOVERS, (TakeoverOutcome::Failed,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine::of_process("hand_over_failed", "refused", self.why.to_owned()))
    }
}

impl Event for CrlsUnread<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "crls_unread", why = self.why,
            "the client CRLs of the process that took over cannot be read here"
        );
    }
}

impl Event for SuccessorLost {
    fn log(&self) {
        warn!(
            target: "usher", event = "successor_lost",
            "the process that took over is gone; closing the sessions here"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TAKEOVERS, (TakeoverOutcome::LinkLost,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine::of_process("successor_lost", "failed", "sessions close"))
    }
}

impl Event for ReplacementStarted {
    fn log(&self) {
        info!(
            target: "usher", event = "replacement_started", pid = self.pid,
            "started a process that takes over"
        );
    }
}

impl Event for ReplacementNotStarted<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "replacement_not_started", why = self.why,
            "cannot start a process that takes over; this process goes on"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TAKEOVERS, (TakeoverOutcome::Failed,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine::of_process("replacement_not_started", "refused", self.why.to_owned()))
    }
}

impl Event for ReplacementEnded<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "replacement_ended", status = self.status,
            "the process that was started to take over has ended"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TAKEOVERS, (TakeoverOutcome::Failed,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine::of_process("replacement_ended", "failed", self.status.to_owned()))
    }
}
