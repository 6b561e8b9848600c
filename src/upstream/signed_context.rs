//! The header that tells an upstream who the client is, signed so that it can believe it.
//!
//! A compact JWS, good for a minute and for one upstream. Its fixed part is encoded once.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::auth::grant::Grant;
use crate::clock::Now;
use crate::config::{self, Route};
use crate::keyring::Keyring;

#[derive(Debug)]
pub struct SignedContext {
    keyring: Arc<Keyring>,
    /// The protected header, encoded, and its dot.
    prefix: String,
    issuer: String,
    ttl: Duration,
}

/// The request that the context speaks of.
#[derive(Clone, Copy, Debug)]
pub struct ContextRequest<'a> {
    pub session_id: &'a str,
    pub upstream: &'a str,
    pub client: IpAddr,
    pub host: &'a str,
    pub path: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    sid: &'a str,
    session_exp: u64,
    auth: Auth<'a>,
    permissions: &'a [String],
    /// Chosen claims of the token, in a place of their own: none of them can pass for one of ours.
    #[serde(skip_serializing_if = "Map::is_empty")]
    claims: &'a Map<String, Value>,
    client: IpAddr,
    req: Req<'a>,
}

#[derive(Serialize)]
struct Auth<'a> {
    method: &'a str,
    issuer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Req<'a> {
    host: &'a str,
    path: &'a str,
}

impl SignedContext {
    pub fn new(context: &config::Context, keyring: Arc<Keyring>) -> Self {
        let header = serde_json::json!({ "alg": keyring.algorithm(), "kid": keyring.key_id(), "typ": "JWT" });
        let prefix = format!("{}.", URL_SAFE_NO_PAD.encode(header.to_string()));
        Self { keyring, prefix, issuer: context.issuer.clone(), ttl: context.ttl }
    }

    /// `None` for a public grant: there is nobody to speak of.
    pub fn header_value(&self, grant: &Grant, about: ContextRequest<'_>, now: Now) -> Option<HeaderValue> {
        let principal = grant.principal()?;
        let claims = Claims {
            iss: &self.issuer,
            aud: about.upstream,
            sub: &principal.subject,
            iat: now.wall.as_secs(),
            exp: (now.wall + self.ttl).as_secs(),
            jti: &random_id()?,
            sid: about.session_id,
            session_exp: principal.expires_at.as_secs(),
            auth: Auth { method: grant.method()?.name(), issuer: &principal.issuer, token_id: principal.token_id.as_deref() },
            permissions: &principal.permissions,
            claims: &principal.claims,
            client: about.client,
            req: Req { host: about.host, path: about.path },
        };
        let mut token = self.prefix.clone();
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&claims).ok()?, &mut token);
        let signature = self.keyring.sign(token.as_bytes())?;
        write!(token, ".{}", URL_SAFE_NO_PAD.encode(signature)).ok()?;
        HeaderValue::try_from(token).ok()
    }
}

/// The unsigned convenience headers that the route names. A claim that is absent, or no plain value, gives no header.
pub fn identity_headers(route: &Route, grant: &Grant) -> Vec<(HeaderName, HeaderValue)> {
    let Some(principal) = grant.principal() else { return Vec::new() };
    let value_of = |claim: &str| {
        let text = match (claim, principal.claims.get(claim)) {
            ("sub", _) => principal.subject.clone(),
            (_, Some(Value::String(text))) => text.clone(),
            (_, Some(value @ (Value::Number(_) | Value::Bool(_)))) => value.to_string(),
            _ => return None,
        };
        // A header of bytes beyond ASCII is read in as many ways as there are servers.
        HeaderValue::from_str(&text).ok().filter(|_| text.is_ascii())
    };
    route.identity_headers.iter().filter_map(|(name, claim)| Some((name.clone(), value_of(claim)?))).collect()
}

fn random_id() -> Option<String> {
    let mut bits = [0; 16];
    rand::fill(&mut bits).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bits))
}
