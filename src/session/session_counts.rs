//! The limits on the sessions of one address and of one route, on this node.
//!
//! An upgrade takes its place after its grant, before an upstream is dialled. Public sessions count
//! too. Without a limit nothing is counted: a session that began then is never counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::base::lock::lock;
use crate::base::rate::network_of;

#[derive(Debug)]
pub struct SessionCounts {
    counts: Mutex<Counts>,
}

/// The most sessions; `None`: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MostSessions {
    pub per_address: Option<usize>,
    pub per_route: Option<usize>,
}

/// Each entry belongs to a session or to an upgrade under way: there are no more entries than
/// connections.
#[derive(Debug, Default)]
struct Counts {
    most: MostSessions,
    addresses: HashMap<IpAddr, usize>,
    routes: HashMap<Arc<str>, usize>,
}

/// A session's place under these limits. Dropping it gives it back.
#[derive(Debug)]
pub struct CountedPlace {
    counts: Arc<SessionCounts>,
    address: Option<IpAddr>,
    route: Option<Arc<str>>,
}

/// The limit that has no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionLimit {
    PerAddress,
    PerRoute,
}

impl SessionCounts {
    pub fn new(most: MostSessions) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::new(Counts { most, ..Counts::default() }) })
    }

    /// Sets the limits for new sessions. Open sessions stay.
    pub fn set_most(&self, most: MostSessions) {
        lock(&self.counts).most = most;
    }

    /// Takes a place. `Ok(None)`: nothing is limited. An IPv6 address counts as its network of 64
    /// bits.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        route: &Arc<str>,
    ) -> Result<Option<Box<CountedPlace>>, SessionLimit> {
        let mut counts = lock(&self.counts);
        let MostSessions { per_address, per_route } = counts.most;
        if per_address.is_none() && per_route.is_none() {
            return Ok(None);
        }
        let address = per_address.map(|_| network_of(address));
        let route = per_route.map(|_| Arc::clone(route));
        let is_full = |count: Option<&usize>, most: Option<usize>| {
            most.is_some_and(|most| count.is_some_and(|count| *count >= most))
        };
        if is_full(address.and_then(|address| counts.addresses.get(&address)), per_address) {
            return Err(SessionLimit::PerAddress);
        }
        if is_full(route.as_ref().and_then(|route| counts.routes.get(route)), per_route) {
            return Err(SessionLimit::PerRoute);
        }
        Ok(Some(self.take(&mut counts, address, route)))
    }

    /// Takes a place above the limits too, for a session that has begun in the process before.
    pub fn hold(self: &Arc<Self>, address: IpAddr, route: &Arc<str>) -> Option<Box<CountedPlace>> {
        let mut counts = lock(&self.counts);
        let MostSessions { per_address, per_route } = counts.most;
        let address = per_address.map(|_| network_of(address));
        let route = per_route.map(|_| Arc::clone(route));
        let is_limited = address.is_some() || route.is_some();
        is_limited.then(|| self.take(&mut counts, address, route))
    }

    fn take(
        self: &Arc<Self>,
        counts: &mut Counts,
        address: Option<IpAddr>,
        route: Option<Arc<str>>,
    ) -> Box<CountedPlace> {
        if let Some(address) = address {
            *counts.addresses.entry(address).or_default() += 1;
        }
        if let Some(route) = &route {
            *counts.routes.entry(Arc::clone(route)).or_default() += 1;
        }
        Box::new(CountedPlace { counts: Arc::clone(self), address, route })
    }
}

impl Drop for CountedPlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts.counts);
        if let Some(address) = &self.address {
            give_back(&mut counts.addresses, address);
        }
        if let Some(route) = &self.route {
            give_back(&mut counts.routes, route);
        }
    }
}

/// Takes one off the count, and removes an entry without sessions.
fn give_back<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn counts(per_address: Option<usize>, per_route: Option<usize>) -> Arc<SessionCounts> {
        SessionCounts::new(MostSessions { per_address, per_route })
    }

    #[test]
    fn each_address_and_each_route_has_its_places_and_gets_them_back() {
        let (counts, ws, open) = (counts(Some(2), Some(3)), Arc::from("/ws"), Arc::from("/open"));
        let first = counts.enter(ONE, &ws).unwrap();
        let second = counts.enter(ONE, &ws).unwrap();
        assert_eq!(counts.enter(ONE, &open).unwrap_err(), SessionLimit::PerAddress);
        let third = counts.enter(TWO, &ws).unwrap();
        assert_eq!(counts.enter(TWO, &ws).unwrap_err(), SessionLimit::PerRoute);
        let fourth = counts.enter(TWO, &open).unwrap();
        drop(first);
        // The refused ones have taken nothing.
        let fifth = counts.enter(ONE, &ws).unwrap();
        drop((second, third, fourth, fifth));
        let held = lock(&counts.counts);
        assert!(held.addresses.is_empty() && held.routes.is_empty());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let (counts, ws) = (counts(Some(1), None), Arc::from("/ws"));
        let [first, neighbour, mapped] =
            ["2001:db8::1", "2001:db8::2", "::ffff:192.0.2.1"].map(|one| one.parse().unwrap());
        let held = [counts.enter(first, &ws).unwrap(), counts.enter(mapped, &ws).unwrap()];
        assert!(counts.enter(neighbour, &ws).is_err() && counts.enter(ONE, &ws).is_err());
        drop(held);
    }

    #[test]
    fn a_session_of_the_process_before_counts_and_is_never_refused() {
        let (counts, ws) = (counts(Some(2), None), Arc::from("/ws"));
        let mut held: Vec<_> = (0..3).map(|_| counts.hold(ONE, &ws).unwrap()).collect();
        assert_eq!(counts.enter(ONE, &ws).unwrap_err(), SessionLimit::PerAddress);
        held.truncate(1);
        assert!(counts.enter(ONE, &ws).is_ok());
        drop(held);
        assert!(lock(&counts.counts).addresses.is_empty());
        counts.set_most(MostSessions::default());
        assert!(counts.hold(ONE, &ws).is_none());
    }

    #[test]
    fn without_a_limit_nothing_is_counted_and_a_new_limit_counts_from_now_on() {
        let (counts, ws) = (counts(None, None), Arc::from("/ws"));
        assert!(counts.enter(ONE, &ws).unwrap().is_none());
        counts.set_most(MostSessions { per_address: None, per_route: Some(1) });
        let held = counts.enter(ONE, &ws).unwrap();
        assert_eq!(counts.enter(TWO, &ws).unwrap_err(), SessionLimit::PerRoute);
        counts.set_most(MostSessions::default());
        assert!(counts.enter(TWO, &ws).unwrap().is_none());
        drop(held);
        assert!(lock(&counts.counts).routes.is_empty());
    }
}
