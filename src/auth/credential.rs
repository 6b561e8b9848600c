//! What a client showed, before anyone has looked at whether it is any good.

use super::certificate::ClientCertificate;
use crate::config::secret::Secret;

/// The ways in. The name is the same in config, metrics, logs and the signed context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Ticket,
    Message,
    Header,
    Subprotocol,
    Query,
    Cookie,
    Session,
    Mtls,
    Bypass,
}

impl Method {
    pub const ALL: [Self; 9] =
        [Self::Ticket, Self::Message, Self::Header, Self::Subprotocol, Self::Query, Self::Cookie, Self::Session, Self::Mtls, Self::Bypass];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Message => "message",
            Self::Header => "header",
            Self::Subprotocol => "subprotocol",
            Self::Query => "query",
            Self::Cookie => "cookie",
            Self::Session => "session",
            Self::Mtls => "mtls",
            Self::Bypass => "bypass",
        }
    }

    /// Does a browser show it by itself, whichever page asks? Then the page's origin has to be known.
    pub fn is_sent_by_browsers(self) -> bool {
        matches!(self, Self::Cookie | Self::Session)
    }
}

/// A credential taken out of what the client sent: the bytes are no longer in what goes to the upstream.
#[derive(Debug)]
pub struct Credential {
    pub method: Method,
    pub proof: Proof,
}

#[derive(Debug)]
pub enum Proof {
    Ticket(Secret),
    Token(Secret),
    /// An opaque session id, as its cookie has it.
    Session(Secret),
    Certificate(ClientCertificate),
    /// The value of the header for test identities.
    Bypass(Secret),
}

impl Credential {
    pub fn message(proof: Proof) -> Self {
        Self { method: Method::Message, proof }
    }
}
