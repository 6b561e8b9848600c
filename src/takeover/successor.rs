//! The old process's side: offers its sockets, and hands them over with its tickets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::events::{HandOverFailed, HandedOver};
use super::former::FormerSessions;
use super::link::Outgoing;
use super::message::{TakeoverMessage, VERSION, past_messages};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::edge::{Current, Edge};
use crate::listener::SocketOwner;
use crate::net::handover::{Channel, MOST_SOCKETS};
use crate::telemetry::Event;

/// How long the new process may take to read its configuration and to be built.
const BUILD: Duration = Duration::from_secs(120);
/// How long it may take for the rest. Clients wait in the kernel's queue meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long this process's threads may take to stop accepting.
const PAUSE: Duration = Duration::from_secs(5);
/// The most questions about tickets that wait for the new process.
const QUESTIONS: usize = 1024;

/// The sockets of this process, which a new process can take over.
#[derive(Debug)]
pub struct HandoverSockets {
    pub current: Current,
    former: Arc<FormerSessions>,
    sockets: Mutex<Vec<HeldSocket>>,
    /// Set once, under the lock of the sockets.
    is_handed_over: AtomicBool,
}

/// The state in which the sockets were closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// This process has kept them. No other one can take over any more.
    BeforeHandOver,
    AfterHandOver,
}

/// A copy of a listening socket.
#[derive(Debug)]
pub struct HeldSocket {
    pub address: SocketAddr,
    pub owner: SocketOwner,
    pub is_admin: bool,
    pub socket: TcpListener,
}

/// The process that has taken over.
#[derive(Debug)]
pub struct Successor {
    pub channel: Channel,
    pub outgoing: Outgoing,
}

impl HandoverSockets {
    pub fn new(
        current: Current,
        former: Arc<FormerSessions>,
        sockets: Vec<HeldSocket>,
    ) -> Arc<Self> {
        let is_handed_over = AtomicBool::new(false);
        Arc::new(Self { current, former, sockets: Mutex::new(sockets), is_handed_over })
    }

    /// Closes the copies, because this process stops. A process that is taking over now fails.
    pub fn close(&self) -> Closed {
        lock(&self.sockets).clear();
        match self.is_handed_over.load(Ordering::Acquire) {
            true => Closed::AfterHandOver,
            false => Closed::BeforeHandOver,
        }
    }

    /// Commits: the other process has the sockets from now on. Fails if this process is stopping.
    fn commit(&self, channel: &mut Channel) -> io::Result<()> {
        let mut sockets = lock(&self.sockets);
        if sockets.is_empty() {
            return Err(io::Error::other("this process is stopping"));
        }
        // The new process serves only after it has read this.
        TakeoverMessage::Committed.send(channel)?;
        sockets.clear();
        self.is_handed_over.store(true, Ordering::Release);
        Ok(())
    }

    fn addresses(&self, is_admin: bool) -> Vec<SocketAddr> {
        let sockets = lock(&self.sockets);
        let own = sockets.iter().filter(|one| one.is_admin == is_admin);
        let mut addresses: Vec<_> = own.map(|one| one.address).collect();
        addresses.dedup();
        addresses
    }

    /// Hands over to the process at the other end. `Ok(None)`: it left before it took anything.
    fn hand_over(&self, stream: UnixStream) -> io::Result<Option<Successor>> {
        let mut channel = Channel::new(stream, PATIENCE)?;
        let listeners = self.addresses(false);
        if listeners.is_empty() {
            TakeoverMessage::Refused { why: "it is stopping".to_owned() }.send(&mut channel)?;
            return Ok(None);
        }
        let admin = self.addresses(true).first().copied();
        // A new process first tries whether anything listens here, and leaves at once.
        let offer = TakeoverMessage::Offer { version: VERSION, listeners, admin };
        if offer.send(&mut channel).is_err() {
            return Ok(None);
        }
        channel.set_patience(BUILD)?;
        // The new process may find a fault in its configuration, or only look for this one.
        let Ok(TakeoverMessage::Take { addresses, counts_sessions }) =
            TakeoverMessage::receive(&mut channel)
        else {
            return Ok(None);
        };
        channel.set_patience(PATIENCE)?;
        let edge = self.current.load_full();
        let drain = Arc::clone(&edge.drain);
        if self.addresses(false).is_empty() || !drain.pause() {
            TakeoverMessage::Refused { why: "it is stopping".to_owned() }.send(&mut channel)?;
            return Ok(None);
        }
        let handed = self.give(&mut channel, &edge, &addresses, counts_sessions);
        match handed {
            Ok(outgoing) => {
                drain.replace(addresses);
                Ok(Some(Successor { channel, outgoing }))
            }
            Err(error) => {
                if let Some(store) = edge.tickets.stores().own().memory() {
                    store.keep();
                }
                self.former.unfollow(&edge.registry);
                drain.resume();
                Err(error)
            }
        }
    }

    fn give(
        &self,
        channel: &mut Channel,
        edge: &Edge,
        addresses: &[SocketAddr],
        counts_sessions: bool,
    ) -> io::Result<Outgoing> {
        let paused = Handle::current().block_on(timeout(PAUSE, edge.drain.all_paused()));
        paused.map_err(|_| io::Error::other("a thread does not stop accepting"))?;
        // An order that comes after the snapshot goes over the link.
        let revocations = edge.revocations.watch();
        let now = Now::read();
        let store = edge.tickets.stores().own().memory();
        let tickets = store.map(|store| store.freeze(now)).unwrap_or_default();
        self.send_sockets(channel, addresses)?;
        let (ticket_count, mut revocation_count) = (tickets.len(), 0);
        for (hash, record) in tickets {
            let record = crate::store::succession::to_json(record)
                .ok_or_else(|| io::Error::other("a ticket cannot be written"))?;
            TakeoverMessage::Ticket { hash: hash.0, record }.send(channel)?;
        }
        let past = store.map(|store| store.past(now)).unwrap_or_default();
        for message in past_messages(&past) {
            message.send(channel)?;
        }
        for order in edge.revocations.snapshot(now) {
            revocation_count += 1;
            TakeoverMessage::Revocation(order).send(channel)?;
        }
        let mut changes = None;
        if counts_sessions {
            let (sessions, later) = self.former.follow(&edge.registry);
            changes = Some(later);
            for session in sessions {
                TakeoverMessage::Session(session).send(channel)?;
            }
        }
        TakeoverMessage::End.send(channel)?;
        let TakeoverMessage::Commit = TakeoverMessage::receive(channel)? else {
            return Err(io::Error::other("the new process does not commit"));
        };
        self.commit(channel)?;
        let (sender, questions) = mpsc::channel(QUESTIONS);
        if let Some(store) = store {
            store.hand_over(sender);
        }
        HandedOver { addresses, tickets: ticket_count, revocations: revocation_count }.emit();
        Ok(Outgoing {
            questions: Some(questions),
            revocations,
            changes,
            replaced: None,
            crls: None,
        })
    }

    fn send_sockets(&self, channel: &mut Channel, addresses: &[SocketAddr]) -> io::Result<()> {
        let sockets = lock(&self.sockets);
        let wanted: Vec<_> =
            sockets.iter().filter(|one| addresses.contains(&one.address)).collect();
        for some in wanted.chunks(MOST_SOCKETS) {
            let passed = some.iter().map(|one| one.owner == SocketOwner::ServiceManager).collect();
            let sockets: Vec<BorrowedFd<'_>> = some.iter().map(|one| one.socket.as_fd()).collect();
            TakeoverMessage::Sockets { passed }.send_with(channel, &sockets)?;
        }
        Ok(())
    }
}

/// Waits at the takeover socket until another process has taken over. One process can do so at a
/// time; another one waits.
pub async fn wait_for_successor(socket: UnixListener, estate: Arc<HandoverSockets>) -> Successor {
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let own = Arc::clone(&estate);
        let handing = spawn_blocking(move || own.hand_over(stream.into_std()?));
        match handing.await {
            Ok(Ok(Some(successor))) => return successor,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => HandOverFailed { why: &error.to_string() }.emit(),
            Err(error) => HandOverFailed { why: &error.to_string() }.emit(),
        }
    }
}
