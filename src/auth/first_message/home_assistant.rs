//! The dialect of Home Assistant: the server sends the first message, `auth` carries
//! `access_token`, and a refusal is `auth_invalid`.

use serde_json::{Map, Value, json};

use super::json::{merged, question};
use super::{Refused, RenewalQuestion};
use crate::config::FirstMessage;
use crate::ws::frame::Message;

pub(super) fn accepted(rules: &FirstMessage) -> Message {
    Message::text(versioned(rules, "auth_ok").to_string())
}

pub(super) fn refused(about: &Refused<'_>) -> Message {
    Message::text(json!({ "type": "auth_invalid", "message": about.message }).to_string())
}

pub(super) fn ask(rules: &FirstMessage, asked: &RenewalQuestion) -> Message {
    let Value::Object(object) = versioned(rules, "auth_required") else { return accepted(rules) };
    Message::text(merged(object, question(asked)).to_string())
}

/// Returns a message with the server's version, which every message of this phase has. The version
/// comes from the greeting.
fn versioned(rules: &FirstMessage, kind: &str) -> Value {
    let greeting = rules
        .greeting
        .as_deref()
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .unwrap_or_default();
    let mut object = Map::from_iter([("type".to_owned(), kind.into())]);
    if let Some(version) = greeting.get("ha_version") {
        object.insert("ha_version".to_owned(), version.clone());
    }
    Value::Object(object)
}
