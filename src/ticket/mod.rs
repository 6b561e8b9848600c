//! Tickets: issued to who has a token, redeemed once by who opens a socket.
//!
//! A ticket is 256 random bits. The store keeps its hash and what it stands for; the ticket itself is nowhere but in the
//! client's hands. Where there are regions it names the one whose store that is (`form.rs`). `endpoint.rs` is the HTTP face.

pub mod endpoint;
mod form;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::credential::Method;
use crate::auth::jwt::Issuers;
use crate::auth::permission::{MissingPermission, RequiredPermission};
use crate::auth::principal::Principal;
use crate::auth::revocation::Revocations;
use crate::auth::verifier::Verifiers;
use crate::clock::{Now, UnixMillis};
use crate::config::secret::Secret;
use crate::config::{self, Config, Route};
use crate::limits::{RateLimiter, network_of};
use crate::rejection::Rejection;
use crate::store::regions::Stores;
use crate::store::{OpenError, Presence, Store, TakeError, TicketFault, TicketHash, TicketRecord};
use crate::telemetry::event::Event;

#[derive(Debug)]
pub struct Tickets {
    config: Arc<Config>,
    issuers: Arc<Issuers>,
    verifiers: Arc<Verifiers>,
    /// The endpoint's path, as verifiers hear it.
    place: Arc<str>,
    revocations: Arc<Revocations>,
    stores: Arc<Stores>,
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
            stores: Arc::new(Stores::open(config)?),
            per_user: Arc::new(RateLimiter::new(config.tickets.rate_per_user, entries)),
            per_address: Arc::new(RateLimiter::new(config.tickets.rate_per_address, entries)),
            config: Arc::clone(config),
        })
    }

    /// By another configuration, over the same stores. Who asks is remembered unless there is another rate.
    pub fn next(&self, config: &Arc<Config>, issuers: Arc<Issuers>) -> Self {
        let entries = config.limits.rate_entries;
        Self {
            issuers,
            verifiers: Arc::default(),
            place: config.tickets.path.as_str().into(),
            revocations: Arc::clone(&self.revocations),
            stores: Arc::clone(&self.stores),
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
        if let Some(route) = &route {
            self.check_required(route, &principal)?;
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
        let ticket = form::random(self.stores.own_name()).ok_or(Rejection::Internal)?;
        self.stores.own().put(TicketHash::of(&ticket), record, now).await.map_err(|error| {
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
        let refused = |fault, ticket: Option<&str>| {
            Event::TicketRedeemRefused { request_id, ticket, peer, route: &route.name, fault }.emit();
            Rejection::InvalidTicket(fault)
        };
        // What is no ticket may be a password: not even its hash is told.
        let region = form::region_of(ticket).map_err(|fault| refused(fault, None))?;
        let hash = TicketHash::of(ticket);
        let name = hash.name();
        let store = self.stores.holding(region).ok_or_else(|| refused(TicketFault::UnknownRegion, Some(name.as_str())))?;
        let record = match store.take(hash, now).await {
            Ok(record) => record,
            Err(TakeError::Fault(fault)) => return Err(refused(fault, Some(name.as_str()))),
            Err(TakeError::Unavailable) => return Err(Rejection::StoreUnavailable),
        };
        check_bindings(&record, route, origin, peer)?;
        Event::TicketRedeemed { request_id, ticket: name.as_str(), user: &record.principal.subject, peer, route: &route.name, region }
            .emit();
        Ok(record.principal)
    }

    /// What [`Tickets::redeem`] would say, and redeems nothing. `Ok(None)`: the store is the memory of another process.
    pub async fn look_at(
        &self,
        ticket: &Secret,
        route: &Route,
        origin: Option<&str>,
        peer: IpAddr,
        now: Now,
    ) -> Result<Option<TicketRecord>, Rejection> {
        let region = form::region_of(ticket).map_err(Rejection::InvalidTicket)?;
        let store = self.stores.holding(region).ok_or(Rejection::InvalidTicket(TicketFault::UnknownRegion))?;
        if matches!(store, Store::Memory(_)) {
            return Ok(None);
        }
        let record = match store.peek(TicketHash::of(ticket), now).await {
            Ok(record) => record,
            Err(TakeError::Fault(fault)) => return Err(Rejection::InvalidTicket(fault)),
            Err(TakeError::Unavailable) => return Err(Rejection::StoreUnavailable),
        };
        check_bindings(&record, route, origin, peer)?;
        Ok(Some(record))
    }

    /// The region that a ticket names; `None`: it names none, or is no ticket.
    pub fn region_of<'a>(&self, ticket: &'a Secret) -> Option<&'a str> {
        form::region_of(ticket).ok().flatten()
    }

    /// Looks at a ticket on behalf of its owner; `None` for anybody else's, and for one that is no longer good.
    pub async fn validate(&self, ticket: &Secret, owner: &Principal, now: Now) -> Result<Option<TicketRecord>, Rejection> {
        let store = form::region_of(ticket).ok().and_then(|region| self.stores.holding(region));
        let Some(store) = store else { return Ok(None) };
        match store.peek(TicketHash::of(ticket), now).await {
            Ok(record) => {
                let theirs = record.principal.subject == owner.subject && record.principal.issuer == owner.issuer;
                Ok(Some(record).filter(|_| theirs))
            }
            Err(TakeError::Fault(_)) => Ok(None),
            Err(TakeError::Unavailable) => Err(Rejection::StoreUnavailable),
        }
    }

    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Housekeeping: forgets what has expired, and looks whether the store is there.
    pub async fn sweep(&self, now: Now) -> Presence {
        let count = self.stores.sweep(now).await;
        if count > 0 {
            Event::TicketsExpired { count }.emit();
        }
        let own = self.stores.own();
        if let Some(count) = own.held() {
            Event::TicketsHeld { count }.emit();
        }
        own.presence()
    }

    /// A ticket that could never open its route is not made. What the path decides is known when it is redeemed. Routes of several
    /// hosts may share a name: one that it opens is enough.
    fn check_required(&self, route: &Route, principal: &Principal) -> Result<(), Rejection> {
        let missing = |one: &Route| {
            let mut fixed = one.require.iter().filter_map(RequiredPermission::fixed);
            fixed.find(|name| !principal.permissions.iter().any(|granted| granted == name)).map(str::to_owned)
        };
        let Some(name) = missing(route) else { return Ok(()) };
        let same = |other: &&Arc<Route>| other.name == route.name && other.auth.contains(&Method::Ticket);
        if self.config.routes.iter().filter(same).any(|other| missing(other).is_none()) {
            return Ok(());
        }
        Err(Rejection::MissingPermission(Box::new(MissingPermission { name, scope: None })))
    }

    fn ticket_route(&self, name: &str) -> Result<Arc<Route>, Rejection> {
        let route = self.config.routes.iter().find(|route| &*route.name == name && route.looks_at(Method::Ticket));
        route.cloned().ok_or(Rejection::InvalidRequest("`route` is the path of a route that takes tickets, as the configuration writes it"))
    }
}

fn check_bindings(record: &TicketRecord, route: &Route, origin: Option<&str>, peer: IpAddr) -> Result<(), Rejection> {
    if record.route.as_ref().is_some_and(|name| *name != route.name) {
        return Err(Rejection::TicketBinding("it was made for another route"));
    }
    if record.origin.as_deref().is_some_and(|bound| origin != Some(bound)) {
        return Err(Rejection::TicketBinding("it was made for another page"));
    }
    if record.address.is_some_and(|bound| bound != peer) {
        return Err(Rejection::TicketBinding("it was made for another address"));
    }
    Ok(())
}

fn lifetime(rules: &config::Tickets, wanted: Option<u64>) -> Result<Duration, Rejection> {
    match wanted.map(Duration::from_secs) {
        None => Ok(rules.ttl),
        Some(Duration::ZERO) => Err(Rejection::InvalidRequest("ttl_seconds is at least 1")),
        Some(ttl) if ttl > rules.max_ttl => Err(Rejection::InvalidRequest("ttl_seconds is more than this server allows")),
        Some(ttl) => Ok(ttl),
    }
}
