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

use super::verifier::{Proved, VerifierGrant};
use crate::base::clock::{Now, UnixMillis};
use crate::config::{ReauthMode, Route};
use crate::model::method::Method;
use crate::model::permission::{MissingPermission, Required};
use crate::model::principal::Principal;

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
        /// The time when the client sent the credential.
        proved_at: UnixMillis,
        /// The permissions that the route requires at this path. A renewed credential needs them
        /// too.
        required: Option<Arc<Required>>,
        /// The verifier that can check again whether the credential is still valid.
        verifier_grant: Option<Arc<VerifierGrant>>,
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
        let Proved { principal, verifier_grant } = proved;
        if let Some(required) = &required {
            required.check(&principal.permissions)?;
        }
        Ok(Self {
            route,
            holder: Holder::Known {
                principal: Box::new(principal),
                method,
                proved_at: now.wall,
                required,
                verifier_grant,
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

    /// Returns the end from the route's `max_age`, counted from the time when the client sent the
    /// credential.
    pub fn latest(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { proved_at, .. } => {
                self.route.reauth.max_age.map(|age| *proved_at + age)
            }
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
