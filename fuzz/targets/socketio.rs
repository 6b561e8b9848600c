//! The CONNECT packet of Socket.IO: the `auth` object is forwarded with the credential hidden and
//! in the same namespace, at the first login and at each later one.

use std::sync::{Arc, LazyLock};

use super::json::check_hidden;
use super::login::{self, Credential, Login, UserName};
use usher::auth::first_message::{Dialect, Refused, RenewalAnswer};
use usher::base::clock::UnixMillis;
use usher::config::{FirstMessage, Forward};
use usher::model::faults::FirstMessageFault;
use usher::ws::frame::Message;

static RULES: LazyLock<Vec<Arc<FirstMessage>>> =
    LazyLock::new(|| login::rules("socketio", UserName::None));

pub fn run(bytes: &[u8]) {
    for rules in RULES.iter() {
        let login = login::read(rules, true, &[bytes]);
        if let Login::Read { token, forward, rest } = &login {
            assert!(rest.is_empty());
            let (name, body) = packet(bytes).expect("two readings of the packet");
            let (name_sent, sent) = packet(&forward.payload).expect("a packet is forwarded");
            assert_eq!(name_sent, name, "another namespace");
            check_hidden(rules, body.as_bytes(), sent.as_bytes());
            login::check_again(rules, token, forward);
            let whole = Message { is_text: true, payload: bytes.to_vec() };
            login::check_later(rules, &whole, &forward.payload);
        }
        check_later(rules, bytes);
        check_event(rules, bytes);
        check_refusal(rules, bytes);
        let binary = login::read(rules, false, &[bytes]);
        assert_eq!(binary, Login::Refused(FirstMessageFault::NotAuth));
    }
}

/// Checks that a later login is forwarded without its credential, valid or not.
fn check_later(rules: &Arc<FirstMessage>, bytes: &[u8]) {
    let Some(later) = Dialect::new(rules).login_again(true, bytes) else { return };
    assert_ne!(rules.forward, Forward::Forward);
    let (name, body) = packet(bytes).expect("two readings of the packet");
    let (name_sent, sent) = packet(&later.payload).expect("a packet is forwarded");
    assert_eq!(name_sent, name, "another namespace");
    check_hidden(rules, body.as_bytes(), sent.as_bytes());
}

/// Checks `42/chat,7["auth",{"token":"..."}]`, the answer to a renewal request of Usher.
fn check_event(rules: &Arc<FirstMessage>, bytes: &[u8]) {
    let Some(answer) = Dialect::new(rules).answer(bytes) else { return };
    let text = std::str::from_utf8(bytes).expect("an event is text");
    let packet = text.strip_prefix("42").expect("an event begins with 42");
    let behind_name = if packet.starts_with('/') { packet.split_once(',') } else { None };
    let list = behind_name.map_or(packet, |(_, list)| list);
    let list = list.trim_start_matches(|one: char| one.is_ascii_digit());
    let Ok(serde_json::Value::Array(list)) = serde_json::from_str(list) else {
        panic!("an event has a list")
    };
    assert_eq!(list[0], *rules.type_value, "another event");
    let RenewalAnswer::Proof { proof, .. } = answer else { return };
    let at = |pointer: &str| list[1].pointer(pointer).and_then(|value| value.as_str());
    let (pointer, credential) = match Credential::of(&proof) {
        Credential::Token(token) => (&rules.token_pointer, token),
        Credential::Ticket(ticket) => (&rules.ticket_pointer, ticket),
    };
    let written = at(pointer).expect("the credential is in its place");
    assert!(written.as_bytes().ends_with(&credential));
}

/// Checks that a refusal is JSON in the client's namespace. A namespace that is too long is cut.
fn check_refusal(rules: &Arc<FirstMessage>, bytes: &[u8]) {
    let mut dialect = Dialect::new(rules);
    let _ = dialect.read(&Message { is_text: true, payload: bytes.to_vec() });
    let refused = dialect.refused(&Refused {
        code: "INVALID_TOKEN",
        message: "the token is not valid",
        status: 401,
        recoverable: true,
        details: &[],
        request_id: "r1",
        id: None,
        now: UnixMillis(0),
    });
    let refused = refused.expect("Socket.IO has words for a refusal");
    let text = refused.as_text().expect("a refusal is text");
    let body = text.strip_prefix("44").and_then(|rest| rest.find('{').map(|at| &rest[at..]));
    let body = body.expect("a refusal has a body");
    let name = text.len() - body.len() - 2;
    assert!(name <= 256, "a namespace of {name} bytes is repeated");
}

/// Returns the namespace of a CONNECT packet with its comma, and the object.
fn packet(bytes: &[u8]) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(bytes).ok()?.strip_prefix("40")?;
    if !rest.starts_with('/') {
        return Some(("", rest));
    }
    let comma = rest.find(',')?;
    Some(rest.split_at(comma + 1))
}
