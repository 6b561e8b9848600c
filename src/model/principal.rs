//! Who a credential turned out to belong to.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::clock::UnixMillis;

/// The issuer of every client certificate, in the signed context, in revocations and in logs.
pub const CERTIFICATE_ISSUER: &str = "mtls";
/// The issuer of test identities.
pub const BYPASS_ISSUER: &str = "bypass";

#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The user, as the issuer's user claim names them. Never empty.
    pub subject: String,
    /// The name (our config's) of the issuer that vouched for them.
    pub issuer: Arc<str>,
    /// The `jti` of the token, where it had one.
    pub token_id: Option<String>,
    /// The issuer's own session id, where the token had one.
    pub issuer_session: Option<String>,
    pub permissions: Vec<String>,
    /// When the token was issued; the beginning of time where it does not say.
    pub issued_at: UnixMillis,
    /// When the credential stops being good.
    pub expires_at: UnixMillis,
    /// The token's own end has passed, and it is good by the issuer's leeway alone.
    pub in_leeway: bool,
    /// The claims that `[context] claims` asks to carry into the signed context.
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
