//! The JSON dialects: a login is read in the same way at the beginning and later in the stream. It
//! is forwarded with the credential hidden, and without another change.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::login::{self, Credential, Login, UserName};
use super::settings::SECRET;
use usher::auth::first_message::{Dialect, RenewalAnswer};
use usher::base::strict_json;
use usher::config::{FirstMessage, Forward};
use usher::model::faults::FirstMessageFault;
use usher::ws::frame::Message;

static RULES: LazyLock<[Vec<Arc<FirstMessage>>; 3]> = LazyLock::new(|| {
    ["json", "home-assistant", "graphql-transport-ws"]
        .map(|preset| login::rules(preset, UserName::None))
});

pub fn run(bytes: &[u8]) {
    if let Some(object) = strict_json::object(bytes) {
        let text = std::str::from_utf8(bytes).expect("JSON is UTF-8");
        let object = Value::Object(object);
        assert_eq!(
            members(&object),
            colons(text),
            "a name appears twice, or JSON is read in two ways"
        );
        let again = strict_json::object(object.to_string().as_bytes()).map(Value::Object);
        let again = again.expect("what was read can be read again");
        assert!(is_same(&again, &object), "what was read is read differently again");
    }
    let [json, home_assistant, graphql] = &*RULES;
    for rules in json.iter().chain(home_assistant) {
        let login = check_login(rules, bytes);
        check_answer(rules, bytes, &login);
    }
    for rules in graphql {
        let login = check_login(rules, bytes);
        if let Login::Read { forward, .. } = &login {
            let whole = Message { is_text: true, payload: bytes.to_vec() };
            login::check_later(rules, &whole, &forward.payload);
        }
    }
}

fn check_login(rules: &Arc<FirstMessage>, bytes: &[u8]) -> Login {
    let login = login::read(rules, true, &[bytes]);
    if let Login::Read { token, forward, rest } = &login {
        assert!(rest.is_empty());
        check_hidden(rules, bytes, &forward.payload);
        login::check_again(rules, token, forward);
    }
    login
}

/// Checks that the reader of later messages agrees with the reader of the first message.
fn check_answer(rules: &Arc<FirstMessage>, bytes: &[u8], login: &Login) {
    use FirstMessageFault::{NotAuth, TooBig};
    let answer = Dialect::new(rules).answer(bytes);
    match (login, answer) {
        (Login::Read { token, .. }, Some(RenewalAnswer::Proof { proof, .. })) => {
            assert_eq!(&Credential::of(&proof), token);
        }
        (Login::Refused(one), Some(RenewalAnswer::Wrong { fault: other, .. })) => {
            assert_eq!(*one, other);
        }
        (Login::Refused(fault), None) => {
            assert!([NotAuth, TooBig].contains(fault), "the stream does not see {fault:?}");
        }
        (login, answer) => panic!("{login:?} at the beginning, {answer:?} in the stream"),
    }
}

/// Checks that only the credential differs between the received object and the forwarded one.
/// `written` and `sent` are JSON objects.
pub fn check_hidden(rules: &FirstMessage, written: &[u8], sent: &[u8]) {
    let mut written: Value = serde_json::from_slice(written).expect("the login is JSON");
    let sent: Value = serde_json::from_slice(sent).expect("the forwarded message is JSON");
    if rules.forward == Forward::Forward {
        assert!(is_same(&sent, &written));
        return;
    }
    let hidden = match rules.forward {
        Forward::Replace => Value::from(SECRET),
        Forward::Remove => Value::Null,
        _ => Value::from(""),
    };
    let at = |object: &Value, pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
    let ticket = at(&sent, &rules.ticket_pointer);
    assert!(ticket.is_null() || ticket == "", "the ticket is forwarded");
    let seen = at(&sent, &rules.token_pointer);
    assert!(seen == hidden || seen.is_null() || seen == "", "the token is forwarded");
    assert!(rules.forward != Forward::Replace || seen == hidden);
    // Without the two credentials, both objects are equal.
    let mut rest = sent;
    for object in [&mut written, &mut rest] {
        for pointer in [&rules.token_pointer, &rules.ticket_pointer] {
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a parent");
            let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
            parent.and_then(|parent| parent.shift_remove(name));
        }
    }
    assert!(is_same(&rest, &written), "more than the credential has changed: {written} to {rest}");
}

/// Returns true if the values are equal. Numbers with more digits than a double can have are
/// rounded.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((name, one), (other_name, other))| {
                    name == other_name && is_same(one, other)
                })
        }
        (Value::Number(one), Value::Number(other)) if one != other => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(1.0));
            (one - other).abs() <= one.abs() * 1e-14
        }
        _ => one == other,
    }
}

/// Returns the number of names in a value, at any depth.
pub fn members(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(members).sum(),
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        _ => 0,
    }
}

/// Returns the number of names in JSON text: the colons outside of strings.
pub fn colons(text: &str) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (0, false, false);
    for one in text.chars() {
        match one {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => in_string = !in_string,
            ':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}
