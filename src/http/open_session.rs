//! The start of a session. From here on, an upgrade ends with the end of its session.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::events::SessionStarted;
use super::reach::OpenedUpstream;
use super::request::Request;
use super::traced::TraceEnd;
use crate::auth::first_message::Dialect;
use crate::auth::grant::Grant;
use crate::auth::renewal::Renewal;
use crate::auth::revocation::Identity;
use crate::base::clock::Now;
use crate::config::ReauthMode;
use crate::edge::Edge;
use crate::edge::ceiling::Permit;
use crate::edge::waiting_room::WaitingPlace;
use crate::fleet::places;
use crate::model::method::Method;
use crate::net::stream::Stream;
use crate::rejection::close::{CloseReason, SessionEnd};
use crate::session::conversation::Conversation;
use crate::session::events::SessionEnded;
use crate::session::registry::{CloseSignal, SessionGuard, SessionHandle};
use crate::session::relay::{Opening, Relay, RelayLimits};
use crate::session::revalidation::Revalidation;
use crate::session::session_counts::CountedPlace;
use crate::session::state::SessionRules;
use crate::telemetry::Event;
use crate::upstream::ServerPlace;
use crate::ws::frame::Message;

/// The client's side of a session before it begins.
pub(super) struct ClientSide {
    pub(super) stream: Stream,
    /// The 101, if it was not sent yet.
    pub(super) answer: Vec<u8>,
    /// The bytes that the upstream gets before everything else.
    pub(super) ahead: Vec<u8>,
    pub(super) early: Vec<u8>,
    pub(super) welcome: Option<Message>,
    pub(super) dialect: Dialect,
    /// The client compresses, and the upstream does not.
    pub(super) inflates: bool,
    pub(super) permit: Permit,
    /// The certificate of a client that logged in with it.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
    /// The place of a stranger in the waiting room: a client on a public route.
    pub(super) stranger: Option<WaitingPlace>,
}

pub(super) async fn open_session(
    client: ClientSide,
    grant: Grant,
    reached: OpenedUpstream,
    request: Request,
    edge: &Edge,
) {
    let now = Now::read();
    let OpenedUpstream {
        place,
        mut user_place,
        counted_place,
        session_id,
        upstream,
        early,
        took,
        ..
    } = reached;
    let route = Arc::clone(grant.route());
    let address = request.address();
    let exemplar = request.exemplar();
    let trace_id = request.trace_id().map(Box::new);
    let server = place.server();
    request.end_trace(TraceEnd::Session {
        session_id: session_id.as_str(),
        upstream: &route.upstream.name,
        server: &server,
    });
    let Request { request_id, origin, .. } = request;
    let handle = SessionHandle {
        id: session_id,
        issuer: grant.principal().map(|principal| Arc::clone(&principal.issuer)),
        user: grant.principal().map(|principal| principal.subject.as_str().into()),
        identity: Identity::of(grant.principal()),
        method: grant.method(),
        route: Arc::clone(&route),
        server,
        peer: address,
        request_id: request_id.clone(),
        trace_id,
        started: now.wall,
        expires_at: grant.expires_at().map_or(0, |at| at.0).into(),
        active_until: 0.into(),
        traffic: Default::default(),
        signal: CloseSignal::default(),
    };
    let session = edge.registry.open(handle);
    let facts = session.facts();
    let (principal, server) = (grant.principal(), &session.server);
    SessionStarted { session: facts, principal, server, handshake: took, exemplar }.emit();
    let mut record = Record { session, end: None };
    // A revocation that arrived while the upstream was reached did not find this session in the
    // registry.
    let is_revoked_by_list = client.certificate.is_some_and(|certificate| {
        record.session.note_certificate(Arc::clone(&certificate));
        edge.is_revoked(&certificate, now)
    });
    let is_revoked = is_revoked_by_list
        || edge.revocations.find_session(session_id.as_str(), grant.principal(), now).is_some();
    if is_revoked {
        record.session.close(CloseReason::Revoked);
    } else if let Some(user_place) = &mut user_place {
        user_place.begin(&record.session);
    }

    let (keepalive, reauth) = (&edge.config.keepalive, &route.reauth);
    let renews = grant.is_renewed_by_message();
    let logged_in_by_message = grant.method() == Some(Method::Message);
    let rules = SessionRules {
        keepalive: Arc::clone(keepalive),
        expires: grant
            .expires_at()
            .filter(|_| reauth.mode != ReauthMode::Off)
            .map(|at| now.instant_of(at)),
        renewing: renews.then(|| Arc::clone(reauth)),
        began_by_message: logged_in_by_message && client.dialect.hides_credentials(),
        close_codes: route.close_codes,
    };
    let limits = RelayLimits {
        buffered_bytes: edge.limits.buffered_bytes,
        message_bytes: edge.limits.message_bytes as u64,
        messages_per_second: edge.limits.messages_per_second,
        inflated_bytes: client.inflates.then_some(edge.limits.inflated_bytes as u64),
    };
    let close_timeout = keepalive.close_timeout;
    let revalidation = Revalidation::of(&grant, now);
    let renewal = renews.then(|| Renewal {
        authenticator: Arc::clone(&edge.in_force),
        grant,
        request_id,
        origin,
        peer: address,
    });
    // Only a client that uses the route's dialect gets messages from Usher: it logged in with it,
    // or will be asked in it to renew its grant.
    let conversation = match logged_in_by_message {
        true => Some(Conversation::new(client.dialect, renewal).begun_by_message()),
        false => renews.then(|| Conversation::new(client.dialect, renewal)),
    };

    let mut stream = client.stream;
    stream.note_session(record.session.user.is_some());
    let written = timeout(close_timeout, async {
        stream.write_all(&client.answer).await?;
        stream.flush().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        record.end =
            Some(SessionEnd { reason: CloseReason::ClientGone, ..SessionEnd::NEVER_BEGAN });
        return;
    }
    // A drain may have listed the sessions before this one was opened.
    edge.drain.close_in_window(&record.session);
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
    let running = Running {
        relay,
        record,
        _place: place,
        _user_place: user_place,
        _counted_place: counted_place,
        _stranger: client.stranger.map(Box::new),
        _permit: client.permit,
    };
    tokio::spawn(running);
}

/// A session's task. An `async` block would hold the relay twice: before its first poll, and
/// during it. The fields are dropped in this order.
struct Running {
    relay: Relay,
    record: Record,
    _place: ServerPlace,
    _user_place: Option<Box<places::SessionPlace>>,
    _counted_place: Option<Box<CountedPlace>>,
    _stranger: Option<Box<WaitingPlace>>,
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

/// Reports the session's end once, also if its task panics or is dropped.
struct Record {
    session: SessionGuard,
    end: Option<SessionEnd>,
}

impl Record {
    /// Returns the end of a session whose task panicked, or was dropped at the end of the process.
    /// Its traffic is the one that it reported last.
    fn dropped(&self) -> SessionEnd {
        let asked = self.session.asked_to_close().filter(|_| !std::thread::panicking());
        let [from_client, from_upstream] = self.session.traffic();
        SessionEnd {
            reason: asked.unwrap_or(CloseReason::Internal),
            code: None,
            duration: Now::read().wall.since(self.session.started),
            from_client,
            from_upstream,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(|| self.dropped());
        if self.end.is_some() {
            self.session.set_traffic([end.from_client, end.from_upstream]);
        }
        let rest = self.session.uncounted_traffic();
        let since_revoked = match end.reason {
            CloseReason::Revoked => self.session.closing_for(CloseReason::Revoked, Now::read()),
            _ => None,
        };
        SessionEnded { session: self.session.facts(), end: &end, rest, since_revoked }.emit();
    }
}
