//! What a client showed, before anyone has looked at whether it is any good.

use crate::model::client_certificate::ClientCertificate;
use crate::model::method::Method;
use crate::model::secret::Secret;

/// A credential taken out of what the client sent: the bytes are no longer in what goes to the
/// upstream.
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
