//! An upgrade without a credential, on a route that takes one in the first message.
//!
//! early 101 -> wait for the message -> authenticate -> pick and dial -> relay. Bytes behind the
//! message are queued up to a limit, and delivered in order. Beyond the limit nothing is read: that
//! is backpressure. A refusal is sent in the client's dialect and ends with a close frame.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use http::header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout_at;

use super::admit::Admission;
use super::client_end::{ClientEnd, Switched};
use super::connection::ClientConnection;
use super::last_answer::write_and_close;
use super::open_session::{ClientSide, open_session};
use super::pending::PendingRequest;
use super::reach::{OpenedUpstream, reach};
use super::refusal::with_request_id;
use super::request::Request;
use super::switch::UpgradeOffer;
use super::witness::UnwatchedAdmission;
use crate::auth::credential::{Credential, Proof};
use crate::auth::first_message::{self, AuthMessage, Dialect, FirstMessageContent, Refused};
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::config::Route;
use crate::config::RouteMatch;
use crate::edge::Edge;
use crate::http::events::FirstMessageCame;
use crate::migration::shadow::Actual;
use crate::model::faults::FirstMessageFault;
use crate::model::method::Method;
use crate::net::stream::{SCRATCH, Stream, read_behind};
use crate::rejection::{Rejection, Side};
use crate::session::events::BufferFilled;
use crate::telemetry::Event;
use crate::traces::RequestPhase;
use crate::ws::deflate::{self, AgreedDeflate, InflateError};
use crate::ws::follow::{FollowRules, FrameFollower, HeldMessage, Hold, Pause, Segment};
use crate::ws::frame::{self, ControlKind, Message, Sender};

const READ_SIZE: usize = 4 * 1024;

/// A client between its 101 and its session.
struct PendingClient {
    stream: Stream,
    /// The 101, until it is sent.
    answer: Vec<u8>,
    /// Bytes that were received and not read yet.
    input: BytesMut,
    follower: FrameFollower,
    dialect: Dialect,
    deflate: Option<AgreedDeflate>,
    /// Bytes of the messages so far, inflated. The messages of the protocol before the credential
    /// count too.
    received: usize,
    /// The client's id of the message that was rejected.
    rejected_id: Option<String>,
}

/// A client whose upstream has accepted the upgrade.
struct AcceptedClient {
    grant: Grant,
    reached: OpenedUpstream,
    /// The client's id of its first message.
    id: Option<String>,
    /// Bytes that the upstream gets first.
    ahead: Vec<u8>,
    /// Bytes that the client sent behind its credential, in the same message.
    rest: Vec<u8>,
}

pub(super) async fn run(
    end: ClientEnd,
    mut request: Request,
    matched: RouteMatch,
    connection: ClientConnection,
    edge: &Edge,
) {
    request.method = Some(Method::Message);
    if connection.standing.belongs_to(request.address()).is_err() {
        return request.refuse(edge, end, Rejection::TooManyConnections.into()).await;
    }
    let Ok(mut client) = PendingClient::new(end, &request, &matched.route) else {
        return request.report_rejected(edge, &Rejection::ClientGone);
    };
    let mut pending = PendingRequest::new(&mut request, edge, Request::report_rejected);
    let accepted = Box::pin(accept(&mut client, &mut pending, &matched, &connection, edge)).await;
    pending.end();
    match accepted {
        Ok(accepted) => Box::pin(open_granted(client, accepted, connection, request, edge)).await,
        Err((rejection, id)) => {
            request.report_rejected(edge, &rejection);
            client.send_refusal(&rejection, id.as_deref(), &request, &matched.route).await;
        }
    }
}

/// A rejection, and the client's id of the message that it answers.
type RejectedMessage = (Rejection, Option<String>);

/// Waits for the credential, verifies it, and reaches an upstream.
async fn accept(
    client: &mut PendingClient,
    request: &mut Request,
    matched: &RouteMatch,
    connection: &ClientConnection,
    edge: &Edge,
) -> Result<AcceptedClient, RejectedMessage> {
    let message = first_message(client, request, &matched.route, edge).await;
    let AuthMessage { proof, id, forward, rest } =
        message.map_err(|rejection| (rejection, client.rejected_id.take()))?;
    let with_id = |rejection| (rejection, id.clone());
    let most = edge.limits.buffered_bytes;
    let by_ticket = matches!(proof, Proof::Ticket(_));
    let admission = Admission::of(edge);
    admission.cast_shadow(request, matched, Actual::Open);
    request.credential_at = Now::read();
    request.deadline = request.credential_at.mono + edge.limits.handshake_timeout;
    let verdict = {
        let credential = Some(Credential::message(proof));
        let mut unwatched = UnwatchedAdmission;
        let mut verifying =
            pin!(admission.authenticate(request, matched, credential, &mut unwatched));
        tokio::select! {
            biased;
            verdict = &mut verifying => verdict.map_err(|rejection| (rejection, None)),
            // A request to the store cannot be cancelled: the ticket is spent.
            () = client.queue(most) => Err((
                Rejection::ClientGone,
                if by_ticket { verifying.await.ok() } else { None },
            )),
        }
    };
    let grant = match verdict {
        Ok(grant) => grant,
        Err((rejection, spent)) => {
            if let Some(grant) = spent {
                request.report_lost_ticket(&grant);
            }
            return Err(with_id(rejection));
        }
    };
    // A rejected client keeps its place until it has gone.
    connection.standing.become_known();
    let reached = tokio::select! {
        biased;
        reached = reach(&grant, matched, request, connection, edge) => {
            reached.map_err(|refusal| refusal.rejection)
        }
        () = client.queue(most) => Err(Rejection::ClientGone),
    };
    if by_ticket && matches!(reached, Err(Rejection::ClientGone)) {
        request.report_lost_ticket(&grant);
    }
    let reached = reached.map_err(with_id)?;
    let [ahead, rest] = [forward, rest]
        .map(|message| message.map(|message| message.to_wire(Sender::Client)).unwrap_or_default());
    Ok(AcceptedClient { grant, reached, id, ahead, rest })
}

/// Sends the 101 and waits for the message with the credential. Then sets the offers to the
/// upstream to those that the 101 promised to the client.
async fn first_message(
    client: &mut PendingClient,
    request: &mut Request,
    route: &Route,
    edge: &Edge,
) -> Result<AuthMessage, Rejection> {
    let switch = request.switch.as_ref().ok_or(Rejection::Internal)?;
    let switched_at = Now::read().mono;
    let deadline = switched_at + route.first_message.timeout;
    let phase = request.begin_phase(RequestPhase::FirstMessage);
    let message = tokio::select! {
        message = timeout_at(deadline, client.next_credential()) => message
            .unwrap_or(Err(Rejection::FirstMessage(FirstMessageFault::Timeout))),
        () = edge.drain.refusing() => Err(Rejection::Draining),
    };
    request.end_phase(phase, message.as_ref().err());
    let message = message?;
    FirstMessageCame { route: &route.name, waited: switched_at.elapsed() }.emit();
    offer(&mut request.parts.headers, switch, client.deflate);
    Ok(message)
}

/// Offers to the upstream exactly the terms that the client was promised.
fn offer(headers: &mut HeaderMap, switch: &UpgradeOffer, deflate: Option<AgreedDeflate>) {
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    if let Some(protocol) = &switch.protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol.clone());
    }
    if let Some(agreed) = deflate {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed.header());
    }
}

async fn open_granted(
    client: PendingClient,
    accepted: AcceptedClient,
    connection: ClientConnection,
    request: Request,
    edge: &Edge,
) {
    let AcceptedClient { grant, reached, id, ahead, rest } = accepted;
    let inflates = match client.deflate.map(|agreed| agreed.is_kept_by(&reached.headers)) {
        None => false,
        Some(Ok(is_kept)) => !is_kept,
        Some(Err(why)) => {
            let rejection = Rejection::UpstreamProtocol(why);
            request.report_rejected(edge, &rejection);
            return client.send_refusal(&rejection, id.as_deref(), &request, grant.route()).await;
        }
    };
    let now = Now::read();
    let welcome = grant.principal().and_then(|principal| {
        client.dialect.accepted(&first_message::Accepted {
            user: &principal.subject,
            session_id: reached.session_id.as_str(),
            expires_at: grant.expires_at(),
            id: id.as_deref(),
            now: now.wall,
        })
    });
    let side = ClientSide {
        stream: client.stream,
        answer: Vec::new(),
        ahead,
        early: [&rest, &client.input[..]].concat(),
        welcome,
        dialect: client.dialect,
        inflates,
        permit: connection.permit,
        certificate: None,
        stranger: None,
    };
    open_session(side, grant, reached, request, edge).await;
}

impl PendingClient {
    /// Accepts the upgrade. Fails if the client has left.
    fn new(end: ClientEnd, request: &Request, route: &Route) -> io::Result<Self> {
        let dialect = Dialect::new(&route.first_message);
        // Later messages of a compressed stream can refer to the greeting, which Usher takes out.
        let deflate = if dialect.greeted_for_the_upstream() {
            None
        } else {
            deflate::agree(&request.parts.headers)
        };
        let hold = Some(Hold { most: dialect.longest(), binary: true });
        let request_id = request.request_id.as_str();
        let switch = request.switch.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let Switched { stream, answer, early } = end.switch(&switch.answer(deflate, request_id))?;
        Ok(Self {
            stream,
            answer,
            // A copy, so that the buffer of the head is freed.
            input: BytesMut::from(&early[..]),
            follower: FrameFollower::new(
                Sender::Client,
                FollowRules { hold, ..FollowRules::FOLLOW_ONLY },
            ),
            dialect,
            deflate,
            received: 0,
            rejected_id: None,
        })
    }

    /// Sends the 101 and the greeting, and waits for the message with the credential.
    async fn next_credential(&mut self) -> Result<AuthMessage, Rejection> {
        let mut out = std::mem::take(&mut self.answer);
        if let Some(greeting) = self.dialect.greeting() {
            out.extend(greeting.to_wire(Sender::Upstream));
        }
        loop {
            let found = self.read_messages(&mut out);
            if !out.is_empty() {
                self.stream.write_all(&out).await.map_err(|_| Rejection::ClientGone)?;
                self.stream.flush().await.map_err(|_| Rejection::ClientGone)?;
                out = Vec::new();
            }
            if let Some(auth) = found? {
                return Ok(auth);
            }
            tokio::task::yield_now().await;
            match read_behind(&mut self.stream, &mut self.input, READ_SIZE).await {
                Ok(0) | Err(_) => return Err(Rejection::ClientGone),
                Ok(_) => {}
            }
        }
    }

    /// Reads the messages that have arrived. Answers to them go into `out`.
    fn read_messages(&mut self, out: &mut Vec<u8>) -> Result<Option<AuthMessage>, Rejection> {
        let input = self.input.split();
        let mut rest = &input[..];
        while let Some(segment) = self
            .follower
            .next(&mut rest, Pause::MessageEnd)
            .map_err(|_| FirstMessageFault::Protocol)?
        {
            match segment {
                Segment::Control(control) => match control.kind {
                    ControlKind::Ping => {
                        out.extend(frame::pong(&control.payload, Sender::Upstream));
                    }
                    ControlKind::Close => {
                        // RFC 6455 section 5.5.1: "the endpoint MUST send a Close frame in
                        // response".
                        out.extend(frame::close(
                            control.close_code().or_protocol_error(),
                            "",
                            Sender::Upstream,
                        ));
                        return Err(Rejection::ClientGone);
                    }
                    ControlKind::Pong => {}
                    ControlKind::Other => return Err(FirstMessageFault::Protocol.into()),
                },
                Segment::Message(held) => {
                    let message = self.inflated(held)?;
                    self.received += message.payload.len();
                    if self.received > self.dialect.longest() {
                        return Err(FirstMessageFault::TooBig.into());
                    }
                    match self
                        .dialect
                        .read(&message)
                        .inspect_err(|_| self.rejected_id = self.dialect.id_in(&message))?
                    {
                        FirstMessageContent::More(answer) => out.extend(
                            answer.into_iter().flat_map(|answer| answer.to_wire(Sender::Upstream)),
                        ),
                        FirstMessageContent::Auth(auth) => {
                            let behind = input.len() - rest.len();
                            self.input = input;
                            self.input.advance(behind);
                            return Ok(Some(auth));
                        }
                    }
                }
                Segment::Pass([first, ..]) if matches!(first & 0x0f, 3..=7) => {
                    return Err(FirstMessageFault::Protocol.into());
                }
                Segment::Bytes(bytes)
                    if bytes.first().is_some_and(|first| matches!(first & 0x0f, 3..=7)) =>
                {
                    return Err(FirstMessageFault::Protocol.into());
                }
                // The message is longer than a held one may be.
                Segment::Pass(_) | Segment::Bytes(_) | Segment::Compressed(_) => {
                    return Err(FirstMessageFault::TooBig.into());
                }
            }
        }
        Ok(None)
    }

    fn inflated(&self, held: HeldMessage) -> Result<Message, Rejection> {
        let payload = match (held.is_compressed, self.deflate) {
            (false, _) => held.payload,
            (true, None) => return Err(FirstMessageFault::Protocol.into()),
            (true, Some(_)) => deflate::inflate(&held.payload, self.dialect.longest()).map_err(
                |error| match error {
                    InflateError::TooLarge => FirstMessageFault::TooBig,
                    InflateError::Broken => FirstMessageFault::Protocol,
                },
            )?,
        };
        Ok(Message { is_text: held.is_text, payload })
    }

    /// Queues bytes from the client, up to `most`, and up to the bound of the relay. Completes when
    /// the client has left.
    async fn queue(&mut self, most: usize) {
        let most = most.min(SCRATCH);
        while self.input.len() < most {
            let room = READ_SIZE.min(most - self.input.len());
            match read_behind(&mut self.stream, &mut self.input, room).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
        BufferFilled.emit();
        poll_fn(|cx| {
            self.stream.absorb(cx);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Sends the reason in the client's dialect, and a close frame.
    async fn send_refusal(
        mut self,
        rejection: &Rejection,
        id: Option<&str>,
        request: &Request,
        route: &Route,
    ) {
        if *rejection == Rejection::ClientGone {
            return;
        }
        debug_assert!(rejection.can_follow_101(), "{rejection}");
        let facts = rejection.facts();
        let message = rejection.message();
        let is_upstream = facts.side == Side::Upstream;
        let (code, mut reason) = rejection.close(route.close_codes);
        let request_id = request.request_id.as_str();
        if !self.dialect.refusal_has_request_id() {
            reason = with_request_id(&reason, request_id);
        }
        let refused = Refused {
            code: if is_upstream { "UPSTREAM_UNAVAILABLE" } else { facts.code },
            message: &message,
            status: if is_upstream { 502 } else { facts.status.as_u16() },
            recoverable: facts.recoverable,
            details: &rejection.details(),
            request_id,
            id,
            now: Now::read().wall,
        };
        let mut wire = self
            .dialect
            .refused(&refused)
            .map(|message| message.to_wire(Sender::Upstream))
            .unwrap_or_default();
        wire.extend(frame::close(code, &reason, Sender::Upstream));
        self.stream.note_refusal();
        write_and_close(self.stream, &wire).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_behind_the_credential_are_queued_up_to_the_limit_and_the_relay_s_bound() {
        let config = crate::config::for_test("auth = [\"message\"]");
        for (most, queued) in [(10_000, 10_000), (1 << 20, SCRATCH)] {
            let (mut sender, stream) = UnixStream::pair().unwrap();
            let mut client = PendingClient {
                stream: Stream::Unix(stream),
                answer: Vec::new(),
                input: BytesMut::new(),
                follower: FrameFollower::new(Sender::Client, FollowRules::FOLLOW_ONLY),
                dialect: Dialect::new(&config.routes[0].first_message),
                deflate: None,
                received: 0,
                rejected_id: None,
            };
            let sending = async {
                sender.write_all(&[7; 2 * SCRATCH]).await.unwrap();
                std::future::pending::<()>().await;
            };
            let queueing = async { tokio::join!(client.queue(most), sending) };
            assert!(timeout(Duration::from_secs(1), queueing).await.is_err());
            assert_eq!(client.input.len(), queued);
        }
    }
}
