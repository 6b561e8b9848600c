//! An upgrade, from its head to a grant.
//!
//! check -> route -> origin -> credential -> grant; then `reach.rs` finds an upstream that agrees, and `begin.rs` makes the
//! session. A client that shows nothing, where a first message may carry the credential, goes to `first_message.rs`. Each
//! upgrade ends in exactly one rejection or one session end.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};

use super::begin::{ClientSide, begin};
use super::first_message;
use super::guard::Guard;
use super::head::{RequestHead, tokens};
use super::headers;
use super::reach::{Reached, Refusal, reach};
use super::response;
use super::route::RouteMatch;
use super::serve::{Client, answer_and_close, write_and_linger};
use super::switch::Switch;
use crate::app::Worker;
use crate::auth::first_message::Dialect;
use crate::auth::grant::Grant;
use crate::auth::{self, Presented, credential};
use crate::clock::Now;
use crate::config::{RejectMode, Route};
use crate::migration;
use crate::migration::shadow::{Actual, Scene, Shadow};
use crate::rejection::Rejection;
use crate::stream::Stream;
use crate::telemetry::event::{Attempt, Event};
use crate::telemetry::request_id::RequestId;
use crate::ws::accept::is_key;
use crate::ws::deflate;
use crate::ws::frame::{self, Sender};

/// What is known of an upgrade whatever comes of it, for the one line that tells its end.
pub(super) struct Attempted {
    pub(super) request_id: RequestId,
    pub(super) address: IpAddr,
    host: String,
    path: String,
    route: Option<Arc<Route>>,
    pub(super) method: Option<credential::Method>,
    pub(super) origin: Option<String>,
    /// Known when the request is a good upgrade on a route of ours.
    switch: Option<Switch>,
}

/// A good upgrade on a route of ours.
pub(super) struct Request {
    /// Without its credentials.
    pub(super) parts: Parts,
    pub(super) host: String,
    pub(super) matched: RouteMatch,
    pub(super) address: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) is_trusted: bool,
    pub(super) is_secure: bool,
    pub(super) started: Now,
    pub(super) request_id: RequestId,
    pub(super) shadow: Shadow,
}

pub async fn run(mut guard: Guard, head: RequestHead, mut client: Client, worker: Worker) {
    let mut attempted = Attempted {
        request_id: RequestId::random(),
        address: headers::client_address(&head.parts.headers, client.peer.ip(), &client.listener.trusted_peers),
        host: head.host.clone(),
        path: worker.edge.tickets.shown_path(head.parts.uri.path()).to_owned(),
        route: None,
        method: None,
        origin: None,
        switch: None,
    };
    let outcome = match admit(head, &client, &worker, &mut attempted) {
        Ok((request, None, switch)) if request.matched.route.auth.contains(&credential::Method::Message) => {
            return Box::pin(first_message::run(guard, request, switch, client, worker, attempted)).await;
        }
        Ok((request, credential, _)) => open(&mut guard, request, credential, &mut client, &worker, &attempted).await,
        Err(rejection) => Err(rejection.into()),
    };
    let (stream, early) = guard.into_parts();
    match outcome {
        Ok((grant, mut reached)) => {
            if grant.is_renewed_by_message() {
                deflate::make_readable(&mut reached.headers);
            }
            grant.route().migration.mark(grant.method(), &mut reached.headers);
            if let Some(switch) = &attempted.switch {
                switch.choose_marker(&mut reached.headers);
            }
            let side = ClientSide {
                stream,
                answer: response::head_bytes(StatusCode::SWITCHING_PROTOCOLS, &reached.headers),
                ahead: Vec::new(),
                early: early.to_vec(),
                welcome: None,
                dialect: Dialect::new(&grant.route().first_message),
                awaits_greeting: false,
                inflates: false,
                permit: client.permit,
            };
            begin(side, grant, reached, attempted, worker).await;
        }
        Err(refusal) => attempted.refuse(stream, refusal).await,
    }
}

/// Everything that can be said about a request without asking anybody.
fn admit(
    head: RequestHead,
    client: &Client,
    worker: &Worker,
    attempted: &mut Attempted,
) -> Result<(Request, Option<credential::Credential>, Switch), Rejection> {
    let edge = &worker.edge;
    let started = Now::read();
    check(&head.parts)?;
    let mut parts = head.parts;
    let matched = edge
        .router
        .find(&head.host, parts.uri.path())
        .map_err(|ambiguous| Rejection::AmbiguousRequest(ambiguous.0))?
        .ok_or(Rejection::NoRoute)?;
    let route = Arc::clone(&matched.route);
    attempted.route = Some(Arc::clone(&route));
    let switch = Switch::of(&parts.headers, &route);
    attempted.switch = Some(switch.clone());
    if edge.drain.has_begun() {
        return Err(Rejection::Draining);
    }
    attempted.origin = origin_of(&parts.headers)?;
    auth::check_origin(&route, attempted.origin.as_deref())?;
    client.show_certificate(edge, &mut parts);
    let credential = auth::take_credential(&route, &mut parts)?;
    attempted.method = credential.as_ref().map(|credential| credential.method);
    auth::check_page(&route, credential.as_ref(), attempted.origin.as_deref(), false)?;
    let shadow = Shadow::look(&route, &mut parts);
    let request = Request {
        parts,
        shadow,
        host: head.host,
        matched,
        address: attempted.address,
        peer: client.peer.ip(),
        is_trusted: client.is_trusted_proxy(),
        is_secure: client.is_secure(),
        started,
        request_id: attempted.request_id,
    };
    Ok((request, credential, switch))
}

async fn open(
    guard: &mut Guard,
    mut request: Request,
    credential: Option<credential::Credential>,
    client: &mut Client,
    worker: &Worker,
    attempted: &Attempted,
) -> Result<(Grant, Reached), Refusal> {
    let request_id = request.request_id;
    let presented = Presented { request_id: request_id.as_str(), origin: attempted.origin.as_deref(), peer: request.address };
    let authenticator = &worker.edge.authenticator;
    let outcome = authenticator.authenticate_by(client.deadline, &request.matched, credential, presented, request.started).await;
    request.cast_shadow(worker, attempted, Actual::of(&outcome));
    let grant = outcome?;
    migration::admit(&grant, request.address, &worker.edge.legacy_uses, request.started.wall)?;
    client.waiting = None;
    if grant.is_renewed_by_message() {
        deflate::keep_readable_offers(&mut request.parts.headers);
    }
    // A client that leaves now leaves nothing behind: the dial is dropped with it.
    let reached = tokio::select! {
        biased;
        reached = reach(&grant, request, worker, Now::read()) => reached?,
        () = guard.client_gone() => {
            if grant.method() == Some(credential::Method::Ticket) {
                ticket_lost(&grant, request_id);
            }
            return Err(Rejection::ClientGone.into());
        }
    };
    Ok((grant, reached))
}

impl Request {
    /// What the shadow methods would have said, beside what was said.
    pub(super) fn cast_shadow(&mut self, worker: &Worker, attempted: &Attempted, actual: Actual) {
        let shadow = std::mem::take(&mut self.shadow);
        if shadow.is_empty() {
            return;
        }
        let edge = &worker.edge;
        let scene = Scene {
            authenticator: Arc::clone(&edge.authenticator),
            matched: self.matched.clone(),
            request_id: self.request_id,
            origin: attempted.origin.clone(),
            peer: self.address,
            actual,
            deadline: Now::read().mono + edge.limits.handshake_timeout,
        };
        edge.shadows.judge(shadow, scene);
    }
}

/// A ticket was redeemed for a client that has left.
pub(super) fn ticket_lost(grant: &Grant, request_id: RequestId) {
    if let Some(principal) = grant.principal() {
        Event::TicketLost { request_id: request_id.as_str(), user: &principal.subject }.emit();
    }
}

impl Attempted {
    /// The upgrade's one end.
    pub(super) fn tell(&self, rejection: &Rejection) {
        let about = Attempt {
            request_id: self.request_id.as_str(),
            peer: self.address,
            host: &self.host,
            path: &self.path,
            route: self.route.as_ref().map(|route| &*route.name).unwrap_or_default(),
            method: self.method,
        };
        Event::UpgradeRejected { about, rejection }.emit();
    }

    /// Tells the end and answers before any 101: with a status, or where the route says so with a 101 and a close frame.
    pub(super) async fn refuse(self, stream: Stream, refusal: Refusal) {
        self.tell(&refusal.rejection);
        let request_id = self.request_id.as_str();
        if let (Some(route), Some(switch)) = (&self.route, &self.switch)
            && route.reject_mode == RejectMode::Close
        {
            let (code, reason) = refusal.rejection.close(route.close_codes);
            let mut wire = switch.answer(None, request_id);
            wire.extend(frame::close(code, &format!("{reason} ({request_id})"), Sender::Upstream));
            return write_and_linger(stream, &wire).await;
        }
        let mut answer = refusal.answer.unwrap_or_else(|| response::problem(&refusal.rejection, request_id));
        if let Some(route) = &self.route {
            route.migration.mark(self.method, answer.headers_mut());
        }
        answer_and_close(stream, &answer).await;
    }
}

/// RFC 6455, section 4.2.1, with nothing left to taste. There is no option to loosen it.
pub fn check(parts: &Parts) -> Result<(), Rejection> {
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
