//! The client of a request, the proxies on the way, and the headers with both for the upstream.
//!
//! A peer in `trusted_peers` names its clients, in `X-Forwarded-*` or in `Forwarded` (RFC 7239).
//! Only one of the two is read: a proxy that writes one of them forwards its client's value of the
//! other. Usher then writes both from the one that it read, so that they agree. Both start with the
//! client: earlier entries were written by peers that are not trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{ForwardingHeader, Listener};
use crate::net::http1::host::{Authority, is_port};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The part of the way of a request that trusted peers name.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// The socket's peer first, the client last. Never empty.
    chain: Vec<IpAddr>,
    is_secure: bool,
    host: Option<String>,
    is_trusted: bool,
}

impl Forwarding {
    /// Reads the headers of a request that came to this listener from this peer. `is_secure` says
    /// whether the peer used TLS.
    pub fn of(
        headers: &HeaderMap,
        host: Option<&Authority>,
        peer: IpAddr,
        is_secure: bool,
        listener: &Listener,
    ) -> Self {
        let mut forwarding = Self {
            chain: vec![peer],
            is_secure,
            host: host.map(|host| host.as_str().to_owned()),
            is_trusted: listener.trusts(peer),
        };
        if forwarding.is_trusted {
            let is_forwarded = match listener.forwarding_header {
                ForwardingHeader::Auto => {
                    headers.contains_key(FORWARDED) && !headers.contains_key(X_FORWARDED_FOR)
                }
                ForwardingHeader::XForwardedFor => false,
                ForwardingHeader::Forwarded => true,
            };
            if is_forwarded {
                forwarding.follow_forwarded(headers, listener);
            } else {
                forwarding.follow_x_forwarded(headers, listener);
            }
        }
        forwarding
    }

    /// Returns the client's address: the first one from the right that is not a trusted peer.
    pub fn client(&self) -> IpAddr {
        self.chain.last().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    pub fn peer(&self) -> IpAddr {
        self.chain.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Returns true if the peer is a trusted proxy.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Returns true if the client used TLS, to this listener or to a trusted peer.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Returns the host that the client asked for, with its port; empty if there is none.
    pub fn host(&self) -> &str {
        self.host.as_deref().unwrap_or_default()
    }

    /// Writes both kinds of headers, and replaces existing ones.
    pub fn write(&self, headers: &mut HeaderMap) {
        let hops = || self.chain.iter().rev();
        let list: Vec<String> = hops().map(IpAddr::to_string).collect();
        let proto = if self.is_secure { "https" } else { "http" };
        insert(headers, X_FORWARDED_FOR, &list.join(", "));
        insert(headers, X_FORWARDED_PROTO, proto);
        let mut elements: Vec<String> =
            hops().map(|element| format!("for={}", node_text(*element))).collect();
        if let Some(first) = elements.first_mut() {
            match &self.host {
                Some(host) => first.push_str(&format!(";host=\"{host}\";proto={proto}")),
                None => first.push_str(&format!(";proto={proto}")),
            }
        }
        insert(headers, FORWARDED, &elements.join(", "));
        match &self.host {
            Some(host) => insert(headers, X_FORWARDED_HOST, host),
            None => drop(headers.remove(X_FORWARDED_HOST)),
        }
        if headers.contains_key(X_REAL_IP) {
            insert(headers, X_REAL_IP, &self.client().to_string());
        }
    }

    fn follow_x_forwarded(&mut self, headers: &HeaderMap, listener: &Listener) {
        let list = joined(headers, &X_FORWARDED_FOR);
        for entry in list.rsplit(',') {
            let Some(address) = node(entry.trim()) else { break };
            self.chain.push(address);
            if !listener.trusts(address) {
                break;
            }
        }
        // Each proxy may add its own entry, or one entry stands for all.
        let hops = self.chain.len() - 1;
        let at_client = |name| {
            let list = joined(headers, &name);
            let entries: Vec<&str> = list.rsplit(',').map(str::trim).collect();
            entries.get(hops.clamp(1, entries.len()) - 1).map(|entry| (*entry).to_owned())
        };
        self.take_peer_values(
            at_client(X_FORWARDED_PROTO).as_deref(),
            at_client(X_FORWARDED_HOST).as_deref(),
        );
    }

    fn follow_forwarded(&mut self, headers: &HeaderMap, listener: &Listener) {
        let list = joined(headers, &FORWARDED);
        for element in elements_from_the_right(&list) {
            let Some(element) = ForwardedElement::parse(element) else { break };
            self.take_peer_values(element.proto, element.host);
            let Some(address) = element.node.and_then(node) else { break };
            self.chain.push(address);
            if !listener.trusts(address) {
                break;
            }
        }
    }

    /// Takes scheme and host from a trusted peer, if they are valid.
    fn take_peer_values(&mut self, proto: Option<&str>, host: Option<&str>) {
        match proto.map(str::to_ascii_lowercase).as_deref() {
            Some("https" | "wss") => self.is_secure = true,
            Some("http" | "ws") => self.is_secure = false,
            _ => {}
        }
        if let Some(host) = host.and_then(Authority::parse) {
            self.host = Some(host.as_str().to_owned());
        }
    }
}

/// The parts of an element of `Forwarded` that Usher uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct ForwardedElement<'a> {
    node: Option<&'a str>,
    proto: Option<&'a str>,
    host: Option<&'a str>,
}

impl<'a> ForwardedElement<'a> {
    /// Reads an element. `None`: it is not well formed (RFC 7239 section 4).
    fn parse(element: &'a str) -> Option<Self> {
        let mut parsed = Self::default();
        for pair in element.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = unquoted(value.trim_end())?;
            let field = match name.trim_start().to_ascii_lowercase().as_str() {
                "for" => &mut parsed.node,
                "proto" => &mut parsed.proto,
                "host" => &mut parsed.host,
                _ => continue,
            };
            if field.replace(value).is_some() {
                return None;
            }
        }
        Some(parsed)
    }
}

/// Returns a token, or the text between two quotes. The values that are used here need no
/// backslash.
fn unquoted(value: &str) -> Option<&str> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    (!inner.is_empty() && !inner.contains(['"', '\\'])).then_some(inner)
}

/// Returns the elements of `Forwarded`, the last one first. In this order an open quote of a client
/// cannot swallow an element that a proxy wrote behind it.
fn elements_from_the_right(list: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let is_comma = move |c: char| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    };
    let mut rest = Some((list, is_comma));
    std::iter::from_fn(move || {
        let (text, mut is_comma) = rest.take()?;
        let cut = text.char_indices().rev().find(|(_, c)| is_comma(*c)).map(|(at, _)| at);
        let Some(cut) = cut else { return Some(text.trim()) };
        let (before, element) = text.split_at(cut);
        rest = Some((before, is_comma));
        Some(element.trim_start_matches(',').trim())
    })
}

/// Reads the address of a node: `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:4711`.
fn node(text: &str) -> Option<IpAddr> {
    let (address, port): (IpAddr, _) = if let Some((address, behind)) =
        text.strip_prefix('[').and_then(|rest| rest.split_once(']'))
    {
        (address.parse::<Ipv6Addr>().ok()?.into(), behind)
    } else if let Ok(address) = text.parse() {
        (address, "")
    } else {
        let (address, port) = text.split_at(text.find(':')?);
        (address.parse::<Ipv4Addr>().ok()?.into(), port)
    };
    let is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    is_good.then(|| address.to_canonical())
}

fn node_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// Joins all lines of a header to one list. A line that is not text counts as an entry that cannot
/// be read.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<_> =
        headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    lines.join(", ")
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::tests::headers;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn listener(header: ForwardingHeader) -> Listener {
        let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
            trusted_peers = [\"10.0.0.0/8\"]\n\
            [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:1\"]\n\
            [[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n";
        let mut config = crate::config::parse(text, None, &|_| None).unwrap().config;
        let mut listener = std::sync::Arc::try_unwrap(config.listeners.remove(0)).unwrap();
        listener.forwarding_header = header;
        listener
    }

    /// Returns the headers that the upstream gets: chain, proto, host, and `Forwarded`.
    fn headers_for(header: ForwardingHeader, fields: &[(&str, &str)]) -> [String; 4] {
        headers_for_peer(PEER, header, fields)
    }

    fn headers_for_peer(
        peer: IpAddr,
        header: ForwardingHeader,
        fields: &[(&str, &str)],
    ) -> [String; 4] {
        let mut sent = headers(fields);
        let host = Authority::parse("inner").unwrap();
        Forwarding::of(&sent, Some(&host), peer, false, &listener(header)).write(&mut sent);
        let line = |name: HeaderName| {
            assert_eq!(sent.get_all(&name).iter().count(), 1, "{name}");
            sent[name].to_str().unwrap().to_owned()
        };
        [line(X_FORWARDED_FOR), line(X_FORWARDED_PROTO), line(X_FORWARDED_HOST), line(FORWARDED)]
    }

    use ForwardingHeader::{Auto, Forwarded as Rfc7239, XForwardedFor};

    #[test]
    fn a_stranger_s_words_are_replaced() {
        let sent = [
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("Forwarded", "for=6.6.6.6;proto=https;host=evil"),
        ];
        for header in [Auto, XForwardedFor, Rfc7239] {
            let headers = headers_for_peer(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), header, &sent);
            assert_eq!(
                headers,
                ["192.0.2.7", "http", "inner", "for=192.0.2.7;host=\"inner\";proto=http"]
            );
        }
    }

    #[test]
    fn the_chain_is_walked_from_the_right_past_trusted_peers_and_starts_with_the_client() {
        for (list, chain) in [
            ("198.51.100.9", "198.51.100.9, 10.0.0.1"),
            ("6.6.6.6, 198.51.100.9", "198.51.100.9, 10.0.0.1"),
            ("6.6.6.6, 198.51.100.9:4711, 10.0.0.2:80", "198.51.100.9, 10.0.0.2, 10.0.0.1"),
            ("[2001:db8::1]:4711", "2001:db8::1, 10.0.0.1"),
            ("2001:DB8::1", "2001:db8::1, 10.0.0.1"),
            ("::ffff:198.51.100.9", "198.51.100.9, 10.0.0.1"),
            ("6.6.6.6, unknown", "10.0.0.1"),
            ("6.6.6.6, 198.51.100.9:port", "10.0.0.1"),
            ("6.6.6.6, 198.51.100.9:0", "10.0.0.1"),
            ("6.6.6.6, [2001:db8::1", "10.0.0.1"),
            ("6.6.6.6,", "10.0.0.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
        ] {
            assert_eq!(headers_for(Auto, &[("X-Forwarded-For", list)])[0], chain, "{list}");
        }
        let lines = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.9, 10.0.0.2")];
        assert_eq!(headers_for(Auto, &lines)[0], "198.51.100.9, 10.0.0.2, 10.0.0.1");
    }

    #[test]
    fn both_headers_say_the_same_of_scheme_and_host() {
        let sent = [
            ("X-Forwarded-For", "198.51.100.9"),
            ("X-Forwarded-Proto", "HTTPS"),
            ("X-Forwarded-Host", "chat.example.com:8443"),
        ];
        let forwarded = "for=198.51.100.9;host=\"chat.example.com:8443\";proto=https, for=10.0.0.1";
        assert_eq!(
            headers_for(Auto, &sent),
            ["198.51.100.9, 10.0.0.1", "https", "chat.example.com:8443", forwarded]
        );
        // Of several entries, the one of the client's own hop counts. Invalid values are ignored.
        for (proto, host, chain, secure) in [
            ("http, https", "evil, a", "6.6.6.6, 198.51.100.9", "https"),
            ("https, http", "a, b", "198.51.100.9, 10.0.0.2", "https"),
            ("wss", "a", "198.51.100.9", "https"),
            ("gopher", "a", "198.51.100.9", "http"),
        ] {
            let headers = headers_for(
                Auto,
                &[
                    ("X-Forwarded-For", chain),
                    ("X-Forwarded-Proto", proto),
                    ("X-Forwarded-Host", host),
                ],
            );
            assert_eq!((headers[1].as_str(), headers[2].as_str()), (secure, "a"), "{proto}");
        }
        assert_eq!(headers_for(Auto, &[("X-Forwarded-Host", "a..b")])[2], "inner");
        assert_eq!(
            headers_for(Auto, &[("X-Forwarded-Proto", "https")])[1],
            "https",
            "without an address, too"
        );
    }

    #[test]
    fn forwarded_is_read_where_it_is_the_one_that_counts() {
        let sent = [(
            "Forwarded",
            "for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https;host=\"chat.example.com\";by=_x",
        )];
        let out = "for=\"[2001:db8::1]\";host=\"chat.example.com\";proto=https, for=10.0.0.1";
        let expected = ["2001:db8::1, 10.0.0.1", "https", "chat.example.com", out];
        assert_eq!(headers_for(Auto, &sent), expected);
        assert_eq!(headers_for(Rfc7239, &sent), expected);
        assert_eq!(headers_for(XForwardedFor, &sent)[0], "10.0.0.1");
        // A proxy that writes one header forwards its client's value of the other.
        let both = [
            ("X-Forwarded-For", "198.51.100.9"),
            ("Forwarded", "for=6.6.6.6;proto=https;host=evil"),
        ];
        assert_eq!(
            headers_for(Auto, &both),
            [
                "198.51.100.9, 10.0.0.1",
                "http",
                "inner",
                "for=198.51.100.9;host=\"inner\";proto=http, for=10.0.0.1"
            ]
        );
        assert_eq!(headers_for(XForwardedFor, &both)[0], "198.51.100.9, 10.0.0.1");
        assert_eq!(headers_for(Rfc7239, &both)[0], "6.6.6.6, 10.0.0.1");
    }

    #[test]
    fn what_a_client_left_open_swallows_nothing_of_the_proxy_s_words() {
        for (list, chain) in [
            ("for=\"6.6.6.6, for=198.51.100.9", "198.51.100.9, 10.0.0.1"),
            ("for=\"x\\\", for=198.51.100.9", "198.51.100.9, 10.0.0.1"),
            (
                "for=6.6.6.6, For=198.51.100.9;Proto=http , FOR=10.0.0.2",
                "198.51.100.9, 10.0.0.2, 10.0.0.1",
            ),
            ("for=6.6.6.6;for=198.51.100.9", "10.0.0.1"),
            ("for=6.6.6.6, for=unknown", "10.0.0.1"),
            ("for=6.6.6.6, for=_hidden", "10.0.0.1"),
            ("for=6.6.6.6, for=", "10.0.0.1"),
            ("for=6.6.6.6, nonsense", "10.0.0.1"),
            ("for=6.6.6.6, proto=https", "10.0.0.1"),
        ] {
            assert_eq!(headers_for(Rfc7239, &[("Forwarded", list)])[0], chain, "{list}");
        }
    }

    #[test]
    fn a_request_without_a_host_tells_none() {
        let mut sent = headers(&[("X-Real-IP", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.9")]);
        Forwarding::of(&sent, None, PEER, false, &listener(Auto)).write(&mut sent);
        assert!(!sent.contains_key(X_FORWARDED_HOST));
        assert_eq!(sent[FORWARDED], "for=198.51.100.9;proto=http, for=10.0.0.1");
        assert_eq!(sent[X_REAL_IP], "198.51.100.9");
    }
}
