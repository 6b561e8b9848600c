//! The answers of the demo's servers.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

const BODY_BYTES: usize = 4 * 1024;

pub type DemoAnswer = Response<Full<Bytes>>;

pub fn content(kind: &'static str, text: &'static str) -> DemoAnswer {
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

pub fn message(status: StatusCode, text: &str) -> DemoAnswer {
    json_answer(status, &json!({ "message": text }))
}

pub fn json_answer(status: StatusCode, body: &Value) -> DemoAnswer {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads a JSON body. Rejects other types: a page of another origin can post a form here, but it
/// cannot send JSON without a preflight request.
pub async fn json_body(request: Request<Incoming>) -> Result<Bytes, DemoAnswer> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = kind
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(message(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be application/json",
        ));
    }
    match Limited::new(request.into_body(), BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(message(StatusCode::BAD_REQUEST, "the body is incomplete or too long")),
    }
}
