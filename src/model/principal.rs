//! The principal: the verified identity of a credential.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::clock::UnixMillis;

/// The issuer name of client certificates in the signed context, in revocations and in logs.
pub const CERTIFICATE_ISSUER: &str = "mtls";
/// The issuer name of test identities.
pub const BYPASS_ISSUER: &str = "bypass";

#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The value of the issuer's user claim. Never empty.
    pub subject: String,
    /// The configured name of the issuer that verified the user.
    pub issuer: Arc<str>,
    /// The `jti` of the token, if it has one.
    pub token_id: Option<String>,
    /// The issuer's own session id, if the token has one.
    pub issuer_session: Option<String>,
    pub permissions: Vec<String>,
    /// The issue time of the token; 0 if the token does not have one.
    pub issued_at: UnixMillis,
    /// The expiry time of the credential.
    pub expires_at: UnixMillis,
    /// The token has expired, and is valid only by the issuer's leeway.
    pub in_leeway: bool,
    /// The claims that `[context] claims` copies into the signed context.
    pub claims: Map<String, Value>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn principal(
        subject: &str,
        issuer: &str,
        token: Option<&str>,
        login: Option<&str>,
        issued_at: u64,
    ) -> Principal {
        Principal {
            subject: subject.to_owned(),
            issuer: issuer.into(),
            token_id: token.map(str::to_owned),
            issuer_session: login.map(str::to_owned),
            permissions: Vec::new(),
            issued_at: UnixMillis::from_secs(issued_at),
            expires_at: UnixMillis(u64::MAX),
            in_leeway: false,
            claims: serde_json::Map::new(),
        }
    }
}
