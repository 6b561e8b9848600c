//! MQTT 3.1, 3.1.1 and 5 in binary messages: the token is the password of the CONNECT packet.
//!
//! Packets need not end where messages do (MQTT 5, section 6.0), so bytes are gathered until the packet is whole. The
//! broker gets it with an empty password and answers CONNACK itself. What a client must be asked for in the middle of a
//! session, MQTT has no words for.

use super::{AuthMessage, FirstMessageFault, Heard, Refused};
use crate::auth::credential::Proof;
use crate::config::secret::Secret;
use crate::config::{FirstMessage, Forward};
use crate::ws::frame::Message;

const CONNECT: u8 = 0x10;
const HAS_WILL: u8 = 0x04;
const HAS_PASSWORD: u8 = 0x40;
const HAS_USER: u8 = 0x80;

#[derive(Debug, Default)]
pub(super) struct Connect {
    gathered: Vec<u8>,
    /// The protocol level, once it is known that this is MQTT.
    level: Option<u8>,
}

/// A CONNECT packet taken apart as far as its password.
struct Parts {
    level: u8,
    /// From the start of the variable header: where the password's two bytes of length stand, and the password.
    password: Option<(usize, Vec<u8>)>,
}

impl Connect {
    pub(super) fn hear(&mut self, rules: &FirstMessage, message: &Message) -> Result<Heard, FirstMessageFault> {
        if message.is_text {
            return Err(FirstMessageFault::NotAuth);
        }
        if self.gathered.len() + message.payload.len() > rules.max_bytes {
            return Err(FirstMessageFault::TooBig);
        }
        self.gathered.extend_from_slice(&message.payload);
        let Some((&first, after)) = self.gathered.split_first() else { return Ok(Heard::More(None)) };
        if first != CONNECT {
            return Err(FirstMessageFault::NotAuth);
        }
        let Some((length, length_bytes)) = variable_length(after).ok_or(FirstMessageFault::NotAuth)? else {
            return Ok(Heard::More(None));
        };
        if length > rules.max_bytes {
            return Err(FirstMessageFault::TooBig);
        }
        let whole = after.split_at(length_bytes).1;
        let Some((packet, rest)) = whole.split_at_checked(length) else { return Ok(Heard::More(None)) };
        let parts = Parts::read(packet).ok_or(FirstMessageFault::NotAuth)?;
        self.level = Some(parts.level);
        let (place, password) = parts.password.filter(|(_, password)| !password.is_empty()).ok_or(FirstMessageFault::MissingToken)?;
        let forward = match rules.forward {
            Forward::Consume => None,
            Forward::Forward => Some(wire(packet)),
            Forward::Redact => Some(wire(&without_password(packet, place, password.len()))),
        };
        let rest = (!rest.is_empty()).then(|| Message::binary(rest.to_vec()));
        let heard = AuthMessage { proof: Proof::Token(Secret::new(password)), id: None, forward: forward.map(Message::binary), rest };
        self.gathered = Vec::new();
        Ok(Heard::Auth(heard))
    }

    /// CONNACK, with the codes of the client's version.
    pub(super) fn refused(&self, about: &Refused<'_>) -> Option<Message> {
        // MQTT 3.1.1, section 3.2.2.3: 3 server unavailable, 4 bad user name or password, 5 not authorized.
        let (old, new) = match about.status {
            401 => (4, 0x86),
            502..=504 => (3, 0x88),
            _ => (5, 0x87),
        };
        Some(Message::binary(match self.level? {
            5.. => vec![0x20, 3, 0, new, 0],
            _ => vec![0x20, 2, 0, old],
        }))
    }
}

impl Parts {
    fn read(packet: &[u8]) -> Option<Self> {
        let mut reader = Reader { packet, at: 0 };
        let name = reader.field()?;
        let level = reader.byte()?;
        if !matches!((name, level), (b"MQIsdp", 3) | (b"MQTT", 4 | 5)) {
            return None;
        }
        let flags = reader.byte()?;
        reader.skip(2)?;
        if level == 5 {
            reader.properties()?;
        }
        reader.field()?;
        if flags & HAS_WILL != 0 {
            if level == 5 {
                reader.properties()?;
            }
            reader.field()?;
            reader.field()?;
        }
        if flags & HAS_USER != 0 {
            reader.field()?;
        }
        let mut password = None;
        if flags & HAS_PASSWORD != 0 {
            let place = reader.at;
            password = Some((place, reader.field()?.to_vec()));
        }
        // A packet with more in it than it says can be read in two ways.
        (reader.at == packet.len()).then_some(Self { level, password })
    }
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.packet.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.skip(1)?.first().copied()
    }

    /// Two bytes of length, and as much of it.
    fn field(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes([self.byte()?, self.byte()?]);
        self.skip(usize::from(length))
    }

    fn properties(&mut self) -> Option<&'a [u8]> {
        let (length, bytes) = variable_length(self.packet.get(self.at..)?)??;
        self.skip(bytes)?;
        self.skip(length)
    }
}

/// MQTT 5, section 1.5.5: seven bits a byte, at most four bytes. The outer `None`: that is no such number; the inner: more
/// bytes are needed.
fn variable_length(bytes: &[u8]) -> Option<Option<(usize, usize)>> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { None } else { Some(None) }
}

fn without_password(packet: &[u8], place: usize, length: usize) -> Vec<u8> {
    let (before, from) = packet.split_at(place);
    let after = from.split_at(2 + length).1;
    [before, &[0, 0], after].concat()
}

fn wire(packet: &[u8]) -> Vec<u8> {
    let mut wire = vec![CONNECT];
    let mut length = packet.len();
    loop {
        let (low, high) = ((length & 0x7f) as u8, length >> 7);
        wire.push(if high > 0 { low | 0x80 } else { low });
        length = high;
        if high == 0 {
            break;
        }
    }
    wire.extend_from_slice(packet);
    wire
}
