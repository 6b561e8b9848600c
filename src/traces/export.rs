//! The requests to the receiver.

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message as _;

use super::proto::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, InstrumentationScope, KeyValue,
    Resource, ResourceSpans, ScopeSpans, Span, Value,
};
use crate::base::clock::{Now, UnixMillis};
use crate::config;
use crate::net::fetch::{FetchConfig, FetchError, Fetched, Fetcher};

/// The version of the semantic conventions that the attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.38.0";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// The longest answer. A good one is empty, or has one sentence.
const MOST_ANSWER: usize = 64 << 10;

/// The receiver of one configuration.
#[derive(Debug)]
pub struct Exporter {
    config: config::Traces,
    resource: Resource,
    fetcher: Fetcher,
}

/// Encoded spans.
#[derive(Debug)]
pub(super) struct Batch {
    body: Bytes,
    pub(super) count: usize,
}

#[derive(Debug)]
pub(super) enum ExportResult {
    /// The receiver has the batch, without the rejected spans.
    Accepted { rejected: usize, message: String },
    /// Another try may succeed.
    Unavailable { error: FetchError, retry_after: Option<Duration> },
    /// Another try would fail too.
    Refused(FetchError),
}

impl Exporter {
    /// Returns an error if `ca_file` holds no authorities.
    pub fn open(config: &config::Traces, node: &str) -> Result<Self, String> {
        let fetcher = Fetcher::new(FetchConfig {
            ca_file: config.ca_file.clone(),
            timeout: config.timeout,
            max_body: MOST_ANSWER,
            max_idle: 1,
        })?;
        let version = env!("CARGO_PKG_VERSION");
        let own = [
            ("service.version", version),
            ("service.instance.id", node),
            ("telemetry.sdk.name", "usher"),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.version", version),
        ];
        let is_written = |key: &str| config.resource.iter().any(|(written, _)| written == key);
        let own = own.iter().filter(|(key, _)| !is_written(key));
        let own = own.map(|(key, value)| KeyValue::text(key, value));
        let written = config.resource.iter();
        let written = written.map(|(key, value)| KeyValue::new(key, Value::Text(value.clone())));
        let resource = Resource { attributes: written.chain(own).collect() };
        Ok(Self { config: config.clone(), resource, fetcher })
    }

    pub(super) fn config(&self) -> &config::Traces {
        &self.config
    }

    /// Returns scheme, host and port. The rest of the URL may hold a key.
    pub fn server(&self) -> &str {
        self.config.endpoint.server()
    }

    pub(super) fn batch(&self, spans: Vec<Span>) -> Batch {
        let count = spans.len();
        let scope = InstrumentationScope {
            name: "usher".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
                schema_url: SCHEMA.to_owned(),
            }],
        };
        Batch { body: request.encode_to_vec().into(), count }
    }

    pub(super) async fn send(&self, batch: &Batch) -> ExportResult {
        let Self { config, fetcher, .. } = self;
        let body = batch.body.clone();
        let asked = fetcher.post_with(&config.endpoint, CONTENT_TYPE, &config.headers, body);
        match Box::pin(asked).await {
            Ok(answer) => judge(&answer, batch.count, Now::read().wall),
            // The receiver may have taken the batch, and would take it twice.
            Err(
                error @ (FetchError::Redirect(_)
                | FetchError::TooLarge(_)
                | FetchError::Malformed(_)),
            ) => ExportResult::Refused(error),
            Err(error) => ExportResult::Unavailable { error, retry_after: None },
        }
    }
}

/// Reads the answer of a receiver, by the rules of OTLP: 429, 502, 503 and 504 may be followed by
/// another try.
fn judge(answer: &Fetched, count: usize, now: UnixMillis) -> ExportResult {
    let status = answer.status;
    if status.is_success() {
        // The body of a success counts only if it can be read.
        let read = ExportTraceServiceResponse::decode(answer.body.clone()).unwrap_or_default();
        let partial = read.partial_success.unwrap_or_default();
        let rejected = usize::try_from(partial.rejected_spans).unwrap_or_default().min(count);
        return ExportResult::Accepted { rejected, message: partial.error_message };
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => ExportResult::Unavailable {
            error: FetchError::Status(status),
            retry_after: retry_after(&answer.headers, now),
        },
        _ => ExportResult::Refused(FetchError::Status(status)),
    }
}

/// Returns the pause that the receiver asks for, in seconds or until a date.
fn retry_after(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(UnixMillis::from_secs(date.as_secs()).since(now))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, header: Option<&'static str>, body: &[u8]) -> Fetched {
        let mut headers = HeaderMap::new();
        headers.extend(header.map(|text| (RETRY_AFTER, HeaderValue::from_static(text))));
        let status = StatusCode::from_u16(status).unwrap();
        Fetched { status, headers, body: Bytes::copy_from_slice(body) }
    }

    fn judged(answer: &Fetched) -> ExportResult {
        judge(answer, 10, UnixMillis::from_secs(784_111_770))
    }

    #[test]
    fn a_success_may_reject_a_part() {
        for (body, expected) in [
            (&b""[..], 0),
            (b"<html>", 0),
            (b"\x0a\x04\x08\x03\x12\x00", 3),
            // More than were sent, and less than none.
            (b"\x0a\x02\x08\x7f", 10),
            (b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0),
        ] {
            match judged(&answer(200, None, body)) {
                ExportResult::Accepted { rejected, .. } => {
                    assert_eq!(rejected, expected, "{body:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn only_a_busy_receiver_is_asked_again() {
        for (status, header, expected) in [
            (429, Some("7"), Some(7)),
            (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7)),
            (502, None, None),
            (504, Some("soon"), None),
        ] {
            match judged(&answer(status, header, b"")) {
                ExportResult::Unavailable { retry_after, .. } => {
                    assert_eq!(retry_after, expected.map(Duration::from_secs), "{status}");
                }
                other => panic!("{other:?}"),
            }
        }
        for status in [400, 401, 404, 500] {
            let outcome = judged(&answer(status, Some("7"), b""));
            assert!(matches!(outcome, ExportResult::Refused(_)), "{status}: {outcome:?}");
        }
    }
}
