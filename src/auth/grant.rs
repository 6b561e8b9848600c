//! A grant: the permission of a client to open a route until a time.
//!
//! Only code in `auth` can make a [`Grant`], and the function that connects to an upstream takes
//! one. Code that connects an unauthenticated client to an upstream does not compile.
//!
//! ```compile_fail,E0624
//! fn open_to_anyone(route: std::sync::Arc<usher::config::Route>) -> usher::auth::grant::Grant {
//!     usher::auth::grant::Grant::public(route)
//! }
//! ```

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;

use super::verifier::{Proved, VerifierGrant};
use crate::base::clock::{Now, UnixMillis};
use crate::config::{ReauthMode, Route};
use crate::model::method::Method;
use crate::model::permission::{MissingPermission, Required};
use crate::model::principal::Principal;
use crate::model::trace_context::TraceContext;

#[derive(Clone, Debug)]
pub struct Grant {
    route: Arc<Route>,
    holder: Holder,
}

#[derive(Clone, Debug)]
enum Holder {
    /// The route is public on purpose. There is no user.
    Anyone,
    Known {
        /// Boxed, because a grant is moved through every stage of an upgrade.
        principal: Box<Principal>,
        method: Method,
        /// The end from the route's `max_age`, counted from the time when the client sent the
        /// credential.
        latest: Option<UnixMillis>,
        /// The permissions that the route requires at this path. A renewed credential needs them
        /// too.
        required: Option<Arc<Required>>,
        /// The verifier that can check again whether the credential is still valid.
        verifier_grant: Option<Arc<VerifierGrant>>,
        /// The span in which the ticket was issued.
        issued_in: Option<Box<TraceContext>>,
    },
}

impl Grant {
    pub(super) fn public(route: Arc<Route>) -> Self {
        Self { route, holder: Holder::Anyone }
    }

    /// Makes a grant. Refuses a principal that lacks a required permission.
    pub(super) fn to(
        route: Arc<Route>,
        required: Option<Arc<Required>>,
        proved: Proved,
        method: Method,
        now: Now,
    ) -> Result<Self, MissingPermission> {
        let Proved { principal, verifier_grant, issued_in } = proved;
        if let Some(required) = &required {
            required.check(&principal.permissions)?;
        }
        let latest = route.reauth.max_age.map(|age| now.wall + shortened(age));
        Ok(Self {
            route,
            holder: Holder::Known {
                principal: Box::new(principal),
                method,
                latest,
                required,
                verifier_grant,
                issued_in,
            },
        })
    }

    /// Returns the grant of the same session with a new credential. The method stays the original
    /// one. `Ok(None)`: a public session has nothing to renew.
    pub(super) fn renewed(
        &self,
        proved: Proved,
        now: Now,
    ) -> Result<Option<Self>, MissingPermission> {
        match &self.holder {
            Holder::Anyone => Ok(None),
            Holder::Known { method, required, .. } => {
                Self::to(Arc::clone(&self.route), required.clone(), proved, *method, now).map(Some)
            }
        }
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the principal. `None`: the route is public.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { principal, .. } => Some(principal),
        }
    }

    /// Returns the span in which the ticket was issued, if the credential is one.
    pub fn issued_in(&self) -> Option<TraceContext> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { issued_in, .. } => issued_in.as_deref().copied(),
        }
    }

    pub fn method(&self) -> Option<Method> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { method, .. } => Some(*method),
        }
    }

    /// Returns the expiry time: the end of the token, or an earlier end from the route's `max_age`.
    /// `None`: a public session does not expire.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { principal, .. } => Some(
                self.latest()
                    .map_or(principal.expires_at, |latest| latest.min(principal.expires_at)),
            ),
        }
    }

    /// Returns the end from the route's `max_age`. It is up to 10 % earlier, at random.
    pub fn latest(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { latest, .. } => *latest,
        }
    }

    /// Returns the permissions that the route requires at its path.
    pub fn required(&self) -> Option<&Arc<Required>> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { required, .. } => required.as_ref(),
        }
    }

    /// Returns the verifier's answer behind the grant, if the verifier is asked again during the
    /// session.
    pub fn verifier_grant(&self) -> Option<&Arc<VerifierGrant>> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { verifier_grant, .. } => verifier_grant.as_ref(),
        }
    }

    /// Returns true if the client is asked for a new credential in the stream, so that its messages
    /// are read for the answer.
    pub fn is_renewed_by_message(&self) -> bool {
        // A client sends its certificate in the handshake, not in a message.
        self.route.reauth.mode == ReauthMode::Message
            && self.method().is_some_and(|method| method != Method::Mtls)
    }

    /// Makes a grant for tests, without authentication.
    #[cfg(test)]
    pub(crate) fn for_test(
        route: Arc<Route>,
        principal: Option<Principal>,
        method: Method,
    ) -> Self {
        match principal {
            Some(principal) => {
                Self::to(route, None, principal.into(), method, Now::read()).unwrap()
            }
            None => Self::public(route),
        }
    }
}

/// Shortens a `max_age` by up to 10 %, at random. Clients that reconnected together after the
/// restart of a node would otherwise prove their identity together again.
fn shortened(age: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random bytes, the age is not shortened.
    let _ = rand::fill(&mut random);
    age - age.mul_f64(f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_is_shortened_by_up_to_a_tenth_and_never_lengthened() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..1000).map(|_| shortened(age)).collect();
        assert!(ages.iter().all(|one| (age.mul_f64(0.9)..=age).contains(one)));
        let spread = *ages.iter().max().unwrap() - *ages.iter().min().unwrap();
        assert!(spread > Duration::from_secs(50), "{spread:?}");
        assert!(shortened(Duration::ZERO).is_zero());
    }
}
