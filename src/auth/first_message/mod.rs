//! The credential in the first message, and in the later ones that renew it: what each dialect says
//! and hears.
//!
//! No I/O and no clock: messages go in, messages come out. A [`Dialect`] stands on one connection;
//! it reads the first message, words acknowledgement, refusal and question as the client's protocol
//! has them, and finds the answer in the stream.

mod graphql;
mod home_assistant;
mod json;
mod mqtt;
mod socketio;
mod stomp;
#[cfg(test)]
mod tests;

use crate::model::faults::FirstMessageFault;
use std::sync::Arc;
use std::time::Duration;

use super::credential::Proof;
use crate::base::clock::UnixMillis;
use crate::config::{FirstMessage, Forward, Preset};
use crate::rejection::{Detail, Rejection};
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

/// What a client's first message turned out to be.
#[derive(Debug)]
pub enum FirstMessageContent {
    /// Nothing yet: the protocol allows something before it, or it goes on in the next message.
    /// Perhaps with an answer.
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
pub enum RenewalAnswer {
    Proof {
        proof: Proof,
        id: Option<String>,
    },
    /// It should carry one credential, and carries none or two.
    Wrong {
        fault: FirstMessageFault,
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
    /// Facts for programs, beside the status.
    pub details: &'a [Detail],
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

impl RenewalAnswer {
    /// Returns true if the message carries a secret, or more than one.
    pub fn has_credential(&self) -> bool {
        match self {
            Self::Proof { .. } => true,
            Self::Wrong { fault, .. } => *fault == FirstMessageFault::TwoCredentials,
            Self::Echo => false,
        }
    }
}

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

    pub fn read(&mut self, message: &Message) -> Result<FirstMessageContent, Rejection> {
        let heard = match (self.rules.preset, &mut self.memory) {
            (Preset::SocketIo, Memory::SocketIo(namespace)) => {
                socketio::read(&self.rules, namespace, message)
            }
            (Preset::Mqtt, Memory::Mqtt(connect)) => connect.read(&self.rules, message),
            (Preset::GraphqlTransportWs, _) => graphql::read(&self.rules, message),
            (Preset::Stomp, _) => stomp::read(&self.rules, message),
            _ => json::read(&self.rules, &self.rules.type_value, message),
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
            Memory::SocketIo(namespace) => {
                return Some(socketio::event(
                    namespace,
                    "auth_required",
                    &json::question(question),
                ));
            }
            Memory::Mqtt(_) => return None,
            Memory::None => {}
        }
        match self.rules.preset {
            Preset::Stomp => None,
            Preset::GraphqlTransportWs => {
                Some(graphql::ping("auth_required", json::question(question)))
            }
            Preset::HomeAssistant => Some(home_assistant::ask(&self.rules, question)),
            _ => {
                Some(json::envelope("auth_required", None, question.now, json::question(question)))
            }
        }
    }

    /// A renewal that worked.
    pub fn renewed(&self, about: &Accepted<'_>) -> Option<Message> {
        if !self.rules.ack {
            return None;
        }
        match &self.memory {
            Memory::SocketIo(namespace) => {
                return Some(socketio::event(namespace, "auth_ok", &json::acceptance(about)));
            }
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

    /// Words a renewal that did not work, and the end of a session ahead of its close frame.
    ///
    /// `None` for STOMP and MQTT: their frames and packets may span WebSocket messages, so that
    /// between two messages the client may stand in the middle of one.
    pub fn not_renewed(&self, about: &Refused<'_>) -> Option<Message> {
        match &self.memory {
            Memory::SocketIo(namespace) => {
                return Some(socketio::event(namespace, "auth_error", &json::refusal(about)));
            }
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
    pub fn answer(&self, text: &[u8]) -> Option<RenewalAnswer> {
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

    /// Returns false where the upstream is meant to see the client's credentials.
    pub fn hides_credentials(&self) -> bool {
        self.rules.forward != Forward::Forward
    }

    /// Returns true if clients of this protocol log in more than once: a Socket.IO client shows its
    /// credential for each namespace.
    pub fn logs_in_again(&self) -> bool {
        self.rules.preset == Preset::SocketIo && self.hides_credentials()
    }

    /// Returns true if a login of this protocol may stand in a binary message.
    pub fn is_binary(&self) -> bool {
        matches!(self.rules.preset, Preset::Stomp | Preset::Mqtt)
    }

    /// Returns a repeated login as the upstream may see it, without the client's credential.
    pub fn login_again(&self, is_text: bool, payload: &[u8]) -> Option<Message> {
        match self.rules.preset {
            _ if !self.hides_credentials() => None,
            Preset::SocketIo if is_text => socketio::login_again(&self.rules, payload),
            Preset::GraphqlTransportWs if is_text => graphql::login_again(&self.rules, payload),
            Preset::Stomp => {
                let payload = stomp::login_again(&self.rules, payload)?.into_bytes();
                Some(Message { is_text, payload })
            }
            Preset::Mqtt if !is_text => {
                mqtt::login_again(&self.rules, payload).map(Message::binary)
            }
            Preset::SocketIo | Preset::GraphqlTransportWs | Preset::Mqtt => None,
            // Their logins are answers too.
            Preset::Json | Preset::HomeAssistant => None,
        }
    }

    /// Returns true where the upstream answers a login that Usher has changed. Until it has
    /// accepted it, a broker may take another login on the same connection, so nothing of the
    /// client follows.
    pub fn waits_for_login_answer(&self) -> bool {
        self.hides_credentials() && matches!(self.rules.preset, Preset::Stomp | Preset::Mqtt)
    }

    /// Returns whether the upstream accepts the login, from all that it has sent; `None`: its
    /// answer goes on.
    pub fn is_login_accepted(&self, sent: &[u8]) -> Option<bool> {
        match self.rules.preset {
            Preset::Mqtt => mqtt::is_accepted(sent),
            _ => stomp::is_accepted(sent),
        }
    }

    /// Has the client heard from us what the upstream says first? Then that must not come again.
    pub fn greeted_for_the_upstream(&self) -> bool {
        self.rules.forward != Forward::Consume
            && matches!(self.rules.preset, Preset::SocketIo | Preset::HomeAssistant)
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
