//! One byte stream, whatever it runs over.
//!
//! Both sides of a session are a [`Stream`], so that the relay is written once and TLS can change
//! its insides without anyone noticing.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client;

use crate::net::tls::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A client's. Boxed: a session's future is held by every connection.
    Tls(Box<TlsStream>),
    /// To a server.
    DialledTls(Box<client::TlsStream<TcpStream>>),
}

/// What one read takes at most. The thread's, not the connection's.
pub const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Lends the thread's scratch buffer, so that who waits for bytes owns none.
pub fn with_scratch<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| use_it(scratch))
}

/// Adds what comes next to `buffer`, at most so much; 0 is the end. Nothing is lost if this is
/// dropped, and who waits holds no buffer.
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

impl Stream {
    /// Bytes that were written here and that the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        match self {
            Self::Tls(stream) => stream.unsent(),
            Self::Tcp(_) | Self::Unix(_) | Self::DialledTls(_) => 0,
        }
    }

    /// Bounds what the kernel holds for a client that does not read, besides what is on its way;
    /// `None`: as the system does.
    pub fn limit_unsent(&self, most: Option<u32>) {
        let tcp = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
            Self::Unix(_) | Self::DialledTls(_) => return,
        };
        // Where the system does not know it, its own bounds hold.
        let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(most.unwrap_or(0));
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::DialledTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::DialledTls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::DialledTls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A peer that drops TLS without its goodbye: what it carries ends by its own rules, so this is an
/// end.
fn without_goodbye(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Poll::Ready(Ok(()))
        }
        other => other,
    }
}
