//! The strict reading of an HTTP/2 request, as `http1/head.rs` does for HTTP/1.1.
//!
//! The library has decoded the fields. It has refused names with capital letters, fields of a
//! connection, pseudo fields that stand twice or behind others, and a missing path. Other
//! heads could still be read in two ways, or be written to the upstream as another request.

use http::header::{COOKIE, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::config::Limits;
use crate::net::http1::head::body_length;
use crate::net::http1::host::Authority;
use crate::rejection::Rejection;

/// The bytes of a field in HTTP/1.1 besides its name and value.
const FIELD_OVERHEAD: usize = 4;

/// A request that has one reading only.
#[derive(Debug)]
pub struct StreamHead {
    /// The head as HTTP/1.1 would carry it: a path as the target, one Host, one Cookie. For an
    /// extended CONNECT, `Upgrade` holds the protocol.
    pub parts: Parts,
    pub host: Authority,
    /// The request is an extended CONNECT (RFC 8441), to a WebSocket or to something else.
    pub is_upgrade: bool,
}

/// Reads the head of a stream.
pub fn read_head(mut parts: Parts, limits: &Limits) -> Result<StreamHead, Rejection> {
    let ambiguous = |why| Err(Rejection::AmbiguousRequest(why));
    let protocol = parts.extensions.remove::<h2::ext::Protocol>();
    if parts.method == Method::CONNECT && protocol.is_none() {
        return ambiguous("this server does not open tunnels");
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded = |value: &HeaderValue| {
        is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
    };
    if parts.headers.values().any(is_padded) {
        return ambiguous("a header begins or ends with a space");
    }
    join_cookies(&mut parts.headers)?;
    check_size(&parts, limits)?;
    body_length(&parts.headers)?;
    if !matches!(parts.uri.scheme_str(), Some("https" | "http")) {
        return ambiguous("a request has a scheme and an authority");
    }
    let host = host_of(&parts)?;
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let is_all = target == "*" && parts.method == Method::OPTIONS;
    if !target.starts_with('/') && !is_all {
        return ambiguous("the request target is not a path");
    }
    let uri: Uri = match target.parse() {
        Ok(uri) => uri,
        Err(_) => return ambiguous("the request target is not well formed"),
    };
    parts.uri = uri;
    let Ok(value) = HeaderValue::from_str(host.as_str()) else {
        return ambiguous("the authority is not a valid host");
    };
    parts.headers.insert(HOST, value);
    let is_upgrade = protocol.is_some();
    if let Some(protocol) = protocol {
        let Ok(name) = HeaderValue::from_str(protocol.as_str()) else {
            return ambiguous("the protocol is not well formed");
        };
        parts.headers.insert(UPGRADE, name);
    }
    Ok(StreamHead { parts, host, is_upgrade })
}

/// Applies the limits of a head, by the bytes that HTTP/1.1 would need for it.
fn check_size(parts: &Parts, limits: &Limits) -> Result<(), Rejection> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
        .sum();
    let bytes = target + authority + fields;
    if bytes > limits.head_bytes
        || target > limits.target_bytes
        || parts.headers.len() > limits.head_fields
    {
        return Err(Rejection::HeadTooLarge);
    }
    Ok(())
}

/// Returns the authority. RFC 9113 section 8.3.1: a Host field that differs from `:authority` is
/// refused.
fn host_of(parts: &Parts) -> Result<Authority, Rejection> {
    let named = parts.uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let host = Authority::parse(named)
        .ok_or(Rejection::AmbiguousRequest("the authority is not a valid host"))?;
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(host),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(named.as_bytes()) => Ok(host),
        _ => Err(Rejection::AmbiguousRequest("the authority and Host name two hosts")),
    }
}

/// Joins the Cookie fields. RFC 9113 section 8.2.3: they "MUST be concatenated into a single octet
/// string" before they are passed to HTTP/1.1.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Rejection> {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
            .map_err(|_| Rejection::AmbiguousRequest("a header is not well formed"))?;
        headers.insert(COOKIE, joined);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::tests::headers;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        parts.version = http::Version::HTTP_2;
        parts.headers = headers(fields);
        parts
    }

    fn read(parts: Parts) -> Result<StreamHead, Rejection> {
        read_head(parts, &crate::config::for_test("auth = [\"header\"]").limits)
    }

    #[test]
    fn a_request_becomes_one_that_http1_can_carry() {
        let cookies = [("cookie", "a=1"), ("cookie", "b=2; c=3"), ("host", "Chat.example.com")];
        let head = read(parts("GET", "https://chat.example.com/ws?a=b", &cookies)).unwrap();
        assert_eq!(head.parts.uri, "/ws?a=b");
        assert_eq!(head.parts.headers["host"], "chat.example.com");
        let joined: Vec<_> = head.parts.headers.get_all("cookie").iter().collect();
        assert_eq!(joined, ["a=1; b=2; c=3"]);
        assert!(!head.is_upgrade);
        let mut connect = parts("CONNECT", "https://chat.example.com/ws", &[]);
        connect.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        let head = read(connect).unwrap();
        assert!(head.is_upgrade);
        assert_eq!(
            (&head.parts.headers["upgrade"], head.host.name()),
            (&HeaderValue::from_static("websocket"), "chat.example.com")
        );
        let crumbs = vec![("cookie", "a=1"); 200];
        let head = read(parts("GET", "https://a/", &crumbs)).unwrap();
        assert_eq!(head.parts.headers.get_all("cookie").iter().count(), 1);
        let all = parts("OPTIONS", "https://a/*", &[]);
        assert!(read(all).is_ok());
    }

    #[test]
    fn a_request_with_two_readings_is_refused() {
        let long = "x".repeat(9000);
        let many: Vec<(String, &str)> = (0..101).map(|n| (format!("x-{n}"), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, *value)).collect();
        for (method, uri, fields) in [
            ("CONNECT", "chat.example.com:443", &[][..]),
            ("GET", "https://chat.example.com/", &[("host", "other.example.com")]),
            ("GET", "https://chat.example.com/", &[("host", "chat.example.com:443")]),
            ("GET", "https://a/", &[("host", "a"), ("host", "a")]),
            ("GET", "/", &[("host", "a")]),
            ("GET", "ftp://a/", &[]),
            ("GET", "https://user@a/", &[]),
            ("GET", "https://a..b/", &[]),
            ("GET", "https://2130706433/", &[]),
            ("GET", "https://a/", &[("x-a", " b")]),
            ("GET", "https://a/", &[("x-a", "b\t")]),
            ("POST", "https://a/", &[("content-length", "0"), ("content-length", "0")]),
            ("POST", "https://a/", &[("content-length", "")]),
            ("GET", "https://a/", &[("x-a", &*long), ("x-b", &*long)]),
            ("GET", "https://a/", &many),
        ] {
            assert!(read(parts(method, uri, fields)).is_err(), "{method} {uri} {fields:?}");
        }
        assert_eq!(
            read(parts("GET", &format!("https://a/{long}"), &[])).unwrap_err(),
            Rejection::HeadTooLarge
        );
    }
}
