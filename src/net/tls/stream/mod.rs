//! An established TLS connection with a client.
//!
//! It owns bytes only while something is unfinished: a record that has not arrived whole, plaintext
//! that the reader had no room for, records that the socket did not take. Everything else passes
//! through buffers of the thread.

mod reading;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustls::ExtractedSecrets;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::record::{Content, MOST_ADDED, MOST_PLAINTEXT, RecordError, RecordKey};

/// Room for four full records, and for the small fifth one of a message of 64 KiB.
const BUFFER: usize = 4 * (MOST_PLAINTEXT + MOST_ADDED) + 4 * 1024;
/// The most waiting bytes that go in front of new records in one write.
const MOST_CARRIED: usize = 4 * 1024;

const CLOSE_NOTIFY: u8 = 0;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const NO_RENEGOTIATION: u8 = 100;
const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

thread_local! {
    /// Bytes that the socket gave, or that it will take.
    static SEALED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    opens: RecordKey,
    seals: RecordKey,
    /// The source of the next keys.
    secrets: Secrets,
    /// The beginning of a record.
    part: BytesMut,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    /// Plaintext that was opened and not read yet.
    plaintext: BytesMut,
    /// Records that were sealed and not sent yet.
    outgoing: BytesMut,
    /// The socket did not take all of the last write.
    is_blocked: bool,
    /// Usher's key must be changed before anything else is sealed.
    owes_key_update: bool,
    /// A client of TLS 1.2 asked for another handshake and has no answer yet.
    owes_no_renegotiation: bool,
    /// Records without data since the last one with data.
    idle_records: u8,
    reading: Reading,
    sent_close_notify: bool,
}

struct Secrets(KernelConnection<ServerConnectionData>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The client has sent close_notify.
    Ended,
    Failed(RecordError),
}

/// The bytes that the handshake left over.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// Records behind the client's last handshake message.
    pub sealed: Vec<u8>,
    pub outgoing: Vec<u8>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl TlsStream {
    pub(super) fn new(
        tcp: TcpStream,
        keys: ExtractedSecrets,
        connection: KernelConnection<ServerConnectionData>,
        beginning: &Beginning,
    ) -> Result<Self, RecordError> {
        let version = connection.protocol_version();
        let mut stream = Self {
            tcp,
            opens: RecordKey::new(version, keys.rx)?,
            seals: RecordKey::new(version, keys.tx)?,
            secrets: Secrets(connection),
            part: BytesMut::new(),
            message: Vec::new(),
            plaintext: BytesMut::new(),
            outgoing: beginning.outgoing.as_slice().into(),
            is_blocked: false,
            owes_key_update: false,
            owes_no_renegotiation: false,
            idle_records: 0,
            reading: Reading::Open,
            sent_close_notify: false,
        };
        // Whole records are opened now: the socket may bring no more bytes that would cause it.
        stream.take_bytes(
            &beginning.sealed,
            &mut ReadBuf::new(&mut []),
            &mut Context::from_waker(Waker::noop()),
        );
        Ok(stream)
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Returns the number of bytes that are sealed and that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// Ends reading, and sends the client an alert, as far as the socket takes it.
    fn fail(&mut self, error: RecordError, cx: &mut Context<'_>) {
        self.reading = Reading::Failed(error);
        if let Some(alert) = error.alert()
            && !self.sent_close_notify
            && self.queue_alert_record(FATAL, alert).is_ok()
        {
            let _ = self.poll_drain(cx);
        }
        // RFC 8446 section 6.2: after a fatal alert, neither side sends more.
        self.sent_close_notify = true;
    }

    /// Queues an alert as the last record.
    fn queue_alert_record(&mut self, level: u8, alert: u8) -> Result<(), RecordError> {
        self.queue_alert(level, alert)?;
        self.sent_close_notify = true;
        Ok(())
    }

    fn queue_alert(&mut self, level: u8, alert: u8) -> Result<(), RecordError> {
        let mut sealed = [0; 2 + MOST_ADDED];
        let length = self.seals.seal(Content::Alert, &[level, alert], &mut sealed)?;
        self.outgoing.extend_from_slice(sealed.split_at(length).0);
        Ok(())
    }

    /// Refuses another handshake. RFC 5246 section 7.2.2: "no_renegotiation" is a warning, and the
    /// connection goes on.
    fn refuse_renegotiation(&mut self, cx: &mut Context<'_>) -> Result<(), RecordError> {
        if std::mem::take(&mut self.owes_no_renegotiation) && !self.sent_close_notify {
            self.queue_alert(WARNING, NO_RENEGOTIATION)?;
            let _ = self.poll_drain(cx);
        }
        Ok(())
    }

    /// Sends the waiting records.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        self.outgoing = BytesMut::new();
        self.is_blocked = false;
        Poll::Ready(Ok(()))
    }

    /// Seals as much as one write to the socket takes, behind `carried` bytes. Returns how much of
    /// `data` was sealed, and where the records end.
    fn seal(
        &mut self,
        mut data: &[u8],
        out: &mut [u8],
        carried: usize,
    ) -> Result<(usize, usize), RecordError> {
        let mut end = carried;
        let before = data.len();
        if self.seals.is_nearly_spent() {
            if !self.seals.is_tls13() {
                // The rest of its records is kept for close_notify.
                return Err(RecordError::Exhausted);
            }
            self.owes_key_update = true;
        }
        if std::mem::take(&mut self.owes_key_update) {
            let update = [KEY_UPDATE, 0, 0, 1, 0];
            end += self.seals.seal(
                Content::Handshake,
                &update,
                out.get_mut(end..).unwrap_or_default(),
            )?;
            let next = self.secrets.0.update_tx_secret().map_err(|_| RecordError::Exhausted)?;
            self.seals = RecordKey::new(self.secrets.0.protocol_version(), next)?;
        }
        while !data.is_empty() {
            let room = out.len().saturating_sub(end + MOST_ADDED);
            let (piece, rest) = data.split_at(data.len().min(MOST_PLAINTEXT).min(room));
            // Records stay in order, so the next key waits for the next write.
            if piece.is_empty() || (end > carried && self.seals.is_nearly_spent()) {
                break;
            }
            end += self.seals.seal(
                Content::ApplicationData,
                piece,
                out.get_mut(end..).unwrap_or_default(),
            )?;
            data = rest;
        }
        Ok((before - data.len(), end))
    }

    #[cfg(test)]
    pub(super) fn seals_at_most(&mut self, records: u64) {
        self.seals.limit_to(records);
    }

    #[cfg(test)]
    pub(super) fn keeps(&self) -> usize {
        self.part.capacity()
            + self.message.capacity()
            + self.plaintext.capacity()
            + self.outgoing.capacity()
    }

    #[cfg(test)]
    pub(super) fn assert_owns_nothing(&self) {
        assert_eq!(self.keeps(), 0);
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.plaintext.is_empty() {
            this.hand_out(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            match this.reading {
                Reading::Open => {}
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Failed(error) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
            ready!(this.poll_records(cx, buf))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.sent_close_notify {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.is_blocked || this.outgoing.len() > MOST_CARRIED {
            ready!(this.poll_drain(cx))?;
        }
        SEALED.with_borrow_mut(|sealed| {
            let carried = this.outgoing.len();
            sealed.split_at_mut(carried).0.copy_from_slice(&this.outgoing);
            let (taken, end) = this
                .seal(data, sealed, carried)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let (wire, _) = sealed.split_at(end);
            let sent = match Pin::new(&mut this.tcp).poll_write(cx, wire)? {
                Poll::Ready(sent) => sent,
                Poll::Pending => 0,
            };
            this.is_blocked = sent < end;
            this.outgoing = wire.split_at(sent).1.into();
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.sent_close_notify {
            this.queue_alert_record(WARNING, CLOSE_NOTIFY)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
