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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::clock::Now;
use crate::config::Config;
use audit::Audit;
use line_sink::LineSink;
use metric::{Metrics, Names};

/// What [`event::Event::emit`] writes to.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    metrics: Arc<Metrics>,
    audit: Option<Arc<Audit>>,
}

pub struct Telemetry {
    started: Now,
    metrics: Arc<Metrics>,
    exposition: PrometheusHandle,
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
        let routes: Vec<&str> = config.route_names().into_keys().collect();
        let upstreams: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
        let issuers: Vec<&str> = config.issuers.iter().filter(|issuer| issuer.keys.is_remote()).map(|issuer| &*issuer.name).collect();
        let audit = match &config.audit {
            Some(path) => Some(Arc::new(Audit::open(path, config.limits.audit_queue)?)),
            None => None,
        };
        let (metrics, exposition) = Metrics::register(Names { routes: &routes, upstreams: &upstreams, issuers: &issuers }, started.wall)?;
        Ok(Self { started, metrics: Arc::new(metrics), exposition, audit, log })
    }

    /// Metrics alone, for tests that look at an exposition.
    pub fn detached(routes: &[&str]) -> Result<Self, InstallError> {
        let started = Now::read();
        let (metrics, exposition) = Metrics::register(Names { routes, ..Names::default() }, started.wall)?;
        Ok(Self { started, metrics: Arc::new(metrics), exposition, audit: None, log: None })
    }

    pub fn started(&self) -> Now {
        self.started
    }

    /// The metrics in the text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        let audit_dropped = self.audit.as_ref().map_or(0, |audit| audit.dropped());
        let log_dropped = self.log.as_ref().map_or(0, |log| log.dropped());
        self.metrics.lines_dropped(audit_dropped, log_dropped);
        self.exposition.render()
    }

    /// Moves what histograms have gathered into their buckets. To be called every [`Self::UPKEEP`]: without it they grow.
    pub fn upkeep(&self) {
        self.exposition.run_upkeep();
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
