//! Header names that a client may not send to an upstream.

use http::HeaderName;

use crate::config::header_name::normal_form;
use crate::config::{Bypass, Config};

/// Header names that only Usher may send to an upstream, in their normal form.
#[derive(Debug, Default)]
pub struct ReservedNames(pub Vec<String>);

impl ReservedNames {
    pub fn of(config: &Config) -> Self {
        let own = [&config.context.header, &config.bypass.header, &Bypass::HEADER];
        let mut names: Vec<_> = own.map(|name| normal_form(name.as_str())).to_vec();
        for route in &config.routes {
            names.extend(route.identity_headers.iter().map(|(name, _)| normal_form(name.as_str())));
        }
        Self(names)
    }

    pub fn contains(&self, name: &HeaderName) -> bool {
        let normal = normal_form(name.as_str());
        self.0.contains(&normal)
    }
}
