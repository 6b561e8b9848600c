//! The address of a service that Usher asks: an issuer or a verifier.
//!
//! Tokens and keys travel there: https, or plain http to this machine alone, unless the config says
//! that the network in between is trusted.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderValue, Uri};

/// A document that names an address may be of any length, and the address goes into logs.
const MOST_BYTES: usize = 2048;

/// An address that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    written: String,
    /// Path and query.
    target: Uri,
    authority: HeaderValue,
    host: String,
    port: u16,
    is_tls: bool,
    /// Every address that the name has must be of this machine.
    only_loopback: bool,
    server: String,
}

impl ServiceUrl {
    /// `allow_plain`: http to any host.
    pub fn parse(text: &str, allow_plain: bool) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address to ask; write \"https://host/path\"");
        if text.len() > MOST_BYTES {
            return Err(format!("an address has {MOST_BYTES} bytes at most"));
        }
        if text.contains('#') {
            return Err(format!("`{text}` has a fragment, which no server ever sees"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err("an address takes neither a user nor a password".to_owned());
        }
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong());
        }
        if !is_tls && !allow_plain && !names_this_machine(&host) {
            return Err(format!(
                "`{text}` is plain http to another machine: whoever sits in between reads and changes what it says"
            ));
        }
        let target = uri
            .path_and_query()
            .map_or("/", |target| target.as_str())
            .parse()
            .map_err(|_| wrong())?;
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self {
            written: text.to_owned(),
            target,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?,
            server: format!("{scheme}://{}:{port}", authority.host()),
            host,
            port,
            is_tls,
            only_loopback: !is_tls && !allow_plain,
        })
    }

    /// As it was written, whole.
    pub fn written(&self) -> &str {
        &self.written
    }

    pub fn target(&self) -> &Uri {
        &self.target
    }

    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Without the brackets that an IPv6 address has in a URL.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Connections to it serve every place of the same server.
    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn may_be(&self, address: IpAddr) -> bool {
        !self.only_loopback || address.is_loopback()
    }
}

/// Without its query: this goes into logs.
impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.written.split('?').next().unwrap_or_default())
    }
}

/// What `localhost` resolves to is looked at again when it is dialled.
fn names_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_https_or_this_machine() {
        for good in [
            "https://id.example.com/keys?a=b",
            "https://[2001:db8::1]:8443/",
            "http://127.0.0.1:9000/keys",
            "http://localhost/keys",
            "http://[::1]:80",
        ] {
            assert_eq!(
                ServiceUrl::parse(good, false).map(|place| place.written().to_owned()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "http://id.example.com/keys",
            "http://127.0.0.1.example.com/",
            "http://10.0.0.1/",
            "ftp://id.example.com/",
            "https:///keys",
            "/keys",
            "https://ann:secret@id.example.com/",
            "https://id.example.com/#here",
            "",
        ] {
            assert!(ServiceUrl::parse(bad, false).is_err(), "{bad}");
        }
        assert!(ServiceUrl::parse("http://10.0.0.1/", true).is_ok());
        assert!(
            ServiceUrl::parse(&format!("https://a/{}", "a".repeat(2048)), false)
                .is_err_and(|message| message.len() < 100)
        );
    }

    #[test]
    fn the_parts_are_what_goes_onto_the_wire() {
        let place = ServiceUrl::parse("https://[2001:db8::1]/a/b?c", false).unwrap();
        assert_eq!(
            (place.host(), place.port(), place.target().to_string().as_str()),
            ("2001:db8::1", 443, "/a/b?c")
        );
        assert_eq!(place.authority(), "[2001:db8::1]");
        assert_eq!(place.to_string(), "https://[2001:db8::1]/a/b");
        assert_eq!(ServiceUrl::parse("https://a", false).unwrap().target(), "/");
    }
}
