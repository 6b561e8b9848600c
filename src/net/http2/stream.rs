//! A tunnel in one HTTP/2 stream (RFC 8441), as a stream of bytes.
//!
//! The client may send as much as its window allows. The window opens only as the reader takes the
//! bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::served_streams::StreamLease;

/// The most bytes of one write.
const MOST_WRITTEN: usize = 32 * 1024;

#[derive(Debug)]
pub struct Http2Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Bytes that arrived and were not read. Their part of the window is not released.
    unread: BytesMut,
    has_ended: bool,
    is_shut: bool,
    lease: StreamLease,
}

impl Http2Stream {
    /// `unread` holds bytes that arrived before, as `absorb` keeps them.
    pub(super) fn new(
        send: SendStream<Bytes>,
        receive: RecvStream,
        unread: BytesMut,
        lease: StreamLease,
    ) -> Self {
        Self { send, receive, unread, has_ended: false, is_shut: false, lease }
    }

    /// Takes in what has arrived, while the reader is not ready for it. The library keeps each DATA
    /// frame by itself, with an overhead that no window counts.
    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        absorb(&mut self.receive, &mut self.unread, &mut self.has_ended, cx);
    }

    pub fn lease_mut(&mut self) -> &mut StreamLease {
        &mut self.lease
    }
}

/// Appends to `unread` what has arrived.
pub(super) fn absorb(
    receive: &mut RecvStream,
    unread: &mut BytesMut,
    has_ended: &mut bool,
    cx: &mut Context<'_>,
) {
    while !*has_ended {
        match receive.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => unread.extend_from_slice(&bytes),
            Poll::Ready(Some(Err(_)) | None) => *has_ended = true,
            Poll::Pending => break,
        }
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            let count = this.unread.len().min(buf.remaining());
            if count > 0 {
                buf.put_slice(this.unread.split_at(count).0);
                this.unread.advance(count);
            }
            if buf.remaining() == 0 || this.has_ended {
                break;
            }
            // Many small frames become one read.
            match this.receive.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
                    buf.put_slice(now);
                    this.unread.extend_from_slice(later);
                }
                Poll::Ready(Some(Err(_)) | None) => this.has_ended = true,
                Poll::Pending => break,
            }
        }
        if this.unread.is_empty() {
            this.unread = BytesMut::new();
        }
        let taken = buf.filled().len() - before;
        if taken > 0 {
            // Fails only for a stream that has ended.
            let _ = this.receive.flow_control().release_capacity(taken);
        } else if !this.has_ended && buf.remaining() > 0 {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = ready!(poll_room(&mut this.send, data.len().min(MOST_WRITTEN), cx))?;
        let (now, _) = data.split_at(room.min(data.len()));
        this.send.send_data(Bytes::copy_from_slice(now), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.is_shut, true) {
            // A stream that was reset is shut already.
            let _ = this.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

/// Waits for room in the windows of the client, for at most `wanted` bytes.
pub fn poll_room(
    send: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    send.reserve_capacity(wanted);
    loop {
        let room = send.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room.min(wanted)));
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}
