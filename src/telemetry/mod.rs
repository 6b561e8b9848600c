//! Metrics, logs and the audit log. The events themselves are in their modules.
//!
//! [`Telemetry::install`] is called once, before the first event. From then on, every [`Event`]
//! writes its log line, changes its metrics and writes its audit line together. Earlier events, as
//! in unit tests, only log.

pub mod audit;
pub mod event;
pub mod exposition;
pub mod family;
pub mod flood;
pub mod limit;
pub mod line_sink;
pub mod log;
#[cfg(test)]
pub(crate) mod log_events;
pub mod log_file;
pub mod metrics;
pub mod page;
pub mod process;
pub mod refusal;
pub mod severity;
pub mod value;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::base::clock::Now;
use crate::base::lock::lock;
use audit::AuditLog;
pub use event::Event;
use exposition::ExpositionFormat;
use family::{AnyFamily, LabelNames, families, words};
use flood::FloodControl;
use log::{LogSettings, LogSink};
use log_file::NothingToReopen;
use metrics::{Catalogue, Metrics};
use severity::Severity;

families! {
    /// Always 1; the label has the version.
    BUILD_INFO: Gauge = "usher_build_info", { version: Version }, shown;
    /// When this process started, in seconds since the Unix epoch.
    START_TIME: Gauge = "usher_start_time_seconds";
    /// Lines about refusals that were summarised instead of written, in the log or the audit log.
    LINES_SUMMARISED: Counter = "usher_lines_summarised_total", { log: LogKind }, shown;
    /// Audit lines lost because the disk was too slow or full.
    AUDIT_LINES_DROPPED: Total = "usher_audit_lines_dropped_total";
    /// Log lines lost because the reader of stderr was too slow.
    LOG_LINES_DROPPED: Total = "usher_log_lines_dropped_total";
}

words! {
    pub enum LogKind {
        Log = "log",
        Audit = "audit",
    }
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Audit => "audit log",
        })
    }
}

#[derive(Clone, Copy)]
struct Version;

impl family::Word for Version {
    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn word(self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    fn position(self) -> usize {
        0
    }
}

/// The telemetry of the process, which [`Event::emit`] writes to.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    metrics: Arc<ArcSwap<Metrics>>,
    audit: Option<Arc<AuditLog>>,
    flood: Arc<FloodControl>,
    client_refusals: Severity,
}

pub struct Telemetry {
    started: Now,
    /// Replaced when a reload adds new names.
    metrics: Arc<ArcSwap<Metrics>>,
    names: Mutex<LabelNames>,
    catalogue: Catalogue,
    audit: Option<Arc<AuditLog>>,
    flood: Arc<FloodControl>,
    /// `None` if the process already has another subscriber, as in tests.
    log: Option<LogSink>,
    /// Held from the opening of a file until its sink has it. A signal and a reload may come at the
    /// same time: the sink must keep the file that was opened last.
    reopening: Mutex<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("the log filter `{filter}` is not valid: {why}")]
    LogFilter { filter: String, why: String },
    #[error("cannot open the {log} {}: {why}", path.display())]
    LogFile { log: LogKind, path: PathBuf, why: std::io::Error },
    #[error("cannot start a thread for {purpose}: {why}")]
    Thread { purpose: &'static str, why: std::io::Error },
    #[error("telemetry is already installed")]
    Twice,
}

/// The settings of logs, metrics and the audit log.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    pub log: LogSettings,
    /// The level of refusals that the client caused.
    pub client_refusals: Severity,
    /// Lines per second about refusals of one source; the rest is summarised in one line.
    pub refusal_lines: usize,
    /// The most sources of refusals in the table.
    pub refusal_sources: usize,
    pub audit_file: Option<PathBuf>,
    /// The most lines that wait to be written, for each of the log and the audit log.
    pub waiting_lines: usize,
    pub label_names: LabelNames,
}

impl Telemetry {
    /// Sets up logs, metrics and the audit log for the process. `families` are those of all
    /// modules.
    pub fn install(
        settings: TelemetrySettings,
        families: impl IntoIterator<Item = &'static dyn AnyFamily>,
    ) -> Result<Self, InstallError> {
        if INSTALLED.get().is_some() {
            return Err(InstallError::Twice);
        }
        let log = log::install(&settings.log, settings.waiting_lines)?;
        let audit = match &settings.audit_file {
            Some(path) => Some(Arc::new(AuditLog::open(path, settings.waiting_lines)?)),
            None => None,
        };
        let flood = FloodControl::new(settings.refusal_lines, settings.refusal_sources);
        let telemetry = Self {
            flood: Arc::new(flood),
            audit,
            log,
            ..Self::detached(families, settings.label_names)
        };
        let installed = Installed {
            metrics: Arc::clone(&telemetry.metrics),
            audit: telemetry.audit.clone(),
            flood: Arc::clone(&telemetry.flood),
            client_refusals: settings.client_refusals,
        };
        INSTALLED.set(installed).map_err(|_| InstallError::Twice)?;
        Ok(telemetry)
    }

    /// Returns telemetry that no event changes, for tests of the exposition.
    pub fn detached(
        families: impl IntoIterator<Item = &'static dyn AnyFamily>,
        names: LabelNames,
    ) -> Self {
        let started = Now::read();
        let catalogue = Catalogue::new(families);
        let metrics = catalogue.metrics(&names);
        metrics.set(&BUILD_INFO, (Version,), 1.0);
        metrics.set(&START_TIME, (), started.wall.0 as f64 / 1000.0);
        Self {
            started,
            metrics: Arc::new(ArcSwap::from_pointee(metrics)),
            names: Mutex::new(names),
            catalogue,
            audit: None,
            flood: Arc::new(FloodControl::new(usize::MAX, 1)),
            log: None,
            reopening: Mutex::default(),
        }
    }

    /// Applies a reload. New names get series. Removed names keep their series, because sessions
    /// may still use them. Log files are opened again, in case they were moved, so it may block.
    pub fn follow(&self, new: LabelNames) {
        let mut names = lock(&self.names);
        if names.add(new) {
            self.metrics.store(Arc::new(self.catalogue.metrics(&names)));
        }
        drop(names);
        self.reopen_logs();
    }

    /// Opens the files of the log and the audit log again: they may have been moved away. Returns
    /// false if there are none.
    fn reopen_logs(&self) -> bool {
        let _reopening = lock(&self.reopening);
        let log = self.log.as_ref().is_some_and(LogSink::reopen);
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
        log || self.audit.is_some()
    }

    /// Does what SIGUSR1 asks for. It opens files, so it may block.
    pub fn follow_rotation(&self) {
        if !self.reopen_logs() {
            NothingToReopen.emit();
        }
    }

    pub fn started(&self) -> Now {
        self.started
    }

    /// Returns the metrics, with the figures of the process as they are now. It may block.
    pub fn render(&self, format: ExpositionFormat) -> String {
        let audit_dropped = self.audit_lines_lost();
        let log_dropped = self.log.as_ref().map_or(0, LogSink::dropped);
        let metrics = self.metrics.load();
        process::publish(&metrics, self.started.wall);
        metrics.set_total(&AUDIT_LINES_DROPPED, audit_dropped as f64);
        metrics.set_total(&LOG_LINES_DROPPED, log_dropped as f64);
        exposition::render(&self.catalogue, format)
    }

    /// Returns the metrics of some families, in the text format. Figures that only
    /// [`Self::render`] reads have their values of that time.
    pub fn render_families(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        exposition::render_families(&self.catalogue, ExpositionFormat::Text, is_wanted)
    }

    /// Returns the sum of the series of a gauge. `None`: none of them has a value.
    pub fn gauge(&self, family: &str) -> Option<f64> {
        self.catalogue.gauge(family)
    }

    /// Returns how many lines of the audit log were lost.
    pub fn audit_lines_lost(&self) -> u64 {
        self.audit.as_ref().map_or(0, |audit| audit.dropped())
    }

    /// Writes due summaries of refusals. It is called every [`Self::UPKEEP`].
    pub fn upkeep(&self) {
        for summary in self.flood.sweep(Now::read().mono) {
            summary.emit();
        }
    }

    pub const UPKEEP: Duration = Duration::from_secs(5);

    /// Waits until every line is written, at most for `patience`. Returns true if all are.
    pub fn flush(&self, patience: Duration) -> bool {
        for summary in self.flood.finish() {
            summary.emit();
        }
        let audit = self.audit.as_ref().is_none_or(|audit| audit.flush(patience));
        let log = self.log.as_ref().is_none_or(|log| log.flush(patience));
        audit && log
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("started", &self.started).finish_non_exhaustive()
    }
}
