//! Who the client is, and what it may open.
//!
//! A credential is taken out of the request once, by the first method of the route that finds one; it becomes a principal,
//! and the principal a [`Grant`]. A credential that is present and wrong is a rejection: no weaker method is tried with the
//! same request.

pub mod algorithm;
pub mod bypass;
pub mod certificate;
pub mod checks;
pub mod credential;
pub mod explain;
pub mod extract;
pub mod first_message;
pub mod grant;
pub mod issuer_keys;
pub mod jwt;
pub mod origin;
pub mod permission;
pub mod principal;
pub mod remote_keys;
pub mod renewal;
pub mod revocation;
pub mod strict_json;
pub mod verifier;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::clock::Now;
use crate::config;
use crate::config::secret::Secret;
use crate::http::route::RouteMatch;
use crate::rejection::Rejection;
use crate::telemetry::event::Event;
use crate::ticket::Tickets;
use credential::{Credential, Method, Proof};
pub(crate) use extract::decoded;
pub use extract::{take_bearer, take_cookie, take_credential};
use grant::Grant;
use jwt::{InvalidToken, Issuers};
use permission::Required;
use principal::Principal;
use revocation::Revocations;
use verifier::{Fault, Proved, Verifiers};

#[derive(Debug)]
pub struct Authenticator {
    issuers: Arc<Issuers>,
    tickets: Arc<Tickets>,
    revocations: Arc<Revocations>,
    bypass: Option<config::Bypass>,
    verifiers: Arc<Verifiers>,
    mtls: config::Mtls,
}

/// What else is known of who asks.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    pub request_id: &'a str,
    pub origin: Option<&'a str>,
    pub peer: IpAddr,
}

impl Authenticator {
    pub fn new(issuers: Arc<Issuers>, tickets: Arc<Tickets>, revocations: Arc<Revocations>, mtls: config::Mtls) -> Self {
        Self { issuers, tickets, revocations, bypass: None, verifiers: Arc::default(), mtls }
    }

    pub fn with_bypass(self, bypass: &config::Bypass) -> Self {
        Self { bypass: Some(bypass.clone()), ..self }
    }

    pub fn with_verifiers(self, verifiers: Arc<Verifiers>) -> Self {
        Self { verifiers, ..self }
    }

    pub fn issuers(&self) -> &Arc<Issuers> {
        &self.issuers
    }

    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The same within a time: a credential that cannot be looked at is not let in.
    pub async fn authenticate_by(
        &self,
        deadline: Instant,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
        now: Now,
    ) -> Result<Grant, Rejection> {
        let late = match credential.as_ref().map(|credential| &credential.proof) {
            Some(Proof::Token(_)) if matched.route.judges.tokens.is_some() => Rejection::VerifierUnavailable(Fault::Timeout),
            Some(Proof::Session(_)) => Rejection::VerifierUnavailable(Fault::Timeout),
            Some(Proof::Token(_)) => Rejection::IssuerKeysUnavailable,
            _ => Rejection::StoreUnavailable,
        };
        let asking = self.authenticate(matched, credential, presented, now);
        timeout_at(deadline, asking).await.map_err(|_| late)?
    }

    /// Who would be let in by this credential, and why nobody would: for looks that have no consequence.
    pub async fn judge_by(
        &self,
        deadline: Instant,
        matched: &RouteMatch,
        credential: Credential,
        presented: Presented<'_>,
        now: Now,
    ) -> Result<Principal, Rejection> {
        let asking = async {
            if matched.route.auth.is_empty() {
                return Ok(self.prove(&matched.route, credential, presented, now).await?.principal);
            }
            let grant = self.authenticate(matched, Some(credential), presented, now).await?;
            grant.principal().cloned().ok_or(Rejection::Internal)
        };
        timeout_at(deadline, asking).await.map_err(|_| Rejection::StoreUnavailable)?
    }

    /// The only way to a grant.
    async fn authenticate(
        &self,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
        now: Now,
    ) -> Result<Grant, Rejection> {
        let route = &matched.route;
        if route.auth.is_empty() {
            return Ok(Grant::public(Arc::clone(route)));
        }
        let credential = credential.ok_or(Rejection::MissingCredential)?;
        let method = credential.method;
        let is_bearer = matches!(credential.proof, Proof::Token(_));
        let proved = self.prove(route, credential, presented, now).await?;
        entitle(matched, proved, method, is_bearer, now)
    }

    /// Who a credential belongs to, on this route.
    async fn prove(&self, route: &config::Route, credential: Credential, presented: Presented<'_>, now: Now) -> Result<Proved, Rejection> {
        let asking = self.asking(route);
        let proved = match credential.proof {
            Proof::Ticket(ticket) => {
                self.tickets.redeem(&ticket, route, presented.origin, presented.peer, presented.request_id, now).await?.into()
            }
            Proof::Token(token) => asking.token(credential.method, &token, presented.peer, now).await?,
            Proof::Session(id) => asking.session(&id, presented.peer).await?,
            Proof::Bypass(shown) => self.bypassed(route, &shown, presented, now).map_err(Rejection::InvalidToken)?.into(),
            Proof::Certificate(certificate) => certificate.principal(&self.mtls, now).map_err(Rejection::InvalidCertificate)?.into(),
        };
        match self.revocations.find(&proved.principal, now.wall) {
            None => Ok(proved),
            Some(kind) => Err(Rejection::Revoked(kind)),
        }
    }

    fn asking<'a>(&'a self, route: &'a config::Route) -> Asking<'a> {
        Asking { issuers: &self.issuers, verifiers: &self.verifiers, judges: &route.judges, place: &route.name }
    }

    /// Loud each time: nobody should find out late that this is on.
    fn bypassed(&self, route: &config::Route, shown: &Secret, presented: Presented<'_>, now: Now) -> Result<Principal, InvalidToken> {
        let Presented { request_id, peer, .. } = presented;
        let outcome = self.bypass.as_ref().ok_or(InvalidToken::Bypass).and_then(|bypass| bypass::identify(bypass, shown, now));
        let user = outcome.as_ref().ok().map(|principal| principal.subject.as_str());
        Event::BypassUsed { request_id, peer, route: &route.name, user }.emit();
        outcome
    }
}

/// Does what the credential gives open this route at this path?
fn entitle(
    matched: &RouteMatch,
    proved: impl Into<Proved>,
    method: credential::Method,
    is_bearer: bool,
    now: Now,
) -> Result<Grant, Rejection> {
    let required = Required::of(&matched.route.require, &matched.parameters).map(Arc::new);
    Grant::to(Arc::clone(&matched.route), required, proved.into(), method, now)
        .map_err(|missing| Rejection::MissingPermission(Box::new(if is_bearer { missing } else { missing.without_scope() })))
}

/// Whoever judges what is shown at one place: a route, or the ticket endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) issuers: &'a Issuers,
    pub(crate) verifiers: &'a Verifiers,
    pub(crate) judges: &'a config::Judges,
    pub(crate) place: &'a Arc<str>,
}

impl Asking<'_> {
    /// One judge alone: what that refuses is not shown to another.
    pub(crate) async fn token(self, method: Method, token: &Secret, peer: IpAddr, now: Now) -> Result<Proved, Rejection> {
        match self.verifier_of(token) {
            Some(verifier) => Box::pin(self.verifiers.prove(verifier, method, token, self.place, peer)).await,
            None => Ok(self.issuers.prove(token, now).await?.into()),
        }
    }

    /// Who is asked about this token; `None`: the issuers' keys tell.
    fn verifier_of(&self, token: &Secret) -> Option<&Arc<str>> {
        self.judges.tokens.as_ref().filter(|_| !(self.judges.opaque_only && jwt::has_the_shape_of_a_jwt(token)))
    }

    pub(crate) async fn session(self, id: &Secret, peer: IpAddr) -> Result<Proved, Rejection> {
        // The config is not taken where nobody knows sessions.
        let verifier = self.judges.sessions.as_ref().ok_or(Rejection::Internal)?;
        Box::pin(self.verifiers.prove(verifier, Method::Session, id, self.place, peer)).await
    }
}

/// A browser sends some credentials whoever asks. They count only together with the name of an allowed page, save where
/// nothing can change and the answer is hidden from other pages: a safe method of plain HTTP, which browsers name no page for.
pub fn check_page(route: &config::Route, credential: Option<&Credential>, origin: Option<&str>, is_safe: bool) -> Result<(), Rejection> {
    match credential {
        Some(credential) if credential.method.is_sent_by_browsers() && origin.is_none() && !is_safe => Err(Rejection::MissingOrigin),
        // A certificate comes from browsers and from devices. A browser names the page, which has to be one of ours.
        Some(credential) if credential.method == Method::Mtls && origin.is_some() && route.origins.is_none() => {
            Err(Rejection::ForbiddenOrigin)
        }
        // The config asks for a list where such a method is. None is nobody's permission.
        Some(credential) if credential.method.is_sent_by_browsers() && route.origins.is_none() => Err(Rejection::ForbiddenOrigin),
        _ => Ok(()),
    }
}

/// A browser names the page's origin; other clients name none, and hold no credential that a browser would send by itself.
pub fn check_origin(route: &config::Route, origin: Option<&str>) -> Result<(), Rejection> {
    match (&route.origins, origin) {
        (Some(allowed), Some(origin)) if !allowed.allow(origin) => Err(Rejection::ForbiddenOrigin),
        _ => Ok(()),
    }
}
