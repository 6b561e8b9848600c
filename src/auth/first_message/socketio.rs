//! Socket.IO 5 over Engine.IO 4, WebSocket transport: the token in the `auth` of the CONNECT
//! packet, `40{"token":"..."}`.
//!
//! The server speaks first, and the client waits for it: Usher sends an open packet of its own, and
//! the upstream's is swallowed when it comes. A renewal is an event each way: `auth_required` to
//! the client, `auth` back.

use serde_json::{Value, json};

use super::json::{self, may_contain};
use super::{AuthMessage, FirstMessageContent, Refused, RenewalAnswer};
use crate::base::strict_json;
use crate::config::{FirstMessage, Forward};
use crate::model::faults::FirstMessageFault;
use crate::ws::frame::Message;

/// As it stands in packets: empty for the main namespace, else `/name,`.
#[derive(Debug, Default)]
pub(super) struct Namespace(String);

/// The open packet. What the greeting of the config says is kept; an id is added.
pub(super) fn open(greeting: Option<&str>) -> Message {
    let written = greeting.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let usual = json!({
        "upgrades": [],
        "pingInterval": 25_000,
        "pingTimeout": 20_000,
        "maxPayload": 1_000_000,
    });
    let mut object = written.filter(Value::is_object).unwrap_or(usual);
    if let Some(object) = object.as_object_mut() {
        object.entry("sid").or_insert_with(|| json::uuid().into());
    }
    Message::text(format!("0{object}"))
}

pub(super) fn read(
    rules: &FirstMessage,
    namespace: &mut Namespace,
    message: &Message,
) -> Result<FirstMessageContent, FirstMessageFault> {
    let packet = message
        .as_text()
        .and_then(|text| text.strip_prefix("40"))
        .ok_or(FirstMessageFault::NotAuth)?;
    let (name, body) = split(packet);
    // Namespaces are repeated to the client, but not of any length.
    *namespace = Namespace(name.get(..name.len().min(256)).unwrap_or_default().to_owned());
    let object = strict_json::object(body.as_bytes()).map(Value::Object);
    let mut object = match object {
        Some(object) => object,
        None if body.is_empty() => return Err(FirstMessageFault::MissingToken),
        None => return Err(FirstMessageFault::NotAuth),
    };
    let proof = json::proof(rules, &object)?;
    let forward = match rules.forward {
        Forward::Consume => None,
        Forward::Forward => Some(message.clone()),
        Forward::Redact | Forward::Remove | Forward::Replace => {
            json::hide_credential(rules, &mut object);
            Some(Message::text(format!("40{name}{object}")))
        }
    };
    Ok(FirstMessageContent::Auth(AuthMessage { proof, id: None, forward, rest: None }))
}

/// A client joins each further namespace with a CONNECT packet of its own, and its library puts the
/// same `auth` into it.
pub(super) fn login_again(rules: &FirstMessage, text: &[u8]) -> Option<Message> {
    let (name, body) = split(std::str::from_utf8(text.strip_prefix(b"40")?).ok()?);
    let mut object = Value::Object(strict_json::object(body.as_bytes())?);
    if !json::has_credential(rules, &object) {
        return None;
    }
    json::hide_credential(rules, &mut object);
    Some(Message::text(format!("40{name}{object}")))
}

pub(super) fn refused(namespace: &Namespace, about: &Refused<'_>) -> Message {
    let body = json!({ "message": about.message, "data": json::refusal(about) });
    Message::text(format!("44{}{body}", namespace.0))
}

pub(super) fn event(namespace: &Namespace, name: &str, argument: &Value) -> Message {
    Message::text(format!("42{}{}", namespace.0, json!([name, argument])))
}

pub(super) fn answer(rules: &FirstMessage, text: &[u8]) -> Option<RenewalAnswer> {
    if !text.starts_with(b"42") || !may_contain(text, &rules.type_value) {
        return None;
    }
    let (_, body) = split(std::str::from_utf8(text).ok()?.strip_prefix("42")?);
    // An acknowledgement id may stand before the arguments.
    let body = body.trim_start_matches(|c: char| c.is_ascii_digit());
    let Value::Array(arguments) = serde_json::from_str(body).ok()? else { return None };
    if arguments.first().and_then(Value::as_str) != Some(&*rules.type_value) {
        return None;
    }
    let proof = arguments
        .get(1)
        .ok_or(FirstMessageFault::MissingToken)
        .and_then(|argument| json::proof(rules, argument));
    Some(match proof {
        Ok(proof) => RenewalAnswer::Proof { proof, id: None },
        Err(fault) => RenewalAnswer::Wrong { fault, id: None },
    })
}

/// The namespace with its comma, and what follows it.
fn split(packet: &str) -> (&str, &str) {
    match packet.find(',') {
        Some(comma) if packet.starts_with('/') => packet.split_at(comma + 1),
        _ => ("", packet),
    }
}
