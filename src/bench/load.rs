//! Generates the load: connections in a closed or an open loop, and messages on open connections.
//!
//! Each core has a thread with its own runtime, like the server, and its own tally. The tallies are
//! merged at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{Attempt, AttemptPhase, BenchClient, leave};
use super::connection::BenchConnection;
use super::progress::Progress;
use super::tally::{Failure, Tally};
use crate::base::clock::Now;
use crate::ws::frame::{Message, Sender};

/// The number of connections that are opened at the same time when opening is not measured.
const OPENING: usize = 64;
const SHOWN_EVERY: Duration = Duration::from_millis(250);

/// When connections begin.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// When an earlier connection has ended.
    Closed,
    /// At their scheduled time, even if earlier connections have not ended.
    Open { per_second: f64 },
}

#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Instant,
    per_second: f64,
}

impl Schedule {
    fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    pub connections: u64,
    /// The most connections at the same time.
    pub concurrency: usize,
    pub pace: Pace,
}

/// One of the cores that share the load.
#[derive(Clone, Copy, Debug)]
struct Core {
    index: usize,
    of: usize,
    /// The start of the load, the same on all cores.
    start: Instant,
}

impl Core {
    fn share(self, whole: usize) -> usize {
        share(whole, self.index, self.of)
    }
}

fn share(whole: usize, index: usize, of: usize) -> usize {
    whole / of + usize::from(index < whole % of)
}

/// Opens connections one after the other and closes them.
pub fn connect(
    client: &Arc<BenchClient>,
    load: &LoadPlan,
    progress: &Arc<Progress>,
) -> anyhow::Result<Tally> {
    let next = AtomicU64::new(0);
    on_every_core(progress, |core| {
        let (next, concurrency) = (&next, core.share(load.concurrency));
        async move {
            let mut tally = Tally::new()?;
            if concurrency == 0 {
                return Ok(tally);
            }
            let take = || {
                Some(next.fetch_add(1, Ordering::Relaxed))
                    .filter(|number| *number < load.connections)
            };
            let due = |number| match load.pace {
                Pace::Closed => None,
                Pace::Open { per_second } => {
                    Some(Schedule { start: core.start, per_second }.due(number))
                }
            };
            let (mut running, mut waiting) = (JoinSet::new(), None);
            let mut interrupted = std::pin::pin!(wait_for_interrupt());
            loop {
                // A core at its limit leaves the next connection to the others.
                if waiting.is_none() && running.len() < concurrency {
                    waiting = take();
                }
                if waiting.is_none() && running.is_empty() {
                    return Ok(tally);
                }
                let when = waiting.and_then(due);
                tokio::select! {
                    () = reach(when), if waiting.is_some() => {
                        let number = waiting.take().unwrap_or_default();
                        running.spawn(one(Arc::clone(client), number, when, Arc::clone(progress)));
                    }
                    Some(ended) = running.join_next() => {
                        let (attempt, ended) = ended?;
                        tally.connection(&attempt.times, attempt.result.err());
                        tally.elapsed = tally.elapsed.max(ended.duration_since(core.start));
                    }
                    () = &mut interrupted => {
                        tally.stop(core.start.elapsed());
                        return Ok(tally);
                    }
                }
            }
        }
    })
}

/// Waits for Ctrl-C, which stops all cores.
pub async fn wait_for_interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until `when`. Sets no timer for a time in the past, because a timer rounds up to its tick.
async fn reach(when: Option<Instant>) {
    if let Some(when) = when.filter(|when| *when > Now::read().mono) {
        sleep_until(when).await;
    }
}

/// Opens and closes one connection. Returns the attempt and the time when it had been opened.
async fn one(
    client: Arc<BenchClient>,
    number: u64,
    due: Option<Instant>,
    progress: Arc<Progress>,
) -> (Attempt<()>, Instant) {
    let Attempt { times, result } = client.attempt(number, due).await;
    let ended = Now::read().mono;
    progress.count(result.as_ref().err().copied());
    let result = match result {
        Ok(connection) => {
            leave(connection).await;
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    (Attempt { times, result }, ended)
}

/// Sends messages on open connections. Each message follows the echo of the one before.
pub fn messages(
    client: &Arc<BenchClient>,
    connections: usize,
    message: &Message,
    duration: Duration,
    progress: &Arc<Progress>,
) -> anyhow::Result<Tally> {
    let barrier = Barrier::new(cores());
    on_every_core(progress, |core| {
        let barrier = &barrier;
        async move {
            let mut tally = Tally::new()?;
            let first = (0..core.index)
                .map(|index| share(connections, index, core.of))
                .sum::<usize>() as u64;
            let numbers = first..first + core.share(connections) as u64;
            let mut interrupted = std::pin::pin!(wait_for_interrupt());
            let opened = tokio::select! {
                opened = open(client, numbers, &mut tally, progress) => Some(opened),
                () = &mut interrupted => None,
            };
            // No core sends a message before all connections are open.
            barrier.wait().await;
            let start = Now::read().mono;
            let Some(opened) = opened else {
                tally.message_bytes = Some(message.payload.len());
                tally.stop(core.start.elapsed());
                return Ok(tally);
            };
            let (tally, mut talks) = (Arc::new(Mutex::new(tally)), JoinSet::new());
            for connection in opened? {
                let (message, tally, patience) =
                    (message.clone(), Arc::clone(&tally), client.timeout);
                talks.spawn(run_session(connection, message, start + duration, patience, tally));
            }
            let is_stopped = loop {
                tokio::select! {
                    ended = talks.join_next() => if ended.transpose()?.is_none() { break false },
                    () = &mut interrupted => break true,
                }
            };
            talks.shutdown().await;
            let mut tally = Arc::into_inner(tally)
                .and_then(|tally| tally.into_inner().ok())
                .context("a task still holds the tally")?;
            tally.elapsed = duration;
            if is_stopped {
                tally.stop(start.elapsed());
            }
            tally.message_bytes = Some(message.payload.len());
            Ok(tally)
        }
    })
}

async fn run_session(
    mut connection: BenchConnection,
    message: Message,
    until: Instant,
    patience: Duration,
    tally: Arc<Mutex<Tally>>,
) {
    let note = |what: Result<Duration, Failure>| {
        // Only tasks of one thread use this lock, so no task waits for it.
        if let Ok(mut tally) = tally.lock() {
            match what {
                Ok(time) => tally.time(AttemptPhase::Message, time),
                Err(failure) => tally.fail(failure),
            }
        }
    };
    // All messages use one mask, which saves work in the client: the server is measured.
    let wire = message.to_wire(Sender::Client);
    loop {
        let began = Now::read().mono;
        if began >= until {
            break;
        }
        match timeout(patience, connection.echo_of(&wire, &message)).await {
            Ok(true) => note(Ok(began.elapsed())),
            Ok(false) => return note(Err(Failure::Echo)),
            Err(_) => return note(Err(Failure::Timeout(AttemptPhase::Message))),
        }
    }
    leave(connection).await;
}

/// Opens the connections with these numbers, several at the same time, and keeps them open.
pub async fn open(
    client: &Arc<BenchClient>,
    mut numbers: std::ops::Range<u64>,
    tally: &mut Tally,
    progress: &Progress,
) -> anyhow::Result<Vec<BenchConnection>> {
    let (mut opened, mut running) = (Vec::new(), JoinSet::new());
    loop {
        while running.len() < OPENING
            && let Some(number) = numbers.next()
        {
            let client = Arc::clone(client);
            running.spawn(async move { client.attempt(number, None).await });
        }
        let Some(attempt) = running.join_next().await.transpose()? else { return Ok(opened) };
        progress.count(attempt.result.as_ref().err().copied());
        tally.connection(&attempt.times, attempt.result.as_ref().err().copied());
        opened.extend(attempt.result);
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn on_every_core<Work>(
    progress: &Progress,
    work: impl Fn(Core) -> Work + Sync,
) -> anyhow::Result<Tally>
where
    Work: Future<Output = anyhow::Result<Tally>>,
{
    let of = cores();
    let (sender, ended) = mpsc::channel();
    let (ready, start) = (std::sync::Barrier::new(of), OnceLock::new());
    let mut whole = Tally::new()?;
    std::thread::scope(|scope| {
        for index in 0..of {
            let (sender, work, ready, start) = (sender.clone(), &work, &ready, &start);
            scope.spawn(move || {
                // The first random bytes of a thread cost tens of milliseconds. They are made here,
                // so that no handshake includes this time.
                let _ = aws_lc_rs::rand::fill(&mut [0; 16]);
                ready.wait();
                let start = *start.get_or_init(|| Now::read().mono);
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                let tally = runtime
                    .map_err(Into::into)
                    .and_then(|runtime| runtime.block_on(work(Core { index, of, start })));
                // The receiver exists until all threads have sent their tally, or one has failed.
                let _ = sender.send(tally);
            });
        }
        drop(sender);
        loop {
            match ended.recv_timeout(SHOWN_EVERY) {
                Ok(tally) => whole.merge(&tally?),
                Err(RecvTimeoutError::Timeout) => progress.show(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        progress.clear();
        Ok(whole)
    })
}

#[cfg(test)]
mod tests {
    use super::super::client::PhaseTimes;
    use super::*;

    #[test]
    fn a_stall_is_seen_by_every_connection_that_should_have_begun_in_it() {
        let start = Now::read().mono;
        let schedule = Schedule { start, per_second: 10.0 };
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!((schedule.due(0), schedule.due(7)), (at(0), at(700)));
        // The server takes one connection at a time, for 1 ms each, but the first one for 1 s.
        let (mut tally, mut free) = (Tally::new().unwrap(), 0);
        for number in 0..20 {
            let began = free.max(number * 100);
            free = began + if number == 0 { 1000 } else { 1 };
            let mut times = PhaseTimes::begin(Some(schedule.due(number)), at(began));
            times.lap(AttemptPhase::Connect, at(free));
            times.finish();
            let [
                (AttemptPhase::Late, late),
                (AttemptPhase::Connect, step),
                (AttemptPhase::Total, total),
            ] = times.times[..]
            else {
                panic!("{times:?}")
            };
            assert_eq!(late + step, total, "{number}");
            tally.connection(&times, None);
        }
        let json = tally.json();
        // By the server's times, one of twenty connections was slow. For the clients, half of them
        // were.
        assert_eq!(json["phases"]["connect"]["p90_us"], 1000);
        let total = json["phases"]["total"]["p50_us"].as_u64().unwrap();
        assert!((9_000..=110_000).contains(&total), "{total}");
        assert!(json["phases"]["total"]["p90_us"].as_u64().unwrap() > 800_000);
    }

    #[test]
    fn the_cores_share_all_and_nothing_twice() {
        for (whole, of) in [(50, 2), (1, 4), (7, 3), (0, 2)] {
            assert_eq!((0..of).map(|index| share(whole, index, of)).sum::<usize>(), whole);
        }
    }
}
