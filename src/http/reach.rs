//! The upstream's part of an upgrade: from a grant to an upstream that accepts it.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, Version};

use super::connection::ClientConnection;
use super::refusal::Refusal;
use super::request::Request;
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::config::RouteMatch;
use crate::edge::Edge;
use crate::fleet::places;
use crate::http::events;
use crate::net::http1::{hop_by_hop, response};
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::session::registry::SessionId;
use crate::session::session_counts::{CountedPlace, SessionLimit};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use crate::traces::RequestPhase;
use crate::upstream::connect::{DialAttempts, TriesFailed};
use crate::upstream::pick::ClientKey;
use crate::upstream::signed_context::ContextRequest;
use crate::upstream::upgrade::UpgradeAnswer;
use crate::upstream::{self, ServerPlace};
use crate::ws::accept;

/// An upgrade that the upstream has accepted.
pub(super) struct OpenedUpstream {
    pub(super) place: ServerPlace,
    pub(super) user_place: Option<Box<places::SessionPlace>>,
    pub(super) counted_place: Option<Box<CountedPlace>>,
    pub(super) session_id: SessionId,
    pub(super) upstream: Stream,
    pub(super) early: BytesMut,
    /// The headers of the upstream's 101, without those of its connection.
    pub(super) headers: HeaderMap,
    /// From the complete request head to the answer of the upstream.
    pub(super) took: Duration,
}

/// Picks and dials a server, and requests the upgrade with the signed context.
pub(super) async fn reach(
    grant: &Grant,
    matched: &RouteMatch,
    request: &mut Request,
    connection: &ClientConnection,
    edge: &Edge,
) -> Result<OpenedUpstream, Refusal> {
    let authenticated = Now::read();
    let session_id = SessionId::random();
    let counted_place = count(grant, edge, request.address())?;
    let user_place = Box::pin(enter(grant, edge, session_id, request.address())).await?;
    let upstream = edge.upstreams.of(&grant.route().upstream).ok_or(Rejection::Internal)?;
    let target = request.prepare_for_upstream(matched, &edge.reserved)?;
    let mut headers = std::mem::take(&mut request.parts.headers);
    let about = ContextRequest {
        session_id: session_id.as_str(),
        upstream: upstream.name(),
        client: request.address(),
        host: request.host(),
        path: request.parts.uri.path(),
    };
    let client = ClientKey::of(grant, request.address());
    let proxy_header = upstream.proxy_header(|| connection.proxy_header(request.address()));
    let tries = DialAttempts::begin(upstream, client, authenticated.mono).await;
    let mut tries = tries.with_proxy_header(proxy_header);
    let (place, answer) = loop {
        let Some(place) = tries.next_server() else {
            return Err(match tries.into_failure() {
                TriesFailed::Rejected(rejection) => rejection.into(),
                TriesFailed::Answered(answer) => refusal(*answer, request),
            });
        };
        let dialling = request.begin_phase(RequestPhase::Dial);
        request.note_server(dialling, || place.server());
        let began = Now::read().mono;
        let stream = tries.dial_server(&place, grant).await;
        let fault = stream.is_none().then(|| tries.rejection());
        request.end_phase(dialling, fault);
        request.report_phase(events::Phase::Dial, began, fault);
        let Some(stream) = stream else { continue };
        let dialled = Now::read();
        // Each try has a signed context of its own: one that was sent may have been used.
        if request.parts.version == Version::HTTP_2 {
            // The key belongs to HTTP/1.1: the client sent none.
            headers.insert(SEC_WEBSOCKET_KEY, random_key()?);
        }
        edge.set_identity(&mut headers, grant, about, dialled);
        let upgrading = request.begin_phase(RequestPhase::Upgrade);
        request.note_server(upgrading, || place.server());
        request.write_trace(upgrading, &mut headers);
        let opening =
            upstream::upgrade::open(stream, &target, &mut headers, edge.limits.refusal_bytes);
        let answer = tries.answer(&place, Box::pin(opening)).await;
        let fault = answer.is_none().then(|| tries.rejection());
        request.end_phase(upgrading, fault);
        request.report_phase(events::Phase::Answer, dialled.mono, fault);
        if let Some(answer) = answer {
            break (place, answer);
        }
    };
    match answer {
        UpgradeAnswer::Switched { stream, early, mut headers } => {
            hop_by_hop::strip_hop_by_hop(&mut headers);
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            response::set_request_id(&mut headers, request.request_id.as_str());
            Ok(OpenedUpstream {
                place,
                user_place,
                counted_place,
                session_id,
                upstream: stream,
                early,
                headers,
                took: request.started.mono.elapsed(),
            })
        }
        declined @ UpgradeAnswer::Declined { .. } => Err(refusal(declined, request)),
    }
}

/// Passes the answer of a server that refuses the upgrade on to the client.
fn refusal(answer: UpgradeAnswer, request: &Request) -> Refusal {
    let UpgradeAnswer::Declined { status, mut headers, body } = answer else {
        return Rejection::Internal.into();
    };
    hop_by_hop::strip_hop_by_hop(&mut headers);
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    response::set_request_id(answer.headers_mut(), request.request_id.as_str());
    Refusal { rejection: Rejection::UpstreamDeclined(status), answer: Some(answer) }
}

fn random_key() -> Result<HeaderValue, Rejection> {
    let key = accept::random_key().ok_or(Rejection::Internal)?;
    HeaderValue::from_str(&key).map_err(|_| Rejection::Internal)
}

/// Takes a place among the sessions of the address and of the route, if these are limited.
fn count(grant: &Grant, edge: &Edge, peer: IpAddr) -> Result<Option<Box<CountedPlace>>, Rejection> {
    edge.session_counts.enter(peer, &grant.route().name).map_err(|full| {
        let (limit, rejection) = match full {
            SessionLimit::PerAddress => {
                (Limit::SessionsPerAddress, Rejection::TooManyAddressSessions)
            }
            // Not a fault of this client.
            SessionLimit::PerRoute => (Limit::SessionsPerRoute, Rejection::TooManyConnections),
        };
        LimitReached { limit, peer: Some(peer) }.emit();
        rejection
    })
}

/// Takes a place among the user's sessions, if these are limited. A public session needs none.
async fn enter(
    grant: &Grant,
    edge: &Edge,
    session: SessionId,
    peer: IpAddr,
) -> Result<Option<Box<places::SessionPlace>>, Rejection> {
    let (Some(places), Some(principal)) = (&edge.places, grant.principal()) else {
        return Ok(None);
    };
    let told =
        |_: &Rejection| LimitReached { limit: Limit::SessionsPerUser, peer: Some(peer) }.emit();
    places.enter(principal, session).await.inspect_err(told).map(Some)
}
