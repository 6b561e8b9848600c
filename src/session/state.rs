//! The rules of a session: events with the time in, actions out. No I/O, no clock.
//!
//! A driver calls `handle_*` for each event, then `poll_action` until it returns `None`. Then it
//! waits for bytes, for a close from the registry, or for `next_deadline`. This module decides when
//! to ping, when to end, and what each side gets. The driver knows where frames begin and end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::timer::{Timer, TimerTable};
use crate::config::{Keepalive, Reauth};
use crate::rejection::close::CloseCodes;
use crate::rejection::close::CloseReason;
use crate::ws::close_code::CloseCode;
use crate::ws::frame::Sender;

/// The wait for the peers of a revoked session. It is shorter than others: a client that stops in
/// the middle of a frame can still send to the upstream.
const REVOKED_LINGER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct SessionState {
    rules: SessionRules,
    phase: Phase,
    timers: TimerTable,
    client_heard: Instant,
    /// Usher's pings that the client has not answered.
    pinged: u32,
    /// A ping waits to be sent.
    ping_due: bool,
    /// The time of the last ping, until the client answers one.
    pinged_at: Option<Instant>,
    code: Option<CloseCode>,
    asking: RenewalPhase,
    /// The question waits to be sent.
    ask_due: bool,
    /// A credential is being judged.
    judging: bool,
    attempts_left: u32,
    /// The client may send credentials in messages: it sent one, or was asked for one.
    shows_credentials: bool,
}

/// The rules of a session. Those of the configuration are shared: every session has them.
#[derive(Clone, Debug)]
pub struct SessionRules {
    pub keepalive: Arc<Keepalive>,
    /// The end of the grant. `None` for a public session, and for one that may outlive its grant.
    pub expires: Option<Instant>,
    /// `None`: the session ends with its grant.
    pub renewing: Option<Arc<Reauth>>,
    /// The client sent its credential in a message. It may send it again at any time, and the
    /// upstream must not see it.
    pub began_by_message: bool,
    pub close_codes: CloseCodes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RenewalPhase {
    Quiet,
    /// The client was asked, and has time until `Timer::Answer`.
    Asked,
    /// The grant was renewed just now. A second answer to the same question may still come, and
    /// must not reach the upstream.
    Settling,
}

/// The handling of a client's message for Usher. The upstream never sees the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    Judge,
    Ignore,
}

/// A pong of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// It answers Usher's ping. The upstream did not ask, and must not see it.
    Ours {
        /// `None`: an earlier pong has answered the last ping.
        round_trip: Option<Duration>,
    },
    Foreign,
}

/// The result of a check of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalVerdict {
    /// The grant is extended until this time.
    Renewed {
        expires: Option<Instant>,
    },
    Wrong,
    /// The credential could not be checked, which is not the client's fault.
    Unknown,
    OtherSubject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close frame of a peer has passed, or a peer is gone. The other peer's answer is awaited.
    Leaving {
        reason: CloseReason,
        client_done: bool,
        upstream_done: bool,
    },
    /// Usher ends the session: close frames go to each side that is still there.
    Ending {
        reason: CloseReason,
        told: bool,
        client_done: bool,
        upstream_done: bool,
    },
    Ended {
        reason: CloseReason,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAction {
    /// Put a ping into the stream to the client.
    Ping,
    /// Put the question for a new credential into the stream to the client.
    Ask,
    /// Put close frames of this reason between the frames of both directions, and forward nothing
    /// after them.
    Close(CloseReason),
    /// Both sides are done: flush, shut down, drop.
    End(CloseReason),
}

impl SessionState {
    pub fn new(rules: SessionRules, now: Instant) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Ping, now + rules.keepalive.ping);
        timers.set(Timer::Idle, now + rules.keepalive.idle_timeout);
        let expires = rules.expires;
        let mut state = Self {
            phase: Phase::Open,
            timers,
            client_heard: now,
            pinged: 0,
            ping_due: false,
            pinged_at: None,
            code: None,
            asking: RenewalPhase::Quiet,
            ask_due: false,
            judging: false,
            attempts_left: rules.renewing.as_ref().map_or(0, |renewing| renewing.attempts),
            shows_credentials: rules.began_by_message,
            rules,
        };
        state.live_until(expires, now);
        state
    }

    fn renewing(&self) -> Option<Reauth> {
        self.rules.renewing.as_deref().copied()
    }

    /// Sets the deadlines of a grant that was given now.
    fn live_until(&mut self, expires: Option<Instant>, now: Instant) {
        self.rules.expires = expires;
        self.timers.stop(Timer::Ask);
        self.timers.stop(Timer::Expiry);
        let Some(expires) = expires else { return };
        match self.renewing() {
            None => self.timers.set(Timer::Expiry, expires),
            Some(renewing) => {
                // A client with a token of one minute is not asked for the next one at once.
                let halfway = now + expires.saturating_duration_since(now) / 2;
                let early = expires.checked_sub(renewing.before_expiry).unwrap_or(now);
                self.timers.set(Timer::Ask, early.max(halfway));
            }
        }
    }

    /// Returns true if a message of the client may carry a credential. Once it has been asked for
    /// one, a late answer may come at any time.
    pub fn listens(&self) -> bool {
        // This holds while the session is ending too: an answer must not reach the upstream then
        // either.
        !matches!(self.phase, Phase::Ended { .. })
            && (self.shows_credentials || self.expects_answer())
    }

    /// Returns true if a message of the client may be an answer.
    pub fn expects_answer(&self) -> bool {
        let Some(renewing) = self.renewing() else { return false };
        renewing.proactive || self.asking != RenewalPhase::Quiet
    }

    /// Handles a message that carries a credential, or should. It was taken out of the stream.
    pub fn handle_auth_message(&mut self) -> ClientMessage {
        // A client that was just renewed, and may not send a credential unasked, repeats its
        // answer.
        let repeats = self.asking == RenewalPhase::Settling
            && self.renewing().is_some_and(|renewing| !renewing.proactive);
        if !self.is_open() || !self.expects_answer() || self.judging || repeats {
            return ClientMessage::Ignore;
        }
        self.judging = true;
        ClientMessage::Judge
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Returns the number of wrong tries that the client has left before the session ends.
    pub fn attempts_left(&self) -> u32 {
        self.attempts_left
    }

    pub fn was_renewed_just_now(&self) -> bool {
        self.asking == RenewalPhase::Settling
    }

    /// Handles the verdict on a credential. Returns true if the session goes on.
    pub fn handle_verdict(&mut self, verdict: RenewalVerdict, now: Instant) -> bool {
        self.judging = false;
        let (Phase::Open, Some(renewing)) = (self.phase, self.renewing()) else { return false };
        match verdict {
            RenewalVerdict::Renewed { expires } => {
                self.attempts_left = renewing.attempts;
                self.ask_due = false;
                self.asking = RenewalPhase::Settling;
                self.timers.set(Timer::Answer, now + renewing.grace);
                self.live_until(expires, now);
            }
            RenewalVerdict::Wrong => {
                self.attempts_left = self.attempts_left.saturating_sub(1);
                if self.attempts_left == 0 {
                    self.begin_ending(CloseReason::ReauthTimeout, None, now);
                }
            }
            RenewalVerdict::Unknown => {}
            RenewalVerdict::OtherSubject => {
                self.begin_ending(CloseReason::ReauthSubject, None, now);
            }
        }
        matches!(self.phase, Phase::Open)
    }

    /// Handles a new end of the grant from the verifier, which may be earlier than before.
    pub fn handle_revalidated(&mut self, expires: Instant, now: Instant) {
        // A session that may outlive its grant is not bound to another.
        let Some(before) = self.rules.expires.filter(|_| self.is_open()) else { return };
        if self.asking == RenewalPhase::Asked {
            if expires <= before {
                // The client has to answer all the same, and perhaps sooner.
                self.rules.expires = Some(expires);
                return self.timers.hasten(Timer::Answer, expires);
            }
            // The question is withdrawn. An answer to it is taken out of the stream all the same.
            let grace = self.renewing().map_or(Duration::ZERO, |renewing| renewing.grace);
            self.asking = RenewalPhase::Settling;
            self.timers.set(Timer::Answer, now + grace);
            self.ask_due = false;
        }
        self.live_until(Some(expires), now);
    }

    /// Notes that the client sent bytes. The timers are not moved here, because this is the hot
    /// path. A timer that fires checks for bytes since then, and goes back to sleep.
    pub fn handle_client_bytes(&mut self, now: Instant) {
        self.client_heard = now;
    }

    /// Handles a pong.
    ///
    /// A client may answer only the last of several pings, so the round trip is the time since the
    /// last ping. It is wrong only for an answer that takes longer than `ping`.
    pub fn handle_pong(&mut self, is_ours: bool, now: Instant) -> Pong {
        if !is_ours || self.pinged == 0 {
            return Pong::Foreign;
        }
        self.pinged -= 1;
        let round_trip = self.pinged_at.take().map(|at| now.saturating_duration_since(at));
        Pong::Ours { round_trip }
    }

    /// Handles a close frame that has passed from this side.
    pub fn handle_close_frame(&mut self, from: Sender, code: CloseCode, now: Instant) {
        self.code.get_or_insert(code);
        let reason = match from {
            Sender::Client => CloseReason::ClientClosed,
            Sender::Upstream => CloseReason::UpstreamClosed,
        };
        self.side_is_done(from, reason, now);
    }

    /// Handles the end of this side's stream.
    pub fn handle_end_of_stream(&mut self, from: Sender, now: Instant) {
        let reason = match from {
            Sender::Client => CloseReason::ClientGone,
            Sender::Upstream => CloseReason::UpstreamGone,
        };
        match self.phase {
            // There was no close frame: the other side gets one with the reason.
            Phase::Open => self.begin_ending(reason, Some(from), now),
            _ => self.side_is_done(from, reason, now),
        }
    }

    /// Handles a request to end the session, from outside or for a broken rule.
    pub fn handle_close_request(&mut self, reason: CloseReason, now: Instant) {
        match self.phase {
            Phase::Open => self.begin_ending(reason, None, now),
            // A close handshake that is under way already is not disturbed.
            Phase::Leaving { .. } | Phase::Ending { .. } | Phase::Ended { .. } => {}
        }
        if reason == CloseReason::Revoked && !matches!(self.phase, Phase::Ended { .. }) {
            self.timers.hasten(Timer::Linger, now + REVOKED_LINGER);
        }
    }

    /// Handles bytes that cannot be followed. Nothing of this side is understood any more, not even
    /// its own close frame.
    pub fn handle_protocol_error(&mut self, from: Sender, now: Instant) {
        let reason = match from {
            Sender::Client => CloseReason::ClientProtocol,
            Sender::Upstream => CloseReason::UpstreamProtocol,
        };
        match self.phase {
            Phase::Open => self.begin_ending(reason, None, now),
            _ => self.side_is_done(from, reason, now),
        }
    }

    /// Handles a failed write to this side.
    pub fn handle_write_failed(&mut self, to: Sender, now: Instant) {
        self.handle_end_of_stream(to, now);
    }

    pub fn handle_deadline(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Ping => {
                    let due = self.client_heard + self.rules.keepalive.ping;
                    if due > now {
                        self.timers.set(Timer::Ping, due);
                    } else {
                        self.ping_due = true;
                        self.pinged_at = Some(now);
                        self.timers.set(Timer::Ping, now + self.rules.keepalive.ping);
                    }
                }
                Timer::Idle => {
                    let due = self.client_heard + self.rules.keepalive.idle_timeout;
                    if due > now {
                        self.timers.set(Timer::Idle, due);
                    } else {
                        self.handle_close_request(CloseReason::IdleTimeout, now);
                    }
                }
                Timer::Expiry => self.handle_close_request(CloseReason::SessionExpired, now),
                Timer::Ask => {
                    if let (Some(renewing), Some(expires)) = (self.renewing(), self.rules.expires) {
                        self.asking = RenewalPhase::Asked;
                        self.ask_due = true;
                        self.shows_credentials = true;
                        self.timers.set(Timer::Answer, expires.min(now + renewing.grace));
                    }
                }
                Timer::Answer => match self.asking {
                    RenewalPhase::Asked => {
                        self.handle_close_request(CloseReason::ReauthTimeout, now);
                    }
                    RenewalPhase::Quiet | RenewalPhase::Settling => {
                        self.asking = RenewalPhase::Quiet;
                    }
                },
                Timer::Linger => self.end(),
            }
        }
    }

    pub fn poll_action(&mut self) -> Option<SessionAction> {
        match &mut self.phase {
            Phase::Open if std::mem::take(&mut self.ping_due) => {
                self.pinged = self.pinged.saturating_add(1);
                Some(SessionAction::Ping)
            }
            Phase::Open if std::mem::take(&mut self.ask_due) => Some(SessionAction::Ask),
            Phase::Ending { reason, told, .. } if !*told => {
                *told = true;
                Some(SessionAction::Close(*reason))
            }
            Phase::Ended { reason } => Some(SessionAction::End(*reason)),
            Phase::Ending { reason, client_done: true, upstream_done: true, .. }
            | Phase::Leaving { reason, client_done: true, upstream_done: true } => {
                let reason = *reason;
                self.phase = Phase::Ended { reason };
                Some(SessionAction::End(reason))
            }
            _ => None,
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Returns true if Usher is ending the session: further bytes of the peers are dropped.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. } | Phase::Ended { .. })
    }

    /// Returns the close codes of the route.
    pub fn close_codes(&self) -> CloseCodes {
        self.rules.close_codes
    }

    /// Returns the close code that passed first, or that Usher sent.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.code
    }

    fn begin_ending(&mut self, reason: CloseReason, gone: Option<Sender>, now: Instant) {
        if let Some((code, _)) = reason.to_client(self.rules.close_codes) {
            self.code.get_or_insert(code);
        }
        self.phase = Phase::Ending {
            reason,
            told: false,
            client_done: gone == Some(Sender::Client),
            upstream_done: gone == Some(Sender::Upstream),
        };
        self.linger(now);
    }

    fn side_is_done(&mut self, side: Sender, reason: CloseReason, now: Instant) {
        match &mut self.phase {
            Phase::Open => {
                self.phase = Phase::Leaving {
                    reason,
                    client_done: side == Sender::Client,
                    upstream_done: side == Sender::Upstream,
                };
                self.linger(now);
            }
            Phase::Leaving { client_done, upstream_done, .. }
            | Phase::Ending { client_done, upstream_done, .. } => match side {
                Sender::Client => *client_done = true,
                Sender::Upstream => *upstream_done = true,
            },
            Phase::Ended { .. } => {}
        }
    }

    fn linger(&mut self, now: Instant) {
        self.timers = TimerTable::default();
        self.timers.set(Timer::Linger, now + self.rules.keepalive.close_timeout);
    }

    fn end(&mut self) {
        let reason = match self.phase {
            Phase::Leaving { reason, .. }
            | Phase::Ending { reason, .. }
            | Phase::Ended { reason } => reason,
            Phase::Open => CloseReason::Internal,
        };
        self.phase = Phase::Ended { reason };
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
pub(crate) mod tests;
