//! A channel to Redis: one connection for each thread, a timeout for each operation, and one
//! breaker for all.
//!
//! A connection belongs to the runtime that made it, so each runtime has its own. It is made when
//! it is first needed. A separate task makes it, with more time than an operation has, so that the
//! dial continues after an operation gives up. A connection is dropped in three cases: if the peer
//! closes it, if it leads to the wrong server, and after consecutive timeouts. The last case is for
//! hosts that have vanished: such a socket looks like a slow server.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::RedisResult;
use tokio::runtime::{Handle, Id};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::dial::{DIAL_TIMEOUT, RedisConnection, RedisDialler};
use super::events::{Operation, OperationEnded, Purpose, StoreBreakerChanged, StoreDialled};
use crate::base::breaker::{Breaker, BreakerState};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::base::repeats::Repeats;
use crate::model::store_fault::StoreFault;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

/// The number of consecutive timeouts that ends a connection.
const TIMEOUTS: u32 = 3;

#[derive(Debug)]
pub struct RedisChannel {
    /// The purpose of its connections.
    purpose: Purpose,
    dialer: Arc<RedisDialler>,
    limit: Duration,
    max_in_flight: usize,
    breaker: Mutex<Breaker>,
    failed_dials: Arc<Repeats<StoreFault>>,
    slots: Mutex<HashMap<Id, Arc<ThreadSlot>>>,
}

/// The connection of one thread.
#[derive(Debug)]
struct ThreadSlot {
    state: Mutex<SlotState>,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct SlotState {
    link: Link,
    /// The number of the connection, which distinguishes it from later ones.
    generation: u64,
    timeouts: u32,
}

#[derive(Debug, Default)]
enum Link {
    #[default]
    Absent,
    Dialling(watch::Receiver<Option<Result<RedisConnection, StoreFault>>>),
    Up(RedisConnection),
}

impl RedisChannel {
    pub fn new(
        purpose: Purpose,
        dialer: &Arc<RedisDialler>,
        limit: Duration,
        max_in_flight: usize,
    ) -> Self {
        StoreBreakerChanged { region: dialer.region(), purpose, state: BreakerState::Closed }
            .emit();
        Self {
            purpose,
            dialer: Arc::clone(dialer),
            limit,
            max_in_flight,
            breaker: Mutex::default(),
            failed_dials: Arc::default(),
            slots: Mutex::default(),
        }
    }

    pub fn state(&self) -> BreakerState {
        lock(&self.breaker).state()
    }

    /// Runs one operation: asks the breaker, sends the commands, and converts the answer. After a
    /// timeout, Redis may still have executed the operation.
    pub async fn run<A, T, F>(
        &self,
        operation: Operation,
        exchange: impl FnOnce(RedisConnection) -> F,
        read: impl FnOnce(A) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault>
    where
        F: Future<Output = RedisResult<A>>,
    {
        let (began, region) = (Now::read().mono, self.dialer.region());
        if !self.change(|breaker| breaker.admit(began)) {
            OperationEnded {
                region,
                operation,
                fault: Some(StoreFault::BreakerOpen),
                duration: None,
            }
            .emit();
            return Err(StoreFault::BreakerOpen);
        }
        let slot = self.slot();
        let answer = timeout(self.limit, self.attempt(&slot, exchange))
            .await
            .unwrap_or(Err(StoreFault::Timeout));
        let outcome = answer.and_then(read);
        let ended = Now::read().mono;
        let fault = outcome.as_ref().err().copied();
        self.judge(&slot, fault, ended);
        let duration = Some(ended.saturating_duration_since(began));
        OperationEnded { region, operation, fault, duration }.emit();
        outcome
    }

    async fn attempt<A, F>(
        &self,
        slot: &Arc<ThreadSlot>,
        exchange: impl FnOnce(RedisConnection) -> F,
    ) -> Result<A, StoreFault>
    where
        F: Future<Output = RedisResult<A>>,
    {
        let place = if let Ok(place) = slot.places.try_acquire() {
            place
        } else {
            LimitReached { limit: Limit::StoreInFlight, peer: None }.emit();
            // The semaphore is never closed.
            slot.places.acquire().await.map_err(|_| StoreFault::Other)?
        };
        let (generation, connection) = self.connection(slot).await?;
        let answer = exchange(connection).await;
        drop(place);
        answer.map_err(|error| {
            let fault = StoreFault::from(&error);
            if fault.ends_the_connection() {
                slot.part(generation);
            }
            fault
        })
    }

    fn judge(&self, slot: &ThreadSlot, fault: Option<StoreFault>, now: Instant) {
        match fault {
            Some(StoreFault::Timeout) => slot.count_timeout(),
            _ => lock(&slot.state).timeouts = 0,
        }
        let away = fault.is_some_and(StoreFault::counts_against_the_store);
        self.change(|breaker| if away { breaker.failed(now) } else { breaker.succeeded() });
    }

    /// Changes the breaker, and emits an event if its state has changed.
    fn change<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = lock(&self.breaker);
        let before = breaker.state();
        let result = change(&mut breaker);
        let state = breaker.state();
        if state != before {
            // This happens under the lock, so that the metric always ends at the last state.
            StoreBreakerChanged { region: self.dialer.region(), purpose: self.purpose, state }
                .emit();
        }
        result
    }

    fn slot(&self) -> Arc<ThreadSlot> {
        let mut slots = lock(&self.slots);
        let make = || {
            Arc::new(ThreadSlot {
                state: Mutex::default(),
                places: Semaphore::new(self.max_in_flight),
            })
        };
        Arc::clone(slots.entry(Handle::current().id()).or_insert_with(make))
    }

    async fn connection(
        &self,
        slot: &Arc<ThreadSlot>,
    ) -> Result<(u64, RedisConnection), StoreFault> {
        let (generation, mut dialled) = {
            let mut state = lock(&slot.state);
            match &state.link {
                Link::Up(connection) if !connection.is_lost() => {
                    return Ok((state.generation, connection.clone()));
                }
                // If the task has ended, its sender is dropped, and `has_changed` fails.
                Link::Dialling(dialled) if dialled.has_changed().is_ok() => {
                    (state.generation, dialled.clone())
                }
                _ => self.begin_dialling(slot, &mut state),
            }
        };
        let done = dialled.wait_for(Option::is_some).await.map_err(|_| StoreFault::Other)?;
        match &*done {
            Some(Ok(connection)) => Ok((generation, connection.clone())),
            Some(Err(fault)) => Err(*fault),
            None => Err(StoreFault::Other),
        }
    }

    fn begin_dialling(
        &self,
        slot: &Arc<ThreadSlot>,
        state: &mut SlotState,
    ) -> (u64, watch::Receiver<Option<Result<RedisConnection, StoreFault>>>) {
        let (tell, dialled) = watch::channel(None);
        state.generation += 1;
        state.link = Link::Dialling(dialled.clone());
        let (generation, slot, dialer, purpose) =
            (state.generation, Arc::clone(slot), Arc::clone(&self.dialer), self.purpose);
        let failed_dials = Arc::clone(&self.failed_dials);
        tokio::spawn(async move {
            let made = match timeout(DIAL_TIMEOUT, dialer.dial()).await {
                Ok(made) => made.map_err(|error| StoreFault::from(&error)),
                Err(_) => Err(StoreFault::Timeout),
            };
            let fault = made.as_ref().err().copied();
            let is_news = failed_dials.is_news(fault, Now::read().mono);
            StoreDialled { region: dialer.region(), purpose, is_news, fault }.emit();
            let mut state = lock(&slot.state);
            if state.generation == generation {
                state.link =
                    made.as_ref().map_or(Link::Absent, |connection| Link::Up(connection.clone()));
                state.timeouts = 0;
            }
            drop(state);
            tell.send_replace(Some(made));
        });
        (generation, dialled)
    }
}

impl ThreadSlot {
    fn part(&self, generation: u64) {
        let mut state = lock(&self.state);
        if state.generation == generation && matches!(state.link, Link::Up(_)) {
            state.link = Link::Absent;
        }
    }

    fn count_timeout(&self) {
        let mut state = lock(&self.state);
        state.timeouts += 1;
        if state.timeouts >= TIMEOUTS && matches!(state.link, Link::Up(_)) {
            state.link = Link::Absent;
        }
    }
}
