//! What may be opened, for whom and until when.
//!
//! A [`Grant`] can be made only inside `auth`, and dialling an upstream takes one: code that would let the
//! unauthenticated reach an upstream does not compile.
//!
//! ```compile_fail,E0624
//! fn open_to_anyone(route: std::sync::Arc<usher::config::Route>) -> usher::auth::grant::Grant {
//!     usher::auth::grant::Grant::public(route)
//! }
//! ```

use std::sync::Arc;

use super::credential::Method;
use super::principal::Principal;
use super::verifier::{Proved, Vouched};
use crate::clock::{Now, UnixMillis};
use crate::config::{ReauthMode, Route};

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
        /// Who can be asked whether it is still good.
        vouched: Option<Arc<Vouched>>,
    },
}

impl Grant {
    pub(super) fn public(route: Arc<Route>) -> Self {
        Self { route, holder: Holder::Anyone }
    }

    pub(super) fn to(route: Arc<Route>, proved: Proved, method: Method, now: Now) -> Self {
        let Proved { principal, vouched } = proved;
        Self { route, holder: Holder::Known { principal: Box::new(principal), method, proved_at: now.wall, vouched } }
    }

    /// The same session's grant by a new credential. The method stays the one that it began with.
    pub(super) fn renewed(&self, proved: Proved, now: Now) -> Self {
        let method = self.method().unwrap_or(Method::Message);
        Self::to(Arc::clone(&self.route), proved, method, now)
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

    /// The end of the token, or of what the route's `max_age` makes of it. `None`: a public session has no end of its own.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { principal, .. } => Some(self.latest().map_or(principal.expires_at, |latest| latest.min(principal.expires_at))),
        }
    }

    /// What the route's `max_age` makes of the moment when the credential was shown.
    pub fn latest(&self) -> Option<UnixMillis> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { proved_at, .. } => self.route.reauth.max_age.map(|age| *proved_at + age),
        }
    }

    /// The verifier's word that it rests on, where that is asked for again while the session lives.
    pub fn vouched(&self) -> Option<&Arc<Vouched>> {
        match &self.holder {
            Holder::Anyone => None,
            Holder::Known { vouched, .. } => vouched.as_ref(),
        }
    }

    /// Will its holder be asked in the stream, and the stream be read for answers?
    pub fn is_renewed_by_message(&self) -> bool {
        self.route.reauth.mode == ReauthMode::Message && self.principal().is_some()
    }

    /// Tests of what stands behind a grant need one without the way that leads to it.
    #[cfg(test)]
    pub(crate) fn for_test(route: Arc<Route>, principal: Option<Principal>, method: Method) -> Self {
        match principal {
            Some(principal) => Self::to(route, principal.into(), method, Now::read()),
            None => Self::public(route),
        }
    }
}
