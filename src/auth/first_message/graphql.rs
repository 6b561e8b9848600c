//! The graphql-transport-ws dialect: the token is in the payload of `connection_init`.
//!
//! The upstream gets `connection_init` without the secret, and acknowledges it itself. A renewal
//! uses the protocol's own `ping` and `pong`, which carry a payload: Usher asks in a ping, the
//! client answers in a pong. The application's pings pass through.

use serde_json::{Map, Value, json};

use super::json::{self, may_contain};
use super::{FirstMessageContent, RenewalAnswer};
use crate::base::strict_json;
use crate::config::FirstMessage;
use crate::model::faults::FirstMessageFault;
use crate::ws::frame::Message;

pub(super) fn read(
    rules: &FirstMessage,
    message: &Message,
) -> Result<FirstMessageContent, FirstMessageFault> {
    let kind = json::object(message)
        .and_then(|object| object.get("type").and_then(Value::as_str).map(str::to_owned));
    match kind.as_deref() {
        // "Ping: useful for detecting failed connections". Each side may send one at any time.
        Some("ping") => Ok(FirstMessageContent::More(Some(Message::text(r#"{"type":"pong"}"#)))),
        Some("pong") => Ok(FirstMessageContent::More(None)),
        // "if the connection is not acknowledged, the socket will be closed immediately with the
        // event `4401: Unauthorized`"
        Some("subscribe") => Err(FirstMessageFault::MissingToken),
        _ => json::read(rules, "connection_init", message),
    }
}

/// Returns a later `connection_init` for the upstream, without the credential. The server closes
/// the connection when it gets one.
pub(super) fn login_again(rules: &FirstMessage, text: &[u8]) -> Option<Message> {
    if !may_contain(text, "connection_init") {
        return None;
    }
    let Some(object) = strict_json::object(text).map(Value::Object) else {
        // Which of two equal names counts is not certain, so the payload does not go on.
        let doubled = json::with_doubled_names(text)?;
        let is_login = doubled.get("type").and_then(Value::as_str) == Some("connection_init");
        return (is_login && json::may_contain_credential(rules, text))
            .then(|| Message::text(r#"{"type":"connection_init"}"#));
    };
    let is_login = object.get("type").and_then(Value::as_str) == Some("connection_init");
    if !is_login || !json::has_credential(rules, &object) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    Some(Message::text(json::without_credential(rules, text, object)))
}

pub(super) fn ack() -> Message {
    Message::text(r#"{"type":"connection_ack"}"#)
}

pub(super) fn ping(kind: &str, payload: Value) -> Message {
    let about =
        Map::from_iter([("type".to_owned(), kind.into()), ("id".to_owned(), json::uuid().into())]);
    Message::text(json!({ "type": "ping", "payload": json::merged(about, payload) }).to_string())
}

pub(super) fn answer(rules: &FirstMessage, text: &[u8]) -> Option<RenewalAnswer> {
    if !may_contain(text, "pong") {
        return None;
    }
    let Some(object) = strict_json::object(text).map(Value::Object) else {
        let doubled = json::with_doubled_names(text)?;
        let is_pong = doubled.get("type").and_then(Value::as_str) == Some("pong");
        let fault = FirstMessageFault::TwoCredentials;
        return (is_pong && json::may_contain_credential(rules, text))
            .then_some(RenewalAnswer::Wrong { fault, id: None });
    };
    if object.get("type").and_then(Value::as_str) != Some("pong") {
        return None;
    }
    match json::proof(rules, &object) {
        Ok(proof) => return Some(RenewalAnswer::Proof { proof, id: None }),
        Err(FirstMessageFault::MissingToken) => {}
        Err(fault) => return Some(RenewalAnswer::Wrong { fault, id: None }),
    }
    // A client that does not support renewals sends the payload of a ping back.
    let echoed = object.pointer("/payload/type").and_then(Value::as_str);
    echoed
        .filter(|kind| ["auth_required", "auth_ok", "error"].contains(kind))
        .map(|_| RenewalAnswer::Echo)
}
