//! `POST /revoke`: a revocation by an operator, in JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::json;

use super::{answer_error, answer_json, refuse_other_than_json};
use crate::auth::revocation::Revocations;
use crate::base::clock::{Now, UnixMillis};
use crate::base::strict_json;
use crate::fleet::Fleet;
use crate::model::revocation::{Revocation, RevocationFields};
use crate::session::registry::Registry;
use crate::session::revoke::revoke;

/// The parts of a node that a revocation needs.
#[derive(Debug)]
pub struct Revoking {
    pub revocations: Arc<Revocations>,
    /// How long a revocation is in force, unless the request has `until`.
    pub keep: Duration,
    /// The valid values of `issuer`.
    pub issuers: Vec<Arc<str>>,
    /// The other nodes. `None` without a shared store.
    pub fleet: Option<Arc<Fleet>>,
}

/// How far `issued_before` may be in the future, because clocks differ.
const AHEAD: Duration = Duration::from_secs(60);
/// A smaller number is rejected: it is most likely a time in seconds.
const YEAR_2000: u64 = 946_684_800_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    user: Option<String>,
    session: Option<String>,
    token_id: Option<String>,
    issued_before: Option<Time>,
    issuer: Option<String>,
    until: Option<Time>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a time must be a number of milliseconds since 1970, or a string such as \
                 \"2026-01-31T12:00:00Z\" or \"now\""
)]
enum Time {
    Millis(u64),
    Text(String),
}

impl Revoking {
    pub(super) async fn answer(
        &self,
        registry: &Registry,
        headers: &HeaderMap,
        body: &[u8],
        now: Now,
    ) -> Response<Full<Bytes>> {
        if let Some(refusal) = refuse_other_than_json(headers) {
            return refusal;
        }
        let order = match self.order(body, now.wall) {
            Ok(order) => order,
            Err(message) => {
                return answer_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", &message);
            }
        };
        match revoke(registry, &self.revocations, &order, now) {
            Ok(closed) => self.publish(order, closed).await,
            Err(full) => answer_error(
                StatusCode::SERVICE_UNAVAILABLE,
                "REVOCATIONS_FULL",
                &format!("nothing was revoked: {full}"),
            ),
        }
    }

    /// Sends a revocation that is in force on this node to the other nodes, and answers the
    /// request.
    async fn publish(&self, order: Revocation, closed: usize) -> Response<Full<Bytes>> {
        let (id, kind, until) = (order.id.clone(), order.kind().name(), order.until.to_rfc3339());
        let Some(fleet) = &self.fleet else {
            return answer_json(
                StatusCode::OK,
                &json!({ "id": id, "kind": kind, "closed": closed, "until": until }),
            );
        };
        if Arc::clone(fleet).publish(order).await {
            return answer_json(
                StatusCode::OK,
                &json!({ "id": id, "kind": kind, "closed": closed, "until": until, "fleet": true }),
            );
        }
        let message = "in force on this node only: the store does not answer; the other nodes get \
                       it as soon as it does";
        let body = json!({
            "id": id, "kind": kind, "closed": closed, "until": until, "fleet": false,
            "code": "REVOKED_HERE_ONLY", "message": message,
        });
        answer_json(StatusCode::SERVICE_UNAVAILABLE, &body)
    }

    fn order(&self, body: &[u8], now: UnixMillis) -> Result<Revocation, String> {
        let asked: RevokeRequest = strict_json::record(body)
            .map_err(|error| format!("the body is not a revocation: {error}"))?;
        let RevokeRequest { user, session, token_id, issued_before, issuer, until } = asked;
        let issued_before =
            issued_before.map(|time| time.read("issued_before", now)).transpose()?;
        if issued_before.is_some_and(|before| before > now + AHEAD) {
            return Err("issued_before is in the future".to_owned());
        }
        let until = until.map(|time| time.read("until", now)).transpose()?;
        if until.is_some_and(|until| until <= now) {
            return Err("until is in the past".to_owned());
        }
        if let Some(issuer) =
            issuer.as_deref().filter(|issuer| !self.issuers.iter().any(|known| **known == **issuer))
        {
            return Err(format!(
                "no issuer has the name {issuer:?}; the issuers are {}",
                self.issuers.join(", ")
            ));
        }
        let what = RevocationFields { user, session, token_id, issued_before }.meant()?;
        let order = Revocation::new(what, issuer, now, self.keep);
        Ok(Revocation { until: until.unwrap_or(order.until), ..order })
    }
}

impl Time {
    fn read(self, field: &str, now: UnixMillis) -> Result<UnixMillis, String> {
        match self {
            Self::Millis(millis) if millis < YEAR_2000 => Err(format!(
                "{field} must be in milliseconds since 1970; {millis} is before the year 2000"
            )),
            Self::Millis(millis) => Ok(UnixMillis(millis)),
            Self::Text(text) if text == "now" => Ok(now),
            Self::Text(text) => UnixMillis::from_rfc3339(&text).ok_or_else(|| {
                format!("{field}: {text:?} is not a time; write for example 2026-01-31T12:00:00Z")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::revocation::RevocationScope;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn order(body: &str) -> Result<Revocation, String> {
        let revocations = Arc::new(Revocations::new(1));
        Revoking {
            revocations,
            keep: Duration::from_secs(60),
            issuers: vec!["main".into()],
            fleet: None,
        }
        .order(body.as_bytes(), NOW)
    }

    #[test]
    fn an_order_says_what_is_meant() {
        let before =
            |before| RevocationScope::IssuedBefore { before: UnixMillis(before), user: None };
        for (body, what) in [
            (r#"{"user":"ada"}"#, RevocationScope::User("ada".into())),
            (r#"{"session":"s"}"#, RevocationScope::Session("s".into())),
            (r#"{"token_id":"t","issuer":"main"}"#, RevocationScope::TokenId("t".into())),
            (r#"{"issued_before":"now"}"#, before(NOW.0)),
            (r#"{"issued_before":1700000000000}"#, before(1_700_000_000_000)),
            (r#"{"issued_before":"2026-01-31T13:00:00+01:00"}"#, before(1_769_860_800_000)),
        ] {
            let order = order(body).unwrap();
            assert_eq!((order.what, order.until), (what, NOW + Duration::from_secs(60)), "{body}");
        }
        assert_eq!(
            order(r#"{"user":"ada","until":1800000005000}"#).unwrap().until,
            UnixMillis(1_800_000_005_000)
        );
    }

    #[test]
    fn a_bad_order_is_told_what_is_wrong() {
        for (body, part) in [
            ("", "not a revocation"),
            (r#"{"usr":"ada"}"#, "unknown field `usr`, expected one of `user`, `session`"),
            (r#"{"user":7}"#, "invalid type"),
            (r#"{"user":"a","user":"b"}"#, "appears twice"),
            (r#"["ada"]"#, "not a JSON object"),
            ("{}", "one of user, session"),
            (r#"{"user":"a","session":"b"}"#, "only one of"),
            (r#"{"issued_before":1700000000}"#, "must be in milliseconds"),
            (r#"{"issued_before":true}"#, "a time must be a number of milliseconds"),
            (r#"{"issued_before":"yesterday"}"#, "is not a time"),
            (r#"{"issued_before":1900000000000}"#, "in the future"),
            (r#"{"user":"a","until":1700000000000}"#, "in the past"),
            (r#"{"user":"a","issuer":"mian"}"#, "the issuers are main"),
        ] {
            let message = order(body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        }
    }
}
