//! An established TLS connection with a client.
//!
//! It owns bytes only while something is half done: a record that has not come whole, plaintext that the reader had no room
//! for, records that the socket did not take. Everything else passes through buffers of the thread.

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

use super::record::{self, Content, Key, MOST_ADDED, MOST_PLAINTEXT, RecordError, Sealed};

/// Four full records and the small one that a message of 64 KiB takes besides.
const BUFFER: usize = 4 * (MOST_PLAINTEXT + MOST_ADDED) + 4 * 1024;
/// Of what waits for the socket, so much goes in front of new records in one write.
const MOST_CARRIED: usize = 4 * 1024;

const CLOSE_NOTIFY: u8 = 0;
/// Both say that nothing has happened.
const HARMLESS_ALERTS: [u8; 2] = [90, 100];
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const KEY_UPDATE: u8 = 24;
const UPDATE_REQUESTED: u8 = 1;
/// So many records in a row may carry no data: a key update costs us more than the client.
const MOST_IDLE_RECORDS: u8 = 32;

thread_local! {
    /// What the socket gave, and what it is to take.
    static SEALED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    opens: Key,
    seals: Key,
    /// Where the next keys come from.
    secrets: Secrets,
    /// The beginning of a record.
    part: BytesMut,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    /// Opened, and not read yet.
    plaintext: BytesMut,
    /// Sealed, and not sent yet.
    outgoing: BytesMut,
    /// The socket did not take all of the last write.
    is_blocked: bool,
    /// Our key is to be changed before anything else is sealed.
    owes_key_update: bool,
    /// Records without data since the last one with data.
    idle_records: u8,
    reading: Reading,
    said_goodbye: bool,
}

struct Secrets(KernelConnection<ServerConnectionData>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The client has said that nothing more comes.
    Ended,
    Failed(RecordError),
}

/// What the handshake left over.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// What came behind the client's last word.
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
            opens: Key::new(version, keys.rx)?,
            seals: Key::new(version, keys.tx)?,
            secrets: Secrets(connection),
            part: BytesMut::new(),
            message: Vec::new(),
            plaintext: BytesMut::new(),
            outgoing: beginning.outgoing.as_slice().into(),
            is_blocked: false,
            owes_key_update: false,
            idle_records: 0,
            reading: Reading::Open,
            said_goodbye: false,
        };
        // Whole records are opened now: nothing more may come from the socket to ask for them.
        stream.take_bytes(&beginning.sealed, &mut ReadBuf::new(&mut []), &mut Context::from_waker(Waker::noop()));
        Ok(stream)
    }

    /// Reads the socket once and opens what is whole.
    fn poll_records(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        SEALED.with_borrow_mut(|sealed| {
            let kept = self.part.len();
            // Not much more than the reader takes: what is opened beyond it has to be kept.
            let most = (kept + buf.remaining() + MOST_ADDED).max(MOST_PLAINTEXT + MOST_ADDED).min(sealed.len());
            let mut read = ReadBuf::new(sealed.get_mut(kept..most).unwrap_or_default());
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
            let count = read.filled().len();
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let (front, rest) = sealed.split_at_mut(kept);
            let (new, _) = rest.split_at(count);
            if kept > 0 {
                self.part.extend_from_slice(new);
                let length = record::length_of_first(&self.part);
                if length.is_ok_and(|length| length.is_none_or(|length| length > self.part.len())) {
                    // Bytes that come one by one are moved once.
                    return Poll::Ready(Ok(()));
                }
                front.copy_from_slice(self.part.split_at(kept).0);
                self.part.clear();
            }
            self.take_bytes(sealed.split_at(kept + count).0, buf, cx);
            Poll::Ready(Ok(()))
        })
    }

    /// Opens what is whole, and keeps the rest.
    fn take_bytes(&mut self, mut bytes: &[u8], buf: &mut ReadBuf<'_>, cx: &mut Context<'_>) {
        let taken = self.take_records(&mut bytes, buf);
        self.part = if self.reading == Reading::Open { bytes.into() } else { BytesMut::new() };
        if let Err(error) = taken {
            self.fail(error, cx);
        }
    }

    fn take_records(&mut self, bytes: &mut &[u8], buf: &mut ReadBuf<'_>) -> Result<(), RecordError> {
        while self.reading == Reading::Open
            && let Some(record) = record::split_first(bytes)?
        {
            if buf.remaining() >= record.room() && self.plaintext.is_empty() {
                let out = buf.initialize_unfilled_to(record.room());
                let (content, length) = self.opens.open(record, out)?;
                self.count(content, length)?;
                if content == Content::ApplicationData {
                    buf.advance(length);
                } else {
                    self.take_message(content, out.split_at(length).0)?;
                }
            } else {
                self.open_aside(record, buf)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, content: Content, length: usize) -> Result<(), RecordError> {
        // RFC 8446, section 5.1: "Handshake messages MUST NOT be interleaved with other record types."
        if !self.message.is_empty() && content != Content::Handshake {
            return Err(RecordError::Unexpected);
        }
        self.idle_records = if content == Content::ApplicationData && length > 0 { 0 } else { self.idle_records + 1 };
        if self.idle_records > MOST_IDLE_RECORDS { Err(RecordError::TooManyIdle) } else { Ok(()) }
    }

    /// The reader has no room for all of it.
    fn open_aside(&mut self, record: Sealed<'_>, buf: &mut ReadBuf<'_>) -> Result<(), RecordError> {
        let mut opened = vec![0; record.room()];
        let (content, length) = self.opens.open(record, &mut opened)?;
        self.count(content, length)?;
        opened.truncate(length);
        if content != Content::ApplicationData {
            return self.take_message(content, &opened);
        }
        self.plaintext.extend_from_slice(&opened);
        self.hand_out(buf);
        Ok(())
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.plaintext.len().min(buf.remaining());
        buf.put_slice(self.plaintext.split_at(count).0);
        self.plaintext.advance(count);
        if self.plaintext.is_empty() {
            self.plaintext = BytesMut::new();
        }
    }

    fn take_message(&mut self, content: Content, message: &[u8]) -> Result<(), RecordError> {
        match (content, message) {
            (Content::Alert, [_, CLOSE_NOTIFY]) => self.reading = Reading::Ended,
            (Content::Alert, [_, alert]) if HARMLESS_ALERTS.contains(alert) => {}
            (Content::Alert, [_, alert]) => return Err(RecordError::Alert(*alert)),
            (Content::Handshake, [_, ..]) if self.opens.is_tls13() => return self.take_handshake(message),
            (Content::Alert, [_, ..]) => return Err(RecordError::Malformed),
            _ => return Err(RecordError::Unexpected),
        }
        Ok(())
    }

    /// RFC 8446, section 4.6.3. Like every message it may come in pieces. "Handshake messages MUST NOT span key changes":
    /// nothing stands behind it.
    fn take_handshake(&mut self, piece: &[u8]) -> Result<(), RecordError> {
        self.message.extend_from_slice(piece);
        let request = match *self.message.as_slice() {
            [KEY_UPDATE] | [KEY_UPDATE, 0] | [KEY_UPDATE, 0, 0] | [KEY_UPDATE, 0, 0, 1] => return Ok(()),
            [KEY_UPDATE, 0, 0, 1, request] => request,
            [KEY_UPDATE, 0, 0, 1, ..] => return Err(RecordError::Unexpected),
            [KEY_UPDATE, ..] => return Err(RecordError::Malformed),
            _ => return Err(RecordError::Unexpected),
        };
        self.message = Vec::new();
        if request > UPDATE_REQUESTED {
            return Err(RecordError::Illegal);
        }
        let next = self.secrets.0.update_rx_secret().map_err(|_| RecordError::Exhausted)?;
        self.opens = Key::new(self.secrets.0.protocol_version(), next)?;
        // One answer is enough for many requests: it is given before the next data.
        self.owes_key_update |= request == UPDATE_REQUESTED;
        Ok(())
    }

    /// Ends the reading, and tells the client why, as far as the socket takes it.
    fn fail(&mut self, error: RecordError, cx: &mut Context<'_>) {
        self.reading = Reading::Failed(error);
        if let Some(alert) = error.alert()
            && !self.said_goodbye
            && self.say(FATAL, alert).is_ok()
        {
            let _ = self.poll_drain(cx);
        }
        // RFC 8446, section 6.2: after a fatal alert, whoever sent it, neither side says more.
        self.said_goodbye = true;
    }

    /// Puts an alert behind what waits. It is the last word.
    fn say(&mut self, level: u8, alert: u8) -> Result<(), RecordError> {
        let mut sealed = [0; 2 + MOST_ADDED];
        let length = self.seals.seal(Content::Alert, &[level, alert], &mut sealed)?;
        self.outgoing.extend_from_slice(sealed.split_at(length).0);
        self.said_goodbye = true;
        Ok(())
    }

    /// Sends what waits.
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

    /// Seals as much as one write to the socket takes, behind `carried` bytes. How much was sealed, and where it ends.
    fn seal(&mut self, mut data: &[u8], out: &mut [u8], carried: usize) -> Result<(usize, usize), RecordError> {
        let mut end = carried;
        let before = data.len();
        if self.seals.is_nearly_spent() {
            if !self.seals.is_tls13() {
                // What is left of it is for the goodbye.
                return Err(RecordError::Exhausted);
            }
            self.owes_key_update = true;
        }
        if std::mem::take(&mut self.owes_key_update) {
            let update = [KEY_UPDATE, 0, 0, 1, 0];
            end += self.seals.seal(Content::Handshake, &update, out.get_mut(end..).unwrap_or_default())?;
            let next = self.secrets.0.update_tx_secret().map_err(|_| RecordError::Exhausted)?;
            self.seals = Key::new(self.secrets.0.protocol_version(), next)?;
        }
        while !data.is_empty() {
            let room = out.len().saturating_sub(end + MOST_ADDED);
            let (piece, rest) = data.split_at(data.len().min(MOST_PLAINTEXT).min(room));
            // What is sealed stays in order, so a key that is spent in between waits for the next write.
            if piece.is_empty() || (end > carried && self.seals.is_nearly_spent()) {
                break;
            }
            end += self.seals.seal(Content::ApplicationData, piece, out.get_mut(end..).unwrap_or_default())?;
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
        self.part.capacity() + self.message.capacity() + self.plaintext.capacity() + self.outgoing.capacity()
    }

    #[cfg(test)]
    pub(super) fn assert_owns_nothing(&self) {
        assert_eq!(self.keeps(), 0);
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
                Reading::Failed(error) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
            }
            ready!(this.poll_records(cx, buf))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.said_goodbye {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.is_blocked || this.outgoing.len() > MOST_CARRIED {
            ready!(this.poll_drain(cx))?;
        }
        SEALED.with_borrow_mut(|sealed| {
            let carried = this.outgoing.len();
            sealed.split_at_mut(carried).0.copy_from_slice(&this.outgoing);
            let (taken, end) = this.seal(data, sealed, carried).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
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
        if !this.said_goodbye {
            this.say(WARNING, CLOSE_NOTIFY).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
