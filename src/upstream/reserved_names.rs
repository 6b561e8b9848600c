//! Header names that a client may not send to an upstream.

use crate::config::header_name::normal_form;
use crate::config::{Bypass, Config};

/// Header names that only Usher may send to an upstream, in their normal form.
#[derive(Debug, Default)]
pub struct ReservedNames(pub Vec<String>);

impl ReservedNames {
    pub fn of(config: &Config) -> Self {
        let own = [&config.context.header, &config.bypass.header, &Bypass::HEADER];
        let mut names: Vec<_> = own.map(|name| normal_form(name.as_str()).into_owned()).to_vec();
        for route in &config.routes {
            let of_route = route.identity_headers.iter();
            names.extend(of_route.map(|(name, _)| normal_form(name.as_str()).into_owned()));
        }
        Self(names)
    }

    /// Takes a name in its normal form.
    pub fn contains(&self, normal: &str) -> bool {
        self.0.iter().any(|name| name == normal)
    }
}
