//! Checks a token for `usher explain`, check by check, without consequences.
//!
//! The verdict comes from the function that serves requests: [`Issuers::verify`].

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::checks::{CheckOutcome, CheckRecorder};
use super::jwt::{Issuers, Keys, LoadError, opened};
use crate::base::clock::{Now, UnixMillis};
use crate::config;
use crate::model::algorithm::Algorithm;
use crate::model::faults::InvalidToken;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::rejection::Rejection;

/// A token, and the result of each check.
#[derive(Debug)]
pub struct InspectedToken {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    pub bytes: usize,
    /// The configured issuer that the token names.
    pub issuer: Option<Arc<config::Issuer>>,
    pub keys: Option<KeysHeld>,
    pub checks: Vec<CheckOutcome>,
    /// The verdict of the function that serves requests.
    pub verdict: Result<Principal, InvalidToken>,
}

/// The keys that Usher holds for an issuer.
#[derive(Debug)]
pub struct KeysHeld {
    pub keys: Vec<(Option<String>, Vec<Algorithm>)>,
    /// The time of the last fetch, if the issuer publishes its keys.
    pub fetched_at: Option<UnixMillis>,
    /// The fault of the last fetch, if it failed.
    pub fault: Option<&'static str>,
}

impl Issuers {
    /// Fetches the keys of the issuer that a token names, if the issuer publishes them.
    pub async fn fetch_for(&self, token: &Secret) {
        let Some((_, claims)) = opened(token) else { return };
        if let Ok(issuer) = self.issuer_of(&claims)
            && let Keys::Remote(remote) = &issuer.keys
        {
            Arc::clone(remote).prefetch().await;
        }
    }

    /// Makes every check of a token, also after a failure.
    pub fn inspect(&self, token: &Secret, now: Now) -> InspectedToken {
        let mut recorder = CheckRecorder::default();
        // The result after a failure is not a verdict.
        let _ = self.verify_before(&mut recorder, token, now);
        let (header, claims) = opened(token).unwrap_or_default();
        let issuer = self.issuer_of(&claims).ok();
        let keys = issuer.map(|issuer| match &issuer.keys {
            Keys::Fixed(set) => (set.names().map(owned).collect(), (None, None)),
            Keys::Remote(remote) => {
                let keys = remote.current().map(|set| set.names().map(owned).collect());
                (keys.unwrap_or_default(), remote.standing())
            }
        });
        InspectedToken {
            header,
            claims,
            bytes: token.len(),
            issuer: issuer.map(|issuer| Arc::clone(&issuer.config)),
            keys: keys.map(|(keys, (fetched_at, fault))| KeysHeld { keys, fetched_at, fault }),
            checks: recorder.0,
            verdict: self.verify(token, now),
        }
    }

    /// Returns the rejection of a token. All keys that can be fetched must already be fetched.
    pub fn rejection(&self, why: InvalidToken, token: &Secret, now: Now) -> Rejection {
        match why {
            InvalidToken::UnknownKey | InvalidToken::NoKeys => {
                match self.issuers_to_refetch(token, now) {
                    Some(remote) if remote.standing().1.is_some() => remote.missing(),
                    _ => why.into(),
                }
            }
            why => why.into(),
        }
    }
}

fn owned((id, algorithms): (Option<&str>, &[Algorithm])) -> (Option<String>, Vec<Algorithm>) {
    (id.map(str::to_owned), algorithms.to_vec())
}

/// Loads the issuers of a configuration, with the key sets that a running process has saved in its
/// state directory. Writes nothing.
pub fn issuers(config: &config::Config, state_dir: &Path) -> Result<Issuers, LoadError> {
    Ok(Issuers::load(&config.issuers, &config.context.claims)?.restored_from(state_dir))
}
