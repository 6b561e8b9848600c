//! How a route moves from old methods to new ones.

use http::HeaderValue;

use crate::base::clock::UnixMillis;
use crate::model::method::Method;

#[derive(Debug, Default, PartialEq)]
pub struct Migration {
    /// Methods of the route that will be removed.
    pub legacy: Vec<Method>,
    /// Since when the legacy methods are deprecated, and when they stop working. `deprecated` is
    /// set if `legacy` is not empty.
    pub deprecated: Option<UnixMillis>,
    pub sunset: Option<UnixMillis>,
    /// A page about the change, for readers of the headers.
    pub link: Option<HeaderValue>,
    pub rollout: Rollout,
    /// Checked and counted, without consequence.
    pub shadow: Vec<Method>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Rollout {
    /// Percent of the clients for each method, in order. The sum is at most 100.
    pub shares: Vec<(Method, u8)>,
    pub sticky: Sticky,
    /// Refuse legacy methods to clients in a share.
    pub enforce: bool,
}

/// What decides which clients are in a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    #[default]
    User,
    Address,
}
