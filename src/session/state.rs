//! The rules of a session: events with the time in, actions out. No I/O, no clock.
//!
//! A driver calls `handle_*` with what happened, then `poll_action` until it gives nothing, then waits for bytes, for a
//! close from the registry, or for `next_deadline`. Everything about when to ping, when to end and what each side is told
//! is here; where frames begin and end is the driver's business.

use std::time::Duration;

use tokio::time::Instant;

use super::close::CloseReason;
use super::timer::{Timer, TimerTable};
use crate::ws::close_code::CloseCode;
use crate::ws::frame::Sender;

#[derive(Debug)]
pub struct SessionState {
    rules: Rules,
    phase: Phase,
    timers: TimerTable,
    client_heard: Instant,
    /// A ping of ours that the client has not answered.
    pinged: bool,
    /// A ping waits to be sent.
    ping_due: bool,
    code: Option<CloseCode>,
}

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub ping: Duration,
    pub idle_timeout: Duration,
    pub close_timeout: Duration,
    pub expires: Option<Instant>,
    /// Kept for one direction while the other side does not take it.
    pub buffered_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close frame of a peer has passed, or a peer is gone; the other's answer is awaited.
    Leaving {
        reason: CloseReason,
        client_done: bool,
        upstream_done: bool,
    },
    /// Usher ends it: close frames go to whoever is still there.
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
pub enum Action {
    /// Put a ping into the stream to the client.
    Ping,
    /// Put close frames of this reason between the frames of both directions, forward nothing after them.
    Close(CloseReason),
    /// Both sides are through: flush, shut down, drop.
    End(CloseReason),
}

impl SessionState {
    pub fn new(rules: Rules, now: Instant) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Ping, now + rules.ping);
        timers.set(Timer::Idle, now + rules.idle_timeout);
        if let Some(expires) = rules.expires {
            timers.set(Timer::Expiry, expires);
        }
        Self { rules, phase: Phase::Open, timers, client_heard: now, pinged: false, ping_due: false, code: None }
    }

    /// The client sent something. The timers are not moved here, for this is the hot path: a timer that finds that
    /// the client was heard meanwhile goes back to sleep.
    pub fn handle_client_bytes(&mut self, now: Instant) {
        self.client_heard = now;
    }

    /// A pong came. Is it the answer to our ping, so that the upstream, which has not asked, must not see it?
    pub fn handle_pong(&mut self, is_ours: bool) -> bool {
        is_ours && std::mem::take(&mut self.pinged)
    }

    /// A close frame has passed from this side.
    pub fn handle_close_frame(&mut self, from: Sender, code: CloseCode, now: Instant) {
        self.code.get_or_insert(code);
        let reason = match from {
            Sender::Client => CloseReason::ClientClosed,
            Sender::Upstream => CloseReason::UpstreamClosed,
        };
        self.side_is_done(from, reason, now);
    }

    /// This side will send no more.
    pub fn handle_end_of_stream(&mut self, from: Sender, now: Instant) {
        let reason = match from {
            Sender::Client => CloseReason::ClientGone,
            Sender::Upstream => CloseReason::UpstreamGone,
        };
        match self.phase {
            // Nobody said goodbye: the other side is told why.
            Phase::Open => self.begin_ending(reason, Some(from), now),
            _ => self.side_is_done(from, reason, now),
        }
    }

    /// Usher ends the session, or finds that a side does not speak the protocol.
    pub fn handle_close_request(&mut self, reason: CloseReason, now: Instant) {
        match self.phase {
            Phase::Open => self.begin_ending(reason, None, now),
            // A close handshake that is under way already is not disturbed.
            Phase::Leaving { .. } | Phase::Ending { .. } | Phase::Ended { .. } => {}
        }
    }

    /// Bytes that cannot be followed: nothing more is read from this side.
    pub fn handle_protocol_error(&mut self, from: Sender, now: Instant) {
        let reason = match from {
            Sender::Client => CloseReason::ClientProtocol,
            Sender::Upstream => CloseReason::UpstreamProtocol,
        };
        match self.phase {
            Phase::Open => self.begin_ending(reason, Some(from), now),
            _ => self.side_is_done(from, reason, now),
        }
    }

    /// A side could not be written to.
    pub fn handle_write_failed(&mut self, to: Sender, now: Instant) {
        self.handle_end_of_stream(to, now);
    }

    pub fn handle_deadline(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Ping => {
                    let due = self.client_heard + self.rules.ping;
                    if due > now {
                        self.timers.set(Timer::Ping, due);
                    } else {
                        self.ping_due = true;
                        self.timers.set(Timer::Ping, now + self.rules.ping);
                    }
                }
                Timer::Idle => {
                    let due = self.client_heard + self.rules.idle_timeout;
                    if due > now { self.timers.set(Timer::Idle, due) } else { self.handle_close_request(CloseReason::IdleTimeout, now) }
                }
                Timer::Expiry => self.handle_close_request(CloseReason::SessionExpired, now),
                Timer::Linger => self.end(),
            }
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        match &mut self.phase {
            Phase::Open if std::mem::take(&mut self.ping_due) => {
                self.pinged = true;
                Some(Action::Ping)
            }
            Phase::Ending { reason, told, .. } if !*told => {
                *told = true;
                Some(Action::Close(*reason))
            }
            Phase::Ended { reason } => Some(Action::End(*reason)),
            Phase::Ending { reason, client_done: true, upstream_done: true, .. }
            | Phase::Leaving { reason, client_done: true, upstream_done: true } => {
                let reason = *reason;
                self.phase = Phase::Ended { reason };
                Some(Action::End(reason))
            }
            _ => None,
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Usher is ending the session: what the peers still send goes nowhere.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. } | Phase::Ended { .. })
    }

    /// The close code that passed first, or that we sent.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.code
    }

    fn begin_ending(&mut self, reason: CloseReason, gone: Option<Sender>, now: Instant) {
        if let Some((code, _)) = reason.facts().to_client {
            self.code.get_or_insert(code);
        }
        self.phase =
            Phase::Ending { reason, told: false, client_done: gone == Some(Sender::Client), upstream_done: gone == Some(Sender::Upstream) };
        self.linger(now);
    }

    fn side_is_done(&mut self, side: Sender, reason: CloseReason, now: Instant) {
        match &mut self.phase {
            Phase::Open => {
                self.phase = Phase::Leaving { reason, client_done: side == Sender::Client, upstream_done: side == Sender::Upstream };
                self.linger(now);
            }
            Phase::Leaving { client_done, upstream_done, .. } | Phase::Ending { client_done, upstream_done, .. } => match side {
                Sender::Client => *client_done = true,
                Sender::Upstream => *upstream_done = true,
            },
            Phase::Ended { .. } => {}
        }
    }

    fn linger(&mut self, now: Instant) {
        self.timers = TimerTable::default();
        self.timers.set(Timer::Linger, now + self.rules.close_timeout);
    }

    fn end(&mut self) {
        let reason = match self.phase {
            Phase::Leaving { reason, .. } | Phase::Ending { reason, .. } | Phase::Ended { reason } => reason,
            Phase::Open => CloseReason::Internal,
        };
        self.phase = Phase::Ended { reason };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules {
        ping: Duration::from_secs(25),
        idle_timeout: Duration::from_secs(75),
        close_timeout: Duration::from_secs(5),
        expires: None,
        buffered_bytes: 64 * 1024,
    };

    fn seconds(state: &mut SessionState, start: Instant, at: u64) -> Vec<Action> {
        state.handle_deadline(start + Duration::from_secs(at));
        std::iter::from_fn(|| state.poll_action()).take(4).collect()
    }

    #[test]
    fn a_silent_client_is_pinged_and_then_let_go() {
        let start = Instant::now();
        let mut state = SessionState::new(RULES, start);
        assert_eq!(seconds(&mut state, start, 24), []);
        assert_eq!(seconds(&mut state, start, 25), [Action::Ping]);
        assert_eq!(seconds(&mut state, start, 50), [Action::Ping]);
        assert_eq!(seconds(&mut state, start, 75), [Action::Close(CloseReason::IdleTimeout)]);
        assert_eq!(seconds(&mut state, start, 80)[0], Action::End(CloseReason::IdleTimeout));
    }

    #[test]
    fn a_talking_client_is_never_pinged_in_a_whole_day() {
        let start = Instant::now();
        let mut state = SessionState::new(RULES, start);
        for at in 0..86_400 {
            state.handle_client_bytes(start + Duration::from_secs(at));
            assert_eq!(seconds(&mut state, start, at), []);
        }
    }

    #[test]
    fn a_session_ends_when_its_grant_does_however_busy_it_is() {
        let start = Instant::now();
        let mut state = SessionState::new(Rules { expires: Some(start + Duration::from_secs(60)), ..RULES }, start);
        state.handle_client_bytes(start + Duration::from_secs(59));
        assert_eq!(seconds(&mut state, start, 60), [Action::Close(CloseReason::SessionExpired)]);
        assert_eq!(state.close_code(), Some(CloseCode::POLICY));
    }

    #[test]
    fn a_close_handshake_ends_when_both_have_said_it() {
        let start = Instant::now();
        let mut state = SessionState::new(RULES, start);
        state.handle_close_frame(Sender::Client, CloseCode::NORMAL, start);
        assert_eq!(state.poll_action(), None);
        state.handle_close_request(CloseReason::Draining, start);
        assert_eq!(state.poll_action(), None, "a close under way is not disturbed");
        state.handle_close_frame(Sender::Upstream, CloseCode::NORMAL, start);
        assert_eq!(state.poll_action(), Some(Action::End(CloseReason::ClientClosed)));
    }

    #[test]
    fn a_client_that_vanishes_is_explained_to_the_upstream() {
        let start = Instant::now();
        let mut state = SessionState::new(RULES, start);
        state.handle_end_of_stream(Sender::Client, start);
        assert_eq!(state.poll_action(), Some(Action::Close(CloseReason::ClientGone)));
        state.handle_end_of_stream(Sender::Upstream, start);
        assert_eq!(state.poll_action(), Some(Action::End(CloseReason::ClientGone)));
    }

    #[test]
    fn only_the_answer_to_our_ping_is_swallowed() {
        let start = Instant::now();
        let mut state = SessionState::new(RULES, start);
        assert!(!state.handle_pong(true), "nothing was asked");
        seconds(&mut state, start, 25);
        assert!(!state.handle_pong(false), "the client's own pong passes");
        assert!(state.handle_pong(true));
        assert!(!state.handle_pong(true), "once");
    }

    proptest! {
        /// Whatever happens in whatever order: the session tells the sides at most once, it ends within the close timeout
        /// of the first sign of an end, and after the end it only repeats it.
        #[test]
        fn any_sequence_of_events_ends_once_and_in_time(events in prop::collection::vec((0u8..8, 0u64..20), 1..60)) {
            let start = Instant::now();
            let mut state = SessionState::new(Rules { expires: Some(start + Duration::from_secs(300)), ..RULES }, start);
            let (mut at, mut closes, mut leaving_since, mut ended) = (start, 0, None, None);
            for (event, pause) in events {
                at += Duration::from_secs(pause);
                state.handle_deadline(at);
                match event {
                    0 => state.handle_client_bytes(at),
                    1 => state.handle_close_frame(Sender::Client, CloseCode::NORMAL, at),
                    2 => state.handle_close_frame(Sender::Upstream, CloseCode::NORMAL, at),
                    3 => state.handle_end_of_stream(Sender::Client, at),
                    4 => state.handle_end_of_stream(Sender::Upstream, at),
                    5 => state.handle_close_request(CloseReason::Draining, at),
                    6 => { state.handle_pong(true); }
                    _ => state.handle_protocol_error(Sender::Client, at),
                }
                for action in std::iter::from_fn(|| state.poll_action()).take(4) {
                    match action {
                        Action::Close(_) => closes += 1,
                        Action::End(reason) => { prop_assert!(ended.is_none_or(|earlier| earlier == reason)); ended = Some(reason); }
                        Action::Ping => prop_assert!(ended.is_none()),
                    }
                }
                if !matches!(state.phase, Phase::Open) { leaving_since.get_or_insert(at); }
                if let Some(since) = leaving_since {
                    prop_assert!(ended.is_some() || at < since + RULES.close_timeout);
                }
                prop_assert!(closes <= 1);
            }
        }
    }
}
