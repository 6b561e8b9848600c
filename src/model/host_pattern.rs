//! The host pattern of a route.

use std::fmt;

/// A host name such as `chat.example.com`, or `*.example.com` for exactly one label before the
/// name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    Subdomain(String),
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        if let Some((host, port)) = name.rsplit_once(':')
            && !host.contains(':')
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(format!(
                "'{text}' has a port; a host is compared without its port, so write '{host}'"
            ));
        }
        let is_address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok() && !wildcard);
        let is_name = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let well_formed = is_address || is_name;
        if !well_formed {
            return Err(format!(
                "'{text}' is not a host name; write 'chat.example.com' or '*.example.com', without \
                 scheme or port"
            ));
        }
        Ok(if wildcard { Self::Subdomain(name.to_owned()) } else { Self::Exact(name.to_owned()) })
    }

    /// Returns true if the host matches. `host` is in lower case and has no port.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Subdomain(parent) => host
                .strip_suffix(parent.as_str())
                .and_then(|label| label.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Subdomain(parent) => write!(f, "*.{parent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_host_covers_one_label() {
        let host = HostPattern::parse("*.Example.com").unwrap();
        assert!(host.matches("chat.example.com"));
        assert!(
            !host.matches("example.com")
                && !host.matches("a.b.example.com")
                && !host.matches("evilexample.com")
        );
        assert!(HostPattern::parse("https://x").is_err());
    }
}
