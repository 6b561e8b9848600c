//! Makes a principal from a verifier's claims.
//!
//! A readable answer without a valid user or expiry is a refusal. It does not count as a fault of
//! the verifier: otherwise a client could open the circuit breaker.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::VerifierAnswer;
use crate::auth::jwt::{check_unbound, claim_at, date_of, non_empty, permissions};
use crate::base::clock::UnixMillis;
use crate::config;
use crate::model::faults::InvalidToken;
use crate::model::principal::Principal;

/// Returns the answer for these claims. `kept_for` is the remaining lifetime that the source itself
/// reports.
pub(super) fn judge(
    config: &config::Verifier,
    carried: &[String],
    claims: Map<String, Value>,
    kept_for: Option<Duration>,
    now: UnixMillis,
) -> VerifierAnswer {
    principal(config, carried, claims, kept_for, now)
        .map_or_else(VerifierAnswer::No, |principal| VerifierAnswer::Good(Arc::new(principal)))
}

fn principal(
    config: &config::Verifier,
    carried: &[String],
    claims: Map<String, Value>,
    kept_for: Option<Duration>,
    now: UnixMillis,
) -> Result<Principal, InvalidToken> {
    check_unbound(&claims)?;
    // RFC 9449 section 6.2: an introspection response may mark a bound token in this way too.
    if claims
        .get("token_type")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"))
    {
        return Err(InvalidToken::Bound);
    }
    let claims = Value::Object(claims);
    if beside(&claims, &config.user_claim).is_some_and(|claims| claims.contains_key("cnf")) {
        return Err(InvalidToken::Bound);
    }
    let text = |name: &str, label| match find(&claims, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(InvalidToken::Claim(label)),
    };
    let mut expires_at = now + config.max_lifetime;
    if let Some(kept_for) = kept_for {
        expires_at = expires_at.min(now + kept_for);
    }
    if let Some(value) = find(&claims, &config.expiry_claim) {
        expires_at = expires_at.min(moment(value).ok_or(InvalidToken::Claim("the expiry claim"))?);
    }
    if expires_at <= now {
        return Err(InvalidToken::Expired);
    }
    Ok(Principal {
        subject: subject(find(&claims, &config.user_claim))
            .ok_or(InvalidToken::Claim("the user claim"))?,
        issuer: Arc::clone(&config.name),
        token_id: text("jti", "jti")?,
        issuer_session: text(&config.session_claim, "the session claim")?,
        permissions: permissions(find(&claims, &config.permissions_claim))?,
        issued_at: find(&claims, "iat").and_then(date_of).unwrap_or_default(),
        expires_at,
        in_leeway: false,
        claims: carried
            .iter()
            .filter_map(|name| claims.get(name).map(|value| (name.clone(), value.clone())))
            .collect(),
    })
}

/// Returns a claim by its name. A name may be a path with dots, as for issuers, or a JSON pointer
/// (RFC 6901), which begins with a slash.
pub(super) fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    let found = if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claim_at(claims.as_object()?, name)
    };
    found.filter(|value| !value.is_null())
}

/// Returns the object that contains a claim: a session often has its token's claims one level down.
fn beside<'a>(claims: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    let separator = if name.starts_with('/') { '/' } else { '.' };
    let (parent, _) = name.rsplit_once(separator)?;
    find(claims, parent)?.as_object()
}

/// Returns the user. Databases also use integers as user ids.
fn subject(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        value => non_empty(Some(value)).map(str::to_owned),
    }
}

/// Returns a time: seconds since the epoch as in a JWT, or RFC 3339 text as in cookie sessions.
fn moment(value: &Value) -> Option<UnixMillis> {
    match value {
        Value::String(text) => UnixMillis::from_rfc3339(text),
        value => date_of(value),
    }
}
