//! The deny list: what is revoked now, held against every credential.
//!
//! It is read by every upgrade and written by few orders a day, so reading costs one atomic load while nothing is revoked
//! and a shared lock with a few look-ups otherwise. It is bounded, and never gives up an entry that is in force to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Kind, Revocation, What};
use crate::auth::principal::Principal;
use crate::clock::UnixMillis;

#[derive(Debug)]
pub struct Revocations {
    capacity: usize,
    /// Zero lets every reader by without the lock.
    held: AtomicUsize,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_kind: HashMap<Kind, HashMap<String, Vec<Revocation>>>,
    held: usize,
    /// No entry ends before this.
    next_end: Option<UnixMillis>,
}

/// What an order changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    New,
    /// It was in force already, at least as far as this.
    Known,
    /// It has ended: no token that it concerns can be good any more.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deny list holds as many entries as it may (revocation.max_entries)")]
pub struct Full;

impl Revocations {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, held: AtomicUsize::new(0), table: RwLock::default() }
    }

    /// Puts an order in force. Doing it again, or in another order than another node, comes to the same.
    pub fn apply(&self, revocation: Revocation, now: UnixMillis) -> Result<Applied, Full> {
        if revocation.until <= now {
            return Ok(Applied::Over);
        }
        let mut table = self.write();
        if let Some(known) = table.like(&revocation) {
            if known.until <= now {
                *known = revocation;
                return Ok(Applied::New);
            }
            return Ok(widen(known, revocation));
        }
        if table.held >= self.capacity && table.has_ended(now) {
            table.sweep(now);
        }
        let outcome = if table.held >= self.capacity {
            Err(Full)
        } else {
            table.insert(revocation);
            Ok(Applied::New)
        };
        self.held.store(table.held, Ordering::SeqCst);
        outcome
    }

    /// What a credential's owner falls under, if anything.
    pub fn find(&self, principal: &Principal, now: UnixMillis) -> Option<Kind> {
        if self.is_empty() {
            return None;
        }
        let table = self.read();
        let has = |kind, name: &str| {
            let mut entries = table.named(kind, name).iter();
            entries.any(|entry| entry.until > now && entry.concerns(principal)).then_some(kind)
        };
        has(Kind::User, &principal.subject)
            .or_else(|| has(Kind::Session, principal.issuer_session.as_deref()?))
            .or_else(|| has(Kind::TokenId, principal.token_id.as_deref()?))
            .or_else(|| has(Kind::IssuedBefore, &principal.subject))
            .or_else(|| has(Kind::IssuedBefore, ""))
    }

    /// The same for a session that has begun: its id may be revoked too, and on a public route that is all it has.
    pub fn find_session(&self, session_id: &str, principal: Option<&Principal>, now: UnixMillis) -> Option<Kind> {
        if self.is_empty() {
            return None;
        }
        let is_revoked = self.read().named(Kind::Session, session_id).iter().any(|entry| entry.until > now);
        if is_revoked { Some(Kind::Session) } else { self.find(principal?, now) }
    }

    /// What is in force, for a node that joins.
    pub fn snapshot(&self, now: UnixMillis) -> Vec<Revocation> {
        let table = self.read();
        let entries = table.by_kind.values().flat_map(HashMap::values).flatten();
        let mut entries: Vec<Revocation> = entries.filter(|entry| entry.until > now).cloned().collect();
        entries.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        entries
    }

    /// Housekeeping: forgets what has ended. Gives back how many entries there are.
    pub fn sweep(&self, now: UnixMillis) -> usize {
        let has_ended = self.read().has_ended(now);
        if has_ended {
            let mut table = self.write();
            table.sweep(now);
            self.held.store(table.held, Ordering::SeqCst);
        }
        self.len()
    }

    pub fn len(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A panic elsewhere leaves whole entries behind.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn named(&self, kind: Kind, name: &str) -> &[Revocation] {
        self.by_kind.get(&kind).and_then(|names| names.get(name)).map_or(&[], Vec::as_slice)
    }

    /// The entry about the same names.
    fn like(&mut self, other: &Revocation) -> Option<&mut Revocation> {
        let entries = self.by_kind.get_mut(&other.kind())?.get_mut(other.name())?;
        entries.iter_mut().find(|entry| entry.issuer == other.issuer)
    }

    /// Is there something to forget?
    fn has_ended(&self, now: UnixMillis) -> bool {
        self.next_end.is_some_and(|end| end <= now)
    }

    fn insert(&mut self, revocation: Revocation) {
        self.next_end = Some(self.next_end.map_or(revocation.until, |end| end.min(revocation.until)));
        self.held += 1;
        let names = self.by_kind.entry(revocation.kind()).or_default();
        // One name is rarely named twice: nothing is set aside for it.
        names.entry(revocation.name().to_owned()).or_insert_with(|| Vec::with_capacity(1)).push(revocation);
    }

    fn sweep(&mut self, now: UnixMillis) {
        for names in self.by_kind.values_mut() {
            names.retain(|_, entries| {
                entries.retain(|entry| entry.until > now);
                !entries.is_empty()
            });
            names.shrink_to(64);
        }
        let left = || self.by_kind.values().flat_map(HashMap::values).flatten();
        let (held, next_end) = (left().count(), left().map(|entry| entry.until).min());
        (self.held, self.next_end) = (held, next_end);
    }
}

/// Two orders about the same become one that holds as far and as long as either: whichever came first.
fn widen(known: &mut Revocation, other: Revocation) -> Applied {
    let before = known.before().max(other.before());
    let until = known.until.max(other.until);
    if (before, until) == (known.before(), known.until) {
        return Applied::Known;
    }
    if let What::IssuedBefore { before: known_before, .. } = &mut known.what {
        *known_before = before;
    }
    known.until = until;
    // The later order gives its name, so that the outcome does not hang on which came first.
    if (other.at, &other.id) > (known.at, &known.id) {
        (known.at, known.id) = (other.at, other.id);
    }
    Applied::New
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: UnixMillis = UnixMillis(1_000_000);

    pub(crate) fn principal(subject: &str, issuer: &str, token: Option<&str>, login: Option<&str>, issued_at: u64) -> Principal {
        Principal {
            subject: subject.to_owned(),
            issuer: issuer.into(),
            token_id: token.map(str::to_owned),
            issuer_session: login.map(str::to_owned),
            permissions: Vec::new(),
            issued_at: UnixMillis::from_secs(issued_at),
            expires_at: UnixMillis(u64::MAX),
            in_leeway: false,
            claims: serde_json::Map::new(),
        }
    }

    pub(crate) fn order(what: What) -> Revocation {
        Revocation::new(what, None, NOW, HOUR)
    }

    /// Few names, so that they meet.
    pub(crate) fn any_what() -> impl Strategy<Value = What> {
        prop_oneof![
            "[ab]".prop_map(What::User),
            "[ab]".prop_map(What::Session),
            "[ab]".prop_map(What::TokenId),
            (0..5u64, proptest::option::of("[ab]"))
                .prop_map(|(before, user)| What::IssuedBefore { before: UnixMillis::from_secs(before), user }),
        ]
    }

    pub(crate) fn any_principal() -> impl Strategy<Value = Principal> {
        ("[ab]", "[ab]", proptest::option::of("[ab]"), proptest::option::of("[ab]"), 0..5u64)
            .prop_map(|(subject, issuer, token, login, at)| principal(&subject, &issuer, token.as_deref(), login.as_deref(), at))
    }

    fn any_order() -> impl Strategy<Value = Revocation> {
        (any_what(), proptest::option::of("[ab]"), 0..10u64, 1..20u64).prop_map(|(what, issuer, at, keep)| Revocation {
            id: format!("{at}-{keep}"),
            ..Revocation::new(what, issuer, UnixMillis(at), Duration::from_millis(keep))
        })
    }

    #[test]
    fn each_kind_meets_its_own_and_ends_by_itself() {
        let ada = principal("ada", "main", Some("t1"), Some("login"), 500);
        let others = [principal("bob", "main", Some("t2"), Some("other"), 900), principal("bob", "main", None, None, 900)];
        let before = UnixMillis::from_secs(600);
        for what in [
            What::User("ada".into()),
            What::Session("login".into()),
            What::TokenId("t1".into()),
            What::IssuedBefore { before, user: None },
            What::IssuedBefore { before, user: Some("ada".into()) },
        ] {
            let list = Revocations::new(10);
            let order = order(what);
            assert_eq!(list.find(&ada, NOW), None);
            assert_eq!(list.apply(order.clone(), NOW), Ok(Applied::New));
            assert_eq!(list.apply(order.clone(), NOW), Ok(Applied::Known));
            assert_eq!(list.find(&ada, NOW), Some(order.kind()));
            assert!(others.iter().all(|other| list.find(other, NOW).is_none()), "{order:?}");
            assert_eq!(list.find(&ada, order.until), None, "it has ended, swept or not");
            assert_eq!((list.sweep(NOW), list.sweep(order.until), list.snapshot(NOW).len()), (1, 0, 0));
            assert_eq!(list.apply(order.clone(), order.until), Ok(Applied::Over));
        }
    }

    #[test]
    fn a_token_that_does_not_say_when_it_was_issued_counts_as_old() {
        let list = Revocations::new(10);
        list.apply(order(What::IssuedBefore { before: UnixMillis(1), user: None }), NOW).unwrap();
        assert_eq!(list.find(&principal("ada", "main", None, None, 0), NOW), Some(Kind::IssuedBefore));
    }

    #[test]
    fn a_session_s_own_id_is_met_on_public_routes_too() {
        let list = Revocations::new(10);
        list.apply(order(What::Session("s1".into())), NOW).unwrap();
        assert_eq!(list.find_session("s1", None, NOW), Some(Kind::Session));
        assert_eq!(list.find_session("s2", None, NOW), None);
    }

    #[test]
    fn a_full_list_refuses_and_gives_up_nothing_until_something_ends() {
        let list = Revocations::new(2);
        for user in ["a", "b"] {
            list.apply(order(What::User(user.into())), NOW).unwrap();
        }
        assert_eq!(list.apply(order(What::User("c".into())), NOW), Err(Full));
        assert_eq!(list.apply(order(What::User("a".into())), NOW), Ok(Applied::Known), "what is there needs no room");
        assert!(["a", "b"].iter().all(|user| list.find(&principal(user, "main", None, None, 0), NOW).is_some()));
        let later = NOW + HOUR;
        assert_eq!(list.apply(Revocation::new(What::User("c".into()), None, later, HOUR), later), Ok(Applied::New));
        assert_eq!(list.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_the_order_and_however_often_the_list_is_the_same(
            orders in proptest::collection::vec(any_order(), 0..12),
            who in any_principal(),
            at in 0..30u64,
        ) {
            let [there, back] = [Revocations::new(100), Revocations::new(100)];
            for order in &orders {
                there.apply(order.clone(), UnixMillis(0)).unwrap();
            }
            for order in orders.iter().rev().chain(&orders) {
                back.apply(order.clone(), UnixMillis(0)).unwrap();
            }
            let at = UnixMillis(at);
            let strip = |list: &Revocations| {
                let mut kept: Vec<_> = list.snapshot(at).into_iter().map(|one| (format!("{:?}", one.what), one.issuer, one.until)).collect();
                kept.sort();
                kept
            };
            prop_assert_eq!(strip(&there), strip(&back));
            // Never less than each order by itself.
            if orders.iter().any(|order| order.until > at && order.concerns(&who)) {
                prop_assert!(there.find(&who, at).is_some());
            }
            let held = there.len();
            prop_assert!(there.sweep(at) <= held);
            prop_assert_eq!(there.find(&who, at), back.find(&who, at));
        }
    }
}
