//! Events between this node and an upstream's servers.

use tracing::warn;

use crate::telemetry::event::Event;
use crate::telemetry::family::{Name, families};
use crate::telemetry::metrics::Metrics;

families! {
    /// Dials of an upstream server that failed, retried or not.
    DIAL_FAILURES: Counter = "usher_upstream_dial_failures_total", { upstream: Name }, shown;
}

/// A server of an upstream could not be reached.
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
