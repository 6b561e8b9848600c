//! The messages between the two processes.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::faults::TicketFault;
use crate::model::revocation::Revocation;
use crate::net::handover::Channel;
use crate::net::tls::crl::CrlFiles;
use crate::session::changes::{CountedSession, SessionChange};
use crate::store::succession::{PastTicket, SuccessorAnswer, TicketAccess, from_json, to_json};
use crate::store::{PutError, TakeError, TicketHash};

/// Processes of another version refuse each other.
pub const VERSION: u32 = 3;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakeoverMessage {
    /// The old process: the addresses of its sockets.
    Offer {
        version: u32,
        listeners: Vec<SocketAddr>,
        admin: Option<SocketAddr>,
    },
    /// The old process cannot be replaced now.
    Refused {
        why: String,
    },
    /// The new process is built, and takes the sockets at these addresses.
    Take {
        addresses: Vec<SocketAddr>,
        /// Whether its limits count sessions.
        #[serde(default)]
        counts_sessions: bool,
    },
    /// Sockets come with this message. `true`: the service manager has a copy.
    Sockets {
        passed: Vec<bool>,
    },
    Ticket {
        hash: [u8; 32],
        record: String,
    },
    /// Tickets that are not live any more: the hash, the fault, and the milliseconds for which it
    /// is remembered.
    PastTickets(Vec<([u8; 32], String, u64)>),
    Revocation(Revocation),
    /// The new process: the files of its lists of revoked client certificates, which it has read.
    /// Each element has the file of the authorities, and those of their lists.
    ClientCrls(Vec<(OsString, Vec<OsString>)>),
    /// A session that the old process serves. It counts under the limits of the new one.
    Session(CountedSession),
    SessionEnded {
        id: String,
    },
    /// The new process: a newer session takes the place of this one.
    ReplaceSession {
        id: String,
    },
    /// All sockets, tickets, revocations and sessions were sent.
    End,
    Commit,
    Committed,
    Put {
        id: u64,
        hash: [u8; 32],
        record: String,
    },
    Seek {
        id: u64,
        hash: [u8; 32],
        redeem: bool,
    },
    Answer {
        id: u64,
        outcome: TicketOutcome,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketOutcome {
    Stored,
    Full,
    Unavailable,
    Record(String),
    Fault(String),
}

impl TakeoverMessage {
    pub fn to_frame(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    pub fn from_frame(frame: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(frame)?)
    }

    pub fn send(&self, channel: &mut Channel) -> io::Result<()> {
        channel.send(&self.to_frame()?, &[])
    }

    pub fn send_with(&self, channel: &mut Channel, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        channel.send(&self.to_frame()?, sockets)
    }

    pub fn receive(channel: &mut Channel) -> io::Result<Self> {
        Self::from_frame(&channel.receive()?)
    }
}

impl TicketOutcome {
    pub fn of(answer: SuccessorAnswer) -> Self {
        match answer {
            SuccessorAnswer::Put(Ok(())) => Self::Stored,
            SuccessorAnswer::Put(Err(PutError::Full)) => Self::Full,
            SuccessorAnswer::Put(Err(PutError::Unavailable))
            | SuccessorAnswer::Record(Err(TakeError::Unavailable)) => Self::Unavailable,
            SuccessorAnswer::Record(Err(TakeError::Fault(fault))) => {
                Self::Fault(fault.label().to_owned())
            }
            SuccessorAnswer::Record(Ok(record)) => {
                to_json(*record).map_or(Self::Unavailable, Self::Record)
            }
        }
    }

    /// Returns the answer to a question that stores a ticket, or that looks for one.
    pub fn answer(self, is_put: bool) -> SuccessorAnswer {
        let fault = |name: &str| TicketFault::ALL.into_iter().find(|one| one.label() == name);
        match self {
            Self::Stored if is_put => SuccessorAnswer::Put(Ok(())),
            Self::Full if is_put => SuccessorAnswer::Put(Err(PutError::Full)),
            _ if is_put => SuccessorAnswer::Put(Err(PutError::Unavailable)),
            Self::Record(text) => SuccessorAnswer::Record(
                from_json(&text).map(Box::new).ok_or(TakeError::Unavailable),
            ),
            Self::Fault(name) => SuccessorAnswer::Record(Err(
                fault(&name).map_or(TakeError::Unavailable, TakeError::Fault)
            )),
            Self::Stored | Self::Full | Self::Unavailable => {
                SuccessorAnswer::Record(Err(TakeError::Unavailable))
            }
        }
    }
}

impl TakeoverMessage {
    /// Names files by paths that do not depend on the folder of a process.
    pub fn of_crls(files: Vec<CrlFiles>) -> io::Result<Self> {
        let path = |path: PathBuf| std::path::absolute(path).map(PathBuf::into_os_string);
        let named = files.into_iter().map(|CrlFiles { authorities, lists }| {
            let lists = lists.into_iter().map(path).collect::<io::Result<_>>()?;
            Ok((path(authorities)?, lists))
        });
        named.collect::<io::Result<_>>().map(Self::ClientCrls)
    }
}

/// Reads the files of [`TakeoverMessage::ClientCrls`].
pub fn crl_files(named: Vec<(OsString, Vec<OsString>)>) -> Vec<CrlFiles> {
    let files = named.into_iter().map(|(authorities, lists)| CrlFiles {
        authorities: authorities.into(),
        lists: lists.into_iter().map(PathBuf::from).collect(),
    });
    files.collect()
}

impl From<SessionChange> for TakeoverMessage {
    fn from(change: SessionChange) -> Self {
        match change {
            SessionChange::Began(session) => Self::Session(session),
            SessionChange::Ended(id) => Self::SessionEnded { id: id.to_string() },
        }
    }
}

/// Writes past tickets into messages of a size that fits a frame.
pub fn past_messages(past: &[PastTicket]) -> impl Iterator<Item = TakeoverMessage> + '_ {
    past.chunks(1000).map(|some| {
        let write = |ticket: &PastTicket| {
            let remembered = u64::try_from(ticket.remembered.as_millis()).unwrap_or(u64::MAX);
            (ticket.hash.0, ticket.fault.label().to_owned(), remembered)
        };
        TakeoverMessage::PastTickets(some.iter().map(write).collect())
    })
}

/// Reads a past ticket. `None`: it cannot be read.
pub fn past_ticket((bytes, fault, remembered): ([u8; 32], String, u64)) -> Option<PastTicket> {
    let fault = TicketFault::ALL.into_iter().find(|one| one.label() == fault)?;
    Some(PastTicket { hash: hash(bytes), fault, remembered: Duration::from_millis(remembered) })
}

pub fn is_take(access: TicketAccess) -> bool {
    access == TicketAccess::Take
}

pub fn ticket_access(redeem: bool) -> TicketAccess {
    if redeem { TicketAccess::Take } else { TicketAccess::Peek }
}

pub fn hash(bytes: [u8; 32]) -> TicketHash {
    TicketHash(bytes)
}
