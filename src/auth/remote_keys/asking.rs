//! When an issuer is asked for its keys on behalf of a client.
//!
//! No I/O and no clock. Attempts are numbered: who needs a key waits for one that begins after the
//! need arose, all of them for the same one, and no flood of made-up key ids causes more than one a
//! minute.

use std::time::Duration;

use tokio::time::Instant;

/// Between two questions on behalf of clients.
pub const APART: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct FetchSchedule {
    begun: u64,
    finished: u64,
    asked: Option<PromisedFetch>,
    /// Nobody has begun what was promised yet.
    is_due: bool,
}

#[derive(Clone, Copy, Debug)]
struct PromisedFetch {
    at: Instant,
    /// The attempt that answers it.
    attempt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchDecision {
    /// Whoever fetches has to be woken; then wait as below.
    Begin(u64),
    /// Wait until this attempt has finished.
    Wait(u64),
    /// It was asked a moment ago.
    TooSoon,
}

impl FetchSchedule {
    pub fn ask(&mut self, now: Instant) -> FetchDecision {
        match self.asked {
            Some(asked) if asked.attempt > self.finished => {
                return FetchDecision::Wait(asked.attempt);
            }
            Some(asked) if now.saturating_duration_since(asked.at) < APART => {}
            _ => {
                // What has begun already may have been answered before the need arose.
                let attempt = self.begun + 1;
                self.asked = Some(PromisedFetch { at: now, attempt });
                self.is_due = true;
                return FetchDecision::Begin(attempt);
            }
        }
        // One of the background is on its way and costs nobody anything.
        if self.begun > self.finished {
            FetchDecision::Wait(self.begun)
        } else {
            FetchDecision::TooSoon
        }
    }

    /// Is there a question that no attempt has taken up?
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    pub fn begin(&mut self) {
        self.begun += 1;
        self.is_due = false;
    }

    /// Gives back how many attempts have finished.
    pub fn finish(&mut self) -> u64 {
        self.finished = self.begun;
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;

    #[test]
    fn all_who_need_a_key_wait_for_one_attempt() {
        let (mut asking, now) = (FetchSchedule::default(), Now::read().mono);
        assert_eq!(asking.ask(now), FetchDecision::Begin(1));
        assert_eq!(asking.ask(now), FetchDecision::Wait(1));
        assert!(asking.is_due());
        asking.begin();
        assert!(!asking.is_due());
        assert_eq!(asking.ask(now), FetchDecision::Wait(1));
        assert_eq!(asking.finish(), 1);
    }

    #[test]
    fn a_minute_passes_between_two_questions() {
        let (mut asking, now) = (FetchSchedule::default(), Now::read().mono);
        assert_eq!(asking.ask(now), FetchDecision::Begin(1));
        asking.begin();
        asking.finish();
        assert_eq!(asking.ask(now + APART - Duration::from_millis(1)), FetchDecision::TooSoon);
        assert_eq!(asking.ask(now + APART), FetchDecision::Begin(2));
    }

    #[test]
    fn an_attempt_that_had_begun_before_the_need_does_not_answer_it() {
        let (mut asking, now) = (FetchSchedule::default(), Now::read().mono);
        asking.begin();
        assert_eq!(asking.ask(now), FetchDecision::Begin(2));
        asking.finish();
        assert_eq!(asking.ask(now), FetchDecision::Wait(2));
        asking.begin();
        asking.finish();
        asking.begin();
        assert_eq!(
            asking.ask(now),
            FetchDecision::Wait(3),
            "one of the background, which costs nothing"
        );
    }
}
