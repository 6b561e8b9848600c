//! A route, with the parts that come from a request's path.

use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;

use super::Route;
use crate::model::path::{AmbiguousPath, CanonicalPath};
use crate::rejection::Rejection;

#[derive(Clone, Debug)]
pub struct RouteMatch {
    pub route: Arc<Route>,
    pub parameters: Vec<(String, String)>,
    pub upstream_path: Option<String>,
}

impl RouteMatch {
    pub fn with_upstream_path(
        self,
        path: &str,
        canonical: &CanonicalPath,
    ) -> Result<Self, AmbiguousPath> {
        let upstream_path = self.route.upstream_path.of(path, canonical)?;
        Ok(Self { upstream_path, ..self })
    }

    /// `None`: the upstream gets the client's path.
    pub fn upstream_path(&self) -> Option<&str> {
        self.upstream_path.as_deref()
    }

    /// Returns the target of the request to the upstream: its path, and the current query of the
    /// client's request.
    pub fn upstream_target(&self, uri: &Uri) -> Result<Uri, Rejection> {
        let path = self.upstream_path.as_deref().unwrap_or_else(|| uri.path());
        let target = match uri.query() {
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
            None => PathAndQuery::try_from(path),
        };
        target
            .map(Uri::from)
            .map_err(|_| Rejection::AmbiguousRequest("the request target is not well formed"))
    }
}
