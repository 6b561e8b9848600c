//! Verifies bearer tokens: the only module that uses the JWT library.
//!
//! The library only checks signatures. This module checks the header and the claims, because the
//! usual defaults of libraries are unsafe. There, a missing `aud` passes, an `exp` of the wrong
//! type counts as absent, and `crit` is ignored. The algorithm comes from the config and the key,
//! never from the token.

use crate::model::faults::InvalidToken;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, crypto};
use serde_json::{Map, Value};

use super::checks::{Check, CheckWitness, UnwatchedChecks};
use super::issuer_keys::{self, Jwk, KeyMaterial};
use super::remote_keys::RemoteKeys;
use crate::base::clock::{Now, UnixMillis};
use crate::base::strict_json;
use crate::config;
use crate::config::IssuerKeySource;
use crate::model::algorithm::{Algorithm, KeyFamily};
use crate::model::principal::Principal;
use crate::model::secret::Secret;

/// All configured issuers of tokens.
#[derive(Debug)]
pub struct Issuers {
    pub(super) by_name: HashMap<String, Issuer>,
    carried_claims: Vec<String>,
    longest_token: usize,
}

pub(super) struct Issuer {
    pub(super) config: Arc<config::Issuer>,
    pub(super) keys: Keys,
}

pub(super) enum Keys {
    Fixed(KeySet),
    Remote(Arc<RemoteKeys>),
}

/// The keys of one issuer, ready to verify tokens.
pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The algorithms of this key: those of the issuer that fit it.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("issuer '{issuer}': {file}: {problem}", file = file.display())]
    Jwks { issuer: String, file: PathBuf, problem: String },
    #[error("issuer '{issuer}': {problem}")]
    Remote { issuer: String, problem: String },
    #[error("two issuers have the same `issuer`: '{0}'")]
    Twice(String),
}

/// The parts of a token, not verified yet.
struct Parts<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'a [u8],
    signature: &'a str,
}

impl Issuers {
    /// Loads the keys of all issuers. `carried_claims` are kept in the principal, for the signed
    /// context.
    pub fn load(
        issuers: &[Arc<config::Issuer>],
        carried_claims: &[String],
    ) -> Result<Self, LoadError> {
        let mut by_name = HashMap::new();
        for config in issuers {
            let issuer = Issuer { config: Arc::clone(config), keys: load_keys(config)? };
            if by_name.insert(config.issuer.clone(), issuer).is_some() {
                return Err(LoadError::Twice(config.issuer.clone()));
            }
        }
        let longest_token = issuers.iter().map(|issuer| issuer.max_token_bytes).max().unwrap_or(0);
        Ok(Self { by_name, carried_claims: carried_claims.to_vec(), longest_token })
    }

    pub fn verify(&self, token: &Secret, now: Now) -> Result<Principal, InvalidToken> {
        self.verify_before(&mut UnwatchedChecks, token, now)
    }

    /// Verifies a token before a witness. If the witness continues after a failure, the result is
    /// not a verdict.
    pub(super) fn verify_before<W: CheckWitness>(
        &self,
        witness: &mut W,
        token: &Secret,
        now: Now,
    ) -> Result<Principal, InvalidToken> {
        witness.check(Check::Size, fits(token, self.longest_token))?;
        let parts = token.expose_str().ok_or(InvalidToken::Malformed).and_then(Parts::split);
        let parts = witness.require(Check::Shape, parts)?;
        let issuer = witness.require(Check::Issuer, self.issuer_of(&parts.claims))?;
        witness.check(Check::Size, fits(token, issuer.config.max_token_bytes))?;
        let signature = issuer.check_signature(&parts, witness);
        witness.proceed(signature)?;
        issuer.check_claims(&parts.claims, now, &self.carried_claims, witness)
    }

    /// Returns the issuer that the token names. The name is not verified yet: it only selects the
    /// keys and rules that the token has to satisfy.
    pub(super) fn issuer_of(&self, claims: &Map<String, Value>) -> Result<&Issuer, InvalidToken> {
        let named = claims.get("iss").and_then(Value::as_str).ok_or(InvalidToken::Claim("iss"))?;
        self.by_name.get(named).ok_or(InvalidToken::UnknownIssuer)
    }

    /// Returns the issuer to ask for the key of a token, if the key is all that is missing. A token
    /// whose claims are refused causes no request.
    pub(super) fn issuers_to_refetch(&self, token: &Secret, now: Now) -> Option<&Arc<RemoteKeys>> {
        let parts = Parts::split(token.expose_str()?).ok()?;
        let issuer = self.issuer_of(&parts.claims).ok()?;
        let Keys::Remote(remote) = &issuer.keys else { return None };
        issuer
            .check_claims(&parts.claims, now, &self.carried_claims, &mut UnwatchedChecks)
            .ok()
            .map(|_| remote)
    }

    /// Returns the issuers that publish their keys.
    pub(super) fn remote(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.by_name.values().filter_map(|issuer| match &issuer.keys {
            Keys::Remote(remote) => Some(remote),
            Keys::Fixed(_) => None,
        })
    }
}

/// Returns true if the token is a compact JWS with a readable header and claims.
pub fn has_the_shape_of_a_jwt(token: &Secret) -> bool {
    token.expose_str().is_some_and(|text| Parts::split(text).is_ok())
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, InvalidToken> {
        let (parts, payload) = Self::cut(token)?;
        Ok(Self { claims: strict_json::object(&payload).ok_or(InvalidToken::Malformed)?, ..parts })
    }

    /// Splits a token. The second value is the payload, not parsed.
    fn cut(token: &'a str) -> Result<(Self, Vec<u8>), InvalidToken> {
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidToken::Malformed)?;
        if payload.contains('.') || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(InvalidToken::Malformed);
        }
        let decoded = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken::Malformed);
        let (header, payload) = (decoded(header)?, decoded(payload)?);
        let header = strict_json::object(&header).ok_or(InvalidToken::Malformed)?;
        let parts = Self { header, claims: Map::new(), signed: message.as_bytes(), signature };
        Ok((parts, payload))
    }
}

impl Issuer {
    fn check_signature<W: CheckWitness>(
        &self,
        parts: &Parts<'_>,
        witness: &mut W,
    ) -> Result<(), InvalidToken> {
        witness.check(Check::Critical, check_critical(&parts.header))?;
        witness.check(Check::Type, check_type(&parts.header))?;
        let algorithm = witness.require(Check::Algorithm, self.pinned(&parts.header))?;
        let key_id = witness.require(Check::Key, key_id(&parts.header))?;
        let remote;
        let set = match &self.keys {
            Keys::Fixed(set) => set,
            Keys::Remote(keys) => {
                remote = witness.require(Check::Key, keys.current().ok_or(InvalidToken::NoKeys))?;
                &*remote
            }
        };
        let key = witness
            .require(Check::Key, set.find(algorithm, key_id).ok_or(InvalidToken::UnknownKey))?;
        witness.check(Check::Signature, key.check(parts, algorithm))
    }

    /// Returns the token's algorithm if the issuer may use it.
    fn pinned(&self, header: &Map<String, Value>) -> Result<Algorithm, InvalidToken> {
        let named = header.get("alg").and_then(Value::as_str).ok_or(InvalidToken::Algorithm)?;
        self.config
            .algorithms
            .iter()
            .copied()
            .find(|one| one.name() == named)
            .ok_or(InvalidToken::Algorithm)
    }

    fn check_claims<W: CheckWitness>(
        &self,
        claims: &Map<String, Value>,
        now: Now,
        carried: &[String],
        witness: &mut W,
    ) -> Result<Principal, InvalidToken> {
        let config = &self.config;
        if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
            return Err(InvalidToken::UnknownIssuer);
        }
        witness.check(Check::Audience, check_audience(claims, &config.audience))?;
        let expires = claims.get("exp").and_then(date_of).ok_or(InvalidToken::Claim("exp"));
        let expires = witness.require(Check::Expires, expires)?;
        witness.check(
            Check::Expires,
            fail_if(now.wall >= expires + config.leeway, InvalidToken::Expired),
        )?;
        witness.check(
            Check::Lifetime,
            fail_if(expires.since(now.wall) > config.max_lifetime, InvalidToken::Lifetime),
        )?;
        for (name, check) in [("nbf", Check::NotBefore), ("iat", Check::IssuedAt)] {
            if let Some(value) = claims.get(name) {
                let begins = date_of(value).ok_or(InvalidToken::Claim(name));
                let is_good = begins.and_then(|begins| {
                    fail_if(begins > now.wall + config.leeway, InvalidToken::NotYetValid)
                });
                witness.check(check, is_good)?;
            }
        }
        witness.check(Check::Bound, check_unbound(claims))?;
        let lacks_one =
            config.required_claims.iter().any(|name| claims.get(name).is_none_or(Value::is_null));
        witness.check(
            Check::RequiredClaims,
            fail_if(lacks_one, InvalidToken::Claim("a required claim")),
        )?;
        // `sub` is required even if another claim names the user (RFC 9068 section 2.2).
        let subject = non_empty(claims.get("sub")).map(drop).ok_or(InvalidToken::Claim("sub"));
        witness.check(Check::Subject, subject)?;
        let user = non_empty(claims.get(&config.user_claim))
            .map(str::to_owned)
            .ok_or(InvalidToken::Claim("the user claim"));
        let subject = witness.require(Check::User, user)?;
        let text = |name: &str, label| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(InvalidToken::Claim(label)),
        };
        Ok(Principal {
            subject,
            issuer: Arc::clone(&config.name),
            token_id: witness.require(Check::Names, text("jti", "jti"))?,
            issuer_session: witness
                .require(Check::Names, text(&config.session_claim, "the session claim"))?,
            permissions: witness.require(
                Check::Permissions,
                permissions(claim_at(claims, &config.permissions_claim)),
            )?,
            issued_at: claims.get("iat").and_then(date_of).unwrap_or_default(),
            // A token that has expired is valid until the leeway is over.
            expires_at: if expires > now.wall { expires } else { expires + config.leeway },
            in_leeway: expires <= now.wall,
            claims: carried
                .iter()
                .filter_map(|name| claims.get(name).map(|value| (name.clone(), value.clone())))
                .collect(),
        })
    }
}

impl KeySet {
    /// Loads a key set. Leaves out keys whose values are not valid for their type.
    pub(super) fn of(set: &[Jwk]) -> Self {
        Self(set.iter().filter_map(|jwk| Key::from_jwk(jwk).ok()).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the id and the algorithms of each key.
    pub(super) fn names(&self) -> impl Iterator<Item = (Option<&str>, &[Algorithm])> {
        self.0.iter().map(|key| (key.id.as_deref(), key.algorithms.as_slice()))
    }

    fn find(&self, algorithm: Algorithm, key_id: Option<&str>) -> Option<&Key> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        match key_id {
            // A shared secret has no key id: it fits every `kid`.
            Some(_) if algorithm.family() == KeyFamily::Hmac => self.0.iter().find(fits),
            Some(id) => self.0.iter().filter(fits).find(|key| key.id.as_deref() == Some(id)),
            // Without a `kid`, exactly one key must fit.
            None => {
                let mut fitting = self.0.iter().filter(fits);
                fitting.next().filter(|_| fitting.next().is_none())
            }
        }
    }
}

fn load_keys(config: &Arc<config::Issuer>) -> Result<Keys, LoadError> {
    match &config.keys {
        IssuerKeySource::Secret(secret) => {
            let decoding = DecodingKey::from_secret(secret.expose());
            Ok(Keys::Fixed(KeySet(vec![Key {
                id: None,
                algorithms: config.algorithms.clone(),
                decoding,
            }])))
        }
        IssuerKeySource::JwksFile(file) => {
            let wrong = |problem: String| LoadError::Jwks {
                issuer: config.name.to_string(),
                file: file.clone(),
                problem,
            };
            let set = issuer_keys::read(file, &config.algorithms)
                .map_err(|error| wrong(error.to_string()))?;
            let keys =
                set.iter().map(|jwk| Key::from_jwk(jwk).map_err(|error| wrong(error.to_string())));
            Ok(Keys::Fixed(KeySet(keys.collect::<Result<_, _>>()?)))
        }
        IssuerKeySource::Remote(from) => {
            let wrong = |problem| LoadError::Remote { issuer: config.name.to_string(), problem };
            Ok(Keys::Remote(Arc::new(RemoteKeys::new(config, from).map_err(wrong)?)))
        }
    }
}

impl Key {
    fn from_jwk(jwk: &Jwk) -> Result<Self, jsonwebtoken::errors::Error> {
        let decoding = match &jwk.material {
            KeyMaterial::Rsa { modulus, exponent } => {
                DecodingKey::from_rsa_components(modulus, exponent)?
            }
            KeyMaterial::Ec { x, y } => DecodingKey::from_ec_components(x, y)?,
            KeyMaterial::Ed { x } => DecodingKey::from_ed_components(x)?,
        };
        Ok(Self { id: jwk.id.clone(), algorithms: jwk.algorithms.clone(), decoding })
    }

    fn check(&self, parts: &Parts<'_>, algorithm: Algorithm) -> Result<(), InvalidToken> {
        match crypto::verify(parts.signature, parts.signed, &self.decoding, library(algorithm)) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(InvalidToken::Signature),
        }
    }
}

/// Returns the header and the claims of a token, not verified.
pub(super) fn opened(token: &Secret) -> Option<(Map<String, Value>, Map<String, Value>)> {
    let parts = Parts::split(token.expose_str()?).ok()?;
    Some((parts.header, parts.claims))
}

fn fail_if(is_wrong: bool, why: InvalidToken) -> Result<(), InvalidToken> {
    if is_wrong { Err(why) } else { Ok(()) }
}

fn fits(token: &Secret, longest: usize) -> Result<(), InvalidToken> {
    fail_if(token.len() > longest, InvalidToken::TooLong)
}

/// Refuses a token with `cnf`, even if it is null: Usher checks no kind of proof.
pub(super) fn check_unbound(claims: &Map<String, Value>) -> Result<(), InvalidToken> {
    fail_if(claims.contains_key("cnf"), InvalidToken::Bound)
}

fn check_critical(header: &Map<String, Value>) -> Result<(), InvalidToken> {
    // RFC 7515 section 4.1.11: a recipient must support the extensions in `crit`. Usher supports
    // none. `b64` is one of them.
    fail_if(header.contains_key("crit") || header.contains_key("b64"), InvalidToken::CriticalHeader)
}

fn check_type(header: &Map<String, Value>) -> Result<(), InvalidToken> {
    match header.get("typ").map(Value::as_str) {
        None => {}
        Some(Some(kind))
            if ["jwt", "at+jwt", "application/at+jwt"]
                .contains(&kind.to_ascii_lowercase().as_str()) => {}
        Some(_) => return Err(InvalidToken::Type),
    }
    // RFC 7519 section 5.2: `JWT` means that another token is nested inside. Usher does not open
    // nested tokens.
    match header.get("cty").map(Value::as_str) {
        None => Ok(()),
        Some(Some(kind))
            if !["jwt", "application/jwt"].contains(&kind.to_ascii_lowercase().as_str()) =>
        {
            Ok(())
        }
        Some(_) => Err(InvalidToken::Type),
    }
}

fn key_id(header: &Map<String, Value>) -> Result<Option<&str>, InvalidToken> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(InvalidToken::UnknownKey),
    }
}

/// Returns the claim of this name. If there is none and the name has dots, it is a path such as
/// `realm_access.roles`. A name such as `https://example.com/roles` is found first.
pub(super) fn claim_at<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let mut steps = name.split('.');
        let first = claims.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.as_object()?.get(step))
    })
}

fn check_audience(claims: &Map<String, Value>, accepted: &[String]) -> Result<(), InvalidToken> {
    let names_us = names_audience(claims.get("aud").ok_or(InvalidToken::Claim("aud"))?, accepted)?;
    fail_if(!names_us, InvalidToken::Audience)
}

pub(super) fn names_audience(claim: &Value, accepted: &[String]) -> Result<bool, InvalidToken> {
    let is_ours = |name: &str| accepted.iter().any(|one| one == name);
    match claim {
        Value::String(name) => Ok(is_ours(name)),
        Value::Array(names) => {
            let names: Option<Vec<_>> = names.iter().map(Value::as_str).collect();
            Ok(names.ok_or(InvalidToken::Claim("aud"))?.into_iter().any(is_ours))
        }
        _ => Err(InvalidToken::Claim("aud")),
    }
}

/// Returns the time of a numeric date. RFC 7519 section 2: "A JSON numeric value representing the
/// number of seconds from 1970-01-01T00:00:00Z UTC", which may have a fraction. A string is not a
/// date, even if it looks like a number.
pub fn date_of(value: &Value) -> Option<UnixMillis> {
    const LATEST: f64 = 253_402_300_800.0;
    let seconds = value.as_f64()?;
    (0.0..LATEST).contains(&seconds).then_some(UnixMillis((seconds * 1000.0) as u64))
}

pub(super) fn non_empty(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Returns the permissions of a list, or of a text as in OAuth scopes (RFC 6749 section 3.3:
/// "space-delimited", only by the space character).
pub(super) fn permissions(claim: Option<&Value>) -> Result<Vec<String>, InvalidToken> {
    const WRONG: InvalidToken = InvalidToken::Claim("the permissions claim");
    match claim {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => {
            Ok(text.split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect())
        }
        Some(Value::Array(list)) => {
            list.iter().map(|one| one.as_str().map(str::to_owned).ok_or(WRONG)).collect()
        }
        Some(_) => Err(WRONG),
    }
}

fn library(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::HS384 => jsonwebtoken::Algorithm::HS384,
        Algorithm::HS512 => jsonwebtoken::Algorithm::HS512,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the token cannot be signed: {0}")]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

/// Signs a token as an issuer would, for `usher token mint` and the demo. `key` is the HMAC secret,
/// or a private key in PEM.
pub fn sign_for_development(
    algorithm: Algorithm,
    key: &Secret,
    key_id: Option<&str>,
    claims: &Value,
) -> Result<String, SignError> {
    let encoding = match algorithm.family() {
        KeyFamily::Hmac => EncodingKey::from_secret(key.expose()),
        KeyFamily::Rsa => EncodingKey::from_rsa_pem(key.expose())?,
        KeyFamily::Ecdsa => EncodingKey::from_ec_pem(key.expose())?,
        KeyFamily::Eddsa => EncodingKey::from_ed_pem(key.expose())?,
    };
    let header = Header { kid: key_id.map(str::to_owned), ..Header::new(library(algorithm)) };
    Ok(jsonwebtoken::encode(&header, claims, &encoding)?)
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("name", &self.config.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "jwt_key_attacks.rs"]
mod key_attacks;
#[cfg(test)]
#[path = "jwt_attacks.rs"]
mod tests;
#[cfg(test)]
#[path = "jwt_vectors.rs"]
mod vectors;
