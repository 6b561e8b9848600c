//! The addresses of a name, which is looked up again after `resolve_every`.
//!
//! The system's resolver gives no TTL, and blocks a thread. So each name is looked up by one task
//! at a time, and the last good addresses stay in use while the resolver fails.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::events::ResolveFailed;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::NameAddresses;
use crate::telemetry::Event;

/// How long the resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The shortest time between two lookups: of a name without an address, or with one that cannot be
/// dialled.
const SHORTEST: Duration = Duration::from_secs(1);

/// One name, its last good addresses and its next lookup.
#[derive(Debug)]
pub(super) struct ResolvedName {
    state: Mutex<State>,
    /// Held by the task that asks the resolver.
    asking: tokio::sync::Mutex<()>,
    doubted: Notify,
}

#[derive(Debug)]
struct State {
    /// The last good addresses in the resolver's order, each once.
    addresses: Arc<[SocketAddr]>,
    looked_up: Option<Instant>,
    due: Instant,
    is_failing: bool,
    /// Whether a lookup has ever failed.
    has_failed: bool,
}

/// A lookup in metrics and logs.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameLookup<'a> {
    pub(super) upstream: &'a str,
    pub(super) server: &'a str,
    pub(super) every: Duration,
}

impl ResolvedName {
    pub(super) fn new(now: Instant) -> Self {
        let state = State {
            addresses: Arc::default(),
            looked_up: None,
            due: now,
            is_failing: false,
            has_failed: false,
        };
        Self {
            state: Mutex::new(state),
            asking: tokio::sync::Mutex::default(),
            doubted: Notify::new(),
        }
    }

    /// Returns true if a lookup has ended, well or not.
    pub(super) fn was_looked_up(&self) -> bool {
        lock(&self.state).looked_up.is_some()
    }

    /// Returns true if a lookup has ever failed.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.state).has_failed
    }

    /// Returns the last good addresses; none before the first good lookup.
    pub(super) fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&lock(&self.state).addresses)
    }

    /// Waits until the next lookup is due.
    pub(super) async fn until_due(&self) {
        loop {
            let due = lock(&self.state).due;
            tokio::select! {
                () = sleep_until(due) => return,
                () = self.doubted.notified() => {}
            }
        }
    }

    /// Looks the name up, if that is due.
    pub(super) async fn look_up(
        &self,
        about: NameLookup<'_>,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) {
        let _asking = self.asking.lock().await;
        if Now::read().mono < lock(&self.state).due {
            return;
        }
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer"));
        let error = match timeout(PATIENCE, lookup).await.unwrap_or_else(late) {
            Ok(addresses) if !addresses.is_empty() => return self.keep(addresses, about.every),
            Ok(_) => "the name has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        let is_known = self.keep_last(about.every);
        let NameLookup { upstream, server, .. } = about;
        ResolveFailed { upstream, server, error: &error, is_known }.emit();
    }

    /// Brings the next lookup forward: an address could not be dialled.
    pub(super) fn doubt(&self) {
        let mut state = lock(&self.state);
        let soon = state.looked_up.map_or(state.due, |at| at + SHORTEST);
        if soon < state.due {
            state.due = soon;
            self.doubted.notify_one();
        }
    }

    /// Brings the next lookup forward if a reload has shortened `resolve_every`.
    pub(super) fn limit_wait(&self, every: Duration) {
        let mut state = lock(&self.state);
        if let Some(at) = state.looked_up {
            state.due = state.due.min(at + every);
        }
    }

    fn keep(&self, mut addresses: Vec<SocketAddr>, every: Duration) {
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(*address));
        let now = Now::read().mono;
        let mut state = lock(&self.state);
        state.addresses = addresses.into();
        state.looked_up = Some(now);
        state.due = now + every;
        state.is_failing = false;
    }

    /// Keeps the last good addresses until the next lookup. Returns true if the lookup before has
    /// failed too.
    fn keep_last(&self, every: Duration) -> bool {
        let now = Now::read().mono;
        let mut state = lock(&self.state);
        let pause = if state.addresses.is_empty() { every.min(SHORTEST) } else { every };
        state.looked_up = Some(now);
        state.due = now + pause;
        state.has_failed = true;
        std::mem::replace(&mut state.is_failing, true)
    }
}

/// Divides the addresses of a name into servers, each with the addresses that lead to it in the
/// order in which they are dialled. Returns the number of addresses beyond `most`, too.
///
/// One IPv4 and one IPv6 address are two ways to one host. With more of both, the pairs are not
/// known, and each host would count twice. Then those of the family that the resolver puts first
/// are used (RFC 6724). Sorted addresses are cut alike on every node.
pub(super) fn divide(
    addresses: &[SocketAddr],
    how: NameAddresses,
    most: usize,
) -> (Vec<Vec<SocketAddr>>, usize) {
    let is_host = matches!(addresses, [one, two] if one.is_ipv4() != two.is_ipv4());
    if addresses.is_empty() {
        (Vec::new(), 0)
    } else if is_host || how == NameAddresses::OneServer {
        let used = addresses.iter().copied().take(most).collect();
        (vec![used], addresses.len().saturating_sub(most))
    } else {
        let family = addresses.first().is_some_and(SocketAddr::is_ipv4);
        let mut used: Vec<_> =
            addresses.iter().filter(|one| one.is_ipv4() == family).copied().collect();
        used.sort_unstable();
        let over = used.len().saturating_sub(most);
        used.truncate(most);
        (used.into_iter().map(|one| vec![one]).collect(), over)
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
