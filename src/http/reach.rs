//! From a grant to an upstream that has agreed to the upgrade.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Response};
use tokio::time::timeout;

use super::headers::{self, Seen};
use super::response;
use super::upgrade::{Request, authority_of};
use crate::app::Worker;
use crate::auth::grant::Grant;
use crate::clock::Now;
use crate::edge::Edge;
use crate::fleet::places;
use crate::rejection::Rejection;
use crate::session::registry::SessionId;
use crate::session::user_limit::UserLimit;
use crate::stream::Stream;
use crate::telemetry::event::{Event, Phases};
use crate::upstream::signed_context::ContextRequest;
use crate::upstream::upgrade::Answer;
use crate::upstream::{self, Place};

/// An upgrade that the upstream has agreed to.
pub(super) struct Reached {
    pub(super) place: Place,
    pub(super) user_place: Option<Box<places::Place>>,
    pub(super) session_id: SessionId,
    pub(super) upstream: Stream,
    pub(super) early: BytesMut,
    /// The upstream's 101, without what belongs to its connection.
    pub(super) headers: HeaderMap,
    pub(super) phases: Phases,
}

/// What the client gets instead of a session.
pub(super) struct Refusal {
    pub(super) rejection: Rejection,
    /// The upstream's own answer, where it gave one.
    pub(super) answer: Option<Response<Bytes>>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, answer: None }
    }
}

/// Picks and dials a server, and asks it for the upgrade with the signed context.
pub(super) async fn reach(grant: &Grant, request: Request, worker: &Worker, authenticated: Now) -> Result<Reached, Refusal> {
    let edge = &worker.edge;
    let Request { mut parts, host, address, peer, is_trusted, is_secure, started, request_id, .. } = request;
    let session_id = SessionId::random();
    let user_place = Box::pin(enter(grant, edge, session_id, address)).await?;
    let upstream = edge.upstreams.of(&grant.route().upstream).ok_or(Rejection::Internal)?;
    let authority = authority_of(&parts);
    let seen = Seen { peer, trusted: is_trusted, secure: is_secure, host: &authority };
    headers::prepare(&mut parts.headers, &edge.reserved, seen);
    let about =
        ContextRequest { session_id: session_id.as_str(), upstream: upstream.name(), client: address, host: &host, path: parts.uri.path() };
    edge.set_identity(&mut parts.headers, grant, about, authenticated);

    let (stream, place) = upstream::connect::dial(grant, upstream).await?;
    let dialled = Now::read();
    let opening = upstream::upgrade::open(stream, &parts.uri, parts.headers, edge.limits.refusal_bytes);
    let answer = timeout(upstream.config().answer_timeout, opening).await.map_err(|_| Rejection::UpstreamTimeout)??;
    match answer {
        Answer::Switched { stream, early, mut headers } => {
            headers::strip_hop_by_hop(&mut headers);
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            let phases = Phases {
                authenticate: authenticated.mono - started.mono,
                dial: dialled.mono - authenticated.mono,
                answer: Now::read().mono - dialled.mono,
                total: Now::read().mono - started.mono,
            };
            Ok(Reached { place, user_place, session_id, upstream: stream, early, headers, phases })
        }
        Answer::Declined { status, mut headers, body } => {
            headers::strip_hop_by_hop(&mut headers);
            let mut answer = Response::new(body);
            *answer.status_mut() = status;
            *answer.headers_mut() = headers;
            if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
                answer.headers_mut().insert(response::REQUEST_ID, value);
            }
            Err(Refusal { rejection: Rejection::UpstreamDeclined(status), answer: Some(answer) })
        }
    }
}

/// A place among the user's own sessions, where these are limited; nobody in particular needs none.
async fn enter(grant: &Grant, edge: &Edge, session: SessionId, peer: IpAddr) -> Result<Option<Box<places::Place>>, Rejection> {
    let (Some(places), Some(principal)) = (&edge.places, grant.principal()) else { return Ok(None) };
    let told = |_: &Rejection| Event::LimitReached { limit: UserLimit::NAME, peer: Some(peer) }.emit();
    places.enter(principal, session).await.inspect_err(told).map(Some)
}
