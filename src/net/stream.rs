//! One type for all byte streams: TCP, unix sockets, TLS, and a tunnel in an HTTP/2 stream.
//!
//! Both sides of a session are a [`Stream`], so that the relay is written once and does not depend
//! on the details of TLS.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client;

use crate::net::http2::stream::Http2Stream;
use crate::net::tls::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS with a client. Boxed: every connection holds a session's future.
    Tls(Box<TlsStream>),
    /// TLS with a server.
    DialledTls(Box<client::TlsStream<TcpStream>>),
    /// A client's WebSocket in one stream of an HTTP/2 connection.
    Http2(Box<Http2Stream>),
}

/// The most bytes of one read. The buffer belongs to the thread, not to the connection.
pub const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Lends the thread's scratch buffer, so that a task that waits for bytes owns none.
pub fn with_scratch<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| use_it(scratch))
}

/// Appends the next bytes to `buffer`, at most `most` of them. Returns 0 at the end of the stream.
/// Dropping the future loses nothing, and a task that waits holds no buffer.
pub async fn read_behind(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut impl BufMut,
    most: usize,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| poll_read_behind(reader, cx, buffer, most)).await
}

pub fn poll_read_behind(
    reader: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut impl BufMut,
    most: usize,
) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let mut read = ReadBuf::new(scratch.split_at_mut(most.min(SCRATCH)).0);
        ready!(Pin::new(reader).poll_read(cx, &mut read))?;
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

/// Moves bytes that a guard has approved, which are the first ones of its buffer, to hyper. Returns
/// false if none is approved.
pub fn hand_out(
    buffer: &mut BytesMut,
    approved: &mut usize,
    cursor: &mut ReadBufCursor<'_>,
) -> bool {
    if *approved == 0 {
        return false;
    }
    let count = (*approved).min(cursor.remaining());
    cursor.put_slice(buffer.split_at(count).0);
    buffer.advance(count);
    *approved -= count;
    true
}

impl Stream {
    /// Returns the address of the other end of a TCP connection.
    pub fn peer(&self) -> Option<IpAddr> {
        let tcp = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
            Self::DialledTls(stream) => stream.get_ref().0,
            Self::Unix(_) | Self::Http2(_) => return None,
        };
        tcp.peer_addr().ok().map(|address| address.ip())
    }

    /// Returns how many bytes were written here that the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        match self {
            Self::Tls(stream) => stream.unsent(),
            Self::Tcp(_) | Self::Unix(_) | Self::DialledTls(_) | Self::Http2(_) => 0,
        }
    }

    /// Bounds the bytes that the kernel holds unsent for a client that does not read. `None`
    /// restores the system's default.
    pub fn limit_unsent(&self, most: Option<u32>) {
        let tcp = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
            Self::Unix(_) | Self::DialledTls(_) | Self::Http2(_) => return,
        };
        // A system without this option keeps its own bounds.
        let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(most.unwrap_or(0));
    }

    /// Takes in what has arrived although the reader is not ready for it, where the transport could
    /// not keep it cheaply. Sockets keep their bytes themselves.
    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        if let Self::Http2(stream) = self {
            stream.absorb(cx);
        }
    }

    /// Tells the HTTP/2 connection, if there is one, that its stream has become a session.
    pub fn note_session(&mut self, is_known: bool) {
        if let Self::Http2(stream) = self {
            stream.lease_mut().note_session(is_known);
        }
    }

    /// Tells the HTTP/2 connection, if there is one, that its stream gets no session.
    pub fn note_refusal(&mut self) {
        if let Self::Http2(stream) = self {
            stream.lease_mut().note_refusal();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => without_goodbye(Pin::new(stream).poll_read(cx, buf)),
            Self::DialledTls(stream) => without_goodbye(Pin::new(stream).poll_read(cx, buf)),
            Self::Http2(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::DialledTls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::DialledTls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Http2(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::DialledTls(stream) => stream.is_write_vectored(),
            Self::Http2(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::DialledTls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::DialledTls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Treats the end of TLS without a close_notify as an end of the stream: the protocol inside has
/// rules of its own for its end.
fn without_goodbye(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Poll::Ready(Ok(()))
        }
        other => other,
    }
}
