//! An upgrade without a credential, on a route that takes one in the first message.
//!
//! early 101 -> wait for the message -> authenticate -> pick and dial -> relay. What the client sends behind the message is
//! queued, up to a limit, and delivered in order; beyond the limit nothing is read, which is backpressure. A refusal is said
//! in the client's own dialect and ends with a close frame.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use http::header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::begin::{ClientSide, begin};
use super::guard::Guard;
use super::reach::{Reached, reach};
use super::serve::{Client, write_and_linger};
use super::switch::Switch;
use super::upgrade::{Attempted, Request, ticket_lost};
use crate::app::Worker;
use crate::auth::Presented;
use crate::auth::credential::{Credential, Method, Proof};
use crate::auth::first_message::{Accepted, AuthMessage, Dialect, FirstMessageFault, Heard, Refused};
use crate::auth::grant::Grant;
use crate::clock::Now;
use crate::config::Route;
use crate::migration;
use crate::migration::shadow::Actual;
use crate::rejection::{Rejection, Side};
use crate::stream::{Stream, read_behind};
use crate::telemetry::event::Event;
use crate::ws::deflate::{self, Agreed, InflateError};
use crate::ws::follow::{FrameFollower, HeldMessage, Hold, Pause, Rules, Segment};
use crate::ws::frame::{self, ControlKind, Message, Sender};

const READ_SIZE: usize = 4 * 1024;

/// The client, between the 101 and the session.
struct Door {
    stream: Stream,
    /// Came, and is not understood yet.
    input: BytesMut,
    follower: FrameFollower,
    dialect: Dialect,
    deflate: Option<Agreed>,
    /// What was heard so far, inflated: the protocol's small talk counts too.
    heard: usize,
    /// The client's name for the message that was refused.
    refused_id: Option<String>,
}

/// A client that is in.
struct Entered {
    grant: Grant,
    reached: Reached,
    /// The client's name for its first message.
    id: Option<String>,
    /// What the upstream is to get before everything else.
    ahead: Vec<u8>,
}

pub(super) async fn run(guard: Guard, request: Request, switch: Switch, mut client: Client, worker: Worker, mut attempted: Attempted) {
    let route = Arc::clone(&request.matched.route);
    if client.waiting.as_mut().is_some_and(|waiting| waiting.belongs_to(attempted.address).is_err()) {
        return attempted.refuse(guard.into_parts().0, Rejection::TooManyConnections.into()).await;
    }
    let dialect = Dialect::new(&route.first_message);
    // What is taken out of a compressed stream would be missed by what comes after it.
    let deflate = if dialect.greeted_for_the_upstream() { None } else { deflate::agree(&request.parts.headers) };
    let hold = Some(Hold { most: dialect.longest(), binary: true });
    let (stream, input) = guard.into_parts();
    // The head's buffer has done its work.
    let input = BytesMut::from(&input[..]);
    let follower = FrameFollower::new(Sender::Client, Rules { hold, ..Rules::FOLLOW_ONLY });
    let mut door = Door { stream, input, follower, dialect, deflate, heard: 0, refused_id: None };

    match Box::pin(enter(&mut door, request, switch, &mut client, &worker, &mut attempted)).await {
        Ok(entered) => Box::pin(go_in(door, entered, client, attempted, worker)).await,
        Err((rejection, id)) => {
            attempted.tell(&rejection);
            door.say_no(&rejection, id.as_deref(), &attempted, &route).await;
        }
    }
}

async fn enter(
    door: &mut Door,
    mut request: Request,
    switch: Switch,
    client: &mut Client,
    worker: &Worker,
    attempted: &mut Attempted,
) -> Result<Entered, (Rejection, Option<String>)> {
    let route = Arc::clone(&request.matched.route);
    let switched_at = Instant::now();
    let deadline = switched_at + route.first_message.timeout;
    let answer = switch.answer(door.deflate, attempted.request_id.as_str());
    let heard = tokio::select! {
        heard = timeout_at(deadline, door.wait(answer)) => heard.unwrap_or(Err(Rejection::FirstMessage(FirstMessageFault::Timeout))),
        () = worker.edge.drain.begun() => Err(Rejection::Draining),
    };
    let AuthMessage { proof, id, forward, rest } = heard.map_err(|rejection| (rejection, door.refused_id.take()))?;
    Event::FirstMessage { route: &route.name, waited: switched_at.elapsed() }.emit();
    attempted.method = Some(Method::Message);

    request.cast_shadow(worker, attempted, Actual::Open);
    offer(&mut request.parts.headers, &switch, door.deflate);
    let by_ticket = matches!(proof, Proof::Ticket(_));
    let credential = Credential::message(proof);
    let waiting = client.waiting.take();
    let origin = attempted.origin.clone();
    let (request_id, most) = (attempted.request_id, worker.edge.limits.buffered_bytes);
    let proven = {
        let now = Now::read();
        let presented = Presented { request_id: request_id.as_str(), origin: origin.as_deref(), peer: request.address };
        let limit = now.mono + worker.edge.limits.handshake_timeout;
        let mut proving = pin!(worker.edge.authenticator.authenticate_by(limit, &request.matched, Some(credential), presented, now));
        tokio::select! {
            biased;
            proven = &mut proving => proven,
            () = door.queue(most) => {
                // What was sent to the store is not called back: the ticket is spent, and that is told.
                if by_ticket && let Ok(grant) = proving.await {
                    ticket_lost(&grant, request_id);
                }
                Err(Rejection::ClientGone)
            }
        }
    };
    drop(waiting);
    let grant = match proven {
        Ok(grant) => grant,
        Err(rejection) => return Err((rejection, id)),
    };
    if let Err(rejection) = migration::admit(&grant, request.address, &worker.edge.legacy_uses, Now::read().wall) {
        return Err((rejection, id));
    }
    let reached = tokio::select! {
        biased;
        reached = reach(&grant, request, worker, Now::read()) => reached.map_err(|refusal| refusal.rejection),
        () = door.queue(most) => Err(Rejection::ClientGone),
    };
    match reached {
        Ok(reached) => {
            let ahead = [forward, rest].into_iter().flatten().flat_map(|message| message.to_wire(Sender::Client)).collect();
            Ok(Entered { grant, reached, id, ahead })
        }
        Err(rejection) => {
            if by_ticket && rejection == Rejection::ClientGone {
                ticket_lost(&grant, request_id);
            }
            Err((rejection, id))
        }
    }
}

/// The upstream is offered exactly what the client was promised.
fn offer(headers: &mut HeaderMap, switch: &Switch, deflate: Option<Agreed>) {
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    if let Some(protocol) = &switch.protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol.clone());
    }
    if let Some(agreed) = deflate {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed.header());
    }
}

async fn go_in(door: Door, entered: Entered, client: Client, attempted: Attempted, worker: Worker) {
    let Entered { grant, reached, id, ahead } = entered;
    let inflates = match door.deflate.map(|agreed| agreed.is_kept_by(&reached.headers)) {
        None => false,
        Some(Ok(is_kept)) => !is_kept,
        Some(Err(why)) => {
            let rejection = Rejection::UpstreamProtocol(why);
            attempted.tell(&rejection);
            return door.say_no(&rejection, id.as_deref(), &attempted, grant.route()).await;
        }
    };
    let now = Now::read();
    let welcome = grant.principal().and_then(|principal| {
        door.dialect.accepted(&Accepted {
            user: &principal.subject,
            session_id: reached.session_id.as_str(),
            expires_at: grant.expires_at(),
            id: id.as_deref(),
            now: now.wall,
        })
    });
    let awaits_greeting = door.dialect.greeted_for_the_upstream();
    let side = ClientSide {
        stream: door.stream,
        answer: Vec::new(),
        ahead,
        early: door.input.to_vec(),
        welcome,
        dialect: door.dialect,
        awaits_greeting,
        inflates,
        permit: client.permit,
    };
    begin(side, grant, reached, attempted, worker).await;
}

impl Door {
    /// Sends the 101 and the greeting, and waits for the message with the credential.
    async fn wait(&mut self, answer: Vec<u8>) -> Result<AuthMessage, Rejection> {
        let mut out = answer;
        if let Some(greeting) = self.dialect.greeting() {
            out.extend(greeting.to_wire(Sender::Upstream));
        }
        loop {
            let heard = self.hear(&mut out);
            if !out.is_empty() {
                self.stream.write_all(&out).await.map_err(|_| Rejection::ClientGone)?;
                self.stream.flush().await.map_err(|_| Rejection::ClientGone)?;
                out = Vec::new();
            }
            if let Some(auth) = heard? {
                return Ok(auth);
            }
            tokio::task::yield_now().await;
            match read_behind(&mut self.stream, &mut self.input, READ_SIZE).await {
                Ok(0) | Err(_) => return Err(Rejection::ClientGone),
                Ok(_) => {}
            }
        }
    }

    /// Understands what has come. What is to be answered goes into `out`.
    fn hear(&mut self, out: &mut Vec<u8>) -> Result<Option<AuthMessage>, Rejection> {
        let input = self.input.split();
        let mut rest = &input[..];
        while let Some(segment) = self.follower.next(&mut rest, Pause::MessageEnd).map_err(|_| FirstMessageFault::Protocol)? {
            match segment {
                Segment::Control(control) => match control.kind {
                    ControlKind::Ping => out.extend(frame::pong(&control.payload, Sender::Upstream)),
                    ControlKind::Close => {
                        // RFC 6455, section 5.5.1: "the endpoint MUST send a Close frame in response".
                        out.extend(frame::close(control.close_code().or_protocol_error(), "", Sender::Upstream));
                        return Err(Rejection::ClientGone);
                    }
                    ControlKind::Pong => {}
                    ControlKind::Other => return Err(FirstMessageFault::Protocol.into()),
                },
                Segment::Message(held) => {
                    let message = self.plain(held)?;
                    self.heard += message.payload.len();
                    if self.heard > self.dialect.longest() {
                        return Err(FirstMessageFault::TooBig.into());
                    }
                    match self.dialect.hear(&message).inspect_err(|_| self.refused_id = self.dialect.id_in(&message))? {
                        Heard::More(answer) => out.extend(answer.into_iter().flat_map(|answer| answer.to_wire(Sender::Upstream))),
                        Heard::Auth(auth) => {
                            let behind = input.len() - rest.len();
                            self.input = input;
                            self.input.advance(behind);
                            return Ok(Some(auth));
                        }
                    }
                }
                Segment::Pass([first, ..]) if matches!(first & 0x0f, 3..=7) => return Err(FirstMessageFault::Protocol.into()),
                Segment::Bytes(bytes) if bytes.first().is_some_and(|first| matches!(first & 0x0f, 3..=7)) => {
                    return Err(FirstMessageFault::Protocol.into());
                }
                // It is longer than what is held.
                Segment::Pass(_) | Segment::Bytes(_) | Segment::Compressed(_) => return Err(FirstMessageFault::TooBig.into()),
            }
        }
        Ok(None)
    }

    fn plain(&self, held: HeldMessage) -> Result<Message, Rejection> {
        let payload = match (held.is_compressed, self.deflate) {
            (false, _) => held.payload,
            (true, None) => return Err(FirstMessageFault::Protocol.into()),
            (true, Some(_)) => deflate::inflate(&held.payload, self.dialect.longest()).map_err(|error| match error {
                InflateError::TooLarge => FirstMessageFault::TooBig,
                InflateError::Broken => FirstMessageFault::Protocol,
            })?,
        };
        Ok(Message { is_text: held.is_text, payload })
    }

    /// Takes in what the client sends meanwhile, as far as `most`. Completes when the client is gone.
    async fn queue(&mut self, most: usize) {
        while self.input.len() < most {
            if !matches!(read_behind(&mut self.stream, &mut self.input, READ_SIZE).await, Ok(count) if count > 0) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Says why in the client's dialect, and with a close frame.
    async fn say_no(self, rejection: &Rejection, id: Option<&str>, attempted: &Attempted, route: &Route) {
        if *rejection == Rejection::ClientGone {
            return;
        }
        let facts = rejection.facts();
        let message = rejection.message();
        let is_upstream = facts.side == Side::Upstream;
        let (code, reason) = rejection.close(route.close_codes);
        let refused = Refused {
            code: if is_upstream { "UPSTREAM_UNAVAILABLE" } else { facts.code },
            message: &message,
            status: if is_upstream { 502 } else { facts.status.as_u16() },
            recoverable: facts.recoverable,
            request_id: attempted.request_id.as_str(),
            id,
            now: Now::read().wall,
        };
        let mut wire = self.dialect.refused(&refused).map(|message| message.to_wire(Sender::Upstream)).unwrap_or_default();
        wire.extend(frame::close(code, &reason, Sender::Upstream));
        write_and_linger(self.stream, &wire).await;
    }
}
