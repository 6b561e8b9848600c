//! Fetches the key set of an issuer, and names the faults.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use crate::auth::issuer_keys::{self, Jwk, KeySetError};
use crate::base::strict_json;
use crate::config::{Issuer, KeyOrigin, RemoteKeys};
use crate::model::service_url::ServiceUrl;
use crate::net::fetch::{FetchConfig, FetchError, Fetched, Fetcher};

/// The maximum size of a set, and of a discovery document.
const MOST_BYTES: usize = issuer_keys::MAX_SET_BYTES as usize;

/// The source of one issuer's keys.
#[derive(Debug)]
pub struct KeySetSource {
    issuer: Arc<Issuer>,
    origin: KeyOrigin,
    fetcher: Fetcher,
    timeout: Duration,
    allow_plain: bool,
}

/// A usable set, as text and parsed.
#[derive(Debug)]
pub struct FetchedSet {
    pub text: String,
    pub keys: Vec<Jwk>,
}

#[derive(Debug, thiserror::Error)]
pub enum KeySetFault {
    #[error("{place}: {error}")]
    Fetch { place: String, error: FetchError },
    #[error("{place}: {error}")]
    Set { place: String, error: KeySetError },
    #[error("{place} is not a discovery document: {error}")]
    Document { place: String, error: serde_json::Error },
    #[error(
        "{place} names the issuer '{found}', which differs from the configured one; both must \
         match exactly"
    )]
    OtherIssuer { place: String, found: String },
    #[error("{place} has a `jwks_uri` that is not allowed: {why}")]
    Forbidden { place: String, why: String },
}

/// A discovery document (OpenID Connect Discovery 1.0 section 3). Other fields are ignored.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

impl KeySetSource {
    pub fn new(issuer: &Arc<Issuer>, from: &RemoteKeys) -> Result<Self, String> {
        let config = FetchConfig {
            ca_file: from.ca_file.clone(),
            timeout: from.timeout,
            max_body: MOST_BYTES,
            max_idle: 1,
        };
        let (issuer, origin) = (Arc::clone(issuer), from.origin.clone());
        Ok(Self {
            issuer,
            origin,
            fetcher: Fetcher::new(config)?,
            timeout: from.timeout,
            allow_plain: from.allow_plain,
        })
    }

    /// Returns the URL in the config.
    pub fn origin(&self) -> &ServiceUrl {
        match &self.origin {
            KeyOrigin::Url(place) | KeyOrigin::Discovery(place) => place,
        }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub async fn fetch(&self) -> Result<FetchedSet, KeySetFault> {
        timeout(self.timeout, Box::pin(self.ask()))
            .await
            .unwrap_or_else(|_| Err(self.late(self.timeout)))
    }

    pub fn late(&self, after: Duration) -> KeySetFault {
        KeySetFault::Fetch { place: self.origin().to_string(), error: FetchError::Timeout(after) }
    }

    async fn ask(&self) -> Result<FetchedSet, KeySetFault> {
        let place = match &self.origin {
            KeyOrigin::Url(place) => place.clone(),
            KeyOrigin::Discovery(document) => self.discover(document).await?,
        };
        let answer = self.get(&place).await?;
        let wrong = |error| KeySetFault::Set { place: place.to_string(), error };
        let keys = issuer_keys::parse(&answer.body, &self.issuer.algorithms).map_err(wrong)?;
        Ok(FetchedSet { text: String::from_utf8_lossy(&answer.body).into_owned(), keys })
    }

    async fn discover(&self, place: &ServiceUrl) -> Result<ServiceUrl, KeySetFault> {
        let answer = self.get(place).await?;
        let document: Document = strict_json::record(&answer.body)
            .map_err(|error| KeySetFault::Document { place: place.to_string(), error })?;
        // Section 4.3: "The issuer value returned MUST be identical to the Issuer URL".
        if document.issuer != self.issuer.issuer {
            return Err(KeySetFault::OtherIssuer {
                place: place.to_string(),
                found: document.issuer.chars().take(200).collect(),
            });
        }
        keys_place(place, &document.jwks_uri, self.allow_plain)
            .map_err(|why| KeySetFault::Forbidden { place: place.to_string(), why })
    }

    async fn get(&self, place: &ServiceUrl) -> Result<Fetched, KeySetFault> {
        let answer = self.fetcher.get(place, None).await.and_then(Fetched::success);
        answer.map_err(|error| KeySetFault::Fetch { place: place.to_string(), error })
    }
}

/// Checks the URL of the keys in a discovery document. A document from https must not lead to plain
/// http, where an attacker could have written the keys.
fn keys_place(document: &ServiceUrl, keys: &str, allow_plain: bool) -> Result<ServiceUrl, String> {
    let keys = ServiceUrl::parse(keys, allow_plain)?;
    if document.is_tls() && !keys.is_tls() && !allow_plain {
        return Err(format!("`{keys}` is plain http, but the document came over https"));
    }
    Ok(keys)
}

impl KeySetFault {
    /// Returns all labels of [`KeySetFault::label`].
    pub fn labels() -> Vec<&'static str> {
        [&FetchError::LABELS[..], &["no_usable_key", "other_issuer", "forbidden"]].concat()
    }

    pub fn label(&self) -> &'static str {
        match self {
            Self::Fetch { error, .. } => error.label(),
            Self::Set { error: KeySetError::TooLarge | KeySetError::TooManyKeys, .. } => {
                "too_large"
            }
            Self::Set { error: KeySetError::NoUsableKey(_), .. } => "no_usable_key",
            Self::Set { .. } | Self::Document { .. } => "malformed",
            Self::OtherIssuer { .. } => "other_issuer",
            Self::Forbidden { .. } => "forbidden",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_leads_to_https_or_from_this_machine_to_itself() {
        let leads = |document: &str, keys: &str, allow_plain| {
            keys_place(&ServiceUrl::parse(document, true).unwrap(), keys, allow_plain).is_ok()
        };
        assert!(leads("https://a", "https://b/keys", false));
        assert!(leads("http://127.0.0.1:1", "http://127.0.0.1:1/keys", false));
        assert!(leads("https://a", "http://a/keys", true));
        for keys in [
            "http://a/keys",
            "http://127.0.0.1/keys",
            "http://169.254.169.254/keys",
            "file:///keys",
            "/keys",
            "",
        ] {
            assert!(!leads("https://a", keys, false), "{keys}");
        }
        assert!(!leads("http://127.0.0.1:1", "http://a/keys", false));
    }

    #[test]
    fn every_fault_has_a_label_of_the_set() {
        let place = || "https://a".to_owned();
        let json = || serde_json::from_str::<Document>("{").map(drop).unwrap_err();
        for fault in [
            KeySetFault::Set { place: place(), error: KeySetError::TooLarge },
            KeySetFault::Set { place: place(), error: KeySetError::NoUsableKey(String::new()) },
            KeySetFault::Set { place: place(), error: json().into() },
            KeySetFault::Document { place: place(), error: json() },
            KeySetFault::OtherIssuer { place: place(), found: place() },
            KeySetFault::Forbidden { place: place(), why: String::new() },
        ] {
            assert!(KeySetFault::labels().contains(&fault.label()), "{fault}");
        }
    }
}
