//! MQTT 3.1, 3.1.1 and 5 in binary messages: the token is the password of the CONNECT packet.
//!
//! A packet may span several messages (MQTT 5 section 6.0), so bytes are collected until the packet
//! is complete. The broker gets it without the client's login, or with the login of a service, and
//! answers CONNACK itself. MQTT has no message for a renewal.

use super::{AuthMessage, FirstMessageContent, Refused};
use crate::auth::credential::Proof;
use crate::config::{FirstMessage, Forward};
use crate::model::faults::FirstMessageFault;
use crate::model::secret::Secret;
use crate::ws::frame::Message;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const HAS_WILL: u8 = 0x04;
const HAS_PASSWORD: u8 = 0x40;
const HAS_USER: u8 = 0x80;
/// MQTT 5 sections 3.1.2.11.9 and 3.1.2.11.10: another kind of login, which replaces user name and
/// password.
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;

#[derive(Debug, Default)]
pub(super) struct ConnectPacket {
    gathered: Vec<u8>,
    /// The protocol level, once the packet is known to be MQTT.
    level: Option<u8>,
}

/// The parts of a CONNECT packet.
struct Parts {
    level: u8,
    /// The position of the flags, from the start of the variable header.
    flags_at: usize,
    /// The position of user name and password, which are the last fields.
    login_at: usize,
    user: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    has_authentication_method: bool,
}

impl ConnectPacket {
    pub(super) fn read(
        &mut self,
        rules: &FirstMessage,
        message: &Message,
    ) -> Result<FirstMessageContent, FirstMessageFault> {
        if message.is_text {
            return Err(FirstMessageFault::NotAuth);
        }
        if self.gathered.len() + message.payload.len() > rules.max_bytes {
            return Err(FirstMessageFault::TooBig);
        }
        self.gathered.extend_from_slice(&message.payload);
        let Some((&first, after)) = self.gathered.split_first() else {
            return Ok(FirstMessageContent::More(None));
        };
        if first != CONNECT {
            return Err(FirstMessageFault::NotAuth);
        }
        let Some((length, length_bytes)) =
            variable_length(after).ok_or(FirstMessageFault::NotAuth)?
        else {
            return Ok(FirstMessageContent::More(None));
        };
        if length > rules.max_bytes {
            return Err(FirstMessageFault::TooBig);
        }
        let whole = after.split_at(length_bytes).1;
        let Some((packet, rest)) = whole.split_at_checked(length) else {
            return Ok(FirstMessageContent::More(None));
        };
        let parts = Parts::read(packet).ok_or(FirstMessageFault::NotAuth)?;
        self.level = Some(parts.level);
        let password = parts.password.as_ref().filter(|password| !password.is_empty()).cloned();
        let password =
            match (password, parts.has_authentication_method || rest.first() == Some(&CONNECT)) {
                (Some(_), true) => return Err(FirstMessageFault::TwoCredentials),
                (Some(password), false) => password,
                (None, _) => return Err(FirstMessageFault::MissingToken),
            };
        let forward = match rules.forward {
            Forward::Consume => None,
            _ => Some(wire(&parts.outgoing(rules, packet))),
        };
        let rest = (!rest.is_empty()).then(|| Message::binary(rest.to_vec()));
        let heard = AuthMessage {
            proof: Proof::Token(Secret::new(password)),
            id: None,
            forward: forward.map(Message::binary),
            rest,
        };
        self.gathered = Vec::new();
        Ok(FirstMessageContent::Auth(heard))
    }

    /// Returns a CONNACK with the code of the client's version.
    pub(super) fn refused(&self, about: &Refused<'_>) -> Option<Message> {
        // MQTT 3.1.1 section 3.2.2.3: 3 is server unavailable, 4 is bad user name or password, 5 is
        // not authorized.
        let (old, new) = match about.status {
            401 => (4, 0x86),
            502..=504 => (3, 0x88),
            _ => (5, 0x87),
        };
        Some(Message::binary(match self.level? {
            5.. => vec![CONNACK, 3, 0, new, 0],
            _ => vec![CONNACK, 2, 0, old],
        }))
    }
}

/// Returns a later CONNECT packet for the upstream, without the credential. The broker refuses this
/// packet.
pub(super) fn login_again(rules: &FirstMessage, message: &[u8]) -> Option<Vec<u8>> {
    let after = message.strip_prefix(&[CONNECT])?;
    let (length, length_bytes) = variable_length(after)??;
    let (packet, rest) = after.split_at(length_bytes).1.split_at_checked(length)?;
    let parts = Parts::read(packet)?;
    parts.password.as_ref()?;
    Some([wire(&parts.outgoing(rules, packet)), rest.to_vec()].concat())
}

/// Returns true if the broker's first packet is a CONNACK that accepts. `None`: more bytes are
/// needed.
pub(super) fn is_accepted(sent: &[u8]) -> Option<bool> {
    let (&first, after) = sent.split_first()?;
    if first != CONNACK {
        return Some(false);
    }
    match variable_length(after) {
        None => Some(false),
        Some(None) => None,
        // The flags byte comes before the code.
        Some(Some((_, length_bytes))) => after.get(length_bytes + 1).map(|code| *code == 0),
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
        let flags_at = reader.at;
        let flags = reader.byte()?;
        reader.skip(2)?;
        let properties = if level == 5 { reader.properties()? } else { &[] };
        reader.field()?;
        if flags & HAS_WILL != 0 {
            if level == 5 {
                reader.properties()?;
            }
            reader.field()?;
            reader.field()?;
        }
        let login_at = reader.at;
        let mut login_field = |flag: u8| {
            if flags & flag == 0 {
                Some(None)
            } else {
                reader.field().map(|field| Some(field.to_vec()))
            }
        };
        let (user, password) = (login_field(HAS_USER)?, login_field(HAS_PASSWORD)?);
        // A packet that is longer than its fields can be read in two ways.
        let is_whole = reader.at == packet.len();
        let has_authentication_method = has_authentication_method(properties)?;
        is_whole.then_some(Self {
            level,
            flags_at,
            login_at,
            user,
            password,
            has_authentication_method,
        })
    }

    /// Returns the packet for the upstream.
    fn outgoing(&self, rules: &FirstMessage, packet: &[u8]) -> Vec<u8> {
        let login = rules.upstream_login.as_ref();
        let (user, password) = match rules.forward {
            Forward::Consume | Forward::Forward => (self.user.as_deref(), self.password.as_deref()),
            Forward::Redact => (self.user.as_deref(), self.password.as_ref().map(|_| &b""[..])),
            Forward::Remove => (None, None),
            Forward::Replace => {
                (login.map(|login| login.user.as_bytes()), login.map(|login| login.secret.expose()))
            }
        };
        let mut changed = packet.split_at(self.login_at).0.to_vec();
        for (flag, field) in [(HAS_USER, user), (HAS_PASSWORD, password)] {
            if let Some(flags) = changed.get_mut(self.flags_at) {
                *flags = if field.is_some() { *flags | flag } else { *flags & !flag };
            }
            if let Some(field) = field {
                let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
                changed.extend_from_slice(&length.to_be_bytes());
                changed.extend(field.iter().take(usize::from(length)));
            }
        }
        changed
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

    /// Reads a field: two bytes of length, then the content.
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

/// Reads a variable byte integer, and returns its value and its length. MQTT 5 section 1.5.5: seven
/// bits in each byte, at most four bytes. Outer `None`: the bytes are not such a number. Inner
/// `None`: more bytes are needed.
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

/// Returns true if the properties of a CONNECT packet have an authentication method or its data.
/// `None`: these are not properties of a CONNECT packet.
fn has_authentication_method(properties: &[u8]) -> Option<bool> {
    let mut reader = Reader { packet: properties, at: 0 };
    let mut is_there = false;
    while reader.at < properties.len() {
        let id = reader.byte()?;
        is_there |= matches!(id, AUTHENTICATION_METHOD | AUTHENTICATION_DATA);
        // MQTT 5 section 3.1.2.11 lists the properties.
        match id {
            0x17 | 0x19 => reader.skip(1)?,
            0x21 | 0x22 => reader.skip(2)?,
            0x11 | 0x27 => reader.skip(4)?,
            AUTHENTICATION_METHOD | AUTHENTICATION_DATA => reader.field()?,
            0x26 => {
                reader.field()?;
                reader.field()?
            }
            _ => return None,
        };
    }
    Some(is_there)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_of_a_connect_packet_is_skipped_by_its_own_length() {
        const PAIR: &[u8] = &[0x26, 0, 1, b'a', 0, 2, b'b', b'c'];
        for (properties, expected) in [
            (&[][..], Some(false)),
            (&[0x17, 1], Some(false)),
            (&[0x19, 1], Some(false)),
            (&[0x21, 0, 9], Some(false)),
            (&[0x22, 0, 9], Some(false)),
            (&[0x11, 0, 0, 0, 9], Some(false)),
            (&[0x27, 0, 0, 0, 9], Some(false)),
            (PAIR, Some(false)),
            (&[0x15, 0, 1, b'x'], Some(true)),
            (&[0x16, 0, 1, b'x'], Some(true)),
            (&[0x15, 0, 1, b'x', 0x17, 1], Some(true)),
            (&[0x17, 1, 0x16, 0, 0], Some(true)),
            // The property is cut off, or none of CONNECT.
            (&[0x26, 0, 1, b'a'], None),
            (&[0x11, 0, 0, 0], None),
            (&[0x01, 1], None),
        ] {
            assert_eq!(has_authentication_method(properties), expected, "{properties:?}");
        }
    }

    #[test]
    fn the_length_of_a_packet_is_written_as_it_is_read() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 70_000] {
            let packet = vec![7; length];
            let written = wire(&packet);
            let (read, bytes) = variable_length(&written[1..]).unwrap().unwrap();
            assert_eq!((read, &written[1 + bytes..]), (length, &packet[..]));
        }
        assert_eq!(wire(&[7; 128])[..3], [CONNECT, 0x80, 1]);
    }
}
