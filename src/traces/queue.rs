//! The spans that wait for the receiver, and the task that sends them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::events::{DropReason, ExportFailed, ExportTarget, Exported, SpansDropped};
use super::export::{Batch, ExportResult, Exporter};
use super::proto::Span;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::model::request_id::HexId;
use crate::net::fetch::FetchError;
use crate::telemetry::Event;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause between two batches that a receiver can ask for.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
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
                ExportResult::Accepted { rejected, message } => {
                    let was_away = std::mem::take(&mut health.is_away);
                    health.has_told_drop = false;
                    health.rest = None;
                    let is_quiet = message == health.last_message;
                    health.last_message.clone_from(&message);
                    let count = batch.count;
                    return Exported { count, rejected, message, was_away, is_quiet }.emit();
                }
                ExportResult::Refused(error) => {
                    health.note_failure(&exporter, &error);
                    return health.dropped(DropReason::Refused, batch.count);
                }
                ExportResult::Unavailable { error, retry_after } => {
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

/// The last state of the receiver that the log has. A receiver that stays away must not fill
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::header::{CONTENT_ENCODING, RETRY_AFTER};
    use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config;
    use crate::model::service_url::ServiceUrl;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Starts a receiver that gives one answer to all requests. Returns its port and the number of
    /// requests so far.
    async fn receiver(status: u16, header: (HeaderName, &'static str)) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (counter, name) = (Arc::clone(&counter), header.0.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let mut answer = Response::new(Full::new(Bytes::new()));
                    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                    answer.headers_mut().insert(&name, HeaderValue::from_static(header.1));
                    async move {
                        request.into_body().collect().await.unwrap();
                        Ok::<_, Infallible>(answer)
                    }
                });
                let http1 = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http1.serve_connection(TokioIo::new(stream), service));
            }
        });
        (port, asked)
    }

    fn exporter(port: u16, retry_for: Duration) -> Arc<Exporter> {
        let url = format!("http://127.0.0.1:{port}/v1/traces");
        let config = config::Traces {
            endpoint: ServiceUrl::parse(&url, false).unwrap(),
            ca_file: None,
            headers: HeaderMap::new(),
            resource: Vec::new(),
            sample_ratio: 1.0,
            client_address: false,
            queue: 10,
            batch: 10,
            delay: Duration::from_secs(1),
            timeout: PATIENCE,
            retry_for,
            exit_timeout: Duration::ZERO,
        };
        Arc::new(Exporter::open(&config, "edge").unwrap())
    }

    /// Delivers one batch, and returns the number of requests that it took.
    async fn deliver(
        answer: (u16, (HeaderName, &'static str)),
        retry_for: Duration,
    ) -> (usize, Health, Arc<SpanQueue>) {
        let (port, asked) = receiver(answer.0, answer.1).await;
        let (queue, exporter) = (SpanQueue::new(), exporter(port, retry_for));
        queue.send_to(Some(Arc::clone(&exporter)));
        let mut health = Health::default();
        let batch = exporter.batch(vec![Span::default()]);
        timeout(PATIENCE, queue.deliver(batch, &mut health)).await.unwrap();
        (asked.load(Ordering::SeqCst), health, queue)
    }

    #[tokio::test]
    async fn a_receiver_that_asks_for_no_pause_gets_one() {
        for no_pause in ["0", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            let answer = (429, (RETRY_AFTER, no_pause));
            let (requests, health, _) = deliver(answer, Duration::from_millis(1100)).await;
            // The first pause is from 0.5 s to 1 s, the second at least 1 s.
            assert_eq!((requests, health.has_told_drop), (2, true), "{no_pause}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_not_asked_for_again() {
        for status in [200, 400] {
            let answer = (status, (CONTENT_ENCODING, "gzip"));
            let (requests, health, _) = deliver(answer, PATIENCE).await;
            assert_eq!((requests, health.has_told_drop), (1, true), "{status}");
        }
    }

    #[tokio::test]
    async fn the_pause_of_a_dropped_batch_holds_for_the_next() {
        let answer = (503, (RETRY_AFTER, "18446744073709551615"));
        let (requests, mut health, queue) = deliver(answer, Duration::from_secs(60)).await;
        assert_eq!((requests, health.has_told_drop), (1, true));
        let moment = Duration::from_millis(100);
        let rests = async |health: &Health| timeout(moment, queue.rest(health)).await.is_err();
        assert!(rests(&health).await);
        // A span that comes does not end the pause.
        queue.changed.notify_one();
        assert!(rests(&health).await);
        let rest = health.rest.take().unwrap();
        let ends = Now::read().mono + moment / 2;
        health.rest = Some(Rest { ends, server: rest.server.clone() });
        assert!(!rests(&health).await, "it has an end");
        health.rest = Some(Rest { server: "http://127.0.0.1:1".to_owned(), ..rest });
        assert!(!rests(&health).await, "another receiver did not ask for it");
    }

    #[tokio::test]
    async fn the_exit_and_the_end_of_tracing_end_a_pause() {
        let (queue, exporter) = (SpanQueue::new(), exporter(1, PATIENCE));
        queue.send_to(Some(Arc::clone(&exporter)));
        let rest = Some(Rest::new(&exporter, PATIENCE));
        let health = Health { rest, ..Health::default() };
        let mut resting = std::pin::pin!(queue.rest(&health));
        assert!(timeout(Duration::from_millis(50), resting.as_mut()).await.is_err());
        queue.send_to(None);
        timeout(PATIENCE / 2, resting).await.unwrap();
        queue.send_to(Some(exporter));
        let mut resting = std::pin::pin!(queue.rest(&health));
        assert!(timeout(Duration::from_millis(50), resting.as_mut()).await.is_err());
        queue.close().await;
        timeout(PATIENCE / 2, resting).await.unwrap();
    }
}
