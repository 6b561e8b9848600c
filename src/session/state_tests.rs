use super::*;
use proptest::prelude::*;

use crate::base::clock::Now;
use crate::config::ReauthMode;

pub(crate) fn rules() -> SessionRules {
    SessionRules {
        keepalive: Arc::new(Keepalive {
            ping: Duration::from_secs(25),
            idle_timeout: Duration::from_secs(75),
            close_timeout: Duration::from_secs(5),
        }),
        expires: None,
        renewing: None,
        began_by_message: false,
        close_codes: CloseCodes::Rfc,
    }
}

fn seconds(state: &mut SessionState, start: Instant, at: u64) -> Vec<SessionAction> {
    state.handle_deadline(start + Duration::from_secs(at));
    std::iter::from_fn(|| state.poll_action()).take(4).collect()
}

#[test]
fn a_silent_client_is_pinged_and_then_let_go() {
    let start = Now::read().mono;
    let mut state = SessionState::new(rules(), start);
    assert_eq!(seconds(&mut state, start, 24), []);
    assert_eq!(seconds(&mut state, start, 25), [SessionAction::Ping]);
    assert_eq!(seconds(&mut state, start, 50), [SessionAction::Ping]);
    assert_eq!(seconds(&mut state, start, 75), [SessionAction::Close(CloseReason::IdleTimeout)]);
    assert_eq!(seconds(&mut state, start, 80)[0], SessionAction::End(CloseReason::IdleTimeout));
}

#[test]
fn a_talking_client_is_never_pinged_in_a_whole_day() {
    let start = Now::read().mono;
    let mut state = SessionState::new(rules(), start);
    for at in 0..86_400 {
        state.handle_client_bytes(start + Duration::from_secs(at));
        assert_eq!(seconds(&mut state, start, at), []);
    }
}

#[test]
fn a_session_ends_when_its_grant_does_however_busy_it_is() {
    let start = Now::read().mono;
    let mut state = SessionState::new(
        SessionRules { expires: Some(start + Duration::from_secs(60)), ..rules() },
        start,
    );
    state.handle_client_bytes(start + Duration::from_secs(59));
    assert_eq!(seconds(&mut state, start, 60), [SessionAction::Close(CloseReason::SessionExpired)]);
    assert_eq!(state.close_code(), Some(CloseCode::POLICY));
}

#[test]
fn a_close_handshake_ends_when_both_have_said_it() {
    let start = Now::read().mono;
    let mut state = SessionState::new(rules(), start);
    state.handle_close_frame(Sender::Client, CloseCode::NORMAL, start);
    assert_eq!(state.poll_action(), None);
    state.handle_close_request(CloseReason::Draining, start);
    assert_eq!(state.poll_action(), None, "a close under way is not disturbed");
    state.handle_close_frame(Sender::Upstream, CloseCode::NORMAL, start);
    assert_eq!(state.poll_action(), Some(SessionAction::End(CloseReason::ClientClosed)));
}

#[test]
fn who_is_revoked_is_waited_for_a_second_at_most() {
    let start = Now::read().mono;
    let mut state = SessionState::new(rules(), start);
    state.handle_close_request(CloseReason::Revoked, start);
    assert_eq!(seconds(&mut state, start, 0), [SessionAction::Close(CloseReason::Revoked)]);
    // The session's task repeats the request whenever it runs, and that gains no time.
    state.handle_close_request(CloseReason::Revoked, start + Duration::from_millis(900));
    assert_eq!(seconds(&mut state, start, 1)[0], SessionAction::End(CloseReason::Revoked));

    // The same holds for a session that was already closing by itself.
    let mut state = SessionState::new(rules(), start);
    state.handle_close_frame(Sender::Upstream, CloseCode::NORMAL, start);
    state.handle_close_request(CloseReason::Revoked, start);
    assert_eq!(seconds(&mut state, start, 1)[0], SessionAction::End(CloseReason::UpstreamClosed));
}

#[test]
fn a_client_that_vanishes_is_explained_to_the_upstream() {
    let start = Now::read().mono;
    let mut state = SessionState::new(rules(), start);
    state.handle_end_of_stream(Sender::Client, start);
    assert_eq!(state.poll_action(), Some(SessionAction::Close(CloseReason::ClientGone)));
    state.handle_end_of_stream(Sender::Upstream, start);
    assert_eq!(state.poll_action(), Some(SessionAction::End(CloseReason::ClientGone)));
}

#[test]
fn only_the_answer_to_our_ping_is_swallowed() {
    let start = Now::read().mono;
    let mut state = SessionState::new(rules(), start);
    assert_eq!(state.handle_pong(true, start), Pong::Foreign, "nothing was asked");
    seconds(&mut state, start, 25);
    let pong = start + Duration::from_millis(25_080);
    assert_eq!(state.handle_pong(false, pong), Pong::Foreign, "the client's own pong passes");
    let round_trip = Some(Duration::from_millis(80));
    assert_eq!(state.handle_pong(true, pong), Pong::Ours { round_trip });
    assert_eq!(state.handle_pong(true, pong), Pong::Foreign, "once");
}

const RENEWING: Reauth = Reauth {
    mode: ReauthMode::Message,
    max_age: None,
    before_expiry: Duration::from_secs(60),
    grace: Duration::from_secs(30),
    attempts: 3,
    proactive: false,
};

fn renewing(start: Instant, lifetime: u64) -> SessionState {
    let rules = SessionRules {
        expires: Some(start + Duration::from_secs(lifetime)),
        renewing: Some(Arc::new(RENEWING)),
        ..rules()
    };
    SessionState::new(rules, start)
}

#[test]
fn a_day_is_walked_in_tokens_of_fifteen_minutes() {
    let start = Now::read().mono;
    let mut state = renewing(start, 900);
    let mut asked = Vec::new();
    for at in 0..86_400 {
        let now = start + Duration::from_secs(at);
        state.handle_client_bytes(now);
        for action in seconds(&mut state, start, at) {
            assert_eq!(action, SessionAction::Ask, "at {at}");
            asked.push(at);
            assert!(state.listens());
            assert_eq!(state.handle_auth_message(), ClientMessage::Judge);
            assert_eq!(state.handle_auth_message(), ClientMessage::Ignore, "one at a time");
            assert!(state.handle_verdict(
                RenewalVerdict::Renewed { expires: Some(now + Duration::from_secs(900)) },
                now
            ));
            assert_eq!(
                state.handle_auth_message(),
                ClientMessage::Ignore,
                "a second answer to the same question"
            );
        }
    }
    assert!(asked.iter().enumerate().all(|(n, at)| *at == 840 * (n as u64 + 1)), "{asked:?}");
    assert_eq!(asked.len(), 102);
    assert!(!state.expects_answer(), "what has no credential in it is the application's again");
    assert!(state.listens(), "a late answer is taken out of the stream");
    assert_eq!(state.handle_auth_message(), ClientMessage::Ignore, "and not judged");
}

#[test]
fn a_client_that_logged_in_by_a_message_may_say_so_again() {
    let start = Now::read().mono;
    for renewing in [None, Some(Arc::new(RENEWING))] {
        let mut state =
            SessionState::new(SessionRules { began_by_message: true, renewing, ..rules() }, start);
        assert!(state.listens() && !state.expects_answer());
        assert_eq!(state.handle_auth_message(), ClientMessage::Ignore);
    }
    assert!(!SessionState::new(rules(), start).listens(), "others pay nothing");
}

#[test]
fn who_does_not_answer_is_closed_after_the_grace() {
    let start = Now::read().mono;
    let mut state = renewing(start, 900);
    state.handle_client_bytes(start + Duration::from_secs(839));
    assert_eq!(seconds(&mut state, start, 840), [SessionAction::Ask]);
    state.handle_client_bytes(start + Duration::from_secs(869));
    assert_eq!(seconds(&mut state, start, 869), []);
    assert_eq!(seconds(&mut state, start, 870), [SessionAction::Close(CloseReason::ReauthTimeout)]);
}

#[test]
fn three_wrong_answers_are_the_end_and_two_are_not() {
    let start = Now::read().mono;
    let mut state = renewing(start, 900);
    let now = start + Duration::from_secs(840);
    state.handle_client_bytes(now);
    assert_eq!(seconds(&mut state, start, 840), [SessionAction::Ask]);
    for goes_on in [true, true, false] {
        assert_eq!(state.handle_auth_message(), ClientMessage::Judge);
        assert_eq!(state.handle_verdict(RenewalVerdict::Wrong, now), goes_on);
    }
    assert_eq!(state.poll_action(), Some(SessionAction::Close(CloseReason::ReauthTimeout)));
    let mut state = renewing(start, 900);
    seconds(&mut state, start, 0);
    state.handle_client_bytes(now);
    assert_eq!(seconds(&mut state, start, 840), [SessionAction::Ask]);
    for _ in 0..20 {
        assert_eq!(state.handle_auth_message(), ClientMessage::Judge);
        assert!(
            state.handle_verdict(RenewalVerdict::Unknown, now),
            "a store that is away takes no tries"
        );
    }
    state.handle_auth_message();
    assert!(!state.handle_verdict(RenewalVerdict::OtherSubject, now));
    assert_eq!(state.poll_action(), Some(SessionAction::Close(CloseReason::ReauthSubject)));
}

#[test]
fn a_short_token_is_asked_for_in_its_middle_and_never_outlived() {
    let start = Now::read().mono;
    let mut state = renewing(start, 20);
    assert_eq!(seconds(&mut state, start, 9), []);
    assert_eq!(seconds(&mut state, start, 10), [SessionAction::Ask]);
    assert_eq!(seconds(&mut state, start, 19), []);
    assert_eq!(seconds(&mut state, start, 20), [SessionAction::Close(CloseReason::ReauthTimeout)]);
    // A process that slept through everything closes at once.
    let mut state = renewing(start, 20);
    state.handle_client_bytes(start + Duration::from_secs(60));
    assert!(
        seconds(&mut state, start, 60).contains(&SessionAction::Close(CloseReason::ReauthTimeout))
    );
}

#[test]
fn a_client_may_come_early_only_where_the_route_says_so() {
    let start = Now::read().mono;
    let mut state = renewing(start, 900);
    assert!(!state.listens());
    assert_eq!(state.handle_auth_message(), ClientMessage::Ignore);
    let rules = SessionRules {
        expires: Some(start + Duration::from_secs(900)),
        renewing: Some(Arc::new(Reauth { proactive: true, ..RENEWING })),
        ..rules()
    };
    let mut state = SessionState::new(rules, start);
    assert!(state.listens());
    assert_eq!(state.handle_auth_message(), ClientMessage::Judge);
    assert!(state.handle_verdict(
        RenewalVerdict::Renewed { expires: Some(start + Duration::from_secs(1800)) },
        start
    ));
    for at in (0..1740).step_by(10) {
        state.handle_client_bytes(start + Duration::from_secs(at));
        assert_eq!(seconds(&mut state, start, at), []);
    }
    assert_eq!(seconds(&mut state, start, 1740), [SessionAction::Ask]);
}

#[test]
fn a_verifier_s_word_moves_the_end_and_takes_back_a_question() {
    let start = Now::read().mono;
    let at = |seconds| start + Duration::from_secs(seconds);
    // A later end, and an earlier one.
    let mut state = SessionState::new(SessionRules { expires: Some(at(60)), ..rules() }, start);
    state.handle_client_bytes(at(200));
    state.handle_revalidated(at(120), at(30));
    assert_eq!(seconds(&mut state, start, 60), []);
    state.handle_revalidated(at(100), at(70));
    assert_eq!(
        seconds(&mut state, start, 100),
        [SessionAction::Close(CloseReason::SessionExpired)]
    );
    // A session that may outlive its grant does.
    let mut state = SessionState::new(rules(), start);
    state.handle_revalidated(at(1), start);
    assert_eq!(seconds(&mut state, start, 2), []);

    let mut state = renewing(start, 900);
    state.handle_client_bytes(at(2000));
    assert_eq!(seconds(&mut state, start, 840), [SessionAction::Ask]);
    state.handle_revalidated(at(1800), at(850));
    assert_eq!(seconds(&mut state, start, 870), [], "no answer is due any more");
    assert!(
        state.listens() && state.handle_auth_message() == ClientMessage::Ignore,
        "and an answer does not reach the upstream"
    );
    assert_eq!(seconds(&mut state, start, 1740), [SessionAction::Ask]);
    state.handle_revalidated(at(1745), at(1742));
    assert_eq!(
        seconds(&mut state, start, 1745),
        [SessionAction::Close(CloseReason::ReauthTimeout)]
    );
}

proptest! {
    /// For any events in any order: close frames are sent at most once, and the session ends within
    /// the close timeout after the first sign of an end. It never outlives its grant, and after the
    /// end it only repeats the end.
    #[test]
    fn any_sequence_of_events_ends_once_and_in_time(
        events in prop::collection::vec((0u8..14, 0u64..20), 1..80),
        renews in any::<bool>(),
        proactive in any::<bool>(),
    ) {
        let start = Now::read().mono;
        let renewing = renews.then(|| Arc::new(Reauth { proactive, ..RENEWING }));
        let mut expires = start + Duration::from_secs(100);
        let rules = SessionRules { expires: Some(expires), renewing, ..rules() };
        let close_timeout = rules.keepalive.close_timeout;
        let mut state = SessionState::new(rules, start);
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
                6 => { state.handle_pong(true, at); }
                7 => state.handle_protocol_error(Sender::Client, at),
                8 | 9 => judging |= state.handle_auth_message() == ClientMessage::Judge,
                10 if judging => {
                    judging = false;
                    let later = at + Duration::from_secs(50);
                    let renewed = RenewalVerdict::Renewed { expires: Some(later) };
                    if state.handle_verdict(renewed, at) {
                        expires = later;
                    }
                }
                11 if judging => {
                    judging = false;
                    state.handle_verdict(RenewalVerdict::Wrong, at);
                }
                13 if state.is_open() => {
                    expires = at + Duration::from_secs(pause * 4 + 1);
                    state.handle_revalidated(expires, at);
                }
                12 if judging => {
                    judging = false;
                    state.handle_verdict(RenewalVerdict::OtherSubject, at);
                }
                _ => {}
            }
            for action in std::iter::from_fn(|| state.poll_action()).take(5) {
                match action {
                    SessionAction::Close(_) => closes += 1,
                    SessionAction::End(reason) => {
                        prop_assert!(ended.is_none_or(|earlier| earlier == reason));
                        ended = Some(reason);
                    }
                    SessionAction::Ping | SessionAction::Ask => prop_assert!(ended.is_none()),
                }
            }
            if !matches!(state.phase, Phase::Open) { leaving_since.get_or_insert(at); }
            if let Some(since) = leaving_since {
                prop_assert!(ended.is_some() || at < since + close_timeout);
            }
            prop_assert!(leaving_since.is_some() || at < expires, "outlived its grant");
            prop_assert!(closes <= 1);
            let is_over = matches!(state.phase, Phase::Ended { .. });
            prop_assert!(state.next_deadline().is_some() || is_over);
        }
    }
}

#[test]
fn a_side_that_cannot_be_followed_ends_the_session_for_both() {
    let start = Now::read().mono;
    for (from, reason) in [
        (Sender::Client, CloseReason::ClientProtocol),
        (Sender::Upstream, CloseReason::UpstreamProtocol),
    ] {
        let mut state = SessionState::new(rules(), start);
        state.handle_protocol_error(from, start);
        assert!(state.is_ending());
        assert_eq!(state.poll_action(), Some(SessionAction::Close(reason)));
        assert_eq!(seconds(&mut state, start, 5)[0], SessionAction::End(reason));

        // In a close handshake, the reason of the handshake stays.
        let mut state = SessionState::new(rules(), start);
        state.handle_close_frame(Sender::Client, CloseCode::NORMAL, start);
        state.handle_protocol_error(from, start);
        let ended = state.poll_action() == Some(SessionAction::End(CloseReason::ClientClosed));
        assert_eq!(ended, from == Sender::Upstream);
    }
}

#[test]
fn a_side_that_takes_no_bytes_has_gone() {
    let start = Now::read().mono;
    for (to, reason) in
        [(Sender::Client, CloseReason::ClientGone), (Sender::Upstream, CloseReason::UpstreamGone)]
    {
        let mut state = SessionState::new(rules(), start);
        state.handle_write_failed(to, start);
        assert_eq!(state.poll_action(), Some(SessionAction::Close(reason)));
        let other = if to == Sender::Client { Sender::Upstream } else { Sender::Client };
        state.handle_end_of_stream(other, start);
        assert_eq!(
            state.poll_action(),
            Some(SessionAction::End(reason)),
            "the other side has ended too"
        );
    }
}
