//! Describes the checks of a token: the value, and the value that is required.

use serde_json::{Map, Value};

use super::report::{Mark, Step};
use crate::auth::checks::{Check, CheckOutcome};
use crate::auth::jwt::date_of;
use crate::auth::token_inspection::{InspectedToken, KeysHeld};
use crate::base::clock::UnixMillis;
use crate::base::text::{distance, printable, span};
use crate::config::{Issuer, IssuerKeySource, KeyOrigin};
use crate::model::algorithm::KeyFamily;
use crate::model::faults::InvalidToken;

/// The claims whose values are shown, because they decide. Other values are personal: only the
/// names are shown.
const SHOWN: [&str; 7] = ["iss", "aud", "sub", "exp", "nbf", "iat", "jti"];

/// The checks that get a line only if they fail: tokens of common libraries pass them.
const QUIET: [Check; 6] =
    [Check::Size, Check::Critical, Check::Type, Check::Bound, Check::Subject, Check::Names];

/// The checks whose line needs the reason of the failure.
const NEEDS_REASON: [Check; 7] = [
    Check::Shape,
    Check::Critical,
    Check::Type,
    Check::Signature,
    Check::Bound,
    Check::Names,
    Check::Permissions,
];

/// The checks of a token, to be described.
pub struct TokenWords<'a> {
    pub inspected: &'a InspectedToken,
    pub issuers: &'a [std::sync::Arc<Issuer>],
    pub now: UnixMillis,
    pub all_claims: bool,
}

impl TokenWords<'_> {
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for check in Check::ALL {
            let outcome = self.outcome(check);
            let is_absent = matches!(check, Check::NotBefore)
                && !self.inspected.claims.contains_key("nbf")
                || check == Check::RequiredClaims
                    && self
                        .inspected
                        .issuer
                        .as_ref()
                        .is_some_and(|issuer| issuer.required_claims.is_empty());
            if is_absent && !matches!(outcome, Some(Err(_))) {
                continue;
            }
            let (mark, detail) = match outcome {
                None => (Mark::Skipped, "not checked: an earlier check failed".to_owned()),
                Some(Ok(())) => (Mark::Ok, self.detail(check)),
                Some(Err(why)) if NEEDS_REASON.contains(&check) => (Mark::Fail, why.to_string()),
                Some(Err(_)) => (Mark::Fail, self.detail(check)),
            };
            let says_nothing = QUIET.contains(&check)
                || check == Check::Permissions && self.inspected.verdict.is_err();
            let is_quiet = says_nothing && mark != Mark::Fail
                || mark == Mark::Skipped && check != Check::Signature;
            steps.push(Step { is_quiet, ..Step::new(check.name(), mark, detail) });
        }
        if !self.inspected.claims.is_empty() {
            steps.push(Step::new("token", Mark::Note, self.contents()));
        }
        steps
    }

    /// Returns the result of a check: its first failure, if it has several parts.
    fn outcome(&self, check: Check) -> Option<Result<(), InvalidToken>> {
        let mut parts = self
            .inspected
            .checks
            .iter()
            .filter(|seen| seen.check == check)
            .map(|CheckOutcome { outcome, .. }| *outcome);
        let first = parts.next()?;
        Some(parts.fold(first, Result::and))
    }

    fn detail(&self, check: Check) -> String {
        let InspectedToken { header, claims, issuer, keys, .. } = self.inspected;
        let claim = |name: &str| value(claims.get(name));
        let Some(issuer) = issuer else {
            return match check {
                Check::Issuer => {
                    let known: Vec<_> = self
                        .issuers
                        .iter()
                        .map(|issuer| format!("{} is {}", issuer.name, issuer.issuer))
                        .collect();
                    format!("iss is {}; configured: {}", claim("iss"), known.join(", "))
                }
                Check::Size => {
                    format!("{} bytes are more than any issuer allows", self.inspected.bytes)
                }
                _ => format!("a compact JWS of {} bytes", self.inspected.bytes),
            };
        };
        match check {
            Check::Shape => format!("a compact JWS of {} bytes", self.inspected.bytes),
            Check::Size => {
                format!("{} bytes of at most {}", self.inspected.bytes, issuer.max_token_bytes)
            }
            Check::Issuer => format!("{}: iss is {}", issuer.name, claim("iss")),
            Check::Critical => "no critical header".to_owned(),
            Check::Type => format!("typ is {}", value(header.get("typ"))),
            Check::Algorithm => {
                let pinned: Vec<_> = issuer.algorithms.iter().map(|one| one.name()).collect();
                format!("alg is {}, allowed is {}", value(header.get("alg")), pinned.join(", "))
            }
            Check::Key => key(issuer, header, keys.as_ref(), self.now),
            Check::Signature => "valid".to_owned(),
            Check::Audience => {
                format!("aud is {}, required is {}", claim("aud"), issuer.audience.join(" or "))
            }
            Check::Expires => {
                format!("{}, leeway {}", self.time("exp"), span(issuer.leeway.as_secs()))
            }
            Check::Lifetime => format!("at most {} from now", span(issuer.max_lifetime.as_secs())),
            Check::NotBefore => self.time("nbf"),
            Check::IssuedAt => self.time("iat"),
            Check::Bound => "no cnf: a bearer token".to_owned(),
            Check::RequiredClaims => {
                let lacks = |name: &&String| claims.get(*name).is_none_or(Value::is_null);
                let missing: Vec<_> =
                    issuer.required_claims.iter().filter(lacks).map(String::as_str).collect();
                let rest = if missing.is_empty() {
                    String::new()
                } else {
                    format!(", missing {}", missing.join(", "))
                };
                format!("required {}{rest}", issuer.required_claims.join(", "))
            }
            Check::Subject => format!("sub is {}", claim("sub")),
            // The user is shown if it is the subject; another claim may be personal.
            Check::User if issuer.user_claim == "sub" => {
                format!("{} by the claim sub", claim("sub"))
            }
            Check::User => {
                let is_there = if claims.contains_key(&issuer.user_claim) {
                    "is present"
                } else {
                    "is missing"
                };
                format!("by the claim {}, which {is_there}", issuer.user_claim)
            }
            Check::Names => format!("jti, {}: text or absent", issuer.session_claim),
            Check::Permissions => match &self.inspected.verdict {
                Ok(principal) => format!(
                    "{} by the claim {}",
                    list(&principal.permissions),
                    issuer.permissions_claim
                ),
                Err(_) => format!("by the claim {}", issuer.permissions_claim),
            },
        }
    }

    fn time(&self, name: &str) -> String {
        match self.inspected.claims.get(name).map(|value| (date_of(value), value)) {
            None => format!("no {name}"),
            Some((Some(at), _)) => format!("{} ({})", clock(at), distance(at, self.now)),
            Some((None, other)) => format!("{name} is {}", value(Some(other))),
        }
    }

    fn contents(&self) -> String {
        if self.all_claims {
            return format!(
                "header {}, claims {}",
                words(&self.inspected.header),
                words(&self.inspected.claims)
            );
        }
        let others: Vec<_> = self
            .inspected
            .claims
            .keys()
            .filter(|name| !SHOWN.contains(&name.as_str()))
            .map(|name| printable(name))
            .collect();
        let jti = value(self.inspected.claims.get("jti"));
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        format!("jti {jti}; claims not shown: {others}")
    }
}

fn key(
    issuer: &Issuer,
    header: &Map<String, Value>,
    held: Option<&KeysHeld>,
    now: UnixMillis,
) -> String {
    let wanted = match header.get("kid") {
        None => "the token has no kid".to_owned(),
        kid => format!("kid is {}", value(kid)),
    };
    if issuer.algorithms.first().is_some_and(|algorithm| algorithm.family() == KeyFamily::Hmac) {
        return format!("{wanted}; one shared secret");
    }
    let Some(held) = held else { return wanted };
    let mut names: Vec<_> = held
        .keys
        .iter()
        .map(|(id, _)| id.as_deref().map_or_else(|| "one without id".to_owned(), printable))
        .collect();
    if names.len() > 8 {
        let more = names.len() - 8;
        names.truncate(8);
        names.push(format!("{more} more"));
    }
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let age =
        held.fetched_at.map(|at| format!(", fetched {}", distance(at, now))).unwrap_or_default();
    let fault = held
        .fault
        .map(|fault| format!(", which cannot be fetched now ({fault})"))
        .unwrap_or_default();
    format!("{wanted}; known keys are {names} from {}{age}{fault}", origin(issuer))
}

/// Returns the source of an issuer's keys.
pub fn origin(issuer: &Issuer) -> String {
    match &issuer.keys {
        IssuerKeySource::Secret(_) => "the config".to_owned(),
        IssuerKeySource::JwksFile(path) => path.display().to_string(),
        IssuerKeySource::Remote(from) => match &from.origin {
            KeyOrigin::Url(place) | KeyOrigin::Discovery(place) => place.to_string(),
        },
    }
}

/// Returns a claim's value on one line, at most 120 characters.
pub fn value(value: Option<&Value>) -> String {
    const MOST: usize = 120;
    let text = match value {
        None => return "missing".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    };
    if text.is_empty() {
        return "empty".to_owned();
    }
    let short: String = text.chars().take(MOST).collect();
    printable(&if short.len() < text.len() { format!("{short}...") } else { short })
}

fn words(map: &Map<String, Value>) -> String {
    printable(&Value::Object(map.clone()).to_string())
}

pub fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the time with a precision of one second.
pub fn clock(at: UnixMillis) -> String {
    UnixMillis::from_secs(at.as_secs()).to_rfc3339().replace(".000Z", "Z")
}
