//! The CONNECT packet of MQTT: the password is the token, wherever the packet is cut. The broker
//! gets the packet with another login or none, and without another change.

use std::sync::{Arc, LazyLock};

use super::login::{self, Credential, Login, SERVICE, UserName};
use super::{cuts, settings};
use usher::auth::first_message::Dialect;
use usher::config::{FirstMessage, Forward};
use usher::model::faults::FirstMessageFault;
use usher::ws::frame::Message;

static RULES: LazyLock<Vec<Arc<FirstMessage>>> =
    LazyLock::new(|| login::rules("mqtt", UserName::OfTheService));

pub fn run(bytes: &[u8]) {
    let ways = cuts::of(bytes);
    let written = Connect::read(bytes);
    for rules in RULES.iter() {
        let whole = login::read(rules, false, &[bytes]);
        for pieces in &ways {
            let cut = login::read(rules, false, pieces);
            // A second login is rejected if it arrives with the first one.
            let is_second_later = whole == Login::Refused(FirstMessageFault::TwoCredentials)
                && matches!(&cut, Login::Read { rest, .. } if rest.starts_with(&[0x10]));
            assert!(cut == whole || is_second_later, "{cut:?} in pieces, {whole:?} at once");
        }
        if let Login::Read { token, forward, rest } = &whole {
            let written = written.as_ref().expect("two readings of the packet");
            assert_eq!(Credential::Token(written.password.unwrap_or_default().to_vec()), *token);
            assert_eq!(rest, &bytes[written.end..], "the bytes after the packet are not complete");
            check_outgoing(rules.forward, written, &forward.payload);
            login::check_again(rules, token, forward);
            let all = Message::binary(bytes.to_vec());
            login::check_later(rules, &all, &[&forward.payload[..], rest].concat());
        }
        check_later(rules, bytes, written.as_ref());
        login::check_decided_once(rules, bytes);
    }
    assert_eq!(login::read(&RULES[0], true, &[bytes]), Login::Refused(FirstMessageFault::NotAuth));
}

/// Checks that no password of a client is forwarded in a later packet.
fn check_later(rules: &Arc<FirstMessage>, bytes: &[u8], written: Option<&Connect<'_>>) {
    let later = Dialect::new(rules).login_again(false, bytes);
    let has_password = written.is_some_and(|written| written.password.is_some());
    assert_eq!(later.is_some(), has_password && rules.forward != Forward::Forward);
    if let (Some(later), Some(written)) = (later, written) {
        let packet = later.payload.len() - (bytes.len() - written.end);
        assert_eq!(later.payload[packet..], bytes[written.end..]);
        check_outgoing(rules.forward, written, &later.payload[..packet]);
    }
}

fn check_outgoing(forward: Forward, written: &Connect<'_>, outgoing: &[u8]) {
    let sent = Connect::read(outgoing).expect("the broker gets a CONNECT packet");
    assert_eq!(sent.end, outgoing.len());
    assert_eq!(sent.before_login, written.before_login, "more than the login has changed");
    assert_eq!(sent.flags & 0x3f, written.flags & 0x3f, "more than the login has changed");
    let login = match forward {
        Forward::Forward => (written.user, written.password),
        Forward::Redact => (written.user, written.password.map(|_| &b""[..])),
        Forward::Remove => (None, None),
        Forward::Replace => (Some(SERVICE.as_bytes()), Some(settings::SECRET.as_bytes())),
        Forward::Consume => panic!("no target consumes the login"),
    };
    assert_eq!((sent.user, sent.password), login, "{forward:?}");
}

/// A CONNECT packet, read by a second reader (MQTT 3.1, 3.1.1 and 5, section 3.1).
#[derive(Debug)]
struct Connect<'a> {
    /// The bytes before the login, without the flags.
    before_login: [&'a [u8]; 2],
    flags: u8,
    user: Option<&'a [u8]>,
    password: Option<&'a [u8]>,
    end: usize,
}

impl<'a> Connect<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0x10])?;
        let length = number(&mut rest)?;
        let (packet, behind) = rest.split_at_checked(length)?;
        let end = bytes.len() - behind.len();
        let mut rest = packet;
        let name = field(&mut rest)?;
        let level = take(&mut rest, 1)?[0];
        let is_known = match name {
            b"MQIsdp" => level == 3,
            b"MQTT" => level == 4 || level == 5,
            _ => false,
        };
        let before_flags = packet.len() - rest.len();
        let flags = take(&mut rest, 1)?[0];
        let after_flags = packet.len() - rest.len();
        take(&mut rest, 2)?;
        if level == 5 {
            let length = number(&mut rest)?;
            let mut properties = take(&mut rest, length)?;
            while let Some((id, more)) = properties.split_first() {
                properties = more;
                match id {
                    0x17 | 0x19 => drop(take(&mut properties, 1)?),
                    0x21 | 0x22 => drop(take(&mut properties, 2)?),
                    0x11 | 0x27 => drop(take(&mut properties, 4)?),
                    0x15 | 0x16 => drop(field(&mut properties)?),
                    0x26 => drop((field(&mut properties)?, field(&mut properties)?)),
                    _ => return None,
                }
            }
        }
        field(&mut rest)?;
        if flags & 0x04 != 0 {
            if level == 5 {
                let length = number(&mut rest)?;
                take(&mut rest, length)?;
            }
            field(&mut rest)?;
            field(&mut rest)?;
        }
        let login_at = packet.len() - rest.len();
        let user = if flags & 0x80 != 0 { Some(field(&mut rest)?) } else { None };
        let password = if flags & 0x40 != 0 { Some(field(&mut rest)?) } else { None };
        let before_login = [&packet[..before_flags], &packet[after_flags..login_at]];
        let connect = Self { before_login, flags, user, password, end };
        (is_known && rest.is_empty()).then_some(connect)
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(rest, 2)?;
    take(rest, usize::from(length[0]) * 256 + usize::from(length[1]))
}

/// Reads a variable byte integer (MQTT 5 section 1.5.5).
fn number(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for place in 0..4 {
        let byte = usize::from(take(rest, 1)?[0]);
        value += (byte % 128) << (7 * place);
        if byte < 128 {
            return Some(value);
        }
    }
    None
}
