//! The host of a request, in the one grammar that is accepted.
//!
//! A name of letters, digits, `-` and `_`, an IPv4 address, or an IPv6 address in brackets, and
//! behind it at most a port of one to five digits. RFC 3986 allows more (an empty name,
//! percent-encoding, `+80`), and servers disagree on what that means.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A host and perhaps a port, as a client wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    text: String,
    name: String,
}

impl Authority {
    /// Parses a host with an optional port. Returns `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (host, port) = match lower.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, behind)) => {
                (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), behind.to_owned())
            }
            None => {
                let end = lower.find(':').unwrap_or(lower.len());
                let (host, behind) = lower.split_at(end);
                (name(host)?, behind.to_owned())
            }
        };
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        Some(Self { text: text.to_owned(), name: host })
    }

    /// Returns the text as it was written, with its port.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the name that selects the route: in lower case, without port and last dot.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Returns true for one to five digits that are a port.
pub fn is_port(text: &str) -> bool {
    let is_short = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_short && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Returns the name without its last dot: `chat.example.com.` is `chat.example.com` to every
/// server.
fn name(host: &str) -> Option<String> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(is_allowed)
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return None;
    }
    // The URL standard reads a name whose last label is a number as an IPv4 address in one of many
    // notations.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(is_hex);
    (!is_number || name.parse::<Ipv4Addr>().is_ok()).then(|| name.to_owned())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_at_most_a_port() {
        for (text, name) in [
            ("Chat.Example.com", "chat.example.com"),
            ("chat.example.com.", "chat.example.com"),
            ("localhost:8080", "localhost"),
            ("my_host-1:65535", "my_host-1"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0::0001]:443", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            let authority = Authority::parse(text).unwrap_or_else(|| panic!("{text} was refused"));
            assert_eq!((authority.name(), authority.as_str()), (name, text));
        }
    }

    #[test]
    fn everything_else_is_not_a_host() {
        let long = "a".repeat(64);
        let longer = "a.".repeat(127) + "a";
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            ":80",
            "localhost:",
            "localhost:+80",
            "localhost:-1",
            "localhost:0",
            "localhost:65536",
            "localhost:000080",
            "localhost:8 0",
            "localhost:80:80",
            "a b",
            "a/b",
            "a@b",
            "a,b",
            "a%41",
            "a\"b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[::1]:+1",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "256.1.1.1",
            "1.2.3",
            "0x7f.1",
            "127.0.0.0x1",
            "2130706433",
            "bücher.example",
            &long,
            &longer,
        ] {
            assert!(Authority::parse(text).is_none(), "{text} was accepted");
        }
    }
}
