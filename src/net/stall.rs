//! Waits for a client, each bounded by its progress.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::base::clock::Now;

/// A stranger that moves fewer bytes than this in one `stall_timeout` counts as stalled: a byte now
/// and then would keep its place for ever.
const LEAST_OF_A_STRANGER: usize = 1024;

/// A client that has been waited for as long as this part of `stall_timeout` is slow: a newcomer
/// may have its place.
const SLOW_AFTER: u32 = 6;

/// The waits for a client in one direction. A timer exists only while Usher waits.
#[derive(Debug)]
pub struct Stall {
    limit: Duration,
    /// The part of the limit that is left, while no timer runs.
    left: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    slow: Option<Pin<Box<Sleep>>>,
    is_slow: bool,
    /// Bytes since the limit was last reset.
    bytes: usize,
}

impl Stall {
    pub fn new(limit: Duration) -> Self {
        Self { limit, left: limit, timer: None, slow: None, is_slow: false, bytes: 0 }
    }

    /// Notes that the client has moved `count` bytes. The limit goes on with the next wait.
    pub fn count_bytes(&mut self, count: usize, is_stranger: bool) {
        let Some(timer) = &self.timer else { return };
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes >= least(is_stranger) {
            self.end();
        } else if count > 0 {
            self.left = timer.deadline().saturating_duration_since(Now::read().mono);
            (self.timer, self.slow, self.is_slow) = (None, None, false);
        }
    }

    /// Notes that Usher does not wait any more.
    pub fn end(&mut self) {
        (self.timer, self.slow, self.is_slow) = (None, None, false);
        (self.left, self.bytes) = (self.limit, 0);
    }

    /// Returns true if the current wait has lasted for a sixth of the limit.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Waits for the client. Completes when it has not moved enough bytes within the limit.
    pub fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let slow = self.slow.get_or_insert_with(|| Box::pin(sleep(self.limit / SLOW_AFTER)));
        self.is_slow = self.is_slow || slow.as_mut().poll(cx).is_ready();
        self.timer.get_or_insert_with(|| Box::pin(sleep(self.left))).as_mut().poll(cx)
    }
}

fn least(is_stranger: bool) -> usize {
    if is_stranger { LEAST_OF_A_STRANGER } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    async fn is_elapsed(stall: &mut Stall) -> bool {
        poll_fn(|cx| Poll::Ready(stall.poll_elapsed(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_client_is_waited_for_as_long_as_it_moves() {
        let mut stall = Stall::new(LIMIT);
        for _ in 0..10 {
            assert!(!is_elapsed(&mut stall).await);
            tokio::time::advance(LIMIT - Duration::from_millis(2)).await;
            assert!(!is_elapsed(&mut stall).await);
            stall.count_bytes(1, false);
            assert!(stall.timer.is_none(), "nothing is held while nothing is waited for");
        }
        assert!(!is_elapsed(&mut stall).await);
        tokio::time::advance(LIMIT + Duration::from_millis(2)).await;
        assert!(is_elapsed(&mut stall).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_not_waited_for_byte_by_byte() {
        let mut stall = Stall::new(LIMIT);
        assert!(!is_elapsed(&mut stall).await);
        for _ in 0..3 {
            tokio::time::advance(LIMIT / 4).await;
            stall.count_bytes(LEAST_OF_A_STRANGER / 4, true);
            assert!(!is_elapsed(&mut stall).await);
        }
        stall.count_bytes(LEAST_OF_A_STRANGER / 4, true);
        assert_eq!(stall.left, LIMIT, "it is slow, and it moves");
        // While the upstream takes its time, Usher does not wait for the client.
        assert!(!is_elapsed(&mut stall).await);
        stall.count_bytes(1, true);
        tokio::time::advance(LIMIT * 2).await;
        assert!(!is_elapsed(&mut stall).await);
        for _ in 0..3 {
            tokio::time::advance(LIMIT / 3 + Duration::from_millis(2)).await;
            assert!(stall.timer.is_some());
            stall.count_bytes(1, true);
            let _ = is_elapsed(&mut stall).await;
        }
        assert!(is_elapsed(&mut stall).await);
    }
}
