//! The web pages that may open a WebSocket.
//!
//! A browser sends the origin of the page, and scripts cannot change it. Other clients send any
//! origin or none. So the check protects the users of browsers, and is not a credential.

use std::fmt;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    allowed: Vec<Origin>,
}

/// The scheme, host and port of a page. The scheme's default port is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origins {
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut origins = Self::default();
        for entry in entries {
            if entry == "*" {
                origins.any = true;
            } else {
                origins.allowed.push(Origin::parse(entry)?);
            }
        }
        Ok(origins)
    }

    /// Returns true if the list has `*`: every page may connect.
    pub fn allows_any(&self) -> bool {
        self.any
    }

    pub fn is_empty(&self) -> bool {
        !self.any && self.allowed.is_empty()
    }

    /// Returns true if a page of this origin may connect. `header` is the Origin header from the
    /// client. `null` (sandboxed frames, files) is never in the list.
    pub fn allow(&self, header: &str) -> bool {
        self.any || Origin::parse(header).is_ok_and(|origin| self.allowed.contains(&origin))
    }

    /// Returns true if the list has this origin itself. `*` does not match here.
    pub fn names(&self, header: &str) -> bool {
        Origin::parse(header).is_ok_and(|origin| self.allowed.contains(&origin))
    }

    pub fn extend(&mut self, other: &Self) {
        self.any |= other.any;
        for origin in &other.allowed {
            if !self.allowed.contains(origin) {
                self.allowed.push(origin.clone());
            }
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = self.any.then(|| "*".to_owned());
        let all: Vec<_> =
            star.into_iter().chain(self.allowed.iter().map(ToString::to_string)).collect();
        f.write_str(&all.join(", "))
    }
}

impl Origin {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is not an origin; write 'https://app.example.com', with a port only if \
                 it is not the default of the scheme"
            )
        };
        let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => 0,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (authority, default_port),
        };
        let scheme_ok = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        let host_ok = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
        if !scheme_ok || !host_ok {
            return Err(wrong());
        }
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) | (_, 0) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_compare_exactly_but_for_case_and_default_port() {
        let origins = Origins::parse(["https://app.example.com", "http://localhost:5173"]).unwrap();
        for good in
            ["https://app.example.com", "https://APP.example.com:443", "http://localhost:5173"]
        {
            assert!(origins.allow(good), "{good}");
        }
        for bad in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.",
            "https://app.example.com.evil.test",
            "https://evilapp.example.com",
            "https://app.example.com/",
            "https://user@app.example.com",
            "null",
            "",
        ] {
            assert!(!origins.allow(bad), "{bad}");
        }
    }

    #[test]
    fn a_star_allows_every_page_even_null() {
        assert!(Origins::parse(["*"]).unwrap().allow("null"));
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets() {
        assert_eq!(Origin::parse("http://[::1]:8080").unwrap().to_string(), "http://[::1]:8080");
        assert_eq!(Origin::parse("http://[::1]").unwrap().to_string(), "http://[::1]");
    }
}
