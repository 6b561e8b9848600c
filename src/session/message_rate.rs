//! The limit on a client's messages per second, counted by their headers.

use tokio::time::Instant;

/// A bucket that holds one second's messages.
#[derive(Debug)]
pub(super) struct MessageRate {
    per_second: f64,
    left: f64,
    counted: u64,
    at: Instant,
}

impl MessageRate {
    pub(super) fn new(per_second: usize, now: Instant) -> Self {
        let per_second = per_second as f64;
        Self { per_second, left: per_second, counted: 0, at: now }
    }

    /// Returns false if the client has sent too many. `messages` is the number of messages so far.
    pub(super) fn allows(&mut self, messages: u64, now: Instant) -> bool {
        let new = messages - self.counted;
        if new == 0 {
            return true;
        }
        self.counted = messages;
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.at = now;
        self.left = (self.left + refilled).min(self.per_second) - new as f64;
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use std::time::Duration;

    #[test]
    fn a_second_s_messages_may_come_at_once_and_then_evenly() {
        let start = Now::read().mono;
        let mut rate = MessageRate::new(10, start);
        assert!((1..=10).all(|count| rate.allows(count, start)));
        assert!(!rate.allows(11, start));
        let mut rate = MessageRate::new(10, start);
        assert!(
            (1..1000).all(|count| rate.allows(count, start + Duration::from_millis(100 * count)))
        );
        assert!(rate.allows(999, start), "nothing new is always fine");
    }
}
