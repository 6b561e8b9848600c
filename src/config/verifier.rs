//! The configuration of verifiers, and of who judges what a client shows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;
use super::store::Redis;
use crate::fetch::Place;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    pub name: Arc<str>,
    pub kind: VerifierKind,
    /// For one question, the wait for a place among those that are asked included.
    pub timeout: Duration,
    /// Questions on their way at once, and how many more wait for them.
    pub concurrency: usize,
    pub max_waiting: usize,
    /// How long a good answer is believed without asking again, and a refusal. Zero: not at all.
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
    /// An answer is good for this long at most, whatever it says.
    pub max_lifetime: Duration,
    /// Live sessions are asked about so often; not at all unless written.
    pub revalidate: Option<Duration>,
    /// How long a live session goes on while nobody answers; to the end of its grant unless written.
    pub revalidate_grace: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifierKind {
    /// Takes the credential as JSON, and answers with claims.
    Http(Asked),
    /// RFC 7662.
    Introspection { asked: Asked, issuer: Option<String>, audience: Vec<String> },
    /// Session ids are part of a key, whose value is JSON.
    Redis(Box<SessionKeys>),
}

/// A server that is asked over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub place: Place,
    pub ca_file: Option<PathBuf>,
    /// What Usher shows of itself: the whole value, scheme and all.
    pub authorization: Option<Secret>,
    pub max_answer_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeys {
    pub redis: Redis,
    /// What stands around the id in a key.
    pub before: String,
    pub after: String,
    /// The cookie is signed as `cookie-signature` does it.
    pub cookie_secret: Option<Secret>,
    pub max_answer_bytes: usize,
}

/// Who judges what a client shows. Issuers judge tokens unless a verifier is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judges {
    /// The verifier of tokens.
    pub tokens: Option<Arc<str>>,
    /// A token in the shape of a JWT goes to the issuers all the same.
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
    /// Of an id, whatever `max_token_bytes` says.
    pub const LONGEST_ID: usize = 256;
}
