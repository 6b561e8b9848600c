//! A grant that is renewed while its session lives.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::credential::Credential;
use super::grant::Grant;
use super::{Authenticator, Presented};
use crate::base::clock::Now;
use crate::model::faults::InvalidToken;
use crate::model::permission::MissingPermission;
use crate::model::request_id::RequestId;
use crate::rejection::Rejection;

/// What a session needs to judge a new credential: the same rules, and the grant that it lives by.
#[derive(Debug)]
pub struct Renewal {
    /// Of the configuration in force: a session may live for weeks, and an issuer's keys change, or
    /// are taken back.
    pub authenticator: Arc<ArcSwap<Authenticator>>,
    pub grant: Grant,
    pub request_id: RequestId,
    pub origin: Option<String>,
    pub peer: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    Refused(Rejection),
    /// The credential is good, and somebody else's.
    OtherSubject,
    /// It is theirs, and ends no later than the one before.
    NoLonger,
}

impl Renewal {
    /// The grant that the session would live by. Claims are replaced, never merged.
    pub async fn judge(
        self: Arc<Self>,
        credential: Credential,
        now: Now,
    ) -> Result<Grant, NotRenewed> {
        let presented = Presented {
            request_id: self.request_id.as_str(),
            origin: self.origin.as_deref(),
            peer: self.peer,
            now,
        };
        let route = self.grant.route();
        let authenticator = self.authenticator.load_full();
        let proved =
            authenticator.prove(route, credential, presented).await.map_err(NotRenewed::Refused)?;
        let principal = &proved.principal;
        // Two issuers may name two people alike.
        let is_the_same = self
            .grant
            .principal()
            .is_some_and(|old| old.subject == principal.subject && old.issuer == principal.issuer);
        if !is_the_same {
            return Err(NotRenewed::OtherSubject);
        }
        // Leeway is for clocks that differ at the door. Who is in already is not kept in by a token
        // that has ended.
        if principal.in_leeway {
            return Err(NotRenewed::Refused(Rejection::InvalidToken(InvalidToken::Expired)));
        }
        let missing = |missing: MissingPermission| {
            NotRenewed::Refused(Rejection::MissingPermission(Box::new(missing.without_scope())))
        };
        // Whoever came in with more may not stay with less than the route requires.
        let Some(renewed) = self.grant.renewed(proved, now).map_err(missing)? else {
            return Err(NotRenewed::OtherSubject);
        };
        if renewed.expires_at() <= self.grant.expires_at() {
            return Err(NotRenewed::NoLonger);
        }
        Ok(renewed)
    }
}
