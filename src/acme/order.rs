//! One order, from the account to the certificate: RFC 8555 section 7.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::client::{AuthorityClient, problem_words, status_of, url, url_in, value_of};
use super::fault::{AcmeFault, shown};
use super::jws::AccountKey;
use super::state::{AccountRecord, CertificateRecord, Lock, PendingChallenge, Slot};
use super::{Acme, LOOK};
use crate::base::clock::Now;
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;
use crate::net::tls::acme::{IssuedCertificate, signing_request};

/// How long one order may take.
pub const ORDER_LIMIT: Duration = Duration::from_secs(300);
/// The wait until every node has read the challenges that it must answer.
const SETTLE: Duration = LOOK.saturating_mul(3);
/// RFC 8555 section 8.1: a token has at least 128 bits in base64url.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 22..=256;

/// A name that the authority has not validated yet.
struct Authorization {
    place: ServiceUrl,
    challenge: ServiceUrl,
    pending: PendingChallenge,
}

impl Acme {
    /// Orders a certificate and writes it. Returns the record as it is stored.
    pub(super) async fn order(&self, lock: &Lock) -> Result<Vec<u8>, AcmeFault> {
        let mut client = self.open_account(lock).await?;
        let (place, order) = match client.order().await {
            Err(AcmeFault::Refused { kind, .. }) if kind == "accountDoesNotExist" => {
                // The authority has lost the account. Its key makes another one.
                let url = client.register().await?;
                self.write_account(lock, &client.key, url).await?;
                client.order().await?
            }
            outcome => outcome?,
        };
        self.validate(lock, &mut client, &order).await?;
        let (key, request) = signing_request(&self.config.domains).map_err(AcmeFault::State)?;
        let order = client.wait(&place, &["pending"]).await?;
        let order = if status_of(&order) == "ready" {
            let payload = json!({ "csr": URL_SAFE_NO_PAD.encode(request) });
            client.post(&url_in(&order, "finalize")?, Some(&payload)).await?;
            client.wait(&place, &["pending", "ready", "processing"]).await?
        } else {
            order
        };
        if status_of(&order) != "valid" {
            let (kind, detail) = problem_words(order.get("error").unwrap_or(&Value::Null));
            let status = shown(status_of(&order));
            return Err(AcmeFault::Malformed(format!("the order is {status}: {kind}: {detail}")));
        }
        let chain = client.post(&url_in(&order, "certificate")?, None).await?.body;
        let chain = String::from_utf8(chain.to_vec())
            .map_err(|_| AcmeFault::Certificate("the chain is not PEM".to_owned()))?;
        let record = self.check(chain, &key)?;
        self.keeper.write(lock, Slot::Certificate, &record, None).await?;
        Ok(record)
    }

    /// Returns the account of this authority, and makes it at the first time.
    async fn open_account(&self, lock: &Lock) -> Result<AuthorityClient<'_>, AcmeFault> {
        let [stored] = self.keeper.read([Slot::Account]).await?;
        let stored = stored.and_then(|bytes| {
            let record: AccountRecord = serde_json::from_slice(&bytes).ok()?;
            Some((AccountKey::from_base64(&record.key.as_str().into())?, record))
        });
        let (key, record) = match stored {
            Some((key, record)) => (key, Some(record)),
            None => (AccountKey::generate()?, None),
        };
        let account = record.as_ref().map(|record| record.url.clone());
        let mut client = AuthorityClient::open(&self.fetcher, &self.config, key, account).await?;
        match record {
            None => {
                let url = client.register().await?;
                self.write_account(lock, &client.key, url).await?;
            }
            Some(record) if record.contact != self.config.contact => {
                match client.set_contact().await {
                    // The order notices an account that is gone.
                    Err(AcmeFault::Refused { kind, .. }) if kind == "accountDoesNotExist" => {}
                    outcome => {
                        outcome?;
                        self.write_account(lock, &client.key, record.url).await?;
                    }
                }
            }
            Some(_) => {}
        }
        Ok(client)
    }

    async fn write_account(
        &self,
        lock: &Lock,
        key: &AccountKey,
        url: String,
    ) -> Result<(), AcmeFault> {
        let key = key.to_base64();
        let record = AccountRecord {
            url,
            contact: self.config.contact.clone(),
            key: key.expose_str().unwrap_or_default().to_owned(),
        };
        self.keeper.write(lock, Slot::Account, &json_of(&record)?, None).await
    }

    /// Answers the challenges of the names that are not validated yet.
    async fn validate(
        &self,
        lock: &Lock,
        client: &mut AuthorityClient<'_>,
        order: &Value,
    ) -> Result<(), AcmeFault> {
        let places = order.get("authorizations").and_then(Value::as_array);
        let places = places.map(Vec::as_slice).unwrap_or_default();
        if places.len() > self.config.domains.len() {
            return Err(AcmeFault::Malformed("too many authorizations".to_owned()));
        }
        let mut open = Vec::new();
        for place in places {
            let place = url(place.as_str().unwrap_or_default())?;
            let object = value_of(&client.post(&place, None).await?)?;
            if status_of(&object) != "valid" {
                open.push(self.authorization(client, place, &object)?);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        self.publish(lock, open.iter().map(|one| &one.pending)).await?;
        sleep(SETTLE).await;
        let outcome = Self::have_validated(client, &open).await;
        // Also after a failure: nothing is pending any more.
        let cleared = self.publish(lock, std::iter::empty()).await;
        outcome.and(cleared)
    }

    async fn have_validated(
        client: &mut AuthorityClient<'_>,
        open: &[Authorization],
    ) -> Result<(), AcmeFault> {
        for one in open {
            client.post(&one.challenge, Some(&json!({}))).await?;
        }
        for one in open {
            let object = client.wait(&one.place, &["pending", "processing"]).await?;
            if status_of(&object) != "valid" {
                let errors = object.get("challenges").and_then(Value::as_array);
                let error = errors.into_iter().flatten().find_map(|one| one.get("error"));
                let (kind, detail) = problem_words(error.unwrap_or(&Value::Null));
                return Err(AcmeFault::Validation {
                    domain: one.pending.domain.clone(),
                    detail: format!("{kind}: {detail}"),
                });
            }
        }
        Ok(())
    }

    /// Chooses the challenge of the configuration.
    fn authorization(
        &self,
        client: &AuthorityClient<'_>,
        place: ServiceUrl,
        object: &Value,
    ) -> Result<Authorization, AcmeFault> {
        let name = object.get("identifier").and_then(|one| one.get("value"));
        let name = name.and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        if !self.config.domains.contains(&name) {
            return Err(AcmeFault::Malformed(format!("`{}` was not ordered", shown(&name))));
        }
        let kind = self.config.challenge.name();
        let challenges = object.get("challenges").and_then(Value::as_array);
        let text =
            |one: &Value, name: &str| one.get(name).and_then(Value::as_str).map(str::to_owned);
        let challenge = challenges
            .into_iter()
            .flatten()
            .find(|one| text(one, "type").as_deref() == Some(kind))
            .ok_or_else(|| AcmeFault::Malformed(format!("the authority offers no {kind}")))?;
        let token = text(challenge, "token").unwrap_or_default();
        if !is_token(&token) {
            return Err(AcmeFault::Malformed("the token is not base64url".to_owned()));
        }
        Ok(Authorization {
            place,
            challenge: url_in(challenge, "url")?,
            pending: PendingChallenge {
                domain: name,
                key_authorization: client.key.key_authorization(&token),
                token,
            },
        })
    }

    /// Rejects a certificate that clients would refuse, and returns the record of a good one.
    fn check(&self, chain: String, key: &Secret) -> Result<Vec<u8>, AcmeFault> {
        let issued = IssuedCertificate::from_pem(&chain, key)
            .map_err(|problem| AcmeFault::Certificate(shown(&problem)))?;
        let now = Now::read().wall;
        if !issued.is_for_all(&self.config.domains) {
            return Err(AcmeFault::Certificate("it lacks a name".to_owned()));
        }
        // The clock of the authority may be ahead by a little.
        if issued.not_after <= now || issued.not_before > now + Duration::from_secs(300) {
            return Err(AcmeFault::Certificate(format!(
                "it is valid from {} to {}",
                issued.not_before.to_rfc3339(),
                issued.not_after.to_rfc3339()
            )));
        }
        let key = key.expose_str().unwrap_or_default().to_owned();
        json_of(&CertificateRecord { received: now.0, chain, key })
    }
}

/// Returns true for a token that can be a part of a path.
fn is_token(token: &str) -> bool {
    TOKEN_BYTES.contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

pub(super) fn json_of(record: &impl serde::Serialize) -> Result<Vec<u8>, AcmeFault> {
    serde_json::to_vec(record).map_err(|error| AcmeFault::State(error.to_string()))
}
