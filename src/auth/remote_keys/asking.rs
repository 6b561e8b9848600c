//! The rules when an issuer is asked for its keys on behalf of a client.
//!
//! This module has no I/O and no clock. Attempts are numbered. A client that needs a key waits for
//! an attempt that begins after its request; all clients wait for the same one. A flood of invented
//! key ids causes at most one attempt a minute.

use std::time::Duration;

use tokio::time::Instant;

/// The minimum time between two attempts on behalf of clients.
pub const APART: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct FetchSchedule {
    begun: u64,
    finished: u64,
    asked: Option<PromisedFetch>,
    /// An attempt was requested and has not begun.
    is_due: bool,
}

#[derive(Clone, Copy, Debug)]
struct PromisedFetch {
    at: Instant,
    /// The attempt that answers this request.
    attempt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchDecision {
    /// Wake the task that fetches, then wait until this attempt has finished.
    Begin(u64),
    /// Wait until this attempt has finished.
    Wait(u64),
    /// The last attempt on behalf of a client was too recent.
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
                // An attempt that has begun may have got its response before the client needed the
                // key.
                let attempt = self.begun + 1;
                self.asked = Some(PromisedFetch { at: now, attempt });
                self.is_due = true;
                return FetchDecision::Begin(attempt);
            }
        }
        // A background attempt in progress can be used without a new request.
        if self.begun > self.finished {
            FetchDecision::Wait(self.begun)
        } else {
            FetchDecision::TooSoon
        }
    }

    /// Returns true if an attempt was requested and has not begun.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    pub fn begin(&mut self) {
        self.begun += 1;
        self.is_due = false;
    }

    /// Ends the attempt, and returns the number of finished attempts.
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
            "a background attempt needs no new request"
        );
    }
}
