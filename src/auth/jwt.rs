//! Verifying a bearer token: the one place that meets the JWT library.
//!
//! The library is used for its signatures alone. What a token's header and claims must be is checked here, because the
//! usual defaults are traps: an absent `aud` that passes, an `exp` of the wrong type that counts as none, `crit` ignored.
//! The algorithm comes from the config and the key, never from the token.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, crypto};
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, Family};
use super::issuer_keys::{self, Jwk, KeyMaterial};
use super::principal::Principal;
use super::remote_keys::RemoteKeys;
use super::strict_json;
use crate::clock::{Now, UnixMillis};
use crate::config;
use crate::config::IssuerKeySource;
use crate::config::secret::Secret;

/// Why a token is refused. The client learns only that it was; log and audit name the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    #[error("the token is longer than the issuer allows")]
    TooLong,
    #[error("it is not a compact JWS")]
    Malformed,
    #[error("no issuer of ours made it")]
    UnknownIssuer,
    #[error("its algorithm is not one that the issuer is pinned to")]
    Algorithm,
    #[error("no key of the issuer has its key id")]
    UnknownKey,
    /// Not the token's fault: it may be good.
    #[error("the issuer's keys could not be fetched yet")]
    NoKeys,
    #[error("its signature does not verify")]
    Signature,
    #[error("it has a critical header that nobody here understands")]
    CriticalHeader,
    #[error("its type is not a JWT or an access token, or it holds another token")]
    Type,
    #[error("its verifier refuses it")]
    Refused,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it was made for another audience")]
    Audience,
    #[error("a claim is missing or has the wrong type: {0}")]
    Claim(&'static str),
    #[error("it would be good for longer than the issuer's max_lifetime")]
    Lifetime,
    #[error("it is no test identity that counts here")]
    Bypass,
}

/// Every issuer whose tokens are accepted.
#[derive(Debug)]
pub struct Issuers {
    pub(super) by_name: HashMap<String, Issuer>,
    carried_claims: Vec<String>,
    longest_token: usize,
}

pub(super) struct Issuer {
    pub(super) config: Arc<config::Issuer>,
    keys: Keys,
}

enum Keys {
    Fixed(KeySet),
    Remote(Arc<RemoteKeys>),
}

/// The keys of one issuer, ready to verify.
pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    /// What this key may verify: the issuer's pins that fit it.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("issuer '{issuer}': {file}: {problem}", file = file.display())]
    Jwks { issuer: String, file: PathBuf, problem: String },
    #[error("issuer '{issuer}': {problem}")]
    Remote { issuer: String, problem: String },
    #[error("two issuers say that they are '{0}'")]
    Twice(String),
}

/// A token taken apart, nothing of it believed yet.
struct Parts<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'a [u8],
    signature: &'a str,
}

impl Issuers {
    /// `carried_claims` are kept with the principal, for the signed context.
    pub fn load(issuers: &[Arc<config::Issuer>], carried_claims: &[String]) -> Result<Self, LoadError> {
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
        if token.len() > self.longest_token {
            return Err(InvalidToken::TooLong);
        }
        let text = token.expose_str().ok_or(InvalidToken::Malformed)?;
        let parts = Parts::split(text)?;
        let issuer = self.issuer_of(&parts)?;
        if token.len() > issuer.config.max_token_bytes {
            return Err(InvalidToken::TooLong);
        }
        issuer.check_signature(&parts)?;
        issuer.check_claims(&parts.claims, now, &self.carried_claims)
    }

    /// The unverified name only chooses which issuer's keys and rules the token has to satisfy.
    fn issuer_of(&self, parts: &Parts<'_>) -> Result<&Issuer, InvalidToken> {
        let named = parts.claims.get("iss").and_then(Value::as_str).ok_or(InvalidToken::Claim("iss"))?;
        self.by_name.get(named).ok_or(InvalidToken::UnknownIssuer)
    }

    /// Whom to ask for the key of a token that nothing but its key is missing to. One that would be refused whoever signed it
    /// is worth no question.
    pub(super) fn who_may_have_its_key(&self, token: &Secret, now: Now) -> Option<&Arc<RemoteKeys>> {
        let parts = Parts::split(token.expose_str()?).ok()?;
        let issuer = self.issuer_of(&parts).ok()?;
        let Keys::Remote(remote) = &issuer.keys else { return None };
        issuer.check_claims(&parts.claims, now, &self.carried_claims).ok().map(|_| remote)
    }

    /// The issuers that publish their keys.
    pub(super) fn remote(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.by_name.values().filter_map(|issuer| match &issuer.keys {
            Keys::Remote(remote) => Some(remote),
            Keys::Fixed(_) => None,
        })
    }
}

/// Is it a compact JWS with a header and claims, whatever they say?
pub fn has_the_shape_of_a_jwt(token: &Secret) -> bool {
    token.expose_str().is_some_and(|text| Parts::split(text).is_ok())
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, InvalidToken> {
        let (parts, payload) = Self::cut(token)?;
        Ok(Self { claims: strict_json::object(&payload).ok_or(InvalidToken::Malformed)?, ..parts })
    }

    /// The payload is not looked at: it is the second.
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
    fn check_signature(&self, parts: &Parts<'_>) -> Result<(), InvalidToken> {
        // RFC 7515, section 4.1.11: extensions listed in `crit` must be understood; none is. `b64` is one of them.
        if parts.header.contains_key("crit") || parts.header.contains_key("b64") {
            return Err(InvalidToken::CriticalHeader);
        }
        match parts.header.get("typ").map(Value::as_str) {
            None => {}
            Some(Some(kind)) if ["jwt", "at+jwt", "application/at+jwt"].contains(&kind.to_ascii_lowercase().as_str()) => {}
            Some(_) => return Err(InvalidToken::Type),
        }
        // RFC 7519, section 5.2: `JWT` says that another token is inside. None is opened here.
        match parts.header.get("cty").map(Value::as_str) {
            None => {}
            Some(Some(kind)) if !["jwt", "application/jwt"].contains(&kind.to_ascii_lowercase().as_str()) => {}
            Some(_) => return Err(InvalidToken::Type),
        }
        let named = parts.header.get("alg").and_then(Value::as_str).ok_or(InvalidToken::Algorithm)?;
        let algorithm = self.config.algorithms.iter().copied().find(|one| one.name() == named).ok_or(InvalidToken::Algorithm)?;
        let key_id = match parts.header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(InvalidToken::UnknownKey),
        };
        match &self.keys {
            Keys::Fixed(set) => set.check(parts, algorithm, key_id),
            Keys::Remote(remote) => remote.current().ok_or(InvalidToken::NoKeys)?.check(parts, algorithm, key_id),
        }
    }

    fn check_claims(&self, claims: &Map<String, Value>, now: Now, carried: &[String]) -> Result<Principal, InvalidToken> {
        let config = &self.config;
        if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
            return Err(InvalidToken::UnknownIssuer);
        }
        if !names_audience(claims.get("aud").ok_or(InvalidToken::Claim("aud"))?, &config.audience)? {
            return Err(InvalidToken::Audience);
        }
        let expires = numeric_date(claims.get("exp").ok_or(InvalidToken::Claim("exp"))?).ok_or(InvalidToken::Claim("exp"))?;
        if now.wall >= expires + config.leeway {
            return Err(InvalidToken::Expired);
        }
        if expires.since(now.wall) > config.max_lifetime {
            return Err(InvalidToken::Lifetime);
        }
        for (name, claim) in [("nbf", claims.get("nbf")), ("iat", claims.get("iat"))] {
            if let Some(value) = claim
                && numeric_date(value).ok_or(InvalidToken::Claim(name))? > now.wall + config.leeway
            {
                return Err(InvalidToken::NotYetValid);
            }
        }
        if config.required_claims.iter().any(|name| claims.get(name).is_none_or(Value::is_null)) {
            return Err(InvalidToken::Claim("a required claim"));
        }
        // The subject is required whichever claim names the user (RFC 9068, section 2.2).
        non_empty(claims.get("sub")).ok_or(InvalidToken::Claim("sub"))?;
        let subject = non_empty(claims.get(&config.user_claim)).ok_or(InvalidToken::Claim("the user claim"))?;
        let text = |name: &str, label| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(InvalidToken::Claim(label)),
        };
        Ok(Principal {
            subject,
            issuer: Arc::clone(&config.name),
            token_id: text("jti", "jti")?,
            issuer_session: text(&config.session_claim, "the session claim")?,
            permissions: permissions(claim_at(claims, &config.permissions_claim))?,
            issued_at: claims.get("iat").and_then(numeric_date).unwrap_or_default(),
            // Inside its leeway a token is good for what is left of the leeway.
            expires_at: if expires > now.wall { expires } else { expires + config.leeway },
            in_leeway: expires <= now.wall,
            claims: carried.iter().filter_map(|name| claims.get(name).map(|value| (name.clone(), value.clone()))).collect(),
        })
    }
}

impl KeySet {
    /// Keys whose bytes are not what they say are left out.
    pub(super) fn of(set: &[Jwk]) -> Self {
        Self(set.iter().filter_map(|jwk| Key::from_jwk(jwk).ok()).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn check(&self, parts: &Parts<'_>, algorithm: Algorithm, key_id: Option<&str>) -> Result<(), InvalidToken> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        let key = match key_id {
            // A shared secret has no name of its own: any `kid` means it.
            Some(_) if algorithm.family() == Family::Hmac => self.0.iter().find(fits),
            Some(id) => self.0.iter().filter(fits).find(|key| key.id.as_deref() == Some(id)),
            // Without a name the key must be the only one that it can be.
            None => {
                let mut fitting = self.0.iter().filter(fits);
                fitting.next().filter(|_| fitting.next().is_none())
            }
        };
        let key = key.ok_or(InvalidToken::UnknownKey)?;
        match crypto::verify(parts.signature, parts.signed, &key.decoding, library(algorithm)) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(InvalidToken::Signature),
        }
    }
}

fn load_keys(config: &Arc<config::Issuer>) -> Result<Keys, LoadError> {
    match &config.keys {
        IssuerKeySource::Secret(secret) => {
            let decoding = DecodingKey::from_secret(secret.expose());
            Ok(Keys::Fixed(KeySet(vec![Key { id: None, algorithms: config.algorithms.clone(), decoding }])))
        }
        IssuerKeySource::JwksFile(file) => {
            let wrong = |problem: String| LoadError::Jwks { issuer: config.name.to_string(), file: file.clone(), problem };
            let set = issuer_keys::read(file, &config.algorithms).map_err(|error| wrong(error.to_string()))?;
            let keys = set.iter().map(|jwk| Key::from_jwk(jwk).map_err(|error| wrong(error.to_string())));
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
            KeyMaterial::Rsa { modulus, exponent } => DecodingKey::from_rsa_components(modulus, exponent)?,
            KeyMaterial::Ec { x, y } => DecodingKey::from_ec_components(x, y)?,
            KeyMaterial::Ed { x } => DecodingKey::from_ed_components(x)?,
        };
        Ok(Self { id: jwk.id.clone(), algorithms: jwk.algorithms.clone(), decoding })
    }
}

/// The claim of this name; where there is none and the name has dots, what stands at the end of that path:
/// `realm_access.roles`. A name such as `https://example.com/roles` is found first.
pub(super) fn claim_at<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let mut steps = name.split('.');
        let first = claims.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.as_object()?.get(step))
    })
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

/// RFC 7519, section 2: "A JSON numeric value representing the number of seconds from 1970-01-01T00:00:00Z UTC", which may
/// have a fraction. Text that looks like a number is no number.
pub(super) fn numeric_date(value: &Value) -> Option<UnixMillis> {
    const LATEST: f64 = 253_402_300_800.0;
    let seconds = value.as_f64()?;
    (0.0..LATEST).contains(&seconds).then_some(UnixMillis((seconds * 1000.0) as u64))
}

pub(super) fn non_empty(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A list, or text as OAuth writes scopes (RFC 6749, section 3.3: "space-delimited", by that one character).
pub(super) fn permissions(claim: Option<&Value>) -> Result<Vec<String>, InvalidToken> {
    const WRONG: InvalidToken = InvalidToken::Claim("the permissions claim");
    match claim {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(text.split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect()),
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned).ok_or(WRONG)).collect(),
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

/// Signs a token as an issuer would, for `usher token mint` and the demo. `key` is the HMAC secret, or a private key in PEM.
pub fn sign_for_development(algorithm: Algorithm, key: &Secret, key_id: Option<&str>, claims: &Value) -> Result<String, SignError> {
    let encoding = match algorithm.family() {
        Family::Hmac => EncodingKey::from_secret(key.expose()),
        Family::Rsa => EncodingKey::from_rsa_pem(key.expose())?,
        Family::Ecdsa => EncodingKey::from_ec_pem(key.expose())?,
        Family::Eddsa => EncodingKey::from_ed_pem(key.expose())?,
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
