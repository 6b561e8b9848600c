//! Socket.IO 5 over Engine.IO 4, WebSocket transport: the token is in the `auth` object of the
//! CONNECT packet, `40{"token":"..."}`.
//!
//! The server sends the first packet, and the client waits for it. So Usher sends its own open
//! packet, and drops the upstream's. A renewal is an event in each direction: `auth_required` to
//! the client, `auth` back.

use serde_json::{Value, json};

use super::json::{self, may_contain};
use super::{AuthMessage, FirstMessageContent, Refused, RenewalAnswer};
use crate::base::strict_json;
use crate::config::{FirstMessage, Forward};
use crate::model::faults::FirstMessageFault;
use crate::ws::frame::Message;

/// A namespace as packets write it: empty for the main namespace, else `/name,`.
#[derive(Debug, Default)]
pub(super) struct Namespace(String);

/// Returns the open packet: the greeting of the config with a session id.
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
    // The namespace is repeated to the client, so its length is limited.
    *namespace = Namespace(name.get(..name.len().min(256)).unwrap_or_default().to_owned());
    let object = strict_json::object(body.as_bytes()).map(Value::Object);
    let object = match object {
        Some(object) => object,
        None if body.is_empty() => return Err(FirstMessageFault::MissingToken),
        None => return Err(FirstMessageFault::NotAuth),
    };
    let proof = json::proof(rules, &object)?;
    let forward = match rules.forward {
        Forward::Consume => None,
        Forward::Forward => Some(message.clone()),
        Forward::Redact | Forward::Remove | Forward::Replace => {
            let body = json::without_credential(rules, body, object);
            Some(Message::text(format!("40{name}{body}")))
        }
    };
    Ok(FirstMessageContent::Auth(AuthMessage { proof, id: None, forward, rest: None }))
}

/// Returns a later CONNECT packet for the upstream, without the credential. A client sends one for
/// each further namespace, and its library puts the same `auth` into it.
pub(super) fn login_again(rules: &FirstMessage, text: &[u8]) -> Option<Message> {
    let (name, body) = split(std::str::from_utf8(text.strip_prefix(b"40")?).ok()?);
    let object = Value::Object(strict_json::object(body.as_bytes())?);
    if !json::has_credential(rules, &object) {
        return None;
    }
    let body = json::without_credential(rules, body, object);
    Some(Message::text(format!("40{name}{body}")))
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
    // An acknowledgement id may come before the arguments.
    let body = body.trim_start_matches(|c: char| c.is_ascii_digit());
    let Value::Array(arguments) = serde_json::from_str(body).ok()? else { return None };
    if arguments.first().and_then(Value::as_str) != Some(&*rules.type_value) {
        return None;
    }
    // Of two equal names `arguments` has the last one, and another reader may use the first. The
    // strict reader reads objects only.
    let has_equal_names = strict_json::object(format!("{{\"event\":{body}}}").as_bytes()).is_none();
    let proof = match arguments.get(1) {
        _ if has_equal_names => Err(FirstMessageFault::TwoCredentials),
        Some(argument) => json::proof(rules, argument),
        None => Err(FirstMessageFault::MissingToken),
    };
    Some(match proof {
        Ok(proof) => RenewalAnswer::Proof { proof, id: None },
        Err(fault) => RenewalAnswer::Wrong { fault, id: None },
    })
}

/// Splits a packet into the namespace with its comma, and the rest.
fn split(packet: &str) -> (&str, &str) {
    match packet.find(',') {
        Some(comma) if packet.starts_with('/') => packet.split_at(comma + 1),
        _ => ("", packet),
    }
}
