//! The credential in the first message, and in the later ones that renew it: what each dialect says and hears.
//!
//! No I/O and no clock: messages go in, messages come out. A [`Dialect`] stands on one connection; it reads the first
//! message, words acknowledgement, refusal and question as the client's protocol has them, and finds the answer in the
//! stream.

mod graphql;
mod home_assistant;
mod json;
mod mqtt;
mod socketio;
mod stomp;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use super::credential::Proof;
use crate::clock::UnixMillis;
use crate::config::{FirstMessage, Forward, Preset};
use crate::rejection::Rejection;
use crate::ws::frame::Message;

#[derive(Debug)]
pub struct Dialect {
    rules: Arc<FirstMessage>,
    /// What a protocol has to remember of its first message.
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    None,
    SocketIo(socketio::Namespace),
    Mqtt(mqtt::Connect),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirstMessageFault {
    #[error("the first message is not the one that carries a credential")]
    NotAuth,
    #[error("the first message carries neither token nor ticket")]
    MissingToken,
    #[error("the first message is larger than first_message.max_bytes")]
    TooBig,
    #[error("no first message came in time")]
    Timeout,
    #[error("it is no WebSocket frame, or not one that was agreed on")]
    Protocol,
}

/// What a client's first message turned out to be.
#[derive(Debug)]
pub enum Heard {
    /// Nothing yet: the protocol allows something before it, or it goes on in the next message. Perhaps with an answer.
    More(Option<Message>),
    Auth(AuthMessage),
}

#[derive(Debug)]
pub struct AuthMessage {
    pub proof: Proof,
    /// The client's name for it, to be repeated in the answer.
    pub id: Option<String>,
    /// What the upstream is to get of it.
    pub forward: Option<Message>,
    /// What came behind it in the same message.
    pub rest: Option<Message>,
}

/// A message in the stream that was meant for us.
#[derive(Debug)]
pub enum Answer {
    Proof {
        proof: Proof,
        id: Option<String>,
    },
    /// It should carry a credential and does not.
    Missing {
        id: Option<String>,
    },
    /// Our own words, sent back as the protocol wants it.
    Echo,
}

/// Who is in, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    pub user: &'a str,
    pub session_id: &'a str,
    pub expires_at: Option<UnixMillis>,
    pub id: Option<&'a str>,
    pub now: UnixMillis,
}

/// Why not.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    pub code: &'a str,
    pub message: &'a str,
    /// As HTTP would say it.
    pub status: u16,
    pub recoverable: bool,
    pub request_id: &'a str,
    pub id: Option<&'a str>,
    pub now: UnixMillis,
}

/// The question for a new credential.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub expires_at: UnixMillis,
    pub grace: Duration,
    pub now: UnixMillis,
}

/// Ids of clients are repeated, but not of any length.
const LONGEST_ID: usize = 128;

impl Dialect {
    pub fn new(rules: &Arc<FirstMessage>) -> Self {
        let memory = match rules.preset {
            Preset::SocketIo => Memory::SocketIo(socketio::Namespace::default()),
            Preset::Mqtt => Memory::Mqtt(mqtt::Connect::default()),
            _ => Memory::None,
        };
        Self { rules: Arc::clone(rules), memory }
    }

    /// What the client is told before it has said anything.
    pub fn greeting(&self) -> Option<Message> {
        match self.rules.preset {
            Preset::SocketIo => Some(socketio::open(self.rules.greeting.as_deref())),
            _ => self.rules.greeting.clone().map(Message::text),
        }
    }

    /// The client's name for a message that is refused.
    pub fn id_in(&self, message: &Message) -> Option<String> {
        (self.rules.preset == Preset::Json).then(|| json::id_in(message)).flatten()
    }

    pub fn hear(&mut self, message: &Message) -> Result<Heard, Rejection> {
        let heard = match (self.rules.preset, &mut self.memory) {
            (Preset::SocketIo, Memory::SocketIo(namespace)) => socketio::hear(&self.rules, namespace, message),
            (Preset::Mqtt, Memory::Mqtt(connect)) => connect.hear(&self.rules, message),
            (Preset::GraphqlTransportWs, _) => graphql::hear(&self.rules, message),
            (Preset::Stomp, _) => stomp::hear(&self.rules, message),
            _ => json::hear(&self.rules, &self.rules.type_value, message),
        };
        heard.map_err(Rejection::FirstMessage)
    }

    /// Where the upstream sees the first message, it is the upstream that answers it.
    pub fn accepted(&self, about: &Accepted<'_>) -> Option<Message> {
        if !self.rules.ack || self.rules.forward != Forward::Consume {
            return None;
        }
        match self.rules.preset {
            Preset::Json => Some(json::accepted(about)),
            Preset::HomeAssistant => Some(home_assistant::accepted(&self.rules)),
            Preset::GraphqlTransportWs => Some(graphql::ack()),
            Preset::SocketIo | Preset::Stomp | Preset::Mqtt => None,
        }
    }

    pub fn refused(&self, about: &Refused<'_>) -> Option<Message> {
        match &self.memory {
            Memory::SocketIo(namespace) => return Some(socketio::refused(namespace, about)),
            Memory::Mqtt(connect) => return connect.refused(about),
            Memory::None => {}
        }
        match self.rules.preset {
            Preset::HomeAssistant => Some(home_assistant::refused(about)),
            Preset::Stomp => Some(stomp::refused(about)),
            // It says everything with its close codes.
            Preset::GraphqlTransportWs => None,
            _ => Some(json::refused(about)),
        }
    }

    /// Asks for a new credential; `None`: the protocol has no words for it.
    pub fn ask(&self, question: &Question) -> Option<Message> {
        match &self.memory {
            Memory::SocketIo(namespace) => return Some(socketio::event(namespace, "auth_required", &json::question(question))),
            Memory::Mqtt(_) => return None,
            Memory::None => {}
        }
        match self.rules.preset {
            Preset::Stomp => None,
            Preset::GraphqlTransportWs => Some(graphql::ping("auth_required", json::question(question))),
            Preset::HomeAssistant => Some(home_assistant::ask(&self.rules, question)),
            _ => Some(json::envelope("auth_required", None, question.now, json::question(question))),
        }
    }

    /// A renewal that worked.
    pub fn renewed(&self, about: &Accepted<'_>) -> Option<Message> {
        if !self.rules.ack {
            return None;
        }
        match &self.memory {
            Memory::SocketIo(namespace) => return Some(socketio::event(namespace, "auth_ok", &json::acceptance(about))),
            Memory::Mqtt(_) => return None,
            Memory::None => {}
        }
        match self.rules.preset {
            Preset::Stomp => None,
            Preset::GraphqlTransportWs => Some(graphql::ping("auth_ok", json::acceptance(about))),
            Preset::HomeAssistant => Some(home_assistant::accepted(&self.rules)),
            _ => Some(json::accepted(about)),
        }
    }

    /// A renewal that did not work, or the end of the session for want of one.
    pub fn not_renewed(&self, about: &Refused<'_>) -> Option<Message> {
        match &self.memory {
            Memory::SocketIo(namespace) => return Some(socketio::event(namespace, "auth_error", &json::refusal(about))),
            Memory::Mqtt(_) => return None,
            Memory::None => {}
        }
        match self.rules.preset {
            Preset::Stomp => None,
            Preset::GraphqlTransportWs => Some(graphql::ping("error", json::refusal(about))),
            _ => self.refused(about),
        }
    }

    /// Is this message of the stream meant for us? `None`: it is the application's.
    pub fn answer(&self, text: &[u8]) -> Option<Answer> {
        match &self.memory {
            Memory::SocketIo(_) => return socketio::answer(&self.rules, text),
            Memory::Mqtt(_) => return None,
            Memory::None => {}
        }
        match self.rules.preset {
            Preset::Stomp => None,
            Preset::GraphqlTransportWs => graphql::answer(&self.rules, text),
            _ => json::answer(&self.rules, text),
        }
    }

    /// Can a later message of the application carry the credential once more? Then every one has to be looked at.
    pub fn always_listens(&self) -> bool {
        self.rules.preset == Preset::SocketIo && self.rules.forward == Forward::Redact
    }

    /// Such a message with its secret blanked.
    pub fn redacted(&self, text: &[u8]) -> Option<Message> {
        if self.always_listens() { socketio::redacted(&self.rules, text) } else { None }
    }

    /// Has the client heard from us what the upstream says first? Then that must not come again.
    pub fn greeted_for_the_upstream(&self) -> bool {
        self.rules.forward != Forward::Consume && matches!(self.rules.preset, Preset::SocketIo | Preset::HomeAssistant)
    }

    pub fn is_greeting(&self, text: &[u8]) -> bool {
        match self.rules.preset {
            Preset::SocketIo => text.starts_with(b"0{"),
            _ => json::has_type(&self.rules, text, "auth_required"),
        }
    }

    /// The longest message that can be meant for us.
    pub fn longest(&self) -> usize {
        self.rules.max_bytes
    }
}
