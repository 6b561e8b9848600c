//! The requests of RFC 8555: nonces, accounts, errors and waiting.

use std::time::Duration;

use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fault::{AcmeFault, shown};
use super::jws::{AccountKey, AccountReference};
use crate::base::clock::{Now, UnixMillis};
use crate::config::Acme as Config;
use crate::model::service_url::ServiceUrl;
use crate::net::fetch::{Fetched, Fetcher};

/// An authority may reject a nonce at any time, and sends another one with the answer.
const MOST_NONCES: usize = 20;
/// The pauses between two questions about the same thing.
const FIRST_POLL: Duration = Duration::from_millis(500);
const LONGEST_POLL: Duration = Duration::from_secs(15);
const MOST_NONCE_BYTES: usize = 512;

/// A conversation with an authority.
pub struct AuthorityClient<'a> {
    fetcher: &'a Fetcher,
    config: &'a Config,
    pub key: AccountKey,
    /// The URL of the account.
    account: Option<String>,
    new_nonce: ServiceUrl,
    new_account: ServiceUrl,
    new_order: ServiceUrl,
    requires_binding: bool,
    nonce: Option<String>,
}

impl<'a> AuthorityClient<'a> {
    /// Fetches the directory.
    pub async fn open(
        fetcher: &'a Fetcher,
        config: &'a Config,
        key: AccountKey,
        account: Option<String>,
    ) -> Result<Self, AcmeFault> {
        let fetched = fetcher.get(&config.directory, None).await?;
        let directory = value_of(&checked(fetched)?)?;
        let requires_binding = directory
            .get("meta")
            .and_then(|meta| meta.get("externalAccountRequired"))
            .and_then(Value::as_bool)
            .unwrap_or(false);
        Ok(Self {
            fetcher,
            config,
            key,
            account,
            new_nonce: url_in(&directory, "newNonce")?,
            new_account: url_in(&directory, "newAccount")?,
            new_order: url_in(&directory, "newOrder")?,
            requires_binding,
            nonce: None,
        })
    }

    /// Makes an account for the key, or finds the one that the key has. Returns its URL.
    pub async fn register(&mut self) -> Result<String, AcmeFault> {
        let mut payload = json!({
            "termsOfServiceAgreed": true,
            "contact": self.config.contact,
        });
        match &self.config.account_binding {
            Some(binding) => {
                let bound = self.key.bind(binding, self.new_account.written())?;
                if let Some(members) = payload.as_object_mut() {
                    members.insert("externalAccountBinding".to_owned(), bound);
                }
            }
            None if self.requires_binding => {
                let problem = "the authority requires an external account: write `eab_kid` and \
                               `eab_key_env`";
                return Err(AcmeFault::State(problem.to_owned()));
            }
            None => {}
        }
        self.account = None;
        let url = self.new_account.clone();
        let answer = self.post(&url, Some(&payload)).await?;
        let account = location(&answer.headers)?.written().to_owned();
        self.account = Some(account.clone());
        Ok(account)
    }

    /// Changes the contacts of the account.
    pub async fn set_contact(&mut self) -> Result<(), AcmeFault> {
        let Some(account) = self.account.clone() else { return Ok(()) };
        let payload = json!({ "contact": self.config.contact });
        self.post(&url(&account)?, Some(&payload)).await.map(drop)
    }

    /// Orders a certificate. Returns the URL of the order, and the order.
    pub async fn order(&mut self) -> Result<(ServiceUrl, Value), AcmeFault> {
        let identifiers: Vec<_> = self
            .config
            .domains
            .iter()
            .map(|name| json!({ "type": "dns", "value": name }))
            .collect();
        let place = self.new_order.clone();
        let answer = self.post(&place, Some(&json!({ "identifiers": identifiers }))).await?;
        Ok((location(&answer.headers)?, value_of(&answer)?))
    }

    /// Asks until the object has another status than these. Returns the object.
    pub async fn wait(&mut self, place: &ServiceUrl, passing: &[&str]) -> Result<Value, AcmeFault> {
        let mut pause = FIRST_POLL;
        loop {
            let answer = self.post(place, None).await?;
            let object = value_of(&answer)?;
            if !passing.contains(&status_of(&object)) {
                return Ok(object);
            }
            let wish = retry_after(&answer.headers, Now::read().wall).unwrap_or(pause);
            sleep(wish.clamp(FIRST_POLL, LONGEST_POLL)).await;
            pause = (pause * 2).min(LONGEST_POLL);
        }
    }

    /// Sends a signed request, again with another nonce if the authority rejects the nonce. A
    /// request without a payload reads the object.
    pub async fn post(
        &mut self,
        place: &ServiceUrl,
        payload: Option<&Value>,
    ) -> Result<Fetched, AcmeFault> {
        stays_secret(&self.config.directory, place)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.fetch_nonce().await?,
            };
            let signer =
                self.account.as_deref().map_or(AccountReference::Key, AccountReference::Account);
            let body = self.key.sign(&signer, place.written(), &nonce, payload)?;
            let jose = HeaderValue::from_static("application/jose+json");
            let fetched = self.fetcher.post(place, jose, None, Bytes::from(body)).await?;
            self.nonce = nonce_in(&fetched.headers);
            match checked(fetched) {
                Err(AcmeFault::Refused { kind, .. })
                    if kind == "badNonce" && attempt < MOST_NONCES => {}
                outcome => return outcome,
            }
        }
    }

    async fn fetch_nonce(&self) -> Result<String, AcmeFault> {
        stays_secret(&self.config.directory, &self.new_nonce)?;
        let fetched = checked(self.fetcher.get(&self.new_nonce, None).await?)?;
        nonce_in(&fetched.headers)
            .ok_or_else(|| AcmeFault::Malformed("the answer has no nonce".to_owned()))
    }
}

/// Returns the answer, or the error that it carries.
fn checked(fetched: Fetched) -> Result<Fetched, AcmeFault> {
    if fetched.status.is_success() {
        return Ok(fetched);
    }
    // An answer without a readable problem has at least its status.
    let problem: Value = serde_json::from_slice(&fetched.body).unwrap_or_default();
    let (kind, detail) = problem_words(&problem);
    let retry_after = retry_after(&fetched.headers, Now::read().wall);
    Err(AcmeFault::Refused { status: fetched.status, kind, detail, retry_after })
}

/// Returns the kind and the text of a problem document (RFC 7807), fit for logs.
pub fn problem_words(problem: &Value) -> (String, String) {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = text("type").rsplit(':').next().unwrap_or_default();
    (shown(if kind.is_empty() { "unknown" } else { kind }), shown(text("detail")))
}

pub fn value_of(fetched: &Fetched) -> Result<Value, AcmeFault> {
    serde_json::from_slice(&fetched.body)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| AcmeFault::Malformed("the body is not a JSON object".to_owned()))
}

pub fn status_of(object: &Value) -> &str {
    object.get("status").and_then(Value::as_str).unwrap_or_default()
}

/// Returns the URL under a name of an object.
pub fn url_in(object: &Value, name: &str) -> Result<ServiceUrl, AcmeFault> {
    let text = object.get(name).and_then(Value::as_str);
    url(text.ok_or_else(|| AcmeFault::Malformed(format!("`{name}` is missing")))?)
}

pub fn url(text: &str) -> Result<ServiceUrl, AcmeFault> {
    ServiceUrl::parse(text, false).map_err(|problem| AcmeFault::Malformed(shown(&problem)))
}

/// Rejects plain http if the directory has https.
fn stays_secret(directory: &ServiceUrl, place: &ServiceUrl) -> Result<(), AcmeFault> {
    if directory.is_tls() && !place.is_tls() {
        let place = shown(place.written());
        return Err(AcmeFault::Malformed(format!("`{place}` is plain http")));
    }
    Ok(())
}

fn location(headers: &HeaderMap) -> Result<ServiceUrl, AcmeFault> {
    let text = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    url(text.ok_or_else(|| AcmeFault::Malformed("the answer has no Location".to_owned()))?)
}

/// RFC 8555 section 6.5.1: a nonce is base64url.
fn nonce_in(headers: &HeaderMap) -> Option<String> {
    let nonce = headers.get("replay-nonce")?.to_str().ok()?;
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_nonce = (1..=MOST_NONCE_BYTES).contains(&nonce.len()) && nonce.bytes().all(is_base64url);
    is_nonce.then(|| nonce.to_owned())
}

/// Reads seconds, or a date.
fn retry_after(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    UnixMillis::from_http_date(text).map(|date| date.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_as_seconds_or_as_a_date() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, UnixMillis::from_secs(784_111_770))
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!((read("soon"), read("-1")), (None, None));
    }

    #[test]
    fn an_authority_with_https_cannot_lead_to_http() {
        let [secret, plain] = ["https://a.example.com/d", "http://127.0.0.1/d"].map(url);
        let (secret, plain) = (secret.unwrap(), plain.unwrap());
        let fault = stays_secret(&secret, &plain).unwrap_err();
        assert_eq!(fault, AcmeFault::Malformed("`http://127.0.0.1/d` is plain http".to_owned()));
        assert_eq!(stays_secret(&secret, &secret), Ok(()));
        assert_eq!(stays_secret(&plain, &plain), Ok(()));
        assert_eq!(stays_secret(&plain, &secret), Ok(()));
    }

    #[test]
    fn a_nonce_is_base64url_and_not_endless() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("replay-nonce", HeaderValue::from_str(text).unwrap());
            nonce_in(&headers)
        };
        assert_eq!(read("aZ0-_").as_deref(), Some("aZ0-_"));
        assert_eq!((read(""), read("a b"), read("a\"b")), (None, None, None));
        assert_eq!(read(&"a".repeat(MOST_NONCE_BYTES + 1)), None);
    }
}
