//! Verifiers: others who are asked whether a credential is good.
//!
//! Each has everything of its own: a bounded number of questions on their way, a bounded memory of
//! answers, a breaker. So one that is slow or away costs its own routes, and nobody else. Questions
//! about the same credential are one question: it is asked by a task of its own, so that a client
//! that leaves takes nothing from those who wait for the same answer. Whatever is not a clear
//! answer lets nobody in.

mod cache;
mod claims;
pub mod events;
mod fault;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use self::events::{
    CacheLookedUp, CacheOutcome, InFlightChanged, QuestionOutcome, VerifierAsked,
    VerifierBreakerChanged,
};
use crate::base::breaker::Breaker;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::{self, VerifierKind};
use crate::model::faults::InvalidToken;
use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::model::verifier_fault::VerifierFault;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use cache::{Cache, Key};
use source::Source;

/// Every verifier of a configuration, by its name.
#[derive(Debug, Default)]
pub struct Verifiers(HashMap<Arc<str>, Arc<Verifier>>);

#[derive(Debug)]
pub struct Verifier {
    config: Arc<config::Verifier>,
    /// Claims that are kept with the principal, for the signed context.
    carried: Vec<String>,
    source: Source,
    places: Semaphore,
    answers: Mutex<AnswerCache>,
    breaker: Mutex<Breaker>,
}

/// What is asked about.
#[derive(Debug)]
pub struct Question {
    pub credential: Secret,
    pub method: Method,
    /// The route's name, or the path of the ticket endpoint.
    pub route: Arc<str>,
    pub address: IpAddr,
}

/// A principal, and who may be asked about it again.
#[derive(Debug)]
pub struct Proved {
    pub principal: Principal,
    pub vouched: Option<Arc<VerifierGrant>>,
}

impl From<Principal> for Proved {
    fn from(principal: Principal) -> Self {
        Self { principal, vouched: None }
    }
}

/// A verifier's word that a live session rests on. Keeps the credential.
#[derive(Debug)]
pub struct VerifierGrant {
    verifier: Arc<Verifier>,
    question: Arc<Question>,
    every: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum VerifierAnswer {
    Good(Arc<Principal>),
    No(InvalidToken),
}

/// Answers that are believed, and questions on their way.
#[derive(Debug)]
struct AnswerCache {
    good: Cache<Arc<Principal>>,
    /// Apart from the good ones: a flood of made-up credentials drives out nothing that is in use.
    bad: Cache<InvalidToken>,
    flights: HashMap<Key, Flight>,
}

type Flight = watch::Receiver<Option<Result<VerifierAnswer, VerifierFault>>>;

#[derive(Debug, thiserror::Error)]
#[error("verifier '{name}': {problem}")]
pub struct OpenError {
    name: String,
    problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheUse {
    Used,
    /// Somebody wants to know it anew.
    PassedOver,
}

/// How one verifier stands, for `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct VerifierFigures {
    pub name: String,
    pub kind: &'static str,
    pub breaker: &'static str,
    /// Questions on their way, those that wait for a place included.
    pub asking: usize,
}

impl Verifiers {
    /// Connects to nothing yet. What another configuration had and this one has unchanged goes on
    /// as it is.
    pub fn open(config: &config::Config, before: Option<&Self>) -> Result<Self, OpenError> {
        let mut by_name = HashMap::new();
        for verifier in &config.verifiers {
            let same = before
                .and_then(|before| before.0.get(&verifier.name))
                .filter(|one| *one.config == **verifier && one.carried == config.context.claims);
            let opened = match same {
                Some(same) => Arc::clone(same),
                None => Arc::new(Verifier::open(verifier, &config.context.claims)?),
            };
            by_name.insert(Arc::clone(&verifier.name), opened);
        }
        Ok(Self(by_name))
    }

    /// A verifier that takes the place of another has a breaker of its own under the same name.
    pub fn tell_breakers(&self) {
        for verifier in self.0.values() {
            let state = lock(&verifier.breaker).state();
            VerifierBreakerChanged { verifier: &verifier.config.name, state, fault: None }.emit();
        }
    }

    pub fn figures(&self) -> Vec<VerifierFigures> {
        let mut figures: Vec<_> = self.0.values().map(|verifier| verifier.figures()).collect();
        figures.sort_by(|one, other| one.name.cmp(&other.name));
        figures
    }

    /// Who a credential belongs to, by the verifier of this name.
    pub async fn prove(
        &self,
        name: &str,
        method: Method,
        shown: &Secret,
        route: &Arc<str>,
        address: IpAddr,
    ) -> Result<Proved, Rejection> {
        // The config is not taken where it names one that is not there.
        let verifier = self.0.get(name).ok_or(Rejection::Internal)?;
        let credential =
            source::credential(&verifier.config, method, shown).map_err(Rejection::InvalidToken)?;
        let question = Arc::new(Question { credential, method, route: Arc::clone(route), address });
        let principal = verifier.prove(&question, CacheUse::Used).await?;
        let vouched = verifier.config.revalidate.map(|every| {
            let verifier = Arc::clone(verifier);
            Arc::new(VerifierGrant { verifier, question, every })
        });
        Ok(Proved { principal: Principal::clone(&principal), vouched })
    }
}

impl Verifier {
    pub fn open(config: &Arc<config::Verifier>, carried: &[String]) -> Result<Self, OpenError> {
        let source = Source::open(config)
            .map_err(|problem| OpenError { name: config.name.to_string(), problem })?;
        Ok(Self {
            carried: carried.to_vec(),
            source,
            places: Semaphore::new(config.concurrency.min(Semaphore::MAX_PERMITS)),
            answers: Mutex::new(AnswerCache {
                good: Cache::new(config.cache_entries),
                bad: Cache::new(config.cache_entries),
                flights: HashMap::new(),
            }),
            breaker: Mutex::default(),
            config: Arc::clone(config),
        })
    }

    fn figures(&self) -> VerifierFigures {
        let breaker = match &self.source {
            Source::Redis(lookup) => lookup.state(),
            Source::Http(_) | Source::Introspection(_) => lock(&self.breaker).state(),
        };
        let asking = lock(&self.answers).flights.len();
        VerifierFigures {
            name: self.config.name.to_string(),
            kind: self.config.kind.name(),
            breaker: breaker.name(),
            asking,
        }
    }

    async fn prove(
        self: &Arc<Self>,
        question: &Arc<Question>,
        memory: CacheUse,
    ) -> Result<Arc<Principal>, Rejection> {
        match self.answer(question, memory, Now::read()).await {
            Ok(VerifierAnswer::Good(principal)) => Ok(principal),
            Ok(VerifierAnswer::No(why)) => Err(Rejection::InvalidToken(why)),
            Err(fault) => Err(Rejection::VerifierUnavailable(fault)),
        }
    }

    async fn answer(
        self: &Arc<Self>,
        question: &Arc<Question>,
        memory: CacheUse,
        now: Now,
    ) -> Result<VerifierAnswer, VerifierFault> {
        let key = self.key_of(question);
        let (outcome, flight) = self.find_or_ask(key, question, memory, now.mono);
        CacheLookedUp { verifier: &self.config.name, outcome }.emit();
        let mut flight = match flight {
            Ok(answer) => return Ok(answer),
            Err(Ok(flight)) => flight,
            Err(Err(fault)) => {
                VerifierAsked {
                    verifier: &self.config.name,
                    outcome: QuestionOutcome::Failed(fault),
                    duration: None,
                }
                .emit();
                return Err(fault);
            }
        };
        // Its sender is gone where the runtime that asked has stopped.
        let landed = flight.wait_for(Option::is_some).await.map_err(|_| VerifierFault::Lost)?;
        landed.clone().unwrap_or(Err(VerifierFault::Lost))
    }

    /// The answer that is believed, or the question that will bring one: for a metric, and itself.
    #[allow(clippy::type_complexity, reason = "taken apart by its one caller")]
    fn find_or_ask(
        self: &Arc<Self>,
        key: Key,
        question: &Arc<Question>,
        memory: CacheUse,
        now: Instant,
    ) -> (CacheOutcome, Result<VerifierAnswer, Result<Flight, VerifierFault>>) {
        let mut answers = lock(&self.answers);
        if memory == CacheUse::Used {
            if let Some(principal) = answers.good.recall(&key, now) {
                return (CacheOutcome::Good, Ok(VerifierAnswer::Good(principal)));
            }
            if let Some(why) = answers.bad.recall(&key, now) {
                return (CacheOutcome::Bad, Ok(VerifierAnswer::No(why)));
            }
        }
        if let Some(flight) = answers.flights.get(&key) {
            return (CacheOutcome::Joined, Err(Ok(flight.clone())));
        }
        if answers.flights.len() >= self.config.concurrency.saturating_add(self.config.max_waiting)
        {
            LimitReached { limit: Limit::VerifierMaxWaiting, peer: None }.emit();
            return (CacheOutcome::Miss, Err(Err(VerifierFault::Busy)));
        }
        if !self.change_breaker(None, |breaker| breaker.admit(now)) {
            return (CacheOutcome::Miss, Err(Err(VerifierFault::BreakerOpen)));
        }
        let (tell, flight) = watch::channel(None);
        answers.flights.insert(key, flight.clone());
        let landing = FlightGuard { verifier: Arc::clone(self), key };
        let question = Arc::clone(question);
        tokio::spawn(async move {
            let outcome = landing.verifier.ask(&question).await;
            landing.verifier.remember(key, &outcome);
            drop(landing);
            tell.send_replace(Some(outcome));
        });
        (CacheOutcome::Miss, Err(Ok(flight)))
    }

    /// One question, from the wait for a place to what its answer means.
    async fn ask(&self, question: &Question) -> Result<VerifierAnswer, VerifierFault> {
        let began = Now::read();
        let deadline = began.mono + self.config.timeout;
        let name = &self.config.name;
        let Ok(Ok(place)) = timeout_at(deadline, self.places.acquire()).await else {
            // Those on their way tell the breaker themselves.
            LimitReached { limit: Limit::VerifierConcurrency, peer: None }.emit();
            VerifierAsked {
                verifier: name,
                outcome: QuestionOutcome::Failed(VerifierFault::Busy),
                duration: None,
            }
            .emit();
            return Err(VerifierFault::Busy);
        };
        let on_its_way = InFlight::begin(name);
        let asking = Box::pin(self.source.ask(&self.config, &self.carried, question, began.wall));
        let outcome = timeout_at(deadline, asking).await.unwrap_or(Err(VerifierFault::Timeout));
        drop((on_its_way, place));
        let ended = Now::read().mono;
        let fault = outcome.as_ref().err().copied();
        self.change_breaker(fault, |breaker| {
            if fault.is_some_and(VerifierFault::counts_against_the_verifier) {
                breaker.failed(ended);
            } else {
                breaker.succeeded();
            }
        });
        VerifierAsked {
            verifier: name,
            outcome: match &outcome {
                Ok(VerifierAnswer::Good(_)) => QuestionOutcome::Good,
                Ok(VerifierAnswer::No(_)) => QuestionOutcome::Bad,
                Err(fault) => QuestionOutcome::Failed(*fault),
            },
            duration: Some(ended.saturating_duration_since(began.mono)),
        }
        .emit();
        outcome
    }

    /// A good answer is never believed past its own end.
    fn remember(&self, key: Key, outcome: &Result<VerifierAnswer, VerifierFault>) {
        let now = Now::read();
        let mut answers = lock(&self.answers);
        match outcome {
            Ok(VerifierAnswer::Good(principal)) => {
                answers.bad.forget(&key);
                let until =
                    (now.mono + self.config.cache_ttl).min(now.instant_of(principal.expires_at));
                if until > now.mono {
                    answers.good.remember(key, Arc::clone(principal), until);
                }
            }
            Ok(VerifierAnswer::No(why)) => {
                answers.good.forget(&key);
                if !self.config.negative_cache_ttl.is_zero() {
                    answers.bad.remember(key, *why, now.mono + self.config.negative_cache_ttl);
                }
            }
            // Nobody knows what it would say now. What was good is good for the rest of its time.
            Err(_) => {}
        }
    }

    fn change_breaker<T>(
        &self,
        fault: Option<VerifierFault>,
        change: impl FnOnce(&mut Breaker) -> T,
    ) -> T {
        let mut breaker = lock(&self.breaker);
        let before = breaker.state();
        let result = change(&mut breaker);
        let state = breaker.state();
        if state != before {
            // Under the lock, so that the metric's last value is the last state.
            VerifierBreakerChanged { verifier: &self.config.name, state, fault }.emit();
        }
        result
    }

    /// The hash of everything that the answer may depend on; a service over HTTP is told more than
    /// the credential.
    fn key_of(&self, question: &Question) -> Key {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(question.credential.expose());
        if matches!(self.config.kind, VerifierKind::Http(_)) {
            part(question.method.name().as_bytes());
            part(question.route.as_bytes());
            part(question.address.to_string().as_bytes());
        }
        let mut key = [0; 32];
        key.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        key
    }
}

impl VerifierGrant {
    pub fn verifier(&self) -> &str {
        &self.verifier.config.name
    }

    /// Until the next question: up to a fifth earlier than `revalidate`, so that sessions that
    /// began together do not ask together.
    pub fn pause(&self) -> Duration {
        let mut byte = [0];
        let _ = rand::fill(&mut byte);
        self.every.mul_f64(1.0 - f64::from(byte.first().copied().unwrap_or_default()) / 255.0 * 0.2)
    }

    /// How long a session goes on while nobody answers.
    pub fn grace(&self) -> Option<Duration> {
        self.verifier.config.revalidate_grace
    }

    /// Asks anew, whatever is remembered.
    pub async fn ask_again(self: Arc<Self>) -> Result<Arc<Principal>, Rejection> {
        self.verifier.prove(&self.question, CacheUse::PassedOver).await
    }
}

/// Takes the question off the desk, also when its task is dropped.
struct FlightGuard {
    verifier: Arc<Verifier>,
    key: Key,
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        lock(&self.verifier.answers).flights.remove(&self.key);
    }
}

/// A question that is being answered, for the metric.
struct InFlight<'a>(&'a str);

impl<'a> InFlight<'a> {
    fn begin(verifier: &'a str) -> Self {
        InFlightChanged { verifier, change: 1.0 }.emit();
        Self(verifier)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        InFlightChanged { verifier: self.0, change: -1.0 }.emit();
    }
}
