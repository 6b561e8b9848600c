//! The names that the configuration may give to headers that Usher sets.

use std::borrow::Cow;

use http::HeaderName;

/// Names with a meaning in HTTP, in the WebSocket handshake or between proxies, and names of
/// headers that carry credentials. In normal form.
const TAKEN: [&str; 33] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "referer",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "www-authenticate",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];
const TAKEN_PREFIXES: [&str; 3] = ["sec-", "x-forwarded-", "access-control-"];

/// Returns a name in the form in which servers may compare it. Case does not count. `_`, `-` and
/// `.` are the same, because some servers convert one into another.
pub fn normal_form(name: &str) -> Cow<'_, str> {
    // Most names need no copy: a `HeaderName` is in lower case.
    if !name.bytes().any(|byte| matches!(byte, b'_' | b'.' | b'A'..=b'Z')) {
        return Cow::Borrowed(name);
    }
    let normal = |c| if matches!(c, '_' | '.') { '-' } else { c.to_ascii_lowercase() };
    Cow::Owned(name.chars().map(normal).collect())
}

/// Returns true if an upstream may treat the two names as the same.
pub fn is_same(one: &HeaderName, other: &HeaderName) -> bool {
    normal_form(one.as_str()) == normal_form(other.as_str())
}

/// Parses the name of a header that Usher may send to upstreams.
pub fn parse(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{text}` is not a header name"))?;
    let normal = normal_form(text);
    let is_taken =
        TAKEN.contains(&&*normal) || TAKEN_PREFIXES.iter().any(|prefix| normal.starts_with(prefix));
    if is_taken {
        Err(format!("`{text}` has another meaning, so Usher must not set it"))
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_means_something_else_is_refused_in_every_spelling() {
        for name in [
            "Host",
            "HOST",
            "connection",
            "Sec-WebSocket-Key",
            "sec_websocket.protocol",
            "X_Forwarded_For",
            "X-Forwarded-User",
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
        for name in [
            "Transfer_Encoding",
            "authorization",
            "Cookie",
            "X-Request-Id",
            "X.Request_ID",
            "Forwarded",
            "a b",
            "",
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
        for name in ["X-User-Id", "Remote-User", "X-Usher-Bypass", "x_tier"] {
            assert_eq!(parse(name).unwrap(), HeaderName::from_bytes(name.as_bytes()).unwrap());
        }
        assert!(TAKEN.iter().all(|name| normal_form(name) == *name));
    }
}
