//! Connections that have shown no credential: how many there are, in all and from one address.
//!
//! A stranger holds a place for its whole life: in the handshake, in plain HTTP, between two
//! requests, in a session on a public route. It gives the place back while it is known. A stranger
//! that rests between two requests gives way to a newcomer, so that idle connections never keep out
//! a client that has a credential to show.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::events::{UnauthenticatedDisplaced, UnauthenticatedEntered, UnauthenticatedLeft};
use crate::base::lock::lock;
use crate::base::rate::network_of;
use crate::config;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

#[derive(Debug)]
pub struct WaitingRoom {
    held: Mutex<RoomState>,
}

#[derive(Debug, Default)]
struct RoomState {
    most: usize,
    most_per_address: usize,
    total: usize,
    by_address: HashMap<IpAddr, AddressCount>,
    /// The places that rest, the one that has rested longest first.
    resting: BTreeMap<u64, Resting>,
    next_rest: u64,
}

#[derive(Debug, Default)]
struct AddressCount {
    places: usize,
    resting: BTreeSet<u64>,
}

#[derive(Debug)]
struct Resting {
    address: Option<IpAddr>,
    displaced: oneshot::Sender<()>,
}

/// A place in the room. Dropping it gives it back.
#[derive(Debug)]
pub struct WaitingPlace {
    room: Arc<WaitingRoom>,
    address: Option<IpAddr>,
    rest: Option<(u64, oneshot::Receiver<()>)>,
    /// A newcomer has taken the place.
    is_displaced: bool,
}

/// Whether a connection is a stranger, and the place that it holds while it is.
#[derive(Debug)]
pub struct StrangerState {
    room: Arc<WaitingRoom>,
    peer: IpAddr,
    address: Option<IpAddr>,
    is_stranger: Arc<AtomicBool>,
    place: Mutex<Option<WaitingPlace>>,
}

/// The name of the limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomFull(pub Limit);

impl RoomFull {
    fn log_refusal(self, peer: IpAddr) {
        LimitReached { limit: self.0, peer: Some(peer) }.emit();
    }
}

impl WaitingRoom {
    pub fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new(RoomState { most, most_per_address, ..RoomState::default() }),
        })
    }

    /// Sets the limits for the connections that come from now on.
    pub fn set_limits(&self, most: usize, most_per_address: usize) {
        let mut held = lock(&self.held);
        (held.most, held.most_per_address) = (most, most_per_address);
    }

    /// Takes a place, or that of a resting stranger if all are taken. Without an address the place
    /// counts only in the total.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<WaitingPlace, RoomFull> {
        let mut held = lock(&self.held);
        let address = address.map(network_of);
        if let Some(address) = address {
            held.make_room_for(address)?;
        }
        if held.total >= held.most && !held.displace(None) {
            return Err(RoomFull(Limit::Unauthenticated));
        }
        if let Some(address) = address {
            held.by_address.entry(address).or_default().places += 1;
        }
        held.total += 1;
        drop(held);
        UnauthenticatedEntered.emit();
        Ok(WaitingPlace { room: Arc::clone(self), address, rest: None, is_displaced: false })
    }

    /// Takes a place for a connection of this listener. The address of a trusted peer is not
    /// counted: the peer stands for many clients, and their addresses come with the request heads.
    pub fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        listener: &config::Listener,
    ) -> Result<StrangerState, RoomFull> {
        let address = (!listener.trusts(peer)).then_some(peer);
        let place = self.enter(address).inspect_err(|full| full.log_refusal(peer))?;
        Ok(StrangerState::new(place, peer, address))
    }

    /// Takes a place for a connection that begins with a PROXY header. No address counts it until
    /// the header is read: the proxy stands for many clients.
    pub fn enter_behind_proxy(self: &Arc<Self>, proxy: IpAddr) -> Result<WaitingPlace, RoomFull> {
        self.enter(None).inspect_err(|full| full.log_refusal(proxy))
    }

    pub fn waiting(&self) -> usize {
        lock(&self.held).total
    }
}

impl RoomState {
    /// Ensures that the address has a free place.
    fn make_room_for(&mut self, address: IpAddr) -> Result<(), RoomFull> {
        let places = self.by_address.get(&address).map_or(0, |count| count.places);
        if places >= self.most_per_address && !self.displace(Some(address)) {
            return Err(RoomFull(Limit::UnauthenticatedPerAddress));
        }
        Ok(())
    }

    /// Takes the place of the stranger that has rested longest, of this address or of all. Returns
    /// false if none rests.
    fn displace(&mut self, address: Option<IpAddr>) -> bool {
        let longest = match address {
            Some(address) => {
                self.by_address.get(&address).and_then(|count| count.resting.first().copied())
            }
            None => self.resting.keys().next().copied(),
        };
        let Some(resting) = longest.and_then(|rest| self.wake(rest)) else { return false };
        self.give_back(resting.address);
        // The connection may have ended by itself. It counts as displaced all the same.
        let _ = resting.displaced.send(());
        UnauthenticatedDisplaced.emit();
        true
    }

    fn wake(&mut self, rest: u64) -> Option<Resting> {
        let resting = self.resting.remove(&rest)?;
        if let Some(count) = resting.address.and_then(|address| self.by_address.get_mut(&address)) {
            count.resting.remove(&rest);
        }
        Some(resting)
    }

    fn give_back(&mut self, address: Option<IpAddr>) {
        self.total = self.total.saturating_sub(1);
        if let Some(address) = address
            && let Some(count) = self.by_address.get_mut(&address)
        {
            count.places = count.places.saturating_sub(1);
            if count.places == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl WaitingPlace {
    /// Counts the place for the client that a PROXY header names, by the rules of
    /// [`WaitingRoom::admit`].
    pub fn admit(
        mut self,
        peer: IpAddr,
        listener: &config::Listener,
    ) -> Result<StrangerState, RoomFull> {
        let address = (!listener.trusts(peer)).then_some(peer);
        if let Some(address) = address {
            self.belongs_to(address).inspect_err(|full| full.log_refusal(peer))?;
        }
        Ok(StrangerState::new(self, peer, address))
    }

    /// Counts the place for this address, if none was known before.
    fn belongs_to(&mut self, address: IpAddr) -> Result<(), RoomFull> {
        if self.address.is_none() {
            let network = network_of(address);
            let mut held = lock(&self.room.held);
            held.make_room_for(network)?;
            held.by_address.entry(network).or_default().places += 1;
            drop(held);
            self.address = Some(network);
        }
        Ok(())
    }

    /// Rests: completes when a newcomer has taken the place.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_displaced {
            return Poll::Ready(());
        }
        let (_, displaced) = self.rest.get_or_insert_with(|| {
            let (sender, receiver) = oneshot::channel();
            let mut held = lock(&self.room.held);
            let rest = held.next_rest;
            held.next_rest += 1;
            held.resting.insert(rest, Resting { address: self.address, displaced: sender });
            if let Some(count) = self.address.and_then(|address| held.by_address.get_mut(&address))
            {
                count.resting.insert(rest);
            }
            (rest, receiver)
        });
        let polled = Pin::new(displaced).poll(cx).map(drop);
        self.is_displaced = polled.is_ready();
        polled
    }

    /// Ends the rest. Returns false if a newcomer has taken the place.
    fn wake(&mut self) -> bool {
        if let Some((rest, _)) = self.rest.take() {
            self.is_displaced = lock(&self.room.held).wake(rest).is_none();
        }
        !self.is_displaced
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        if self.wake() {
            lock(&self.room.held).give_back(self.address);
        }
        UnauthenticatedLeft.emit();
    }
}

impl StrangerState {
    fn new(place: WaitingPlace, peer: IpAddr, address: Option<IpAddr>) -> Self {
        let room = Arc::clone(&place.room);
        let (is_stranger, place) = (Arc::new(AtomicBool::new(true)), Mutex::new(Some(place)));
        Self { room, peer, address, is_stranger, place }
    }

    /// Returns the state of a stream of this HTTP/2 connection. It takes over the place of the
    /// connection, or takes another one: each stream counts as a stranger until it has a grant.
    pub fn of_stream(&self) -> Result<Self, RoomFull> {
        let mut place = lock(&self.place).take();
        let is_awake = place.as_mut().is_some_and(WaitingPlace::wake);
        let place = match place.filter(|_| is_awake) {
            Some(place) => place,
            None => {
                self.room.enter(self.address).inspect_err(|full| full.log_refusal(self.peer))?
            }
        };
        Ok(Self::new(place, self.peer, self.address))
    }

    /// Gives the place back: the connection has shown a good credential.
    pub fn become_known(&self) {
        self.is_stranger.store(false, Ordering::Relaxed);
        lock(&self.place).take();
    }

    /// Takes a place again if the connection has none: its next request has no credential.
    pub fn become_stranger(&self) -> Result<(), RoomFull> {
        self.is_stranger.store(true, Ordering::Relaxed);
        let mut place = lock(&self.place);
        if place.as_mut().is_some_and(WaitingPlace::wake) {
            return Ok(());
        }
        *place =
            Some(self.room.enter(self.address).inspect_err(|full| full.log_refusal(self.peer))?);
        Ok(())
    }

    /// Counts the place for this address: behind a trusted peer, the connection now belongs to one
    /// client.
    pub fn belongs_to(&self, address: IpAddr) -> Result<(), RoomFull> {
        let mut place = lock(&self.place);
        place
            .as_mut()
            .map_or(Ok(()), |place| place.belongs_to(address))
            .inspect_err(|full| full.log_refusal(address))
    }

    /// Rests between two requests: completes when a newcomer has taken the place. Never completes
    /// for a known client.
    pub fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        lock(&self.place).as_mut().map_or(Poll::Pending, |place| place.poll_rest(cx))
    }

    /// Ends the rest. Returns false if a newcomer has taken the place.
    pub fn leave_rest(&self) -> bool {
        lock(&self.place).as_mut().is_none_or(WaitingPlace::wake)
    }

    pub fn is_stranger(&self) -> bool {
        self.is_stranger.load(Ordering::Relaxed)
    }

    /// Returns a flag that says at any time whether the connection is a stranger.
    pub fn stranger_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_stranger)
    }

    /// Hands over the place of a stranger, for what its connection becomes.
    pub fn take_place(&self) -> Option<WaitingPlace> {
        lock(&self.place).take()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn rest(place: &mut WaitingPlace) -> Poll<()> {
        place.poll_rest(&mut Context::from_waker(Waker::noop()))
    }

    fn is_empty(room: &WaitingRoom) -> bool {
        let held = lock(&room.held);
        held.total == 0 && held.by_address.is_empty() && held.resting.is_empty()
    }

    #[test]
    fn places_are_limited_in_all_and_for_each_address_and_given_back() {
        let room = WaitingRoom::new(3, 2);
        let first = room.enter(Some(ONE)).unwrap();
        let second = room.enter(Some(ONE)).unwrap();
        assert_eq!(room.enter(Some(ONE)).unwrap_err(), RoomFull(Limit::UnauthenticatedPerAddress));
        let mut third = room.enter(None).unwrap();
        assert_eq!(room.enter(Some(TWO)).unwrap_err(), RoomFull(Limit::Unauthenticated));
        assert_eq!(third.belongs_to(ONE).unwrap_err(), RoomFull(Limit::UnauthenticatedPerAddress));
        drop(first);
        third.belongs_to(ONE).unwrap();
        room.set_limits(2, 9);
        assert_eq!(room.enter(Some(TWO)).unwrap_err(), RoomFull(Limit::Unauthenticated));
        drop((second, third));
        assert!(is_empty(&room));
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_stranger_that_has_rested_longest() {
        let room = WaitingRoom::new(3, 2);
        let (mut busy, mut early, mut late) = (
            room.enter(Some(ONE)).unwrap(),
            room.enter(Some(ONE)).unwrap(),
            room.enter(Some(TWO)).unwrap(),
        );
        assert!(rest(&mut busy).is_pending() && busy.wake());
        assert!(rest(&mut early).is_pending() && rest(&mut late).is_pending());
        let third = room.enter(Some(IpAddr::from([192, 0, 2, 3]))).unwrap();
        assert!(rest(&mut early).is_ready() && rest(&mut late).is_pending());
        assert!(!early.wake() && late.wake());
        assert!(room.enter(Some(TWO)).is_err(), "none rests");
        // An address at its own limit displaces its own stranger, even if another address has one
        // that has rested longer.
        room.set_limits(9, 2);
        let mut other = room.enter(Some(TWO)).unwrap();
        assert!(rest(&mut busy).is_pending() && rest(&mut other).is_pending());
        let newcomer = room.enter(Some(TWO)).unwrap();
        assert!(rest(&mut other).is_ready() && rest(&mut busy).is_pending());
        assert_eq!(room.waiting(), 4);
        drop((busy, early, late, third, other, newcomer));
        assert!(is_empty(&room));
    }

    #[test]
    fn the_client_of_a_proxy_header_counts_for_its_own_address() {
        let config = config::for_test("auth = [\"header\"]");
        let room = WaitingRoom::new(9, 1);
        let proxied = [ONE, TWO].map(|client| {
            let place = room.enter_behind_proxy(ONE).unwrap();
            place.admit(client, &config.listeners[0]).unwrap()
        });
        let place = room.enter_behind_proxy(ONE).unwrap();
        let refused = place.admit(TWO, &config.listeners[0]).unwrap_err();
        assert_eq!(refused, RoomFull(Limit::UnauthenticatedPerAddress));
        assert_eq!(room.waiting(), 2, "the refused one has given its place back");
        proxied[0].become_known();
        assert!(room.admit(ONE, &config.listeners[0]).is_ok());
        drop(proxied);
        assert!(is_empty(&room));
    }

    #[test]
    fn a_connection_holds_a_place_while_it_is_a_stranger() {
        let config = config::for_test("auth = [\"header\"]");
        let room = WaitingRoom::new(1, 1);
        let standing = room.admit(ONE, &config.listeners[0]).unwrap();
        assert!(standing.stranger_flag().load(Ordering::Relaxed) && room.waiting() == 1);
        standing.become_stranger().unwrap();
        standing.become_known();
        assert!(!standing.stranger_flag().load(Ordering::Relaxed) && room.waiting() == 0);
        let other = room.admit(TWO, &config.listeners[0]).unwrap();
        assert_eq!(standing.become_stranger().unwrap_err(), RoomFull(Limit::Unauthenticated));
        // `other` loses its place while it rests, and needs another one.
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(other.poll_rest(cx).is_pending());
        standing.become_stranger().unwrap();
        assert!(other.poll_rest(cx).is_ready());
        assert!(other.become_stranger().is_err());
        standing.become_known();
        other.become_stranger().unwrap();
        drop((standing, other));
        assert!(is_empty(&room));
    }

    #[test]
    fn the_first_stream_takes_over_the_place_of_its_connection_and_others_take_their_own() {
        let config = config::for_test("auth = [\"header\"]");
        let room = WaitingRoom::new(9, 2);
        let connection = room.admit(ONE, &config.listeners[0]).unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(connection.poll_rest(cx).is_pending());
        let first = connection.of_stream().unwrap();
        assert_eq!(room.waiting(), 1);
        let second = connection.of_stream().unwrap();
        assert_eq!(room.waiting(), 2);
        let full = connection.of_stream().unwrap_err();
        assert_eq!(full, RoomFull(Limit::UnauthenticatedPerAddress));
        second.become_known();
        let third = connection.of_stream().unwrap();
        assert!(third.is_stranger() && !second.is_stranger());
        drop((first, third));
        connection.become_stranger().unwrap();
        assert_eq!(room.waiting(), 1);
        // A newcomer has taken the place of the connection at rest: the stream needs another one.
        assert!(connection.poll_rest(cx).is_pending());
        room.set_limits(1, 2);
        let newcomer = room.enter(Some(TWO)).unwrap();
        assert!(connection.poll_rest(cx).is_ready() && connection.of_stream().is_err());
        drop((connection, second, newcomer));
        assert!(is_empty(&room));
    }
}
