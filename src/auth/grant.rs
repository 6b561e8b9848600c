//! What may be opened, for whom and until when.
//!
//! A [`Grant`] can be made only inside `auth`, and dialling an upstream takes one: code that would
//! let the unauthenticated reach an upstream does not compile.
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
    /// The route is public on purpose: nobody in particular.
    Anyone,
    Known {
        /// Boxed: a grant is moved through every stage of an upgrade.
        principal: Box<Principal>,
        method: Method,
        /// When the credential was shown.
        proved_at: UnixMillis,
        /// What the route requires at this path, if anything; whoever renews the grant has it too.
        required: Option<Arc<Required>>,
        /// Who can be asked whether it is still good.
        vouched: Option<Arc<VerifierGrant>>,
    },
}

impl Grant {
    pub(super) fn public(route: Arc<Route>) -> Self {
        Self { route, holder: Holder::Anyone }
    }

    /// Refused where the principal lacks what is required.
    pub(super) fn to(
        route: Arc<Route>,
        required: Option<Arc<Required>>,
        proved: Proved,
        method: Method,
        now: Now,
    ) -> Result<Self, MissingPermission> {
        let Proved { principal, vouched } = proved;
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
                vouched,
            },
        })
    }

    /// The same session's grant by a new credential. The method stays the one that it began with.
    /// `Ok(None)`: nobody in particular has nothing to renew.
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

    /// `None` on a public route.
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

    /// The end of the token, or of what the route's `max_age` makes of it. `None`: a public session
    /// has no end of its own.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { principal, .. } => Some(
                self.latest()
                    .map_or(principal.expires_at, |latest| latest.min(principal.expires_at)),
            ),
        }
    }

    /// What the route's `max_age` makes of the moment when the credential was shown.
    pub fn latest(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { proved_at, .. } => {
                self.route.reauth.max_age.map(|age| *proved_at + age)
            }
        }
    }

    /// What the route requires at its path.
    pub fn required(&self) -> Option<&Arc<Required>> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { required, .. } => required.as_ref(),
        }
    }

    /// The verifier's word that it rests on, where that is asked for again while the session lives.
    pub fn vouched(&self) -> Option<&Arc<VerifierGrant>> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { vouched, .. } => vouched.as_ref(),
        }
    }

    /// Will its holder be asked in the stream, and the stream be read for answers?
    pub fn is_renewed_by_message(&self) -> bool {
        // A certificate is shown in the handshake, not in a message.
        self.route.reauth.mode == ReauthMode::Message
            && self.method().is_some_and(|method| method != Method::Mtls)
    }

    /// Tests of what stands behind a grant need one without the way that leads to it.
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
