//! Tests of the rules by which a server is ejected and returns.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::base::clock::Now;
use TryOutcome::{BadAnswer, DialFailed, Good, TimedOut};

const PAUSE: Duration = Duration::from_secs(5);
const RULES: HealthRules = HealthRules {
    eject_after: 3,
    pause: PAUSE,
    longest_pause: Duration::from_secs(60),
    slow_start: Duration::from_secs(10),
    has_checks: false,
};
const CHECKED: HealthRules = HealthRules { has_checks: true, ..RULES };

fn now() -> Instant {
    Now::read().mono
}

/// Returns the effect of the last outcome, and fails if an earlier one has an effect.
fn effect(health: &mut Health, outcomes: &[TryOutcome]) -> HealthEffect {
    let (last, first) = outcomes.split_last().unwrap();
    for outcome in first {
        assert_eq!(
            health.note(*outcome, DialPurpose::Regular, now(), &RULES),
            HealthEffect::Nothing
        );
    }
    health.note(*last, DialPurpose::Regular, now(), &RULES)
}

fn ejected(at: Instant) -> Health {
    let mut health = Health::new(None);
    health.eject(ServerFault::Dial, at, &RULES).unwrap();
    health
}

#[test]
fn three_failures_in_a_row_eject_a_server_that_was_good_for_long() {
    for (failure, fault) in [(DialFailed, ServerFault::Dial), (BadAnswer, ServerFault::Answer)] {
        let mut health = Health::new(None);
        assert_eq!(effect(&mut health, &[Good; 50]), HealthEffect::Nothing);
        assert_eq!(effect(&mut health, &[failure; 3]), HealthEffect::Eject(fault));
    }
}

#[test]
fn timeouts_count_once_three_users_had_one() {
    let mut health = Health::new(None);
    assert_eq!(effect(&mut health, &[TimedOut(1); 100]), HealthEffect::Nothing);
    assert_eq!(effect(&mut health, &[TimedOut(2), TimedOut(1)]), HealthEffect::Nothing);
    assert_eq!(effect(&mut health, &[TimedOut(3)]), HealthEffect::Eject(ServerFault::Timeout));
    // Two timeouts of one user count no more beside a refused dial.
    let mut health = Health::new(None);
    let one_user = [TimedOut(1), TimedOut(1), DialFailed, TimedOut(1), DialFailed];
    assert_eq!(effect(&mut health, &one_user), HealthEffect::Nothing);
    assert_eq!(effect(&mut health, &[DialFailed]), HealthEffect::Eject(ServerFault::Dial));
}

#[test]
fn half_of_the_answers_bad_eject_a_server_and_fewer_do_not() {
    let mut health = Health::new(None);
    let half = [Good, BadAnswer, Good, BadAnswer, Good, BadAnswer];
    assert_eq!(effect(&mut health, &half), HealthEffect::Eject(ServerFault::Answer));
    let mut health = Health::new(None);
    for _ in 0..100 {
        assert_eq!(effect(&mut health, &[Good, Good, BadAnswer]), HealthEffect::Nothing);
    }
    assert_eq!(health.record.len(), RECORD);
}

#[test]
fn after_the_pause_one_client_tries_the_server() {
    let at = now();
    let mut health = ejected(at);
    let almost = at + PAUSE - Duration::from_millis(1);
    assert!(!health.is_trial_due(almost, &RULES) && health.begin_trial(almost, &RULES).is_none());
    assert!(health.is_trial_due(at + PAUSE, &RULES));
    assert_eq!(health.begin_trial(at + PAUSE, &RULES), Some(DialPurpose::Trial(1)));
    assert!(health.begin_trial(at + PAUSE, &RULES).is_none(), "one client, not two");
    assert_eq!(health.state(at + PAUSE, &RULES), ServerState::OnTrial);
    // A client from before the ejection proves nothing.
    assert_eq!(health.note(Good, DialPurpose::Regular, at, &RULES), HealthEffect::Nothing);
    assert_eq!(
        health.note(Good, DialPurpose::Trial(1), at + PAUSE * 2, &RULES),
        HealthEffect::Returned { away: PAUSE * 2 }
    );
}

#[test]
fn a_trial_that_fails_doubles_the_pause_up_to_its_bound() {
    let mut at = now();
    let mut health = ejected(at);
    let mut pause = PAUSE;
    for (number, next) in (1..).zip([10, 20, 40, 60, 60].map(Duration::from_secs)) {
        assert!(!health.is_trial_due(at + pause - Duration::from_millis(1), &RULES));
        at += pause;
        let errand = health.begin_trial(at, &RULES).unwrap();
        assert_eq!(errand, DialPurpose::Trial(number));
        // One timeout is enough here: no other client tries the server.
        let effect = health.note(TimedOut(1), errand, at, &RULES);
        assert_eq!(effect, HealthEffect::TrialFailed { pause: next });
        pause = next;
    }
}

#[test]
fn a_client_that_leaves_its_trial_makes_way_for_another() {
    let at = now();
    let mut health = ejected(at);
    health.begin_trial(at + PAUSE, &RULES).unwrap();
    health.abandon_trial(7);
    assert!(!health.is_trial_due(at + PAUSE, &RULES), "another trial");
    health.abandon_trial(1);
    assert_eq!(health.begin_trial(at + PAUSE, &RULES), Some(DialPurpose::Trial(2)));
    assert_eq!(health.note(Good, DialPurpose::Trial(1), at, &RULES), HealthEffect::Nothing);
}

#[test]
fn a_relapse_soon_after_the_return_goes_on_with_longer_pauses() {
    let at = now();
    let mut health = ejected(at);
    let errand = health.begin_trial(at + PAUSE, &RULES).unwrap();
    let back = at + PAUSE;
    health.note(Good, errand, back, &RULES);
    assert_eq!(health.eject(ServerFault::Answer, back + PROBATION, &RULES), Some(PAUSE * 2));
    let errand = health.begin_trial(back + PROBATION * 2, &RULES).unwrap();
    let back = back + PROBATION * 2;
    health.note(Good, errand, back, &RULES);
    let later = back + PROBATION + PAUSE * 2;
    assert_eq!(health.eject(ServerFault::Answer, later, &RULES), Some(PAUSE));
}

#[test]
fn the_last_resort_returns_a_server_and_never_lengthens_its_pause() {
    let at = now();
    let mut health = ejected(at);
    assert_eq!(health.note(DialFailed, DialPurpose::LastResort, at, &RULES), HealthEffect::Nothing);
    assert!(health.is_trial_due(at + PAUSE, &RULES));
    let effect = health.note(Good, DialPurpose::LastResort, at + PAUSE, &RULES);
    assert_eq!(effect, HealthEffect::Returned { away: PAUSE });
}

#[test]
fn a_server_that_returns_starts_slowly() {
    let at = now();
    let mut health = ejected(at);
    assert_eq!(health.standing(at, &RULES), ServerAvailability::Ejected);
    health.note(Good, DialPurpose::LastResort, at, &RULES);
    for (seconds, standing) in [
        (0, ServerAvailability::Slow(0.1)),
        (5, ServerAvailability::Slow(0.5)),
        (10, ServerAvailability::Serving),
        (11, ServerAvailability::Serving),
    ] {
        assert_eq!(health.standing(at + Duration::from_secs(seconds), &RULES), standing);
    }
    let at_once = HealthRules { slow_start: Duration::ZERO, ..RULES };
    assert_eq!(health.standing(at, &at_once), ServerAvailability::Serving);
    assert_eq!(Health::new(None).standing(at, &RULES), ServerAvailability::Serving);
    assert_eq!(Health::new(Some(at)).state(at, &RULES), ServerState::SlowStart);
}

#[test]
fn a_server_that_is_listed_again_starts_slowly_or_stays_ejected() {
    let at = now();
    let mut health = Health::new(None);
    health.join_again(Some(at));
    assert_eq!(health.state(at, &RULES), ServerState::SlowStart);
    let mut health = ejected(at);
    health.join_again(Some(at));
    assert_eq!(health.state(at, &RULES), ServerState::Ejected);
}

#[test]
fn two_checks_that_fail_eject_a_server_and_two_that_pass_return_it() {
    let at = now();
    let mut health = Health::new(None);
    assert_eq!(health.fail_check(), (HealthEffect::Nothing, 1));
    assert_eq!(health.pass_check(at), HealthEffect::Nothing);
    assert_eq!(health.fail_check(), (HealthEffect::Nothing, 1));
    assert_eq!(health.fail_check(), (HealthEffect::Eject(ServerFault::Check), 2));
    health.eject(ServerFault::Check, at, &CHECKED).unwrap();
    let later = at + PAUSE;
    assert_eq!(health.pass_check(later), HealthEffect::Nothing);
    assert!(!health.is_trial_due(later, &CHECKED), "no client waits for it");
    assert_eq!(health.pass_check(later), HealthEffect::Returned { away: PAUSE });
    // Without checks, after a reload, a client tries it.
    health.eject(ServerFault::Check, later, &RULES).unwrap();
    assert!(health.is_trial_due(later + PAUSE * 2, &RULES));
}

#[test]
fn a_client_tries_a_server_only_while_its_checks_pass() {
    let at = now();
    let mut health = Health::new(None);
    health.eject(ServerFault::Timeout, at, &CHECKED).unwrap();
    assert!(health.is_trial_due(at + PAUSE, &CHECKED));
    assert_eq!(health.fail_check(), (HealthEffect::Nothing, 1));
    assert!(!health.is_trial_due(at + PAUSE, &CHECKED));
    (0..9).for_each(|_| assert_eq!(health.pass_check(at + PAUSE), HealthEffect::Nothing));
    assert!(health.is_trial_due(at + PAUSE, &CHECKED));
}
