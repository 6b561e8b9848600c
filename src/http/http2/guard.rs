//! The guard between a client's socket and the HTTP/2 library.
//!
//! It counts the frames before the library reads them, and bounds the wait for a client that does
//! not read. When it stops, no further byte reaches the library: the task that drives the
//! connection then says goodbye.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::base::lock::lock;
use crate::config::Limits;
use crate::net::http2::frames::{Excess, FrameWatch};
use crate::net::http2::sent_resets::SentResets;
use crate::net::http2::served_streams::ServedStreams;
use crate::net::stall::Stall;
use crate::net::stream::{Stream, poll_read_behind, with_scratch};

/// Room for one full TLS record.
const READ_SIZE: usize = 17 * 1024;
/// For how long, and for how many bytes, Usher reads from a client after its goodbye. Closing over
/// unread bytes would reset the connection, and the goodbye would be lost.
const LINGER: Duration = Duration::from_secs(1);
const MOST_LINGERED: usize = 256 * 1024;

/// The reason why the guard has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameStop {
    Excess(Excess),
    /// A head was not whole in time.
    HeadTimeout,
    /// The client does not read.
    Stalled,
}

/// The state of the guard, for the task that drives the connection.
#[derive(Debug, Default)]
pub(super) struct FrameSignals {
    stop: Mutex<Option<FrameStop>>,
    /// Streams that the library has reset, and that were not reported.
    malformed: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct FrameGuard {
    stream: Stream,
    /// Bytes that were read; the first `approved` of them were counted and may pass.
    buffer: BytesMut,
    approved: usize,
    watch: FrameWatch,
    resets: SentResets,
    head_timeout: Duration,
    head: Option<Pin<Box<Sleep>>>,
    writing: Stall,
    unsent: usize,
    streams: Arc<ServedStreams>,
    signals: Arc<FrameSignals>,
    has_stopped: bool,
    lingering: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

impl FrameSignals {
    pub(super) fn stop(&self) -> Option<FrameStop> {
        *lock(&self.stop)
    }

    /// Returns the number of malformed streams since the last call.
    pub(super) fn take_malformed(&self) -> usize {
        self.malformed.swap(0, Ordering::Relaxed)
    }
}

impl FrameGuard {
    pub(super) fn new(stream: Stream, limits: &Limits, streams: Arc<ServedStreams>) -> Self {
        // A head that is longer when it is encoded is too long when it is decoded.
        let most_head = limits.head_bytes.saturating_mul(2);
        Self {
            stream,
            buffer: BytesMut::new(),
            approved: 0,
            watch: FrameWatch::new(most_head, limits.http2_resets, limits.http2_control_frames),
            resets: SentResets::default(),
            head_timeout: limits.head_timeout,
            head: None,
            writing: Stall::new(limits.stall_timeout),
            unsent: 0,
            streams,
            signals: Arc::default(),
            has_stopped: false,
            lingering: None,
            lingered: 0,
        }
    }

    pub(super) fn signals(&self) -> Arc<FrameSignals> {
        Arc::clone(&self.signals)
    }

    fn stop(&mut self, stop: FrameStop) {
        self.has_stopped = true;
        self.buffer = BytesMut::new();
        self.approved = 0;
        *lock(&self.signals.stop) = Some(stop);
    }

    /// Bounds the wait for the rest of a head.
    fn poll_head(&mut self, cx: &mut Context<'_>) {
        if !self.watch.is_in_head() {
            self.head = None;
            return;
        }
        let timeout = self.head_timeout;
        let timer = self.head.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if timer.as_mut().poll(cx).is_ready() {
            self.stop(FrameStop::HeadTimeout);
        }
    }

    /// Bounds the wait for a client that does not read. Sessions of a known client have their own
    /// bounds: their pings are not answered.
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        taken: usize,
    ) -> Poll<io::Result<T>> {
        let unsent = self.stream.unsent();
        let drained = std::mem::replace(&mut self.unsent, unsent).saturating_sub(unsent);
        self.watch.note_sent(taken);
        self.writing.count_bytes(taken + drained, true);
        let is_trusted = self.streams.sessions() > 0 && self.streams.has_granted();
        if polled.is_pending() && !is_trusted {
            ready!(self.writing.poll_elapsed(cx));
            self.stop(FrameStop::Stalled);
            let stalled = io::Error::new(io::ErrorKind::TimedOut, "the client has stalled");
            return Poll::Ready(Err(stalled));
        }
        polled
    }

    /// Hands out the bytes that were counted.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.approved.min(buf.remaining());
        buf.put_slice(self.buffer.split_at(count).0);
        self.buffer.advance(count);
        self.approved -= count;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Reads and drops what the client sends, for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while self.lingered < MOST_LINGERED {
            let stream = Pin::new(&mut self.stream);
            let count = with_scratch(|scratch| {
                let mut read = ReadBuf::new(scratch);
                stream.poll_read(cx, &mut read).map(|done| done.map(|()| read.filled().len()))
            });
            match ready!(count) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(count) => self.lingered += count,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for FrameGuard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.has_stopped {
                // Needs no wake-up: the task checks for a stop after each poll.
                return Poll::Pending;
            }
            if this.approved > 0 {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            if this.watch.is_turn_over() {
                // The tasks of the streams run first. Otherwise the library would keep more small
                // frames than it allows.
                this.watch.begin_turn();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.buffer.is_empty() {
                let read = poll_read_behind(&mut this.stream, cx, &mut this.buffer, READ_SIZE);
                let Poll::Ready(count) = read else {
                    this.buffer = BytesMut::new();
                    this.watch.begin_turn();
                    this.poll_head(cx);
                    return Poll::Pending;
                };
                if count? == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            match this.watch.advance(&this.buffer) {
                Ok(count) => this.approved = count,
                Err(excess) => this.stop(FrameStop::Excess(excess)),
            }
        }
    }
}

impl AsyncWrite for FrameGuard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        let taken = if let Poll::Ready(Ok(count)) = &polled { *count } else { 0 };
        let malformed = this.resets.follow(buf.get(..taken).unwrap_or_default());
        this.signals.malformed.fetch_add(malformed, Ordering::Relaxed);
        this.watch_write(cx, polled, taken)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        if polled.is_ready() {
            this.writing.end();
        }
        this.watch_write(cx, polled, 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        ready!(this.watch_write(cx, polled, 0))?;
        this.poll_linger(cx).map(Ok)
    }
}
