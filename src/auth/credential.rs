//! A credential as the client sent it, not verified yet.

use crate::model::client_certificate::ClientCertificate;
use crate::model::method::Method;
use crate::model::secret::Secret;

/// A credential taken out of the client's request or message. Its bytes do not go to the upstream.
#[derive(Debug)]
pub struct Credential {
    pub method: Method,
    pub proof: Proof,
}

#[derive(Debug)]
pub enum Proof {
    Ticket(Secret),
    Token(Secret),
    /// An opaque session id from a cookie.
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
