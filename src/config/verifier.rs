//! The configuration of verifiers, and of the credentials that each one verifies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::store::Redis;
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    pub name: Arc<str>,
    pub kind: VerifierKind,
    /// How long one request may take, including the wait in the queue.
    pub timeout: Duration,
    /// Concurrent requests.
    pub concurrency: usize,
    /// Requests that wait in the queue.
    pub max_waiting: usize,
    /// How long an accepted credential is cached. Zero turns the cache off.
    pub cache_ttl: Duration,
    /// How long a rejected credential is cached. Zero turns the cache off.
    pub negative_cache_ttl: Duration,
    /// Cached credentials, for each of accepted and rejected ones.
    pub cache_entries: usize,
    /// A name at the top of the answer, or a JSON pointer.
    pub user_claim: String,
    pub permissions_claim: String,
    pub session_claim: String,
    pub expiry_claim: String,
    pub max_token_bytes: usize,
    /// The longest time that an answer is valid, even if it expires later.
    pub max_lifetime: Duration,
    /// How often open sessions are verified again. `None`: never.
    pub revalidate: Option<Duration>,
    /// How long an open session continues without an answer. `None`: until its grant expires.
    pub revalidate_grace: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifierKind {
    /// Gets the credential as JSON, and answers with claims.
    Http(VerifierEndpoint),
    /// RFC 7662.
    Introspection { asked: VerifierEndpoint, issuer: Option<String>, audience: Vec<String> },
    /// A Redis with sessions. A key contains the session id; its value is JSON.
    Redis(Box<SessionKeys>),
}

/// A server that verifies over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierEndpoint {
    pub place: ServiceUrl,
    pub ca_file: Option<PathBuf>,
    /// The whole value of `Authorization`, with its scheme.
    pub authorization: Option<Secret>,
    pub max_answer_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeys {
    pub redis: Redis,
    /// The text around the id in a key.
    pub before: String,
    pub after: String,
    /// Set if the cookie is signed as in the package `cookie-signature`.
    pub cookie_secret: Option<Secret>,
    pub max_answer_bytes: usize,
}

/// The verifiers of a client's credentials. Without a verifier of tokens, the issuers verify them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialVerifiers {
    /// The verifier of tokens.
    pub tokens: Option<Arc<str>>,
    /// Whether tokens in the form of a JWT go to the issuers.
    pub opaque_only: bool,
    /// The verifier of session ids.
    pub sessions: Option<Arc<str>>,
}

impl VerifierKind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Introspection { .. } => "introspection",
            Self::Redis(_) => "redis",
        }
    }
}

impl SessionKeys {
    /// The longest id in bytes, even if `max_token_bytes` is larger.
    pub const LONGEST_ID: usize = 256;
}
