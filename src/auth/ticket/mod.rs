//! Tickets: issued to who has a token, redeemed once by who opens a socket.
//!
//! A ticket is 256 random bits. The store keeps its hash and what it stands for; the ticket itself
//! is nowhere but in the client's hands. Where there are regions it names the one whose store that
//! is (`form.rs`). `http/endpoints/ticket.rs` is the HTTP face.

pub mod events;
mod form;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::events::{TicketRedeemRefused, TicketRedeemed, TicketValidated, TicketsHeld};
use crate::base::clock::{Now, UnixMillis};
use crate::base::rate::{RateLimiter, network_of};
use crate::config::{self, Config, Route};
use crate::model::faults::TicketFault;
use crate::model::method::Method;
use crate::model::permission::{MissingPermission, RequiredPermission};
use crate::model::principal::Principal;
use crate::model::request_id::HexId;
use crate::model::secret::Secret;
use crate::rejection::{Rejection, Side, WaysIn};
use crate::store::regions::Stores;
use crate::store::{
    OpenError, Presence, RedeemFault, Store, TakeError, TicketHash, TicketRecord, Validity,
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

/// What a client asks for; every field may be absent.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TicketRequest {
    ttl_seconds: Option<u64>,
    single_use: Option<bool>,
    permissions: Option<Vec<String>>,
    /// A route's path, as the config writes it.
    pub route: Option<String>,
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
pub struct TicketAsker<'a> {
    pub origin: Option<&'a str>,
    pub peer: IpAddr,
    pub traceparent: Option<&'a str>,
}

/// The user and the address that are counted.
struct CountedAsker {
    user: String,
    peer: IpAddr,
    network: IpAddr,
}

impl CountedAsker {
    fn new(principal: &Principal, peer: IpAddr) -> Self {
        // Two issuers may name two people alike.
        let user = format!("{}\u{0}{}", principal.issuer, principal.subject);
        Self { user, peer, network: network_of(peer) }
    }
}

impl Tickets {
    pub fn new(config: &Arc<Config>) -> Result<Self, OpenError> {
        let entries = config.limits.rate_entries;
        Ok(Self {
            path: config.tickets.path.as_str().into(),
            stores: Arc::new(Stores::open(config)?),
            per_user: Arc::new(RateLimiter::new(config.tickets.rate_per_user, entries)),
            per_address: Arc::new(RateLimiter::new(config.tickets.rate_per_address, entries)),
            config: Arc::clone(config),
        })
    }

    /// By another configuration, over the same stores. Who asks is remembered unless there is
    /// another rate.
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

    /// Returns the path as logs may show it: what stands below the endpoint may be a ticket.
    pub fn shown_path<'a>(&'a self, path: &'a str) -> &'a str {
        if self.owns(path) { &self.path } else { path }
    }

    /// Checks the rates, and counts this request against them.
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

    /// A ticket that a server's fault kept back is not counted.
    fn forgive(&self, asker: &CountedAsker) {
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
            self.forgive(&asker);
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
                LimitReached { limit: Limit::Tickets, peer: None }.emit();
            }
            Rejection::StoreUnavailable
        })?;
        Ok(Issued { ticket, route, created_at: now.wall, expires_at, single_use })
    }

    /// Redeems a ticket for a route. Whatever comes of it, a single-use ticket that was found is
    /// spent.
    pub async fn redeem(
        &self,
        ticket: &Secret,
        route: &Route,
        origin: Option<&str>,
        peer: IpAddr,
        request_id: &str,
        now: Now,
    ) -> Result<Principal, Rejection> {
        let refused = |fault: RedeemFault, ticket: Option<&str>, user: Option<&str>| {
            TicketRedeemRefused { request_id, ticket, user, peer, route: &route.name, fault }
                .emit();
            rejection(fault)
        };
        // What is no ticket may be a password: not even its hash is told.
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
        Ok(record.principal)
    }

    /// What [`Tickets::redeem`] would say, and redeems nothing. `Ok(None)`: the store is the memory
    /// of another process.
    pub async fn look_at(
        &self,
        ticket: &Secret,
        route: &Route,
        origin: Option<&str>,
        peer: IpAddr,
        now: Now,
    ) -> Result<Option<TicketRecord>, Rejection> {
        let region = form::region_of(ticket).map_err(Rejection::InvalidTicket)?;
        let store = self
            .stores
            .holding(region)
            .ok_or(Rejection::InvalidTicket(TicketFault::UnknownRegion))?;
        if matches!(store, Store::Memory(_)) {
            return Ok(None);
        }
        let record = store
            .peek(TicketHash::of(ticket), now)
            .await
            .map_err(|error| rejection(error.into()))?;
        check_bindings(&record, route, origin, peer).map_err(rejection)?;
        Ok(Some(record))
    }

    /// The region that a ticket names; `None`: it names none, or is no ticket.
    pub fn region_of<'a>(&self, ticket: &'a Secret) -> Option<&'a str> {
        form::region_of(ticket).ok().flatten()
    }

    /// Looks at a ticket on behalf of its owner; `None` for another user's, and for one that is no
    /// longer good.
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

    /// Housekeeping: forgets what has expired, and looks whether the store is there.
    pub async fn sweep(&self, now: Now) -> Presence {
        self.stores.sweep(now).await;
        let own = self.stores.own();
        if let Some(count) = own.held() {
            TicketsHeld { count }.emit();
        }
        own.presence()
    }

    /// A ticket that could never open its route is not made. What the path decides is known when it
    /// is redeemed. Routes of several hosts may share a name: one that it opens is enough.
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

    /// Refuses where no route takes tickets, or not the one that is named, and says which methods
    /// are offered instead.
    pub fn check_takes_tickets(&self, name: Option<&str>) -> Result<(), Rejection> {
        let is_meant = |route: &&Arc<Route>| name.is_none_or(|name| *route.name == *name);
        let mut meant =
            self.config.routes.iter().filter(|route| !route.auth.is_empty()).filter(is_meant);
        if meant.clone().any(|route| route.looks_at(Method::Ticket)) {
            return Ok(());
        }
        let ways = match (meant.next(), meant.next()) {
            (Some(route), None) => {
                WaysIn { route: Some(route.name.to_string()), methods: offered_to_strangers(route) }
            }
            // A name that no route has is a mistake of the client, as long as another name would
            // do.
            (None, None)
                if self.config.routes.iter().any(|route| route.looks_at(Method::Ticket)) =>
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

/// Returns the methods that anybody may be told of: those that stay, then those that are to go.
/// Test identities and client certificates are nothing that a client could fall back to.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_told_of_no_certificates_and_no_test_identities() {
        let methods = [Method::Query, Method::Mtls, Method::Bypass, Method::Message];
        let offered = without_secrets(&methods, |method| method == Method::Query);
        assert_eq!(offered, [Method::Message, Method::Query]);
        assert_eq!(without_secrets(&[Method::Mtls, Method::Bypass], |_| false), []);
    }
}
