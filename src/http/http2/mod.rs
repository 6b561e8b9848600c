//! HTTP/2 connections of clients.
//!
//! One task drives a connection, and each stream has a task of its own. A stream takes the same way
//! as a connection of HTTP/1.1: `forward.rs` for plain HTTP, `upgrade.rs` for a WebSocket. It
//! counts as a stranger by itself until it has a grant.

mod answer;
mod guard;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method};
use http_body_util::Full;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use self::answer::send_answer;
use self::guard::{FrameGuard, FrameSignals, FrameStop};
use super::client_end::ClientEnd;
use super::connection::ClientConnection;
use super::events::{ConnectionSilent, Http2Failed, Http2Fault, Http2StreamMalformed};
use super::{forward, upgrade};
use crate::base::clock::Now;
use crate::config::Limits;
use crate::edge::worker::Worker;
use crate::net::http1::framing::BodyFraming;
use crate::net::http1::head::RequestHead;
use crate::net::http1::response::{self, LastOfConnection};
use crate::net::http2::body::{Http2Body, Uploader};
use crate::net::http2::exchange::Http2Exchange;
use crate::net::http2::frames::Excess;
use crate::net::http2::head::{StreamHead, read_head};
use crate::net::http2::served_streams::{ServedStreams, StreamLease};
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use crate::upstream::bodies::{AnswerBody, RequestBody};

/// The most bytes that a client may send on one stream before Usher takes them.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// The same for all streams of a connection that has had no grant. Afterwards the windows of all
/// streams fit into it. The library derives from it how many small DATA frames it keeps.
const STRANGER_WINDOW: u32 = 256 * 1024;
const MOST_WINDOW: usize = (1 << 31) - 1;
/// The most bytes of one stream that wait for the socket.
const MOST_BUFFERED: usize = 32 * 1024;
/// The most bytes that the kernel holds unsent.
const MOST_UNSENT: u32 = 64 * 1024;
/// The most streams that the client may reset before Usher has looked at them, and those that it
/// may make Usher reset by faults.
const MOST_UNSEEN_RESETS: usize = 20;
const MOST_FAULTS: usize = 100;
/// How long a client may take to close after a goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves an HTTP/2 connection to its end.
pub async fn serve(stream: Stream, connection: ClientConnection, worker: Worker) {
    let limits = Arc::clone(&worker.edge.limits);
    stream.limit_unsent(Some(MOST_UNSENT));
    let streams = Arc::<ServedStreams>::default();
    let guard = FrameGuard::new(stream, &limits, Arc::clone(&streams));
    let signals = guard.signals();
    let head_timeout = Now::read().mono + limits.head_timeout;
    let deadline = connection.deadline.min(head_timeout);
    let handshake = builder(&limits).handshake::<_, Bytes>(guard);
    let http = match timeout_at(deadline, Box::pin(handshake)).await {
        Ok(Ok(http)) => http,
        Ok(Err(_)) => return,
        Err(_) => return ConnectionSilent { limit: Limit::HeadTimeout }.emit(),
    };
    let first = deadline.saturating_duration_since(Now::read().mono);
    let edge = Arc::clone(&worker.edge);
    let mut drain = std::pin::pin!(edge.drain.begun());
    let mut driver = Driver {
        http,
        streams,
        signals,
        limits,
        connection,
        worker,
        idle: Some(Box::pin(sleep(first))),
        idle_limit: Limit::HeadTimeout,
        is_leaving: false,
        left_at: None,
        has_sent_goodbye: false,
        farewell: None,
        has_wide_window: false,
    };
    poll_fn(|cx| {
        if !driver.is_leaving && drain.as_mut().poll(cx).is_ready() {
            driver.leave();
        }
        driver.poll(cx)
    })
    .await;
}

/// Returns the window of a connection that has had a grant: no stream can stop the others.
fn granted_window(limits: &Limits) -> u32 {
    let wanted = limits.http2_streams.saturating_mul(STREAM_WINDOW as usize);
    u32::try_from(wanted.min(MOST_WINDOW)).unwrap_or(STRANGER_WINDOW).max(STRANGER_WINDOW)
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    // The reader of heads refuses what is over the limits, with an answer and a line in the log.
    // The library counts 32 bytes for each field, and stops what is far over them.
    let most_head = limits.head_bytes.saturating_mul(2).saturating_add(32 * limits.head_fields);
    builder
        .enable_connect_protocol()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STRANGER_WINDOW)
        .max_concurrent_streams(count(limits.http2_streams))
        .max_header_list_size(count(most_head))
        .max_pending_accept_reset_streams(MOST_UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(MOST_FAULTS))
        .max_send_buffer_size(MOST_BUFFERED);
    builder
}

/// The task of a connection.
struct Driver {
    http: Connection<FrameGuard, Bytes>,
    streams: Arc<ServedStreams>,
    signals: Arc<FrameSignals>,
    limits: Arc<Limits>,
    connection: ClientConnection,
    worker: Worker,
    /// Runs while the connection has no stream.
    idle: Option<Pin<Box<Sleep>>>,
    /// The limit that `idle` keeps: of the first head, or of the pause after a stream.
    idle_limit: Limit,
    /// The client was told to open no more streams.
    is_leaving: bool,
    left_at: Option<Instant>,
    /// The client was told that the connection ends now.
    has_sent_goodbye: bool,
    /// Runs once nothing but the client's own goodbye is waited for.
    farewell: Option<Pin<Box<Sleep>>>,
    has_wide_window: bool,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.streams.register(cx.waker());
        loop {
            if let Some(stop) = self.signals.stop()
                && !self.has_sent_goodbye
            {
                self.send_goodbye(stop);
            }
            if self.streams.has_granted() && !self.has_wide_window {
                self.has_wide_window = true;
                self.http.set_target_window_size(granted_window(&self.limits));
            }
            match self.poll_http(cx) {
                Poll::Ready(Some((request, respond))) => {
                    self.open(request, respond);
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if self.signals.stop().is_some() && !self.has_sent_goodbye {
                continue;
            }
            if let Some(farewell) = &mut self.farewell
                && farewell.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            let before = (self.is_leaving, self.has_sent_goodbye);
            if self.streams.live() > 0 {
                self.idle = None;
                self.farewell = self.farewell.take().filter(|_| self.has_sent_goodbye);
            } else if self.poll_rest(cx).is_ready() {
                return Poll::Ready(());
            }
            // It costs a client nothing to ask again on the same connection.
            let asks_in_vain = self.streams.refused() > self.limits.http2_streams;
            if asks_in_vain || self.streams.has_had_last() {
                self.leave();
            }
            if before == (self.is_leaving, self.has_sent_goodbye) {
                return Poll::Pending;
            }
        }
    }

    /// Drives the connection. Accepts a stream, if there is room for its task: the task of a stream
    /// may outlive it.
    fn poll_http(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(http::Request<RecvStream>, SendResponse<Bytes>)>> {
        let polled = if self.streams.live() < self.limits.http2_streams {
            self.http.poll_accept(cx)
        } else {
            self.http.poll_closed(cx).map(|closed| closed.err().map(Err))
        };
        for _ in 0..self.signals.take_malformed() {
            Http2StreamMalformed { peer: self.connection.peer.ip() }.emit();
        }
        polled.map(|accepted| match accepted? {
            Ok(stream) => Some(stream),
            Err(error) => {
                self.report_failed(&error);
                None
            }
        })
    }

    fn report_failed(&self, error: &h2::Error) {
        let peer = self.connection.peer.ip();
        if self.signals.stop() == Some(FrameStop::Stalled) {
            LimitReached { limit: Limit::StallTimeout, peer: Some(peer) }.emit();
        } else if !self.has_sent_goodbye {
            let reason = match error.reason() {
                Some(Reason::ENHANCE_YOUR_CALM) => Http2Fault::Flood,
                _ if error.is_io() => Http2Fault::Gone,
                _ => Http2Fault::Protocol,
            };
            Http2Failed { peer, reason, detail: &error.to_string() }.emit();
        }
    }

    /// The connection has no stream: it counts as a stranger, makes room for a newcomer, and ends
    /// after a while. Completes when the client has had its time to leave.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_leaving {
            let farewell = self.farewell.get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
            return farewell.as_mut().poll(cx);
        }
        let standing = &self.connection.standing;
        let has_place = self.idle.is_some() || standing.become_stranger().is_ok();
        let idle_timeout = self.limits.http_idle_timeout;
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(idle_timeout)));
        let is_over = idle.as_mut().poll(cx).is_ready();
        if is_over {
            ConnectionSilent { limit: self.idle_limit }.emit();
        }
        if !has_place || is_over || standing.poll_rest(cx).is_ready() {
            self.end(Reason::NO_ERROR);
        }
        Poll::Pending
    }

    /// Ends the connection, and all its streams.
    fn end(&mut self, reason: Reason) {
        self.is_leaving = true;
        self.has_sent_goodbye = true;
        self.farewell = Some(Box::pin(sleep(FAREWELL)));
        self.http.abrupt_shutdown(reason);
    }

    /// Tells the client to open no more streams. The streams that it has go on.
    fn leave(&mut self) {
        if !self.is_leaving {
            self.is_leaving = true;
            self.left_at = Some(Now::read().mono);
            self.http.graceful_shutdown();
        }
    }

    /// Ends the connection of a client that has gone over a limit.
    fn send_goodbye(&mut self, stop: FrameStop) {
        let limit = match stop {
            FrameStop::Excess(Excess::Resets) => Some(Limit::Http2Resets),
            FrameStop::Excess(Excess::ControlFrames) => Some(Limit::Http2ControlFrames),
            FrameStop::Excess(Excess::Head) => Some(Limit::HeadBytes),
            FrameStop::Stalled => Some(Limit::StallTimeout),
            FrameStop::HeadTimeout => None,
        };
        let peer = self.connection.peer.ip();
        match limit {
            Some(limit) => LimitReached { limit, peer: Some(peer) }.emit(),
            None => {
                self.connection.report_unreadable(&Rejection::HeadTimeout);
            }
        }
        self.end(Reason::ENHANCE_YOUR_CALM);
    }

    /// Begins a stream, if the limits of connections have room for it.
    fn open(&mut self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if self.left_at.is_some_and(|left| left.elapsed() > FAREWELL) {
            // The library takes new streams until the client answers the first goodbye.
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let is_only_one = self.streams.live() == 0;
        self.idle = None;
        self.idle_limit = Limit::HttpIdleTimeout;
        let worker = self.worker.renewed();
        let peer = self.connection.peer.ip();
        let Ok(standing) = self.connection.standing.of_stream() else {
            return self.turn_away(&mut respond);
        };
        let Some(permit) = worker.edge.ceiling.enter_stream(is_only_one) else {
            LimitReached { limit: Limit::Connections, peer: Some(peer) }.emit();
            return self.turn_away(&mut respond);
        };
        let lease = self.streams.lease();
        if self.streams.live() == self.limits.http2_streams {
            LimitReached { limit: Limit::Http2Streams, peer: Some(peer) }.emit();
        }
        let deadline = Now::read().mono + self.limits.handshake_timeout;
        let connection = self.connection.of_stream(permit, standing, deadline);
        tokio::spawn(serve_stream(request, respond, connection, worker, lease));
    }

    /// Refuses a stream for which there is no place. A client without a session that asks again and
    /// again loses its connection.
    fn turn_away(&mut self, respond: &mut SendResponse<Bytes>) {
        respond.send_reset(Reason::REFUSED_STREAM);
        let turned_away = self.streams.turn_away();
        if turned_away > self.limits.http2_streams
            && self.streams.sessions() == 0
            && !self.has_sent_goodbye
        {
            let peer = self.connection.peer.ip();
            let detail = "too many streams in vain";
            Http2Failed { peer, reason: Http2Fault::Flood, detail }.emit();
            self.end(Reason::ENHANCE_YOUR_CALM);
        }
    }
}

/// A stream of plain HTTP, with its places: its answer and its body hold them.
#[derive(Debug)]
struct PlainStream {
    connection: ClientConnection,
    lease: StreamLease,
}

impl Uploader for PlainStream {
    fn is_stranger(&self) -> bool {
        self.connection.standing.is_stranger()
    }

    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.standing.poll_rest(cx)
    }

    fn leave_rest(&self) -> bool {
        self.connection.standing.leave_rest()
    }
}

/// Serves one stream: to its answer, or to the session that it becomes.
async fn serve_stream(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    connection: ClientConnection,
    worker: Worker,
    lease: StreamLease,
) {
    let (parts, receive) = request.into_parts();
    let to_head = parts.method == Method::HEAD;
    match read_head(parts, &worker.edge.limits) {
        Ok(StreamHead { parts, host, is_upgrade: true }) => {
            let head = RequestHead { parts, framing: BodyFraming::Done, host: Some(host) };
            let end = Http2Exchange::new(respond, receive, lease);
            let end = ClientEnd::Http2(Box::new(end));
            Box::pin(upgrade::run(end, head, connection, worker)).await;
        }
        Ok(StreamHead { parts, .. }) => {
            let tenant = Arc::new(PlainStream { connection, lease });
            let uploader = Arc::<PlainStream>::clone(&tenant);
            let body = Http2Body::new(receive, worker.edge.limits.stall_timeout, uploader);
            let request = http::Request::from_parts(parts, RequestBody::of_stream(body));
            Box::pin(serve_plain(request, respond, &tenant, worker, to_head)).await;
        }
        Err(rejection) => {
            let request_id = connection.report_unreadable(&rejection);
            let answer = response::problem(&rejection, request_id.as_str());
            let answer = answer.map(|body| AnswerBody::Whole(Full::new(body)));
            let stall_timeout = worker.edge.limits.stall_timeout;
            let sent = send_answer(respond, answer, to_head, &connection, stall_timeout);
            Box::pin(sent).await;
        }
    }
}

/// Answers a request. If the client resets the stream, the request is dropped.
async fn serve_plain(
    mut request: http::Request<RequestBody>,
    mut respond: SendResponse<Bytes>,
    tenant: &PlainStream,
    worker: Worker,
    to_head: bool,
) {
    let PlainStream { connection, lease } = tenant;
    if expects_continue(request.headers()) {
        let mut interim = http::Response::new(());
        *interim.status_mut() = http::StatusCode::CONTINUE;
        if respond.send_informational(interim).is_err() {
            return;
        }
        request.headers_mut().remove(http::header::EXPECT);
    }
    let answer = {
        let mut answering = std::pin::pin!(forward::answer(request, connection, &worker));
        let mut is_noted = false;
        poll_fn(|cx| {
            let polled = answering.as_mut().poll(cx);
            // The body may need the wider window before there is an answer.
            if !is_noted && !connection.standing.is_stranger() {
                is_noted = true;
                lease.note_grant();
            }
            match polled {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            }
        })
        .await
    };
    let Some(answer) = answer else { return };
    if answer.extensions().get::<LastOfConnection>().is_some() {
        lease.note_last();
    }
    let stall_timeout = worker.edge.limits.stall_timeout;
    send_answer(respond, answer, to_head, connection, stall_timeout).await;
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let expect = headers.get(http::header::EXPECT);
    expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
