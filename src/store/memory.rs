//! The store of one process: sharded maps with a limit.
//!
//! A live ticket is never removed to make room for another one: a full store refuses to issue
//! tickets. A ticket expires as soon as one of the two clocks has passed its expiry, so a wall
//! clock that is set back does not lengthen its life.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::succession::{
    self, MOST_PAST, Owner, PastTicket, Succession, SuccessorAnswer, SuccessorCall,
    SuccessorRequest, TicketAccess, TicketList,
};
use super::{ExpiredTicket, PutError, TakeError, TicketHash, TicketRecord};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::model::faults::TicketFault;

const SHARDS: usize = 16;
/// How long after its expiry the fate of a ticket is remembered, for the audit log.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The longest time that another process can ask for.
const LONGEST_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub struct MemoryStore {
    capacity: usize,
    held: AtomicUsize,
    /// Expired tickets since the last sweep, at most as many as the store can have.
    expired: Mutex<Vec<ExpiredTicket>>,
    shards: [Mutex<HashMap<TicketHash, Entry>>; SHARDS],
    succession: Succession,
}

#[derive(Debug)]
enum Entry {
    Live(Box<LiveTicket>),
    /// The fate of the ticket, which is remembered until this time.
    Past(TicketFault, Instant),
}

#[derive(Debug)]
struct LiveTicket {
    record: TicketRecord,
    /// The expiry of the record by the monotonic clock.
    ends: Instant,
}

impl LiveTicket {
    fn is_over(&self, now: Now) -> bool {
        self.record.expires_at <= now.wall || self.ends <= now.mono
    }

    fn forget_at(&self) -> Instant {
        self.ends + REMEMBERED
    }
}

impl MemoryStore {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            held: AtomicUsize::new(0),
            expired: Mutex::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            succession: Succession::default(),
        }
    }

    /// Puts a ticket where the tickets are: here, or in the process that has replaced this one.
    pub async fn put_with_owner(
        &self,
        hash: TicketHash,
        record: TicketRecord,
        now: Now,
    ) -> Result<(), PutError> {
        loop {
            if let Owner::ThisProcess = *self.succession.read() {
                return self.put(hash, record, now);
            }
            match self.succession.decided().await {
                Some(Owner::Successor(successor)) => {
                    let call = SuccessorCall::Put(hash, Box::new(record));
                    return match succession::ask(&successor, call).await {
                        Some(SuccessorAnswer::Put(outcome)) => outcome,
                        _ => Err(PutError::Unavailable),
                    };
                }
                Some(_) => {}
                None => return Err(PutError::Unavailable),
            }
        }
    }

    /// Does the same for a ticket that is redeemed or read.
    pub async fn find_with_owner(
        &self,
        hash: TicketHash,
        access: TicketAccess,
        now: Now,
    ) -> Result<TicketRecord, TakeError> {
        loop {
            if let Owner::ThisProcess = *self.succession.read() {
                let found = match access {
                    TicketAccess::Take => self.take(hash, now),
                    TicketAccess::Peek => self.peek(hash, now),
                };
                return found.map_err(TakeError::Fault);
            }
            match self.succession.decided().await {
                Some(Owner::Successor(successor)) => {
                    return match succession::ask(&successor, SuccessorCall::Find(hash, access))
                        .await
                    {
                        Some(SuccessorAnswer::Record(found)) => found.map(|record| *record),
                        _ => Err(TakeError::Unavailable),
                    };
                }
                Some(_) => {}
                None => return Err(TakeError::Unavailable),
            }
        }
    }

    /// Makes callers wait, and returns every live ticket. [`MemoryStore::hand_over`] or
    /// [`MemoryStore::keep`] must follow.
    pub fn freeze(&self, now: Now) -> TicketList {
        self.succession.set(Owner::Undecided);
        let mut tickets = TicketList::new();
        for shard in &self.shards {
            for (hash, entry) in lock(shard).iter() {
                if let Entry::Live(ticket) = entry
                    && !ticket.is_over(now)
                {
                    tickets.push((*hash, ticket.record.clone()));
                }
            }
        }
        tickets
    }

    /// Returns the fates of past tickets, the latest first.
    pub fn past(&self, now: Now) -> Vec<PastTicket> {
        let mut past = Vec::new();
        for shard in &self.shards {
            past.extend(lock(shard).iter().filter_map(|(hash, entry)| match entry {
                Entry::Live(_) => None,
                Entry::Past(fault, until) => Some(PastTicket {
                    hash: *hash,
                    fault: *fault,
                    remembered: until.saturating_duration_since(now.mono),
                }),
            }));
        }
        past.sort_unstable_by_key(|ticket| Reverse(ticket.remembered));
        past.truncate(MOST_PAST);
        past
    }

    /// Remembers a past ticket of the process that this one replaces.
    pub fn import_past(&self, ticket: PastTicket, now: Now) {
        let until = now.mono + ticket.remembered.min(LONGEST_MEMORY);
        let entry = Entry::Past(ticket.fault, until);
        self.shard(ticket.hash).entry(ticket.hash).or_insert(entry);
    }

    /// Lets callers go on with the tickets of this process.
    pub fn keep(&self) {
        self.succession.set(Owner::ThisProcess);
    }

    /// Drops the tickets, which the successor has now.
    pub fn hand_over(&self, successor: mpsc::Sender<SuccessorRequest>) {
        for shard in &self.shards {
            lock(shard).clear();
        }
        self.held.store(0, Ordering::Release);
        self.succession.set(Owner::Successor(successor));
    }

    /// Adds a ticket of the process that this one replaces.
    pub fn import(&self, hash: TicketHash, record: TicketRecord, now: Now) {
        let ends = now.instant_of(record.expires_at);
        self.held.fetch_add(1, Ordering::AcqRel);
        self.shard(hash).insert(hash, Entry::Live(Box::new(LiveTicket { record, ends })));
    }

    pub fn put(&self, hash: TicketHash, record: TicketRecord, now: Now) -> Result<(), PutError> {
        if self.held() >= self.capacity {
            self.expire(now);
        }
        let entered = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            (held < self.capacity).then_some(held + 1)
        });
        if entered.is_err() {
            return Err(PutError::Full);
        }
        let ends = now.instant_of(record.expires_at);
        self.shard(hash).insert(hash, Entry::Live(Box::new(LiveTicket { record, ends })));
        Ok(())
    }

    pub fn take(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TicketFault> {
        let mut shard = self.shard(hash);
        let entry = shard.get_mut(&hash).ok_or(TicketFault::Unknown)?;
        let ticket = match entry {
            Entry::Past(fault, _) => return Err(*fault),
            Entry::Live(ticket) => ticket,
        };
        let forget_at = ticket.forget_at();
        if ticket.is_over(now) {
            self.note_expired(ExpiredTicket::of(hash, &ticket.record));
            *entry = Entry::Past(TicketFault::Expired, forget_at);
            self.held.fetch_sub(1, Ordering::AcqRel);
            return Err(TicketFault::Expired);
        }
        if !ticket.record.single_use {
            return Ok(ticket.record.clone());
        }
        match std::mem::replace(entry, Entry::Past(TicketFault::Used, forget_at)) {
            Entry::Live(ticket) => {
                self.held.fetch_sub(1, Ordering::AcqRel);
                Ok(ticket.record)
            }
            Entry::Past(fault, _) => Err(fault),
        }
    }

    pub fn peek(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TicketFault> {
        match self.shard(hash).get(&hash) {
            None => Err(TicketFault::Unknown),
            Some(Entry::Past(fault, _)) => Err(*fault),
            Some(Entry::Live(ticket)) if ticket.is_over(now) => Err(TicketFault::Expired),
            Some(Entry::Live(ticket)) => Ok(ticket.record.clone()),
        }
    }

    /// Removes old entries. Returns the tickets that have expired since the last sweep.
    pub fn sweep(&self, now: Now) -> Vec<ExpiredTicket> {
        self.expire(now);
        std::mem::take(&mut *lock(&self.expired))
    }

    fn note_expired(&self, ticket: ExpiredTicket) {
        let mut expired = lock(&self.expired);
        if expired.len() < self.capacity.max(SHARDS) {
            expired.push(ticket);
        }
    }

    fn expire(&self, now: Now) {
        let mut expired = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            for (hash, entry) in shard.iter_mut() {
                if let Entry::Live(ticket) = entry
                    && ticket.is_over(now)
                {
                    self.note_expired(ExpiredTicket::of(*hash, &ticket.record));
                    *entry = Entry::Past(TicketFault::Expired, ticket.forget_at());
                    expired += 1;
                }
            }
            // Remembered fates must not use more memory than live tickets: in a flood of redeemed
            // tickets, they are removed early.
            let crowded = shard.len() > self.capacity / SHARDS * 2 + 64;
            shard.retain(|_, entry| match entry {
                Entry::Live(_) => true,
                Entry::Past(_, until) => !crowded && *until > now.mono,
            });
            shard.shrink_to(64);
        }
        self.held.fetch_sub(expired, Ordering::AcqRel);
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    fn shard(&self, hash: TicketHash) -> MutexGuard<'_, HashMap<TicketHash, Entry>> {
        let [first, ..] = hash.0;
        let [only, ..] = &self.shards;
        self.shards
            .get(usize::from(first) % SHARDS)
            .unwrap_or(only)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, contract};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn memory_keeps_the_store_s_contract() {
        contract::check(|| Store::Memory(MemoryStore::new(1000))).await;
    }

    #[test]
    fn a_full_store_refuses_and_keeps_what_it_has() {
        let store = MemoryStore::new(2);
        let now = Now::read();
        let record = contract::record(now.wall + Duration::from_secs(1));
        for byte in 0..2 {
            store.put(TicketHash([byte; 32]), record.clone(), now).unwrap();
        }
        assert_eq!(store.put(TicketHash([9; 32]), record.clone(), now), Err(PutError::Full));
        assert!(store.take(TicketHash([0; 32]), now).is_ok());
        assert!(store.put(TicketHash([9; 32]), record.clone(), now).is_ok());
        assert!(
            store.put(TicketHash([7; 32]), record, contract::later(now, 2)).is_ok(),
            "what has expired makes room"
        );
    }

    /// Expired tickets are found in three ways: by a sweep, by a full store, and by a late
    /// redemption. Each is reported exactly once.
    #[test]
    fn every_expired_ticket_is_told_once_however_it_was_found() {
        let (store, now) = (MemoryStore::new(3), Now::read());
        let at = |seconds| contract::later(now, seconds);
        for byte in 0..3 {
            store.put(TicketHash([byte; 32]), contract::record(at(1).wall), now).unwrap();
        }
        assert_eq!(store.take(TicketHash([0; 32]), at(2)), Err(TicketFault::Expired));
        store.put(TicketHash([9; 32]), contract::record(at(3).wall), at(2)).unwrap();
        assert_eq!(store.put(TicketHash([7; 32]), contract::record(at(3).wall), at(2)), Ok(()));
        store.put(TicketHash([8; 32]), contract::record(at(3).wall), at(2)).unwrap();
        let names: Vec<_> = store.sweep(at(2)).into_iter().map(|ticket| ticket.name).collect();
        let wanted = [0, 1, 2].map(|byte| TicketHash([byte; 32]).name());
        assert!(names.len() == 3 && wanted.iter().all(|name| names.contains(name)), "{names:?}");
        assert_eq!((store.sweep(at(2)), store.held()), (Vec::new(), 3));
    }

    #[test]
    fn the_past_is_forgotten() {
        let (store, now) = (MemoryStore::new(100), Now::read());
        let at = |seconds| contract::later(now, seconds);
        store.put(TicketHash([1; 32]), contract::record(at(2).wall), now).unwrap();
        store.take(TicketHash([1; 32]), at(1)).unwrap();
        store.sweep(at(10));
        assert_eq!(store.take(TicketHash([1; 32]), at(10)), Err(TicketFault::Used));
        store.sweep(at(70));
        assert_eq!(store.take(TicketHash([1; 32]), at(70)), Err(TicketFault::Unknown));
    }

    #[tokio::test]
    async fn each_ticket_is_in_one_process_before_during_and_after_a_hand_over() {
        let now = Now::read();
        let (old, new) = (MemoryStore::new(10), MemoryStore::new(1));
        let record = contract::record(now.wall + Duration::from_secs(60));
        for byte in 0..3 {
            old.put(TicketHash([byte; 32]), record.clone(), now).unwrap();
        }
        assert!(old.find_with_owner(TicketHash([0; 32]), TicketAccess::Take, now).await.is_ok());
        // A failed hand-over.
        assert_eq!(old.freeze(now).len(), 2);
        old.keep();
        assert!(old.find_with_owner(TicketHash([1; 32]), TicketAccess::Take, now).await.is_ok());

        let tickets = old.freeze(now);
        assert_eq!(tickets.len(), 1);
        for past in old.past(now) {
            new.import_past(past, now);
        }
        for byte in 0..2 {
            assert_eq!(new.take(TicketHash([byte; 32]), now), Err(TicketFault::Used));
        }
        for (hash, record) in tickets {
            let text = succession::to_json(record).unwrap();
            new.import(hash, succession::from_json(&text).unwrap(), now);
        }
        let (sender, mut questions) = mpsc::channel(8);
        let waiting = old.find_with_owner(TicketHash([2; 32]), TicketAccess::Take, now);
        let answering = async {
            old.hand_over(sender);
            while let Some(SuccessorRequest { call, answer }) = questions.recv().await {
                let found = match call {
                    SuccessorCall::Put(hash, record) => {
                        SuccessorAnswer::Put(new.put(hash, *record, now))
                    }
                    SuccessorCall::Find(hash, _) => SuccessorAnswer::Record(
                        new.take(hash, now).map(Box::new).map_err(TakeError::Fault),
                    ),
                };
                answer.send(found).unwrap();
                if new.held() == 0 {
                    break;
                }
            }
            drop(questions);
        };
        let (found, ()) = tokio::join!(waiting, answering);
        assert_eq!(found, Ok(record.clone()));
        assert_eq!((old.held(), new.held()), (0, 0));
        // The successor has gone.
        assert_eq!(
            old.put_with_owner(TicketHash([3; 32]), record, now).await,
            Err(PutError::Unavailable)
        );
    }
}
