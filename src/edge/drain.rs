//! An orderly stop: not ready, no new connections, closes spread over the window, exit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::events::{DrainFinished, DrainStarted, ShareDrainStarted};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::rejection::close::CloseReason;
use crate::session::registry::{Registry, SessionHandle};
use crate::telemetry::Event;

/// How often a drain looks whether the session that it waits for has ended.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Drain {
    /// Whether an operator has ordered the process to stop.
    ordered: watch::Sender<bool>,
    /// Whether a share of the sessions is being closed.
    is_closing_share: AtomicBool,
    phase: watch::Sender<DrainPhase>,
    /// The number of sockets that still accept, or are paused.
    accepting: watch::Sender<usize>,
    /// The number of sockets that are paused.
    paused: watch::Sender<usize>,
    /// The addresses at which another process has taken over.
    taken: Mutex<Vec<SocketAddr>>,
    /// The end of the window in which the sessions close.
    window_ends: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainPhase {
    Accepting,
    /// Another process is taking over. The kernel queues new connections.
    Paused,
    /// Another process has taken over. Connections that are open here are served.
    Replaced,
    /// No new connections. Those that are here are served, and end after their answer.
    Stopping,
    /// The window is over. Upgrades are refused.
    Refusing,
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
            phase: watch::Sender::new(DrainPhase::Accepting),
            accepting: watch::Sender::new(0),
            paused: watch::Sender::new(0),
            taken: Mutex::default(),
            window_ends: Mutex::default(),
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
        registry: &Arc<Registry>,
        share: Share<'_>,
        window: Duration,
    ) -> Option<ShareSize> {
        if self.is_closing_share.swap(true, Ordering::AcqRel) {
            return None;
        }
        let mut sessions = registry.handles();
        sessions.retain(|session| share.route.is_none_or(|route| *session.route.name == *route));
        let total = sessions.len();
        let sessions = chosen(sessions, share.percent);
        let size = ShareSize { closing: sessions.len(), total };
        ShareDrainStarted { size, share, window }.emit();
        let (drain, registry) = (Arc::clone(self), Arc::clone(registry));
        tokio::spawn(async move {
            close_spread(&registry, sessions, window).await;
            drain.is_closing_share.store(false, Ordering::Release);
        });
        Some(size)
    }

    pub fn begin(&self) {
        self.phase.send_replace(DrainPhase::Stopping);
    }

    /// Stops accepting until [`Drain::resume`]. Returns false if the process is leaving already.
    pub fn pause(&self) -> bool {
        self.step(DrainPhase::Accepting, DrainPhase::Paused)
    }

    pub fn resume(&self) {
        self.step(DrainPhase::Paused, DrainPhase::Accepting);
    }

    /// Leaves these addresses to another process.
    pub fn replace(&self, taken: Vec<SocketAddr>) {
        *lock(&self.taken) = taken;
        self.phase.send_replace(DrainPhase::Replaced);
    }

    /// Returns true if another process has taken over at this address.
    pub fn is_taken(&self, address: SocketAddr) -> bool {
        lock(&self.taken).contains(&address)
    }

    fn step(&self, from: DrainPhase, to: DrainPhase) -> bool {
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

    /// Completes when the drain begins, at once if it has.
    pub async fn begun(&self) {
        self.until(|phase| matches!(phase, DrainPhase::Stopping | DrainPhase::Refusing)).await;
    }

    /// Ends the window: upgrades that are still under way are refused.
    pub fn refuse_upgrades(&self) {
        self.phase.send_replace(DrainPhase::Refusing);
    }

    pub fn refuses_upgrades(&self) -> bool {
        *self.phase.borrow() == DrainPhase::Refusing
    }

    /// Completes when upgrades are refused.
    pub async fn refusing(&self) {
        self.until(|phase| phase == DrainPhase::Refusing).await;
    }

    /// Gives a session that has just opened its moment of the window. Without a drain it does
    /// nothing. The session must be in the registry already: the drain lists those that are there
    /// when the window begins, and when it ends.
    pub fn close_in_window(&self, session: &Arc<SessionHandle>) {
        if self.refuses_upgrades() {
            session.close(CloseReason::Draining);
            return;
        }
        let Some(window_ends) = *lock(&self.window_ends) else { return };
        let now = Now::read().mono;
        let moment = now + slot(window_ends.saturating_duration_since(now), 0, 1);
        let session = Arc::clone(session);
        tokio::spawn(async move {
            sleep_until(moment).await;
            session.close(CloseReason::Draining);
        });
    }

    /// Returns true if every socket has emptied its queue and closed.
    fn is_closed(&self) -> bool {
        *self.accepting.borrow() == 0
    }

    /// Completes when the sockets may not accept.
    pub async fn halted(&self) {
        self.until(|phase| phase != DrainPhase::Accepting).await;
    }

    /// Completes when another process has taken over.
    pub async fn replaced(&self) {
        self.until(|phase| phase == DrainPhase::Replaced).await;
    }

    pub fn is_replaced(&self) -> bool {
        *self.phase.borrow() == DrainPhase::Replaced
    }

    async fn until(&self, is_reached: impl Fn(DrainPhase) -> bool) -> DrainPhase {
        let mut watcher = self.phase.subscribe();
        // The sender lives as long as `self`.
        let reached = watcher.wait_for(|phase| is_reached(*phase)).await;
        reached.map_or(DrainPhase::Stopping, |phase| *phase)
    }
}

impl Accepting {
    /// Waits while another process is taking over. Returns the phase that follows.
    pub async fn wait(&self, drain: &Drain) -> DrainPhase {
        let _paused = Counted::enter(&drain.paused);
        drain.until(|phase| phase != DrainPhase::Paused).await
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

/// Closes every session, each at its own moment of the window, and also those that open meanwhile
/// on connections that are here already. The window ends early when no connection is left. Then
/// waits for the last sessions, at most for `close_timeout`.
pub async fn close_sessions(
    drain: &Drain,
    registry: &Arc<Registry>,
    open_connections: impl Fn() -> usize,
    window: Duration,
    close_timeout: Duration,
) {
    let window_ends = Now::read().mono + window;
    // Set before the sessions are listed, so that a session that is not on the list knows it.
    *lock(&drain.window_ends) = Some(window_ends);
    let sessions = registry.handles();
    DrainStarted { sessions: sessions.len(), window }.emit();
    let spread = async {
        close_spread(registry, sessions, window).await;
        sleep_until(window_ends).await;
    };
    let emptied = async {
        while !drain.is_closed() || open_connections() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = spread => {}
        () = emptied => {}
    }
    drain.refuse_upgrades();
    for session in registry.handles() {
        session.close(CloseReason::Draining);
    }
    let deadline = Now::read().mono + close_timeout;
    while !registry.is_empty() && Now::read().mono < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    DrainFinished { remaining: registry.len() }.emit();
}

/// Asks each session to close, at its own moment of the window. The moment of a session that has
/// ended by itself is not waited for.
async fn close_spread(registry: &Registry, sessions: Vec<Arc<SessionHandle>>, window: Duration) {
    let started = Now::read().mono;
    let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
    for (turn, session) in (0..count).zip(sessions) {
        let moment = started + slot(window, turn, count);
        while registry.find(session.id).is_some() && Now::read().mono < moment {
            sleep_until(moment.min(Now::read().mono + LOOK)).await;
        }
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
        let (one, other) = (drain.accepting(), drain.accepting());
        drop(one);
        assert!(tokio::time::timeout(Duration::from_millis(1), drain.all_closed()).await.is_err());
        drop(other);
        drain.all_closed().await;
    }
}
