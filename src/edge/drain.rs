//! An orderly stop: not ready, no new connections, closes spread over the window, exit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::events::{DrainFinished, DrainStarted, ShareDrainStarted};
use crate::base::clock::Now;
use crate::rejection::close::CloseReason;
use crate::session::registry::{Registry, SessionHandle};
use crate::telemetry::Event;

#[derive(Debug)]
pub struct Drain {
    /// Whether an operator has ordered the process to stop.
    ordered: watch::Sender<bool>,
    /// Whether a share of the sessions is being closed.
    is_closing_share: AtomicBool,
    begun: watch::Sender<bool>,
    /// The number of sockets that still accept.
    accepting: watch::Sender<usize>,
}

/// The sessions that an operator closes while the process goes on.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// 1 to 100.
    pub percent: u8,
    /// `None`: the sessions of every route.
    pub route: Option<&'a str>,
}

/// The sessions of a [`Share`] that will close, of all that it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareSize {
    pub closing: usize,
    pub total: usize,
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
        Self {
            ordered: watch::Sender::new(false),
            is_closing_share: AtomicBool::new(false),
            begun: watch::Sender::new(false),
            accepting: watch::Sender::new(0),
        }
    }
}

impl Drain {
    /// Orders the process to stop, as SIGTERM does.
    pub fn order_stop(&self) {
        self.ordered.send_replace(true);
    }

    /// Completes when the process was ordered to stop.
    pub async fn stop_ordered(&self) {
        // The sender lives as long as `self`.
        let _ = self.ordered.subscribe().wait_for(|ordered| *ordered).await;
    }

    /// Begins to close a random share of the sessions, spread over the window, while the process
    /// goes on. Returns the numbers of sessions that will close and of sessions concerned. `None`:
    /// another share is being closed.
    pub fn close_share(
        self: &Arc<Self>,
        registry: &Registry,
        share: Share<'_>,
        window: Duration,
    ) -> Option<ShareSize> {
        if self.is_closing_share.swap(true, Ordering::AcqRel) {
            return None;
        }
        let mut sessions = registry.handles();
        sessions.retain(|session| share.route.is_none_or(|route| *session.route == *route));
        let total = sessions.len();
        let sessions = chosen(sessions, share.percent);
        let size = ShareSize { closing: sessions.len(), total };
        ShareDrainStarted { size, share, window }.emit();
        let drain = Arc::clone(self);
        tokio::spawn(async move {
            close_spread(sessions, window).await;
            drain.is_closing_share.store(false, Ordering::Release);
        });
        Some(size)
    }

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
    close_spread(sessions, window).await;
    let deadline = Now::read().mono + close_timeout;
    while !registry.is_empty() && Now::read().mono < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    DrainFinished { remaining: registry.len() }.emit();
}

/// Asks each session to close, at its own moment of the window.
async fn close_spread(sessions: Vec<Arc<SessionHandle>>, window: Duration) {
    let started = Now::read().mono;
    let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
    for (turn, session) in (0..count).zip(sessions) {
        sleep_until(started + slot(window, turn, count)).await;
        session.close(CloseReason::Draining);
    }
}

/// Returns this percentage of the sessions, rounded up, chosen at random.
fn chosen<T>(mut sessions: Vec<T>, percent: u8) -> Vec<T> {
    let wanted = (sessions.len() * usize::from(percent)).div_ceil(100).min(sessions.len());
    for place in 0..wanted {
        let mut random = [0; 8];
        let _ = rand::fill(&mut random);
        let rest = (sessions.len() - place) as u64;
        let other = place + usize::try_from(u64::from_be_bytes(random) % rest).unwrap_or(0);
        sessions.swap(place, other);
    }
    sessions.truncate(wanted);
    sessions
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

    #[test]
    fn a_share_is_rounded_up_and_has_no_session_twice() {
        for (count, percent, wanted) in
            [(0, 50, 0), (1, 1, 1), (10, 20, 2), (10, 21, 3), (7, 100, 7), (200, 1, 2)]
        {
            let mut share = chosen((0..count).collect(), percent);
            share.sort_unstable();
            share.dedup();
            assert_eq!(share.len(), wanted, "{percent} % of {count}");
        }
        let firsts: std::collections::BTreeSet<_> =
            (0..200).map(|_| chosen((0..100).collect::<Vec<_>>(), 1)).collect();
        assert!(firsts.len() > 20, "the choice is random: {firsts:?}");
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
