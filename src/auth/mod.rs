//! Authentication: it identifies the client, and grants access to a route.
//!
//! A credential is taken out of the request once, by the first method of the route that finds one.
//! It becomes a principal, and the principal becomes a [`Grant`]. An invalid credential is a
//! rejection: no weaker method is tried with the same request.

pub mod bypass;
pub mod certificate;
pub mod checks;
pub mod credential;
pub mod events;
pub mod extract;
pub mod first_message;
pub mod grant;
pub mod identity_header;
pub mod issuer_keys;
pub mod jwt;
pub mod prover;
pub mod remote_keys;
pub mod renewal;
pub mod revocation;
pub mod ticket;
pub mod token_inspection;
pub mod verifier;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use self::events::BypassUsed;
use crate::auth::ticket::Tickets;
use crate::base::clock::Now;
use crate::config;
use crate::config::RouteMatch;
use crate::model::faults::InvalidToken;
use crate::model::method::Method;
use crate::model::permission::Required;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::model::verifier_fault::VerifierFault;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use credential::{Credential, Proof};
pub(crate) use extract::decoded;
pub use extract::{remove_tickets, take_bearer, take_cookie, take_credential_of_any};
use grant::Grant;
use jwt::Issuers;
use prover::Prover;
use revocation::Revocations;
use verifier::{Proved, Verifiers};

#[derive(Debug)]
pub struct Authenticator {
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) tickets: Arc<Tickets>,
    revocations: Arc<Revocations>,
    pub(crate) bypass: Option<config::Bypass>,
    verifiers: Arc<Verifiers>,
    pub(crate) mtls: config::Mtls,
}

/// The request in which a credential was sent.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    pub request_id: &'a str,
    pub origin: Option<&'a str>,
    pub peer: IpAddr,
    pub now: Now,
}

impl Authenticator {
    pub fn new(
        issuers: Arc<Issuers>,
        tickets: Arc<Tickets>,
        revocations: Arc<Revocations>,
        mtls: config::Mtls,
    ) -> Self {
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

    /// Verifies a credential and makes the grant for its route. Refuses a credential that is not
    /// verified by the deadline.
    pub async fn authenticate<P: Prover>(
        &self,
        prover: &mut P,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
        deadline: Instant,
    ) -> Result<Grant, Rejection> {
        let late = self.timeout_rejection(&matched.route, credential.as_ref());
        let granting = self.grant(prover, matched, credential, presented);
        timeout_at(deadline, granting).await.map_err(|_| late)?
    }

    /// Returns the principal of a credential, without consequences for the client.
    pub async fn judge<P: Prover>(
        &self,
        prover: &mut P,
        matched: &RouteMatch,
        credential: Credential,
        presented: Presented<'_>,
        deadline: Instant,
    ) -> Result<Principal, Rejection> {
        let late = self.timeout_rejection(&matched.route, Some(&credential));
        let judging = async {
            if matched.route.auth.is_empty() {
                let proved = prover.prove(self, &matched.route, credential, presented).await?;
                return Ok(proved.principal);
            }
            let grant = self.grant(prover, matched, Some(credential), presented).await?;
            grant.principal().cloned().ok_or(Rejection::Internal)
        };
        timeout_at(deadline, judging).await.map_err(|_| late)?
    }

    /// Returns the rejection of a credential that is not verified by the deadline. It names the
    /// service that verifies credentials of this kind.
    fn timeout_rejection(
        &self,
        route: &config::Route,
        credential: Option<&Credential>,
    ) -> Rejection {
        match credential.map(|credential| &credential.proof) {
            Some(Proof::Token(token))
                if self.credential_check(route).verifier_of(token).is_none() =>
            {
                Rejection::IssuerKeysUnavailable
            }
            Some(Proof::Token(_) | Proof::Session(_)) => {
                Rejection::VerifierUnavailable(VerifierFault::Timeout)
            }
            _ => Rejection::StoreUnavailable,
        }
    }

    /// Identifies the user of a credential at an endpoint of Usher. The endpoint is not a route, so
    /// the result is not a grant.
    pub async fn identify<P: Prover>(
        &self,
        prover: &mut P,
        endpoint: (&config::CredentialVerifiers, &Arc<str>),
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Principal, Rejection> {
        let (credential_verifiers, place) = endpoint;
        let check = CredentialCheck {
            issuers: &self.issuers,
            verifiers: &self.verifiers,
            credential_verifiers,
            place,
        };
        let proved = prover.prove_at_endpoint(self, check, credential, presented).await?;
        Ok(proved.principal)
    }

    /// Verifies a credential at an endpoint of Usher.
    async fn prove_at_endpoint(
        &self,
        check: CredentialCheck<'_>,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let Presented { peer, now, .. } = presented;
        let proved = match credential.proof {
            Proof::Token(token) => check.token(credential.method, &token, peer, now).await?,
            Proof::Session(id) => check.session(&id, peer).await?,
            Proof::Ticket(_) | Proof::Bypass(_) | Proof::Certificate(_) => {
                return Err(Rejection::MissingCredential);
            }
        };
        self.reject_revoked(proved, now)
    }

    /// Makes a grant. This is the only way to get one.
    async fn grant<P: Prover>(
        &self,
        prover: &mut P,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
    ) -> Result<Grant, Rejection> {
        let route = &matched.route;
        if route.auth.is_empty() {
            return Ok(Grant::public(Arc::clone(route)));
        }
        let credential = credential.ok_or(Rejection::MissingCredential)?;
        let method = credential.method;
        let is_bearer = matches!(credential.proof, Proof::Token(_));
        let proved = prover.prove(self, route, credential, presented).await?;
        entitle(matched, proved, method, is_bearer, presented.now)
    }

    /// Verifies a credential for this route. A ticket is redeemed.
    async fn prove(
        &self,
        route: &config::Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let now = presented.now;
        let check = self.credential_check(route);
        let proved = match credential.proof {
            Proof::Ticket(ticket) => {
                self.tickets
                    .redeem(
                        &ticket,
                        route,
                        presented.origin,
                        presented.peer,
                        presented.request_id,
                        now,
                    )
                    .await?
            }
            Proof::Token(token) => {
                check.token(credential.method, &token, presented.peer, now).await?
            }
            Proof::Session(id) => check.session(&id, presented.peer).await?,
            Proof::Bypass(shown) => {
                self.bypassed(route, &shown, presented).map_err(Rejection::InvalidToken)?.into()
            }
            Proof::Certificate(certificate) => certificate
                .principal(&self.mtls, now)
                .map_err(Rejection::InvalidCertificate)?
                .into(),
        };
        self.reject_revoked(proved, now)
    }

    pub(crate) fn reject_revoked(&self, proved: Proved, now: Now) -> Result<Proved, Rejection> {
        match self.revocations.find(&proved.principal, now) {
            None => Ok(proved),
            Some(kind) => Err(Rejection::Revoked(kind)),
        }
    }

    pub(crate) fn credential_check<'a>(&'a self, route: &'a config::Route) -> CredentialCheck<'a> {
        CredentialCheck {
            issuers: &self.issuers,
            verifiers: &self.verifiers,
            credential_verifiers: &route.credential_verifiers,
            place: &route.name,
        }
    }

    /// Identifies a test identity. Logs every use, so that operators notice that test identities
    /// are enabled.
    fn bypassed(
        &self,
        route: &config::Route,
        shown: &Secret,
        presented: Presented<'_>,
    ) -> Result<Principal, InvalidToken> {
        let Presented { request_id, peer, now, .. } = presented;
        let outcome = self
            .bypass
            .as_ref()
            .ok_or(InvalidToken::Bypass)
            .and_then(|bypass| bypass::identify(bypass, shown, now));
        let user = outcome.as_ref().ok().map(|principal| principal.subject.as_str());
        BypassUsed { request_id, peer, route: &route.name, user }.emit();
        outcome
    }
}

/// Makes the grant if the credential gives access to this route at this path.
fn entitle(
    matched: &RouteMatch,
    proved: impl Into<Proved>,
    method: Method,
    is_bearer: bool,
    now: Now,
) -> Result<Grant, Rejection> {
    let required = Required::of(&matched.route.require, &matched.parameters).map(Arc::new);
    let proved = proved.into();
    identity_header::values(&matched.route, &proved.principal)?;
    Grant::to(Arc::clone(&matched.route), required, proved, method, now).map_err(|missing| {
        Rejection::MissingPermission(Box::new(if is_bearer {
            missing
        } else {
            missing.without_scope()
        }))
    })
}

/// The issuers and verifiers for the credentials of one endpoint: a route or the ticket endpoint.
#[derive(Clone, Copy, Debug)]
pub struct CredentialCheck<'a> {
    pub(crate) issuers: &'a Issuers,
    pub(crate) verifiers: &'a Verifiers,
    pub(crate) credential_verifiers: &'a config::CredentialVerifiers,
    pub(crate) place: &'a Arc<str>,
}

impl CredentialCheck<'_> {
    /// Verifies a token with one service: a token that one service refuses is not sent to another.
    pub(crate) async fn token(
        self,
        method: Method,
        token: &Secret,
        peer: IpAddr,
        now: Now,
    ) -> Result<Proved, Rejection> {
        match self.verifier_of(token) {
            Some(verifier) => {
                Box::pin(self.verifiers.prove(verifier, method, token, self.place, peer)).await
            }
            None => Ok(self.issuers.prove(token, now).await?.into()),
        }
    }

    /// Returns the verifier of this token. `None`: the issuers' keys verify it.
    pub(crate) fn verifier_of(&self, token: &Secret) -> Option<&Arc<str>> {
        self.credential_verifiers.tokens.as_ref().filter(|_| {
            !(self.credential_verifiers.opaque_only && jwt::has_the_shape_of_a_jwt(token))
        })
    }

    pub(crate) async fn session(self, id: &Secret, peer: IpAddr) -> Result<Proved, Rejection> {
        // The configuration is refused if the method `session` has no verifier.
        let verifier = self.credential_verifiers.sessions.as_ref().ok_or(Rejection::Internal)?;
        Box::pin(self.verifiers.prove(verifier, Method::Session, id, self.place, peer)).await
    }
}

/// Checks the origin of the page for credentials that browsers send by themselves. They are
/// accepted only with the origin of an allowed page. Exception: a safe method of plain HTTP, for
/// which browsers send no origin. Such a request changes nothing, and browsers hide the response
/// from other pages.
pub fn check_page(
    route: &config::Route,
    credential: Option<&Credential>,
    origin: Option<&str>,
    is_safe: bool,
) -> Result<(), Rejection> {
    match credential {
        Some(credential)
            if credential.method.is_sent_by_browsers() && origin.is_none() && !is_safe =>
        {
            Err(Rejection::MissingOrigin)
        }
        // Browsers and devices send certificates. A browser also sends the origin of the page,
        // which must be in the route's list.
        Some(credential)
            if credential.method == Method::Mtls && origin.is_some() && route.origins.is_none() =>
        {
            Err(Rejection::ForbiddenOrigin)
        }
        // The configuration requires a list of origins for such a method. Without a list, no page
        // is allowed.
        Some(credential) if credential.method.is_sent_by_browsers() && route.origins.is_none() => {
            Err(Rejection::ForbiddenOrigin)
        }
        _ => Ok(()),
    }
}

/// Checks the Origin header. A browser sends the page's origin. Other clients send none, and have
/// no credential that a browser would send by itself.
pub fn check_origin(route: &config::Route, origin: Option<&str>) -> Result<(), Rejection> {
    match (&route.origins, origin) {
        (Some(allowed), Some(origin)) if !allowed.allow(origin) => Err(Rejection::ForbiddenOrigin),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never answers.
    struct Silent;

    impl Prover for Silent {
        async fn prove(
            &mut self,
            _: &Authenticator,
            _: &config::Route,
            _: Credential,
            _: Presented<'_>,
        ) -> Result<Proved, Rejection> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_missed_deadline_names_the_service_that_was_asked() {
        let config = Arc::new(config::for_test("auth = [\"header\"]"));
        let matched = RouteMatch {
            route: Arc::clone(&config.routes[0]),
            parameters: Vec::new(),
            upstream_path: None,
        };
        let authenticator = Authenticator::new(
            Arc::new(Issuers::load(&config.issuers, &[]).unwrap()),
            Arc::new(Tickets::new(&config).unwrap()),
            Arc::new(Revocations::new(1)),
            config.mtls.clone(),
        );
        let presented = Presented {
            request_id: "test",
            origin: None,
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
            now: Now::read(),
        };
        for (proof, expected) in [
            (Proof::Token("token".into()), Rejection::IssuerKeysUnavailable),
            (
                Proof::Session("session".into()),
                Rejection::VerifierUnavailable(VerifierFault::Timeout),
            ),
            (Proof::Ticket("ticket".into()), Rejection::StoreUnavailable),
        ] {
            let credential = Credential { method: Method::Header, proof };
            let deadline = presented.now.mono;
            let judged =
                authenticator.judge(&mut Silent, &matched, credential, presented, deadline).await;
            assert_eq!(judged.unwrap_err(), expected);
        }
    }

    #[test]
    fn what_a_browser_sends_by_itself_needs_the_origin_of_an_allowed_page() {
        const ORIGINS: &str = "\norigins = [\"https://chat.example.com\"]";
        let config = config::for_test(&format!("auth = [\"header\"]{ORIGINS}"));
        let listed = &config.routes[0];
        let config = config::for_test("auth = [\"header\"]");
        let unlisted = &config.routes[0];
        let page = Some("https://chat.example.com");
        let credential = |method| Credential { method, proof: Proof::Token("token".into()) };
        for (route, method, origin, is_safe, expected) in [
            (listed, Method::Cookie, page, false, Ok(())),
            (listed, Method::Cookie, None, true, Ok(())),
            (listed, Method::Cookie, None, false, Err(Rejection::MissingOrigin)),
            (listed, Method::Session, None, false, Err(Rejection::MissingOrigin)),
            (listed, Method::Header, None, false, Ok(())),
            (unlisted, Method::Cookie, page, false, Err(Rejection::ForbiddenOrigin)),
            (unlisted, Method::Cookie, page, true, Err(Rejection::ForbiddenOrigin)),
            (unlisted, Method::Header, page, false, Ok(())),
            (unlisted, Method::Mtls, page, false, Err(Rejection::ForbiddenOrigin)),
            (unlisted, Method::Mtls, None, false, Ok(())),
            (listed, Method::Mtls, page, false, Ok(())),
        ] {
            let checked = check_page(route, Some(&credential(method)), origin, is_safe);
            assert_eq!(checked, expected, "{method:?} {origin:?} {is_safe}");
        }
        assert_eq!(check_page(unlisted, None, None, false), Ok(()));

        let other = Some("https://evil.example.com");
        assert_eq!(check_origin(listed, page), Ok(()));
        assert_eq!(check_origin(listed, other), Err(Rejection::ForbiddenOrigin));
        assert_eq!(check_origin(listed, None), Ok(()));
        assert_eq!(check_origin(unlisted, other), Ok(()));
    }
}
