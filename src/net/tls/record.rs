//! TLS records after the handshake: encryption (sealing) and decryption (opening), without I/O.
//!
//! rustls agrees on the keys and makes the next ones; this module uses them. A record is opened
//! straight from the socket's bytes into the reader's buffer. It is sealed straight from the
//! writer's bytes into the bytes that the socket takes. Each is one pass, with no buffer in between
//! and none afterwards.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

pub(super) const HEADER: usize = 5;
const TAG: usize = 16;
const EXPLICIT_NONCE: usize = 8;
/// RFC 8446 section 5.1: "The length MUST NOT exceed 2^14 bytes".
pub const MOST_PLAINTEXT: usize = 16 * 1024;
/// The most bytes that sealing adds: header, explicit nonce or inner type, tag.
pub const MOST_ADDED: usize = HEADER + EXPLICIT_NONCE + TAG;
/// RFC 5246 section 6.2.3 allows 2048 bytes more than the plaintext; RFC 8446 section 5.2 allows
/// 256.
pub(super) const MOST_BODY: usize = MOST_PLAINTEXT + 2048;
const MOST_EXPANSION_13: usize = 256;
/// The most records under one AES-GCM key. RFC 8446 section 5.5 calls somewhat more full-sized
/// records safe.
const MOST_AES_RECORDS: u64 = 1 << 24;

/// The content type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Alert,
    Handshake,
    ApplicationData,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record cannot be decrypted")]
    Undecryptable,
    #[error("a record is too large")]
    TooLarge,
    #[error("a record of this type is not expected here")]
    Unexpected,
    #[error("a message is malformed")]
    Malformed,
    #[error("a message holds a value that is not allowed")]
    Illegal,
    #[error("too many records carry no data")]
    TooManyIdle,
    #[error("the key is used up, and there is no next one")]
    Exhausted,
    #[error("the client ended the connection with alert {0}")]
    Alert(u8),
}

/// The key of one direction, and the number of records that it has served.
#[derive(Debug)]
pub struct RecordKey {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    /// The key must not be used from this record number on.
    limit: u64,
    form: Form,
}

/// How a record is built around its ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Tls13,
    /// A part of the nonce is on the wire.
    Tls12Gcm,
    Tls12ChaCha,
}

/// A whole record, still sealed.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    header: [u8; HEADER],
    body: &'a [u8],
}

/// Takes the first record from `bytes`. Returns `None` while it is not whole.
pub fn split_first<'a>(bytes: &mut &'a [u8]) -> Result<Option<Sealed<'a>>, RecordError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let Some((body, rest)) = rest.split_at_checked(body_length(*header)?) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(Sealed { header: *header, body }))
}

/// Returns the length of the first record with its header, once it is known.
pub fn length_of_first(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    Ok(Some(HEADER + body_length(*header)?))
}

fn body_length([kind, major, _, high, low]: [u8; HEADER]) -> Result<usize, RecordError> {
    if Content::from_wire(kind).is_none() || major != 3 {
        return Err(RecordError::Unexpected);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MOST_BODY { Err(RecordError::TooLarge) } else { Ok(length) }
}

impl Sealed<'_> {
    /// Returns the most room that opening this record needs.
    pub fn room(&self) -> usize {
        self.body.len().saturating_sub(TAG)
    }
}

impl RecordKey {
    pub(super) fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Exhausted),
        };
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Exhausted)?;
        Self::of(version, algorithm, sequence, key.as_ref(), iv)
    }

    pub fn of(
        version: ProtocolVersion,
        algorithm: &'static Algorithm,
        sequence: u64,
        key: &[u8],
        iv: [u8; 12],
    ) -> Result<Self, RecordError> {
        let is_chacha = algorithm == &CHACHA20_POLY1305;
        let form = match version {
            ProtocolVersion::TLSv1_3 => Form::Tls13,
            _ if is_chacha => Form::Tls12ChaCha,
            _ => Form::Tls12Gcm,
        };
        let limit = if is_chacha { u64::MAX } else { MOST_AES_RECORDS };
        let key = UnboundKey::new(algorithm, key).map_err(|_| RecordError::Exhausted)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence, limit, form })
    }

    pub(super) fn is_tls13(&self) -> bool {
        self.form == Form::Tls13
    }

    /// Returns true when the next key is due. The last records of this key are kept to announce
    /// that.
    pub(super) fn is_nearly_spent(&self) -> bool {
        self.sequence >= self.limit.saturating_sub(8)
    }

    /// Writes one record into `out`, which needs `MOST_ADDED` bytes more than the plaintext. The
    /// plaintext has at most 2^14 bytes.
    pub fn seal(
        &mut self,
        content: Content,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, RecordError> {
        if self.form == Form::Tls13 {
            self.seal_as(Content::ApplicationData.to_wire(), plaintext, &[content.to_wire()], out)
        } else {
            self.seal_as(content.to_wire(), plaintext, &[], out)
        }
    }

    /// Seals a record of this type. `after` follows the plaintext, and is encrypted with it.
    fn seal_as(
        &mut self,
        kind: u8,
        plaintext: &[u8],
        after: &[u8],
        out: &mut [u8],
    ) -> Result<usize, RecordError> {
        if self.sequence >= self.limit {
            return Err(RecordError::Exhausted);
        }
        let (nonce, explicit) = self.nonce();
        let before: &[u8] = if self.form == Form::Tls12Gcm { &explicit } else { &[] };
        let body = before.len() + plaintext.len() + after.len() + TAG;
        let [high, low] = u16::try_from(body).map_err(|_| RecordError::TooLarge)?.to_be_bytes();
        let header = [kind, 3, 3, high, low];
        let out = out.get_mut(..HEADER + body).ok_or(RecordError::TooLarge)?;
        let (start, rest) = out.split_at_mut(HEADER + before.len());
        let (ciphertext, end) = rest.split_at_mut(plaintext.len());
        let (aad, length) = self.associated(header, plaintext.len());
        let aad = Aad::from(aad.split_at(length).0);
        let sealed =
            self.key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, after, end);
        sealed.map_err(|_| RecordError::Exhausted)?;
        for (place, byte) in start.iter_mut().zip(header.iter().chain(before)) {
            *place = *byte;
        }
        self.sequence += 1;
        Ok(HEADER + body)
    }

    /// Opens one record into `out`, which has the bytes of [`Sealed::room`]. Returns the content
    /// type and the length of the content.
    pub fn open(
        &mut self,
        record: Sealed<'_>,
        out: &mut [u8],
    ) -> Result<(Content, usize), RecordError> {
        let (mut nonce, _) = self.nonce();
        let mut body = record.body;
        if self.form == Form::Tls12Gcm {
            let (explicit, rest) =
                body.split_first_chunk::<EXPLICIT_NONCE>().ok_or(RecordError::Undecryptable)?;
            let mut whole = self.iv;
            for (place, byte) in whole.iter_mut().skip(4).zip(explicit) {
                *place = *byte;
            }
            (nonce, body) = (Nonce::assume_unique_for_key(whole), rest);
        }
        let (ciphertext, tag) = body.split_last_chunk::<TAG>().ok_or(RecordError::Undecryptable)?;
        if self.form == Form::Tls13 && record.body.len() > MOST_PLAINTEXT + MOST_EXPANSION_13 {
            return Err(RecordError::TooLarge);
        }
        let out = out.get_mut(..ciphertext.len()).ok_or(RecordError::TooLarge)?;
        let (aad, length) = self.associated(record.header, ciphertext.len());
        let aad = Aad::from(aad.split_at(length).0);
        self.key
            .open_separate_gather(nonce, aad, ciphertext, tag, out)
            .map_err(|_| RecordError::Undecryptable)?;
        // The number cannot wrap in practice.
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        let [kind, ..] = record.header;
        let (kind, length) = if self.form == Form::Tls13 {
            if kind != Content::ApplicationData.to_wire() {
                return Err(RecordError::Unexpected);
            }
            // RFC 8446 section 5.4: "MUST NOT exceed 2^14 + 1 octets", with the padding and the
            // type.
            if out.len() > MOST_PLAINTEXT + 1 {
                return Err(RecordError::TooLarge);
            }
            // RFC 8446 section 5.4: "scans the field from the end toward the beginning until it
            // finds a non-zero octet".
            let last = out.iter().rposition(|&byte| byte != 0).ok_or(RecordError::Unexpected)?;
            (out.get(last).copied().unwrap_or(0), last)
        } else {
            (kind, out.len())
        };
        if length > MOST_PLAINTEXT {
            return Err(RecordError::TooLarge);
        }
        Ok((Content::from_wire(kind).ok_or(RecordError::Unexpected)?, length))
    }

    /// Returns the nonce of the next record: the sequence number, padded to the left, XORed with
    /// the key's own secret (RFC 8446 section 5.3). The last part is also returned: TLS 1.2 sends
    /// it.
    fn nonce(&self) -> (Nonce, [u8; EXPLICIT_NONCE]) {
        let (mut nonce, mut explicit) = (self.iv, [0; EXPLICIT_NONCE]);
        for ((place, byte), shown) in
            nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()).zip(&mut explicit)
        {
            *place ^= byte;
            *shown = *place;
        }
        (Nonce::assume_unique_for_key(nonce), explicit)
    }

    /// Returns the data that is authenticated beside the ciphertext. In TLS 1.3 it is the header
    /// (RFC 8446 section 5.2). In TLS 1.2 it is the record number and a header with the plaintext's
    /// length (RFC 5246 section 6.2.3.3).
    fn associated(&self, header: [u8; HEADER], plaintext: usize) -> ([u8; 13], usize) {
        let mut aad = [0; 13];
        let [kind, major, minor, ..] = header;
        let [a, b, c, d, e, f, g, h] = self.sequence.to_be_bytes();
        match self.form {
            Form::Tls13 => {
                for (place, byte) in aad.iter_mut().zip(header) {
                    *place = byte;
                }
                (aad, HEADER)
            }
            Form::Tls12Gcm | Form::Tls12ChaCha => {
                let [high, low] = u16::try_from(plaintext).unwrap_or(u16::MAX).to_be_bytes();
                ([a, b, c, d, e, f, g, h, kind, major, minor, high, low], 13)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn limit_to(&mut self, records: u64) {
        self.limit = self.sequence + records;
    }

    /// Seals a record that no honest client sends.
    #[cfg(test)]
    pub(super) fn seal_odd(&mut self, kind: u8, plaintext: &[u8], after: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + after.len() + MOST_ADDED];
        let length = self.seal_as(kind, plaintext, after, &mut out).unwrap();
        out.truncate(length);
        out
    }
}

impl Content {
    fn to_wire(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
        }
    }

    /// Reads a content type. `change_cipher_spec`, 20, belongs only to the handshake.
    fn from_wire(kind: u8) -> Option<Self> {
        [Self::Alert, Self::Handshake, Self::ApplicationData]
            .into_iter()
            .find(|content| content.to_wire() == kind)
    }
}

impl RecordError {
    /// Returns the alert to send (RFC 8446 section 6.2); `None` if the client sent one itself.
    pub(super) fn alert(self) -> Option<u8> {
        match self {
            Self::Undecryptable => Some(20),
            Self::TooLarge => Some(22),
            Self::Unexpected | Self::TooManyIdle => Some(10),
            Self::Illegal => Some(47),
            Self::Malformed => Some(50),
            Self::Exhausted => Some(80),
            Self::Alert(_) => None,
        }
    }
}
