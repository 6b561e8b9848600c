//! The rules of a session: events with the time in, actions out. No I/O, no clock.
//!
//! A driver calls `handle_*` with what happened, then `poll_action` until it gives nothing, then waits for bytes, for a
//! close from the registry, or for `next_deadline`. Everything about when to ping, when to end and what each side is told
//! is here; where frames begin and end is the driver's business.

use std::time::Duration;

use tokio::time::Instant;

use super::close::CloseReason;
use super::timer::{Timer, TimerTable};
use crate::config::CloseCodes;
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
    asking: Asking,
    /// The question waits to be put into the stream.
    ask_due: bool,
    /// A credential is being looked at.
    judging: bool,
    attempts_left: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub ping: Duration,
    pub idle_timeout: Duration,
    pub close_timeout: Duration,
    /// The end of the grant; `None`: of a public session, and of one that may outlive its grant.
    pub expires: Option<Instant>,
    /// `None`: the session ends with its grant.
    pub renewing: Option<Renewing>,
    pub close_codes: CloseCodes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewing {
    pub before_expiry: Duration,
    pub grace: Duration,
    pub attempts: u32,
    pub proactive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Quiet,
    /// The client was asked, and has until `Timer::Answer`.
    Asked,
    /// The grant was renewed just now. A second answer to the same question may still come, and must not reach the
    /// upstream.
    Settling,
}

/// What to do with a message of the client that was meant for us. The upstream never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    Judge,
    Ignore,
}

/// What came of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The grant goes on until then.
    Renewed {
        expires: Option<Instant>,
    },
    Wrong,
    /// It could not be looked at, which is not the client's fault.
    Unknown,
    OtherSubject,
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
    /// Put the question for a new credential into the stream to the client.
    Ask,
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
        let mut state = Self {
            rules,
            phase: Phase::Open,
            timers,
            client_heard: now,
            pinged: false,
            ping_due: false,
            code: None,
            asking: Asking::Quiet,
            ask_due: false,
            judging: false,
            attempts_left: rules.renewing.map_or(0, |renewing| renewing.attempts),
        };
        state.live_until(rules.expires, now);
        state
    }

    /// Sets the deadlines of a grant that was given now.
    fn live_until(&mut self, expires: Option<Instant>, now: Instant) {
        self.rules.expires = expires;
        self.timers.stop(Timer::Ask);
        self.timers.stop(Timer::Expiry);
        let Some(expires) = expires else { return };
        match self.rules.renewing {
            None => self.timers.set(Timer::Expiry, expires),
            Some(renewing) => {
                // Who has a token of a minute is not asked for the next one at once.
                let halfway = now + expires.saturating_duration_since(now) / 2;
                let early = expires.checked_sub(renewing.before_expiry).unwrap_or(now);
                self.timers.set(Timer::Ask, early.max(halfway));
            }
        }
    }

    /// Is a message of the client perhaps meant for us?
    pub fn listens(&self) -> bool {
        let Some(renewing) = self.rules.renewing else { return false };
        matches!(self.phase, Phase::Open) && (renewing.proactive || self.asking != Asking::Quiet)
    }

    /// A message that carries a credential, or should, was taken out of the stream.
    pub fn handle_auth_message(&mut self) -> Hearing {
        if !self.listens() || self.judging || self.asking == Asking::Settling {
            return Hearing::Ignore;
        }
        self.judging = true;
        Hearing::Judge
    }

    /// What came of the message that was to be judged. True: the session goes on.
    pub fn handle_verdict(&mut self, verdict: Verdict, now: Instant) -> bool {
        self.judging = false;
        let (Phase::Open, Some(renewing)) = (self.phase, self.rules.renewing) else { return false };
        match verdict {
            Verdict::Renewed { expires } => {
                self.attempts_left = renewing.attempts;
                self.ask_due = false;
                self.asking = Asking::Settling;
                self.timers.set(Timer::Answer, now + renewing.grace);
                self.live_until(expires, now);
            }
            Verdict::Wrong => {
                self.attempts_left = self.attempts_left.saturating_sub(1);
                if self.attempts_left == 0 {
                    self.begin_ending(CloseReason::ReauthTimeout, None, now);
                }
            }
            Verdict::Unknown => {}
            Verdict::OtherSubject => self.begin_ending(CloseReason::ReauthSubject, None, now),
        }
        matches!(self.phase, Phase::Open)
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

    /// Bytes that cannot be followed: nothing of this side is understood any more, its own close frame neither.
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
                Timer::Ask => {
                    if let (Some(renewing), Some(expires)) = (self.rules.renewing, self.rules.expires) {
                        self.asking = Asking::Asked;
                        self.ask_due = true;
                        self.timers.set(Timer::Answer, expires.min(now + renewing.grace));
                    }
                }
                Timer::Answer => match self.asking {
                    Asking::Asked => self.handle_close_request(CloseReason::ReauthTimeout, now),
                    Asking::Quiet | Asking::Settling => self.asking = Asking::Quiet,
                },
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
            Phase::Open if std::mem::take(&mut self.ask_due) => Some(Action::Ask),
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
        if let Some((code, _)) = reason.to_client(self.rules.close_codes) {
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
        renewing: None,
        close_codes: CloseCodes::Rfc,
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

    const RENEWING: Renewing =
        Renewing { before_expiry: Duration::from_secs(60), grace: Duration::from_secs(30), attempts: 3, proactive: false };

    fn renewing(start: Instant, lifetime: u64) -> SessionState {
        let rules = Rules { expires: Some(start + Duration::from_secs(lifetime)), renewing: Some(RENEWING), ..RULES };
        SessionState::new(rules, start)
    }

    #[test]
    fn a_day_is_walked_in_tokens_of_fifteen_minutes() {
        let start = Instant::now();
        let mut state = renewing(start, 900);
        let mut asked = Vec::new();
        for at in 0..86_400 {
            let now = start + Duration::from_secs(at);
            state.handle_client_bytes(now);
            for action in seconds(&mut state, start, at) {
                assert_eq!(action, Action::Ask, "at {at}");
                asked.push(at);
                assert!(state.listens());
                assert_eq!(state.handle_auth_message(), Hearing::Judge);
                assert_eq!(state.handle_auth_message(), Hearing::Ignore, "one at a time");
                assert!(state.handle_verdict(Verdict::Renewed { expires: Some(now + Duration::from_secs(900)) }, now));
                assert_eq!(state.handle_auth_message(), Hearing::Ignore, "a second answer to the same question");
            }
        }
        assert!(asked.iter().enumerate().all(|(n, at)| *at == 840 * (n as u64 + 1)), "{asked:?}");
        assert_eq!(asked.len(), 102);
        assert!(!state.listens(), "the application's messages are its own again");
    }

    #[test]
    fn who_does_not_answer_is_closed_after_the_grace() {
        let start = Instant::now();
        let mut state = renewing(start, 900);
        state.handle_client_bytes(start + Duration::from_secs(839));
        assert_eq!(seconds(&mut state, start, 840), [Action::Ask]);
        state.handle_client_bytes(start + Duration::from_secs(869));
        assert_eq!(seconds(&mut state, start, 869), []);
        assert_eq!(seconds(&mut state, start, 870), [Action::Close(CloseReason::ReauthTimeout)]);
    }

    #[test]
    fn three_wrong_answers_are_the_end_and_two_are_not() {
        let start = Instant::now();
        let mut state = renewing(start, 900);
        let now = start + Duration::from_secs(840);
        state.handle_client_bytes(now);
        assert_eq!(seconds(&mut state, start, 840), [Action::Ask]);
        for goes_on in [true, true, false] {
            assert_eq!(state.handle_auth_message(), Hearing::Judge);
            assert_eq!(state.handle_verdict(Verdict::Wrong, now), goes_on);
        }
        assert_eq!(state.poll_action(), Some(Action::Close(CloseReason::ReauthTimeout)));
        let mut state = renewing(start, 900);
        seconds(&mut state, start, 0);
        state.handle_client_bytes(now);
        assert_eq!(seconds(&mut state, start, 840), [Action::Ask]);
        for _ in 0..20 {
            assert_eq!(state.handle_auth_message(), Hearing::Judge);
            assert!(state.handle_verdict(Verdict::Unknown, now), "a store that is away takes no tries");
        }
        state.handle_auth_message();
        assert!(!state.handle_verdict(Verdict::OtherSubject, now));
        assert_eq!(state.poll_action(), Some(Action::Close(CloseReason::ReauthSubject)));
    }

    #[test]
    fn a_short_token_is_asked_for_in_its_middle_and_never_outlived() {
        let start = Instant::now();
        let mut state = renewing(start, 20);
        assert_eq!(seconds(&mut state, start, 9), []);
        assert_eq!(seconds(&mut state, start, 10), [Action::Ask]);
        assert_eq!(seconds(&mut state, start, 19), []);
        assert_eq!(seconds(&mut state, start, 20), [Action::Close(CloseReason::ReauthTimeout)]);
        // A process that slept through everything closes at once.
        let mut state = renewing(start, 20);
        state.handle_client_bytes(start + Duration::from_secs(60));
        assert!(seconds(&mut state, start, 60).contains(&Action::Close(CloseReason::ReauthTimeout)));
    }

    #[test]
    fn a_client_may_come_early_only_where_the_route_says_so() {
        let start = Instant::now();
        let mut state = renewing(start, 900);
        assert!(!state.listens());
        assert_eq!(state.handle_auth_message(), Hearing::Ignore);
        let rules =
            Rules { expires: Some(start + Duration::from_secs(900)), renewing: Some(Renewing { proactive: true, ..RENEWING }), ..RULES };
        let mut state = SessionState::new(rules, start);
        assert!(state.listens());
        assert_eq!(state.handle_auth_message(), Hearing::Judge);
        assert!(state.handle_verdict(Verdict::Renewed { expires: Some(start + Duration::from_secs(1800)) }, start));
        for at in (0..1740).step_by(10) {
            state.handle_client_bytes(start + Duration::from_secs(at));
            assert_eq!(seconds(&mut state, start, at), []);
        }
        assert_eq!(seconds(&mut state, start, 1740), [Action::Ask]);
    }

    proptest! {
        /// Whatever happens in whatever order: the session tells the sides at most once, it ends within the close timeout
        /// of the first sign of an end, it never outlives its grant, and after the end it only repeats it.
        #[test]
        fn any_sequence_of_events_ends_once_and_in_time(
            events in prop::collection::vec((0u8..13, 0u64..20), 1..80),
            renews in any::<bool>(),
            proactive in any::<bool>(),
        ) {
            let start = Instant::now();
            let renewing = renews.then_some(Renewing { proactive, ..RENEWING });
            let mut expires = start + Duration::from_secs(100);
            let mut state = SessionState::new(Rules { expires: Some(expires), renewing, ..RULES }, start);
            let (mut at, mut closes, mut leaving_since, mut ended) = (start, 0, None, None);
            let mut judging = false;
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
                    7 => state.handle_protocol_error(Sender::Client, at),
                    8 | 9 => judging |= state.handle_auth_message() == Hearing::Judge,
                    10 if judging => {
                        judging = false;
                        let later = at + Duration::from_secs(50);
                        if state.handle_verdict(Verdict::Renewed { expires: Some(later) }, at) { expires = later; }
                    }
                    11 if judging => { judging = false; state.handle_verdict(Verdict::Wrong, at); }
                    12 if judging => { judging = false; state.handle_verdict(Verdict::OtherSubject, at); }
                    _ => {}
                }
                for action in std::iter::from_fn(|| state.poll_action()).take(5) {
                    match action {
                        Action::Close(_) => closes += 1,
                        Action::End(reason) => { prop_assert!(ended.is_none_or(|earlier| earlier == reason)); ended = Some(reason); }
                        Action::Ping | Action::Ask => prop_assert!(ended.is_none()),
                    }
                }
                if !matches!(state.phase, Phase::Open) { leaving_since.get_or_insert(at); }
                if let Some(since) = leaving_since {
                    prop_assert!(ended.is_some() || at < since + RULES.close_timeout);
                }
                prop_assert!(leaving_since.is_some() || at < expires, "outlived its grant");
                prop_assert!(closes <= 1);
                let is_over = matches!(state.phase, Phase::Ended { .. });
                prop_assert!(state.next_deadline().is_some() || is_over);
            }
        }
    }
}
