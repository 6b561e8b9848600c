//! Headers that belong to one connection, in both directions.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, HOST, LOCATION, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::{has_token, tokens};
use super::response::REQUEST_ID;

/// The fields of RFC 9110 section 7.6.1, and those that older agents send.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Fields that are end-to-end by definition. Fields with one of the [`END_TO_END_PREFIXES`] are
/// too.
const END_TO_END: [&str; 28] = [
    "age",
    "allow",
    "authorization",
    "cache-control",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "host",
    "location",
    "origin",
    "pragma",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "traceparent",
    "tracestate",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-real-ip",
    "x-request-id",
];

const END_TO_END_PREFIXES: [&str; 6] =
    ["accept", "access-control-", "content-", "if-", "sec-", "x-forwarded-"];

/// Fields of an answer that count in its head alone. hyper drops some of them from the trailers of
/// HTTP/1.1, and nothing does so for HTTP/2.
static HEAD_ONLY: [HeaderName; 13] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    LOCATION,
    MAX_FORWARDS,
    SET_COOKIE,
    TRAILER,
    WWW_AUTHENTICATE,
    REQUEST_ID,
];

/// Removes the headers that belong to one connection, and those that `Connection` nominates.
///
/// RFC 9110 section 7.6.1: a sender "MUST NOT send a connection option corresponding to a field
/// that is intended for all recipients of the content". Such an option is ignored: it would remove
/// a field by which Usher judged the request.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = tokens(headers, CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !is_end_to_end(name))
        .collect();
    remove_fields(headers, |name| HOP_BY_HOP.contains(name) || nominated.contains(name));
}

/// Removes all fields whose names are unwanted.
pub fn remove_fields(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> =
        headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Does the same for a request, and tells the upstream if the client accepts trailers.
pub fn strip_from_request(headers: &mut HeaderMap) {
    let takes_trailers = has_token(headers, TE, "trailers");
    strip_hop_by_hop(headers);
    // Trailers are not forwarded to the upstream: see `RequestBody`.
    headers.remove(TRAILER);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn is_end_to_end(name: &HeaderName) -> bool {
    let name = name.as_str();
    END_TO_END.contains(&name) || END_TO_END_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Removes the fields of an answer's trailer section that a client could merge into the head that
/// it has already read.
pub fn strip_from_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    remove_fields(trailers, |name| !may_trail(name));
}

/// Returns false for fields that must not trail. RFC 9110 section 6.5.1 names framing, routing,
/// authentication, content and control data.
fn may_trail(name: &HeaderName) -> bool {
    !HEAD_ONLY.contains(name) && !name.as_str().starts_with("access-control-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::tests::headers;

    #[test]
    fn connection_nominates_what_belongs_to_it_and_nothing_that_was_judged() {
        let mut sent = headers(&[
            (
                "Connection",
                "Upgrade, X-Secret, Host, origin, Sec-WebSocket-Protocol, Sec-WebSocket-Key, \
                 X-Forwarded-For",
            ),
            (
                "Connection",
                "Cookie, Content-Length, X-Request-Id, Forwarded, Authorization, HTTP2-Settings",
            ),
            ("X-Secret", "s"),
            ("Keep-Alive", "5"),
            ("HTTP2-Settings", "AAMAAABkAAQAAP"),
            ("Host", "h"),
            ("Origin", "https://a"),
            ("Sec-WebSocket-Protocol", "chat"),
            ("Sec-WebSocket-Key", "k"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("Cookie", "a=b"),
            ("Content-Length", "0"),
            ("X-Request-Id", "r"),
            ("Forwarded", "for=1.2.3.4"),
            ("Authorization", "Basic x"),
            ("Upgrade", "websocket"),
            ("TE", "trailers, gzip"),
        ]);
        strip_from_request(&mut sent);
        for gone in ["x-secret", "keep-alive", "http2-settings", "upgrade"] {
            assert!(!sent.contains_key(gone), "{gone} is there");
        }
        for kept in [
            "host",
            "origin",
            "sec-websocket-protocol",
            "sec-websocket-key",
            "x-forwarded-for",
            "cookie",
            "content-length",
            "x-request-id",
            "forwarded",
            "authorization",
        ] {
            assert!(sent.contains_key(kept), "{kept} is gone");
        }
        assert_eq!(
            (&sent["te"], &sent["connection"]),
            (&HeaderValue::from_static("trailers"), &HeaderValue::from_static("te"))
        );
    }

    #[test]
    fn an_answer_s_trailers_cannot_do_what_its_head_does() {
        let mut trailers = headers(&[
            ("X-Sum", "42"),
            ("Server-Timing", "total;dur=1"),
            ("Connection", "X-Sum"),
            ("Upgrade", "h2c"),
            ("Set-Cookie", "a=b"),
            ("Access-Control-Allow-Origin", "*"),
            ("X-Request-Id", "r"),
            ("Authorization", "Basic x"),
            ("Cache-Control", "public"),
            ("Content-Encoding", "gzip"),
            ("Content-Length", "0"),
            ("Content-Range", "bytes 0-1/2"),
            ("Content-Type", "text/html"),
            ("Host", "h"),
            ("Max-Forwards", "1"),
            ("Trailer", "x-sum"),
        ]);
        trailers.remove("connection");
        strip_from_trailers(&mut trailers);
        let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-sum", "server-timing"]);
    }
}
