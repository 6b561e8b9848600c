//! The new process's side: finds the running process and takes over from it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::TakeoverError;
use super::message::{TakeoverMessage, VERSION, hash, past_ticket};
use crate::base::clock::Now;
use crate::listener::SocketOwner;
use crate::model::revocation::Revocation;
use crate::net::admin_socket::{SocketPathState, occupant};
use crate::net::handover::{Channel, check_folder};
use crate::net::passed::adopt;
use crate::session::changes::CountedSession;
use crate::store::succession::{PastTicket, TicketList, from_json};

/// How long the running process may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running process that can be replaced.
#[derive(Debug)]
pub struct Predecessor {
    path: PathBuf,
    channel: Channel,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// All that the running process hands over. It goes on as before if this is dropped.
#[derive(Debug)]
pub struct Handover {
    path: PathBuf,
    channel: Channel,
    sockets: Vec<(SocketAddr, SocketOwner, TcpListener)>,
    pub tickets: TicketList,
    pub past_tickets: Vec<PastTicket>,
    pub revocations: Vec<Revocation>,
    pub sessions: Vec<CountedSession>,
}

impl Predecessor {
    /// Returns the process that listens at the path. `None`: there is none.
    pub fn find(path: &Path) -> Result<Option<Self>, TakeoverError> {
        check_folder(path)?;
        let failed = |why: String| TakeoverError::Failed { path: path.to_owned(), why };
        match occupant(path).map_err(|error| failed(error.to_string()))? {
            SocketPathState::Nothing | SocketPathState::Stale => return Ok(None),
            SocketPathState::NotASocket => {
                return Err(failed("no socket is at the path".to_owned()));
            }
            SocketPathState::Listening => {}
        }
        let offered = || {
            let mut channel = Channel::new(UnixStream::connect(path)?, PATIENCE)?;
            let offer = TakeoverMessage::receive(&mut channel)?;
            Ok::<_, io::Error>((channel, offer))
        };
        match offered().map_err(|error| failed(error.to_string()))? {
            (channel, TakeoverMessage::Offer { version: VERSION, listeners, admin }) => {
                Ok(Some(Self { path: path.to_owned(), channel, listeners, admin }))
            }
            (_, TakeoverMessage::Offer { version, .. }) => Err(failed(format!(
                "the running process speaks version {version} of the protocol, this process \
                 version {VERSION}"
            ))),
            (_, TakeoverMessage::Refused { why }) => Err(failed(why)),
            _ => Err(failed("it does not begin with an offer".to_owned())),
        }
    }

    /// Returns true if the running process has a listener's socket at this address.
    pub fn has_listener(&self, address: SocketAddr) -> bool {
        self.listeners.contains(&address)
    }

    pub fn has_admin(&self, address: SocketAddr) -> bool {
        self.admin == Some(address)
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().copied().chain(self.admin).collect()
    }

    /// Makes the running process stop accepting, and receives its sockets at these addresses, its
    /// tickets and its deny list. With `counts_sessions` also the sessions that stay with it.
    pub fn take(
        self,
        addresses: Vec<SocketAddr>,
        counts_sessions: bool,
    ) -> Result<Handover, TakeoverError> {
        let path = self.path.clone();
        self.receive(addresses, counts_sessions).map_err(|error| failed(&path, &error))
    }

    fn receive(self, addresses: Vec<SocketAddr>, counts_sessions: bool) -> io::Result<Handover> {
        let Self { path, mut channel, .. } = self;
        TakeoverMessage::Take { addresses: addresses.clone(), counts_sessions }
            .send(&mut channel)?;
        let (mut passed, mut tickets, mut revocations) = (Vec::new(), Vec::new(), Vec::new());
        let (mut past_tickets, mut sessions) = (Vec::new(), Vec::new());
        loop {
            match TakeoverMessage::receive(&mut channel)? {
                TakeoverMessage::Sockets { passed: more } => passed.extend(more),
                TakeoverMessage::Ticket { hash: bytes, record } => {
                    let record = from_json(&record)
                        .ok_or_else(|| io::Error::other("a ticket of it cannot be read"))?;
                    tickets.push((hash(bytes), record));
                }
                TakeoverMessage::PastTickets(past) => {
                    past_tickets.extend(past.into_iter().filter_map(past_ticket));
                }
                TakeoverMessage::Revocation(order) => revocations.push(order),
                TakeoverMessage::Session(session) => sessions.push(session),
                TakeoverMessage::End => break,
                TakeoverMessage::Refused { why } => return Err(io::Error::other(why)),
                _ => return Err(io::Error::other("it sends a message out of turn")),
            }
        }
        let received = channel.take_sockets();
        if received.len() != passed.len() {
            return Err(io::Error::other("some sockets were lost: are there enough descriptors?"));
        }
        let mut sockets = Vec::new();
        for (socket, is_passed) in received.into_iter().zip(passed) {
            let socket = socket2::Socket::from(socket);
            adopt(&socket)?;
            let owner = match is_passed {
                true => SocketOwner::ServiceManager,
                false => SocketOwner::ThisProcess,
            };
            let socket = TcpListener::from(socket);
            // The socket's own address counts, not the words of the other process.
            sockets.push((socket.local_addr()?, owner, socket));
        }
        let has = |address: &SocketAddr| sockets.iter().any(|(own, ..)| own == address);
        if let Some(missing) = addresses.iter().find(|address| !has(address)) {
            return Err(io::Error::other(format!("it sends no socket for {missing}")));
        }
        Ok(Handover { path, channel, sockets, tickets, past_tickets, revocations, sessions })
    }
}

impl Handover {
    /// Removes the sockets of an address.
    pub fn sockets(&mut self, address: SocketAddr) -> Vec<(SocketOwner, TcpListener)> {
        let (own, rest) =
            std::mem::take(&mut self.sockets).into_iter().partition(|(one, ..)| *one == address);
        self.sockets = rest;
        let own: Vec<(SocketAddr, SocketOwner, TcpListener)> = own;
        own.into_iter().map(|(_, owner, socket)| (owner, socket)).collect()
    }

    /// Makes this process the one that serves. Returns the channel to the old one.
    pub fn commit(self) -> Result<Channel, TakeoverError> {
        let Self { path, mut channel, .. } = self;
        let committed = || {
            TakeoverMessage::Commit.send(&mut channel)?;
            match TakeoverMessage::receive(&mut channel)? {
                TakeoverMessage::Committed => Ok(channel),
                _ => Err(io::Error::other("it does not commit")),
            }
        };
        committed().map_err(|error: io::Error| failed(&path, &error))
    }

    /// Returns the tickets, with the time at which they are taken.
    pub fn take_tickets(&mut self) -> (TicketList, Now) {
        (std::mem::take(&mut self.tickets), Now::read())
    }
}

fn failed(path: &Path, error: &io::Error) -> TakeoverError {
    TakeoverError::Failed { path: path.to_owned(), why: error.to_string() }
}
