//! The URL of a service that Usher sends requests to: an issuer or a verifier.
//!
//! Tokens and keys are sent there. So the URL is https, or plain http to this machine. The config
//! can allow plain http for a trusted network.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderValue, Uri};

/// The maximum length of a URL. A URL can come from a remote document, and it goes into logs.
const MOST_BYTES: usize = 2048;

/// A URL that Usher may send requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    written: String,
    /// The path and query.
    target: Uri,
    authority: HeaderValue,
    host: String,
    port: u16,
    is_tls: bool,
    /// The name must resolve to addresses of this machine only.
    only_loopback: bool,
    server: String,
}

impl ServiceUrl {
    /// Parses a URL. `allow_plain` allows http to any host.
    pub fn parse(text: &str, allow_plain: bool) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a URL of a service; write \"https://host/path\"");
        if text.len() > MOST_BYTES {
            return Err(format!("the URL is longer than {MOST_BYTES} bytes"));
        }
        if text.contains('#') {
            return Err(format!("`{text}` has a fragment, which is never sent to a server"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err("the URL must not have a user name or password".to_owned());
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
                "`{text}` is plain http to another machine: the network in between can read and \
                 change the traffic"
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

    /// Returns the whole URL as the configuration has it.
    pub fn written(&self) -> &str {
        &self.written
    }

    pub fn target(&self) -> &Uri {
        &self.target
    }

    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Returns the host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Returns scheme, host and port. URLs of one server share its connections.
    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn may_be(&self, address: IpAddr) -> bool {
        !self.only_loopback || address.is_loopback()
    }
}

/// Writes the URL without its query, for logs.
impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.written.split('?').next().unwrap_or_default())
    }
}

/// The resolved address of `localhost` is checked again when Usher connects.
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
