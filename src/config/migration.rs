//! How a route is moved from old ways in to new ones.

use http::HeaderValue;

use crate::auth::credential::Method;
use crate::clock::UnixMillis;

#[derive(Debug, Default, PartialEq)]
pub struct Migration {
    /// Methods of the route that are to go.
    pub legacy: Vec<Method>,
    /// Since when they are, and until when they are meant to work. The first is there where `legacy` is.
    pub deprecated: Option<UnixMillis>,
    pub sunset: Option<UnixMillis>,
    /// A page for whoever finds the headers.
    pub link: Option<HeaderValue>,
    pub rollout: Rollout,
    /// Looked at and counted, and nothing else.
    pub shadow: Vec<Method>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Rollout {
    /// Percent of the clients, in the order in which they are cut off the whole. Their sum is at most 100.
    pub shares: Vec<(Method, u8)>,
    pub sticky: Sticky,
    /// Refuse a legacy method to those who are in a share.
    pub enforce: bool,
}

/// What decides who is in a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    #[default]
    User,
    Address,
}
