//! Events of the way of spans to the receiver.

use tracing::{info, warn};

use crate::net::fetch::FetchError;
use crate::telemetry::event::Event;
use crate::telemetry::family::{Label, LabelNames, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Spans that the receiver of traces has accepted.
    EXPORTED: Counter = "usher_trace_spans_exported_total";
    /// Spans that were dropped: queue_full, gave_up (the receiver was away too long), refused (by
    /// the receiver), exit, or off (a reload has turned tracing off).
    DROPPED: Counter = "usher_trace_spans_dropped_total", { reason: DropReason }, shown;
    /// Requests to the receiver of traces: ok, or the fault.
    EXPORTS: Counter = "usher_trace_exports_total", { outcome: ExportOutcome }, shown;
}

words! {
    /// Why spans were dropped.
    pub enum DropReason {
        QueueFull = "queue_full",
        GaveUp = "gave_up",
        Refused = "refused",
        Exit = "exit",
        Off = "off",
    }
}

/// The result of a request: `None` is `ok`.
enum ExportOutcome {}

impl Label for ExportOutcome {
    type Value<'a> = Option<&'a FetchError>;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        [&["ok"], &FetchError::LABELS[..]].concat()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.map_or("ok", FetchError::label)
    }
}

/// Traces go to another receiver from now on. `None`: nothing is traced.
#[derive(Debug)]
pub struct ExportTarget<'a> {
    pub server: Option<&'a str>,
}

/// The receiver has accepted a batch.
#[derive(Debug)]
pub struct Exported {
    pub count: usize,
    /// The spans of it that the receiver rejects.
    pub rejected: usize,
    /// Its message about them.
    pub message: String,
    /// Whether the request before this one failed.
    pub was_away: bool,
    /// Whether the last answer had the same message.
    pub is_quiet: bool,
}

/// The receiver was not reached, or did not accept a batch.
#[derive(Debug)]
pub struct ExportFailed<'a> {
    pub server: &'a str,
    pub error: &'a FetchError,
    /// Whether the request before this one succeeded.
    pub is_first: bool,
}

/// Spans were dropped.
#[derive(Debug)]
pub struct SpansDropped {
    pub reason: DropReason,
    pub count: usize,
    /// Whether the log had a line about it a moment ago.
    pub is_quiet: bool,
}

/// The most characters of a receiver's message in the log.
const MOST_MESSAGE: usize = 200;

impl Event for ExportTarget<'_> {
    fn log(&self) {
        match self.server {
            Some(server) => {
                info!(target: "usher", event = "traces_on", server, "exporting traces");
            }
            None => info!(target: "usher", event = "traces_off", "traces are no longer exported"),
        }
    }
}

impl Event for Exported {
    fn log(&self) {
        if self.was_away {
            info!(target: "usher", event = "traces_exported", "the receiver of traces is back");
        }
        if !self.is_quiet && (self.rejected > 0 || !self.message.is_empty()) {
            let message: String = self.message.chars().take(MOST_MESSAGE).collect();
            warn!(
                target: "usher", event = "spans_rejected", count = self.rejected, message,
                "the receiver of traces rejects spans"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        let accepted = self.count.saturating_sub(self.rejected);
        metrics.add(&EXPORTED, (), accepted as u64);
        metrics.add(&DROPPED, (DropReason::Refused,), self.rejected as u64);
        metrics.count(&EXPORTS, (None,));
    }
}

impl Event for ExportFailed<'_> {
    /// Only the first of consecutive failures has a line.
    fn log(&self) {
        if self.is_first {
            let Self { server, error, .. } = *self;
            warn!(
                target: "usher", event = "traces_not_exported", server, fault = error.label(),
                detail = %error, "traces are not exported"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&EXPORTS, (Some(self.error),));
    }
}

impl Event for SpansDropped {
    fn log(&self) {
        if !self.is_quiet && self.reason != DropReason::Off {
            use crate::telemetry::family::Word as _;
            warn!(
                target: "usher", event = "spans_dropped", reason = self.reason.word(),
                count = self.count, "spans dropped"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.add(&DROPPED, (self.reason,), self.count as u64);
    }
}
