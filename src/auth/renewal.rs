//! The renewal of a grant during its session.

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

/// The data that a session needs to check a new credential: the rules and its current grant.
#[derive(Debug)]
pub struct Renewal {
    /// The authenticator of the current configuration. A session may live for weeks, and an
    /// issuer's keys may change or be revoked meanwhile.
    pub authenticator: Arc<ArcSwap<Authenticator>>,
    pub grant: Grant,
    pub request_id: RequestId,
    pub origin: Option<String>,
    pub peer: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    Refused(Rejection),
    /// The credential is valid, but of another user.
    OtherSubject,
    /// The credential is of the same user, but does not expire later than the old one.
    NoLonger,
}

impl Renewal {
    /// Returns the new grant of the session. New claims replace the old ones; they are never
    /// merged.
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
        // Two issuers may use the same name for two users.
        let is_the_same = self
            .grant
            .principal()
            .is_some_and(|old| old.subject == principal.subject && old.issuer == principal.issuer);
        if !is_the_same {
            return Err(NotRenewed::OtherSubject);
        }
        // The leeway is for clock differences at the start of a session. It does not extend a
        // session with an expired token.
        if principal.in_leeway {
            return Err(NotRenewed::Refused(Rejection::InvalidToken(InvalidToken::Expired)));
        }
        let missing = |missing: MissingPermission| {
            NotRenewed::Refused(Rejection::MissingPermission(Box::new(missing.without_scope())))
        };
        // A new credential must also have the permissions that the route requires.
        let Some(renewed) = self.grant.renewed(proved, now).map_err(missing)? else {
            return Err(NotRenewed::OtherSubject);
        };
        if renewed.expires_at() <= self.grant.expires_at() {
            return Err(NotRenewed::NoLonger);
        }
        Ok(renewed)
    }
}
