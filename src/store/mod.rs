//! The stores of tickets.
//!
//! One enum has all kinds of stores, and each of them passes the same tests (`contract.rs`). A
//! store never gets a ticket, only its hash.

#[cfg(test)]
pub mod contract;
pub mod events;
pub mod memory;
mod record;
pub mod redis;
pub mod regions;
pub mod succession;

use crate::model::faults::TicketFault;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;

use self::events::TicketExpired;
use crate::base::clock::{Now, UnixMillis};
use crate::config;
use crate::model::principal::Principal;
use crate::model::request_id::HexId;
use crate::model::secret::Secret;
use crate::telemetry::Event;
use memory::MemoryStore;
use redis::{BreakerState, RedisStore};
use succession::{TicketAccess, TicketList};

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a process has only a few of them")]
pub enum Store {
    Memory(MemoryStore),
    Redis(RedisStore),
}

/// SHA-256 of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TicketHash(pub [u8; 32]);

/// The data of a ticket.
#[derive(Clone, Debug, PartialEq)]
pub struct TicketRecord {
    /// The principal, with only the permissions of the ticket.
    pub principal: Principal,
    /// The name of the route that the ticket opens; `None`: every route that accepts tickets.
    pub route: Option<Arc<str>>,
    /// The origin that the ticket is bound to, if the config says so.
    pub origin: Option<String>,
    /// The address that the ticket is bound to, if the config says so.
    pub address: Option<IpAddr>,
    pub created_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub single_use: bool,
    /// The span of the ticket request, as `traceparent` has it. That of the redemption links it.
    pub traceparent: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Fault(#[from] TicketFault),
    #[error("the store cannot be reached")]
    Unavailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error("the store is full")]
    Full,
    #[error("the store cannot be reached")]
    Unavailable,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the store's authorities from {path}: {error}")]
pub struct StoreOpenError {
    pub path: PathBuf,
    pub error: std::io::Error,
}

/// An expired ticket that was not redeemed, or a multi-use ticket that has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredTicket {
    pub name: HexId,
    pub user: String,
    pub issuer: Arc<str>,
    pub route: Option<Arc<str>>,
    /// False if the store did not answer: the ticket may have been redeemed.
    pub is_certain: bool,
}

/// The reason why a ticket was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedeemFault {
    #[error(transparent)]
    Ticket(#[from] TicketFault),
    /// The ticket is bound to something else. It is redeemed anyway, and cannot be used again.
    #[error("{0}")]
    Binding(&'static str),
    #[error("the store cannot be reached")]
    StoreUnavailable,
}

/// The validity of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    Fault(TicketFault),
    OtherUser,
}

/// Whether the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// The store is in this process, so it always answers.
    Local,
    Here,
    Away,
}

impl TicketFault {
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::Unknown, Self::Expired, Self::Used, Self::UnknownRegion];

    /// Returns the word for metric labels and audit lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::UnknownRegion => "unknown_region",
        }
    }
}

impl RedeemFault {
    pub fn label(self) -> &'static str {
        match self {
            Self::Ticket(fault) => fault.label(),
            Self::Binding(_) => "binding",
            Self::StoreUnavailable => "store_unavailable",
        }
    }

    /// Returns the closed set of labels.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        TicketFault::ALL
            .into_iter()
            .map(Self::Ticket)
            .chain([Self::Binding(""), Self::StoreUnavailable])
            .map(Self::label)
    }
}

impl From<TakeError> for RedeemFault {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Fault(fault) => Self::Ticket(fault),
            TakeError::Unavailable => Self::StoreUnavailable,
        }
    }
}

impl Validity {
    pub fn label(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Fault(fault) => fault.label(),
            Self::OtherUser => "other_user",
        }
    }

    /// Returns the closed set of labels.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        TicketFault::ALL
            .into_iter()
            .map(Self::Fault)
            .chain([Self::Valid, Self::OtherUser])
            .map(Self::label)
    }
}

impl ExpiredTicket {
    fn of(hash: TicketHash, record: &TicketRecord) -> Self {
        Self {
            name: hash.name(),
            user: record.principal.subject.clone(),
            issuer: Arc::clone(&record.principal.issuer),
            route: record.route.clone(),
            is_certain: true,
        }
    }

    fn publish(&self) {
        TicketExpired(self).emit();
    }
}

impl TicketHash {
    pub fn of(ticket: &Secret) -> Self {
        let digest = digest::digest(&digest::SHA256, ticket.expose());
        let mut hash = [0; 32];
        hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(hash)
    }

    /// Returns half of the hash, which names the ticket in the audit log. It is not enough to
    /// redeem the ticket.
    pub fn name(&self) -> HexId {
        let mut half = [0; 16];
        half.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        HexId::from_bytes(half)
    }
}

impl Store {
    /// Opens the store without connecting, so that Usher can start while the store does not answer.
    fn open(config: &config::Store) -> Result<Self, StoreOpenError> {
        Ok(match config {
            config::Store::Memory { max_tickets } => Self::Memory(MemoryStore::new(*max_tickets)),
            config::Store::Redis(redis) => Self::Redis(RedisStore::open(redis)?),
        })
    }

    pub async fn put(
        &self,
        hash: TicketHash,
        record: TicketRecord,
        now: Now,
    ) -> Result<(), PutError> {
        match self {
            Self::Memory(store) => Box::pin(store.put_with_owner(hash, record, now)).await,
            Self::Redis(store) => Box::pin(store.put(hash, record, now)).await,
        }
    }

    /// Redeems a ticket. If several callers redeem a single-use ticket, exactly one gets it.
    pub async fn take(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TakeError> {
        match self {
            Self::Memory(store) => {
                Box::pin(store.find_with_owner(hash, TicketAccess::Take, now)).await
            }
            Self::Redis(store) => Box::pin(store.take(hash, now)).await,
        }
    }

    /// Reads a ticket without redeeming it.
    pub async fn peek(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TakeError> {
        match self {
            Self::Memory(store) => {
                Box::pin(store.find_with_owner(hash, TicketAccess::Peek, now)).await
            }
            Self::Redis(store) => Box::pin(store.peek(hash, now)).await,
        }
    }

    /// Removes the expired tickets, and returns those that were not redeemed. With Redis, each node
    /// returns only the tickets that it issued, and checks whether Redis answers.
    pub async fn sweep(&self, now: Now) -> Vec<ExpiredTicket> {
        match self {
            Self::Memory(store) => store.sweep(now),
            Self::Redis(store) => Box::pin(store.sweep(now)).await,
        }
    }

    /// Takes the tickets of the process that this one replaces. A limit does not apply: a live
    /// ticket is never dropped.
    pub async fn import(&self, tickets: TicketList, now: Now) -> Result<(), PutError> {
        for (hash, record) in tickets {
            match self {
                Self::Memory(store) => store.import(hash, record, now),
                Self::Redis(store) => Box::pin(store.put(hash, record, now)).await?,
            }
        }
        Ok(())
    }

    /// Returns the store in this process, if the tickets are there.
    pub fn memory(&self) -> Option<&MemoryStore> {
        match self {
            Self::Memory(store) => Some(store),
            Self::Redis(_) => None,
        }
    }

    /// Returns the number of live tickets; `None` if only the store knows it.
    pub fn held(&self) -> Option<usize> {
        match self {
            Self::Memory(store) => Some(store.held()),
            Self::Redis(_) => None,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }

    /// Returns the state of the breaker. `None`: a store in this process does not need a breaker.
    pub fn breaker(&self) -> Option<BreakerState> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(store) => Some(store.state()),
        }
    }

    pub fn presence(&self) -> StoreHealth {
        match self {
            Self::Memory(_) => StoreHealth::Local,
            Self::Redis(store) if store.state() == BreakerState::Closed => StoreHealth::Here,
            Self::Redis(_) => StoreHealth::Away,
        }
    }
}
