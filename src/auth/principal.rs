//! Who a credential turned out to belong to.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::clock::UnixMillis;

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
