//! What happens between this node and a verifier.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::base::breaker::BreakerState;
use crate::model::verifier_fault::VerifierFault;
use crate::telemetry::event::{Event, millis};
use crate::telemetry::family::{Label, LabelNames, Name, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Questions to a verifier: good, bad, or why there was no answer.
    QUESTIONS: Counter = "usher_verifier_questions_total",
        { verifier: Name, outcome: QuestionOutcome }, shown;
    /// How long questions to a verifier took, the wait for a place and failed ones included.
    QUESTION_DURATION: Histogram = "usher_verifier_question_duration_seconds",
        { verifier: Name }, shown;
    /// Credentials looked for among remembered answers: good or bad was remembered, joined waited
    /// for a question on its way, miss asked.
    CACHE: Counter = "usher_verifier_cache_total",
        { verifier: Name, outcome: CacheOutcome }, shown;
    /// Questions to a verifier on their way now.
    IN_FLIGHT: Gauge = "usher_verifier_in_flight", { verifier: Name }, shown;
    /// 0 while the verifier is asked, 2 while it is not, 1 while it is tried.
    BREAKER: Gauge = "usher_verifier_breaker_state", { verifier: Name }, shown;
}

words! {
    /// What was remembered of a credential.
    pub enum CacheOutcome {
        Good = "good",
        Bad = "bad",
        /// The same question is on its way.
        Joined = "joined",
        Miss = "miss",
    }
}

/// How one question ended.
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

/// One question to a verifier ended.
#[derive(Debug)]
pub struct VerifierAsked<'a> {
    pub verifier: &'a str,
    pub outcome: QuestionOutcome,
    /// `None`: it was not sent.
    pub duration: Option<Duration>,
}

/// A credential was looked for among the remembered answers.
#[derive(Debug)]
pub struct CacheLookedUp<'a> {
    pub verifier: &'a str,
    pub outcome: CacheOutcome,
}

/// A question began or ended.
#[derive(Debug)]
pub struct InFlightChanged<'a> {
    pub verifier: &'a str,
    pub change: f64,
}

/// The circuit breaker of a verifier has this state now.
#[derive(Debug)]
pub struct VerifierBreakerChanged<'a> {
    pub verifier: &'a str,
    pub state: BreakerState,
    /// What brought it about, where a fault did.
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
