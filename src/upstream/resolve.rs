//! The addresses of a server's name, which is resolved again after `resolve_every`.
//!
//! The system's resolver gives no TTL, and blocks a thread. So each name is resolved by one dial at
//! a time, and the last good addresses stay in use while the resolver fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::events::{AddressesChanged, ResolveFailed};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::telemetry::Event;

/// How long the resolver may take while the last good addresses are there.
const PATIENCE: Duration = Duration::from_secs(1);
/// The shortest time between two lookups of a name whose addresses all fail.
const SHORTEST: Duration = Duration::from_secs(1);
/// The most addresses of a name that are used.
const MOST: usize = 16;

/// The addresses of one server, and their age.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    known: Mutex<Option<Known>>,
    /// Held by the dial that resolves the name.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    looked_up: Instant,
    /// From this time on, the name is resolved again.
    stale_at: Instant,
}

/// The name of a server, with the names in metrics and logs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerName<'a> {
    pub(super) upstream: &'a str,
    pub(super) server: &'a str,
    pub(super) every: Duration,
}

impl Resolved {
    /// Returns the addresses, from memory or from `lookup`.
    pub(super) async fn addresses(
        &self,
        name: ServerName<'_>,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Some(addresses) = self.fresh() {
            return Ok(addresses);
        }
        let _asking = self.asking.lock().await;
        if let Some(addresses) = self.fresh() {
            return Ok(addresses);
        }
        if lock(&self.known).is_none() {
            let addresses = lookup.await?;
            return Ok(self.keep(name, addresses));
        }
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer"));
        match timeout(PATIENCE, lookup).await.unwrap_or_else(late) {
            Ok(addresses) if !addresses.is_empty() => Ok(self.keep(name, addresses)),
            Ok(_) => Ok(self.keep_last(name, "the name has no address")),
            Err(error) => Ok(self.keep_last(name, &error.to_string())),
        }
    }

    /// Makes the next dial resolve the name again: none of its addresses could be dialled.
    pub(super) fn doubt(&self) {
        if let Some(known) = &mut *lock(&self.known) {
            known.stale_at = known.stale_at.min(known.looked_up + SHORTEST);
        }
    }

    fn fresh(&self) -> Option<Vec<SocketAddr>> {
        let known = lock(&self.known);
        let known = known.as_ref()?;
        (Now::read().mono < known.stale_at).then(|| known.addresses.clone())
    }

    fn keep(&self, name: ServerName<'_>, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        addresses.truncate(MOST);
        let now = Now::read().mono;
        let known =
            Known { addresses: addresses.clone(), looked_up: now, stale_at: now + name.every };
        let before = lock(&self.known).replace(known);
        let sorted = |addresses: &[SocketAddr]| {
            let mut sorted = addresses.to_vec();
            sorted.sort_unstable();
            sorted
        };
        // Resolvers return several addresses in turn.
        if before.is_some_and(|before| sorted(&before.addresses) != sorted(&addresses)) {
            let ServerName { upstream, server, .. } = name;
            AddressesChanged { upstream, server, addresses: &addresses }.emit();
        }
        addresses
    }

    /// Keeps the last good addresses until the next lookup.
    fn keep_last(&self, name: ServerName<'_>, error: &str) -> Vec<SocketAddr> {
        let ServerName { upstream, server, every } = name;
        ResolveFailed { upstream, server, error }.emit();
        let now = Now::read().mono;
        let mut known = lock(&self.known);
        known.as_mut().map_or_else(Vec::new, |known| {
            known.looked_up = now;
            known.stale_at = now + every;
            known.addresses.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    const NAME: ServerName<'static> =
        ServerName { upstream: "chat", server: "http://chat:1", every: Duration::from_secs(10) };

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    async fn answer(last: u8) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![address(last)])
    }

    async fn fail() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("servfail"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_resolved_again_after_its_time() {
        let resolved = Resolved::default();
        for (after, lookup, expected) in [(0, 1, 1), (9, 2, 1), (1, 3, 3), (9, 4, 3), (1, 5, 5)] {
            tokio::time::advance(Duration::from_secs(after)).await;
            let found = resolved.addresses(NAME, answer(lookup)).await.unwrap();
            assert_eq!(found, [address(expected)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_addresses_stay_while_the_resolver_fails_or_hangs() {
        let resolved = Resolved::default();
        assert!(resolved.addresses(NAME, fail()).await.is_err());
        resolved.addresses(NAME, answer(1)).await.unwrap();
        tokio::time::advance(NAME.every).await;
        assert_eq!(resolved.addresses(NAME, fail()).await.unwrap(), [address(1)]);
        assert_eq!(resolved.addresses(NAME, answer(2)).await.unwrap(), [address(1)]);
        tokio::time::advance(NAME.every).await;
        let begun = Now::read().mono;
        assert_eq!(resolved.addresses(NAME, pending()).await.unwrap(), [address(1)]);
        assert_eq!(begun.elapsed(), PATIENCE);
        tokio::time::advance(NAME.every).await;
        assert_eq!(resolved.addresses(NAME, async { Ok(vec![]) }).await.unwrap(), [address(1)]);
        tokio::time::advance(NAME.every).await;
        assert_eq!(resolved.addresses(NAME, answer(2)).await.unwrap(), [address(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_cannot_be_dialled_are_resolved_again_once_a_second() {
        let resolved = Resolved::default();
        resolved.addresses(NAME, answer(1)).await.unwrap();
        resolved.doubt();
        assert_eq!(resolved.addresses(NAME, answer(2)).await.unwrap(), [address(1)]);
        tokio::time::advance(SHORTEST).await;
        assert_eq!(resolved.addresses(NAME, answer(2)).await.unwrap(), [address(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_dials_one_asks_the_resolver() {
        let resolved = Resolved::default();
        let lookups = Cell::new(0);
        let lookup = || async {
            lookups.set(lookups.get() + 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer(1).await
        };
        let (one, two, three) = tokio::join!(
            resolved.addresses(NAME, lookup()),
            resolved.addresses(NAME, lookup()),
            resolved.addresses(NAME, lookup())
        );
        assert_eq!([one.unwrap(), two.unwrap(), three.unwrap()], [[address(1)]; 3]);
        assert_eq!(lookups.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_addresses_is_limited() {
        let many = async { Ok((0..100).map(address).collect()) };
        assert_eq!(Resolved::default().addresses(NAME, many).await.unwrap().len(), MOST);
    }
}
