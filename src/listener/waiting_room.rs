//! Connections that have not shown who they are: how many there are, in all and from one address, and may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::config;
use crate::limits::network_of;
use crate::lock::lock;
use crate::telemetry::event::Event;

#[derive(Debug)]
pub struct WaitingRoom {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    most: usize,
    most_per_address: usize,
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place in the room; it is given back when the client is known, or gone.
#[derive(Debug)]
pub struct Waiting {
    room: Arc<WaitingRoom>,
    address: Option<IpAddr>,
}

/// The name of the limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomFull(pub &'static str);

impl RoomFull {
    fn tell(self, peer: IpAddr) {
        Event::LimitReached { limit: self.0, peer: Some(peer) }.emit();
    }
}

impl WaitingRoom {
    pub fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self { held: Mutex::new(Held { most, most_per_address, ..Held::default() }) })
    }

    /// From now on. Who is there stays.
    pub fn set_limits(&self, most: usize, most_per_address: usize) {
        let mut held = lock(&self.held);
        (held.most, held.most_per_address) = (most, most_per_address);
    }

    /// `None`: the address says nothing yet, for a trusted peer stands for many clients.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Waiting, RoomFull> {
        let mut held = lock(&self.held);
        if held.total >= held.most {
            return Err(RoomFull("unauthenticated"));
        }
        let address = address.map(network_of);
        if let Some(address) = address {
            held.count(address)?;
        }
        held.total += 1;
        drop(held);
        Event::UnauthenticatedEntered.emit();
        Ok(Waiting { room: Arc::clone(self), address })
    }

    /// For a connection of this listener: a trusted peer stands for many clients, and who it is comes with the head.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, listener: &config::Listener) -> Result<Waiting, RoomFull> {
        let is_trusted = listener.trusted_peers.iter().any(|network| network.contains(&peer));
        self.enter((!is_trusted).then_some(peer)).inspect_err(|full| full.tell(peer))
    }

    pub fn waiting(&self) -> usize {
        lock(&self.held).total
    }
}

impl Held {
    fn count(&mut self, address: IpAddr) -> Result<(), RoomFull> {
        let count = self.by_address.entry(address).or_default();
        if *count >= self.most_per_address {
            return Err(RoomFull("unauthenticated_per_address"));
        }
        *count += 1;
        Ok(())
    }
}

impl Waiting {
    /// Whose place it is, where that was not known before.
    pub fn belongs_to(&mut self, address: IpAddr) -> Result<(), RoomFull> {
        if self.address.is_none() {
            let network = network_of(address);
            let mut held = lock(&self.room.held);
            let counted = held.count(network);
            drop(held);
            counted.inspect_err(|full| full.tell(address))?;
            self.address = Some(network);
        }
        Ok(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut held = lock(&self.room.held);
        held.total = held.total.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(count) = held.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                held.by_address.remove(&address);
            }
        }
        drop(held);
        Event::UnauthenticatedLeft.emit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_for_each_address_and_given_back() {
        let room = WaitingRoom::new(3, 2);
        let [one, two] = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        let first = room.enter(Some(one)).unwrap();
        let second = room.enter(Some(one)).unwrap();
        assert_eq!(room.enter(Some(one)).unwrap_err(), RoomFull("unauthenticated_per_address"));
        let mut third = room.enter(None).unwrap();
        assert_eq!(room.enter(Some(two)).unwrap_err(), RoomFull("unauthenticated"));
        assert_eq!(third.belongs_to(one).unwrap_err(), RoomFull("unauthenticated_per_address"));
        drop(first);
        third.belongs_to(one).unwrap();
        room.set_limits(2, 9);
        assert_eq!(room.enter(Some(two)).unwrap_err(), RoomFull("unauthenticated"));
        drop((second, third));
        let held = room.held.lock().unwrap();
        assert_eq!((held.total, held.by_address.len()), (0, 0));
    }
}
