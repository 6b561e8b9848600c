//! The deny list: the revocations in force, checked for every credential.
//!
//! Every upgrade reads the list, and only a few orders a day write it. So reading costs one atomic
//! load while the list is empty, else a shared lock and a few look-ups. The list is bounded. It
//! never drops an entry in force to make room.
//!
//! An order ends when both clocks have passed its end. Tokens expire by the wall clock. If the wall
//! clock jumps ahead and is then corrected, an order that ended by this clock alone would be lost,
//! and the token would be valid again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::model::principal::Principal;
use crate::model::revocation::{Revocation, RevocationKind, RevocationScope};

/// The most orders that wait for one watcher.
const WATCHED: usize = 1024;

#[derive(Debug)]
pub struct Revocations {
    capacity: usize,
    /// If zero, readers skip the lock.
    held: AtomicUsize,
    table: RwLock<Table>,
    /// The processes that replace this one, or that this one replaces.
    watchers: Mutex<Vec<mpsc::Sender<Revocation>>>,
}

#[derive(Debug, Default)]
struct Table {
    by_kind: HashMap<RevocationKind, HashMap<String, Vec<Entry>>>,
    held: usize,
    /// No entry ends before both times.
    next_end: Option<(UnixMillis, Instant)>,
}

#[derive(Debug)]
struct Entry {
    order: Revocation,
    /// The order's end by the monotonic clock.
    ends: Instant,
}

/// The result of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationEffect {
    New,
    /// The order was already in force, at least as far as this.
    Known,
    /// The order has ended: no token that it matches can be valid any more.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deny list is full (revocation.max_entries)")]
pub struct DenyListFull;

impl Revocations {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            held: AtomicUsize::new(0),
            table: RwLock::default(),
            watchers: Mutex::default(),
        }
    }

    /// Puts an order in force. The result is the same if orders are repeated, or arrive in another
    /// sequence on another node.
    pub fn apply(&self, order: Revocation, now: Now) -> Result<RevocationEffect, DenyListFull> {
        let for_watchers = order.clone();
        let applied = self.enter(order, now);
        if applied == Ok(RevocationEffect::New) {
            // A watcher that is too slow is dropped. It then knows that it misses orders.
            lock(&self.watchers).retain(|one| one.try_send(for_watchers.clone()).is_ok());
        }
        applied
    }

    /// Returns every order that comes into force from now on.
    pub fn watch(&self) -> mpsc::Receiver<Revocation> {
        let (sender, receiver) = mpsc::channel(WATCHED);
        lock(&self.watchers).push(sender);
        receiver
    }

    fn enter(&self, order: Revocation, now: Now) -> Result<RevocationEffect, DenyListFull> {
        if order.until <= now.wall {
            return Ok(RevocationEffect::Over);
        }
        let entry = Entry { ends: order.ends_at(now), order };
        let mut table = self.write();
        if let Some(known) = table.entry_about(&entry.order) {
            if known.is_over(now) {
                *known = entry;
                return Ok(RevocationEffect::New);
            }
            return Ok(known.widen(entry));
        }
        if table.held >= self.capacity && table.has_ended(now) {
            table.sweep(now);
        }
        let outcome = if table.held >= self.capacity {
            Err(DenyListFull)
        } else {
            table.insert(entry);
            Ok(RevocationEffect::New)
        };
        self.held.store(table.held, Ordering::SeqCst);
        outcome
    }

    /// Returns the kind of revocation that matches a principal, if any.
    pub fn find(&self, principal: &Principal, now: Now) -> Option<RevocationKind> {
        if self.is_empty() {
            return None;
        }
        let table = self.read();
        let has = |kind, name: &str| {
            let mut entries = table.named(kind, name).iter();
            entries
                .any(|entry| !entry.is_over(now) && entry.order.concerns(principal))
                .then_some(kind)
        };
        has(RevocationKind::User, &principal.subject)
            .or_else(|| has(RevocationKind::Session, principal.issuer_session.as_deref()?))
            .or_else(|| has(RevocationKind::TokenId, principal.token_id.as_deref()?))
            .or_else(|| has(RevocationKind::IssuedBefore, &principal.subject))
            .or_else(|| has(RevocationKind::IssuedBefore, ""))
    }

    /// Returns the kind of revocation that matches a live session. Its session id may be revoked
    /// too; a public session has only that id.
    pub fn find_session(
        &self,
        session_id: &str,
        principal: Option<&Principal>,
        now: Now,
    ) -> Option<RevocationKind> {
        if self.is_empty() {
            return None;
        }
        let is_revoked = self
            .read()
            .named(RevocationKind::Session, session_id)
            .iter()
            .any(|entry| !entry.is_over(now));
        if is_revoked { Some(RevocationKind::Session) } else { self.find(principal?, now) }
    }

    /// Returns the orders in force, for a node that joins.
    pub fn snapshot(&self, now: Now) -> Vec<Revocation> {
        let table = self.read();
        let entries = table.by_kind.values().flat_map(HashMap::values).flatten();
        let mut orders: Vec<Revocation> =
            entries.filter(|entry| !entry.is_over(now)).map(|entry| entry.order.clone()).collect();
        orders.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        orders
    }

    /// Removes orders that have ended, and returns the number of entries.
    pub fn sweep(&self, now: Now) -> usize {
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

    /// A panic in another thread leaves only complete entries.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn named(&self, kind: RevocationKind, name: &str) -> &[Entry] {
        self.by_kind.get(&kind).and_then(|names| names.get(name)).map_or(&[], Vec::as_slice)
    }

    /// Returns the entry for the same name and issuer.
    fn entry_about(&mut self, other: &Revocation) -> Option<&mut Entry> {
        let entries = self.by_kind.get_mut(&other.kind())?.get_mut(other.name())?;
        entries.iter_mut().find(|entry| entry.order.issuer == other.issuer)
    }

    /// Returns true if some entry may have ended.
    fn has_ended(&self, now: Now) -> bool {
        self.next_end.is_some_and(|(until, ends)| until <= now.wall && ends <= now.mono)
    }

    fn insert(&mut self, entry: Entry) {
        self.next_end = earlier(self.next_end, &entry);
        self.held += 1;
        let names = self.by_kind.entry(entry.order.kind()).or_default();
        // A name rarely has two entries, so no capacity is reserved.
        names
            .entry(entry.order.name().to_owned())
            .or_insert_with(|| Vec::with_capacity(1))
            .push(entry);
    }

    fn sweep(&mut self, now: Now) {
        for names in self.by_kind.values_mut() {
            names.retain(|_, entries| {
                entries.retain(|entry| !entry.is_over(now));
                !entries.is_empty()
            });
            names.shrink_to(64);
        }
        let left = || self.by_kind.values().flat_map(HashMap::values).flatten();
        let (held, next_end) = (left().count(), left().fold(None, earlier));
        (self.held, self.next_end) = (held, next_end);
    }
}

fn earlier(next: Option<(UnixMillis, Instant)>, entry: &Entry) -> Option<(UnixMillis, Instant)> {
    let (until, ends) = next.unwrap_or((entry.order.until, entry.ends));
    Some((until.min(entry.order.until), ends.min(entry.ends)))
}

impl Entry {
    fn is_over(&self, now: Now) -> bool {
        self.order.until <= now.wall && self.ends <= now.mono
    }

    /// Merges an order for the same name and issuer. The result holds as far and as long as either
    /// order, in any sequence.
    fn widen(&mut self, other: Self) -> RevocationEffect {
        self.ends = self.ends.max(other.ends);
        let (known, other) = (&mut self.order, other.order);
        let before = known.before().max(other.before());
        let until = known.until.max(other.until);
        if (before, until) == (known.before(), known.until) {
            return RevocationEffect::Known;
        }
        if let RevocationScope::IssuedBefore { before: known_before, .. } = &mut known.what {
            *known_before = before;
        }
        known.until = until;
        // The id of the later order is kept, so that the result does not depend on the sequence.
        if (other.at, &other.id) > (known.at, &known.id) {
            (known.at, known.id) = (other.at, other.id);
        }
        RevocationEffect::New
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::principal::tests::principal;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: UnixMillis = UnixMillis(1_000_000);

    /// Returns both clocks at this time, for a wall clock that nothing changes.
    fn at(wall: UnixMillis) -> Now {
        static START: LazyLock<Instant> = LazyLock::new(|| Now::read().mono);
        Now { wall, mono: *START + wall.since(UnixMillis(0)) }
    }

    /// Returns the same moment, with another time on the wall clock.
    fn with_wall_clock(now: Now, wall: UnixMillis) -> Now {
        Now { wall, ..now }
    }

    pub(crate) fn order(what: RevocationScope) -> Revocation {
        Revocation::new(what, None, NOW, HOUR)
    }

    /// Uses few names, so that orders and principals match.
    pub(crate) fn any_what() -> impl Strategy<Value = RevocationScope> {
        prop_oneof![
            "[ab]".prop_map(RevocationScope::User),
            "[ab]".prop_map(RevocationScope::Session),
            "[ab]".prop_map(RevocationScope::TokenId),
            (0..5u64, proptest::option::of("[ab]")).prop_map(|(before, user)| {
                RevocationScope::IssuedBefore { before: UnixMillis::from_secs(before), user }
            }),
        ]
    }

    pub(crate) fn any_principal() -> impl Strategy<Value = Principal> {
        ("[ab]", "[ab]", proptest::option::of("[ab]"), proptest::option::of("[ab]"), 0..5u64)
            .prop_map(|(subject, issuer, token, login, at)| {
                principal(&subject, &issuer, token.as_deref(), login.as_deref(), at)
            })
    }

    fn any_order() -> impl Strategy<Value = Revocation> {
        (any_what(), proptest::option::of("[ab]"), 0..10u64, 1..20u64).prop_map(
            |(what, issuer, at, keep)| Revocation {
                id: format!("{at}-{keep}"),
                ..Revocation::new(what, issuer, UnixMillis(at), Duration::from_millis(keep))
            },
        )
    }

    #[test]
    fn each_kind_meets_its_own_and_ends_by_itself() {
        let ada = principal("ada", "main", Some("t1"), Some("login"), 500);
        let others = [
            principal("bob", "main", Some("t2"), Some("other"), 900),
            principal("bob", "main", None, None, 900),
        ];
        let before = UnixMillis::from_secs(600);
        for what in [
            RevocationScope::User("ada".into()),
            RevocationScope::Session("login".into()),
            RevocationScope::TokenId("t1".into()),
            RevocationScope::IssuedBefore { before, user: None },
            RevocationScope::IssuedBefore { before, user: Some("ada".into()) },
        ] {
            let list = Revocations::new(10);
            let order = order(what);
            assert_eq!(list.find(&ada, at(NOW)), None);
            assert_eq!(list.apply(order.clone(), at(NOW)), Ok(RevocationEffect::New));
            assert_eq!(list.apply(order.clone(), at(NOW)), Ok(RevocationEffect::Known));
            assert_eq!(list.find(&ada, at(NOW)), Some(order.kind()));
            assert!(others.iter().all(|other| list.find(other, at(NOW)).is_none()), "{order:?}");
            assert_eq!(list.find(&ada, at(order.until)), None, "the order has ended, swept or not");
            assert_eq!(
                (list.sweep(at(NOW)), list.sweep(at(order.until)), list.snapshot(at(NOW)).len()),
                (1, 0, 0)
            );
            assert_eq!(list.apply(order.clone(), at(order.until)), Ok(RevocationEffect::Over));
        }
    }

    #[test]
    fn a_token_that_does_not_say_when_it_was_issued_counts_as_old() {
        let list = Revocations::new(10);
        list.apply(
            order(RevocationScope::IssuedBefore { before: UnixMillis(1), user: None }),
            at(NOW),
        )
        .unwrap();
        assert_eq!(
            list.find(&principal("ada", "main", None, None, 0), at(NOW)),
            Some(RevocationKind::IssuedBefore)
        );
    }

    #[test]
    fn a_session_s_own_id_is_met_on_public_routes_too() {
        let list = Revocations::new(10);
        list.apply(order(RevocationScope::Session("s1".into())), at(NOW)).unwrap();
        assert_eq!(list.find_session("s1", None, at(NOW)), Some(RevocationKind::Session));
        assert_eq!(list.find_session("s2", None, at(NOW)), None);
    }

    #[test]
    fn a_full_list_refuses_and_gives_up_nothing_until_something_ends() {
        let list = Revocations::new(2);
        for user in ["a", "b"] {
            list.apply(order(RevocationScope::User(user.into())), at(NOW)).unwrap();
        }
        assert_eq!(
            list.apply(order(RevocationScope::User("c".into())), at(NOW)),
            Err(DenyListFull)
        );
        assert_eq!(
            list.apply(order(RevocationScope::User("a".into())), at(NOW)),
            Ok(RevocationEffect::Known),
            "a known order needs no room"
        );
        assert!(
            ["a", "b"]
                .iter()
                .all(|user| list.find(&principal(user, "main", None, None, 0), at(NOW)).is_some())
        );
        let later = NOW + HOUR;
        assert_eq!(
            list.apply(
                Revocation::new(RevocationScope::User("c".into()), None, later, HOUR),
                at(later)
            ),
            Ok(RevocationEffect::New)
        );
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_comes_back_forgets_no_order() {
        let ada = principal("ada", "main", None, None, 0);
        let later = at(NOW + Duration::from_secs(60));
        let ahead = with_wall_clock(later, NOW + HOUR * 24);
        let list = Revocations::new(1);
        list.apply(order(RevocationScope::User("ada".into())), at(NOW)).unwrap();
        assert_eq!(
            (list.sweep(ahead), list.snapshot(ahead).len()),
            (1, 1),
            "a sweep while the clock is wrong"
        );
        assert_eq!(list.find(&ada, ahead), Some(RevocationKind::User));
        assert_eq!(
            list.apply(order(RevocationScope::User("bob".into())), later),
            Err(DenyListFull),
            "the order is in force, and is not dropped"
        );
        assert_eq!(
            (list.find(&ada, later), list.find_session("ada", Some(&ada), later)),
            (Some(RevocationKind::User), Some(RevocationKind::User))
        );
        let end = at(NOW + HOUR);
        assert_eq!((list.find(&ada, end), list.sweep(end)), (None, 0));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_an_order_as_long_as_it_keeps_tokens() {
        let ada = principal("ada", "main", None, None, 0);
        let list = Revocations::new(1);
        list.apply(order(RevocationScope::User("ada".into())), at(NOW)).unwrap();
        // By this clock, a token that ends with the order is valid for one more second.
        let back = with_wall_clock(at(NOW + HOUR * 2), UnixMillis((NOW + HOUR).0 - 1000));
        assert_eq!((list.sweep(back), list.find(&ada, back)), (1, Some(RevocationKind::User)));
        assert_eq!(list.sweep(with_wall_clock(back, NOW + HOUR)), 0);
    }

    #[test]
    fn an_order_that_is_heard_by_a_clock_far_behind_ends_once_the_clock_is_set() {
        let ada = principal("ada", "main", None, None, 0);
        let list = Revocations::new(1);
        let unset = with_wall_clock(at(NOW), UnixMillis(0));
        list.apply(order(RevocationScope::User("ada".into())), unset).unwrap();
        let last = at(UnixMillis((NOW + HOUR).0 - 1));
        assert_eq!(
            (list.find(&ada, unset), list.find(&ada, last)),
            (Some(RevocationKind::User), Some(RevocationKind::User))
        );
        let end = at(NOW + HOUR + Duration::from_secs(60));
        assert_eq!((list.find(&ada, end), list.sweep(end)), (None, 0));
    }

    proptest! {
        #[test]
        fn whatever_the_order_and_however_often_the_list_is_the_same(
            orders in proptest::collection::vec(any_order(), 0..12),
            who in any_principal(),
            time in 0..30u64,
        ) {
            let [there, back] = [Revocations::new(100), Revocations::new(100)];
            for order in &orders {
                there.apply(order.clone(), at(UnixMillis(0))).unwrap();
            }
            for order in orders.iter().rev().chain(&orders) {
                back.apply(order.clone(), at(UnixMillis(0))).unwrap();
            }
            let then = at(UnixMillis(time));
            let strip = |list: &Revocations| {
                let mut kept: Vec<_> = list
                    .snapshot(then)
                    .into_iter()
                    .map(|one| (format!("{:?}", one.what), one.issuer, one.until))
                    .collect();
                kept.sort();
                kept
            };
            prop_assert_eq!(strip(&there), strip(&back));
            // The list matches at least as much as each order by itself.
            if orders.iter().any(|order| order.until > then.wall && order.concerns(&who)) {
                prop_assert!(there.find(&who, then).is_some());
            }
            let held = there.len();
            prop_assert!(there.sweep(then) <= held);
            prop_assert_eq!(there.find(&who, then), back.find(&who, then));
        }

        /// For every walk of the wall clock, a principal stays refused until the end of its order.
        #[test]
        fn no_walk_of_the_wall_clock_ends_an_order_early(
            orders in proptest::collection::vec(any_order(), 0..8),
            walk in proptest::collection::vec((0..30u64, 0..60u64), 0..12),
            who in any_principal(),
            time in 0..30u64,
        ) {
            let list = Revocations::new(100);
            for order in &orders {
                list.apply(order.clone(), at(UnixMillis(0))).unwrap();
            }
            let mut walk: Vec<_> = walk.into_iter().filter(|(passed, _)| *passed <= time).collect();
            walk.sort_unstable();
            for (passed, shown) in walk {
                list.sweep(with_wall_clock(at(UnixMillis(passed)), UnixMillis(shown)));
            }
            let then = at(UnixMillis(time));
            if orders.iter().any(|order| order.until > then.wall && order.concerns(&who)) {
                prop_assert!(list.find(&who, then).is_some());
            }
        }
    }

    #[test]
    fn watchers_get_each_new_order_once() {
        let list = Revocations::new(10);
        let mut watcher = list.watch();
        let first = order(RevocationScope::User("ada".into()));
        list.apply(first.clone(), at(NOW)).unwrap();
        assert_eq!(watcher.try_recv().unwrap(), first);
        list.apply(first, at(NOW)).unwrap();
        list.apply(
            Revocation { until: NOW, ..order(RevocationScope::User("bob".into())) },
            at(NOW),
        )
        .unwrap();
        assert!(watcher.try_recv().is_err(), "neither a known order nor one that is over");
        assert!(!list.is_empty());
    }

    #[test]
    fn of_two_orders_about_one_user_the_later_one_gives_the_id() {
        let at_time = |time: u64, keep| {
            let at = UnixMillis(NOW.0 + time);
            Revocation {
                id: format!("order-{time}"),
                ..Revocation::new(RevocationScope::User("ada".into()), None, at, keep)
            }
        };
        // Both have an effect in either sequence: each holds longer than the one before it.
        for times in [[1, 2], [2, 1]] {
            let list = Revocations::new(10);
            for (time, keep) in times.into_iter().zip([HOUR, HOUR * 2]) {
                assert_eq!(list.apply(at_time(time, keep), at(NOW)), Ok(RevocationEffect::New));
            }
            let [held] = &list.snapshot(at(NOW))[..] else { panic!("one order is held") };
            assert_eq!((held.id.as_str(), held.at), ("order-2", UnixMillis(NOW.0 + 2)));
        }
    }
}
