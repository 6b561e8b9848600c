//! Events of logins to the admin page, and of the orders of operators.

use std::net::IpAddr;

use tracing::{info, warn};

use super::access::Caller;
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event, FloodRefusal};
use crate::telemetry::family::{Word, families, words};
use crate::telemetry::flood::RefusalSource;
use crate::telemetry::metrics::Metrics;

families! {
    /// Logins to the admin page: accepted, wrong_token, or rate_limited. Wrong bearer tokens of
    /// other requests: wrong_bearer, or rate_limited.
    LOGINS: Counter = "usher_admin_logins_total", { outcome: LoginOutcome }, shown;
    /// Logins to the admin page that are in force.
    LOGINS_OPEN: Gauge = "usher_admin_logins_open";
}

words! {
    /// The answer to a try to log in, or to a wrong bearer token.
    pub enum LoginOutcome {
        Accepted = "accepted",
        WrongToken = "wrong_token",
        /// Another request than a login had a wrong bearer token.
        WrongBearer = "wrong_bearer",
        /// The address has sent too many wrong tokens.
        RateLimited = "rate_limited",
    }
}

/// A try to log in to the admin page, or a wrong bearer token.
#[derive(Debug)]
pub struct LoginTried {
    /// `None`: over the unix socket.
    pub peer: Option<IpAddr>,
    pub outcome: LoginOutcome,
}

/// An order of an operator was answered: a revocation, a reload or a drain.
#[derive(Debug)]
pub struct OrderAnswered<'a> {
    pub path: &'a str,
    pub given_by: Caller,
    /// `None`: over the unix socket.
    pub peer: Option<IpAddr>,
    pub status: u16,
}

/// The number of logins has changed.
#[derive(Debug)]
pub struct LoginsCounted {
    pub open: usize,
}

impl Event for LoginTried {
    fn refusal(&self) -> Option<FloodRefusal> {
        let reason = self.outcome.word();
        let source = RefusalSource::of(self.peer, reason);
        let refusal = FloodRefusal { source, reason, keeps_audit: false };
        (self.outcome != LoginOutcome::Accepted).then_some(refusal)
    }

    fn log(&self) {
        let peer = self.peer.map(tracing::field::display);
        let outcome = self.outcome.word();
        if self.outcome == LoginOutcome::Accepted {
            info!(target: "usher", event = "admin_login", peer, outcome, "logged in to admin page");
        } else {
            warn!(target: "usher", event = "admin_login", peer, outcome, "admin token refused");
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&LOGINS, (self.outcome,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine {
            event: "admin_login",
            outcome: self.outcome.word(),
            peer: self.peer,
            ..AuditLine::default()
        })
    }
}

impl OrderAnswered<'_> {
    fn outcome(&self) -> &'static str {
        if (200..300).contains(&self.status) { ACCEPTED } else { "failed" }
    }
}

impl Event for OrderAnswered<'_> {
    fn log(&self) {
        let Self { path, given_by, status, .. } = *self;
        info!(
            target: "usher", event = "admin_order", path, given_by = given_by.name(),
            peer = self.peer.map(tracing::field::display), status, outcome = self.outcome(),
            "order of an operator answered"
        );
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine {
            event: "admin_order",
            outcome: self.outcome(),
            path: Some(self.path),
            peer: self.peer,
            status: Some(self.status),
            detail: Some(format!("given by {}", self.given_by.name())),
            ..AuditLine::default()
        })
    }
}

impl Event for LoginsCounted {
    fn count(&self, metrics: &Metrics) {
        metrics.set(&LOGINS_OPEN, (), self.open as f64);
    }
}
