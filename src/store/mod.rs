//! Where tickets are kept.
//!
//! A closed set of stores behind one enum, and one contract suite (`contract.rs`) that each of them
//! passes. A store never sees a ticket, only its hash.

#[cfg(test)]
pub mod contract;
pub mod events;
pub mod memory;
pub mod redis;
pub mod regions;

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

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are a few in a process")]
pub enum Store {
    Memory(MemoryStore),
    Redis(RedisStore),
}

/// SHA-256 of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TicketHash(pub [u8; 32]);

/// What a ticket stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct TicketRecord {
    /// With the permissions that the ticket was narrowed to.
    pub principal: Principal,
    /// The name of the one route that it opens; `None`: every route that takes tickets.
    pub route: Option<Arc<str>>,
    /// The page and the address that it is bound to, where the config says so.
    pub origin: Option<String>,
    pub address: Option<IpAddr>,
    pub created_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub single_use: bool,
    /// The trace that asked for it goes on when it is redeemed.
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
    #[error("the store holds as many tickets as it may")]
    Full,
    #[error("the store cannot be reached")]
    Unavailable,
}

#[derive(Debug, thiserror::Error)]
#[error("the store's authorities cannot be read from {path}: {error}")]
pub struct OpenError {
    pub path: PathBuf,
    pub error: std::io::Error,
}

/// A ticket whose end came before anyone redeemed it; one that works more than once, at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredTicket {
    pub name: HexId,
    pub user: String,
    pub issuer: Arc<str>,
    pub route: Option<Arc<str>>,
    /// False: the store was away, so it may have been redeemed.
    pub is_certain: bool,
}

/// Why a ticket that was shown lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedeemFault {
    #[error(transparent)]
    Ticket(#[from] TicketFault),
    /// It is spent all the same.
    #[error("{0}")]
    Binding(&'static str),
    #[error("the store cannot be reached")]
    StoreUnavailable,
}

/// What the owner of a ticket was told of it, or somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    Fault(TicketFault),
    OtherUser,
}

/// Does the store answer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In this process: there is nothing to lose.
    Local,
    Here,
    Away,
}

impl TicketFault {
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::Unknown, Self::Expired, Self::Used, Self::UnknownRegion];

    /// Metric label and audit word.
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

    /// The closed set of labels.
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

    /// The closed set of labels.
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

    fn tell(&self) {
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

    /// Half of it: what the audit log calls the ticket. Nobody can redeem by it.
    pub fn name(&self) -> HexId {
        let mut half = [0; 16];
        half.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        HexId::from_bytes(half)
    }
}

impl Store {
    /// Connects to nothing yet: a store that is away keeps nobody from starting.
    fn open(config: &config::Store) -> Result<Self, OpenError> {
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
            Self::Memory(store) => store.put(hash, record, now),
            Self::Redis(store) => Box::pin(store.put(hash, record, now)).await,
        }
    }

    /// Redeems: of any number of callers at once exactly one gets a single-use ticket.
    pub async fn take(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TakeError> {
        match self {
            Self::Memory(store) => store.take(hash, now).map_err(TakeError::Fault),
            Self::Redis(store) => Box::pin(store.take(hash, now)).await,
        }
    }

    /// Looks without redeeming.
    pub async fn peek(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TakeError> {
        match self {
            Self::Memory(store) => store.peek(hash, now).map_err(TakeError::Fault),
            Self::Redis(store) => Box::pin(store.peek(hash, now)).await,
        }
    }

    /// Forgets the tickets that have expired, and returns those that were not redeemed. Of tickets
    /// in Redis each node returns those that it issued; and Redis is asked whether it is there.
    pub async fn sweep(&self, now: Now) -> Vec<ExpiredTicket> {
        match self {
            Self::Memory(store) => store.sweep(now),
            Self::Redis(store) => Box::pin(store.sweep(now)).await,
        }
    }

    /// Tickets that can be redeemed; `None` where only the store itself knows.
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

    /// `None`: a store in this process needs none.
    pub fn breaker(&self) -> Option<BreakerState> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(store) => Some(store.state()),
        }
    }

    pub fn presence(&self) -> Presence {
        match self {
            Self::Memory(_) => Presence::Local,
            Self::Redis(store) if store.state() == BreakerState::Closed => Presence::Here,
            Self::Redis(_) => Presence::Away,
        }
    }
}
