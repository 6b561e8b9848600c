//! A session's future: moves bytes in both directions, and carries out the rules.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};

use super::conversation::Conversation;
use super::direction::{Direction, MessageContext, PING, PumpResult, flush, pump};
use super::events::Revalidated;
use super::message_rate::MessageRate;
use super::registry::SessionHandle;
use super::revalidation::{Revalidation, RevalidationResult};
use super::state::{SessionAction, SessionRules, SessionState};
use crate::base::clock::{self, Now};
use crate::net::stream::Stream;
use crate::rejection::close::{CloseReason, SessionEnd};
use crate::telemetry::Event;
use crate::ws::close_code::CloseCode;
use crate::ws::follow;
use crate::ws::frame::{self, Message, Sender};

/// The most rounds of one poll, so that a busy session lets others run.
const TURNS: usize = 2;

#[derive(Debug)]
pub struct Relay {
    client: Stream,
    upstream: Stream,
    /// From the client to the upstream, and back.
    inbound: Direction,
    outbound: Direction,
    state: SessionState,
    /// Boxed: most sessions of a busy server need none, or do not use it for hours.
    conversation: Option<Box<Conversation>>,
    /// Boxed: few sessions depend on a verifier.
    revalidation: Option<Box<Revalidation>>,
    sleep: Pin<Box<Sleep>>,
    asleep_until: Option<Instant>,
    session: Arc<SessionHandle>,
    started: Instant,
    /// The sending side to the client is shut down.
    client_is_shut: bool,
}

/// Two connections that will become one session.
#[derive(Debug)]
pub struct Opening {
    pub client: Stream,
    pub upstream: Stream,
    /// Bytes that the upstream gets first.
    pub ahead: Vec<u8>,
    /// Bytes that each side sent before the relay began.
    pub early_in: Vec<u8>,
    pub early_out: Vec<u8>,
    /// The first message that the client gets.
    pub welcome: Option<Message>,
    pub conversation: Option<Conversation>,
    pub revalidation: Option<Revalidation>,
    pub limits: RelayLimits,
}

#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// The most bytes that are kept for one direction while the other side does not take them.
    pub buffered_bytes: usize,
    pub message_bytes: u64,
    pub messages_per_second: Option<usize>,
    /// The most bytes that one message may inflate to. Set if the client compresses and the
    /// upstream does not.
    pub inflated_bytes: Option<u64>,
}

impl Relay {
    pub fn new(opening: Opening, rules: SessionRules, session: Arc<SessionHandle>) -> Self {
        let started = Now::read().mono;
        let Opening {
            client,
            upstream,
            ahead,
            early_in,
            early_out,
            welcome,
            conversation,
            revalidation,
            limits,
        } = opening;
        let follow_client = follow::FollowRules {
            message_bytes: limits.message_bytes,
            takes_out_compressed: limits.inflated_bytes.is_some(),
            ..follow::FollowRules::FOLLOW_ONLY
        };
        let rate = limits.messages_per_second.map(|count| MessageRate::new(count, started));
        let mut inbound =
            Direction::new(Sender::Client, follow_client, limits.buffered_bytes, early_in)
                .limited_to(rate)
                .beginning_with(ahead);
        if let Some(most) = limits.inflated_bytes {
            inbound = inbound.inflating(most);
        }
        let mut outbound = Direction::new(
            Sender::Upstream,
            follow::FollowRules::FOLLOW_ONLY,
            limits.buffered_bytes,
            early_out,
        );
        outbound.hold(conversation.as_ref().and_then(Conversation::holds_of_upstream));
        if let Some(welcome) = welcome {
            outbound.insert_message(welcome.to_wire(Sender::Upstream));
        }
        Self {
            client,
            upstream,
            inbound,
            outbound,
            state: SessionState::new(rules, started),
            conversation: conversation.map(Box::new),
            revalidation: revalidation.map(Box::new),
            sleep: Box::pin(tokio::time::sleep_until(started + Duration::from_secs(3600))),
            asleep_until: None,
            session,
            started,
            client_is_shut: false,
        }
    }

    fn end(&self, reason: CloseReason) -> SessionEnd {
        SessionEnd {
            reason,
            code: self.state.close_code(),
            duration: self.started.elapsed(),
            from_client: self.inbound.traffic(),
            from_upstream: self.outbound.traffic(),
        }
    }

    fn act(&mut self, action: SessionAction, now: Instant) {
        match action {
            SessionAction::Ping => self.outbound.insert_control(frame::ping(PING)),
            SessionAction::Ask => {
                let question = self
                    .conversation
                    .as_ref()
                    .and_then(|conversation| conversation.ask(&self.session, Now::at(now)));
                self.insert_message(question);
            }
            SessionAction::Close(reason) => {
                let farewell = self.conversation.as_ref().and_then(|conversation| {
                    conversation.farewell(reason, &self.session, Now::at(now))
                });
                self.insert_message(farewell);
                let to_client = reason
                    .to_client(self.state.close_codes())
                    .map(|(code, text)| frame::close(code, text, Sender::Upstream));
                let to_upstream = reason
                    .facts()
                    .to_upstream
                    .map(|(code, text)| frame::close(code, text, Sender::Client));
                for (direction, close, receiver) in [
                    (&mut self.inbound, to_upstream, Sender::Upstream),
                    (&mut self.outbound, to_client, Sender::Client),
                ] {
                    // A side that cannot get a close frame is not waited for: its connection just
                    // ends.
                    if close.is_some_and(|close| !direction.insert_close(close)) {
                        self.state.handle_end_of_stream(receiver, now);
                    }
                }
            }
            SessionAction::End(_) => {}
        }
    }

    fn insert_message(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            self.outbound.insert_message(message.to_wire(Sender::Upstream));
        }
    }

    /// Moves bytes in both directions.
    fn pump(&mut self, cx: &mut Context<'_>, now: Instant) -> PumpResult {
        if let Some(conversation) = &self.conversation {
            self.inbound.hold(conversation.holds(&self.state));
        }
        self.drop_held_messages();
        let awaits_login_answer = self.awaits_login_answer();
        let mut context = MessageContext {
            state: &mut self.state,
            conversation: self.conversation.as_deref_mut(),
            route: &self.session.route.name,
            now,
        };
        let was_crowded = self.outbound.is_crowded();
        let mut inbound = PumpResult::Nothing;
        if awaits_login_answer {
            // Only the login itself is written.
            flush(&mut self.inbound, &mut self.upstream, cx);
            self.client.absorb(cx);
        } else if was_crowded {
            self.client.absorb(cx);
        } else {
            inbound =
                pump(&mut self.inbound, &mut context, &mut self.client, &mut self.upstream, cx);
        }
        let outbound =
            pump(&mut self.outbound, &mut context, &mut self.upstream, &mut self.client, cx);
        if let Some(conversation) = &mut self.conversation {
            conversation.count_upstream(self.outbound.traffic().messages, &mut self.state, now);
        }
        let is_free = (was_crowded && !self.outbound.is_crowded())
            || (awaits_login_answer && !self.awaits_login_answer());
        if is_free { PumpResult::More } else { inbound.max(outbound) }
    }

    /// Returns true while the client's messages have to wait for the upstream's answer to the
    /// login.
    fn awaits_login_answer(&self) -> bool {
        self.state.is_open()
            && self
                .conversation
                .as_ref()
                .is_some_and(|conversation| conversation.awaits_login_answer())
    }

    /// Drops the bytes that wait behind a login, if the session ends before the login was answered.
    /// They never reach the upstream.
    fn drop_held_messages(&mut self) {
        let Some(conversation) = &mut self.conversation else { return };
        if self.state.is_open() || !conversation.forget_login() {
            return;
        }
        if self.state.is_ending() {
            // Usher's close frame is on its way.
            self.inbound.ignore_rest();
        } else {
            // The upstream has sent a close frame. The client's answer to it is among the dropped
            // bytes, so Usher answers.
            let code = self.state.close_code().unwrap_or(CloseCode::GOING_AWAY).or_protocol_error();
            self.inbound.insert_close(frame::close(code, "", Sender::Client));
        }
    }

    /// Handles the verdict on a credential. Returns true if there was one.
    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(conversation) = &mut self.conversation else { return false };
        let Poll::Ready(told) = conversation.poll_verdict(cx, &mut self.state, &self.session)
        else {
            return false;
        };
        if let Some(grant) = conversation.take_renewed() {
            // The new credential may be of another kind.
            self.revalidation = Revalidation::of(grant, Now::read()).map(Box::new);
        }
        self.insert_message(told);
        true
    }

    /// Handles a new answer of the verifier about the credential. Returns true if there was one.
    fn poll_verifier(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(revalidation) = &mut self.revalidation else { return false };
        if !self.state.is_open() {
            return false;
        }
        let Poll::Ready(heard) =
            revalidation.poll(cx, self.session.user.as_deref(), self.session.expires_at())
        else {
            return false;
        };
        let now = Now::read();
        Revalidated {
            session: self.session.facts(),
            verifier: revalidation.verifier(),
            heard: &heard,
        }
        .emit();
        match heard {
            RevalidationResult::Good { expires_at } => {
                self.state.handle_revalidated(now.instant_of(expires_at), now.mono);
                self.session.set_expires_at(Some(expires_at));
            }
            RevalidationResult::Revoked => {
                self.state.handle_close_request(CloseReason::Revoked, now.mono);
            }
            RevalidationResult::Away { too_long: true } => {
                self.state.handle_close_request(CloseReason::SessionExpired, now.mono);
            }
            RevalidationResult::Away { too_long: false } => {}
        }
        true
    }

    /// Shuts down the connection to a client whose frames cannot be followed. The client has
    /// Usher's close frame, and its own could not be understood.
    fn shut_client(&mut self, cx: &mut Context<'_>) {
        let done = self.state.is_ending()
            && self.inbound.is_unreadable()
            && self.outbound.has_sent_close();
        if done && !self.client_is_shut && self.outbound.is_flushed() {
            self.client_is_shut = Pin::new(&mut self.client).poll_shutdown(cx).is_ready();
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.state.next_deadline() else { return Poll::Pending };
        if self.asleep_until != Some(deadline) {
            self.sleep.as_mut().reset(deadline);
            self.asleep_until = Some(deadline);
        } else if !self.sleep.is_elapsed() {
            // The timer already has the waker.
            return Poll::Pending;
        }
        let due = self.sleep.as_mut().poll(cx);
        if due.is_ready() {
            self.asleep_until = None;
        }
        due
    }

    /// Returns true if no bytes wait to be written.
    fn is_flushed(&self) -> bool {
        self.inbound.is_flushed() && self.outbound.is_flushed()
    }
}

impl Future for Relay {
    type Output = SessionEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let this = self.get_mut();
        let now = clock::monotonic();
        // Compared with the clock itself: the timer may be late on a busy thread.
        if this.state.next_deadline().is_some_and(|deadline| deadline <= now) {
            this.state.handle_deadline(now);
        }
        if let Poll::Ready(reason) = this.session.poll_close(cx) {
            this.state.handle_close_request(reason, now);
        }
        let mut turns = 0;
        loop {
            let pump_result = this.pump(cx, now);
            if pump_result > PumpResult::Nothing {
                this.session.touch(now.saturating_duration_since(this.started));
                this.session.set_traffic([this.inbound.traffic(), this.outbound.traffic()]);
            }
            let mut acted = this.poll_verdict(cx);
            acted |= this.poll_verifier(cx);
            while let Some(action) = this.state.poll_action() {
                if let SessionAction::End(reason) = action {
                    // The last frames go out first, as long as the linger timer runs.
                    flush(&mut this.outbound, &mut this.client, cx);
                    flush(&mut this.inbound, &mut this.upstream, cx);
                    if this.is_flushed() || this.state.next_deadline().is_none() {
                        let _ = Pin::new(&mut this.client).poll_shutdown(cx);
                        let _ = Pin::new(&mut this.upstream).poll_shutdown(cx);
                        return Poll::Ready(this.end(reason));
                    }
                    break;
                }
                this.act(action, now);
                acted = true;
            }
            this.shut_client(cx);
            if this.poll_deadline(cx).is_ready() {
                this.state.handle_deadline(Now::read().mono);
                acted = true;
            }
            turns += 1;
            if pump_result < PumpResult::More && !acted {
                return Poll::Pending;
            }
            if turns >= TURNS {
                // Lets other tasks, sockets and timers go first. A task that wakes itself would run
                // again before sockets and timers are polled.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
