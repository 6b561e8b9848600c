//! Tickets: issued to who has a token, redeemed once by who opens a socket.
//!
//! A ticket is 256 random bits. The store keeps its hash and what it stands for; the ticket itself is nowhere but in the
//! client's hands. `endpoint.rs` is the HTTP face.

pub mod endpoint;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::auth::credential::Method;
use crate::auth::jwt::Issuers;
use crate::auth::principal::Principal;
use crate::auth::revocation::Revocations;
use crate::auth::verifier::Verifiers;
use crate::clock::{Now, UnixMillis};
use crate::config::secret::Secret;
use crate::config::{self, Config, Route};
use crate::limits::{RateLimiter, network_of};
use crate::rejection::Rejection;
use crate::store::{OpenError, Presence, Store, TakeError, TicketFault, TicketHash, TicketRecord};
use crate::telemetry::event::Event;

/// 32 bytes in base64url.
const TICKET_LENGTH: usize = 43;

#[derive(Debug)]
pub struct Tickets {
    config: Arc<Config>,
    issuers: Arc<Issuers>,
    verifiers: Arc<Verifiers>,
    /// The endpoint's path, as verifiers hear it.
    place: Arc<str>,
    revocations: Arc<Revocations>,
    store: Arc<Store>,
    per_user: Arc<RateLimiter<String>>,
    per_address: Arc<RateLimiter<IpAddr>>,
}

/// What a client asks for; every field may be absent.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    ttl_seconds: Option<u64>,
    single_use: Option<bool>,
    permissions: Option<Vec<String>>,
    /// A route's path, as the config writes it.
    route: Option<String>,
}

/// A ticket as its client gets it.
#[derive(Debug)]
pub struct Issued {
    pub ticket: Secret,
    pub route: Option<Arc<Route>>,
    pub created_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub single_use: bool,
}

/// Where the request for a ticket came from.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub origin: Option<&'a str>,
    pub peer: IpAddr,
    pub traceparent: Option<&'a str>,
}

impl Tickets {
    pub fn new(config: &Arc<Config>, issuers: Arc<Issuers>, revocations: Arc<Revocations>) -> Result<Self, OpenError> {
        let entries = config.limits.rate_entries;
        Ok(Self {
            issuers,
            verifiers: Arc::default(),
            place: config.tickets.path.as_str().into(),
            revocations,
            store: Arc::new(Store::open(&config.store)?),
            per_user: Arc::new(RateLimiter::new(config.tickets.rate_per_user, entries)),
            per_address: Arc::new(RateLimiter::new(config.tickets.rate_per_address, entries)),
            config: Arc::clone(config),
        })
    }

    /// By another configuration, over the same store. Who asks is remembered unless there is another rate.
    pub fn next(&self, config: &Arc<Config>, issuers: Arc<Issuers>) -> Self {
        let entries = config.limits.rate_entries;
        Self {
            issuers,
            verifiers: Arc::default(),
            place: config.tickets.path.as_str().into(),
            revocations: Arc::clone(&self.revocations),
            store: Arc::clone(&self.store),
            per_user: self.per_user.next(config.tickets.rate_per_user, entries),
            per_address: self.per_address.next(config.tickets.rate_per_address, entries),
            config: Arc::clone(config),
        }
    }

    pub fn with_verifiers(self, verifiers: Arc<Verifiers>) -> Self {
        Self { verifiers, ..self }
    }

    /// Checks the rates, and counts this request against them.
    fn check_rates(&self, principal: &Principal, peer: IpAddr, now: Now) -> Result<(), Rejection> {
        let limited = |limit| {
            move |retry_after| {
                Event::LimitReached { limit, peer: Some(peer) }.emit();
                Rejection::RateLimited { retry_after }
            }
        };
        self.per_address.allow(network_of(peer), now.mono).map_err(limited("tickets_per_address"))?;
        // Two issuers may name two people alike.
        let user = format!("{}\u{0}{}", principal.issuer, principal.subject);
        self.per_user.allow(user, now.mono).map_err(limited("tickets_per_user"))
    }

    pub async fn issue(&self, mut principal: Principal, request: Request, asking: Asking<'_>, now: Now) -> Result<Issued, Rejection> {
        self.check_rates(&principal, asking.peer, now)?;
        let rules = &self.config.tickets;
        let single_use = request.single_use.unwrap_or(true);
        if !single_use && !rules.multi_use {
            return Err(Rejection::InvalidRequest("tickets are single-use here"));
        }
        let ttl = lifetime(rules, request.ttl_seconds)?;
        // A ticket does not outlive the token that it was made from.
        let expires_at = (now.wall + ttl).min(principal.expires_at);
        let route = request.route.map(|name| self.ticket_route(&name)).transpose()?;
        if let Some(wanted) = request.permissions {
            if wanted.iter().any(|one| !principal.permissions.contains(one)) {
                return Err(Rejection::PermissionDenied);
            }
            principal.permissions = wanted;
        }
        let record = TicketRecord {
            principal,
            route: route.as_ref().map(|route| Arc::clone(&route.name)),
            origin: asking.origin.filter(|_| rules.bind.origin).map(str::to_owned),
            address: rules.bind.ip.then_some(asking.peer),
            created_at: now.wall,
            expires_at,
            single_use,
            traceparent: asking.traceparent.map(str::to_owned),
        };
        let ticket = random_ticket()?;
        self.store.put(TicketHash::of(&ticket), record, now).await.map_err(|error| {
            if error == crate::store::PutError::Full {
                Event::LimitReached { limit: "tickets", peer: None }.emit();
            }
            Rejection::StoreUnavailable
        })?;
        Ok(Issued { ticket, route, created_at: now.wall, expires_at, single_use })
    }

    /// Redeems a ticket for a route. Whatever comes of it, a single-use ticket that was found is spent.
    pub async fn redeem(
        &self,
        ticket: &Secret,
        route: &Route,
        origin: Option<&str>,
        peer: IpAddr,
        request_id: &str,
        now: Now,
    ) -> Result<Principal, Rejection> {
        let refused = |fault| {
            Event::TicketRedeemRefused { request_id, peer, route: &route.name, fault }.emit();
            Rejection::InvalidTicket(fault)
        };
        if !has_the_shape_of_a_ticket(ticket) {
            return Err(refused(TicketFault::Malformed));
        }
        let record = match self.store.take(TicketHash::of(ticket), now).await {
            Ok(record) => record,
            Err(TakeError::Fault(fault)) => return Err(refused(fault)),
            Err(TakeError::Unavailable) => return Err(Rejection::StoreUnavailable),
        };
        if record.route.as_ref().is_some_and(|name| *name != route.name) {
            return Err(Rejection::TicketBinding("it was made for another route"));
        }
        if record.origin.as_deref().is_some_and(|bound| origin != Some(bound)) {
            return Err(Rejection::TicketBinding("it was made for another page"));
        }
        if record.address.is_some_and(|bound| bound != peer) {
            return Err(Rejection::TicketBinding("it was made for another address"));
        }
        Event::TicketRedeemed { request_id, user: &record.principal.subject, peer, route: &route.name }.emit();
        Ok(record.principal)
    }

    /// Looks at a ticket on behalf of its owner; `None` for anybody else's, and for one that is no longer good.
    pub async fn validate(&self, ticket: &Secret, owner: &Principal, now: Now) -> Result<Option<TicketRecord>, Rejection> {
        match self.store.peek(TicketHash::of(ticket), now).await {
            Ok(record) => {
                let theirs = record.principal.subject == owner.subject && record.principal.issuer == owner.issuer;
                Ok(Some(record).filter(|_| theirs))
            }
            Err(TakeError::Fault(_)) => Ok(None),
            Err(TakeError::Unavailable) => Err(Rejection::StoreUnavailable),
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Housekeeping: forgets what has expired, and looks whether the store is there.
    pub async fn sweep(&self, now: Now) -> Presence {
        let count = self.store.sweep(now).await;
        if count > 0 {
            Event::TicketsExpired { count }.emit();
        }
        if let Some(count) = self.store.held() {
            Event::TicketsHeld { count }.emit();
        }
        self.store.presence()
    }

    fn ticket_route(&self, name: &str) -> Result<Arc<Route>, Rejection> {
        let route = self.config.routes.iter().find(|route| &*route.name == name && route.auth.contains(&Method::Ticket));
        route.cloned().ok_or(Rejection::InvalidRequest("there is no route of this name that takes tickets"))
    }
}

fn lifetime(rules: &config::Tickets, wanted: Option<u64>) -> Result<Duration, Rejection> {
    match wanted.map(Duration::from_secs) {
        None => Ok(rules.ttl),
        Some(Duration::ZERO) => Err(Rejection::InvalidRequest("ttl_seconds is at least 1")),
        Some(ttl) if ttl > rules.max_ttl => Err(Rejection::InvalidRequest("ttl_seconds is more than this server allows")),
        Some(ttl) => Ok(ttl),
    }
}

fn random_ticket() -> Result<Secret, Rejection> {
    let mut bits = [0; 32];
    rand::fill(&mut bits).map_err(|_| Rejection::Internal)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bits)))
}

fn has_the_shape_of_a_ticket(ticket: &Secret) -> bool {
    ticket.len() == TICKET_LENGTH && ticket.expose().iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
