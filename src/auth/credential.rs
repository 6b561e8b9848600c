//! What a client showed, before anyone has looked at whether it is any good.

use crate::config::secret::Secret;

/// The ways in. The name is the same in config, metrics, logs and the signed context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Ticket,
    Header,
}

impl Method {
    pub const ALL: [Self; 2] = [Self::Ticket, Self::Header];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Header => "header",
        }
    }
}

/// A credential taken out of the request: the bytes are no longer in the request that goes to the upstream.
#[derive(Debug)]
pub enum Credential {
    Ticket(Secret),
    Bearer(Secret),
}

impl Credential {
    pub fn method(&self) -> Method {
        match self {
            Self::Ticket(_) => Method::Ticket,
            Self::Bearer(_) => Method::Header,
        }
    }
}
