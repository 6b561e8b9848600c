//! A cache of verifier answers: bounded in number, without I/O and without a clock.
//!
//! The cache has two generations. A new entry goes into the young one. When that is full, it
//! becomes the old one, and the previous old one is dropped. An entry that is used moves to the
//! young one. So eviction is cheap, and entries in use stay.

use std::collections::HashMap;

use tokio::time::Instant;

/// The SHA-256 hash of everything that the answer depends on.
pub type AnswerKey = [u8; 32];

#[derive(Debug)]
pub struct Cache<T> {
    /// The maximum size of one generation.
    most: usize,
    young: HashMap<AnswerKey, (T, Instant)>,
    old: HashMap<AnswerKey, (T, Instant)>,
}

impl<T: Clone> Cache<T> {
    /// Makes a cache for at most `entries` entries, and at least two.
    pub fn new(entries: usize) -> Self {
        Self { most: (entries / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    pub fn recall(&mut self, key: &AnswerKey, now: Instant) -> Option<T> {
        if let Some((value, until)) = self.young.get(key) {
            return (now < *until).then(|| value.clone());
        }
        let (value, until) = self.old.remove(key)?;
        if now >= until {
            return None;
        }
        self.remember(*key, value.clone(), until);
        Some(value)
    }

    pub fn remember(&mut self, key: AnswerKey, value: T, until: Instant) {
        self.old.remove(&key);
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, (value, until));
    }

    pub fn forget(&mut self, key: &AnswerKey) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u32) -> AnswerKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn an_answer_is_believed_until_its_moment_and_not_at_it() {
        let (mut cache, now) = (Cache::new(10), Now::read().mono);
        cache.remember(key(1), "ada", now + SECOND);
        assert_eq!(cache.recall(&key(1), now), Some("ada"));
        assert_eq!(cache.recall(&key(1), now + SECOND), None);
        assert_eq!(cache.recall(&key(2), now), None);
        cache.forget(&key(1));
        assert_eq!(cache.recall(&key(1), now), None);
    }

    #[test]
    fn a_flood_does_not_grow_it_and_does_not_drive_out_what_is_in_use() {
        let (mut cache, now) = (Cache::new(100), Now::read().mono);
        cache.remember(key(0), 0, now + SECOND);
        for number in 1..10_000 {
            cache.remember(key(number), number, now + SECOND);
            if number % 20 == 0 {
                assert_eq!(cache.recall(&key(0), now), Some(0), "after {number}");
            }
            assert!(cache.young.len() + cache.old.len() <= 100);
        }
        assert_eq!(cache.recall(&key(5_000), now), None);
        assert_eq!(cache.recall(&key(9_999), now), Some(9_999));
    }

    #[test]
    fn the_last_answer_is_the_one_that_counts() {
        let (mut cache, now) = (Cache::new(4), Now::read().mono);
        cache.remember(key(1), "old", now + SECOND);
        cache.remember(key(2), "other", now + SECOND);
        cache.remember(key(3), "other", now + SECOND);
        cache.remember(key(1), "new", now + SECOND);
        assert_eq!(cache.recall(&key(1), now), Some("new"));
    }
}
