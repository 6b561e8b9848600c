//! When a certificate is renewed, and when a failed order is tried again. Without I/O and clock.

use std::time::Duration;

use crate::base::clock::UnixMillis;

/// The first pause after a refusal. Each further one doubles it. Let's Encrypt allows five failed
/// validations an hour for each name.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3 * 3600);
/// The first pause after an outage, which counts against no limit of an authority.
const FIRST_OUTAGE_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(600);
/// The longest pause that an authority may ask for.
pub const LONGEST_WISH: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of two nodes may differ.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// Returns when to renew a certificate that this node can use since `received`. `chance` is a
/// number from 0 to 1. It moves the time forward by up to a tenth of `renew_before`, so that nodes
/// and installations do not ask the authority at the same time.
///
/// At least a third of the life passes before: a `renew_before` that is longer than a short life
/// would order without end.
pub fn renewal(
    received: UnixMillis,
    not_after: UnixMillis,
    renew_before: Option<Duration>,
    chance: f64,
) -> UnixMillis {
    let life = not_after.since(received);
    let before = renew_before.unwrap_or(life / 3).min(life * 3 / 5);
    let early = before + before.mul_f64(chance.clamp(0.0, 1.0) / 10.0);
    UnixMillis(not_after.0.saturating_sub(u64::try_from(early.as_millis()).unwrap_or(u64::MAX)))
}

/// Returns the pause after the last of `failures` consecutive failures. `chance` is a number from 0
/// to 1, and changes the pause by up to a quarter.
pub fn pause(failures: u32, is_outage: bool, wish: Option<Duration>, chance: f64) -> Duration {
    let (first, longest) = match is_outage {
        true => (FIRST_OUTAGE_PAUSE, LONGEST_OUTAGE_PAUSE),
        false => (FIRST_PAUSE, LONGEST_PAUSE),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(longest);
    let pause = doubled.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
    pause.max(wish.unwrap_or_default().min(LONGEST_WISH))
}

/// Returns true after the end of a pause. A stored end that no pause reaches is of a clock that was
/// ahead, and would stop a fleet until then.
pub fn has_passed(end: UnixMillis, now: UnixMillis) -> bool {
    end <= now || end > now + LONGEST_WISH + CLOCK_SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life() {
        let end = NOW + DAY * 90;
        assert_eq!(renewal(NOW, end, None, 0.0), NOW + DAY * 60);
        assert_eq!(renewal(NOW, end, None, 1.0), NOW + DAY * 57);
        assert_eq!(renewal(NOW, end, Some(DAY * 10), 0.0), NOW + DAY * 80);
        // A time before the end that suits 90 days, and a certificate for 5 days.
        assert_eq!(renewal(NOW, NOW + DAY * 5, Some(DAY * 30), 0.0), NOW + DAY * 2);
        for chance in [0.0, 0.5, 1.0] {
            let at = renewal(NOW, NOW + DAY * 6, Some(DAY * 100), chance);
            assert!(at >= NOW + DAY * 2 && at < NOW + DAY * 6, "{at:?}");
        }
        assert_eq!(renewal(NOW, NOW, None, 0.0), NOW, "an expired one is due");
    }

    #[test]
    fn pauses_grow_and_respect_the_wish_of_the_authority() {
        let refusals: Vec<_> =
            (1..=9).map(|count| pause(count, false, None, 0.5).as_secs()).collect();
        assert_eq!(refusals, [60, 120, 240, 480, 960, 1920, 3840, 7680, 10_800]);
        let outages: Vec<_> =
            (1..=10).map(|count| pause(count, true, None, 0.5).as_secs()).collect();
        assert_eq!(outages, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]);
        assert_eq!(pause(u32::MAX, true, None, 0.5).as_secs(), 600);
        assert_eq!(pause(1, false, None, 0.0).as_secs(), 45);
        assert_eq!(pause(1, false, None, 1.0).as_secs(), 75);
        let hour = Duration::from_secs(3600);
        assert_eq!(pause(1, false, Some(hour), 0.5), hour);
        assert_eq!(pause(1, false, Some(DAY * 4000), 0.5), DAY, "not for years");
    }

    #[test]
    fn a_pause_that_a_wrong_clock_stored_has_passed() {
        assert!(has_passed(NOW, NOW) && has_passed(UnixMillis(0), NOW));
        assert!(!has_passed(NOW + Duration::from_millis(1), NOW));
        assert!(!has_passed(NOW + DAY + CLOCK_SLACK, NOW), "of a node whose clock is ahead");
        assert!(has_passed(NOW + DAY + CLOCK_SLACK * 2, NOW));
        assert!(has_passed(UnixMillis(u64::MAX), NOW));
    }
}
