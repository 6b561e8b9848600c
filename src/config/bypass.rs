//! `[bypass]`: a test identity from a header, which a process takes only where its command line says so too.

use http::HeaderName;

use super::Config;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::secret::Secret;
use crate::auth::credential::Method;

#[derive(Clone, Debug)]
pub struct Bypass {
    /// Never passed on, whether it counts or not.
    pub header: HeaderName,
    pub secret: Option<Secret>,
    /// Said by the command line, never by the file.
    pub is_allowed: bool,
}

impl Bypass {
    pub const HEADER: HeaderName = HeaderName::from_static("x-usher-bypass");
}

impl Config {
    /// The routes that a test identity opens.
    pub fn bypass_routes(&self) -> Vec<&str> {
        self.routes.iter().filter(|route| route.auth.contains(&Method::Bypass)).map(|route| &*route.name).collect()
    }

    /// What the command line says about it. Every way to a running config leads through here.
    pub fn allow_bypass(&mut self, is_allowed: bool) -> Result<(), Diagnostics> {
        let routes = self.bypass_routes();
        if !is_allowed && !routes.is_empty() {
            let message = format!("the method `bypass` opens {}, and this process may not take it", routes.join(", "));
            let help = "take `bypass` out of `auth`; where only tests run, start with `usher run --allow-bypass`";
            return Err(Diagnostics(vec![Diagnostic::error(message).help(help)]));
        }
        self.bypass.is_allowed = is_allowed;
        Ok(())
    }
}
