//! The body of a request that came over HTTP/2: its data alone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};

use crate::net::stall::Stall;

#[derive(Debug)]
pub struct Http2Body {
    receive: RecvStream,
    /// Bytes that were handed out, and whose part of the window is not released: the upstream may
    /// not have taken them.
    handed_out: usize,
    stall: Stall,
    is_stranger: Arc<AtomicBool>,
}

impl Http2Body {
    pub fn new(receive: RecvStream, stall_timeout: Duration, is_stranger: Arc<AtomicBool>) -> Self {
        Self { receive, handed_out: 0, stall: Stall::new(stall_timeout), is_stranger }
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.handed_out > 0 {
            let taken = std::mem::take(&mut this.handed_out);
            // Fails only for a stream that has ended.
            let _ = this.receive.flow_control().release_capacity(taken);
        }
        match this.receive.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                this.stall.count_bytes(bytes.len(), this.is_stranger.load(Ordering::Relaxed));
                this.handed_out = bytes.len();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(io::Error::other(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(this.stall.poll_elapsed(cx));
                let stalled = io::Error::new(io::ErrorKind::TimedOut, "the client has stalled");
                Poll::Ready(Some(Err(stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.receive.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
