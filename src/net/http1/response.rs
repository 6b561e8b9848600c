//! The answers that Usher writes itself.

use aws_lc_rs::rand;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::rejection::Rejection;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Marks an answer after which the client needs another connection. Over HTTP/2 its streams go on,
/// and the next request goes to a new connection.
#[derive(Clone, Copy, Debug)]
pub struct LastOfConnection;

/// Writes a rejection as `application/problem+json` (RFC 9457), with Usher's `code`, `recoverable`
/// and `request_id`.
pub fn problem(rejection: &Rejection, request_id: &str) -> Response<Bytes> {
    let facts = rejection.facts();
    let message = rejection.message();
    let body = serde_json::json!({
        "type": "about:blank",
        "title": facts.status.canonical_reason().unwrap_or("Refused"),
        "status": facts.status.as_u16(),
        "detail": message,
        "code": facts.code,
        "message": message,
        "recoverable": facts.recoverable,
        "request_id": request_id,
    });
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = facts.status;
    if matches!(rejection, Rejection::InvalidCertificate(_)) {
        // The client can show another certificate only in another handshake.
        response.extensions_mut().insert(LastOfConnection);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set_request_id(headers, request_id);
    match rejection {
        // RFC 9110 section 15.5.2: a 401 names a scheme. Certificates have no scheme of their own.
        Rejection::MissingCredential | Rejection::InvalidCertificate(_) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // RFC 6750 section 3.1: a revoked token has the same error code.
        Rejection::InvalidToken(_) | Rejection::Revoked(_) => {
            headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer error=\"invalid_token\""),
            );
        }
        // RFC 6750 section 3.1: the scope is the one to request for a new token.
        Rejection::MissingPermission(missing) => {
            if let Some(scope) = &missing.scope
                && let Ok(value) = HeaderValue::from_str(&format!(
                    "Bearer error=\"insufficient_scope\", scope=\"{scope}\""
                ))
            {
                headers.insert(WWW_AUTHENTICATE, value);
            }
        }
        // RFC 6455 section 4.4: the answer names the supported versions.
        Rejection::UpgradeVersion => {
            headers.insert(http::header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        Rejection::UpgradeMethod => {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        Rejection::MethodNotAllowed { allow } => {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        Rejection::RateLimited { retry_after } | Rejection::TooManyUpgrades { retry_after } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        Rejection::StoreUnavailable
        | Rejection::IssuerKeysUnavailable
        | Rejection::VerifierUnavailable(_)
        | Rejection::TooManyConnections
        | Rejection::Draining => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds_apart()));
        }
        _ => {}
    }
    response
}

pub fn set_request_id(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Returns 1 to 10 seconds at random: clients that were refused together do not return together.
fn seconds_apart() -> u64 {
    let mut random = [0];
    // Without randomness all clients wait for the same time.
    let _ = rand::fill(&mut random);
    let [random] = random;
    1 + u64::from(random) * 10 / 256
}

/// Writes an answer without an HTTP library. It says that the connection closes.
pub fn closing(response: &Response<Bytes>) -> Vec<u8> {
    let mut headers = response.headers().clone();
    if headers.contains_key(http::header::UPGRADE) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(response.body().len()));
    let mut wire = head_bytes(response.status(), &headers);
    wire.extend_from_slice(response.body());
    wire
}

pub fn head_bytes(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut wire = Vec::with_capacity(512);
    wire.extend_from_slice(b"HTTP/1.1 ");
    wire.extend_from_slice(status.as_str().as_bytes());
    wire.push(b' ');
    wire.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    wire.extend_from_slice(b"\r\n");
    write_fields(&mut wire, headers);
    wire
}

/// Writes the fields, and the empty line that ends a head.
pub fn write_fields(wire: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_refused_together_are_spread_over_ten_seconds() {
        let wait = || {
            let answer = problem(&Rejection::StoreUnavailable, "r");
            answer.headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap()
        };
        let waits: std::collections::BTreeSet<u64> = (0..2000).map(|_| wait()).collect();
        assert_eq!(waits, (1..=10).collect());
    }
}
