//! The configuration of a route's migration from old methods to new ones.

use http::HeaderValue;

use crate::base::clock::UnixMillis;
use crate::model::method::Method;

#[derive(Debug, Default, PartialEq)]
pub struct Migration {
    /// Methods of the route that will be removed.
    pub legacy: Vec<Method>,
    /// The day from which the legacy methods are deprecated. Set if `legacy` is not empty.
    pub deprecated: Option<UnixMillis>,
    /// The day on which the legacy methods stop working.
    pub sunset: Option<UnixMillis>,
    /// A web page about the change, for the `Link` header.
    pub link: Option<HeaderValue>,
    pub rollout: Rollout,
    /// Methods that are checked and counted, but do not decide.
    pub shadow: Vec<Method>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Rollout {
    /// Percent of the clients for each method, in order. The sum is at most 100.
    pub shares: Vec<(Method, u8)>,
    pub sticky: Sticky,
    /// Whether clients in a share are rejected with a legacy method.
    pub enforce: bool,
}

/// The property that assigns a client to a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    #[default]
    User,
    Address,
}
