//! Plain HTTP: our own endpoints, and everything else passed on with streamed bodies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout_at;

use super::headers::{self, Seen};
use super::response;
use super::serve::Client;
use super::upgrade::{authority_of, origin_of};
use crate::app::Worker;
use crate::auth::{self, Presented, credential};
use crate::clock::Now;
use crate::migration;
use crate::rejection::Rejection;
use crate::telemetry::event::{Attempt, Event};
use crate::telemetry::request_id::RequestId;
use crate::ticket::endpoint::{self, Asked};
use crate::upstream::Place;
use crate::upstream::signed_context::ContextRequest;

/// An answer's body: ours, or the upstream's as it comes.
pub enum AnswerBody {
    Whole(Full<Bytes>),
    /// The place on the server is kept until the last byte.
    Streamed(Incoming, #[allow(dead_code, reason = "held for its Drop")] Place),
}

/// What becomes known of the request as it is looked at.
#[derive(Default)]
struct Known {
    route: Option<Arc<str>>,
    method: Option<credential::Method>,
    user: Option<String>,
}

pub async fn answer(request: Request<Incoming>, client: &Client, worker: &Worker) -> Response<AnswerBody> {
    let request_id = RequestId::random();
    let started = Now::read();
    let (parts, body) = request.into_parts();
    let address = headers::client_address(&parts.headers, client.peer.ip(), &client.listener.trusted_peers);
    let authority = authority_of(&parts);
    let host = host_of(&authority);
    let path = parts.uri.path().to_owned();

    if worker.edge.tickets.owns(&path) {
        let asked = Asked { peer: address, request_id: request_id.as_str(), host: &authority, secure: client.is_secure() };
        return Box::pin(ticket(parts, body, asked, worker, started)).await.map(|body| AnswerBody::Whole(Full::new(body)));
    }
    if path == worker.edge.config.config_path {
        let asked = Asked { peer: address, request_id: request_id.as_str(), host: &authority, secure: client.is_secure() };
        return migration::endpoint::answer(&worker.edge, parts, asked, started).await.map(|body| AnswerBody::Whole(Full::new(body)));
    }
    if path == worker.edge.config.context.jwks_path && matches!(parts.method, Method::GET | Method::HEAD) {
        return jwks(worker).map(|body| AnswerBody::Whole(Full::new(body)));
    }
    let mut known = Known::default();
    let outcome = forward(parts, body, client, address, &authority, &host, worker, request_id, &mut known).await;
    let route = known.route.as_deref().unwrap_or_default();
    let about = Attempt { request_id: request_id.as_str(), peer: address, host: &host, path: &path, route, method: known.method };
    match outcome {
        Ok(answer) => {
            let duration = Now::read().mono - started.mono;
            Event::HttpForwarded { about, user: known.user.as_deref(), status: answer.status().as_u16(), duration }.emit();
            answer
        }
        Err(rejection) => {
            Event::RequestRejected { about, rejection: &rejection }.emit();
            let mut answer = response::problem(&rejection, request_id.as_str());
            // Another certificate takes another handshake.
            if matches!(rejection, Rejection::AmbiguousRequest(_) | Rejection::InvalidCertificate(_)) {
                answer.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer.map(|body| AnswerBody::Whole(Full::new(body)))
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "everything that is known of one request, used once")]
async fn forward(
    mut parts: Parts,
    body: Incoming,
    client: &Client,
    address: std::net::IpAddr,
    authority: &str,
    host: &str,
    worker: &Worker,
    request_id: RequestId,
    known: &mut Known,
) -> Result<Response<AnswerBody>, Rejection> {
    let edge = &worker.edge;
    let now = Now::read();
    let path = parts.uri.path().to_owned();
    let matched = edge.router.find(host, &path).map_err(|ambiguous| Rejection::AmbiguousRequest(ambiguous.0))?.ok_or(Rejection::NoRoute)?;
    let route = Arc::clone(&matched.route);
    known.route = Some(Arc::clone(&route.name));

    let origin = origin_of(&parts.headers)?;
    auth::check_origin(&route, origin.as_deref())?;
    client.show_certificate(edge, &mut parts);
    let credential = auth::take_credential(&route, &mut parts)?;
    known.method = credential.as_ref().map(|credential| credential.method);
    auth::check_page(&route, credential.as_ref(), origin.as_deref(), parts.method.is_safe())?;
    let presented = Presented { request_id: request_id.as_str(), origin: origin.as_deref(), peer: address };
    let deadline = now.mono + edge.limits.handshake_timeout;
    let grant = edge.authenticator.authenticate_by(deadline, &matched, credential, presented, now).await?;
    known.user = grant.principal().map(|principal| principal.subject.clone());

    let upstream = edge.upstreams.of(&route.upstream).ok_or(Rejection::Internal)?;
    let seen = Seen { peer: client.peer.ip(), trusted: client.is_trusted_proxy(), secure: client.is_secure(), host: authority };
    headers::prepare(&mut parts.headers, &edge.reserved, seen);
    // hyper has told the client to go on by the time that the body is asked for.
    parts.headers.remove(EXPECT);
    let about = ContextRequest { session_id: request_id.as_str(), upstream: upstream.name(), client: address, host, path: &path };
    edge.set_identity(&mut parts.headers, &grant, about, now);
    parts.uri = origin_form(&parts.uri);
    parts.version = http::Version::HTTP_11;

    let (answer, place) = worker.pool.exchange(&grant, upstream, Request::from_parts(parts, body)).await?;
    let (mut parts, body) = answer.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, AnswerBody::Streamed(body, place)))
}

async fn ticket(parts: Parts, body: Incoming, asked: Asked<'_>, worker: &Worker, now: Now) -> Response<Bytes> {
    let whole = Limited::new(body, endpoint::MAX_BODY).collect();
    let deadline = now.mono + worker.edge.limits.handshake_timeout;
    let body = match timeout_at(deadline, whole).await {
        Ok(Ok(whole)) => whole.to_bytes(),
        _ => {
            let rejection = Rejection::AmbiguousRequest("the body is too long, or did not arrive");
            worker.edge.tickets.tell_refused(asked, &rejection);
            return endpoint::refusal(&rejection, asked.request_id);
        }
    };
    worker.edge.tickets.answer(Request::from_parts(parts, body), asked, now).await
}

fn jwks(worker: &Worker) -> Response<Bytes> {
    let mut answer = Response::new(worker.edge.jwks.clone());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    answer
}

/// The name in an authority that the guard has let pass: lower case, without port.
pub fn host_of(authority: &str) -> String {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => authority,
    };
    name.to_ascii_lowercase()
}

/// An absolute target was checked against Host by the guard; the upstream gets the path.
fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().map_or_else(Uri::default, |target| Uri::from(target.clone()))
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Streamed(body, _) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body, _) => body.size_hint(),
        }
    }
}
