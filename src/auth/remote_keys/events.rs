//! The events of the keys that an issuer publishes.

use tracing::{debug, info, warn};

use super::fetch::KeySetFault;
use crate::base::clock::UnixMillis;
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event};
use crate::telemetry::family::{Label, LabelNames, Name, families};
use crate::telemetry::metrics::Metrics;

families! {
    /// Published keys of the issuer that this node holds; at 0 its tokens are refused.
    KEYS: Gauge = "usher_issuer_keys", { issuer: Name }, shown;
    /// Time when the held keys were fetched, in seconds since the Unix epoch.
    KEYS_FETCHED: Gauge = "usher_issuer_keys_fetched_timestamp_seconds", { issuer: Name };
    /// Fetches of the issuer's keys: ok, or the fault.
    FETCHES: Counter = "usher_issuer_key_fetches_total",
        { issuer: Name, outcome: FetchOutcome }, shown;
}

/// The result of a fetch: `None` is `ok`.
enum FetchOutcome {}

impl Label for FetchOutcome {
    type Value<'a> = Option<&'a KeySetFault>;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        [&["ok"], &KeySetFault::labels()[..]].concat()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.map_or("ok", KeySetFault::label)
    }
}

/// An issuer's published keys were fetched.
#[derive(Debug)]
pub struct IssuerKeysFetched<'a> {
    pub issuer: &'a str,
    pub keys: usize,
    /// True if the keys differ from the previous ones.
    pub is_new: bool,
    pub at: UnixMillis,
}

/// An issuer's published keys could not be fetched.
#[derive(Debug)]
pub struct IssuerKeysFailed<'a> {
    pub issuer: &'a str,
    pub fault: &'a KeySetFault,
    pub detail: &'a str,
    /// The number of consecutive failures.
    pub failures: u32,
    /// True if older keys are still held. Otherwise the issuer's tokens are refused.
    pub has_keys: bool,
}

/// The last valid keys of an earlier process are used until new ones are fetched.
#[derive(Debug)]
pub struct IssuerKeysRestored<'a> {
    pub issuer: &'a str,
    pub keys: usize,
    pub at: UnixMillis,
}

/// Fetched keys could not be written to the state directory.
#[derive(Debug)]
pub struct IssuerKeysNotKept<'a> {
    pub issuer: &'a str,
    pub error: &'a std::io::Error,
}

fn count_held(metrics: &Metrics, issuer: &str, keys: usize, fetched_at: UnixMillis) {
    metrics.set(&KEYS, (issuer,), keys as f64);
    metrics.set(&KEYS_FETCHED, (issuer,), fetched_at.0 as f64 / 1000.0);
}

impl Event for IssuerKeysFetched<'_> {
    fn log(&self) {
        let Self { issuer, keys, .. } = *self;
        if self.is_new {
            info!(target: "usher", event = "issuer_keys", issuer, keys, "issuer keys changed");
        } else {
            debug!(
                target: "usher", event = "issuer_keys_same", issuer, keys,
                "the keys of the issuer have not changed"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&FETCHES, (self.issuer, None));
        count_held(metrics, self.issuer, self.keys, self.at);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        self.is_new.then(|| AuditLine {
            issuer: Some(self.issuer),
            ..AuditLine::of_process("issuer_keys", ACCEPTED, format!("{} keys", self.keys))
        })
    }
}

impl Event for IssuerKeysFailed<'_> {
    fn log(&self) {
        let Self { issuer, detail, failures, has_keys, .. } = *self;
        warn!(
            target: "usher", event = "issuer_keys_failed", issuer, fault = self.fault.label(),
            detail, failures, has_keys, "issuer keys not fetched"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&FETCHES, (self.issuer, Some(self.fault)));
    }
}

impl Event for IssuerKeysRestored<'_> {
    fn log(&self) {
        let Self { issuer, keys, at } = *self;
        info!(
            target: "usher", event = "issuer_keys_restored", issuer, keys,
            fetched = at.to_rfc3339(),
            "issuer keys restored from the state directory"
        );
    }

    fn count(&self, metrics: &Metrics) {
        count_held(metrics, self.issuer, self.keys, self.at);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} keys, fetched at {}", self.keys, self.at.to_rfc3339());
        Some(AuditLine {
            issuer: Some(self.issuer),
            ..AuditLine::of_process("issuer_keys_restored", ACCEPTED, detail)
        })
    }
}

impl Event for IssuerKeysNotKept<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "issuer_keys_not_kept", issuer = self.issuer,
            error = %self.error, "issuer keys not saved"
        );
    }
}
