//! HTTP requests of Usher itself to other services: to an issuer for its keys, to a verifier for
//! its verdict, to a receiver of traces.
//!
//! The address comes from the configuration, or from a document of an issuer that the configuration
//! names; never from a token or a request. One limit bounds the time of the whole exchange, another
//! its bytes. A redirect is an error: an attacker that controls one must not choose the server that
//! is asked next. A request changes nothing at the server. So a request that a kept connection lost
//! is sent once more on a new one.

mod dial;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;
use dial::FetchDialler;

/// The time for which an idle connection is kept. Most servers close theirs after some seconds;
/// Usher keeps its own a little longer than the shortest of these.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// The largest head of an answer, in bytes.
const HEAD_BYTES: usize = 64 << 10;
const AGENT: &str = concat!("usher/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// PEM file of the authorities that sign the servers' certificates. Without one, those of the
    /// system.
    pub ca_file: Option<PathBuf>,
    /// The limit of the whole exchange: the name, the connection, TLS, the answer and its body.
    pub timeout: Duration,
    /// The largest body of an answer, in bytes.
    pub max_body: usize,
    /// Idle connections kept for each server.
    pub max_idle: usize,
}

/// An HTTP client. Clones share their connections. A connection is driven by the runtime that
/// opened it, so a runtime that ends before the others needs its own [`Fetcher::apart`].
#[derive(Clone, Debug)]
pub struct Fetcher {
    config: Arc<FetchConfig>,
    dialler: FetchDialler,
    idle: Arc<Idle>,
}

/// A whole answer, with any status but a redirect.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error(
        "the server answered {0}; redirects are not followed: write the address that it points to"
    )]
    Redirect(StatusCode),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer cannot be used: {0}")]
    Malformed(String),
}

/// Connections that wait for the next request, by server.
#[derive(Debug, Default)]
struct Idle(Mutex<HashMap<String, Vec<IdleConnection>>>);

/// A connection, and when it began to wait.
type IdleConnection = (SendRequest<Full<Bytes>>, Instant);

impl Fetcher {
    /// Returns an error if `ca_file` holds no authorities.
    pub fn new(config: FetchConfig) -> Result<Self, String> {
        let dialler = FetchDialler::new(config.ca_file.as_deref())?;
        Ok(Self { config: Arc::new(config), dialler, idle: Arc::default() })
    }

    /// Returns the same client with connections of its own.
    pub fn apart(&self) -> Self {
        Self { idle: Arc::default(), ..self.clone() }
    }

    /// Sends a GET that accepts JSON.
    pub async fn get(
        &self,
        place: &ServiceUrl,
        authorization: Option<&Secret>,
    ) -> Result<Fetched, FetchError> {
        let request = request(Method::GET, place, authorization, Bytes::new())?;
        self.within_time(place, request).await
    }

    /// Sends a POST. `authorization` is the whole header value, with its scheme.
    pub async fn post(
        &self,
        place: &ServiceUrl,
        content_type: HeaderValue,
        authorization: Option<&Secret>,
        body: Bytes,
    ) -> Result<Fetched, FetchError> {
        let mut request = request(Method::POST, place, authorization, body)?;
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        self.within_time(place, request).await
    }

    /// Sends a POST with further headers. The answer may be of the type of the request.
    pub async fn post_with(
        &self,
        place: &ServiceUrl,
        content_type: HeaderValue,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Fetched, FetchError> {
        let mut request = request(Method::POST, place, None, body)?;
        let own = request.headers_mut();
        own.insert(ACCEPT, content_type.clone());
        own.insert(CONTENT_TYPE, content_type);
        headers.iter().for_each(|(name, value)| {
            own.insert(name.clone(), value.clone());
        });
        self.within_time(place, request).await
    }

    async fn within_time(
        &self,
        place: &ServiceUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<Fetched, FetchError> {
        let asking = Box::pin(self.ask(place, request));
        timeout(self.config.timeout, asking)
            .await
            .unwrap_or(Err(FetchError::Timeout(self.config.timeout)))
    }

    async fn ask(
        &self,
        place: &ServiceUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<Fetched, FetchError> {
        while let Some(mut sender) = self.idle.take(place.server()) {
            // The server may have closed a kept connection a moment ago, before or after it took
            // the request.
            if let Ok(response) = sender.send_request(request.clone()).await {
                return self.read(place, sender, response).await;
            }
        }
        let stream = self.dialler.open(place, self.config.timeout).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(malformed)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(failed)?;
        self.read(place, sender, response).await
    }

    async fn read(
        &self,
        place: &ServiceUrl,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Fetched, FetchError> {
        let (head, mut body) = response.into_parts();
        if head.status.is_redirection() {
            return Err(FetchError::Redirect(head.status));
        }
        // Usher offers no encoding.
        if head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(FetchError::Malformed("the body is compressed".to_owned()));
        }
        let most = self.config.max_body;
        if body.size_hint().lower() > most as u64 {
            return Err(FetchError::TooLarge(most));
        }
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            if bytes.len() + data.len() > most {
                return Err(FetchError::TooLarge(most));
            }
            bytes.extend_from_slice(&data);
        }
        self.idle.keep_when_ready(place.server(), sender, self.config.max_idle);
        Ok(Fetched { status: head.status, headers: head.headers, body: bytes.into() })
    }
}

impl Fetched {
    /// Returns the answer if its status is a success.
    pub fn success(self) -> Result<Self, FetchError> {
        if self.status.is_success() { Ok(self) } else { Err(FetchError::Status(self.status)) }
    }
}

impl FetchError {
    /// Every label of [`FetchError::label`].
    pub const LABELS: [&'static str; 7] =
        ["timeout", "unreachable", "tls", "status", "redirect", "too_large", "malformed"];

    /// Returns the label for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Status(_) => "status",
            Self::Redirect(_) => "redirect",
            Self::TooLarge(_) => "too_large",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl Idle {
    fn take(&self, server: &str) -> Option<SendRequest<Full<Bytes>>> {
        let now = Now::read().mono;
        let mut idle = lock(&self.0);
        let kept = idle.get_mut(server)?;
        while let Some((sender, since)) = kept.pop() {
            if now.duration_since(since) < KEPT_FOR && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection once it is ready. The answer is whole, but the connection may need
    /// another turn to notice that.
    fn keep_when_ready(
        self: &Arc<Self>,
        server: &str,
        mut sender: SendRequest<Full<Bytes>>,
        most: usize,
    ) {
        let (idle, server) = (Arc::clone(self), server.to_owned());
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let now = Now::read().mono;
            let mut idle = lock(&idle.0);
            let kept = idle.entry(server).or_default();
            kept.retain(|(sender, since)| {
                now.duration_since(*since) < KEPT_FOR && sender.is_ready()
            });
            if kept.len() < most {
                kept.push((sender, now));
            }
        });
    }
}

fn request(
    method: Method,
    place: &ServiceUrl,
    authorization: Option<&Secret>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = place.target().clone();
    let headers = request.headers_mut();
    headers.insert(HOST, place.authority().clone());
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(authorization) = authorization {
        let wrong =
            |_| FetchError::Malformed("the authorization is not a valid header value".to_owned());
        let mut value = HeaderValue::from_bytes(authorization.expose()).map_err(wrong)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}

fn malformed(error: hyper::Error) -> FetchError {
    FetchError::Malformed(error.to_string())
}

/// Returns the error of a broken connection, or of bytes that are not HTTP.
fn failed(error: hyper::Error) -> FetchError {
    if error.is_parse() || error.is_parse_too_large() {
        return malformed(error);
    }
    let cause =
        std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    FetchError::Unreachable(format!("{error}{cause}"))
}
