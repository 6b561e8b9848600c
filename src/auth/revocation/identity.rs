//! The data of its token that a live session keeps, so that a revocation finds the session.
//!
//! A name is kept as 64 bits of a keyed hash. That is enough to find a session among all sessions
//! of a process, and has a fixed size. The key is random for each process, so an attacker cannot
//! make two names collide.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::base::clock::UnixMillis;
use crate::model::principal::Principal;
use crate::model::revocation::{Revocation, RevocationScope};

/// The hashes of one session; 0 stands for an unknown value.
#[derive(Debug, Default)]
pub struct Identity {
    issuer: u32,
    /// Seconds since the epoch. A renewal changes this field and the two below.
    issued_at: AtomicU32,
    token: AtomicU64,
    login: AtomicU64,
}

/// A revocation, prepared for the comparison with many sessions.
#[derive(Debug)]
pub struct RevocationTarget<'a> {
    revocation: &'a Revocation,
    mark: u64,
    issuer: Option<u32>,
}

// Every load and store is `SeqCst`. A renewal writes here and then reads the deny list. A
// revocation writes the deny list and then reads here. With a weaker order, both could miss the
// other's write.
const ORDER: Ordering = Ordering::SeqCst;

impl Identity {
    pub fn of(principal: Option<&Principal>) -> Self {
        let Some(principal) = principal else { return Self::default() };
        let identity = Self { issuer: issuer_mark(&principal.issuer), ..Self::default() };
        identity.renew(principal);
        identity
    }

    /// Stores the values of a new token. User and issuer stay the same.
    pub fn renew(&self, principal: &Principal) {
        self.issued_at
            .store(u32::try_from(principal.issued_at.as_secs()).unwrap_or(u32::MAX), ORDER);
        self.token.store(principal.token_id.as_deref().map_or(0, mark), ORDER);
        self.login.store(principal.issuer_session.as_deref().map_or(0, mark), ORDER);
    }
}

impl Revocation {
    pub fn aim(&self) -> RevocationTarget<'_> {
        RevocationTarget {
            revocation: self,
            mark: mark(self.name()),
            issuer: self.issuer.as_deref().map(issuer_mark),
        }
    }
}

impl RevocationTarget<'_> {
    /// Returns true if the revocation matches a session. `user` is `None` on a public route; such a
    /// session has only its id.
    pub fn hits(&self, session_id: &str, user: Option<&str>, identity: &Identity) -> bool {
        if let RevocationScope::Session(session) = &self.revocation.what
            && session == session_id
        {
            return true;
        }
        let Some(user) = user else { return false };
        if self.issuer.is_some_and(|issuer| issuer != identity.issuer) {
            return false;
        }
        match &self.revocation.what {
            RevocationScope::User(revoked) => revoked == user,
            RevocationScope::Session(_) => identity.login.load(ORDER) == self.mark,
            RevocationScope::TokenId(_) => identity.token.load(ORDER) == self.mark,
            RevocationScope::IssuedBefore { before, user: only } => {
                let issued_at = UnixMillis::from_secs(identity.issued_at.load(ORDER).into());
                issued_at < *before && only.as_ref().is_none_or(|only| only == user)
            }
        }
    }
}

fn mark(name: &str) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(name).max(1)
}

/// Returns half of a mark, which is enough for the few issuers.
fn issuer_mark(name: &str) -> u32 {
    let [a, b, c, d, ..] = mark(name).to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d]).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::revocation::deny_list::tests::order;
    use crate::model::principal::tests::principal;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn an_identity_is_twenty_four_bytes() {
        assert_eq!(size_of::<Identity>(), 24);
    }

    #[test]
    fn a_public_session_is_found_by_its_own_id_alone() {
        let unknown = Identity::of(None);
        let all = order(RevocationScope::IssuedBefore { before: UnixMillis(u64::MAX), user: None });
        assert!(!all.aim().hits("s", None, &unknown));
        assert!(order(RevocationScope::Session("s".into())).aim().hits("s", None, &unknown));
        assert!(!order(RevocationScope::Session("t".into())).aim().hits("s", None, &unknown));
    }

    #[test]
    fn a_renewal_changes_the_token_and_not_the_user() {
        let identity =
            Identity::of(Some(&principal("ada", "main", Some("t1"), Some("login"), 100)));
        let hits = |what| order(what).aim().hits("s", Some("ada"), &identity);
        assert!(
            hits(RevocationScope::TokenId("t1".into()))
                && hits(RevocationScope::Session("login".into()))
        );
        identity.renew(&principal("ada", "main", Some("t2"), None, 200));
        assert!(
            !hits(RevocationScope::TokenId("t1".into()))
                && hits(RevocationScope::TokenId("t2".into()))
                && !hits(RevocationScope::Session("login".into()))
        );
        assert!(
            !hits(RevocationScope::IssuedBefore { before: UnixMillis::from_secs(150), user: None })
                && hits(RevocationScope::User("ada".into()))
        );
    }

    proptest! {
        /// An order matches the same principals for new credentials and for live sessions.
        #[test]
        fn a_live_session_is_met_by_what_would_refuse_its_token(
            what in super::super::deny_list::tests::any_what(),
            who in super::super::deny_list::tests::any_principal(),
            issuer in proptest::option::of("[ab]"),
        ) {
            let order = Revocation::new(what, issuer, UnixMillis(0), Duration::from_secs(1));
            let live = order.aim().hits("id", Some(&who.subject), &Identity::of(Some(&who)));
            prop_assert_eq!(live, order.concerns(&who));
        }
    }
}
