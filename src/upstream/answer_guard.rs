//! The guard between an upstream's socket and the HTTP library.
//!
//! Bytes of an answer reach hyper only after the strict reader of upgrade answers has checked their
//! head, and only up to the end of the body. An HTTP library is lenient, because it has many users.
//! It accepts two lengths, a bare line feed, or a 101 without a request for it. The client might
//! then read another answer than Usher did.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use crate::net::http1::framing::BodyFraming;
use crate::net::http1::head::{self, MAX_ANSWER_HEAD, MAX_INTERIM_ANSWERS};
use crate::net::stream::{Stream, hand_out, poll_read_behind};

const READ_SIZE: usize = 8 * 1024;

/// The state that a connection's owner shares with its guard.
#[derive(Debug, Default)]
pub struct ExchangeWatch {
    /// The number of requests that were sent.
    asked: AtomicUsize,
    /// The last request was a HEAD: its answer has no body, whatever its head says.
    is_head: AtomicBool,
    fault: OnceLock<&'static str>,
}

#[derive(Debug)]
pub struct AnswerGuard {
    stream: Stream,
    watch: Arc<ExchangeWatch>,
    /// Bytes that were read and not handed out; the first `approved` of them may be.
    buffer: BytesMut,
    approved: usize,
    /// Bytes of an unfinished head that were already checked.
    scanned: usize,
    /// The number of answers that have passed, and of interim ones since the last of them.
    answered: usize,
    interim: usize,
    /// The framing of the answer that is passing. `None`: a head comes next.
    body: Option<BodyFraming>,
}

impl ExchangeWatch {
    /// Notes the next request. Must be called before each one.
    pub fn begin(&self, method: &http::Method) {
        self.is_head.store(*method == http::Method::HEAD, Ordering::Release);
        self.asked.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the reason why the guard lets nothing further pass.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault.get().copied()
    }
}

impl AnswerGuard {
    pub fn new(stream: Stream) -> (Self, Arc<ExchangeWatch>) {
        let watch = Arc::<ExchangeWatch>::default();
        let guard = Self {
            stream,
            watch: Arc::clone(&watch),
            buffer: BytesMut::new(),
            approved: 0,
            scanned: 0,
            answered: 0,
            interim: 0,
            body: None,
        };
        (guard, watch)
    }

    fn is_idle(&self) -> bool {
        self.body.is_none() && self.answered == self.watch.asked.load(Ordering::Acquire)
    }

    /// Approves the bytes of the buffer that may pass. Returns false if more must be read first.
    fn advance(&mut self) -> Result<bool, &'static str> {
        if let Some(body) = &mut self.body {
            if !body.is_done() {
                let taken = body
                    .advance(&self.buffer, |_| {})
                    .map_err(|_| "the body of the answer is not framed correctly")?;
                self.approved = taken;
                return Ok(taken > 0);
            }
            self.body = None;
            self.answered += 1;
        }
        if self.is_idle() {
            return if self.buffer.is_empty() {
                Ok(false)
            } else {
                Err("the server sent more than its answer")
            };
        }
        self.judge_head()
    }

    fn judge_head(&mut self) -> Result<bool, &'static str> {
        let overlap = self.scanned.saturating_sub(3);
        let found = self
            .buffer
            .get(overlap..)
            .and_then(head::length_of_head)
            .map(|length| overlap + length);
        let length = found.unwrap_or(self.buffer.len());
        if length > MAX_ANSWER_HEAD {
            return Err("the answer head is larger than 32 KiB");
        }
        if found.is_none() {
            let (seen, new) = self.buffer.split_at(self.scanned.min(length));
            let last = seen.last().copied().unwrap_or(0);
            head::check_bytes(new, last).map_err(|_| "the answer head holds forbidden bytes")?;
            self.scanned = length;
            return Ok(false);
        }
        self.scanned = 0;
        let head = head::parse_answer(
            self.buffer.split_at(length).0,
            self.watch.is_head.load(Ordering::Acquire),
        )?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("the server switched protocols without being asked");
        }
        if head.status.is_informational() {
            self.interim += 1;
            self.buffer.advance(length);
            return if self.interim > MAX_INTERIM_ANSWERS {
                Err("the server sent too many interim answers")
            } else {
                self.judge_head()
            };
        }
        self.interim = 0;
        self.approved = length;
        self.body = Some(head.framing);
        Ok(true)
    }

    /// Reads more from the upstream. A connection between two requests holds no buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        poll_read_behind(&mut self.stream, cx, &mut self.buffer, READ_SIZE)
    }
}

impl Read for AnswerGuard {
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
            let moved = match this.watch.fault() {
                Some(why) => Err(why),
                None => this.advance(),
            };
            match moved {
                Ok(true) => {}
                Ok(false) => {
                    if ready!(this.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(why) => {
                    let _ = this.watch.fault.set(why);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
            }
        }
    }
}

impl Write for AnswerGuard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
