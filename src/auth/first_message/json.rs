//! `{"type":"auth","payload":{"token":"..."}}`, and other JSON dialects by pointers.

use aws_lc_rs::rand;
use serde_json::{Map, Value, json};

use super::{Accepted, Answer, AuthMessage, FirstMessageFault, Heard, LONGEST_ID, Question, Refused};
use crate::auth::credential::Proof;
use crate::auth::strict_json;
use crate::clock::UnixMillis;
use crate::config::{FirstMessage, Forward};
use crate::ws::frame::Message;

pub(super) fn hear(rules: &FirstMessage, wanted: &str, message: &Message) -> Result<Heard, FirstMessageFault> {
    let mut object = object(message).ok_or(FirstMessageFault::NotAuth)?;
    if object.pointer(&rules.type_pointer).and_then(Value::as_str) != Some(wanted) {
        return Err(FirstMessageFault::NotAuth);
    }
    let proof = proof(rules, &object).ok_or(FirstMessageFault::MissingToken)?;
    let id = id_of(&object);
    let forward = match rules.forward {
        Forward::Consume => None,
        Forward::Forward => Some(message.clone()),
        Forward::Redact => {
            redact(rules, &mut object);
            Some(Message::text(object.to_string()))
        }
    };
    Ok(Heard::Auth(AuthMessage { proof, id, forward, rest: None }))
}

/// In the stream most messages are the application's: those that cannot be ours are not parsed.
pub(super) fn answer(rules: &FirstMessage, text: &[u8]) -> Option<Answer> {
    if !may_contain(text, &rules.type_value) {
        return None;
    }
    let object = Value::Object(strict_json::object(text)?);
    if object.pointer(&rules.type_pointer).and_then(Value::as_str) != Some(&*rules.type_value) {
        return None;
    }
    let id = id_of(&object);
    Some(match proof(rules, &object) {
        Some(proof) => Answer::Proof { proof, id },
        None => Answer::Missing { id },
    })
}

/// Could these bytes hold the word? With a backslash in them anything can be spelled.
pub(super) fn may_contain(text: &[u8], word: &str) -> bool {
    text.contains(&b'\\') || text.windows(word.len().max(1)).any(|window| window == word.as_bytes())
}

pub(super) fn has_type(rules: &FirstMessage, text: &[u8], wanted: &str) -> bool {
    let object = strict_json::object(text).map(Value::Object);
    object.is_some_and(|object| object.pointer(&rules.type_pointer).and_then(Value::as_str) == Some(wanted))
}

pub(super) fn object(message: &Message) -> Option<Value> {
    if !message.is_text {
        return None;
    }
    strict_json::object(&message.payload).map(Value::Object)
}

pub(super) fn proof(rules: &FirstMessage, object: &Value) -> Option<Proof> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text(&rules.token_pointer).map(|token| match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
        _ => token,
    });
    token.map(|token| Proof::Token(token.into())).or_else(|| text(&rules.ticket_pointer).map(|ticket| Proof::Ticket(ticket.into())))
}

pub(super) fn redact(rules: &FirstMessage, object: &mut Value) {
    for pointer in [&rules.token_pointer, &rules.ticket_pointer] {
        if let Some(secret) = object.pointer_mut(pointer) {
            *secret = Value::String(String::new());
        }
    }
}

pub(super) fn id_in(message: &Message) -> Option<String> {
    object(message).and_then(|object| id_of(&object))
}

fn id_of(object: &Value) -> Option<String> {
    object.get("id").and_then(Value::as_str).filter(|id| id.len() <= LONGEST_ID).map(str::to_owned)
}

pub(super) fn envelope(kind: &str, id: Option<&str>, now: UnixMillis, payload: Value) -> Message {
    let id = id.map_or_else(uuid, str::to_owned);
    Message::text(json!({ "type": kind, "id": id, "timestamp": now.to_rfc3339(), "payload": payload }).to_string())
}

pub(super) fn accepted(about: &Accepted<'_>) -> Message {
    envelope("auth_ok", about.id, about.now, acceptance(about))
}

pub(super) fn refused(about: &Refused<'_>) -> Message {
    envelope("error", about.id, about.now, refusal(about))
}

pub(super) fn acceptance(about: &Accepted<'_>) -> Value {
    json!({ "user": about.user, "session_id": about.session_id, "expires_at": about.expires_at.map(|at| at.0) })
}

pub(super) fn refusal(about: &Refused<'_>) -> Value {
    let Refused { code, message, recoverable, request_id, .. } = about;
    json!({ "code": code, "message": message, "recoverable": recoverable, "request_id": request_id })
}

pub(super) fn question(question: &Question) -> Value {
    json!({
        "reason": "Token expiring soon",
        "expires_at": question.expires_at.0,
        "grace_seconds": question.grace.as_secs(),
    })
}

/// Adds to one object the fields of another.
pub(super) fn merged(mut object: Map<String, Value>, more: Value) -> Value {
    if let Value::Object(more) = more {
        object.extend(more);
    }
    Value::Object(object)
}

/// RFC 9562, section 5.4: 122 random bits.
pub(super) fn uuid() -> String {
    let mut bits = [0; 16];
    let _ = rand::fill(&mut bits);
    let bits = u128::from_be_bytes(bits) & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}
