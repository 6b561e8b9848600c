//! Verifiers: other services that decide whether a credential is valid.
//!
//! Each verifier has its own limit of requests in progress, its own bounded cache and its own
//! circuit breaker. So a slow or failed verifier affects only its own routes. Requests about the
//! same credential are merged into one. It runs in its own task, so a client that disconnects does
//! not affect other clients that wait for the same answer. Without a clear yes, a credential is
//! refused.

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
use crate::model::trace_context::TraceContext;
use crate::model::verifier_fault::VerifierFault;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use cache::{AnswerKey, Cache};
use source::VerifierSource;

/// The verifiers of a configuration, by name.
#[derive(Debug, Default)]
pub struct Verifiers(HashMap<Arc<str>, Arc<Verifier>>);

#[derive(Debug)]
pub struct Verifier {
    config: Arc<config::Verifier>,
    /// The claims that are kept in the principal, for the signed context.
    carried: Vec<String>,
    source: VerifierSource,
    places: Semaphore,
    answers: Mutex<AnswerCache>,
    breaker: Mutex<Breaker>,
}

/// A request to a verifier.
#[derive(Debug)]
pub struct VerifierQuestion {
    pub credential: Secret,
    pub method: Method,
    /// The name of the route, or the path of the ticket endpoint.
    pub route: Arc<str>,
    pub address: IpAddr,
}

/// A principal, and the verifier that may be asked about it again.
#[derive(Debug)]
pub struct Proved {
    pub principal: Principal,
    pub verifier_grant: Option<Arc<VerifierGrant>>,
    /// The span in which the credential was issued, if it is a ticket.
    pub issued_in: Option<Box<TraceContext>>,
}

impl From<Principal> for Proved {
    fn from(principal: Principal) -> Self {
        Self { principal, verifier_grant: None, issued_in: None }
    }
}

/// A verifier's answer that a live session depends on. Keeps the credential.
#[derive(Debug)]
pub struct VerifierGrant {
    verifier: Arc<Verifier>,
    question: Arc<VerifierQuestion>,
    every: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum VerifierAnswer {
    Good(Arc<Principal>),
    No(InvalidToken),
}

/// The cached answers, and the requests in progress.
#[derive(Debug)]
struct AnswerCache {
    good: Cache<Arc<Principal>>,
    /// Negative answers have their own cache: a flood of invented credentials must not evict
    /// positive answers.
    bad: Cache<InvalidToken>,
    flights: HashMap<AnswerKey, Flight>,
}

type Flight = watch::Receiver<Option<Result<VerifierAnswer, VerifierFault>>>;

#[derive(Debug, thiserror::Error)]
#[error("verifier '{name}': {problem}")]
pub struct VerifierOpenError {
    name: String,
    problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheUse {
    Used,
    /// The caller needs a new answer.
    PassedOver,
}

/// The state of one verifier, for `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct VerifierFigures {
    pub name: String,
    pub kind: &'static str,
    pub breaker: &'static str,
    /// The requests in progress, including those that wait for a free slot.
    pub asking: usize,
}

impl Verifiers {
    /// Opens the verifiers without connecting. A verifier that has not changed since the last
    /// configuration keeps its state.
    pub fn open(config: &config::Config, before: Option<&Self>) -> Result<Self, VerifierOpenError> {
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

    /// Reports the state of every breaker. A changed verifier has a new breaker under the same
    /// name.
    pub fn publish_breakers(&self) {
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

    /// Returns the principal of a credential from the verifier of this name.
    pub async fn prove(
        &self,
        name: &str,
        method: Method,
        shown: &Secret,
        route: &Arc<str>,
        address: IpAddr,
    ) -> Result<Proved, Rejection> {
        // The configuration is refused if it names an unknown verifier.
        let verifier = self.0.get(name).ok_or(Rejection::Internal)?;
        let credential =
            source::credential(&verifier.config, method, shown).map_err(Rejection::InvalidToken)?;
        let question =
            Arc::new(VerifierQuestion { credential, method, route: Arc::clone(route), address });
        let principal = verifier.prove(&question, CacheUse::Used).await?;
        let verifier_grant = verifier.config.revalidate.map(|every| {
            let verifier = Arc::clone(verifier);
            Arc::new(VerifierGrant { verifier, question, every })
        });
        Ok(Proved { principal: Principal::clone(&principal), verifier_grant, issued_in: None })
    }
}

impl Verifier {
    pub fn open(
        config: &Arc<config::Verifier>,
        carried: &[String],
    ) -> Result<Self, VerifierOpenError> {
        let source = VerifierSource::open(config)
            .map_err(|problem| VerifierOpenError { name: config.name.to_string(), problem })?;
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
            VerifierSource::Redis(lookup) => lookup.state(),
            VerifierSource::Http(_) | VerifierSource::Introspection(_) => {
                lock(&self.breaker).state()
            }
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
        question: &Arc<VerifierQuestion>,
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
        question: &Arc<VerifierQuestion>,
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
        // The sender is dropped if the runtime of the request has stopped.
        let landed = flight.wait_for(Option::is_some).await.map_err(|_| VerifierFault::Lost)?;
        landed.clone().unwrap_or(Err(VerifierFault::Lost))
    }

    /// Returns the cached answer or the request that will bring one, with the outcome for the
    /// metric.
    #[allow(clippy::type_complexity, reason = "its only caller takes the tuple apart")]
    fn find_or_ask(
        self: &Arc<Self>,
        key: AnswerKey,
        question: &Arc<VerifierQuestion>,
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

    /// Makes one request: waits for a free slot, sends it, and reads the answer.
    async fn ask(&self, question: &VerifierQuestion) -> Result<VerifierAnswer, VerifierFault> {
        let began = Now::read();
        let deadline = began.mono + self.config.timeout;
        let name = &self.config.name;
        let Ok(Ok(place)) = timeout_at(deadline, self.places.acquire()).await else {
            // The breaker counts only the requests in progress.
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

    /// Caches an answer. A positive answer is never cached beyond its expiry.
    fn remember(&self, key: AnswerKey, outcome: &Result<VerifierAnswer, VerifierFault>) {
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
            // The verifier's current answer is unknown. A cached positive answer stays valid until
            // its end.
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
            // The event is sent under the lock, so that the metric's last value is the last state.
            VerifierBreakerChanged { verifier: &self.config.name, state, fault }.emit();
        }
        result
    }

    /// Returns the hash of everything that the answer may depend on. A service over HTTP gets more
    /// than the credential.
    fn key_of(&self, question: &VerifierQuestion) -> AnswerKey {
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

    /// Returns the time until the next request: up to 20 % earlier than `revalidate`, so that
    /// sessions that began together do not ask together.
    pub fn pause(&self) -> Duration {
        let mut byte = [0];
        let _ = rand::fill(&mut byte);
        self.every.mul_f64(1.0 - f64::from(byte.first().copied().unwrap_or_default()) / 255.0 * 0.2)
    }

    /// Returns the time that a session continues while the verifier does not answer.
    pub fn grace(&self) -> Option<Duration> {
        self.verifier.config.revalidate_grace
    }

    /// Asks the verifier again, regardless of the cache.
    pub async fn ask_again(self: Arc<Self>) -> Result<Arc<Principal>, Rejection> {
        self.verifier.prove(&self.question, CacheUse::PassedOver).await
    }
}

/// Removes the request from those in progress, also when its task is dropped.
struct FlightGuard {
    verifier: Arc<Verifier>,
    key: AnswerKey,
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        lock(&self.verifier.answers).flights.remove(&self.key);
    }
}

/// A request in progress, for the metric.
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
