//! The configuration of verifiers, and of which verifier gets a credential.

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
    /// For one request, with the wait for a place among `concurrency`.
    pub timeout: Duration,
    /// Requests at once, and how many more wait for a place.
    pub concurrency: usize,
    pub max_waiting: usize,
    /// How long a good answer is reused, and a refusal. Zero: not at all.
    pub cache_ttl: Duration,
    pub negative_cache_ttl: Duration,
    /// Answers kept of each of the two kinds.
    pub cache_entries: usize,
    /// A name at the top of the answer, or a JSON pointer.
    pub user_claim: String,
    pub permissions_claim: String,
    pub session_claim: String,
    pub expiry_claim: String,
    pub max_token_bytes: usize,
    /// How long an answer is valid at most, whatever it says.
    pub max_lifetime: Duration,
    /// How often live sessions are verified again; not at all unless written.
    pub revalidate: Option<Duration>,
    /// How long a live session goes on without an answer; to the end of its grant unless written.
    pub revalidate_grace: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifierKind {
    /// Takes the credential as JSON, and answers with claims.
    Http(VerifierEndpoint),
    /// RFC 7662.
    Introspection { asked: VerifierEndpoint, issuer: Option<String>, audience: Vec<String> },
    /// Session ids are part of a key, whose value is JSON.
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
    /// The cookie is signed as `cookie-signature` does it.
    pub cookie_secret: Option<Secret>,
    pub max_answer_bytes: usize,
}

/// Which verifiers judge the credentials of a client. Issuers judge tokens unless one is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judges {
    /// The verifier of tokens.
    pub tokens: Option<Arc<str>>,
    /// Tokens in the shape of a JWT go to the issuers.
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
    /// Bytes of an id at most, whatever `max_token_bytes` says.
    pub const LONGEST_ID: usize = 256;
}
