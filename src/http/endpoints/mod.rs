//! The paths that Usher answers itself.

pub mod methods;
mod ticket;

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    CACHE_CONTROL, CONTENT_TYPE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use crate::acme::events::ChallengeAnswered;
use crate::auth::ticket::Tickets;
use crate::config::{AcmeChallenge, Config};
use crate::edge::Edge;
use crate::http::request::Request;
use crate::model::origin::Origins;
use crate::net::http1::response;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::upstream::bodies::RequestBody;

/// One of Usher's own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnEndpoint {
    Tickets,
    Methods,
    SigningKeys,
}

impl OwnEndpoint {
    /// Returns the endpoint at this path. `None`: a route decides.
    pub fn at(path: &str, method: &Method, config: &Config, tickets: &Tickets) -> Option<Self> {
        if tickets.owns(path) {
            Some(Self::Tickets)
        } else if path == config.config_path {
            Some(Self::Methods)
        } else if path == config.context.jwks_path && matches!(*method, Method::GET | Method::HEAD)
        {
            Some(Self::SigningKeys)
        } else {
            None
        }
    }

    pub async fn answer(
        self,
        request: &mut Request,
        body: RequestBody,
        edge: &Edge,
    ) -> Response<Bytes> {
        match self {
            Self::Tickets => Box::pin(ticket::answer(request, body, edge)).await,
            Self::Methods => Box::pin(methods::answer(request, edge)).await,
            Self::SigningKeys => signing_keys(edge),
        }
    }

    /// Returns true if a success shows that the request had a good credential.
    pub fn asks_for_credential(self, method: &Method) -> bool {
        self == Self::Tickets && matches!(*method, Method::GET | Method::POST)
    }
}

/// Answers the authority that checks an http-01 challenge: RFC 8555 section 8.3.
pub fn challenge_answer(key_authorization: Bytes, peer: IpAddr) -> Response<Bytes> {
    ChallengeAnswered { challenge: AcmeChallenge::Http01, peer }.emit();
    let mut answer = Response::new(key_authorization);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The seconds are [`crate::config::Context::KEY_SET_MAX_AGE`]: the rotation relies on it.
const CACHE_THE_KEYS: &str = "public, max-age=300";

fn signing_keys(edge: &Edge) -> Response<Bytes> {
    let mut answer = Response::new(edge.signing_keys.load().jwks.clone());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(CACHE_THE_KEYS));
    answer
}

/// Lets a listed page read the answer.
fn allow_origin(origins: &Origins, origin: Option<&str>, headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin
        && origins.allow(origin)
        && let Ok(value) = HeaderValue::from_str(origin)
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("retry-after, x-request-id"),
        );
        if origins.names(origin) {
            // The page may send its cookie.
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

fn preflight(methods: HeaderValue) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, traceparent, tracestate"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

/// Writes a rejection in the form of these endpoints: `{"message", "code", "recoverable",
/// "request_id"}`.
fn refusal(rejection: &Rejection, request_id: &str) -> Response<Bytes> {
    let facts = rejection.facts();
    let mut body = json!({
        "message": rejection.message(),
        "code": facts.code,
        "recoverable": facts.recoverable,
        "request_id": request_id,
    });
    if let (Rejection::TicketsOff(_), Some(fields)) = (rejection, body.as_object_mut()) {
        fields
            .extend(rejection.details().into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    let mut answer = json_answer(facts.status, &body);
    // The other headers of a status are written by the same code as for every other refusal.
    let problem = response::problem(rejection, request_id);
    for (name, value) in problem.headers() {
        if name != CONTENT_TYPE {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    answer
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/api` holds the operations themselves to a running process.
    #[test]
    fn every_endpoint_is_in_the_api_reference() {
        let reference = include_str!("../../../docs/openapi.yaml");
        let defaults = include_str!("../../../config/reference.toml");
        for endpoint in [OwnEndpoint::Tickets, OwnEndpoint::Methods, OwnEndpoint::SigningKeys] {
            let (path, rest) = match endpoint {
                OwnEndpoint::Tickets => ("/websocket/ticket", "/{ticket}/validate"),
                OwnEndpoint::Methods => ("/websocket/config", ""),
                OwnEndpoint::SigningKeys => ("/.well-known/usher/jwks.json", ""),
            };
            assert!(defaults.contains(&format!("path = \"{path}\"")), "{path}");
            for path in [path, &format!("{path}{rest}")] {
                assert!(reference.contains(&format!("\n  {path}:\n")), "{path}");
            }
        }
    }
}
