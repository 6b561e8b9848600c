//! The configuration of what happens inside a WebSocket: first message and re-authentication.

use std::time::Duration;

use crate::model::secret::Secret;
use crate::rejection::close::CloseCodes;

#[derive(Debug)]
pub struct FirstMessage {
    pub preset: Preset,
    /// From the 101.
    pub timeout: Duration,
    pub max_bytes: usize,
    /// Whether the client gets an acknowledgement. If the upstream sees the message, the upstream
    /// sends it.
    pub ack: bool,
    pub forward: Forward,
    /// Set if `forward` is `Replace`.
    pub upstream_login: Option<UpstreamLogin>,
    /// Where the type stands in a JSON message, and its value in the one with the credential.
    pub type_pointer: String,
    pub type_value: String,
    pub token_pointer: String,
    pub ticket_pointer: String,
    /// What the client gets before it sends a message.
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

/// What the upstream gets of the message that carried the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nothing.
    Consume,
    /// The message as it came.
    Forward,
    /// The message with the secret blanked.
    Redact,
    /// The message without user name and secret.
    Remove,
    /// The message with the login of `upstream_login` in place of the client's.
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
    /// How long before its end a grant is renewed.
    pub before_expiry: Duration,
    /// How long the client has to answer.
    pub grace: Duration,
    pub attempts: u32,
    /// How long a proof of identity counts at most, whatever the token says.
    pub max_age: Option<Duration>,
    /// Whether a client may renew before it is asked.
    pub proactive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReauthMode {
    /// Ask inside the stream.
    Message,
    /// Close when the grant ends.
    Close,
    /// A session outlives its grant.
    Off,
}

/// How a refused upgrade is answered.
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

    /// Returns what is forwarded unless the file says otherwise. Brokers and GraphQL servers wait
    /// for the message that opens their protocol. A broker gets no user name either: the client's
    /// is not checked, and a broker without passwords refuses a user name with an empty one.
    pub fn forward(self) -> Forward {
        match self {
            Self::Json | Self::HomeAssistant => Forward::Consume,
            Self::GraphqlTransportWs | Self::SocketIo => Forward::Redact,
            Self::Stomp | Self::Mqtt => Forward::Remove,
        }
    }

    /// Returns where token and ticket stand, and the greeting.
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

    /// Returns true if a login has a user name beside the secret.
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

    /// GraphQL over WebSocket names its close codes after HTTP.
    pub fn close_codes(self) -> CloseCodes {
        if self == Self::GraphqlTransportWs { CloseCodes::Http } else { CloseCodes::Rfc }
    }
}
