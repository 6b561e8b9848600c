//! The credential in the first message and in later messages that renew it, for each dialect.
//!
//! This module has no I/O and no clock: messages go in, messages come out. A [`Dialect`] belongs to
//! one connection. It reads the first message, writes the acknowledgement, the refusal and the
//! question in the client's protocol, and finds the client's answer in the stream.

mod graphql;
mod home_assistant;
mod json;
mod mqtt;
mod socketio;
mod splice;
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
    /// The state that a protocol keeps from its first message.
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    None,
    SocketIo(socketio::Namespace),
    Mqtt(mqtt::ConnectPacket),
}

/// The content of a client's first message.
#[derive(Debug)]
pub enum FirstMessageContent {
    /// No credential yet: the protocol allows other messages before it, or the next message
    /// continues it. The message to send back, if any.
    More(Option<Message>),
    Auth(AuthMessage),
}

#[derive(Debug)]
pub struct AuthMessage {
    pub proof: Proof,
    /// The client's id of the message, repeated in the answer.
    pub id: Option<String>,
    /// The message for the upstream, if any.
    pub forward: Option<Message>,
    /// The rest of the same WebSocket message, after the login.
    pub rest: Option<Message>,
}

/// A message in the stream that is for Usher.
#[derive(Debug)]
pub enum RenewalAnswer {
    Proof {
        proof: Proof,
        id: Option<String>,
    },
    /// The message carries no credential, or two.
    Wrong {
        fault: FirstMessageFault,
        id: Option<String>,
    },
    /// The client sent Usher's own message back, as the protocol requires.
    Echo,
}

/// The data of an acknowledgement: the user, the session and its end.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    pub user: &'a str,
    pub session_id: &'a str,
    pub expires_at: Option<UnixMillis>,
    pub id: Option<&'a str>,
    pub now: UnixMillis,
}

/// The data of a refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    pub code: &'a str,
    pub message: &'a str,
    /// The HTTP status of the refusal.
    pub status: u16,
    pub recoverable: bool,
    /// Details for programs, besides the status.
    pub details: &'a [Detail],
    pub request_id: &'a str,
    pub id: Option<&'a str>,
    pub now: UnixMillis,
}

/// The data of a question for a new credential.
#[derive(Clone, Copy, Debug)]
pub struct RenewalQuestion {
    pub expires_at: UnixMillis,
    pub grace: Duration,
    pub now: UnixMillis,
}

/// The maximum length of a client's id that is repeated, in bytes.
const LONGEST_ID: usize = 128;

impl RenewalAnswer {
    /// Returns true if the message carries at least one credential.
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
            Preset::Mqtt => Memory::Mqtt(mqtt::ConnectPacket::default()),
            _ => Memory::None,
        };
        Self { rules: Arc::clone(rules), memory }
    }

    /// Returns the message that Usher sends before the client sends anything.
    pub fn greeting(&self) -> Option<Message> {
        match self.rules.preset {
            Preset::SocketIo => Some(socketio::open(self.rules.greeting.as_deref())),
            _ => self.rules.greeting.clone().map(Message::text),
        }
    }

    /// Returns the client's id of a refused message.
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

    /// Returns the acknowledgement. `None` if the upstream gets the first message: then the
    /// upstream answers it.
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
            // The protocol has only close codes for this.
            Preset::GraphqlTransportWs => None,
            _ => Some(json::refused(about)),
        }
    }

    /// Returns true if a refusal has a place for the request id. Otherwise it stands in the reason
    /// of the close frame.
    pub fn refusal_has_request_id(&self) -> bool {
        match self.rules.preset {
            Preset::Json | Preset::SocketIo | Preset::Stomp => true,
            Preset::GraphqlTransportWs | Preset::HomeAssistant | Preset::Mqtt => false,
        }
    }

    /// Returns the question for a new credential. `None`: the protocol has no such message.
    pub fn ask(&self, question: &RenewalQuestion) -> Option<Message> {
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

    /// Returns the acknowledgement of a renewal.
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

    /// Returns the refusal of a renewal, or the error before the close frame of a session.
    ///
    /// `None` for STOMP and MQTT: their frames and packets may span WebSocket messages, so the
    /// client may be in the middle of one.
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

    /// Reads a message of the stream. `None`: the message is for the application.
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

    /// Returns false if the upstream gets the client's credentials.
    pub fn hides_credentials(&self) -> bool {
        self.rules.forward != Forward::Forward
    }

    /// Returns true if clients of this protocol log in more than once: a Socket.IO client sends its
    /// credential for each namespace.
    pub fn logs_in_again(&self) -> bool {
        self.rules.preset == Preset::SocketIo && self.hides_credentials()
    }

    /// Returns true if a login of this protocol may be in a binary message.
    pub fn is_binary(&self) -> bool {
        matches!(self.rules.preset, Preset::Stomp | Preset::Mqtt)
    }

    /// Returns a repeated login for the upstream, without the client's credential.
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
            // Their logins have the same form as an answer.
            Preset::Json | Preset::HomeAssistant => None,
        }
    }

    /// Returns true if the upstream answers a login that Usher has changed. Until it accepts this
    /// login, a broker may accept another one on the same connection. So nothing more from the
    /// client is passed on before.
    pub fn waits_for_login_answer(&self) -> bool {
        self.hides_credentials() && matches!(self.rules.preset, Preset::Stomp | Preset::Mqtt)
    }

    /// Returns true if the upstream accepts the login, from all bytes that it has sent. `None`: the
    /// answer is not complete.
    pub fn is_login_accepted(&self, sent: &[u8]) -> Option<bool> {
        match self.rules.preset {
            Preset::Mqtt => mqtt::is_accepted(sent),
            _ => stomp::is_accepted(sent),
        }
    }

    /// Returns true if Usher has already sent the upstream's greeting to the client. Then the
    /// upstream's own greeting must not be passed on.
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

    /// Returns the maximum length of a message for Usher.
    pub fn longest(&self) -> usize {
        self.rules.max_bytes
    }
}
