//! The sources of a verifier's answers: a service over HTTP, an introspection endpoint (RFC 7662),
//! or a key in Redis.
//!
//! Every other result than a clear yes or no is a [`VerifierFault`].

use std::net::IpAddr;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{VerifierAnswer, VerifierQuestion, claims};
use crate::auth::decoded;
use crate::auth::jwt::names_audience;
use crate::base::clock::UnixMillis;
use crate::base::strict_json;
use crate::config::{self, SessionKeys, VerifierEndpoint, VerifierKind};
use crate::model::faults::InvalidToken;
use crate::model::method::Method;
use crate::model::secret::Secret;
use crate::model::verifier_fault::VerifierFault;
use crate::net::fetch::{FetchConfig, FetchError, Fetched, Fetcher};
use crate::store::redis::SessionLookup;

/// The minimum length of an id: a shorter one can be guessed, or be the name of another key.
const SHORTEST_ID: usize = 16;

#[derive(Debug)]
pub(super) enum VerifierSource {
    Http(Fetcher),
    Introspection(Fetcher),
    Redis(Box<SessionLookup>),
}

/// The body of a request to a verifier over HTTP.
#[derive(Serialize)]
struct VerifierRequest<'a> {
    credential: &'a str,
    /// `token` or `session`.
    kind: &'static str,
    method: &'static str,
    route: &'a str,
    client_address: IpAddr,
}

impl VerifierSource {
    pub(super) fn open(config: &config::Verifier) -> Result<Self, String> {
        let fetcher = |asked: &VerifierEndpoint| {
            Fetcher::new(FetchConfig {
                ca_file: asked.ca_file.clone(),
                timeout: config.timeout,
                max_body: asked.max_answer_bytes,
                max_idle: config.concurrency.min(32),
            })
        };
        Ok(match &config.kind {
            VerifierKind::Http(asked) => Self::Http(fetcher(asked)?),
            VerifierKind::Introspection { asked, .. } => Self::Introspection(fetcher(asked)?),
            VerifierKind::Redis(keys) => Self::Redis(Box::new(
                SessionLookup::open(&keys.redis).map_err(|error| error.to_string())?,
            )),
        })
    }

    pub(super) async fn ask(
        &self,
        config: &config::Verifier,
        carried: &[String],
        question: &VerifierQuestion,
        now: UnixMillis,
    ) -> Result<VerifierAnswer, VerifierFault> {
        let (claims, kept_for) = match (self, &config.kind) {
            (Self::Http(fetcher), VerifierKind::Http(asked)) => {
                let answer = fetcher
                    .post(
                        &asked.place,
                        json_type(),
                        asked.authorization.as_ref(),
                        request_body(question)?,
                    )
                    .await?;
                if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    return Ok(VerifierAnswer::No(InvalidToken::Refused));
                }
                (object(&answer)?, None)
            }
            (
                Self::Introspection(fetcher),
                VerifierKind::Introspection { asked, issuer, audience },
            ) => {
                let body = form(question.credential.expose());
                let answer = fetcher
                    .post(&asked.place, form_type(), asked.authorization.as_ref(), body)
                    .await?;
                let claims = object(&answer)?;
                if let Some(why) = introspected(&claims, issuer.as_deref(), audience)? {
                    return Ok(VerifierAnswer::No(why));
                }
                (claims, None)
            }
            (Self::Redis(lookup), VerifierKind::Redis(keys)) => {
                let id = question.credential.expose_str().unwrap_or_default();
                let key = Zeroizing::new(format!("{}{id}{}", keys.before, keys.after));
                let Some(found) =
                    lookup.read(&key, keys.max_answer_bytes).await.map_err(VerifierFault::Store)?
                else {
                    return Ok(VerifierAnswer::No(InvalidToken::Refused));
                };
                if found.value.len() > keys.max_answer_bytes {
                    return Err(VerifierFault::TooLarge);
                }
                (strict_json::object(&found.value).ok_or(VerifierFault::Malformed)?, found.left)
            }
            _ => return Err(VerifierFault::Lost),
        };
        Ok(claims::judge(config, carried, claims, kept_for, now))
    }
}

/// Returns the credential to ask about. Refuses a credential that a verifier of this kind cannot
/// know.
pub(super) fn credential(
    config: &config::Verifier,
    method: Method,
    shown: &Secret,
) -> Result<Secret, InvalidToken> {
    if shown.len() > config.max_token_bytes {
        return Err(InvalidToken::TooLong);
    }
    let malformed = match method {
        Method::Session => InvalidToken::SessionId,
        _ => InvalidToken::Malformed,
    };
    if shown.is_empty() || !shown.expose().iter().all(u8::is_ascii_graphic) {
        return Err(malformed);
    }
    let VerifierKind::Redis(keys) = &config.kind else { return Ok(shown.clone()) };
    let id = match &keys.cookie_secret {
        Some(secret) if method == Method::Session => signed_id(shown, secret)?,
        _ => shown.clone(),
    };
    // Only characters without a special meaning in a key, or in the slot selection of a cluster.
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_,".contains(byte);
    if id.len() < SHORTEST_ID || id.len() > SessionKeys::LONGEST_ID || !id.expose().iter().all(fits)
    {
        return Err(malformed);
    }
    Ok(id)
}

/// Returns the id in `s:<id>.<signature>`, the cookie of express-session: HMAC-SHA256 in base64
/// without padding.
fn signed_id(shown: &Secret, secret: &Secret) -> Result<Secret, InvalidToken> {
    let written =
        Zeroizing::new(shown.expose_str().and_then(decoded).ok_or(InvalidToken::SessionId)?);
    let (id, signature) = written
        .strip_prefix("s:")
        .and_then(|rest| rest.rsplit_once('.'))
        .ok_or(InvalidToken::SessionId)?;
    let signature =
        STANDARD_NO_PAD.decode(signature).map_err(|_| InvalidToken::SessionSignature)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    hmac::verify(&key, id.as_bytes(), &signature).map_err(|_| InvalidToken::SessionSignature)?;
    Ok(Secret::from(id))
}

fn request_body(question: &VerifierQuestion) -> Result<Bytes, VerifierFault> {
    let request_body = VerifierRequest {
        credential: question.credential.expose_str().unwrap_or_default(),
        kind: if question.method == Method::Session { "session" } else { "token" },
        method: question.method.name(),
        route: &question.route,
        client_address: question.address,
    };
    // The body is wiped after it is sent.
    Ok(Bytes::from_owner(Zeroizing::new(
        serde_json::to_vec(&request_body).map_err(|_| VerifierFault::Malformed)?,
    )))
}

/// Returns the form with the token (RFC 7662 section 2.1). Without `token_type_hint`, because
/// servers may search further anyway.
fn form(token: &[u8]) -> Bytes {
    let mut body = Zeroizing::new(Vec::with_capacity(6 + 3 * token.len()));
    body.extend_from_slice(b"token=");
    for byte in token {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            body.push(*byte);
        } else {
            body.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    Bytes::from_owner(body)
}

fn object(answer: &Fetched) -> Result<Map<String, Value>, VerifierFault> {
    if answer.status != StatusCode::OK {
        return Err(FetchError::Status(answer.status).into());
    }
    strict_json::object(&answer.body).ok_or(VerifierFault::Malformed)
}

/// Returns the reason if the introspection response refuses the token.
fn introspected(
    claims: &Map<String, Value>,
    issuer: Option<&str>,
    audience: &[String],
) -> Result<Option<InvalidToken>, VerifierFault> {
    match claims.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(Some(InvalidToken::Refused)),
        _ => return Err(VerifierFault::Malformed),
    }
    if issuer.is_some_and(|issuer| claims.get("iss").and_then(Value::as_str) != Some(issuer)) {
        return Ok(Some(InvalidToken::UnknownIssuer));
    }
    let is_ours = |claim: &Value| names_audience(claim, audience).unwrap_or(false);
    if !audience.is_empty() && !claims.get("aud").is_some_and(is_ours) {
        return Ok(Some(InvalidToken::Audience));
    }
    Ok(None)
}

fn json_type() -> HeaderValue {
    HeaderValue::from_static("application/json")
}

fn form_type() -> HeaderValue {
    HeaderValue::from_static("application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_introspected_token_is_active_of_the_issuer_and_for_the_audience() {
        let ours = ["chat".to_owned(), "api".to_owned()];
        let judged = |answer: Value, issuer: Option<&str>, audience: &[String]| {
            let Value::Object(claims) = answer else { panic!("{answer}") };
            introspected(&claims, issuer, audience).map_err(|fault| fault.to_string())
        };
        for (answer, issuer, audience, expected) in [
            (json!({ "active": true }), None, &[][..], None),
            (json!({ "active": false }), None, &[], Some(InvalidToken::Refused)),
            (json!({ "active": true, "iss": "a" }), Some("a"), &[], None),
            (
                json!({ "active": true, "iss": "b" }),
                Some("a"),
                &[],
                Some(InvalidToken::UnknownIssuer),
            ),
            (json!({ "active": true }), Some("a"), &[], Some(InvalidToken::UnknownIssuer)),
            (json!({ "active": true, "aud": "chat" }), None, &ours, None),
            (json!({ "active": true, "aud": ["x", "api"] }), None, &ours, None),
            (json!({ "active": true, "aud": "x" }), None, &ours, Some(InvalidToken::Audience)),
            (json!({ "active": true, "aud": 7 }), None, &ours, Some(InvalidToken::Audience)),
            (json!({ "active": true }), None, &ours, Some(InvalidToken::Audience)),
        ] {
            assert_eq!(judged(answer.clone(), issuer, audience), Ok(expected), "{answer}");
        }
        for answer in [json!({}), json!({ "active": "true" }), json!({ "active": null })] {
            assert!(judged(answer.clone(), None, &[]).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_verifier_gets_the_credential_as_it_is() {
        assert_eq!(&form(b"aZ9-._~")[..], b"token=aZ9-._~");
        assert_eq!(&form(b"a+b/c=&d %")[..], b"token=a%2Bb%2Fc%3D%26d%20%25");
        let question = |method| VerifierQuestion {
            credential: "opaque".into(),
            method,
            route: "/ws".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        for (method, kind) in [(Method::Session, "session"), (Method::Header, "token")] {
            let body = request_body(&question(method)).unwrap();
            assert_eq!(
                serde_json::from_slice::<Value>(&body).unwrap(),
                json!({ "credential": "opaque", "kind": kind, "method": method.name(),
                        "route": "/ws", "client_address": "127.0.0.1" })
            );
        }
    }

    #[test]
    fn only_an_answer_of_200_with_one_object_counts() {
        let answer = |status, body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            object(&Fetched { status, headers: http::HeaderMap::new(), body }).is_ok()
        };
        assert!(answer(StatusCode::OK, "{\"active\":true}"));
        assert!(!answer(StatusCode::CREATED, "{\"active\":true}"));
        assert!(!answer(StatusCode::OK, "[]"));
        assert!(!answer(StatusCode::OK, "{\"active\":true,\"active\":false}"));
    }
}
