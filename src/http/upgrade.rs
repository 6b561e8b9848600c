//! An upgrade, from its head to the session.
//!
//! route -> authenticate -> pick and dial -> upgrade with the signed context -> 101 -> relay. Everything before the 101 is
//! in this one future, which is gone when the session begins; each upgrade ends in exactly one rejection or one session
//! end.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use tokio::io::AsyncWriteExt;
use tokio::time::{timeout, timeout_at};

use super::guard::Guard;
use super::head::{RequestHead, tokens};
use super::headers::{self, Seen};
use super::response;
use super::serve::{Client, answer_and_close};
use crate::app::Worker;
use crate::auth::grant::Grant;
use crate::auth::{self, Presented};
use crate::clock::Now;
use crate::listener::Permit;
use crate::rejection::Rejection;
use crate::session::close::{CloseReason, SessionEnd};
use crate::session::registry::{CloseSignal, SessionGuard, SessionHandle, SessionId};
use crate::session::relay::Relay;
use crate::session::state::Rules;
use crate::stream::Stream;
use crate::telemetry::event::{Attempt, Event, Phases};
use crate::telemetry::request_id::RequestId;
use crate::upstream::signed_context::ContextRequest;
use crate::upstream::upgrade::Answer;
use crate::upstream::{self, Place};
use crate::ws::accept::is_key;

/// An upgrade that the upstream has agreed to.
struct Opened {
    grant: Grant,
    place: Place,
    session_id: SessionId,
    upstream: Stream,
    early: BytesMut,
    /// The upstream's 101, prepared for the client.
    headers: HeaderMap,
    phases: Phases,
}

/// What the client gets instead of a session.
struct Refusal {
    rejection: Rejection,
    /// The upstream's own answer, where it gave one.
    answer: Option<Response<Bytes>>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, answer: None }
    }
}

/// What becomes known of the request as it is looked at, for the one line that tells its end.
#[derive(Default)]
struct Known {
    route: Option<Arc<str>>,
    method: Option<auth::credential::Method>,
}

pub async fn run(mut guard: Guard, head: RequestHead, client: Client, worker: Worker) {
    let request_id = RequestId::random();
    let path = worker.edge.tickets.shown_path(head.parts.uri.path()).to_owned();
    let host = head.host.clone();
    let address = headers::client_address(&head.parts.headers, client.peer.ip(), &client.listener.trusted_peers);
    let mut known = Known::default();
    match open(&mut guard, head, &client, address, &worker, request_id, &mut known).await {
        Ok(opened) => begin(guard, opened, client.permit, address, worker, request_id).await,
        Err(refusal) => {
            let route = known.route.as_deref().unwrap_or_default();
            let about = Attempt { request_id: request_id.as_str(), peer: address, host: &host, path: &path, route, method: known.method };
            Event::UpgradeRejected { about, rejection: &refusal.rejection }.emit();
            let answer = refusal.answer.unwrap_or_else(|| response::problem(&refusal.rejection, request_id.as_str()));
            answer_and_close(guard.into_parts().0, &answer).await;
        }
    }
}

async fn open(
    guard: &mut Guard,
    head: RequestHead,
    client: &Client,
    address: IpAddr,
    worker: &Worker,
    request_id: RequestId,
    known: &mut Known,
) -> Result<Opened, Refusal> {
    let edge = &worker.edge;
    let started = Now::read();
    check(&head.parts)?;
    if edge.drain.has_begun() {
        return Err(Rejection::Draining.into());
    }
    let mut parts = head.parts;
    let matched = edge
        .router
        .find(&head.host, parts.uri.path())
        .map_err(|ambiguous| Rejection::AmbiguousRequest(ambiguous.0))?
        .ok_or(Rejection::NoRoute)?;
    let route = Arc::clone(&matched.route);
    known.route = Some(Arc::clone(&route.name));

    let origin = origin_of(&parts.headers)?;
    auth::check_origin(&route, origin.as_deref())?;
    let credential = auth::take_credential(&route, &mut parts)?;
    known.method = credential.as_ref().map(auth::credential::Credential::method);
    let presented = Presented { request_id: request_id.as_str(), origin: origin.as_deref(), peer: address };
    let grant = timeout_at(client.deadline, edge.authenticator.authenticate(&matched, credential, presented, started))
        .await
        .map_err(|_| Rejection::StoreUnavailable)??;
    let authenticated = Now::read();

    let session_id = SessionId::random();
    let upstream = edge.upstreams.of(&route.upstream).ok_or(Rejection::Internal)?;
    let authority = authority_of(&parts);
    let seen = Seen { peer: client.peer.ip(), trusted: client.is_trusted_proxy(), secure: client.is_secure(), host: &authority };
    headers::prepare(&mut parts.headers, &edge.reserved, seen);
    let about = ContextRequest {
        session_id: session_id.as_str(),
        upstream: upstream.name(),
        client: address,
        host: &head.host,
        path: parts.uri.path(),
    };
    edge.set_identity(&mut parts.headers, &grant, about, authenticated);

    // A client that leaves now leaves nothing behind: the dial is dropped with it.
    let switch = async {
        let (stream, place) = upstream::connect::dial(&grant, upstream).await?;
        let dialled = Now::read();
        let opening = upstream::upgrade::open(stream, &parts.uri, parts.headers, edge.limits.refusal_bytes);
        let answer = timeout(upstream.config().answer_timeout, opening).await.map_err(|_| Rejection::UpstreamTimeout)??;
        Ok::<_, Rejection>((answer, place, dialled))
    };
    let (answer, place, dialled) = tokio::select! {
        biased;
        switched = switch => switched?,
        () = guard.client_gone() => return Err(Rejection::ClientGone.into()),
    };
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
            Ok(Opened { grant, place, session_id, upstream: stream, early, headers, phases })
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

/// RFC 6455, section 4.2.1, with nothing left to taste. There is no option to loosen it.
fn check(parts: &Parts) -> Result<(), Rejection> {
    let malformed = |why| Err(Rejection::UpgradeMalformed(why));
    let headers = &parts.headers;
    if parts.method != Method::GET {
        return Err(Rejection::UpgradeMethod);
    }
    if parts.version != Version::HTTP_11 {
        return malformed("an upgrade takes HTTP/1.1");
    }
    if tokens(headers, UPGRADE) != ["websocket"] {
        return malformed("this server upgrades to websocket alone");
    }
    if !tokens(headers, CONNECTION).iter().any(|token| token == "upgrade") {
        return malformed("an upgrade has 'Connection: Upgrade'");
    }
    if headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0") {
        return malformed("an upgrade has no body");
    }
    if headers.contains_key(http::header::EXPECT) {
        return malformed("an upgrade expects nothing");
    }
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) if version.as_bytes() == b"13" => {}
        _ => return Err(Rejection::UpgradeVersion),
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(()),
        _ => malformed("Sec-WebSocket-Key is not one key of 16 bytes"),
    }
}

/// One Origin or none: two would leave it to chance which one is checked.
pub fn origin_of(headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(None),
        (Some(origin), None) => Ok(Some(String::from_utf8_lossy(origin.as_bytes()).into_owned())),
        _ => Err(Rejection::AmbiguousRequest("a request has at most one Origin")),
    }
}

/// The Host header with its port. The head was checked to have exactly one.
pub fn authority_of(parts: &Parts) -> String {
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    host.unwrap_or_default().to_owned()
}

/// From here on the upgrade has succeeded, and its end is a session's end.
async fn begin(guard: Guard, opened: Opened, permit: Permit, address: IpAddr, worker: Worker, request_id: RequestId) {
    let now = Now::read();
    let Opened { grant, place, session_id, upstream, early, headers, phases } = opened;
    let handle = SessionHandle {
        id: session_id,
        user: grant.principal().map(|principal| principal.subject.clone()),
        method: grant.method(),
        route: Arc::clone(&grant.route().name),
        upstream: Arc::clone(&grant.route().upstream.name),
        server: place.server().into(),
        peer: address,
        request_id,
        started: now.wall,
        expires_at: grant.expires_at(),
        last_activity: now.wall.0.into(),
        signal: CloseSignal::default(),
    };
    let session = worker.edge.registry.open(handle);
    Event::SessionStarted { session: session.facts(), request_id: request_id.as_str(), server: place.server(), handshake: phases }.emit();
    let mut record = Record { session, end: None };

    let keepalive = &worker.edge.config.keepalive;
    let rules = Rules {
        ping: keepalive.ping,
        idle_timeout: keepalive.idle_timeout,
        close_timeout: keepalive.close_timeout,
        expires: grant.expires_at().map(|at| now.instant_of(at)),
    };
    let (mut client, sent_early) = guard.into_parts();
    let answer = response::head_bytes(StatusCode::SWITCHING_PROTOCOLS, &headers);
    let written = timeout(keepalive.close_timeout, async {
        client.write_all(&answer).await?;
        client.flush().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        record.end = Some(SessionEnd { reason: CloseReason::ClientGone, ..SessionEnd::NEVER_BEGAN });
        return;
    }
    if worker.edge.drain.has_begun() {
        // The drain's list of sessions may have been made before this one was on it.
        record.session.close(CloseReason::Draining);
    }
    let relay = Relay::new(client, upstream, rules, Arc::clone(&record.session), &sent_early, &early);
    tokio::spawn(async move {
        let _held = (permit, place);
        // Moved in whole: its drop is the session's end.
        let mut record = record;
        record.end = Some(relay.await);
    });
}

/// Tells the session's end once, also when its task panics or is dropped.
struct Record {
    session: SessionGuard,
    end: Option<SessionEnd>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let end = self.end.unwrap_or(SessionEnd { reason: CloseReason::Internal, ..SessionEnd::NEVER_BEGAN });
        Event::SessionEnded { session: self.session.facts(), end: &end }.emit();
    }
}
