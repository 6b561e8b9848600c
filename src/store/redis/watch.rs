//! Watches the tickets that this node issued until they expire.
//!
//! Redis removes an expired ticket without a message. So the node that issued a ticket checks it
//! after its expiry. In the same step, it marks an unredeemed ticket as expired. So each ticket has
//! one fate, and exactly one node reports it.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::events::Operation;
use super::{FoundTicket, REMEMBERED, RedisStore, ask, readable};
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::model::store_fault::StoreFault;
use crate::store::record::{StoredTicket, TicketMark};
use crate::store::{ExpiredTicket, TakeError, TicketHash, TicketRecord};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

/// How long after the expiry a ticket is checked. By then, the ticket has also expired by the
/// clocks of other nodes.
const SLACK: Duration = Duration::from_secs(1);
/// The most tickets that one sweep checks. The others wait for the next sweep.
const MOST_DUE: usize = 4096;
/// The number of tickets that are checked at the same time.
const PAGE: usize = 64;
/// How long after the expiry a ticket can be checked: as long as its key certainly exists.
const PATIENCE: Duration = Duration::from_secs(REMEMBERED.as_secs() - 10);

#[derive(Debug)]
pub(super) struct TicketExpiryWatch {
    most: usize,
    tickets: Mutex<HashMap<TicketHash, Watched>>,
    /// Expired tickets that are not reported yet.
    expired: Mutex<Vec<ExpiredTicket>>,
}

#[derive(Clone, Debug)]
pub(super) struct Watched {
    ticket: ExpiredTicket,
    pub(super) hash: TicketHash,
    pub(super) single_use: bool,
    expires_at: UnixMillis,
    /// The expiry by the monotonic clock of this node.
    ends: Instant,
}

impl Watched {
    /// Returns true if the ticket expired at least `by` ago, by one of the two clocks.
    fn is_past(&self, by: Duration, now: Now) -> bool {
        self.expires_at + by <= now.wall || self.ends + by <= now.mono
    }
}

impl TicketExpiryWatch {
    pub(super) fn new(most: usize) -> Self {
        Self { most, tickets: Mutex::default(), expired: Mutex::default() }
    }

    pub(super) fn add(&self, hash: TicketHash, record: &TicketRecord, now: Now) {
        let mut tickets = lock(&self.tickets);
        if tickets.len() >= self.most {
            drop(tickets);
            return LimitReached { limit: Limit::TicketsWatched, peer: None }.emit();
        }
        let watched = Watched {
            ticket: ExpiredTicket::of(hash, record),
            hash,
            single_use: record.single_use,
            expires_at: record.expires_at,
            ends: now.instant_of(record.expires_at),
        };
        tickets.insert(hash, watched);
    }

    /// Returns the expiry of a ticket of this node by the monotonic clock.
    pub(super) fn end_of(&self, hash: TicketHash) -> Option<Instant> {
        lock(&self.tickets).get(&hash).map(|watched| watched.ends)
    }

    /// Stops watching a ticket.
    pub(super) fn forget(&self, hash: TicketHash) {
        lock(&self.tickets).remove(&hash);
    }

    pub(super) fn due(&self, now: Now) -> Vec<Watched> {
        let mut tickets = lock(&self.tickets);
        let due: Vec<_> = tickets
            .extract_if(|_, one| one.is_past(SLACK, now))
            .map(|(_, one)| one)
            .take(MOST_DUE)
            .collect();
        if tickets.is_empty() {
            // Frees memory after a storm of tickets.
            tickets.shrink_to(64);
        }
        due
    }

    /// Called if the store did not answer. The next sweep checks the ticket again, as long as its
    /// key can still exist.
    pub(super) fn put_back(&self, watched: Watched, now: Now) {
        if watched.is_past(PATIENCE, now) {
            return self.note(ExpiredTicket { is_certain: false, ..watched.ticket });
        }
        lock(&self.tickets).insert(watched.hash, watched);
    }

    pub(super) fn found_unredeemed(&self, watched: Watched) {
        self.note(watched.ticket);
    }

    /// Notes a ticket that a client sent after its expiry, from this node or another one.
    pub(super) fn note_shown_late(&self, hash: TicketHash, record: &TicketRecord) {
        self.forget(hash);
        self.note(ExpiredTicket::of(hash, record));
    }

    fn note(&self, ticket: ExpiredTicket) {
        let mut expired = lock(&self.expired);
        if expired.len() < self.most.max(MOST_DUE) {
            expired.push(ticket);
        }
    }

    pub(super) fn take_expired(&self) -> Vec<ExpiredTicket> {
        std::mem::take(&mut *lock(&self.expired))
    }
}

impl RedisStore {
    /// Probes the store, and checks the tickets of this node that have expired.
    pub async fn sweep(&self, now: Now) -> Vec<ExpiredTicket> {
        self.probe().await;
        let Some(watch) = &self.watch else { return Vec::new() };
        let mut is_away = false;
        for page in watch.due(now).chunks(PAGE) {
            let answers = if is_away {
                vec![Err(TakeError::Unavailable); page.len()]
            } else {
                all(page.iter().map(|watched| Box::pin(self.end(watched))).collect()).await
            };
            for (watched, answer) in page.iter().cloned().zip(answers) {
                match answer {
                    Ok(true) => watch.found_unredeemed(watched),
                    Ok(false) => {}
                    Err(_) => {
                        is_away = true;
                        watch.put_back(watched, now);
                    }
                }
            }
        }
        watch.take_expired()
    }

    /// Marks a ticket as expired. Returns true if it was unredeemed.
    async fn end(&self, watched: &Watched) -> Result<bool, TakeError> {
        // Most of these tickets were redeemed at other nodes. Their marks stay.
        let found = self.get(Operation::Expire, watched.hash, watched.single_use).await?;
        if !matches!(found, Some(FoundTicket { ticket: StoredTicket::Ticket(_), .. })) {
            return Ok(false);
        }
        let found = self
            .mark(watched.hash, watched.single_use, TicketMark::Expired)
            .await
            .map_err(|_| TakeError::Unavailable)?;
        Ok(matches!(found, Some(FoundTicket { ticket: StoredTicket::Ticket(_), .. })))
    }

    /// Replaces the value of a key, and returns the old one.
    pub(super) async fn mark(
        &self,
        hash: TicketHash,
        single_use: bool,
        fate: TicketMark,
    ) -> Result<Option<FoundTicket>, StoreFault> {
        let key = self.key(hash, single_use);
        let exchange = |connection| self.by_either_command(connection, &key, fate, ask::<Value>);
        self.tickets.run(Operation::Expire, exchange, readable).await
    }
}

/// Waits for all futures at the same time.
async fn all<F: Future>(futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (future, None)).collect();
    poll_fn(|cx| {
        let mut is_done = true;
        for (future, output) in waiting.iter_mut().filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(cx) {
                Poll::Ready(ready) => *output = Some(ready),
                Poll::Pending => is_done = false,
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}
