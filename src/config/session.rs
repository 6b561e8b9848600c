//! The configuration of what happens inside a WebSocket: the first message, and re-authentication.

use std::time::Duration;

use crate::ws::close_code::CloseCode;

#[derive(Debug)]
pub struct FirstMessage {
    pub preset: Preset,
    /// From the 101.
    pub timeout: Duration,
    pub max_bytes: usize,
    /// Is the client told that it is in? Where the upstream sees the message, it is the upstream that tells.
    pub ack: bool,
    pub forward: Forward,
    /// Where in a JSON message its type stands, and what it is in the one with the credential.
    pub type_pointer: String,
    pub type_value: String,
    pub token_pointer: String,
    pub ticket_pointer: String,
    /// What the client is told before it has said anything.
    pub greeting: Option<String>,
}

/// The dialect that a route's clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Json,
    GraphqlTransportWs,
    SocketIo,
    HomeAssistant,
    Stomp,
    Mqtt,
}

/// What becomes of the message that carried the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The upstream never sees it.
    Consume,
    /// It is passed on as it came.
    Forward,
    /// It is passed on with the secret blanked.
    Redact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reauth {
    pub mode: ReauthMode,
    /// How long before its end a grant is to be renewed.
    pub before_expiry: Duration,
    /// How long the client has to answer.
    pub grace: Duration,
    pub attempts: u32,
    /// A proof of identity is good for this long at most, whatever the token says.
    pub max_age: Option<Duration>,
    /// May a client renew without being asked?
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

/// What happens to a session more than a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLimit {
    Refuse,
    /// It gets in, and the user's oldest ends.
    ReplaceOldest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCodes {
    /// 1008 and its neighbours in RFC 6455.
    Rfc,
    /// 4400, 4401, 4403, 4408, 4409, 4429 and 4503, after the statuses of HTTP.
    Http,
}

impl CloseCodes {
    /// The code that a peer is sent for `rfc`, where the end is one that HTTP would call `status`.
    pub fn of(self, rfc: CloseCode, status: u16) -> CloseCode {
        match (self, status) {
            (Self::Http, 400 | 401 | 403 | 408 | 409 | 429) => CloseCode(4000 + status),
            (Self::Http, 402..=499) => CloseCode(4400),
            (Self::Http, 502..=504) => CloseCode(4503),
            _ => rfc,
        }
    }
}

impl Preset {
    pub const ALL: [Self; 6] = [Self::Json, Self::GraphqlTransportWs, Self::SocketIo, Self::HomeAssistant, Self::Stomp, Self::Mqtt];

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

    /// Brokers and GraphQL servers wait for the message that opens their protocol.
    pub fn forward(self) -> Forward {
        match self {
            Self::Json | Self::HomeAssistant => Forward::Consume,
            Self::GraphqlTransportWs | Self::SocketIo | Self::Stomp | Self::Mqtt => Forward::Redact,
        }
    }

    /// Where token and ticket stand, and what is said first.
    pub fn places(self) -> (&'static str, &'static str, Option<&'static str>) {
        match self {
            Self::Json | Self::GraphqlTransportWs | Self::Mqtt | Self::Stomp => ("/payload/token", "/payload/ticket", None),
            Self::SocketIo => ("/token", "/ticket", None),
            Self::HomeAssistant => ("/access_token", "/ticket", Some(r#"{"type":"auth_required","ha_version":"2024.1.0"}"#)),
        }
    }

    pub fn needs_its_first_message(self) -> bool {
        matches!(self, Self::SocketIo | Self::Stomp | Self::Mqtt)
    }

    /// Can a client be asked for a new token in this dialect?
    pub fn can_renew(self) -> bool {
        !matches!(self, Self::Stomp | Self::Mqtt)
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
