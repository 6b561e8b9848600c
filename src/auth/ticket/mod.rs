//! Tickets: a client with a token gets one, and redeems it once to open a WebSocket.
//!
//! A ticket is 256 random bits. The store keeps the hash of the ticket and its data; only the
//! client has the ticket itself. With regions, the ticket names the region whose store holds it
//! (`form.rs`). The HTTP endpoint is in `http/endpoints/ticket.rs`.

pub mod events;
pub(super) mod form;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::events::{TicketRedeemRefused, TicketRedeemed, TicketValidated, TicketsHeld};
use super::verifier::Proved;
use crate::base::clock::{Now, UnixMillis};
use crate::base::rate::{RateLimiter, network_of};
use crate::config::{self, Config, Route};
use crate::model::faults::TicketFault;
use crate::model::method::Method;
use crate::model::permission::{MissingPermission, RequiredPermission};
use crate::model::principal::Principal;
use crate::model::request_id::HexId;
use crate::model::secret::Secret;
use crate::model::trace_context::TraceContext;
use crate::rejection::{Rejection, Side, WaysIn};
use crate::store::regions::Stores;
use crate::store::{
    RedeemFault, Store, StoreHealth, StoreOpenError, TakeError, TicketHash, TicketRecord, Validity,
};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

#[derive(Debug)]
pub struct Tickets {
    config: Arc<Config>,
    /// The endpoint's path.
    path: Arc<str>,
    stores: Arc<Stores>,
    per_user: Arc<RateLimiter<String>>,
    per_address: Arc<RateLimiter<IpAddr>>,
}

/// The body of a ticket request. Every field may be absent.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TicketRequest {
    ttl_seconds: Option<u64>,
    single_use: Option<bool>,
    permissions: Option<Vec<String>>,
    /// The path of a route, as in the config.
    pub route: Option<String>,
}

/// A ticket as the client gets it.
#[derive(Debug)]
pub struct Issued {
    pub ticket: Secret,
    pub route: Option<Arc<Route>>,
    pub created_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub single_use: bool,
}

/// The origin, address and trace of a ticket request.
#[derive(Clone, Copy, Debug)]
pub struct TicketAsker<'a> {
    pub origin: Option<&'a str>,
    pub peer: IpAddr,
    pub traceparent: Option<&'a str>,
}

/// The user and the address that the rate limits count.
struct CountedAsker {
    user: String,
    peer: IpAddr,
    network: IpAddr,
}

impl CountedAsker {
    fn new(principal: &Principal, peer: IpAddr) -> Self {
        // Two issuers may use the same name for two users.
        let user = format!("{}\u{0}{}", principal.issuer, principal.subject);
        Self { user, peer, network: network_of(peer) }
    }
}

impl Tickets {
    pub fn new(config: &Arc<Config>) -> Result<Self, StoreOpenError> {
        let entries = config.limits.rate_entries;
        Ok(Self {
            path: config.tickets.path.as_str().into(),
            stores: Arc::new(Stores::open(config)?),
            per_user: Arc::new(RateLimiter::new(config.tickets.rate_per_user, entries)),
            per_address: Arc::new(RateLimiter::new(config.tickets.rate_per_address, entries)),
            config: Arc::clone(config),
        })
    }

    /// Returns the tickets of a new configuration with the same stores. The rate limits keep their
    /// counts unless a rate changes.
    pub fn next(&self, config: &Arc<Config>) -> Self {
        let entries = config.limits.rate_entries;
        Self {
            path: config.tickets.path.as_str().into(),
            stores: Arc::clone(&self.stores),
            per_user: self.per_user.next(config.tickets.rate_per_user, entries),
            per_address: self.per_address.next(config.tickets.rate_per_address, entries),
            config: Arc::clone(config),
        }
    }

    /// Returns the path of the endpoint.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Returns the rules of the endpoint.
    pub fn rules(&self) -> &config::Tickets {
        &self.config.tickets
    }

    /// Returns true for the path of the endpoint and for every path below it.
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(&*self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns the path for logs. A path below the endpoint may contain a ticket, so it is
    /// shortened.
    pub fn shown_path<'a>(&'a self, path: &'a str) -> &'a str {
        if self.owns(path) { &self.path } else { path }
    }

    /// Checks the rate limits, and counts this request.
    fn check_rates(&self, asker: &CountedAsker, now: Now) -> Result<(), Rejection> {
        let limited = |limit| {
            move |retry_after| {
                LimitReached { limit, peer: Some(asker.peer) }.emit();
                Rejection::RateLimited { retry_after }
            }
        };
        self.per_address
            .allow(asker.network, now.mono)
            .map_err(limited(Limit::TicketsPerAddress))?;
        self.per_user.allow(asker.user.clone(), now.mono).map_err(limited(Limit::TicketsPerUser))
    }

    /// Removes a request from the counts: it failed because of a server.
    fn refund_rate(&self, asker: &CountedAsker) {
        self.per_address.give_back(&asker.network);
        self.per_user.give_back(&asker.user);
    }

    pub async fn issue(
        &self,
        principal: Principal,
        request: TicketRequest,
        asking: TicketAsker<'_>,
        now: Now,
    ) -> Result<Issued, Rejection> {
        let asker = CountedAsker::new(&principal, asking.peer);
        self.check_rates(&asker, now)?;
        let issued = self.make(principal, request, asking, now).await;
        if issued.as_ref().is_err_and(|rejection| rejection.facts().side != Side::Client) {
            self.refund_rate(&asker);
        }
        issued
    }

    async fn make(
        &self,
        mut principal: Principal,
        request: TicketRequest,
        asking: TicketAsker<'_>,
        now: Now,
    ) -> Result<Issued, Rejection> {
        let rules = &self.config.tickets;
        let single_use = request.single_use.unwrap_or(true);
        if !single_use && !rules.multi_use {
            return Err(Rejection::InvalidRequest("tickets must be single-use on this server"));
        }
        let ttl = lifetime(rules, request.ttl_seconds)?;
        // A ticket expires no later than the token it was made from.
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
                LimitReached { limit: Limit::Tickets, peer: None }.emit();
            }
            Rejection::StoreUnavailable
        })?;
        Ok(Issued { ticket, route, created_at: now.wall, expires_at, single_use })
    }

    /// Redeems a ticket for a route. A single-use ticket that was found is spent, also if it is
    /// then refused.
    pub async fn redeem(
        &self,
        ticket: &Secret,
        route: &Route,
        origin: Option<&str>,
        peer: IpAddr,
        request_id: &str,
        now: Now,
    ) -> Result<Proved, Rejection> {
        let refused = |fault: RedeemFault, ticket: Option<&str>, user: Option<&str>| {
            TicketRedeemRefused { request_id, ticket, user, peer, route: &route.name, fault }
                .emit();
            rejection(fault)
        };
        // A malformed ticket may be a password: not even its hash is logged.
        let region = form::region_of(ticket).map_err(|fault| refused(fault.into(), None, None))?;
        let hash = TicketHash::of(ticket);
        let name = hash.name();
        let name = name.as_str();
        let unknown_region = || refused(TicketFault::UnknownRegion.into(), Some(name), None);
        let store = self.stores.holding(region).ok_or_else(unknown_region)?;
        let record = match store.take(hash, now).await {
            Ok(record) => record,
            Err(error) => return Err(refused(error.into(), Some(name), None)),
        };
        let user = &record.principal.subject;
        if let Err(fault) = check_bindings(&record, route, origin, peer) {
            return Err(refused(fault, Some(name), Some(user)));
        }
        TicketRedeemed { request_id, ticket: name, user, peer, route: &route.name, region }.emit();
        let issued_in = record.traceparent.as_deref().and_then(TraceContext::parse).map(Box::new);
        Ok(Proved { issued_in, ..record.principal.into() })
    }

    /// Checks a ticket like [`Tickets::redeem`], but does not redeem it. `sees_memory` is true in
    /// the process that serves clients. `Ok(None)`: the store is the memory of another process.
    pub async fn inspect(
        &self,
        ticket: &Secret,
        route: &Route,
        origin: Option<&str>,
        peer: IpAddr,
        now: Now,
        sees_memory: bool,
    ) -> Result<Option<TicketRecord>, Rejection> {
        let region = form::region_of(ticket).map_err(Rejection::InvalidTicket)?;
        let store = self
            .stores
            .holding(region)
            .ok_or(Rejection::InvalidTicket(TicketFault::UnknownRegion))?;
        if matches!(store, Store::Memory(_)) && !sees_memory {
            return Ok(None);
        }
        let record = store
            .peek(TicketHash::of(ticket), now)
            .await
            .map_err(|error| rejection(error.into()))?;
        check_bindings(&record, route, origin, peer).map_err(rejection)?;
        Ok(Some(record))
    }

    /// Returns the region that a ticket names. `None`: it names none, or is malformed.
    pub fn region_of<'a>(&self, ticket: &'a Secret) -> Option<&'a str> {
        form::region_of(ticket).ok().flatten()
    }

    /// Checks a ticket for its owner. `None`: the ticket belongs to another user, or is not valid.
    pub async fn validate(
        &self,
        ticket: &Secret,
        owner: &Principal,
        asked: (&str, IpAddr),
        now: Now,
    ) -> Result<Option<TicketRecord>, Rejection> {
        let (request_id, peer) = asked;
        let region = form::region_of(ticket);
        // The name of a malformed ticket is not logged: it may be a password.
        let hash = TicketHash::of(ticket);
        let name = region.is_ok().then(|| hash.name());
        let looked = match region.map(|region| self.stores.holding(region)) {
            Err(fault) => Err(TakeError::Fault(fault)),
            Ok(None) => Err(TakeError::Fault(TicketFault::UnknownRegion)),
            Ok(Some(store)) => store.peek(hash, now).await,
        };
        let is_theirs = |record: &TicketRecord| {
            record.principal.subject == owner.subject && record.principal.issuer == owner.issuer
        };
        let (validity, record) = match looked {
            Ok(record) if is_theirs(&record) => (Validity::Valid, Some(record)),
            Ok(_) => (Validity::OtherUser, None),
            Err(TakeError::Fault(fault)) => (Validity::Fault(fault), None),
            Err(TakeError::Unavailable) => return Err(Rejection::StoreUnavailable),
        };
        TicketValidated {
            request_id,
            ticket: name.as_ref().map(HexId::as_str),
            user: &owner.subject,
            issuer: &owner.issuer,
            peer,
            validity,
        }
        .emit();
        Ok(record)
    }

    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Removes expired tickets, and checks whether the store is available.
    pub async fn sweep(&self, now: Now) -> StoreHealth {
        self.stores.sweep(now).await;
        let own = self.stores.own();
        if let Some(count) = own.held() {
            TicketsHeld { count }.emit();
        }
        own.presence()
    }

    /// Refuses a ticket that could never open its route. Permissions with path parameters are
    /// checked when the ticket is redeemed. Routes of several hosts may share a name: it is enough
    /// if the ticket opens one of them.
    fn check_required(&self, route: &Route, principal: &Principal) -> Result<(), Rejection> {
        let missing = |one: &Route| {
            let mut fixed = one.require.iter().filter_map(RequiredPermission::fixed);
            fixed
                .find(|name| !principal.permissions.iter().any(|granted| granted == name))
                .map(str::to_owned)
        };
        let Some(name) = missing(route) else { return Ok(()) };
        let same =
            |other: &&Arc<Route>| other.name == route.name && other.auth.contains(&Method::Ticket);
        if self.config.routes.iter().filter(same).any(|other| missing(other).is_none()) {
            return Ok(());
        }
        Err(Rejection::MissingPermission(Box::new(MissingPermission { name, scope: None })))
    }

    /// Refuses the request if no route accepts tickets, or not the named one. The rejection has the
    /// methods that are offered instead.
    pub fn check_takes_tickets(&self, name: Option<&str>) -> Result<(), Rejection> {
        let routes = &self.config.routes;
        let is_meant = |route: &&Arc<Route>| name.is_none_or(|name| *route.name == *name);
        let mut meant = routes.iter().filter(|route| !route.auth.is_empty()).filter(is_meant);
        if meant.clone().any(|route| route.looks_at(Method::Ticket)) {
            return Ok(());
        }
        let ways = match (meant.next(), meant.next()) {
            (Some(route), None) => {
                WaysIn { route: Some(route.name.to_string()), methods: offered_to_strangers(route) }
            }
            // If other routes accept tickets, an unknown name is a mistake of the client.
            (None, None)
                if !routes.iter().any(|route| is_meant(&route))
                    && routes.iter().any(|route| route.looks_at(Method::Ticket)) =>
            {
                return Ok(());
            }
            _ => WaysIn { route: name.map(str::to_owned), methods: Vec::new() },
        };
        Err(Rejection::TicketsOff(Box::new(ways)))
    }

    fn ticket_route(&self, name: &str) -> Result<Arc<Route>, Rejection> {
        let route = self
            .config
            .routes
            .iter()
            .find(|route| &*route.name == name && route.looks_at(Method::Ticket));
        route.cloned().ok_or(Rejection::InvalidRequest(
            "`route` must be the path of a route that accepts tickets, as in the configuration",
        ))
    }
}

fn offered_to_strangers(route: &Route) -> Vec<Method> {
    without_secrets(&route.auth, |method| route.migration.is_legacy(method))
}

/// Returns the methods that an unauthenticated client may know: first the current ones, then the
/// legacy ones. Test identities and client certificates are left out, because a client cannot
/// switch to them.
fn without_secrets(methods: &[Method], is_legacy: impl Fn(Method) -> bool) -> Vec<Method> {
    let offered =
        methods.iter().copied().filter(|method| !matches!(method, Method::Bypass | Method::Mtls));
    let (legacy, new): (Vec<_>, Vec<_>) = offered.partition(|method| is_legacy(*method));
    [new, legacy].concat()
}

fn check_bindings(
    record: &TicketRecord,
    route: &Route,
    origin: Option<&str>,
    peer: IpAddr,
) -> Result<(), RedeemFault> {
    if record.route.as_ref().is_some_and(|name| *name != route.name) {
        return Err(RedeemFault::Binding("the ticket was issued for another route"));
    }
    if record.origin.as_deref().is_some_and(|bound| origin != Some(bound)) {
        return Err(RedeemFault::Binding("the ticket was issued for another origin"));
    }
    if record.address.is_some_and(|bound| bound != peer) {
        return Err(RedeemFault::Binding("the ticket was issued for another address"));
    }
    Ok(())
}

fn rejection(fault: RedeemFault) -> Rejection {
    match fault {
        RedeemFault::Ticket(fault) => Rejection::InvalidTicket(fault),
        RedeemFault::Binding(why) => Rejection::TicketBinding(why),
        RedeemFault::StoreUnavailable => Rejection::StoreUnavailable,
    }
}

fn lifetime(rules: &config::Tickets, wanted: Option<u64>) -> Result<Duration, Rejection> {
    match wanted.map(Duration::from_secs) {
        None => Ok(rules.ttl),
        Some(Duration::ZERO) => Err(Rejection::InvalidRequest("ttl_seconds must be at least 1")),
        Some(ttl) if ttl > rules.max_ttl => {
            Err(Rejection::InvalidRequest("ttl_seconds is more than this server allows"))
        }
        Some(ttl) => Ok(ttl),
    }
}
