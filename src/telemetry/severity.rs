//! The levels of refusals. The level of every other event is fixed where the event is logged.

/// The level of a log line about a refusal, for [`log_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warn,
    Error,
    /// An error whose line has the level `CRITICAL`. Filters treat the line as an error.
    Critical,
}

/// The metadata name of critical events, by which `log.rs` finds them: `tracing` has no such level.
pub const CRITICAL: &str = "critical";

/// Logs at the given severity.
macro_rules! log_at {
    ($severity:expr, $($line:tt)+) => {
        match $severity {
            $crate::telemetry::severity::Severity::Info => ::tracing::info!($($line)+),
            $crate::telemetry::severity::Severity::Warn => ::tracing::warn!($($line)+),
            $crate::telemetry::severity::Severity::Error => ::tracing::error!($($line)+),
            $crate::telemetry::severity::Severity::Critical => {
                ::tracing::error!(name: $crate::telemetry::severity::CRITICAL, $($line)+)
            }
        }
    };
}
pub(crate) use log_at;
