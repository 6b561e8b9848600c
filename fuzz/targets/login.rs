//! Shared code of the targets for first messages: the rules of a dialect for each `forward`, and
//! the outcome of a login.

use std::sync::Arc;

use super::settings::{self, SECRET};
use usher::auth::credential::Proof;
use usher::auth::first_message::{AuthMessage, Dialect, FirstMessageContent};
use usher::config::{FirstMessage, Forward};
use usher::model::faults::FirstMessageFault;
use usher::rejection::Rejection;
use usher::ws::frame::Message;

/// The user of `forward = "replace"`; its secret is [`SECRET`].
pub const SERVICE: &str = "service";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserName {
    OfTheService,
    None,
}

/// Returns the rules of a preset for `forward = "forward"`, and for each `forward` that hides the
/// credential.
pub fn rules(preset: &str, user: UserName) -> Vec<Arc<FirstMessage>> {
    let name = match user {
        UserName::OfTheService => format!("user = \"{SERVICE}\""),
        UserName::None => String::new(),
    };
    let replace = format!("\"replace\"\nsecret_env = \"SERVICE\"\n{name}");
    let forwards = ["\"forward\"", "\"redact\"", "\"remove\"", &replace];
    let rules = forwards.map(|forward| {
        let config = settings::with_route(&format!(
            "auth = [\"message\"]\n[route.first_message]\n\
             preset = \"{preset}\"\nforward = {forward}"
        ));
        Arc::clone(&config.routes[0].first_message)
    });
    rules.into()
}

/// The outcome of a first message.
#[derive(Debug, PartialEq, Eq)]
pub enum Login {
    Unfinished,
    Refused(FirstMessageFault),
    Read { token: Credential, forward: Message, rest: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Token(Vec<u8>),
    Ticket(Vec<u8>),
}

impl Credential {
    pub fn of(proof: &Proof) -> Self {
        match proof {
            Proof::Token(token) => Self::Token(token.expose().to_vec()),
            Proof::Ticket(ticket) => Self::Ticket(ticket.expose().to_vec()),
            _ => panic!("a first message carries a token or a ticket"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Token(bytes) | Self::Ticket(bytes) => bytes,
        }
    }
}

/// Gives the pieces of a login to a new dialect, each as a separate message.
pub fn read(rules: &Arc<FirstMessage>, is_text: bool, pieces: &[&[u8]]) -> Login {
    let mut dialect = Dialect::new(rules);
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        match dialect.read(&Message { is_text, payload: piece.to_vec() }) {
            Ok(FirstMessageContent::More(_)) => {}
            Ok(FirstMessageContent::Auth(AuthMessage { proof, forward, rest, .. })) => {
                let mut rest = rest.map(|rest| rest.payload).unwrap_or_default();
                pieces.for_each(|piece| rest.extend_from_slice(piece));
                let forward = forward.expect("no target consumes the login");
                return Login::Read { token: Credential::of(&proof), forward, rest };
            }
            Err(Rejection::FirstMessage(fault)) => return Login::Refused(fault),
            Err(other) => panic!("not a refusal of a first message: {other:?}"),
        }
    }
    Login::Unfinished
}

/// Checks that the forwarded login has no credential, or that of the service.
pub fn check_again(rules: &Arc<FirstMessage>, token: &Credential, forward: &Message) {
    let again = read(rules, forward.is_text, &[&forward.payload]);
    match (rules.forward, again) {
        (Forward::Redact | Forward::Remove, Login::Refused(fault)) => {
            assert_eq!(fault, FirstMessageFault::MissingToken);
        }
        (Forward::Replace, Login::Read { token, .. }) => {
            assert_eq!(
                token,
                Credential::Token(SECRET.into()),
                "not the credential of the service"
            );
        }
        (Forward::Forward, Login::Read { token: again, .. }) => assert_eq!(&again, token),
        (how, again) => panic!("{how:?}: upstream the login is read as {again:?}"),
    }
}

/// Checks that the same login later in the stream is forwarded in the same way.
pub fn check_later(rules: &Arc<FirstMessage>, message: &Message, expected: &[u8]) {
    let later = Dialect::new(rules).login_again(message.is_text, &message.payload);
    let later = later.map(|later| later.payload);
    let expected = (rules.forward != Forward::Forward).then_some(expected);
    assert_eq!(later.as_deref(), expected, "{:?}: a later login", rules.forward);
}

/// Checks that the verdict on an upstream's answer does not change when more bytes arrive.
pub fn check_decided_once(rules: &Arc<FirstMessage>, answer: &[u8]) {
    let dialect = Dialect::new(rules);
    let mut decided = None;
    for end in 0..=answer.len().min(64) {
        let verdict = dialect.is_login_accepted(&answer[..end]);
        assert!(decided.is_none() || verdict == decided, "the verdict changes at byte {end}");
        decided = verdict;
    }
}
