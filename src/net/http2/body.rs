//! The body of a request that came over HTTP/2: its data alone.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};

use crate::net::stall::Stall;

/// The client of a body, with the places that its stream holds. The body keeps them until it ends:
/// it may outlive the answer.
pub trait Uploader: Debug + Send + Sync {
    fn is_stranger(&self) -> bool;

    /// Rests: completes when a newcomer has taken the place of a stranger.
    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ends the rest. Returns false if a newcomer has taken the place.
    fn leave_rest(&self) -> bool;
}

#[derive(Debug)]
pub struct Http2Body {
    receive: RecvStream,
    /// Bytes that were handed out, and whose part of the window is not released: the upstream may
    /// not have taken them.
    handed_out: usize,
    stall: Stall,
    /// `None` once the body has ended.
    uploader: Option<Arc<dyn Uploader>>,
    is_resting: bool,
}

impl Http2Body {
    pub fn new(receive: RecvStream, stall_timeout: Duration, uploader: Arc<dyn Uploader>) -> Self {
        let stall = Stall::new(stall_timeout);
        let uploader = Some(uploader).filter(|_| !receive.is_end_stream());
        Self { receive, handed_out: 0, stall, uploader, is_resting: false }
    }

    /// Notes bytes of the client. Returns false if a newcomer has taken its place.
    fn count_bytes(&mut self, count: usize) -> bool {
        let Some(uploader) = &self.uploader else { return true };
        self.stall.count_bytes(count, uploader.is_stranger());
        !std::mem::take(&mut self.is_resting) || uploader.leave_rest()
    }

    /// Waits for the client. A slow stranger makes room for a newcomer.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.stall.poll_elapsed(cx).is_ready() {
            let stalled = io::Error::new(io::ErrorKind::TimedOut, "the client has stalled");
            return Poll::Ready(stalled);
        }
        if self.stall.is_slow()
            && let Some(uploader) = &self.uploader
        {
            self.is_resting = true;
            return uploader.poll_rest(cx).map(|()| displaced());
        }
        Poll::Pending
    }
}

fn displaced() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "a newcomer has taken the client's place")
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
        let polled = match this.receive.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                if this.count_bytes(bytes.len()) {
                    this.handed_out = bytes.len();
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                } else {
                    Poll::Ready(Some(Err(displaced())))
                }
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(io::Error::other(error)))),
            Poll::Ready(None) => {
                this.count_bytes(0);
                Poll::Ready(None)
            }
            Poll::Pending => this.poll_patience(cx).map(|error| Some(Err(error))),
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.uploader = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.receive.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
