//! The process that holds the tickets of a memory store: this one, or the one that has replaced it.
//!
//! While another process takes over, callers wait. After that they ask the successor over a
//! channel, so that each ticket is redeemed in exactly one process.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::record::{StoredTicket, decode, encode};
use super::{PutError, TakeError, TicketHash, TicketRecord};
use crate::model::faults::TicketFault;

/// How long a caller waits for the end of a hand-over, and for an answer of the successor.
const PATIENCE: Duration = Duration::from_secs(10);

pub type TicketList = Vec<(TicketHash, TicketRecord)>;

/// The fate of a ticket that is not live any more, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastTicket {
    pub hash: TicketHash,
    pub fault: TicketFault,
    /// How much longer it is remembered.
    pub remembered: Duration,
}

/// The most fates that go to another process. Those of older tickets are forgotten: the audit log
/// then calls them unknown.
pub const MOST_PAST: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketAccess {
    Take,
    Peek,
}

/// A request to the successor.
#[derive(Debug)]
pub struct SuccessorRequest {
    pub call: SuccessorCall,
    pub answer: oneshot::Sender<SuccessorAnswer>,
}

#[derive(Debug)]
pub enum SuccessorCall {
    Put(TicketHash, Box<TicketRecord>),
    Find(TicketHash, TicketAccess),
}

#[derive(Debug)]
pub enum SuccessorAnswer {
    Put(Result<(), PutError>),
    Record(Result<Box<TicketRecord>, TakeError>),
}

#[derive(Clone, Debug)]
pub enum Owner {
    ThisProcess,
    /// Another process is taking over.
    Undecided,
    Successor(mpsc::Sender<SuccessorRequest>),
}

#[derive(Debug)]
pub struct Succession {
    owner: RwLock<Owner>,
    changed: watch::Sender<()>,
}

impl Default for Succession {
    fn default() -> Self {
        Self { owner: RwLock::new(Owner::ThisProcess), changed: watch::Sender::new(()) }
    }
}

impl Succession {
    /// Keeps the owner as it is until the guard is dropped.
    pub fn read(&self) -> RwLockReadGuard<'_, Owner> {
        self.owner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Owner> {
        self.owner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when no caller uses the tickets under the previous owner.
    pub fn set(&self, owner: Owner) {
        *self.write() = owner;
        self.changed.send_replace(());
    }

    /// Waits for the end of a hand-over. `None`: it takes too long.
    pub async fn decided(&self) -> Option<Owner> {
        let mut changed = self.changed.subscribe();
        let decided = async {
            loop {
                let owner = self.read().clone();
                if !matches!(owner, Owner::Undecided) {
                    return Some(owner);
                }
                changed.changed().await.ok()?;
            }
        };
        timeout(PATIENCE, decided).await.ok().flatten()
    }
}

/// Asks the successor. `None`: it does not answer.
pub async fn ask(
    successor: &mpsc::Sender<SuccessorRequest>,
    call: SuccessorCall,
) -> Option<SuccessorAnswer> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        successor.send(SuccessorRequest { call, answer }).await.ok()?;
        answered.await.ok()
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}

/// Writes a record for another process.
pub fn to_json(record: TicketRecord) -> Option<String> {
    String::from_utf8(encode(record)?).ok()
}

pub fn from_json(text: &str) -> Option<TicketRecord> {
    match decode(text.as_bytes())? {
        StoredTicket::Ticket(record) => Some(*record),
        StoredTicket::Past(_) => None,
    }
}
