//! Token buckets for users and addresses. The number of buckets is limited.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::lock::lock;

const SHARDS: usize = 16;

/// A rate such as `"30/1m"`: 30 at once, and 30 per minute in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

/// Allows at most `rate.count` at once for each key. The tokens of a key refill evenly over
/// `rate.per`.
#[derive(Debug)]
pub struct RateLimiter<K> {
    rate: Rate,
    shard_capacity: usize,
    hasher: RandomState,
    shards: [Mutex<HashMap<K, Bucket>>; SHARDS],
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// Creates a limiter for at most `capacity` keys. Above that, the key with the fullest bucket
    /// is removed, because this weakens the limit the least.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        let shard_capacity = (capacity / SHARDS).max(1);
        Self {
            rate,
            shard_capacity,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Returns this limiter, or a new one if the rate or the capacity has changed.
    pub fn next(self: &Arc<Self>, rate: Rate, capacity: usize) -> Arc<Self> {
        let other = Self::new(rate, capacity);
        if other.rate == self.rate && other.shard_capacity == self.shard_capacity {
            Arc::clone(self)
        } else {
            Arc::new(other)
        }
    }

    /// Takes one token, or returns the time until the next one.
    pub fn allow(&self, key: K, now: Instant) -> Result<(), Duration> {
        let full = f64::from(self.rate.count);
        let per_second = full / self.rate.per.as_secs_f64().max(0.001);
        let refilled = |bucket: &Bucket| {
            (bucket.tokens + now.saturating_duration_since(bucket.at).as_secs_f64() * per_second)
                .min(full)
        };
        let Some(mut shard) = self.shard(&key) else { return Ok(()) };
        if shard.len() >= self.shard_capacity && !shard.contains_key(&key) {
            shard.retain(|_, bucket| refilled(bucket) < full);
            if shard.len() >= self.shard_capacity {
                let fullest = shard
                    .iter()
                    .max_by(|(_, a), (_, b)| refilled(a).total_cmp(&refilled(b)))
                    .map(|(key, _)| key.clone());
                if let Some(fullest) = fullest {
                    shard.remove(&fullest);
                }
            }
        }
        let bucket = shard.entry(key).or_insert(Bucket { tokens: full, at: now });
        bucket.tokens = refilled(bucket);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
        }
    }

    /// Gives one token back. Called when the operation failed for a reason that the key's owner did
    /// not cause.
    pub fn give_back(&self, key: &K) {
        if let Some(mut shard) = self.shard(key)
            && let Some(bucket) = shard.get_mut(key)
        {
            bucket.tokens = (bucket.tokens + 1.0).min(f64::from(self.rate.count));
        }
    }

    fn shard(&self, key: &K) -> Option<MutexGuard<'_, HashMap<K, Bucket>>> {
        let index = usize::try_from(self.hasher.hash_one(key)).unwrap_or(usize::MAX) % SHARDS;
        self.shards.get(index).map(lock)
    }
}

/// Returns the address that limits count. For IPv6 this is the /64 network, because one host can
/// use all addresses of its network.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;

    fn limiter(capacity: usize) -> RateLimiter<u32> {
        RateLimiter::new(Rate { count: 3, per: Duration::from_secs(30) }, capacity)
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_at_a_time() {
        let (limiter, start) = (limiter(100), Now::read().mono);
        for _ in 0..3 {
            assert!(limiter.allow(1, start).is_ok());
        }
        let wait = limiter.allow(1, start).unwrap_err();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10));
        assert!(limiter.allow(2, start).is_ok(), "another key has its own bucket");
        assert!(limiter.allow(1, start + Duration::from_millis(10_001)).is_ok());
        assert!(limiter.allow(1, start + Duration::from_millis(10_002)).is_err());
    }

    #[test]
    fn a_flood_of_keys_stays_within_the_capacity() {
        let (limiter, start) = (limiter(64), Now::read().mono);
        for key in 0..10_000 {
            let _ = limiter.allow(key, start);
        }
        let held: usize = limiter.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(held <= 64, "{held}");
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let one = network_of("2001:db8:1:2::1".parse().unwrap());
        assert_eq!(one, network_of("2001:db8:1:2:ffff::9".parse().unwrap()));
        assert_ne!(one, network_of("2001:db8:1:3::1".parse().unwrap()));
        assert_eq!(network_of("::ffff:192.0.2.1".parse().unwrap()), IpAddr::from([192, 0, 2, 1]));
    }
}
