//! Events between this node and an upstream's servers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tracing::{info, warn};

use super::health::{ServerFault, ServerState};
use crate::telemetry::event::Event;
use crate::telemetry::family::{Name, Word, families, words};
use crate::telemetry::limit::{Limit, LimitReached};
use crate::telemetry::metrics::Metrics;

families! {
    /// Tries of an upstream server that failed, retried or not.
    DIAL_FAILURES: Counter = "usher_upstream_dial_failures_total", { upstream: Name }, shown;
    /// Servers by state.
    SERVERS: Gauge = "usher_upstream_servers", { upstream: Name, state: ServerState }, shown;
    /// Servers that were ejected, by fault.
    EJECTIONS: Counter = "usher_upstream_ejections_total",
        { upstream: Name, fault: ServerFault }, shown;
    /// Servers that failed and were kept, because too many others were ejected.
    WITHHELD: Counter = "usher_upstream_ejections_withheld_total", { upstream: Name }, shown;
    /// Ejected servers that were tried after their pause and failed again.
    FAILED_TRIALS: Counter = "usher_upstream_failed_trials_total", { upstream: Name }, shown;
    /// Ejected servers that returned.
    RETURNS: Counter = "usher_upstream_returns_total", { upstream: Name }, shown;
    /// Lookups of names of servers that brought or removed an address.
    ADDRESSES_CHANGED: Counter = "usher_upstream_addresses_changed_total",
        { upstream: Name }, shown;
    /// Lookups of names of servers that failed.
    RESOLVE_FAILURES: Counter = "usher_upstream_resolve_failures_total",
        { upstream: Name }, shown;
    /// Health checks of servers.
    CHECKS: Counter = "usher_upstream_health_checks_total",
        { upstream: Name, outcome: HealthCheckOutcome }, shown;
}

words! {
    /// The outcome of a health check.
    pub enum HealthCheckOutcome {
        Passed = "passed",
        Failed = "failed",
    }
}

/// A server of an upstream could not be reached, or gave no correct answer.
#[derive(Debug)]
pub struct DialFailed<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    pub error: &'a str,
}

impl Event for DialFailed<'_> {
    fn log(&self) {
        let Self { upstream, server, error } = *self;
        warn!(
            target: "usher", event = "dial_failed", upstream, server, error,
            "upstream dial failed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&DIAL_FAILURES, (self.upstream,));
    }
}

/// A server gets no new clients for a while.
#[derive(Debug)]
pub struct ServerEjected<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    pub fault: ServerFault,
    pub pause: Duration,
}

impl Event for ServerEjected<'_> {
    fn log(&self) {
        let Self { upstream, server, fault, pause } = *self;
        warn!(
            target: "usher", event = "server_ejected", upstream, server, fault = fault.word(),
            pause_seconds = pause.as_secs_f64(),
            "upstream server ejected"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&EJECTIONS, (self.upstream, self.fault));
    }
}

/// A server fails, and is kept because too many others are ejected.
#[derive(Debug)]
pub struct EjectionWithheld<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    pub fault: ServerFault,
    /// The number of other servers that are ejected.
    pub away: usize,
}

impl Event for EjectionWithheld<'_> {
    fn log(&self) {
        let Self { upstream, server, fault, away } = *self;
        warn!(
            target: "usher", event = "ejection_withheld", upstream, server, fault = fault.word(),
            ejected_others = away,
            "failing upstream server kept because of max_ejected_percent"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&WITHHELD, (self.upstream,));
    }
}

/// An ejected server was tried after its pause, and failed.
#[derive(Debug)]
pub struct TrialFailed<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    /// The time until the next trial.
    pub pause: Duration,
}

impl Event for TrialFailed<'_> {
    fn log(&self) {
        let Self { upstream, server, pause } = *self;
        warn!(
            target: "usher", event = "server_trial_failed", upstream, server,
            pause_seconds = pause.as_secs_f64(),
            "ejected upstream server failed its trial"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&FAILED_TRIALS, (self.upstream,));
    }
}

/// An ejected server gets clients again.
#[derive(Debug)]
pub struct ServerReturned<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    pub away: Duration,
}

impl Event for ServerReturned<'_> {
    fn log(&self) {
        let Self { upstream, server, away } = *self;
        info!(
            target: "usher", event = "server_returned", upstream, server,
            away_seconds = away.as_secs_f64(),
            "upstream server returned"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&RETURNS, (self.upstream,));
    }
}

/// The number of servers in one state.
#[derive(Debug)]
pub struct ServersCounted<'a> {
    pub upstream: &'a str,
    pub state: ServerState,
    pub count: usize,
}

impl Event for ServersCounted<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.set(&SERVERS, (self.upstream, self.state), self.count as f64);
    }
}

/// A health check of a server has ended.
#[derive(Debug)]
pub struct ServerChecked<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    /// `None`: the check passed.
    pub error: Option<&'a str>,
    /// Whether the check before failed too. Only the first failure in a row has a log line.
    pub is_known: bool,
}

impl Event for ServerChecked<'_> {
    fn log(&self) {
        let Self { upstream, server, .. } = *self;
        if let Some(error) = self.error.filter(|_| !self.is_known) {
            warn!(
                target: "usher", event = "health_check_failed", upstream, server, error,
                "health check of an upstream server failed"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        let outcome = if self.error.is_some() {
            HealthCheckOutcome::Failed
        } else {
            HealthCheckOutcome::Passed
        };
        metrics.count(&CHECKS, (self.upstream, outcome));
    }
}

/// The name of servers has other addresses than before.
#[derive(Debug)]
pub struct AddressesChanged<'a> {
    pub upstream: &'a str,
    /// The entry of the configuration.
    pub server: &'a str,
    /// Of each at most `max_addresses`.
    pub added: BTreeSet<IpAddr>,
    pub removed: BTreeSet<IpAddr>,
}

impl Event for AddressesChanged<'_> {
    fn log(&self) {
        let Self { upstream, server, added, removed } = self;
        info!(
            target: "usher", event = "addresses_changed", upstream, server, ?added, ?removed,
            "name of upstream servers has other addresses"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&ADDRESSES_CHANGED, (self.upstream,));
    }
}

/// The name of servers has more addresses than `max_addresses`. The rest is not used.
#[derive(Debug)]
pub struct AddressesUnused<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    pub unused: usize,
    /// Whether the lookup before gave too many, too. Only the first in a row has a log line.
    pub is_known: bool,
}

impl Event for AddressesUnused<'_> {
    fn log(&self) {
        let Self { upstream, server, unused, is_known } = *self;
        if !is_known {
            warn!(
                target: "usher", event = "addresses_unused", upstream, server, unused,
                "name of upstream servers has more than max_addresses"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        LimitReached::count_only(Limit::UpstreamMaxAddresses, metrics);
    }
}

/// The name of servers could not be looked up. Its last addresses stay in use.
#[derive(Debug)]
pub struct ResolveFailed<'a> {
    pub upstream: &'a str,
    pub server: &'a str,
    pub error: &'a str,
    /// Whether the lookup before failed too. Only the first failure in a row has a log line.
    pub is_known: bool,
}

impl Event for ResolveFailed<'_> {
    fn log(&self) {
        let Self { upstream, server, error, is_known } = *self;
        if !is_known {
            warn!(
                target: "usher", event = "resolve_failed", upstream, server, error,
                "name of upstream servers cannot be resolved"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&RESOLVE_FAILURES, (self.upstream,));
    }
}
