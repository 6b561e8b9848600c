//! The guard between a client's socket and the HTTP library.
//!
//! Bytes reach hyper only after their head was judged, message by message: the guard follows each body to its end and
//! stops there when the next head is an upgrade or can be read in two ways. hyper then finishes what it has begun and
//! gives the connection back, so that the upgrade or the refusal is ours alone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use super::framing::BodyFraming;
use super::head::{self, RequestHead};
use crate::config::Limits;
use crate::rejection::Rejection;
use crate::stream::{Stream, poll_read_behind};

const READ_SIZE: usize = 8 * 1024;

#[derive(Debug)]
pub struct Guard {
    stream: Stream,
    limits: Arc<Limits>,
    /// Read and not handed out yet; the first `approved` bytes may be.
    buffer: BytesMut,
    approved: usize,
    /// How much of an unfinished head was looked at already: a head that comes byte by byte is looked at once.
    scanned: usize,
    /// Of the message that is passing; done: a head comes next.
    body: BodyFraming,
    stop: Option<Stop>,
    stopped: Arc<AtomicBool>,
}

/// Why the guard handed nothing further to hyper.
#[derive(Debug)]
pub enum Stop {
    Upgrade(Box<RequestHead>),
    Refused(Rejection),
}

/// What the next head is.
#[derive(Debug)]
pub enum Next {
    /// Plain HTTP: the head waits in the guard for hyper to read it.
    Plain,
    Upgrade(Box<RequestHead>),
    Refused(Rejection),
    /// The client has gone, between two messages.
    Closed,
}

impl Guard {
    pub fn new(stream: Stream, limits: Arc<Limits>) -> Self {
        Self {
            stream,
            limits,
            buffer: BytesMut::new(),
            approved: 0,
            scanned: 0,
            body: BodyFraming::Done,
            stop: None,
            stopped: Arc::default(),
        }
    }

    /// Reads until the next head is whole and judges it.
    pub async fn next_head(&mut self) -> io::Result<Next> {
        std::future::poll_fn(|cx| self.poll_next_head(cx)).await
    }

    /// Has the client begun a head that is not whole yet?
    pub fn holds_part_of_a_head(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Set when the guard has stopped; hyper is then to be asked to finish.
    pub fn stopped_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }

    pub fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// Completes when the client goes away. What it sends meanwhile is kept, up to one head's size; after that it is left
    /// in the socket and a departure goes unnoticed until the relay starts.
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

    /// The bare stream, and what the client sent beyond the head.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.buffer)
    }

    fn poll_next_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        loop {
            if let Some(next) = self.judge() {
                return Poll::Ready(Ok(next));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(Next::Closed));
            }
        }
    }

    /// Judges the head at the start of the buffer; `None` while it is not whole.
    fn judge(&mut self) -> Option<Next> {
        let (seen, new) = self.buffer.split_at(self.scanned.min(self.buffer.len()));
        // The empty line may have begun before.
        let overlap = seen.len().saturating_sub(3);
        let found = self.buffer.get(overlap..).and_then(head::length_of_head).map(|length| overlap + length);
        let Some(length) = found else {
            if let Err(rejection) = head::check_bytes(new, seen.last().copied().unwrap_or(0)) {
                return Some(Next::Refused(rejection));
            }
            self.scanned = self.buffer.len();
            return (self.buffer.len() > self.limits.head_bytes).then_some(Next::Refused(Rejection::HeadTooLarge));
        };
        self.scanned = 0;
        if length > self.limits.head_bytes {
            return Some(Next::Refused(Rejection::HeadTooLarge));
        }
        Some(match head::parse_request(self.buffer.split_at(length).0, &self.limits) {
            Err(rejection) => Next::Refused(rejection),
            Ok(head) if head.parts.headers.contains_key(http::header::UPGRADE) => {
                self.buffer.advance(length);
                Next::Upgrade(Box::new(head))
            }
            Ok(head) => {
                self.approved = length;
                self.body = head.framing;
                Next::Plain
            }
        })
    }

    /// A silent connection holds no buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        poll_read_behind(&mut self.stream, cx, &mut self.buffer, READ_SIZE)
    }

    fn stop(&mut self, stop: Stop) {
        self.stop = Some(stop);
        self.stopped.store(true, Ordering::Release);
    }
}

impl Read for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.approved > 0 {
                let count = this.approved.min(cursor.remaining());
                cursor.put_slice(this.buffer.split_at(count).0);
                this.buffer.advance(count);
                this.approved -= count;
                return Poll::Ready(Ok(()));
            }
            if this.stop.is_some() {
                // Nothing wakes hyper for this: who drives the connection sees the flag after each poll.
                return Poll::Pending;
            }
            if this.body.is_done() {
                match this.judge() {
                    Some(Next::Plain) => continue,
                    Some(Next::Upgrade(head)) => {
                        this.stop(Stop::Upgrade(head));
                        continue;
                    }
                    Some(Next::Refused(rejection)) => {
                        this.stop(Stop::Refused(rejection));
                        continue;
                    }
                    Some(Next::Closed) | None => {}
                }
            } else if !this.buffer.is_empty() {
                this.approved =
                    this.body.advance(&this.buffer, |_| {}).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                continue;
            }
            if ready!(this.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
