//! An orderly stop: not ready, no new connections, closes spread over the window, exit.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::events::{DrainFinished, DrainStarted};
use crate::base::clock::Now;
use crate::rejection::close::CloseReason;
use crate::session::registry::Registry;
use crate::telemetry::Event;

#[derive(Debug)]
pub struct Drain {
    begun: watch::Sender<bool>,
    /// The number of sockets that still accept.
    accepting: watch::Sender<usize>,
}

/// A socket that accepts connections. Dropped when the socket has closed.
#[derive(Debug)]
pub struct Accepting(watch::Sender<usize>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { begun: watch::Sender::new(false), accepting: watch::Sender::new(0) }
    }
}

impl Drain {
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Registers a socket that accepts connections.
    pub fn accepting(&self) -> Accepting {
        self.accepting.send_modify(|count| *count += 1);
        Accepting(self.accepting.clone())
    }

    /// Completes when every socket has emptied its queue and closed.
    pub async fn all_closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.accepting.subscribe().wait_for(|count| *count == 0).await;
    }

    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Completes when the drain begins, at once if it has.
    pub async fn begun(&self) {
        let mut watcher = self.begun.subscribe();
        // The sender lives as long as `self`, so this cannot fail before the drain begins.
        let _ = watcher.wait_for(|begun| *begun).await;
    }
}

/// Closes every session, each at its own moment of the window. Waits until all sessions have ended,
/// at most for the window and `close_timeout`.
pub async fn close_sessions(registry: &Arc<Registry>, window: Duration, close_timeout: Duration) {
    let sessions = registry.handles();
    DrainStarted { sessions: sessions.len(), window }.emit();
    let started = Now::read().mono;
    let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
    for (turn, session) in (0..count).zip(sessions) {
        sleep_until(started + slot(window, turn, count)).await;
        session.close(CloseReason::Draining);
    }
    let deadline = Now::read().mono + close_timeout;
    while !registry.is_empty() && Now::read().mono < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    DrainFinished { remaining: registry.len() }.emit();
}

/// Returns the moment at which one session closes. Each session has an equal slot of the window and
/// a random moment in it, so that many servers that stop together do not close in step.
fn slot(window: Duration, turn: u32, count: u32) -> Duration {
    let mut random = [0; 2];
    let _ = rand::fill(&mut random);
    let jitter = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
    window.mul_f64((f64::from(turn) + jitter) / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_are_spread_over_the_whole_window_in_order() {
        let window = Duration::from_secs(30);
        let slots: Vec<_> = (0..100).map(|turn| slot(window, turn, 100)).collect();
        assert!(slots.is_sorted());
        assert!(slots[0] <= window / 100 && slots[99] >= window * 99 / 100 && slots[99] <= window);
    }

    #[tokio::test]
    async fn a_drain_that_has_begun_is_noticed_by_who_comes_late() {
        let drain = Drain::default();
        drain.begin();
        drain.begun().await;
        assert!(drain.has_begun());
        let (one, other) = (drain.accepting(), drain.accepting());
        drop(one);
        assert!(tokio::time::timeout(Duration::from_millis(1), drain.all_closed()).await.is_err());
        drop(other);
        drain.all_closed().await;
    }
}
