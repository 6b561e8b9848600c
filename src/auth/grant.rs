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
use crate::clock::UnixMillis;
use crate::config::Route;

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
        principal: Principal,
        method: Method,
    },
}

impl Grant {
    pub(super) fn public(route: Arc<Route>) -> Self {
        Self { route, holder: Holder::Anyone }
    }

    pub(super) fn to(route: Arc<Route>, principal: Principal, method: Method) -> Self {
        Self { route, holder: Holder::Known { principal, method } }
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

    /// `None`: a public session has no end of its own.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        self.principal().map(|principal| principal.expires_at)
    }

    /// Tests of what stands behind a grant need one without the way that leads to it.
    #[cfg(test)]
    pub(crate) fn for_test(route: Arc<Route>, principal: Option<Principal>, method: Method) -> Self {
        match principal {
            Some(principal) => Self::to(route, principal, method),
            None => Self::public(route),
        }
    }
}
