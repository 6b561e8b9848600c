//! One frame's header, and the frames that Usher writes itself.

use aws_lc_rs::rand;

use super::close_code::CloseCode;
use super::mask;

/// RFC 6455 section 5.2: two bytes, up to eight of length, four of mask.
pub const MAX_HEADER: usize = 14;
/// RFC 6455 section 5.5: "All control frames MUST have a payload length of 125 bytes or less".
pub const MAX_CONTROL_PAYLOAD: usize = 125;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Upstream,
}

impl Sender {
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a client's frame is not masked")]
    Unmasked,
    #[error("an upstream's frame is masked")]
    Masked,
    #[error("a frame length has its highest bit set")]
    Length,
    #[error("a control frame is fragmented, or longer than 125 bytes")]
    Control,
    #[error("a continuation without a message, or a new message inside another")]
    Sequence,
    #[error("a message is larger than message_bytes")]
    TooBig,
}

/// The opcode of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    /// 3 to 7: reserved. Usher forwards the frame, and the peers decide what to do.
    Reserved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    Close,
    Ping,
    Pong,
    Other,
}

#[derive(Clone, Copy, Debug)]
pub struct Header {
    first: u8,
    pub payload_length: u64,
    pub length: usize,
    pub mask: Option<[u8; 4]>,
}

impl Header {
    /// Returns the length of the header that begins with these bytes, once it is known.
    pub fn length_of(bytes: &[u8]) -> Option<usize> {
        let second = bytes.get(1)?;
        let length = match second & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        Some(length + if second & 0x80 != 0 { 4 } else { 0 })
    }

    /// Parses a header. `None`: more bytes are needed.
    pub fn parse(bytes: &[u8], sender: Sender) -> Result<Option<Self>, FrameError> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let masked = second & 0x80 != 0;
        match (sender, masked) {
            (Sender::Client, false) => return Err(FrameError::Unmasked),
            (Sender::Upstream, true) => return Err(FrameError::Masked),
            _ => {}
        }
        let (payload_length, rest, wide) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest, 2),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest, 8)
            }
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest, 0),
        };
        let (mask, length) = match (masked, rest) {
            (false, _) => (None, 2 + wide),
            (true, [a, b, c, d, ..]) => (Some([*a, *b, *c, *d]), 6 + wide),
            (true, _) => return Ok(None),
        };
        if payload_length >> 63 != 0 {
            return Err(FrameError::Length);
        }
        let header = Self { first: *first, payload_length, length, mask };
        if header.is_control()
            && (!header.is_final() || payload_length > MAX_CONTROL_PAYLOAD as u64)
        {
            return Err(FrameError::Control);
        }
        Ok(Some(header))
    }

    pub fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }

    pub fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    /// Returns RSV1, which the first frame of a message has if permessage-deflate has compressed it
    /// (RFC 7692 section 6).
    pub fn is_compressed(&self) -> bool {
        self.first & 0x40 != 0
    }

    pub fn opcode(&self) -> Opcode {
        match self.first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            _ => Opcode::Reserved,
        }
    }

    pub fn control_kind(&self) -> ControlKind {
        match self.first & 0x0f {
            0x8 => ControlKind::Close,
            0x9 => ControlKind::Ping,
            0xa => ControlKind::Pong,
            _ => ControlKind::Other,
        }
    }
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub is_text: bool,
    pub payload: Vec<u8>,
}

impl Message {
    pub fn text(text: impl Into<String>) -> Self {
        Self { is_text: true, payload: text.into().into_bytes() }
    }

    pub fn binary(payload: Vec<u8>) -> Self {
        Self { is_text: false, payload }
    }

    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.payload).ok().filter(|_| self.is_text)
    }

    /// Returns the message as one frame. It is masked if it comes from the client.
    pub fn to_wire(&self, from: Sender) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.payload.len() + MAX_HEADER);
        data(&mut wire, if self.is_text { 1 } else { 2 }, true, &self.payload, from);
        wire
    }
}

/// Writes a data frame. `opcode` 0 continues the message before.
pub fn data(wire: &mut Vec<u8>, opcode: u8, is_final: bool, payload: &[u8], from: Sender) {
    frame(wire, if is_final { 0x80 | opcode } else { opcode }, payload, from);
}

pub fn ping(payload: &[u8]) -> Vec<u8> {
    control(0x9, payload, Sender::Upstream)
}

pub fn pong(payload: &[u8], from: Sender) -> Vec<u8> {
    control(0xa, payload, from)
}

/// Returns a close frame for the peer of `from`.
pub fn close(code: CloseCode, reason: &str, from: Sender) -> Vec<u8> {
    // RFC 6455 section 7.4.1: 1005 "MUST NOT be set as a status code"; it stands for no code.
    if code.0 == 1005 {
        return control(0x8, &[], from);
    }
    let mut payload = code.0.to_be_bytes().to_vec();
    let room = MAX_CONTROL_PAYLOAD - payload.len();
    let end =
        (0..=reason.len().min(room)).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    payload.extend_from_slice(reason.split_at(end).0.as_bytes());
    control(0x8, &payload, from)
}

fn control(opcode: u8, payload: &[u8], from: Sender) -> Vec<u8> {
    let payload = payload.split_at(payload.len().min(MAX_CONTROL_PAYLOAD)).0;
    let mut wire = Vec::with_capacity(6 + payload.len());
    frame(&mut wire, 0x80 | opcode, payload, from);
    wire
}

fn frame(wire: &mut Vec<u8>, first: u8, payload: &[u8], from: Sender) {
    let bit = if from == Sender::Client { 0x80 } else { 0 };
    wire.push(first);
    match payload.len() {
        length if length < 126 => wire.push(length as u8 | bit),
        length if length < 65_536 => {
            wire.push(126 | bit);
            wire.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            wire.push(127 | bit);
            wire.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if from == Sender::Upstream {
        wire.extend_from_slice(payload);
        return;
    }
    let key = random_mask();
    wire.extend_from_slice(&key);
    let start = wire.len();
    wire.extend_from_slice(payload);
    mask::apply(wire.split_at_mut(start).1, key, 0);
}

fn random_mask() -> [u8; 4] {
    let mut mask = [0; 4];
    // Without randomness the frame is still well formed; masks protect caches, not secrets.
    let _ = rand::fill(&mut mask);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for from in [Sender::Client, Sender::Upstream] {
            for size in [0, 1, 125, 126, 65_535, 65_536] {
                let message = Message::binary(vec![7; size]);
                let mut wire = message.to_wire(from);
                let header = Header::parse(&wire, from).unwrap().unwrap();
                assert_eq!(
                    (header.payload_length, header.opcode(), header.is_final()),
                    (size as u64, Opcode::Binary, true)
                );
                let mut payload = wire.split_off(header.length);
                if let Some(key) = header.mask {
                    mask::apply(&mut payload, key, 0);
                }
                assert_eq!(payload, message.payload);
                for end in 0..header.length {
                    assert!(Header::parse(&wire[..end], from).unwrap().is_none());
                }
            }
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let wire = close(CloseCode::POLICY, &"é".repeat(100), Sender::Upstream);
        assert_eq!(wire.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&wire[4..]).is_ok());
    }
}
