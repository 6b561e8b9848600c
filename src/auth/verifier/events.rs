//! The events between this node and a verifier.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::base::breaker::BreakerState;
use crate::model::verifier_fault::VerifierFault;
use crate::telemetry::event::{Event, millis};
use crate::telemetry::family::{Label, LabelNames, Name, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Requests to a verifier: good, bad, or the fault.
    QUESTIONS: Counter = "usher_verifier_questions_total",
        { verifier: Name, outcome: QuestionOutcome }, shown;
    /// Duration of requests to a verifier, including failed ones and the wait for a free slot.
    QUESTION_DURATION: Histogram = "usher_verifier_question_duration_seconds",
        { verifier: Name }, shown;
    /// Lookups of credentials in the cache: good or bad (cached answer), joined (waited for a
    /// request in progress), or miss (new request).
    CACHE: Counter = "usher_verifier_cache_total",
        { verifier: Name, outcome: CacheOutcome }, shown;
    /// Requests to a verifier in progress.
    IN_FLIGHT: Gauge = "usher_verifier_in_flight", { verifier: Name }, shown;
    /// State of the verifier's circuit breaker: 0 closed, 1 half open, 2 open.
    BREAKER: Gauge = "usher_verifier_breaker_state", { verifier: Name }, shown;
}

words! {
    /// The result of a cache lookup.
    pub enum CacheOutcome {
        Good = "good",
        Bad = "bad",
        /// The same request is in progress.
        Joined = "joined",
        Miss = "miss",
    }
}

/// The result of one request.
#[derive(Clone, Copy, Debug)]
pub enum QuestionOutcome {
    Good,
    Bad,
    Failed(VerifierFault),
}

impl QuestionOutcome {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Failed(fault) => fault.label(),
        }
    }
}

impl Label for QuestionOutcome {
    type Value<'a> = Self;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        [&["good", "bad"], &VerifierFault::LABELS[..]].concat()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.word()
    }
}

/// One request to a verifier ended.
#[derive(Debug)]
pub struct VerifierAsked<'a> {
    pub verifier: &'a str,
    pub outcome: QuestionOutcome,
    /// `None`: the request was not sent.
    pub duration: Option<Duration>,
}

/// A credential was looked up in the cache.
#[derive(Debug)]
pub struct CacheLookedUp<'a> {
    pub verifier: &'a str,
    pub outcome: CacheOutcome,
}

/// A request began or ended.
#[derive(Debug)]
pub struct InFlightChanged<'a> {
    pub verifier: &'a str,
    pub change: f64,
}

/// The state of a verifier's circuit breaker changed.
#[derive(Debug)]
pub struct VerifierBreakerChanged<'a> {
    pub verifier: &'a str,
    pub state: BreakerState,
    /// The fault that caused the change, if any.
    pub fault: Option<VerifierFault>,
}

impl Event for VerifierAsked<'_> {
    fn log(&self) {
        let (verifier, outcome) = (self.verifier, self.outcome.word());
        let duration_ms = self.duration.map(millis);
        match (self.outcome, self.duration) {
            (QuestionOutcome::Failed(_), Some(_)) => warn!(
                target: "usher", event = "verifier_failed", verifier, outcome, duration_ms,
                "verifier failed"
            ),
            _ => debug!(
                target: "usher", event = "verifier_asked", verifier, outcome, duration_ms,
                "verifier asked"
            ),
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&QUESTIONS, (self.verifier, self.outcome));
        if let Some(duration) = self.duration {
            metrics.record(&QUESTION_DURATION, (self.verifier,), duration);
        }
    }
}

impl Event for CacheLookedUp<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(&CACHE, (self.verifier, self.outcome));
    }
}

impl Event for InFlightChanged<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.change(&IN_FLIGHT, (self.verifier,), self.change);
    }
}

impl Event for VerifierBreakerChanged<'_> {
    fn log(&self) {
        let (verifier, state) = (self.verifier, self.state.name());
        match self.state {
            BreakerState::Open => warn!(
                target: "usher", event = "verifier_breaker", verifier, state,
                fault = self.fault.map(VerifierFault::label), "verifier circuit breaker open"
            ),
            _ => info!(
                target: "usher", event = "verifier_breaker", verifier, state,
                "verifier circuit breaker changed"
            ),
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&BREAKER, (self.verifier,), f64::from(self.state.number()));
    }
}
