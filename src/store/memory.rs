//! The store of one process: sharded maps, bounded.
//!
//! A live ticket is never pushed out to make room for another: when the store is full, issuing is refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{PutError, TicketFault, TicketHash, TicketRecord};
use crate::clock::UnixMillis;
use crate::lock::lock;

const SHARDS: usize = 16;
/// How long after its end a ticket's fate is remembered, for the audit log.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct MemoryStore {
    capacity: usize,
    held: AtomicUsize,
    shards: [Mutex<HashMap<TicketHash, Entry>>; SHARDS],
}

#[derive(Debug)]
enum Entry {
    Live(Box<TicketRecord>),
    /// What became of it, until this time.
    Past(TicketFault, UnixMillis),
}

impl MemoryStore {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, held: AtomicUsize::new(0), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    pub fn put(&self, hash: TicketHash, record: TicketRecord, now: UnixMillis) -> Result<(), PutError> {
        if self.held() >= self.capacity {
            self.sweep(now);
        }
        let entered = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| (held < self.capacity).then_some(held + 1));
        if entered.is_err() {
            return Err(PutError::Full);
        }
        self.shard(hash).insert(hash, Entry::Live(Box::new(record)));
        Ok(())
    }

    pub fn take(&self, hash: TicketHash, now: UnixMillis) -> Result<TicketRecord, TicketFault> {
        let mut shard = self.shard(hash);
        let entry = shard.get_mut(&hash).ok_or(TicketFault::Unknown)?;
        let record = match entry {
            Entry::Past(fault, _) => return Err(*fault),
            Entry::Live(record) => record,
        };
        let forget_at = record.expires_at + REMEMBERED;
        if record.expires_at <= now {
            *entry = Entry::Past(TicketFault::Expired, forget_at);
            self.held.fetch_sub(1, Ordering::AcqRel);
            return Err(TicketFault::Expired);
        }
        if !record.single_use {
            return Ok((**record).clone());
        }
        match std::mem::replace(entry, Entry::Past(TicketFault::Used, forget_at)) {
            Entry::Live(record) => {
                self.held.fetch_sub(1, Ordering::AcqRel);
                Ok(*record)
            }
            Entry::Past(fault, _) => Err(fault),
        }
    }

    pub fn peek(&self, hash: TicketHash, now: UnixMillis) -> Result<TicketRecord, TicketFault> {
        match self.shard(hash).get(&hash) {
            None => Err(TicketFault::Unknown),
            Some(Entry::Past(fault, _)) => Err(*fault),
            Some(Entry::Live(record)) if record.expires_at <= now => Err(TicketFault::Expired),
            Some(Entry::Live(record)) => Ok((**record).clone()),
        }
    }

    pub fn sweep(&self, now: UnixMillis) -> u64 {
        let mut expired = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            for entry in shard.values_mut() {
                if let Entry::Live(record) = entry
                    && record.expires_at <= now
                {
                    *entry = Entry::Past(TicketFault::Expired, record.expires_at + REMEMBERED);
                    expired += 1;
                }
            }
            // The past may not outgrow the present: a flood of redeemed tickets is forgotten early.
            let crowded = shard.len() > self.capacity / SHARDS * 2 + 64;
            shard.retain(|_, entry| match entry {
                Entry::Live(_) => true,
                Entry::Past(_, until) => !crowded && *until > now,
            });
            shard.shrink_to(64);
        }
        self.held.fetch_sub(usize::try_from(expired).unwrap_or(0), Ordering::AcqRel);
        expired
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    fn shard(&self, hash: TicketHash) -> MutexGuard<'_, HashMap<TicketHash, Entry>> {
        let [first, ..] = hash.0;
        let [only, ..] = &self.shards;
        self.shards.get(usize::from(first) % SHARDS).unwrap_or(only).lock().unwrap_or_else(PoisonError::into_inner)
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
        let now = UnixMillis(1_000);
        let record = contract::record(UnixMillis(2_000));
        for byte in 0..2 {
            store.put(TicketHash([byte; 32]), record.clone(), now).unwrap();
        }
        assert_eq!(store.put(TicketHash([9; 32]), record.clone(), now), Err(PutError::Full));
        assert!(store.take(TicketHash([0; 32]), now).is_ok());
        assert!(store.put(TicketHash([9; 32]), record.clone(), now).is_ok());
        assert!(store.put(TicketHash([7; 32]), record, UnixMillis(3_000)).is_ok(), "what has expired makes room");
    }

    #[test]
    fn the_past_is_forgotten() {
        let store = MemoryStore::new(100);
        store.put(TicketHash([1; 32]), contract::record(UnixMillis(2_000)), UnixMillis(1_000)).unwrap();
        store.take(TicketHash([1; 32]), UnixMillis(1_500)).unwrap();
        store.sweep(UnixMillis(10_000));
        assert_eq!(store.take(TicketHash([1; 32]), UnixMillis(10_000)), Err(TicketFault::Used));
        store.sweep(UnixMillis(70_000));
        assert_eq!(store.take(TicketHash([1; 32]), UnixMillis(70_000)), Err(TicketFault::Unknown));
    }
}
