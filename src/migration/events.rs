//! The events of clients that move from old methods to new ones.

use tracing::info;

use super::RolloutStanding;
use super::shadow::Mismatch;
use crate::base::clock::UnixMillis;
use crate::model::method::Method;
use crate::rejection::Rejection;
use crate::telemetry::event::{ACCEPTED, Event};
use crate::telemetry::family::{Label, LabelNames, Name, Word, families};
use crate::telemetry::metrics::Metrics;

families! {
    /// Upgrades accepted by a legacy method.
    LEGACY_UPGRADES: Counter = "usher_legacy_upgrades_total", { route: Name, method: Method };
    /// Upgrades accepted on a route with a rollout: in a share by a new method (followed), in a
    /// share by a legacy method (lagging), or in no share (outside).
    ROLLOUT_UPGRADES: Counter = "usher_rollout_upgrades_total",
        { route: Name, standing: RolloutStanding };
    /// Results of shadow methods: accepted, the label of a rejection, absent (no credential), or
    /// skipped (too many checks in progress).
    SHADOW_VERDICTS: Counter = "usher_shadow_verdicts_total",
        { route: Name, method: Method, verdict: ShadowVerdict<'static> };
    /// Results of shadow methods that differ from the real decision.
    SHADOW_MISMATCHES: Counter = "usher_shadow_mismatches_total",
        { route: Name, method: Method, mismatch: Mismatch };
}

impl Word for RolloutStanding {
    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn word(self) -> &'static str {
        self.name()
    }

    fn position(self) -> usize {
        self as usize
    }
}

impl Word for Mismatch {
    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn word(self) -> &'static str {
        self.name()
    }

    fn position(self) -> usize {
        self as usize
    }
}

/// The decision that a shadow method would have made.
#[derive(Clone, Copy, Debug)]
pub enum ShadowVerdict<'a> {
    Accepted,
    Rejected(&'a Rejection),
    /// The request has no credential of the method.
    Absent,
    /// Too many shadow checks are in progress.
    Skipped,
}

impl<'a> ShadowVerdict<'a> {
    fn word(self) -> &'a str {
        match self {
            Self::Accepted => ACCEPTED,
            Self::Rejected(rejection) => rejection.facts().label,
            Self::Absent => "absent",
            Self::Skipped => "skipped",
        }
    }
}

impl Label for ShadowVerdict<'static> {
    type Value<'a> = ShadowVerdict<'a>;

    fn known<'n>(label: &str, names: &'n LabelNames) -> Vec<&'n str> {
        let others = [Self::Accepted, Self::Absent, Self::Skipped].map(ShadowVerdict::word);
        [&others, &Rejection::known(label, names)[..]].concat()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.word()
    }
}

/// A client logged in by a legacy method.
#[derive(Debug)]
pub struct LegacyUsed<'a> {
    pub route: &'a str,
    pub method: Method,
    pub user: &'a str,
    pub deprecated: Option<UnixMillis>,
    pub sunset: Option<UnixMillis>,
}

/// A client was accepted on a route with a rollout.
#[derive(Debug)]
pub struct RolledOut<'a> {
    pub route: &'a str,
    pub standing: RolloutStanding,
}

/// A shadow method was checked.
#[derive(Debug)]
pub struct Shadowed<'a> {
    pub route: &'a str,
    pub method: Method,
    pub verdict: ShadowVerdict<'a>,
    pub mismatch: Option<Mismatch>,
}

impl Event for LegacyUsed<'_> {
    fn log(&self) {
        let Self { route, method, user, deprecated, sunset } = *self;
        info!(
            target: "usher", event = "legacy_method", route, method = method.name(), user,
            deprecated = deprecated.map(UnixMillis::to_rfc3339),
            sunset = sunset.map(UnixMillis::to_rfc3339), "legacy method used"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&LEGACY_UPGRADES, (self.route, self.method));
    }
}

impl Event for RolledOut<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(&ROLLOUT_UPGRADES, (self.route, self.standing));
    }
}

impl Event for Shadowed<'_> {
    fn log(&self) {
        let Self { route, method, verdict, mismatch } = *self;
        if let Some(mismatch) = mismatch {
            info!(
                target: "usher", event = "shadow_mismatch", route, method = method.name(),
                verdict = verdict.word(), mismatch = mismatch.name(), "shadow verdict differs"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        let Self { route, method, verdict, mismatch } = *self;
        metrics.count(&SHADOW_VERDICTS, (route, method, verdict));
        if let Some(mismatch) = mismatch {
            metrics.count(&SHADOW_MISMATCHES, (route, method, mismatch));
        }
    }
}
