//! A circuit breaker: decides when to stop using a service that does not answer, and when to try it
//! again.
//!
//! It does no I/O and reads no clock: the time is an argument. A closed breaker allows all
//! operations, and counts consecutive failures. An open breaker allows none, so that clients are
//! refused at once. A half-open breaker allows one operation, the probe.

use std::time::Duration;

use tokio::time::Instant;

/// The number of consecutive failures that opens the breaker.
pub const FAILURES: u32 = 5;
/// The first pause. Each failed probe doubles it.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause. A service that works again is found within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Breaker {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// A probe is under way. If it does not end, the next probe is allowed at `until`.
    HalfOpen {
        until: Instant,
        pause: Duration,
    },
}

/// The state that metrics and logs show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 } }
    }
}

impl Breaker {
    /// Returns true if an operation may begin. The caller then reports its outcome.
    pub fn admit(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } | State::HalfOpen { until, .. } if now < until => false,
            State::Open { pause, .. } | State::HalfOpen { pause, .. } => {
                self.state = State::HalfOpen { until: now + LONGEST_PAUSE, pause };
                true
            }
        }
    }

    pub fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    pub fn failed(&mut self, now: Instant) {
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < FAILURES => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => State::Open { until: now + PAUSE, pause: PAUSE },
            State::HalfOpen { pause, .. } => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                State::Open { until: now + pause, pause }
            }
            // The operation began before the breaker opened.
            open @ State::Open { .. } => open,
        };
    }

    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        }
    }
}

impl BreakerState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    /// Returns the value of the metric.
    pub fn number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.admit(now));
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let now = Now::read().mono;
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            (1..FAILURES).for_each(|_| breaker.failed(now));
            breaker.succeeded();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        let mut breaker = opened(now);
        assert_eq!((breaker.state(), breaker.admit(now)), (BreakerState::Open, false));
    }

    #[test]
    fn after_the_pause_one_probe_decides() {
        let now = Now::read().mono;
        let mut breaker = opened(now);
        let later = now + PAUSE;
        assert!(breaker.admit(later) && !breaker.admit(later), "one probe, not two");
        breaker.succeeded();
        assert!(breaker.state() == BreakerState::Closed && breaker.admit(later));
    }

    #[test]
    fn probes_that_fail_lengthen_the_pause_up_to_its_bound() {
        let mut now = Now::read().mono;
        let mut breaker = opened(now);
        for pause in [250, 500, 1000, 1000, 1000].map(Duration::from_millis) {
            assert!(!breaker.admit(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(breaker.admit(now));
            breaker.failed(now);
        }
    }

    #[test]
    fn a_probe_that_never_comes_back_makes_room_for_another() {
        let now = Now::read().mono;
        let mut breaker = opened(now);
        assert!(breaker.admit(now + PAUSE));
        assert!(breaker.admit(now + PAUSE + LONGEST_PAUSE));
    }

    #[test]
    fn what_fails_late_does_not_lengthen_the_pause() {
        let now = Now::read().mono;
        let mut breaker = opened(now);
        breaker.failed(now + PAUSE);
        assert!(breaker.admit(now + PAUSE));
    }
}
