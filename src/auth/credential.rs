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
    Mtls,
}

impl Method {
    pub const ALL: [Self; 4] = [Self::Ticket, Self::Message, Self::Header, Self::Mtls];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Message => "message",
            Self::Header => "header",
            Self::Mtls => "mtls",
        }
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
    Certificate(ClientCertificate),
}

impl Credential {
    pub fn ticket(ticket: Secret) -> Self {
        Self { method: Method::Ticket, proof: Proof::Ticket(ticket) }
    }

    pub fn bearer(token: Secret) -> Self {
        Self { method: Method::Header, proof: Proof::Token(token) }
    }

    pub fn certificate(certificate: ClientCertificate) -> Self {
        Self { method: Method::Mtls, proof: Proof::Certificate(certificate) }
    }

    pub fn message(proof: Proof) -> Self {
        Self { method: Method::Message, proof }
    }
}
