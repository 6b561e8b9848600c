//! Events of the keys that sign the context.

use tracing::{error, info};

use super::KeyringError;
use crate::base::clock::UnixMillis;
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event};
use crate::telemetry::family::{families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Scheduled rotations of the keys that sign the context: rotated here, followed (another
    /// process did it) or failed.
    ROTATIONS: Counter = "usher_context_key_rotations_total", { outcome: RotationOutcome }, shown;
    /// When the schedule last moved the keys that sign the context, in seconds since the Unix
    /// epoch; 0 until this process has seen it.
    ROTATED: Gauge = "usher_context_keys_rotated_timestamp_seconds";
}

words! {
    enum RotationOutcome {
        Rotated = "rotated",
        Followed = "followed",
        Failed = "failed",
    }
}

/// The keys were loaded.
#[derive(Debug)]
pub struct KeyringLoaded<'a> {
    pub algorithm: &'static str,
    pub current: &'a str,
}

/// The schedule moved every key one place.
#[derive(Debug)]
pub struct KeyringRotated<'a> {
    pub previous: Option<&'a str>,
    pub current: &'a str,
    pub next: &'a str,
    /// Whether this process moved them.
    pub is_ours: bool,
    pub at: UnixMillis,
}

/// The keys could not be rotated, and stay as they are.
#[derive(Debug)]
pub struct KeyringRotationFailed<'a> {
    pub error: &'a KeyringError,
    /// Whether it is the first failure in a row. Only that one is logged and audited.
    pub is_new: bool,
}

impl Event for KeyringLoaded<'_> {
    fn log(&self) {
        let Self { algorithm, current } = *self;
        info!(
            target: "usher", event = "keyring_loaded", algorithm, current, "signing keys loaded"
        );
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} {}", self.algorithm, self.current);
        Some(AuditLine::of_process("keyring_loaded", ACCEPTED, detail))
    }
}

impl Event for KeyringRotated<'_> {
    fn log(&self) {
        let Self { previous, current, next, is_ours, .. } = *self;
        info!(
            target: "usher", event = "keyring_rotated", previous, current, next, is_ours,
            "signing keys rotated"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let outcome =
            if self.is_ours { RotationOutcome::Rotated } else { RotationOutcome::Followed };
        metrics.count(&ROTATIONS, (outcome,));
        metrics.set(&ROTATED, (), self.at.0 as f64 / 1000.0);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let Self { current, next, .. } = *self;
        let previous = self.previous.unwrap_or("none");
        let by = if self.is_ours { "this process" } else { "another process" };
        let detail = format!("current {current}, previous {previous}, next {next}; by {by}");
        Some(AuditLine::of_process("keyring_rotated", ACCEPTED, detail))
    }
}

impl Event for KeyringRotationFailed<'_> {
    fn log(&self) {
        if self.is_new {
            error!(
                target: "usher", event = "keyring_rotation_failed", error = %self.error,
                "signing keys not rotated; trying again"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&ROTATIONS, (RotationOutcome::Failed,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let line = || {
            let detail = self.error.to_string();
            AuditLine::of_process("keyring_rotation_failed", "failed", detail)
        };
        self.is_new.then(line)
    }
}
