//! The guard between a client's socket and the HTTP library.
//!
//! Bytes reach hyper only after their head was checked. The guard follows each body to its end. It
//! stops there when the next head is an upgrade or can be read in two ways. Then hyper finishes its
//! answers and gives the connection back. Usher handles the upgrade or the refusal without hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use crate::config::Limits;
use crate::net::http1::framing::BodyFraming;
use crate::net::http1::head::{self, RequestHead};
use crate::net::stall::Stall;
use crate::net::stream::{Stream, hand_out, poll_read_behind};
use crate::rejection::Rejection;

const READ_SIZE: usize = 8 * 1024;

#[derive(Debug)]
pub struct Http1Guard {
    stream: Stream,
    limits: Arc<Limits>,
    /// Bytes that were read and not handed to hyper; the first `approved` of them may be.
    buffer: BytesMut,
    approved: usize,
    /// Bytes of an unfinished head that were checked: a head that arrives byte by byte is checked
    /// once.
    scanned: usize,
    /// The framing of the message that is passing. If it is done, a head comes next.
    body: BodyFraming,
    stop: Option<GuardStop>,
    signals: Arc<GuardSignals>,
    /// The waits for the client to send a body, and to read an answer.
    reading: Stall,
    writing: Stall,
    /// Bytes that the stream held back at the last write: fewer mean that the client has read some.
    unsent: usize,
    is_stranger: Arc<AtomicBool>,
}

/// The state of the guard, for the task that drives hyper around it.
#[derive(Debug, Default)]
pub struct GuardSignals {
    /// The guard has stopped: the task asks hyper to finish.
    pub has_stopped: AtomicBool,
    /// No byte of a request has arrived, and no byte of an answer waits for the client.
    pub is_at_rest: AtomicBool,
    /// The client has let Usher wait for a while, in the middle of a request or of an answer.
    pub is_slow: AtomicBool,
    /// The client has stalled; the connection ends.
    pub has_stalled: AtomicBool,
}

/// The reason why the guard handed no more bytes to hyper.
#[derive(Debug)]
pub enum GuardStop {
    Upgrade(Box<RequestHead>),
    Refused(Rejection),
}

/// The kind of the next head.
#[derive(Debug)]
pub enum NextHead {
    /// Plain HTTP: the head waits in the guard for hyper to read it.
    Plain,
    Upgrade(Box<RequestHead>),
    Refused(Rejection),
    /// The client closed the connection between two messages.
    Closed,
}

impl Http1Guard {
    pub fn new(stream: Stream, limits: Arc<Limits>, is_stranger: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            reading: Stall::new(limits.stall_timeout),
            writing: Stall::new(limits.stall_timeout),
            unsent: 0,
            is_stranger,
            limits,
            buffer: BytesMut::new(),
            approved: 0,
            scanned: 0,
            body: BodyFraming::Done,
            stop: None,
            signals: Arc::default(),
        }
    }

    /// Reads until the next head is whole and judges it.
    pub async fn next_head(&mut self) -> io::Result<NextHead> {
        std::future::poll_fn(|cx| self.poll_next_head(cx)).await
    }

    /// Returns true if the client has begun a head that is not whole yet.
    pub fn holds_part_of_a_head(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub fn signals(&self) -> Arc<GuardSignals> {
        Arc::clone(&self.signals)
    }

    pub fn take_stop(&mut self) -> Option<GuardStop> {
        self.stop.take()
    }

    /// Completes when the client leaves. Bytes that arrive meanwhile are kept, up to the size of
    /// one head. Further bytes stay in the socket. Then a client that leaves is noticed only when
    /// the relay starts.
    pub async fn client_gone(&mut self) {
        std::future::poll_fn(|cx| {
            loop {
                if self.buffer.len() >= self.limits.head_bytes {
                    return Poll::Pending;
                }
                match ready!(self.poll_fill(cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_) => {}
                }
            }
        })
        .await;
    }

    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Returns the bare stream, and the bytes that the client sent behind the head.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.buffer)
    }

    fn poll_next_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<NextHead>> {
        loop {
            if let Some(next) = self.judge() {
                return Poll::Ready(Ok(next));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(NextHead::Closed));
            }
        }
    }

    /// Judges the head at the start of the buffer; `None` while it is not whole.
    fn judge(&mut self) -> Option<NextHead> {
        let (seen, new) = self.buffer.split_at(self.scanned.min(self.buffer.len()));
        // The empty line may have begun in the bytes that were scanned before.
        let overlap = seen.len().saturating_sub(3);
        let found = self
            .buffer
            .get(overlap..)
            .and_then(head::length_of_head)
            .map(|length| overlap + length);
        let Some(length) = found else {
            if let Err(rejection) = head::check_bytes(new, seen.last().copied().unwrap_or(0)) {
                return Some(NextHead::Refused(rejection));
            }
            self.scanned = self.buffer.len();
            return (self.buffer.len() > self.limits.head_bytes)
                .then_some(NextHead::Refused(Rejection::HeadTooLarge));
        };
        self.scanned = 0;
        if length > self.limits.head_bytes {
            return Some(NextHead::Refused(Rejection::HeadTooLarge));
        }
        Some(match head::parse_request(self.buffer.split_at(length).0, &self.limits) {
            Err(rejection) => NextHead::Refused(rejection),
            Ok(head) if head::asks_for_websocket(&head.parts.headers) => {
                self.buffer.advance(length);
                NextHead::Upgrade(Box::new(head))
            }
            Ok(head) => {
                self.approved = length;
                self.body = head.framing;
                NextHead::Plain
            }
        })
    }

    /// Reads more from the client. A silent connection holds no buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        poll_read_behind(&mut self.stream, cx, &mut self.buffer, READ_SIZE)
    }

    fn stop(&mut self, stop: GuardStop) {
        self.stop = Some(stop);
        self.signals.has_stopped.store(true, Ordering::Release);
    }

    fn is_stranger(&self) -> bool {
        self.is_stranger.load(Ordering::Relaxed)
    }

    /// Reads for hyper. The wait for a body is bounded by the body's progress. The wait for the
    /// next head has hyper's own timer.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(count) = self.poll_fill(cx) {
            self.signals.is_at_rest.store(false, Ordering::Release);
            let count = count?;
            let is_stranger = self.is_stranger();
            self.reading.count_bytes(count, is_stranger);
            self.note_slowness();
            return Poll::Ready(Ok(count));
        }
        if self.body.is_done() {
            self.reading.end();
            self.signals.is_at_rest.store(self.buffer.is_empty(), Ordering::Release);
            return Poll::Pending;
        }
        let elapsed = self.reading.poll_elapsed(cx);
        self.note_slowness();
        ready!(elapsed);
        Poll::Ready(Err(self.stalled()))
    }

    /// Bounds the wait for a client that does not read its answer.
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        taken: usize,
    ) -> Poll<io::Result<T>> {
        let is_stranger = self.is_stranger();
        let unsent = self.stream.unsent();
        let drained = std::mem::replace(&mut self.unsent, unsent).saturating_sub(unsent);
        self.writing.count_bytes(taken + drained, is_stranger);
        self.note_slowness();
        if polled.is_ready() {
            return polled;
        }
        let elapsed = self.writing.poll_elapsed(cx);
        self.note_slowness();
        ready!(elapsed);
        Poll::Ready(Err(self.stalled()))
    }

    fn note_slowness(&self) {
        self.signals
            .is_slow
            .store(self.reading.is_slow() || self.writing.is_slow(), Ordering::Release);
    }

    fn stalled(&self) -> io::Error {
        self.signals.has_stalled.store(true, Ordering::Release);
        io::Error::new(io::ErrorKind::TimedOut, "the client has stalled")
    }
}

fn count_of(polled: &Poll<io::Result<usize>>) -> usize {
    if let Poll::Ready(Ok(count)) = polled { *count } else { 0 }
}

impl Read for Http1Guard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if hand_out(&mut this.buffer, &mut this.approved, &mut cursor) {
                return Poll::Ready(Ok(()));
            }
            if this.stop.is_some() {
                // hyper needs no wake-up: the task that drives the connection checks the flag after
                // each poll.
                return Poll::Pending;
            }
            if this.body.is_done() {
                match this.judge() {
                    Some(NextHead::Plain) => continue,
                    Some(NextHead::Upgrade(head)) => {
                        this.stop(GuardStop::Upgrade(head));
                        continue;
                    }
                    Some(NextHead::Refused(rejection)) => {
                        this.stop(GuardStop::Refused(rejection));
                        continue;
                    }
                    Some(NextHead::Closed) | None => {}
                }
            } else if !this.buffer.is_empty() {
                this.approved = this
                    .body
                    .advance(&this.buffer, |_| {})
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                continue;
            }
            if ready!(this.poll_more(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for Http1Guard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.signals.is_at_rest.store(false, Ordering::Release);
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        let taken = count_of(&polled);
        this.watch_write(cx, polled, taken)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.signals.is_at_rest.store(false, Ordering::Release);
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        let taken = count_of(&polled);
        this.watch_write(cx, polled, taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        if polled.is_ready() {
            this.writing.end();
        } else {
            this.signals.is_at_rest.store(false, Ordering::Release);
        }
        this.watch_write(cx, polled, 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch_write(cx, polled, 0)
    }
}
