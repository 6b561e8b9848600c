//! The trait of all events. An event goes to the log, the metrics and the audit log together.

use std::net::IpAddr;
use std::time::Duration;

use super::INSTALLED;
use super::audit::{AuditLine, AuditLog};
use super::flood::{AllowedLines, FloodControl, RefusalSource, RefusalSummary};
use super::metrics::Metrics;
use super::severity::{Severity, log_at};
use crate::base::clock::Now;

/// An event of a module: a small struct with the details of the event.
///
/// The module implements the lines and metrics of the event. Nothing else in the program logs,
/// counts or audits, so a log line always agrees with its counter.
pub trait Event {
    /// Returns the refusal of the event. For one source, only the first few refusals in a second
    /// get lines (`flood.rs`); all are counted.
    fn refusal(&self) -> Option<FloodRefusal> {
        None
    }

    /// Writes the log line.
    fn log(&self) {}

    /// Counts the event.
    fn count(&self, _metrics: &Metrics) {}

    /// Returns the audit line. Its time is filled in later.
    fn audit(&self) -> Option<AuditLine<'_>> {
        None
    }

    /// Logs, counts and audits. Before [`super::Telemetry::install`] it only logs.
    fn emit(&self)
    where
        Self: Sized,
    {
        let installed = INSTALLED.get();
        let metrics = installed.map(|installed| installed.metrics.load());
        let outlet = Outlet {
            metrics: metrics.as_deref().map(|metrics| &**metrics),
            audit: installed.and_then(|installed| installed.audit.as_deref()),
            flood: installed.map(|installed| &*installed.flood),
        };
        outlet.emit(self);
    }
}

/// The metrics and the audit log for an event. Both are `None` before telemetry is installed.
#[derive(Clone, Copy)]
pub(super) struct Outlet<'a> {
    pub(super) metrics: Option<&'a Metrics>,
    pub(super) audit: Option<&'a AuditLog>,
    pub(super) flood: Option<&'a FloodControl>,
}

/// A refusal, for the flood control.
#[derive(Clone, Copy, Debug)]
pub struct FloodRefusal {
    pub source: RefusalSource,
    /// A word of a closed set, for the line that summarises many refusals.
    pub reason: &'static str,
    /// Whether the audit line is always written. Allowed only for refusals that an unauthenticated
    /// client cannot cause.
    pub keeps_audit: bool,
}

impl FloodRefusal {
    /// Returns a refusal that any client at this address can cause.
    pub fn of(peer: IpAddr, reason: &'static str) -> Self {
        Self { source: RefusalSource::of(Some(peer), reason), reason, keeps_audit: false }
    }
}

impl Outlet<'_> {
    pub(super) fn emit(&self, event: &impl Event) {
        let lines = event.refusal().map_or(AllowedLines::ALL, |refusal| self.lines(refusal));
        if lines.log {
            event.log();
        }
        if let Some(metrics) = self.metrics {
            event.count(metrics);
        }
        if lines.audit
            && let Some(audit) = self.audit
            && let Some(line) = event.audit()
        {
            audit.write(&AuditLine { time: Now::read().wall.to_rfc3339(), ..line });
        }
    }

    /// Counts a refusal of its source, and returns the lines that it may write.
    fn lines(&self, refusal: FloodRefusal) -> AllowedLines {
        let Some(flood) = self.flood else { return AllowedLines::ALL };
        let FloodRefusal { source, reason, keeps_audit } = refusal;
        let (lines, summary) = flood.judge(source, reason, keeps_audit, Now::read().mono);
        if let Some(summary) = summary {
            self.emit(&summary);
        }
        lines
    }
}

/// Returns the level of refusals that the client caused: `[log] refusals`.
pub fn client_refusal_level() -> Severity {
    INSTALLED.get().map_or(Severity::Info, |installed| installed.client_refusals)
}

/// The outcome of success, in metrics and audit lines.
pub const ACCEPTED: &str = "accepted";

/// Returns the text, or `None` if it is empty.
pub fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Returns whole milliseconds, for log and audit lines.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Event for RefusalSummary {
    fn log(&self) {
        let (peer, count) = (self.peer(), self.total().log);
        let reasons = self.describe(|count| count.log);
        log_at!(
            client_refusal_level(), target: "usher", event = "refusals_summarised",
            peer = peer.map(|peer| peer.to_string()), limit = self.limit(), count, reasons,
            "further refusals of one source summarised"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let count = self.total();
        metrics.add(&super::LINES_SUMMARISED, (super::LogKind::Log,), count.log);
        metrics.add(&super::LINES_SUMMARISED, (super::LogKind::Audit,), count.audit);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let count = self.total().audit;
        (count > 0 && self.limit().is_none()).then(|| AuditLine {
            event: "refusals_summarised",
            outcome: "refused",
            peer: self.peer(),
            count: Some(count),
            detail: Some(self.describe(|count| count.audit)),
            ..AuditLine::default()
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::model::request_id::RequestId;
    use crate::telemetry::exposition::{ExpositionFormat, render};
    use crate::telemetry::family::{AnyFamily, LabelNames};
    use crate::telemetry::metrics::Catalogue;
    use std::path::PathBuf;

    /// Telemetry for one test, independent of the telemetry of the process.
    pub(crate) struct TestOutlet {
        catalogue: Catalogue,
        metrics: Metrics,
        audit: AuditLog,
        path: PathBuf,
    }

    impl TestOutlet {
        pub(crate) fn new(families: &[&'static dyn AnyFamily], names: &LabelNames) -> Self {
            let families = families.iter().copied();
            let catalogue = Catalogue::new(families);
            let path = std::env::temp_dir().join(format!("usher-events-{}", RequestId::random()));
            Self {
                metrics: catalogue.metrics(names),
                catalogue,
                audit: AuditLog::open(&path, 100).unwrap(),
                path,
            }
        }

        pub(crate) fn emit(&self, event: &impl Event) {
            let (metrics, audit) = (Some(&self.metrics), Some(&self.audit));
            Outlet { metrics, audit, flood: None }.emit(event);
        }

        pub(crate) fn metrics(&self) -> String {
            render(&self.catalogue, ExpositionFormat::Text)
        }

        pub(crate) fn audit_lines(&self) -> Vec<serde_json::Value> {
            assert!(self.audit.flush(Duration::from_secs(30)));
            let text = std::fs::read_to_string(&self.path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl Drop for TestOutlet {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
