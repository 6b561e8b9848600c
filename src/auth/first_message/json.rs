//! The JSON dialect: `{"type":"auth","payload":{"token":"..."}}`, and other forms by JSON pointers.

use aws_lc_rs::rand;
use serde_json::{Map, Value, json};

use super::splice::{self, unescaped};
use super::{
    Accepted, AuthMessage, FirstMessageContent, LONGEST_ID, Refused, RenewalAnswer, RenewalQuestion,
};
use crate::auth::credential::Proof;
use crate::base::clock::UnixMillis;
use crate::base::strict_json;
use crate::config::{FirstMessage, Forward};
use crate::model::faults::FirstMessageFault;
use crate::ws::frame::Message;

pub(super) fn read(
    rules: &FirstMessage,
    wanted: &str,
    message: &Message,
) -> Result<FirstMessageContent, FirstMessageFault> {
    let Some(object) = object(message) else {
        let doubled = with_doubled_names(&message.payload).filter(|_| message.is_text);
        let is_login = doubled.is_some_and(|doubled| has_kind(rules, &doubled, wanted));
        return Err(match is_login {
            true => FirstMessageFault::TwoCredentials,
            false => FirstMessageFault::NotAuth,
        });
    };
    if !has_kind(rules, &object, wanted) {
        return Err(FirstMessageFault::NotAuth);
    }
    let proof = proof(rules, &object)?;
    let id = id_of(&object);
    let forward = match rules.forward {
        Forward::Consume => None,
        Forward::Forward => Some(message.clone()),
        Forward::Redact | Forward::Remove | Forward::Replace => {
            let text = message.as_text().ok_or(FirstMessageFault::NotAuth)?;
            Some(Message::text(without_credential(rules, text, object)))
        }
    };
    Ok(FirstMessageContent::Auth(AuthMessage { proof, id, forward, rest: None }))
}

/// Reads a message of the stream. Most messages are for the application: a message that cannot be
/// for Usher is not parsed.
pub(super) fn answer(rules: &FirstMessage, text: &[u8]) -> Option<RenewalAnswer> {
    if !may_contain(text, &rules.type_value) {
        return None;
    }
    let Some(object) = strict_json::object(text).map(Value::Object) else {
        let doubled = with_doubled_names(text)?;
        let fault = FirstMessageFault::TwoCredentials;
        return has_kind(rules, &doubled, &rules.type_value)
            .then(|| RenewalAnswer::Wrong { fault, id: id_of(&doubled) });
    };
    if !has_kind(rules, &object, &rules.type_value) {
        return None;
    }
    let id = id_of(&object);
    Some(match proof(rules, &object) {
        Ok(proof) => RenewalAnswer::Proof { proof, id },
        Err(fault) => RenewalAnswer::Wrong { fault, id },
    })
}

/// Parses a message that [`strict_json`] rejects because a name appears twice in one object. The
/// last of two equal names counts. Such a message can carry two credentials, so the upstream must
/// not get it if it is a login or an answer.
pub(super) fn with_doubled_names(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok().filter(Value::is_object)
}

/// Returns true if the bytes may contain the name of a field that carries a credential.
pub(super) fn may_contain_credential(rules: &FirstMessage, text: &[u8]) -> bool {
    [&rules.token_pointer, &rules.ticket_pointer].iter().any(|pointer| {
        let name = pointer.rsplit_once('/').map_or("", |(_, name)| name);
        may_contain(text, &unescaped(name))
    })
}

/// Returns true if the bytes may contain the word. With a backslash they may contain any word.
pub(super) fn may_contain(text: &[u8], word: &str) -> bool {
    text.contains(&b'\\') || text.windows(word.len().max(1)).any(|window| window == word.as_bytes())
}

pub(super) fn has_type(rules: &FirstMessage, text: &[u8], wanted: &str) -> bool {
    let object = strict_json::object(text).map(Value::Object);
    object.is_some_and(|object| has_kind(rules, &object, wanted))
}

fn has_kind(rules: &FirstMessage, object: &Value, wanted: &str) -> bool {
    object.pointer(&rules.type_pointer).and_then(Value::as_str) == Some(wanted)
}

pub(super) fn object(message: &Message) -> Option<Value> {
    if !message.is_text {
        return None;
    }
    strict_json::object(&message.payload).map(Value::Object)
}

/// Returns the one credential of a message. A second credential of any type is refused: which of
/// them counts would be left to the reader.
pub(super) fn proof(rules: &FirstMessage, object: &Value) -> Result<Proof, FirstMessageFault> {
    let text =
        |value: &Value| value.as_str().map(str::to_owned).ok_or(FirstMessageFault::MissingToken);
    match (written(object, &rules.token_pointer), written(object, &rules.ticket_pointer)) {
        (None, None) => Err(FirstMessageFault::MissingToken),
        (Some(token), None) => {
            let token = text(token)?;
            Ok(Proof::Token(match token.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.into(),
                _ => token.as_str().into(),
            }))
        }
        (None, Some(ticket)) => Ok(Proof::Ticket(text(ticket)?.as_str().into())),
        (Some(_), Some(_)) => Err(FirstMessageFault::TwoCredentials),
    }
}

/// Returns true if a message carries a credential, valid or not.
pub(super) fn has_credential(rules: &FirstMessage, object: &Value) -> bool {
    written(object, &rules.token_pointer).or(written(object, &rules.ticket_pointer)).is_some()
}

/// Returns the value at a pointer. Null and an empty text count as absent, because clients write
/// both for an absent field.
fn written<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    object.pointer(pointer).filter(|value| !value.is_null() && value.as_str() != Some(""))
}

/// Returns a message for the upstream without the client's credential, by the route's `forward`
/// rule. `object` is the value of `text`.
pub(super) fn without_credential(rules: &FirstMessage, text: &str, mut object: Value) -> String {
    hide_credential(rules, &mut object);
    // A value that is written anew has rounded numbers, so the text is changed if that is possible.
    match with_changed_text(rules, text) {
        Some(changed)
            if strict_json::object(changed.as_bytes()).map(Value::Object).as_ref()
                == Some(&object) =>
        {
            changed
        }
        _ => object.to_string(),
    }
}

/// Makes the change of [`hide_credential`] in the text. The result must be compared with it.
fn with_changed_text(rules: &FirstMessage, text: &str) -> Option<String> {
    let mut changed = text.to_owned();
    for pointer in [&rules.token_pointer, &rules.ticket_pointer] {
        let hidden = match rules.forward {
            Forward::Remove | Forward::Replace => splice::remove(&changed, pointer),
            _ => splice::set(&changed, pointer, "\"\""),
        };
        changed = hidden.unwrap_or(changed);
    }
    if let (Forward::Replace, Some(login)) = (rules.forward, &rules.upstream_login) {
        let secret = Value::from(login.secret.expose_str().unwrap_or_default()).to_string();
        let pointer = &rules.token_pointer;
        changed = splice::set(&changed, pointer, &secret)
            .or_else(|| splice::insert(&changed, pointer, &secret))?;
    }
    Some(changed)
}

fn hide_credential(rules: &FirstMessage, object: &mut Value) {
    for pointer in [&rules.token_pointer, &rules.ticket_pointer] {
        match rules.forward {
            Forward::Remove | Forward::Replace => remove(object, pointer),
            _ => {
                if let Some(secret) = object.pointer_mut(pointer) {
                    *secret = Value::String(String::new());
                }
            }
        }
    }
    if let (Forward::Replace, Some(login)) = (rules.forward, &rules.upstream_login) {
        insert(object, &rules.token_pointer, login.secret.expose_str().unwrap_or_default().into());
    }
}

fn remove(object: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    match object.pointer_mut(parent) {
        Some(Value::Object(members)) => drop(members.shift_remove(&unescaped(name))),
        // The other elements must keep their positions.
        Some(Value::Array(_)) => {
            if let Some(secret) = object.pointer_mut(pointer) {
                *secret = Value::Null;
            }
        }
        _ => {}
    }
}

/// Writes a value at a pointer, and creates the objects on the way.
fn insert(object: &mut Value, pointer: &str, value: Value) {
    if let Some(there) = object.pointer_mut(pointer) {
        *there = value;
        return;
    }
    let mut place = object;
    for name in pointer.split('/').skip(1) {
        let Value::Object(members) = place else { return };
        place = members.entry(unescaped(name)).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = value;
}

pub(super) fn id_in(message: &Message) -> Option<String> {
    object(message).and_then(|object| id_of(&object))
}

fn id_of(object: &Value) -> Option<String> {
    object.get("id").and_then(Value::as_str).filter(|id| id.len() <= LONGEST_ID).map(str::to_owned)
}

pub(super) fn envelope(kind: &str, id: Option<&str>, now: UnixMillis, payload: Value) -> Message {
    let id = id.map_or_else(uuid, str::to_owned);
    Message::text(
        json!({ "type": kind, "id": id, "timestamp": now.to_rfc3339(), "payload": payload })
            .to_string(),
    )
}

pub(super) fn accepted(about: &Accepted<'_>) -> Message {
    envelope("auth_ok", about.id, about.now, acceptance(about))
}

pub(super) fn refused(about: &Refused<'_>) -> Message {
    envelope("error", about.id, about.now, refusal(about))
}

pub(super) fn acceptance(about: &Accepted<'_>) -> Value {
    json!({
        "user": about.user,
        "session_id": about.session_id,
        "expires_at": about.expires_at.map(|at| at.0),
    })
}

pub(super) fn refusal(about: &Refused<'_>) -> Value {
    let Refused { code, message, status, recoverable, request_id, .. } = about;
    let mut details = Map::from_iter([("status".to_owned(), (*status).into())]);
    details.extend(about.details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    json!({
        "code": code,
        "message": message,
        "recoverable": recoverable,
        "details": details,
        "request_id": request_id,
    })
}

pub(super) fn question(question: &RenewalQuestion) -> Value {
    json!({
        "reason": "Token expiring soon",
        "expires_at": question.expires_at.0,
        "grace_seconds": question.grace.as_secs(),
    })
}

/// Adds the fields of the second object to the first.
pub(super) fn merged(mut object: Map<String, Value>, more: Value) -> Value {
    if let Value::Object(more) = more {
        object.extend(more);
    }
    Value::Object(object)
}

/// Returns a random UUID (RFC 9562 section 5.4: 122 random bits).
pub(super) fn uuid() -> String {
    let mut bits = [0; 16];
    let _ = rand::fill(&mut bits);
    let bits = u128::from_be_bytes(bits) & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}
