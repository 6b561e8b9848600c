//! Where an upgrade becomes a session: from here on its end is a session's end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::reach::Reached;
use super::upgrade::Attempted;
use crate::app::Worker;
use crate::auth::first_message::Dialect;
use crate::auth::grant::Grant;
use crate::auth::renewal::Renewal;
use crate::auth::revocation::Identity;
use crate::clock::Now;
use crate::config::ReauthMode;
use crate::fleet::places;
use crate::listener::Permit;
use crate::session::close::{CloseReason, SessionEnd};
use crate::session::conversation::Conversation;
use crate::session::registry::{CloseSignal, SessionGuard, SessionHandle};
use crate::session::relay::{Limits, Opening, Relay};
use crate::session::revalidation::Revalidation;
use crate::session::state::{Renewing, Rules};
use crate::stream::Stream;
use crate::telemetry::event::Event;
use crate::upstream::Place;
use crate::ws::frame::Message;

/// The client's side of a session that is to begin.
pub(super) struct ClientSide {
    pub(super) stream: Stream,
    /// The 101, where it has not been sent yet.
    pub(super) answer: Vec<u8>,
    /// What the upstream gets before everything else.
    pub(super) ahead: Vec<u8>,
    pub(super) early: Vec<u8>,
    pub(super) welcome: Option<Message>,
    pub(super) dialect: Dialect,
    pub(super) awaits_greeting: bool,
    /// It compresses, and the upstream does not.
    pub(super) inflates: bool,
    pub(super) permit: Permit,
}

pub(super) async fn begin(client: ClientSide, grant: Grant, reached: Reached, attempted: Attempted, worker: Worker) {
    let now = Now::read();
    let edge = &worker.edge;
    let Reached { place, mut user_place, session_id, upstream, early, phases, .. } = reached;
    let (route, request_id, address) = (Arc::clone(grant.route()), attempted.request_id, attempted.address);
    let handle = SessionHandle {
        id: session_id,
        user: grant.principal().map(|principal| principal.subject.as_str().into()),
        identity: Identity::of(grant.principal()),
        method: grant.method(),
        route: Arc::clone(&route.name),
        upstream: Arc::clone(&route.upstream.name),
        server: place.server(),
        peer: address,
        request_id,
        started: now.wall,
        expires_at: grant.expires_at().map_or(0, |at| at.0).into(),
        last_activity: now.wall.0.into(),
        signal: CloseSignal::default(),
    };
    let session = edge.registry.open(handle);
    let (facts, principal, server) = (session.facts(), grant.principal(), &session.server);
    Event::SessionStarted { session: facts, principal, request_id: request_id.as_str(), server, handshake: phases }.emit();
    let mut record = Record { session, end: None };
    // Who was revoked while the upstream was asked was not in the registry yet, and nobody told the session.
    if edge.revocations.find_session(session_id.as_str(), grant.principal(), now.wall).is_some() {
        record.session.close(CloseReason::Revoked);
    } else if let Some(user_place) = &mut user_place {
        user_place.begin(&record.session);
    }

    let (keepalive, reauth) = (&edge.config.keepalive, route.reauth);
    let renews = grant.is_renewed_by_message();
    let rules = Rules {
        ping: keepalive.ping,
        idle_timeout: keepalive.idle_timeout,
        close_timeout: keepalive.close_timeout,
        expires: grant.expires_at().filter(|_| reauth.mode != ReauthMode::Off).map(|at| now.instant_of(at)),
        renewing: renews.then_some(Renewing {
            before_expiry: reauth.before_expiry,
            grace: reauth.grace,
            attempts: reauth.attempts,
            proactive: reauth.proactive,
        }),
        close_codes: route.close_codes,
    };
    let limits = Limits {
        buffered_bytes: edge.limits.buffered_bytes,
        message_bytes: edge.limits.message_bytes as u64,
        messages_per_second: edge.limits.messages_per_second,
        inflated_bytes: client.inflates.then_some(edge.limits.inflated_bytes as u64),
    };
    let close_timeout = keepalive.close_timeout;
    let revalidation = Revalidation::of(&grant, now);
    let renewal =
        renews.then(|| Renewal { authenticator: Arc::clone(&edge.in_force), grant, request_id, origin: attempted.origin, peer: address });
    let speaks = renews || client.awaits_greeting;
    let conversation = speaks.then(|| Conversation::new(client.dialect, renewal, client.awaits_greeting));

    let mut stream = client.stream;
    let written = timeout(close_timeout, async {
        stream.write_all(&client.answer).await?;
        stream.flush().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        record.end = Some(SessionEnd { reason: CloseReason::ClientGone, ..SessionEnd::NEVER_BEGAN });
        return;
    }
    if edge.drain.has_begun() {
        // The drain's list of sessions may have been made before this one was on it.
        record.session.close(CloseReason::Draining);
    }
    let opening = Opening {
        client: stream,
        upstream,
        ahead: client.ahead,
        early_in: client.early,
        early_out: early.to_vec(),
        welcome: client.welcome,
        conversation,
        revalidation,
        limits,
    };
    let relay = Relay::new(opening, rules, Arc::clone(&record.session));
    tokio::spawn(Running { relay, record, _place: place, _user_place: user_place, _permit: client.permit });
}

/// A session's task. A type of its own, for an `async` block would hold the relay twice: before it is first polled, and while
/// it is. What it holds is given back in this order.
struct Running {
    relay: Relay,
    record: Record,
    _place: Place,
    _user_place: Option<Box<places::Place>>,
    _permit: Permit,
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.record.end = Some(ready!(Pin::new(&mut this.relay).poll(cx)));
        Poll::Ready(())
    }
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
