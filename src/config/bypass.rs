//! `[bypass]`: a test identity from a header. A process accepts test identities only if its command
//! line allows them too.

use std::sync::Arc;

use http::HeaderName;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::locate::Locator;
use super::{Config, Route};
use crate::model::method::Method;
use crate::model::secret::Secret;

#[derive(Clone, Debug)]
pub struct Bypass {
    /// Never sent to an upstream.
    pub header: HeaderName,
    pub secret: Option<Secret>,
    /// Set by the command line, never by the file.
    pub is_allowed: bool,
}

impl Bypass {
    pub const HEADER: HeaderName = HeaderName::from_static("x-usher-bypass");
}

impl Config {
    /// Returns the routes that a test identity opens.
    pub fn bypass_routes(&self) -> Vec<&str> {
        self.routes
            .iter()
            .filter(|route| route.auth.contains(&Method::Bypass))
            .map(|route| &*route.name)
            .collect()
    }

    /// Applies the command line. Every config that serves has passed this function.
    pub fn allow_bypass(&mut self, is_allowed: bool) -> Result<(), Diagnostics> {
        let routes = self.bypass_routes();
        if !is_allowed && !routes.is_empty() {
            let message = format!(
                "the method `bypass` opens {}, but this process does not allow it",
                routes.join(", ")
            );
            let help = "remove `bypass` from `auth`; only for tests, start with \
                        `usher run --allow-bypass`";
            let locator = Locator::new(self.source.as_deref(), self.written.text());
            let is_opened = |route: &Arc<Route>| route.auth.contains(&Method::Bypass);
            let place = self
                .routes
                .iter()
                .position(is_opened)
                .and_then(|index| locator.location(&format!("route.{index}.auth")));
            return Err(Diagnostics(vec![Diagnostic {
                place,
                ..Diagnostic::error(message).help(help)
            }]));
        }
        self.bypass.is_allowed = is_allowed;
        Ok(())
    }
}
