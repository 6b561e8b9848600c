//! Shadow methods: they are checked, and have no consequences.
//!
//! The client first gets the answer of the route's real methods. Then the result of the shadow
//! methods is counted, with whether it agrees. The check is real: a ticket is redeemed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::request::Parts;
use tokio::time::Instant;

use super::events::{ShadowVerdict, Shadowed};
use crate::auth::credential::Credential;
use crate::auth::grant::Grant;
use crate::auth::prover::Redeeming;
use crate::auth::{self, Authenticator, Presented, extract};
use crate::base::clock::Now;
use crate::config::Route;
use crate::config::RouteMatch;
use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::model::request_id::RequestId;
use crate::rejection::Rejection;
use crate::telemetry::Event;

/// The credentials that the shadow methods of a route found in a request.
#[derive(Debug, Default)]
pub struct Shadow(Vec<(Method, Result<Option<Credential>, Rejection>)>);

/// The shadow checks in progress, and their limit.
#[derive(Debug)]
pub struct Shadows {
    running: AtomicUsize,
    most: AtomicUsize,
}

/// The real decision of the route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actual {
    /// The issuer and the user name. `None` on a public route, where the upstream decides.
    Accepted(Option<(Arc<str>, String)>),
    Refused,
    /// Not decided yet: the first message decides.
    Open,
}

/// A difference between the shadow's decision and the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    WouldRefuse,
    WouldAccept,
    OtherUser,
}

impl Actual {
    pub fn of(outcome: &Result<Grant, Rejection>) -> Self {
        let user =
            |principal: &Principal| (Arc::clone(&principal.issuer), principal.subject.clone());
        outcome.as_ref().map_or(Self::Refused, |grant| Self::Accepted(grant.principal().map(user)))
    }
}

impl Mismatch {
    pub const ALL: [Self; 3] = [Self::WouldRefuse, Self::WouldAccept, Self::OtherUser];

    pub fn name(self) -> &'static str {
        match self {
            Self::WouldRefuse => "would_refuse",
            Self::WouldAccept => "would_accept",
            Self::OtherUser => "other_user",
        }
    }
}

impl Shadow {
    /// Takes the credentials of the shadow methods out of the request, after those of the real
    /// methods. On a public route they stay, because the upstream checks them.
    pub fn look(route: &Route, parts: &mut Parts) -> Self {
        let shadow = &route.migration.shadow;
        if shadow.is_empty() {
            return Self::default();
        }
        let mut copy = None;
        let parts = if route.auth.is_empty() { copy.insert(parts.clone()) } else { parts };
        Self(shadow.iter().map(|method| (*method, extract::take(*method, route, parts))).collect())
    }

    /// Returns each method with its credential.
    pub fn into_found(
        self,
    ) -> impl Iterator<Item = (Method, Result<Option<Credential>, Rejection>)> {
        self.0.into_iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The input of a check, besides the credentials.
#[derive(Debug)]
pub struct ShadowInput {
    pub authenticator: Arc<Authenticator>,
    pub matched: RouteMatch,
    pub request_id: RequestId,
    pub origin: Option<String>,
    pub peer: IpAddr,
    pub actual: Actual,
    pub deadline: Instant,
}

impl Shadows {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), most: AtomicUsize::new(most) })
    }

    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Checks the credentials in a task of its own. The client does not wait for it.
    pub fn judge(self: &Arc<Self>, shadow: Shadow, scene: ShadowInput) {
        if shadow.is_empty() {
            return;
        }
        if self.running.fetch_add(1, Ordering::AcqRel) >= self.most.load(Ordering::Relaxed) {
            self.running.fetch_sub(1, Ordering::AcqRel);
            for (method, _) in shadow.0 {
                Shadowed {
                    route: &scene.matched.route.name,
                    method,
                    verdict: ShadowVerdict::Skipped,
                    mismatch: None,
                }
                .emit();
            }
            return;
        }
        let running = Running(Arc::clone(self));
        tokio::spawn(async move {
            for (method, found) in shadow.0 {
                scene.judge(method, found).await;
            }
            drop(running);
        });
    }
}

struct Running(Arc<Shadows>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ShadowInput {
    async fn judge(&self, method: Method, found: Result<Option<Credential>, Rejection>) {
        let route = &self.matched.route;
        let verdict = match found {
            Ok(None) => {
                return Shadowed {
                    route: &route.name,
                    method,
                    verdict: ShadowVerdict::Absent,
                    mismatch: None,
                }
                .emit();
            }
            Ok(Some(credential)) => self.ask(credential).await,
            Err(rejection) => Err(rejection),
        };
        Shadowed {
            route: &route.name,
            method,
            verdict: verdict
                .as_ref()
                .map_or_else(ShadowVerdict::Rejected, |_| ShadowVerdict::Accepted),
            mismatch: mismatch(&self.actual, &verdict),
        }
        .emit();
    }

    async fn ask(&self, credential: Credential) -> Result<(Arc<str>, String), Rejection> {
        let origin = self.origin.as_deref();
        auth::check_page(&self.matched.route, Some(&credential), origin, false)?;
        let request_id = self.request_id.as_str();
        let presented = Presented { request_id, origin, peer: self.peer, now: Now::read() };
        let principal = self
            .authenticator
            .judge(&mut Redeeming, &self.matched, credential, presented, self.deadline)
            .await?;
        Ok((principal.issuer, principal.subject))
    }
}

fn mismatch(actual: &Actual, verdict: &Result<(Arc<str>, String), Rejection>) -> Option<Mismatch> {
    match (actual, verdict) {
        (Actual::Accepted(_), Err(_)) => Some(Mismatch::WouldRefuse),
        (Actual::Accepted(Some(user)), Ok(other)) if user != other => Some(Mismatch::OtherUser),
        (Actual::Refused, Ok(_)) => Some(Mismatch::WouldAccept),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_held_against_what_really_happened() {
        let user = |name: &str| (Arc::<str>::from("main"), name.to_owned());
        let (ada, nobody) = (Ok(user("ada")), Err(Rejection::MissingCredential));
        let accepted = Actual::Accepted(Some(user("ada")));
        assert_eq!(mismatch(&accepted, &ada), None);
        assert_eq!(mismatch(&accepted, &Ok(user("bob"))), Some(Mismatch::OtherUser));
        assert_eq!(mismatch(&accepted, &nobody), Some(Mismatch::WouldRefuse));
        assert_eq!(mismatch(&Actual::Refused, &ada), Some(Mismatch::WouldAccept));
        assert_eq!(mismatch(&Actual::Refused, &nobody), None);
        assert_eq!(mismatch(&Actual::Accepted(None), &ada), None);
        assert_eq!(mismatch(&Actual::Open, &nobody), None);
    }
}
