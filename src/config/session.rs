//! The configuration inside a WebSocket: the first message and re-authentication.

use std::time::Duration;

use crate::model::secret::Secret;
use crate::rejection::close::CloseCodes;

#[derive(Debug)]
pub struct FirstMessage {
    pub preset: Preset,
    /// How long after the 101 the client may take to send its first message.
    pub timeout: Duration,
    pub max_bytes: usize,
    /// Whether Usher acknowledges the first message. If the message goes to the upstream, the
    /// upstream acknowledges it instead.
    pub ack: bool,
    pub forward: Forward,
    /// Set if `forward` is `Replace`.
    pub upstream_login: Option<UpstreamLogin>,
    /// The place of the type in a JSON message.
    pub type_pointer: String,
    /// The type of the message with the credential.
    pub type_value: String,
    pub token_pointer: String,
    pub ticket_pointer: String,
    /// A message that Usher sends to the client first.
    pub greeting: Option<String>,
}

/// The dialect of a route's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Json,
    GraphqlTransportWs,
    SocketIo,
    HomeAssistant,
    Stomp,
    Mqtt,
}

/// How the message with the credential reaches the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Not at all.
    Consume,
    /// Unchanged.
    Forward,
    /// Without the secret.
    Redact,
    /// Without the user name and the secret.
    Remove,
    /// With the login of `upstream_login` instead of the client's.
    Replace,
}

/// The service credentials with which every client of a route logs in to its upstream.
#[derive(Clone, Debug)]
pub struct UpstreamLogin {
    /// Empty if the protocol has no user name.
    pub user: String,
    pub secret: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reauth {
    pub mode: ReauthMode,
    /// How long before its expiry a grant is renewed.
    pub before_expiry: Duration,
    /// How long the client may take to answer.
    pub grace: Duration,
    pub attempts: u32,
    /// The longest time between two proofs of identity, even if the token is valid for longer.
    pub max_age: Option<Duration>,
    /// Whether a client may renew before it is asked.
    pub proactive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReauthMode {
    /// Asks for a new token in the stream.
    Message,
    /// Closes the session when its grant expires.
    Close,
    /// Lets the session continue after its grant expires.
    Off,
}

/// How Usher answers a rejected upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectMode {
    /// With a status.
    Http,
    /// With a 101 and a close frame, because a page cannot read a status.
    Close,
}

impl Preset {
    pub const ALL: [Self; 6] = [
        Self::Json,
        Self::GraphqlTransportWs,
        Self::SocketIo,
        Self::HomeAssistant,
        Self::Stomp,
        Self::Mqtt,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::GraphqlTransportWs => "graphql-transport-ws",
            Self::SocketIo => "socketio",
            Self::HomeAssistant => "home-assistant",
            Self::Stomp => "stomp",
            Self::Mqtt => "mqtt",
        }
    }

    /// Returns the default of `forward`. Brokers and GraphQL servers wait for the message that
    /// opens their protocol. A broker does not get the user name either: Usher does not check the
    /// client's user name, and a broker without passwords rejects a user name with an empty
    /// password.
    pub fn forward(self) -> Forward {
        match self {
            Self::Json | Self::HomeAssistant => Forward::Consume,
            Self::GraphqlTransportWs | Self::SocketIo => Forward::Redact,
            Self::Stomp | Self::Mqtt => Forward::Remove,
        }
    }

    /// Returns the place of the token, the place of the ticket, and the greeting.
    pub fn places(self) -> (&'static str, &'static str, Option<&'static str>) {
        match self {
            Self::Json | Self::GraphqlTransportWs | Self::Mqtt | Self::Stomp => {
                ("/payload/token", "/payload/ticket", None)
            }
            Self::SocketIo => ("/token", "/ticket", None),
            Self::HomeAssistant => (
                "/access_token",
                "/ticket",
                Some(r#"{"type":"auth_required","ha_version":"2024.1.0"}"#),
            ),
        }
    }

    pub fn needs_its_first_message(self) -> bool {
        matches!(self, Self::SocketIo | Self::Stomp | Self::Mqtt)
    }

    /// Returns true if the dialect has a message that asks for a new token.
    pub fn can_renew(self) -> bool {
        !matches!(self, Self::Stomp | Self::Mqtt)
    }

    /// Returns true if a login has a user name and a secret, not only a secret.
    pub fn has_user_name(self) -> bool {
        matches!(self, Self::Stomp | Self::Mqtt)
    }

    pub fn subprotocols(self) -> &'static [&'static str] {
        match self {
            Self::Json | Self::SocketIo | Self::HomeAssistant => &[],
            Self::GraphqlTransportWs => &["graphql-transport-ws"],
            Self::Stomp => &["v12.stomp", "v11.stomp", "v10.stomp"],
            Self::Mqtt => &["mqtt", "mqttv3.1"],
        }
    }

    /// Returns the close codes of the dialect. GraphQL over WebSocket numbers them after HTTP
    /// statuses.
    pub fn close_codes(self) -> CloseCodes {
        if self == Self::GraphqlTransportWs { CloseCodes::Http } else { CloseCodes::Rfc }
    }
}
