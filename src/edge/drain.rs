//! An orderly stop: not ready, no new connections, closes spread over the window, exit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::events::{DrainFinished, DrainStarted, ShareDrainStarted};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::rejection::close::CloseReason;
use crate::session::registry::{Registry, SessionHandle};
use crate::telemetry::Event;

#[derive(Debug)]
pub struct Drain {
    /// Whether an operator has ordered the process to stop.
    ordered: watch::Sender<bool>,
    /// Whether a share of the sessions is being closed.
    is_closing_share: AtomicBool,
    phase: watch::Sender<Phase>,
    /// The number of sockets that still accept, or are paused.
    accepting: watch::Sender<usize>,
    /// The number of sockets that are paused.
    paused: watch::Sender<usize>,
    /// The addresses at which another process has taken over.
    taken: Mutex<Vec<SocketAddr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Accepting,
    /// Another process is taking over. The kernel queues new connections.
    Paused,
    /// Another process has taken over. Connections that are open here are served.
    Replaced,
    /// Upgrades are refused, and connections end after their answer.
    Stopping,
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
            phase: watch::Sender::new(Phase::Accepting),
            accepting: watch::Sender::new(0),
            paused: watch::Sender::new(0),
            taken: Mutex::default(),
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
        self.phase.send_replace(Phase::Stopping);
    }

    /// Stops accepting until [`Drain::resume`]. Returns false if the process is leaving already.
    pub fn pause(&self) -> bool {
        self.step(Phase::Accepting, Phase::Paused)
    }

    pub fn resume(&self) {
        self.step(Phase::Paused, Phase::Accepting);
    }

    /// Leaves these addresses to another process.
    pub fn replace(&self, taken: Vec<SocketAddr>) {
        *lock(&self.taken) = taken;
        self.phase.send_replace(Phase::Replaced);
    }

    /// Returns true if another process has taken over at this address.
    pub fn is_taken(&self, address: SocketAddr) -> bool {
        lock(&self.taken).contains(&address)
    }

    fn step(&self, from: Phase, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let is_there = *phase == from;
            if is_there {
                *phase = to;
            }
            is_there
        })
    }

    /// Completes when every socket is paused.
    pub async fn all_paused(&self) {
        let is_paused = |paused: &usize| *paused >= *self.accepting.borrow();
        // The sender lives as long as `self`.
        let _ = self.paused.subscribe().wait_for(is_paused).await;
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
        *self.phase.borrow() == Phase::Stopping
    }

    /// Completes when the drain begins, at once if it has.
    pub async fn begun(&self) {
        self.until(|phase| phase == Phase::Stopping).await;
    }

    /// Completes when the sockets may not accept.
    pub async fn halted(&self) {
        self.until(|phase| phase != Phase::Accepting).await;
    }

    /// Completes when another process has taken over.
    pub async fn replaced(&self) {
        self.until(|phase| phase == Phase::Replaced).await;
    }

    pub fn is_replaced(&self) -> bool {
        *self.phase.borrow() == Phase::Replaced
    }

    async fn until(&self, is_reached: impl Fn(Phase) -> bool) -> Phase {
        let mut watcher = self.phase.subscribe();
        // The sender lives as long as `self`.
        let reached = watcher.wait_for(|phase| is_reached(*phase)).await;
        reached.map_or(Phase::Stopping, |phase| *phase)
    }
}

impl Accepting {
    /// Waits while another process is taking over. Returns the phase that follows.
    pub async fn wait(&self, drain: &Drain) -> Phase {
        let _paused = Counted::enter(&drain.paused);
        drain.until(|phase| phase != Phase::Paused).await
    }
}

/// One in a count, until it is dropped.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn enter(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
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

/// Drains after another process has taken over. Connections that are open may send requests until
/// the window ends, and their sessions close then.
pub async fn leave_to_successor(
    drain: &Drain,
    registry: &Arc<Registry>,
    open_connections: impl Fn() -> usize,
    window: Duration,
    close_timeout: Duration,
) {
    let sessions = registry.handles();
    DrainStarted { sessions: sessions.len(), window }.emit();
    let window_ends = Now::read().mono + window;
    let closing = close_spread(sessions, window);
    let quiet = async {
        while open_connections() > 0 && Now::read().mono < window_ends {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(closing, quiet);
    drain.begin();
    for session in registry.handles() {
        session.close(CloseReason::Draining);
    }
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
