//! Which headers go to the upstream.
//!
//! The client's headers pass unchanged, except: hop-by-hop ones end here, every spelling of a name that the upstream
//! trusts is removed, and the forwarded headers say what we saw ourselves. Ours are set last, so that no `Connection:`
//! token of the client can strip them.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::head::tokens;
use crate::config::{Bypass, Config};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// RFC 9110, section 7.6.1, and what older agents send.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Header names that only Usher may send to an upstream, in their normal form.
#[derive(Debug, Default)]
pub struct ReservedNames(Vec<String>);

/// The connection as the client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub peer: IpAddr,
    /// Is the peer a proxy whose forwarded headers are believed?
    pub trusted: bool,
    pub secure: bool,
    /// The Host header, with its port.
    pub host: &'a str,
}

impl ReservedNames {
    pub fn of(config: &Config) -> Self {
        let own = [&config.context.header, &config.bypass.header, &Bypass::HEADER];
        let mut names: Vec<_> = own.map(|name| normal_form(name.as_str())).to_vec();
        for route in &config.routes {
            names.extend(route.identity_headers.iter().map(|(name, _)| normal_form(name.as_str())));
        }
        Self(names)
    }

    fn contains(&self, name: &HeaderName) -> bool {
        let normal = normal_form(name.as_str());
        self.0.contains(&normal)
    }
}

/// Case, `_`, `-` and `.` count as one: some servers turn each into the other.
fn normal_form(name: &str) -> String {
    name.chars().map(|c| if c == '_' || c == '.' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Prepares a client's headers for the upstream. Who writes an upgrade sets its hop-by-hop headers anew.
pub fn prepare(headers: &mut HeaderMap, reserved: &ReservedNames, seen: Seen<'_>) {
    strip_hop_by_hop(headers);
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| reserved.contains(name) || (is_forwarded(name) && !(seen.trusted && is_usual_spelling(name))))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    set_forwarded(headers, seen);
}

/// What belongs to one connection only, in both directions.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let nominated = tokens(headers, CONNECTION);
    let keeps_trailers = tokens(headers, TE).iter().any(|token| token == "trailers");
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    for token in nominated {
        if let Ok(name) = HeaderName::from_bytes(token.as_bytes())
            && name != HOST
            && name != CONTENT_LENGTH
        {
            headers.remove(name);
        }
    }
    if keeps_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// A proxy that we trust may pass on what its own client spelled oddly.
fn is_usual_spelling(name: &HeaderName) -> bool {
    !name.as_str().contains(['_', '.'])
}

fn is_forwarded(name: &HeaderName) -> bool {
    let normal = normal_form(name.as_str());
    normal.starts_with("x-forwarded-") || normal == "forwarded" || normal == "x-real-ip"
}

fn set_forwarded(headers: &mut HeaderMap, seen: Seen<'_>) {
    let proto = if seen.secure { "https" } else { "http" };
    let peer = seen.peer.to_string();
    let chain = match joined(headers, &X_FORWARDED_FOR) {
        Some(earlier) => format!("{earlier}, {peer}"),
        None => peer.clone(),
    };
    insert(headers, X_FORWARDED_FOR, &chain);
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        insert(headers, X_FORWARDED_PROTO, proto);
    }
    if !headers.contains_key(&X_FORWARDED_HOST) {
        insert(headers, X_FORWARDED_HOST, seen.host);
    }
    let node = match seen.peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(_) => format!("\"[{peer}]\""),
    };
    let element = format!("for={node};host=\"{}\";proto={proto}", seen.host);
    let chain = match joined(headers, &FORWARDED) {
        Some(earlier) => format!("{earlier}, {element}"),
        None => element,
    };
    insert(headers, FORWARDED, &chain);
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whose request it is: the peer, or, behind trusted peers, the last address in `X-Forwarded-For` that is not one of them.
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let chain = joined(headers, &X_FORWARDED_FOR).unwrap_or_default();
    let mut client = peer;
    for hop in chain.rsplit(',') {
        let Ok(address) = hop.trim().parse() else { break };
        client = address;
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn reserved() -> ReservedNames {
        ReservedNames(vec!["x-user-context".to_owned(), "x-user-id".to_owned()])
    }

    fn seen(trusted: bool) -> Seen<'static> {
        Seen { peer: IpAddr::from([192, 0, 2, 7]), trusted, secure: true, host: "chat.example.com" }
    }

    #[test]
    fn every_spelling_of_a_reserved_name_is_removed() {
        let mut sent =
            headers(&[("X-User-Context", "a"), ("x_user_context", "b"), ("X.User-Context", "c"), ("x-user_id", "d"), ("X-Other", "kept")]);
        prepare(&mut sent, &reserved(), seen(false));
        let names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.iter().filter(|name| name.contains("user")).count(), 0, "{names:?}");
        assert_eq!(sent["x-other"], "kept");
    }

    #[test]
    fn a_stranger_s_forwarded_headers_are_replaced() {
        let mut sent = headers(&[
            ("X-Forwarded-For", "10.0.0.1"),
            ("x_forwarded_user", "admin"),
            ("X-Forwarded-Uri", "/x"),
            ("Forwarded", "for=1"),
            ("X-Real-IP", "1.2.3.4"),
        ]);
        prepare(&mut sent, &reserved(), seen(false));
        assert_eq!(sent["x-forwarded-for"], "192.0.2.7");
        assert_eq!(sent["x-forwarded-proto"], "https");
        assert_eq!(sent["forwarded"], "for=192.0.2.7;host=\"chat.example.com\";proto=https");
        assert_eq!(sent.len(), 4);
    }

    #[test]
    fn a_trusted_peer_s_forwarded_headers_are_continued() {
        let mut sent = headers(&[("X-Forwarded-For", "198.51.100.9"), ("X_Forwarded.For", "6.6.6.6"), ("X-Forwarded-Proto", "http")]);
        let trusted = ["192.0.2.0/24".parse().unwrap()];
        assert_eq!(client_address(&sent, seen(true).peer, &trusted), IpAddr::from([198, 51, 100, 9]));
        assert_eq!(client_address(&sent, seen(true).peer, &[]), seen(true).peer);
        prepare(&mut sent, &reserved(), seen(true));
        assert_eq!(sent["x-forwarded-for"], "198.51.100.9, 192.0.2.7");
        assert!(!sent.contains_key("x_forwarded.for"));
        assert_eq!(sent["x-forwarded-proto"], "http");
    }

    #[test]
    fn what_connection_nominates_ends_here_but_never_the_host() {
        let mut sent = headers(&[
            ("Connection", "Upgrade, X-Secret, Host"),
            ("X-Secret", "s"),
            ("Host", "h"),
            ("Upgrade", "websocket"),
            ("TE", "trailers, gzip"),
        ]);
        strip_hop_by_hop(&mut sent);
        assert_eq!(sent.len(), 2);
        assert_eq!((&sent["host"], &sent["te"]), (&HeaderValue::from_static("h"), &HeaderValue::from_static("trailers")));
    }
}
