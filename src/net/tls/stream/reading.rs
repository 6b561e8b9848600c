//! The handling of records from a client.
//!
//! Data goes straight to the reader while it has room. Everything else is answered or refused
//! here, and must not cost Usher more than the client. Records without data are counted, and less
//! than one record is kept.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::{CLIENT_HELLO, CLOSE_NOTIFY, KEY_UPDATE, Reading, SEALED, TlsStream, WARNING};
use crate::net::tls::record::{
    self, Content, MOST_ADDED, MOST_PLAINTEXT, RecordError, RecordKey, Sealed,
};

const USER_CANCELED: u8 = 90;
const UPDATE_REQUESTED: u8 = 1;
/// The most records in a row without data: a key update costs Usher more than the client.
const MOST_IDLE_RECORDS: u8 = 32;

impl TlsStream {
    /// Reads the socket once and opens the whole records.
    pub(super) fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        SEALED.with_borrow_mut(|sealed| {
            let kept = self.part.len();
            // Not much more than the reader takes: plaintext beyond that would have to be kept.
            let most = (kept + buf.remaining() + MOST_ADDED)
                .max(MOST_PLAINTEXT + MOST_ADDED)
                .min(sealed.len());
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

    /// Opens the whole records, and keeps the rest.
    pub(super) fn take_bytes(
        &mut self,
        mut bytes: &[u8],
        buf: &mut ReadBuf<'_>,
        cx: &mut Context<'_>,
    ) {
        let taken = self.take_records(&mut bytes, buf).and_then(|()| self.refuse_renegotiation(cx));
        self.part = if self.reading == Reading::Open { bytes.into() } else { BytesMut::new() };
        if let Err(error) = taken {
            self.fail(error, cx);
        }
    }

    fn take_records(
        &mut self,
        bytes: &mut &[u8],
        buf: &mut ReadBuf<'_>,
    ) -> Result<(), RecordError> {
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
                self.open_into_buffer(record, buf)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, content: Content, length: usize) -> Result<(), RecordError> {
        // RFC 8446 section 5.1: "Handshake messages MUST NOT be interleaved with other record
        // types."
        if !self.message.is_empty() && content != Content::Handshake {
            return Err(RecordError::Unexpected);
        }
        self.idle_records = if content == Content::ApplicationData && length > 0 {
            0
        } else {
            self.idle_records + 1
        };
        if self.idle_records > MOST_IDLE_RECORDS { Err(RecordError::TooManyIdle) } else { Ok(()) }
    }

    /// Opens a record for which the reader does not have enough room.
    fn open_into_buffer(
        &mut self,
        record: Sealed<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Result<(), RecordError> {
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

    pub(super) fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
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
            (Content::Alert, [_, USER_CANCELED]) => {}
            // RFC 5246 section 7.2: the receiver may go on after an alert that is not fatal. In TLS
            // 1.3 all alerts but the two above are fatal.
            (Content::Alert, [WARNING, _]) if !self.opens.is_tls13() => {}
            (Content::Alert, [_, alert]) => return Err(RecordError::Alert(*alert)),
            (Content::Handshake, [_, ..]) if self.opens.is_tls13() => {
                return self.take_handshake(message);
            }
            (Content::Handshake, [CLIENT_HELLO, high, middle, low, rest @ ..])
                if u32::from_be_bytes([0, *high, *middle, *low]) as usize == rest.len() =>
            {
                self.owes_no_renegotiation = true;
            }
            (Content::Alert, [_, ..]) => return Err(RecordError::Malformed),
            _ => return Err(RecordError::Unexpected),
        }
        Ok(())
    }

    /// Handles a key update (RFC 8446 section 4.6.3). Like every message it may arrive in pieces.
    /// "Handshake messages MUST NOT span key changes": nothing may follow it.
    fn take_handshake(&mut self, piece: &[u8]) -> Result<(), RecordError> {
        self.message.extend_from_slice(piece);
        let request = match *self.message.as_slice() {
            [KEY_UPDATE] | [KEY_UPDATE, 0] | [KEY_UPDATE, 0, 0] | [KEY_UPDATE, 0, 0, 1] => {
                return Ok(());
            }
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
        self.opens = RecordKey::new(self.secrets.0.protocol_version(), next)?;
        // One answer is enough for many requests. It is sent before the next data.
        self.owes_key_update |= request == UPDATE_REQUESTED;
        Ok(())
    }
}
