//! The way of a request to a grant: route, origin, credential, authentication, migration.
//!
//! It is written only here. Upgrades and plain HTTP take all of it. A first message enters at
//! [`Admission::authenticate`]. Usher's own endpoints have no route: see [`Admission::identify`].

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Version};

use super::events;
use super::request::{Request, origin_of};
use super::switch::UpgradeOffer;
use super::witness::{AdmissionStage, AdmissionWitness};
use crate::auth::credential::{Credential, Proof};
use crate::auth::grant::Grant;
use crate::auth::ticket::Tickets;
use crate::auth::{self, Authenticator};
use crate::base::clock::Now;
use crate::config::{self, Route, RouteMatch};
use crate::edge::Edge;
use crate::edge::router::Router;
use crate::migration;
use crate::migration::shadow::{Actual, Shadow, ShadowInput, Shadows};
use crate::migration::uses::LegacyUses;
use crate::model::origin::Origins;
use crate::model::principal::Principal;
use crate::net::http1::head::{has_only_token, has_token};
use crate::rejection::Rejection;
use crate::traces::RequestPhase;
use crate::ws::accept::is_key;

/// The rules by which requests are admitted.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    pub router: &'a Router,
    pub authenticator: &'a Arc<Authenticator>,
    /// `None`: the use of a legacy method is not counted.
    pub legacy_uses: Option<&'a LegacyUses>,
    /// `None`: the credentials of shadow methods stay in the request, and are not judged.
    pub shadows: Option<&'a Arc<Shadows>>,
    pub handshake_timeout: Duration,
    pub is_draining: bool,
}

/// A request that may continue.
#[derive(Debug)]
pub enum Admitted {
    /// The credential is good, or the route is public.
    Granted { grant: Grant, matched: RouteMatch },
    /// The request has no credential, and the route takes one in the first message.
    AwaitsFirstMessage(RouteMatch),
}

impl<'a> Admission<'a> {
    pub fn of(edge: &'a Edge) -> Self {
        Self {
            router: &edge.router,
            authenticator: &edge.authenticator,
            legacy_uses: Some(&edge.legacy_uses),
            shadows: Some(&edge.shadows),
            handshake_timeout: edge.limits.handshake_timeout,
            is_draining: edge.drain.refuses_upgrades(),
        }
    }

    /// Decides whether a request may continue. Facts that are found on the way are stored in the
    /// request, also if it is rejected.
    pub async fn admit<W: AdmissionWitness>(
        &self,
        request: &mut Request,
        witness: &mut W,
    ) -> Result<Admitted, Rejection> {
        if request.is_upgrade() {
            witness.check(AdmissionStage::Upgrade, check_upgrade(&request.parts))?;
        }
        let matched = witness.require(AdmissionStage::Route, self.find_route(request))?;
        let route = &matched.route;
        if request.is_upgrade() && self.is_draining {
            witness.check::<()>(AdmissionStage::Drain, Err(Rejection::Draining))?;
        }
        let credential = take_credential(request, route, witness)?;
        if credential.is_none() && request.takes_first_message(route) {
            return Ok(Admitted::AwaitsFirstMessage(matched));
        }
        let grant = self.authenticate(request, &matched, credential, witness).await?;
        Ok(Admitted::Granted { grant, matched })
    }

    /// Verifies the credential. An upgrade is then checked against the migration of its route.
    pub async fn authenticate<W: AdmissionWitness>(
        &self,
        request: &mut Request,
        matched: &RouteMatch,
        credential: Option<Credential>,
        witness: &mut W,
    ) -> Result<Grant, Rejection> {
        let phase = request.begin_phase(RequestPhase::Authenticate);
        let began = Now::read().mono;
        let presented = request.presented();
        let verdict = self
            .authenticator
            .authenticate(witness, matched, credential, presented, request.deadline)
            .await;
        request.end_phase(phase, verdict.as_ref().err());
        if W::IS_LIVE && request.is_upgrade() {
            request.report_phase(events::Phase::Authenticate, began, verdict.as_ref().err());
        }
        if !request.shadow.is_empty() {
            self.cast_shadow(request, matched, Actual::of(&verdict));
        }
        let grant = witness.require(AdmissionStage::Authenticate, verdict)?;
        request.user = grant.principal().map(|principal| principal.subject.as_str().into());
        if let (Some(trace), Some(issued_in)) = (&request.trace, grant.issued_in()) {
            trace.link_ticket(issued_in);
        }
        if request.is_upgrade() {
            let outcome = migration::admit(
                &grant,
                request.address(),
                self.legacy_uses,
                request.credential_at.wall,
            );
            witness.check(AdmissionStage::Migration, outcome)?;
        }
        Ok(grant)
    }

    /// Identifies the user at one of Usher's own endpoints, which have no route. A cookie counts
    /// from these pages. `Ok(None)`: the request has no credential.
    pub async fn identify<W: AdmissionWitness>(
        &self,
        request: &mut Request,
        tickets: &Tickets,
        pages: &Origins,
        witness: &mut W,
    ) -> Result<Option<Principal>, Rejection> {
        let rules = tickets.rules();
        let taken = take_endpoint_credential(&mut request.parts.headers, rules);
        let credential = witness.check(AdmissionStage::Credential, taken)?;
        let Some(credential) = credential else { return Ok(None) };
        request.method = Some(credential.method);
        witness.record_method(credential.method);
        let page = check_cookie_page(request, pages, &credential);
        witness.check(AdmissionStage::Page, page)?;
        let endpoint = (&rules.credential_verifiers, tickets.path());
        let phase = request.begin_phase(RequestPhase::Authenticate);
        let identified =
            self.authenticator.identify(witness, endpoint, credential, request.presented()).await;
        request.end_phase(phase, identified.as_ref().err());
        let identified = witness.require(AdmissionStage::Authenticate, identified);
        let principal = identified?;
        request.user = Some(principal.subject.as_str().into());
        Ok(Some(principal))
    }

    /// Evaluates the credentials of the shadow methods in the background, without consequences.
    pub fn cast_shadow(&self, request: &mut Request, matched: &RouteMatch, actual: Actual) {
        let Some(shadows) = self.shadows.filter(|_| !request.shadow.is_empty()) else { return };
        let shadow = std::mem::take(&mut request.shadow);
        let scene = ShadowInput {
            authenticator: Arc::clone(self.authenticator),
            matched: matched.clone(),
            request_id: request.request_id.clone(),
            origin: request.origin.clone(),
            peer: request.address(),
            actual,
            deadline: Now::read().mono + self.handshake_timeout,
        };
        shadows.judge(shadow, scene);
    }

    fn find_route(&self, request: &mut Request) -> Result<RouteMatch, Rejection> {
        let matched = self
            .router
            .find(request.host(), request.parts.uri.path())?
            .ok_or(Rejection::NoRoute)?;
        let route = &matched.route;
        request.route = Some(Arc::clone(route));
        if request.is_upgrade() {
            request.switch = Some(UpgradeOffer::of(&request.parts.headers, route));
        }
        Ok(matched)
    }
}

/// Takes the credential out of the request, and checks the page that sent it.
fn take_credential<W: AdmissionWitness>(
    request: &mut Request,
    route: &Route,
    witness: &mut W,
) -> Result<Option<Credential>, Rejection> {
    // Taken before the origin is checked, so that a page that may not connect counts under the
    // method that it tried.
    let (tried, taken) = auth::take_credential_of_any(route, &mut request.parts, |method| {
        witness.record_method(method);
    });
    request.method = tried;
    request.origin = witness.check(AdmissionStage::Origin, origin_of(&request.parts.headers))?;
    let origin = request.origin.as_deref();
    witness.check(AdmissionStage::Origin, auth::check_origin(route, origin))?;
    let credential = witness.check(AdmissionStage::Credential, taken)?;
    let page = auth::check_page(route, credential.as_ref(), origin, request.is_safe());
    witness.check(AdmissionStage::Page, page)?;
    if request.is_upgrade() {
        request.shadow = Shadow::look(route, &mut request.parts);
    }
    if !route.auth.is_empty() && !route.auth.contains(&crate::model::method::Method::Ticket) {
        auth::remove_tickets(&mut request.parts.uri, &route.ticket_parameter)?;
    }
    Ok(credential)
}

/// Checks the page that asks one of Usher's own endpoints. An empty list allows every page to ask,
/// but none to use a cookie.
pub fn check_endpoint_origin<W: AdmissionWitness>(
    request: &mut Request,
    origins: &Origins,
    witness: &mut W,
) -> Result<(), Rejection> {
    request.origin = witness.check(AdmissionStage::Origin, origin_of(&request.parts.headers))?;
    let is_listed = |origin: &str| origins.is_empty() || origins.allow(origin);
    let outcome = match request.origin.as_deref() {
        Some(origin) if !is_listed(origin) => Err(Rejection::ForbiddenOrigin),
        _ => Ok(()),
    };
    witness.check(AdmissionStage::Origin, outcome)
}

/// Checks the page that asks which methods a route takes. A page of any route with credentials may.
pub fn check_asking_origin<W: AdmissionWitness>(
    request: &mut Request,
    tickets: &config::Tickets,
    witness: &mut W,
) -> Result<(), Rejection> {
    // Without a list, every page may ask.
    let is_open = tickets.origins.is_empty();
    let origins = if is_open { &tickets.origins } else { &tickets.asking_origins };
    check_endpoint_origin(request, origins, witness)
}

/// Takes a bearer token, or a cookie with a token or a session id.
fn take_endpoint_credential(
    headers: &mut HeaderMap,
    rules: &config::Tickets,
) -> Result<Option<Credential>, Rejection> {
    use crate::model::method::Method;
    if let Some(token) = auth::take_bearer(headers)? {
        return Ok(Some(Credential { method: Method::Header, proof: Proof::Token(token) }));
    }
    let mut cookie = auth::take_cookie(headers, &rules.token_cookie)?
        .map(|token| Credential { method: Method::Cookie, proof: Proof::Token(token) });
    if rules.credential_verifiers.sessions.is_some() {
        let session = auth::take_cookie(headers, &rules.session_cookie)?
            .map(|id| Credential { method: Method::Session, proof: Proof::Session(id) });
        cookie = cookie.or(session);
    }
    Ok(cookie)
}

/// Refuses a cookie that does not come from a listed page: a page that only `*` allows must not get
/// a ticket for its visitor.
fn check_cookie_page(
    request: &Request,
    pages: &Origins,
    credential: &Credential,
) -> Result<(), Rejection> {
    if credential.method == crate::model::method::Method::Header {
        return Ok(());
    }
    match request.origin.as_deref() {
        Some(origin) if !pages.names(origin) => Err(Rejection::ForbiddenOrigin),
        None if !request.is_safe() => Err(Rejection::MissingOrigin),
        _ => Ok(()),
    }
}

/// Checks that an upgrade is well formed: RFC 6455 section 4.2.1, strict and not configurable.
pub fn check_upgrade(parts: &Parts) -> Result<(), Rejection> {
    let malformed = |why| Err(Rejection::UpgradeMalformed(why));
    let headers = &parts.headers;
    if parts.version == Version::HTTP_2 {
        return check_extended_connect(parts);
    }
    if parts.method != Method::GET {
        return Err(Rejection::UpgradeMethod);
    }
    if parts.version != Version::HTTP_11 {
        return malformed("an upgrade needs HTTP/1.1");
    }
    if !has_only_token(headers, UPGRADE, "websocket") {
        return malformed("this server upgrades only to websocket");
    }
    if !has_token(headers, CONNECTION, "upgrade") {
        return malformed("an upgrade needs 'Connection: Upgrade'");
    }
    if headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
    {
        return malformed("an upgrade must not have a body");
    }
    if headers.contains_key(EXPECT) {
        return malformed("an upgrade must not have an Expect header");
    }
    check_version(headers)?;
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(()),
        _ => malformed("Sec-WebSocket-Key is not one key of 16 bytes"),
    }
}

/// Checks an upgrade over HTTP/2: RFC 8441 section 5. `net/http2/head.rs` has put the protocol into
/// `Upgrade`.
fn check_extended_connect(parts: &Parts) -> Result<(), Rejection> {
    let malformed = |why| Err(Rejection::UpgradeMalformed(why));
    let headers = &parts.headers;
    if parts.method != Method::CONNECT {
        return Err(Rejection::UpgradeMethod);
    }
    if headers.get(UPGRADE).is_none_or(|protocol| protocol.as_bytes() != b"websocket") {
        return malformed("this server upgrades only to websocket");
    }
    if headers.get(CONTENT_LENGTH).is_some() {
        return malformed("an upgrade must not have a body");
    }
    if headers.contains_key(EXPECT) {
        return malformed("an upgrade must not have an Expect header");
    }
    if headers.contains_key(SEC_WEBSOCKET_KEY) {
        return malformed("an upgrade over HTTP/2 has no Sec-WebSocket-Key");
    }
    check_version(headers)
}

fn check_version(headers: &HeaderMap) -> Result<(), Rejection> {
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) if version.as_bytes() == b"13" => Ok(()),
        _ => Err(Rejection::UpgradeVersion),
    }
}
