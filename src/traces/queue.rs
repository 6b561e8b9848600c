//! The spans that wait for the receiver, and the task that sends them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::events::{DropReason, ExportFailed, ExportTarget, Exported, SpansDropped};
use super::export::{Batch, Exporter, Outcome};
use super::proto::Span;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::model::request_id::HexId;
use crate::net::fetch::FetchError;
use crate::telemetry::Event;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause between two batches that a receiver can ask for.
const LONGEST_REST: Duration = Duration::from_hours(1);
/// How often a full queue has a line in the log.
const QUIET: Duration = Duration::from_secs(60);

/// The spans of a process that wait for the receiver. It outlives a configuration.
#[derive(Debug)]
pub struct SpanQueue {
    waiting: Mutex<Waiting>,
    /// The receiver of the configuration in force. `None`: nothing is traced.
    exporter: ArcSwapOption<Exporter>,
    /// Wakes the task: there is a span, a whole batch, another receiver, or the end.
    changed: Notify,
    /// Whether the process exits: what waits is sent at once, and tried once.
    is_closing: watch::Sender<bool>,
    /// Whether the task has sent everything and ended.
    is_done: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Span>,
    /// When the oldest of them came.
    since: Option<Instant>,
    /// The spans of the batch that is being sent.
    in_flight: usize,
    /// When the log last had a line about a full queue.
    told_full: Option<Instant>,
}

impl SpanQueue {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            exporter: ArcSwapOption::empty(),
            changed: Notify::new(),
            is_closing: watch::Sender::new(false),
            is_done: watch::Sender::new(false),
        })
    }

    /// Sends everything to this receiver from now on, also what waits already.
    pub fn send_to(&self, exporter: Option<Arc<Exporter>>) {
        let before = self.exporter.swap(exporter.clone());
        let target = |exporter: &Option<Arc<Exporter>>| {
            exporter.as_ref().map(|exporter| exporter.server().to_owned())
        };
        if target(&before) != target(&exporter) {
            ExportTarget { server: target(&exporter).as_deref() }.emit();
        }
        self.changed.notify_one();
    }

    /// Queues the spans of one request, all or none.
    pub(super) fn push(&self, spans: Vec<Span>, now: Instant) {
        let Some(exporter) = self.exporter.load_full() else {
            return dropped(DropReason::Off, spans.len());
        };
        let mut waiting = lock(&self.waiting);
        let held = waiting.spans.len() + waiting.in_flight;
        if held + spans.len() > exporter.config().queue {
            let is_told =
                waiting.told_full.is_some_and(|told| now.saturating_duration_since(told) < QUIET);
            if !is_told {
                waiting.told_full = Some(now);
            }
            drop(waiting);
            let count = spans.len();
            return SpansDropped { reason: DropReason::QueueFull, count, is_quiet: is_told }.emit();
        }
        waiting.since.get_or_insert(now);
        let before = waiting.spans.len();
        waiting.spans.extend(spans);
        let is_whole = waiting.spans.len() >= exporter.config().batch;
        drop(waiting);
        if before == 0 || is_whole {
            self.changed.notify_one();
        }
    }

    /// Sends spans until [`Self::close`].
    pub async fn run(self: Arc<Self>) {
        let mut health = Health::default();
        loop {
            self.rest(&health).await;
            let Some(batch) = self.next_batch().await else { break };
            self.deliver(batch, &mut health).await;
            lock(&self.waiting).in_flight = 0;
        }
        self.is_done.send_replace(true);
    }

    /// Sends what waits, and ends the task. Waits for that as long as the configuration says; what
    /// is left then is dropped.
    pub async fn close(&self) {
        let Some(exporter) = self.exporter.load_full() else { return };
        self.is_closing.send_replace(true);
        self.changed.notify_one();
        let mut is_done = self.is_done.subscribe();
        let done = is_done.wait_for(|is_done| *is_done);
        if timeout(exporter.config().exit_timeout, done).await.is_err() {
            let left = {
                let waiting = lock(&self.waiting);
                waiting.spans.len() + waiting.in_flight
            };
            dropped(DropReason::Exit, left);
        }
    }

    /// Waits as long as the receiver has asked for. The wait ends early if the process exits, or if
    /// a reload names another receiver or none.
    async fn rest(&self, health: &Health) {
        let Some(rest) = &health.rest else { return };
        while !*self.is_closing.borrow() && Now::read().mono < rest.ends {
            let exporter = self.exporter.load_full();
            if exporter.is_none_or(|exporter| exporter.server() != rest.server) {
                return;
            }
            tokio::select! {
                () = sleep_until(rest.ends) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Waits until a batch is whole, or its oldest span has waited long enough. `None`: the process
    /// exits, and nothing waits.
    async fn next_batch(&self) -> Option<Batch> {
        loop {
            let is_closing = *self.is_closing.borrow();
            let Some(exporter) = self.exporter.load_full() else {
                self.discard();
                if is_closing {
                    return None;
                }
                self.changed.notified().await;
                continue;
            };
            let due = {
                let mut waiting = lock(&self.waiting);
                let due = waiting.since.map(|since| since + exporter.config().delay);
                let is_due = due.is_some_and(|due| due <= Now::read().mono);
                let is_whole = waiting.spans.len() >= exporter.config().batch;
                if !waiting.spans.is_empty() && (is_closing || is_due || is_whole) {
                    let count = waiting.spans.len().min(exporter.config().batch);
                    let spans: Vec<Span> = waiting.spans.drain(..count).collect();
                    // The rest came later, but its time is not known.
                    waiting.since = waiting.since.filter(|_| !waiting.spans.is_empty());
                    waiting.in_flight = count;
                    drop(waiting);
                    return Some(exporter.batch(spans));
                }
                due
            };
            match due {
                _ if is_closing => return None,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Drops what waits: tracing was turned off.
    fn discard(&self) {
        let count = {
            let mut waiting = lock(&self.waiting);
            waiting.since = None;
            std::mem::take(&mut waiting.spans).len()
        };
        dropped(DropReason::Off, count);
    }

    /// Sends a batch, again and again if the receiver is away or busy.
    async fn deliver(&self, batch: Batch, health: &mut Health) {
        let mut is_closing = self.is_closing.subscribe();
        let begun = Now::read().mono;
        let mut pause = FIRST_PAUSE;
        loop {
            // A reload may have named another receiver.
            let Some(exporter) = self.exporter.load_full() else {
                return dropped(DropReason::Off, batch.count);
            };
            let outcome = exporter.send(&batch).await;
            let wait = match outcome {
                Outcome::Accepted { rejected, message } => {
                    let was_away = std::mem::take(&mut health.is_away);
                    health.has_told_drop = false;
                    health.rest = None;
                    let is_quiet = message == health.last_message;
                    health.last_message.clone_from(&message);
                    let count = batch.count;
                    return Exported { count, rejected, message, was_away, is_quiet }.emit();
                }
                Outcome::Refused(error) => {
                    health.note_failure(&exporter, &error);
                    return health.dropped(DropReason::Refused, batch.count);
                }
                Outcome::Unavailable { error, retry_after } => {
                    health.note_failure(&exporter, &error);
                    health.rest = retry_after.map(|span| Rest::new(&exporter, span));
                    // A receiver may ask for no pause at all, also by a date in the past.
                    retry_after.unwrap_or_default().max(jittered(pause))
                }
            };
            let ends = begun + exporter.config().retry_for;
            let left = ends.saturating_duration_since(Now::read().mono);
            // The receiver may ask for a pause of any length.
            if left.is_zero() || wait > left {
                return health.dropped(DropReason::GaveUp, batch.count);
            }
            tokio::select! {
                () = sleep(wait) => {}
                _ = is_closing.wait_for(|is_closing| *is_closing) => {
                    return dropped(DropReason::Exit, batch.count);
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The state of the receiver, as far as the log has it. A receiver that stays away must not fill
/// the log.
#[derive(Debug, Default)]
struct Health {
    is_away: bool,
    has_told_drop: bool,
    last_message: String,
    /// The pause that the receiver has asked for. It holds for the next batch too.
    rest: Option<Rest>,
}

/// The end of a pause, and the receiver that asked for it.
#[derive(Debug)]
struct Rest {
    ends: Instant,
    server: String,
}

impl Rest {
    fn new(exporter: &Exporter, span: Duration) -> Self {
        let ends = Now::read().mono + span.min(LONGEST_REST);
        Self { ends, server: exporter.server().to_owned() }
    }
}

impl Health {
    fn note_failure(&mut self, exporter: &Exporter, error: &FetchError) {
        let is_first = !std::mem::replace(&mut self.is_away, true);
        ExportFailed { server: exporter.server(), error, is_first }.emit();
    }

    fn dropped(&mut self, reason: DropReason, count: usize) {
        let is_quiet = std::mem::replace(&mut self.has_told_drop, true);
        SpansDropped { reason, count, is_quiet }.emit();
    }
}

/// Returns a time between half of the pause and the whole: nodes that failed together must not
/// return together.
fn jittered(pause: Duration) -> Duration {
    let part = u32::try_from(HexId::random().first_digit()).unwrap_or_default();
    pause / 2 + pause / 30 * part
}

fn dropped(reason: DropReason, count: usize) {
    if count > 0 {
        SpansDropped { reason, count, is_quiet: false }.emit();
    }
}
