//! Revocations: they end grants early, for a user, a login session, one token, or all tokens issued
//! before a time.
//!
//! An operator orders a [`Revocation`], and the nodes send it to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::principal::Principal;
use super::request_id::HexId;
use crate::base::clock::{Now, UnixMillis};

/// An order to revoke, the same on every node. Its JSON is compact and has the fields of `POST
/// /revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct Revocation {
    /// The id of the order in logs and between nodes.
    pub id: String,
    /// The time of the order.
    pub at: UnixMillis,
    /// The end of the order. After it, no token that the order matches can be valid.
    pub until: UnixMillis,
    /// The configured name of the one issuer that the order matches. `None`: all issuers.
    pub issuer: Option<String>,
    pub what: RevocationScope,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevocationScope {
    User(String),
    /// An Usher session by its id, or a login session of the issuer, which the token names.
    Session(String),
    /// The `jti` of a token.
    TokenId(String),
    /// Every token that was issued before this time, of one user or of all users.
    IssuedBefore {
        before: UnixMillis,
        user: Option<String>,
    },
}

/// The kind of an order: a label of a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevocationKind {
    User,
    Session,
    TokenId,
    IssuedBefore,
}

/// The fields of an order, from an operator or another node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationFields {
    pub user: Option<String>,
    pub session: Option<String>,
    pub token_id: Option<String>,
    pub issued_before: Option<UnixMillis>,
}

/// The maximum length of a user, a session or a token id, in bytes.
const LONGEST: usize = 1024;
/// More than the clocks of two nodes differ, which is seconds.
const CLOCKS_APART: Duration = Duration::from_secs(60);

impl Revocation {
    /// Makes a new order that is in force for `keep`.
    pub fn new(
        what: RevocationScope,
        issuer: Option<String>,
        at: UnixMillis,
        keep: Duration,
    ) -> Self {
        Self { id: HexId::random().as_str().to_owned(), at, until: at + keep, issuer, what }
    }

    /// Returns the end of the order by the monotonic clock. If the wall clock of this node is far
    /// behind, for example not yet set, the order is kept for its own duration plus a minute.
    pub fn ends_at(&self, now: Now) -> Instant {
        let span = self.until.since(now.wall).min(self.until.since(self.at) + CLOCKS_APART);
        now.mono.checked_add(span).unwrap_or(now.mono)
    }

    pub fn kind(&self) -> RevocationKind {
        match self.what {
            RevocationScope::User(_) => RevocationKind::User,
            RevocationScope::Session(_) => RevocationKind::Session,
            RevocationScope::TokenId(_) => RevocationKind::TokenId,
            RevocationScope::IssuedBefore { .. } => RevocationKind::IssuedBefore,
        }
    }

    /// Returns the user, session or token id of the order. Empty: the order is for all users.
    pub fn name(&self) -> &str {
        match &self.what {
            RevocationScope::User(name)
            | RevocationScope::Session(name)
            | RevocationScope::TokenId(name) => name,
            RevocationScope::IssuedBefore { user, .. } => user.as_deref().unwrap_or_default(),
        }
    }

    /// Returns the time of an `IssuedBefore` order, else zero.
    pub fn before(&self) -> UnixMillis {
        if let RevocationScope::IssuedBefore { before, .. } = self.what {
            before
        } else {
            UnixMillis(0)
        }
    }

    pub fn concerns_issuer(&self, issuer: &str) -> bool {
        self.issuer.as_deref().is_none_or(|only| only == issuer)
    }

    pub fn concerns(&self, principal: &Principal) -> bool {
        let named = match &self.what {
            RevocationScope::User(user) => *user == principal.subject,
            RevocationScope::Session(session) => principal.issuer_session.as_ref() == Some(session),
            RevocationScope::TokenId(token) => principal.token_id.as_ref() == Some(token),
            RevocationScope::IssuedBefore { before, user } => {
                principal.issued_at < *before
                    && user.as_ref().is_none_or(|user| *user == principal.subject)
            }
        };
        named && self.concerns_issuer(&principal.issuer)
    }
}

impl RevocationKind {
    pub const ALL: [Self; 4] = [Self::User, Self::Session, Self::TokenId, Self::IssuedBefore];

    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Session => "session",
            Self::TokenId => "token_id",
            Self::IssuedBefore => "issued_before",
        }
    }
}

impl RevocationFields {
    /// Returns what the fields name. Exactly one field must be set, but `user` may narrow
    /// `issued_before`.
    pub fn meant(self) -> Result<RevocationScope, &'static str> {
        let Self { user, session, token_id, issued_before } = self;
        for name in [&user, &session, &token_id].into_iter().flatten() {
            if name.is_empty() || name.len() > LONGEST {
                return Err("user, session and token_id must have 1 to 1024 bytes");
            }
        }
        match (user, session, token_id, issued_before) {
            (Some(user), None, None, None) => Ok(RevocationScope::User(user)),
            (None, Some(session), None, None) => Ok(RevocationScope::Session(session)),
            (None, None, Some(token_id), None) => Ok(RevocationScope::TokenId(token_id)),
            (user, None, None, Some(before)) => Ok(RevocationScope::IssuedBefore { before, user }),
            (None, None, None, None) => {
                Err("one of user, session, token_id and issued_before is needed")
            }
            _ => Err(
                "give only one of user, session, token_id and issued_before; user is also allowed \
                 with issued_before",
            ),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    id: String,
    at: u64,
    until: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued_before: Option<u64>,
}

impl From<Revocation> for Wire {
    fn from(revocation: Revocation) -> Self {
        let Revocation { id, at, until, issuer, what } = revocation;
        let mut wire = Self {
            id,
            at: at.0,
            until: until.0,
            issuer,
            user: None,
            session: None,
            token_id: None,
            issued_before: None,
        };
        match what {
            RevocationScope::User(user) => wire.user = Some(user),
            RevocationScope::Session(session) => wire.session = Some(session),
            RevocationScope::TokenId(token_id) => wire.token_id = Some(token_id),
            RevocationScope::IssuedBefore { before, user } => {
                (wire.issued_before, wire.user) = (Some(before.0), user);
            }
        }
        wire
    }
}

impl TryFrom<Wire> for Revocation {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let Wire { id, at, until, issuer, user, session, token_id, issued_before } = wire;
        let what = RevocationFields {
            user,
            session,
            token_id,
            issued_before: issued_before.map(UnixMillis),
        }
        .meant()?;
        Ok(Self { id, at: UnixMillis(at), until: UnixMillis(until), issuer, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_goes_through_json_and_back() {
        let orders = [
            (RevocationScope::User("ada".into()), r#""user":"ada""#),
            (RevocationScope::Session("s1".into()), r#""session":"s1""#),
            (RevocationScope::TokenId("t1".into()), r#""token_id":"t1""#),
            (
                RevocationScope::IssuedBefore { before: UnixMillis(7), user: None },
                r#""issued_before":7"#,
            ),
            (
                RevocationScope::IssuedBefore { before: UnixMillis(7), user: Some("ada".into()) },
                r#""user":"ada","issued_before":7"#,
            ),
        ];
        for (what, field) in orders {
            let order = Revocation {
                id: "r1".into(),
                ..Revocation::new(what, None, UnixMillis(1000), Duration::from_secs(1))
            };
            let json = serde_json::to_string(&order).unwrap();
            assert_eq!(json, format!(r#"{{"id":"r1","at":1000,"until":2000,{field}}}"#));
            assert_eq!(serde_json::from_str::<Revocation>(&json).unwrap(), order);
        }
    }

    #[test]
    fn an_order_that_means_nothing_or_two_things_is_none() {
        for fields in [
            r#""at":1"#,
            r#""user":"a","session":"b""#,
            r#""token_id":"a","issued_before":1"#,
            r#""user":"""#,
        ] {
            let json = format!(r#"{{"id":"r1","at":1,"until":2,{fields}}}"#);
            assert!(serde_json::from_str::<Revocation>(&json).is_err(), "{json}");
        }
        let long = RevocationFields { user: Some("a".repeat(1025)), ..RevocationFields::default() };
        assert!(long.meant().is_err());
    }
}
