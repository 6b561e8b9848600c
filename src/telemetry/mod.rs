//! What operators see: metrics, logs and the audit log.
//!
//! [`Telemetry::install`] is called once, before the first event. From then on every
//! [`event::Event`] writes its log line, counts its metric and leaves its audit line together. Events
//! emitted before that, as in unit tests, are harmless.

pub mod audit;
mod emit;
pub mod event;
pub mod line_sink;
pub mod log;
pub mod metric;
pub mod pages;
pub mod request_id;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::config::Config;
use crate::lock::lock;
use audit::Audit;
use line_sink::LineSink;
use metric::{Exposition, Metrics, Names};

/// What [`event::Event::emit`] writes to.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    metrics: Arc<ArcSwap<Metrics>>,
    audit: Option<Arc<Audit>>,
}

pub struct Telemetry {
    started: Now,
    /// Another one where a reload brings names that are new.
    metrics: Arc<ArcSwap<Metrics>>,
    names: Mutex<Names>,
    exposition: Exposition,
    audit: Option<Arc<Audit>>,
    /// `None` where another subscriber was there before us, as in tests.
    log: Option<Arc<LineSink>>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("the log filter `{filter}` cannot be read: {why}")]
    LogFilter { filter: String, why: String },
    #[error("the audit log {} cannot be opened: {why}", path.display())]
    AuditFile { path: PathBuf, why: std::io::Error },
    #[error("a thread for {purpose} cannot be started: {why}")]
    Thread { purpose: &'static str, why: std::io::Error },
    #[error("the metrics cannot be set up: {0}")]
    Metrics(String),
    #[error("telemetry is installed already")]
    Twice,
}

impl Telemetry {
    /// Sets up logs, metrics and the audit log for the whole process.
    pub fn install(config: &Config) -> Result<Self, InstallError> {
        if INSTALLED.get().is_some() {
            return Err(InstallError::Twice);
        }
        let log = log::install(&config.log, config.limits.audit_queue)?;
        let telemetry = Self::build(config, log, Now::read())?;
        let installed = Installed { metrics: Arc::clone(&telemetry.metrics), audit: telemetry.audit.clone() };
        INSTALLED.set(installed).map_err(|_| InstallError::Twice)?;
        Ok(telemetry)
    }

    /// Everything but the process-wide parts.
    fn build(config: &Config, log: Option<Arc<LineSink>>, started: Now) -> Result<Self, InstallError> {
        let audit = match &config.audit {
            Some(path) => Some(Arc::new(Audit::open(path, config.limits.audit_queue)?)),
            None => None,
        };
        Self::over(Names::of(config), started, audit, log)
    }

    /// Metrics alone, for tests that look at an exposition.
    pub fn detached(routes: &[&str]) -> Result<Self, InstallError> {
        Self::over(Names::new(routes, &[]), Now::read(), None, None)
    }

    fn over(names: Names, started: Now, audit: Option<Arc<Audit>>, log: Option<Arc<LineSink>>) -> Result<Self, InstallError> {
        let exposition = Exposition::new(started.wall)?;
        let metrics = Arc::new(ArcSwap::from_pointee(exposition.metrics(&names)));
        Ok(Self { started, metrics, names: Mutex::new(names), exposition, audit, log })
    }

    /// After a reload: new names get series of their own, and what is gone keeps its, for sessions may live on there. The
    /// audit log is opened anew, in case that its file was moved away.
    pub fn follow(&self, config: &Config) {
        let mut names = lock(&self.names);
        if names.add(Names::of(config)) {
            self.metrics.store(Arc::new(self.exposition.metrics(&names)));
        }
        drop(names);
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }

    pub fn started(&self) -> Now {
        self.started
    }

    /// The metrics in the text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        let audit_dropped = self.audit.as_ref().map_or(0, |audit| audit.dropped());
        let log_dropped = self.log.as_ref().map_or(0, |log| log.dropped());
        self.metrics.load().lines_dropped(audit_dropped, log_dropped);
        self.exposition.handle.render()
    }

    /// Moves what histograms have gathered into their buckets. To be called every [`Self::UPKEEP`]: without it they grow.
    pub fn upkeep(&self) {
        self.exposition.handle.run_upkeep();
    }

    pub const UPKEEP: Duration = Duration::from_secs(5);

    /// Waits until every line has been written, or until `patience` is over. Says whether all were.
    pub fn flush(&self, patience: Duration) -> bool {
        let audit = self.audit.as_ref().is_none_or(|audit| audit.flush(patience));
        let log = self.log.as_ref().is_none_or(|log| log.flush(patience));
        audit && log
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("started", &self.started).finish_non_exhaustive()
    }
}
