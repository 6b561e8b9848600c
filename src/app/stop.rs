//! The ways to the exit: the signals and orders that stop the program, and the drain that follows.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

use super::RunError;
use super::replacer::Replacer;
use crate::base::clock::Now;
use crate::base::signal::{SignalAction, Signals};
use crate::edge::Edge;
use crate::edge::drain::{self, Drain};
use crate::edge::events::ReloadCause;
use crate::edge::events::{DrainAnnounced, DrainForced, ServiceManagerLost};
use crate::edge::reload::Orders;
use crate::net::service_manager::ServiceState;
use crate::rejection::close::CloseReason;
use crate::takeover::Successor;
use crate::telemetry::Event;

/// How long a stopping node may take to leave the fleet.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long each step of a forced stop may take.
const FORCED: Duration = Duration::from_millis(500);
/// How long the other steps of a stop may take.
const MARGIN: Duration = Duration::from_secs(10);

/// Why the process stops.
#[derive(Debug)]
pub(super) enum StopCause {
    Signal,
    /// `usher drain` or `POST /drain`.
    Order,
    /// Another process has taken over.
    Successor(Box<Successor>),
}

/// Completes at the first signal or order to stop, and fails if a worker thread ends before. A
/// hangup signal reloads the configuration. Without a file it stops the process, because the
/// terminal is closed. SIGUSR2 starts a new process, which takes over by itself.
pub(super) async fn wait_for_stop(
    signals: &mut Signals,
    workers: &[JoinHandle<()>],
    orders: Option<&Orders>,
    replacer: &Replacer,
    drain: &Drain,
) -> Result<StopCause, RunError> {
    let mut stop_ordered = std::pin::pin!(drain.stop_ordered());
    let mut check = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            asked = signals.next() => match (asked, orders.cloned()) {
                (SignalAction::Reload, Some(orders)) => {
                    tokio::spawn(async move { orders.give(ReloadCause::Signal).await });
                }
                (SignalAction::Replace, _) => replacer.start(),
                _ => return Ok(StopCause::Signal),
            },
            () = &mut stop_ordered => return Ok(StopCause::Order),
            _ = check.tick() => {
                if workers.iter().any(JoinHandle::is_finished) {
                    return Err(RunError::WorkerDied);
                }
            }
        }
    }
}

/// Waits for the end of a stop. After `count` further signals, the process ends at once.
pub(super) async fn unless_forced<T>(
    count: usize,
    stop: impl Future<Output = T>,
    signals: &mut Signals,
) -> Result<T, RunError> {
    let forced = async {
        for _ in 0..count {
            signals.stop().await;
        }
    };
    tokio::select! {
        stopped = stop => Ok(stopped),
        () = forced => Err(RunError::Forced),
    }
}

/// Ends a forced stop: closes the sessions, and waits a moment for their close frames. Then ends
/// the workers. A session that is left reports its end when its task is dropped.
pub(super) async fn end_at_once(
    edge: &Edge,
    workers: &[JoinHandle<()>],
    stop: &watch::Sender<bool>,
) {
    DrainForced { remaining: edge.registry.len() }.emit();
    edge.drain.refuse_upgrades();
    for session in edge.registry.handles() {
        session.close(CloseReason::Draining);
    }
    let _ = timeout(FORCED, until(|| edge.registry.is_empty())).await;
    stop.send_replace(true);
    let _ = timeout(FORCED, until(|| workers.iter().all(JoinHandle::is_finished))).await;
}

/// Looks again and again, first after a pause: tasks of other threads get their turn.
async fn until(is_reached: impl Fn() -> bool) {
    loop {
        sleep(Duration::from_millis(10)).await;
        if is_reached() {
            return;
        }
    }
}

/// Announces to the service manager that this process ends, or that another one takes its place.
pub(super) fn announce_end(cause: &StopCause, edge: &Edge) {
    let config = &edge.config;
    report_lost_manager(match cause {
        StopCause::Signal | StopCause::Order => {
            let closes = config.drain.delay + config.drain.window;
            // The sessions, the connections in the queue, and the answers that have begun.
            let handshakes = config.keepalive.close_timeout * 3;
            let traces = config.traces.as_ref().map_or(Duration::ZERO, |one| one.exit_timeout);
            let within = closes + handshakes + traces + MARGIN;
            ServiceState::Stopping { within }.send()
        }
        StopCause::Successor(successor) => {
            let pid = successor.channel.peer_pid();
            pid.and_then(|pid| ServiceState::MainProcess { pid }.send())
        }
    });
}

/// Reports a message that was not sent. The process goes on without it.
pub(super) fn report_lost_manager(sent: io::Result<()>) {
    if let Err(error) = sent {
        ServiceManagerLost { why: &error.to_string() }.emit();
    }
}

/// Accepts clients for the delay, so that balancers can notice the stop. Then drains.
pub(super) async fn stop_in_order(edge: &Edge) {
    let delay = edge.config.drain.delay;
    if !delay.is_zero() {
        DrainAnnounced { delay }.emit();
        sleep(delay).await;
    }
    edge.drain.begin();
    leave(edge).await;
}

/// Closes the sessions. Then waits for plain HTTP answers that have begun, as long as a session may
/// take.
async fn leave(edge: &Edge) {
    let window_ends = Now::read().mono + edge.config.drain.window;
    close_sessions(edge, edge.config.drain.window).await;
    finish(edge, window_ends).await;
}

/// Closes the sessions, spread over this time.
pub(super) async fn close_sessions(edge: &Edge, window: Duration) {
    let open = || edge.ceiling.open();
    let close_timeout = edge.config.keepalive.close_timeout;
    drain::close_sessions(&edge.drain, &edge.registry, open, window, close_timeout).await;
}

/// Waits for the connections that are open, and leaves the fleet.
pub(super) async fn finish(edge: &Edge, window_ends: Instant) {
    let close_timeout = edge.config.keepalive.close_timeout;
    // Connections in the queue of the operating system count as open only after accept.
    let _ = timeout(close_timeout, edge.drain.all_closed()).await;
    let deadline = window_ends.max(Now::read().mono) + close_timeout;
    while edge.ceiling.open() > 0 && Now::read().mono < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    if let Some(fleet) = &edge.fleet {
        // The wait for the store is short. The entries of this node in the store expire anyway.
        let _ = timeout(FAREWELL, fleet.leave()).await;
    }
}
