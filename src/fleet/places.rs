//! How many sessions one user may have, on this node and with a shared store on all nodes.
//!
//! Each node counts its own (`session/user_limit.rs`), and that goes on whatever happens. With a
//! shared store a place is taken there too: it decides over the fleet, and where it does not answer
//! in time the node's own count decides. So with the store away n nodes may let in n times as many,
//! and nobody is refused because of it. Places are a lease: the node moves its end on, gives it
//! back when the session is over, and puts it back where the store has lost it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Notice;
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::config::ExtraSessions;
use crate::model::principal::Principal;
use crate::model::store_fault::StoreFault;
use crate::rejection::Rejection;
use crate::rejection::close::CloseReason;
use crate::session::registry::{Registry, SessionHandle, SessionId};
use crate::session::user_limit::{UserLimit, UserPlace};
use crate::store::redis::{LEASE, PAGE, PlaceBook, Roster, StoredPlace, Taken, UserHash};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

/// A third of the lease: two renewals may fail.
const RENEW: Duration = Duration::from_secs(20);
/// Between two looks at what is to be renewed.
const LOOK: Duration = Duration::from_secs(1);
/// What waits for the store, at most; beyond it a lease ends by itself.
const MOST_WAITING: usize = 100_000;

#[derive(Debug)]
pub struct SessionPlaces {
    local: Arc<UserLimit>,
    fleet_places: Option<Arc<FleetPlaces>>,
}

/// A user's place for one session; it is given back when this is dropped.
#[derive(Debug)]
pub struct SessionPlace {
    local: Box<UserPlace>,
    fleet: Option<(Arc<FleetPlaces>, UserHash)>,
    /// With `refuse` from the start, with `replace-oldest` once the session has begun.
    fleet_place: Option<Arc<FleetPlace>>,
}

/// The places of this node as the store should know them.
#[derive(Debug)]
pub struct FleetPlaces {
    book: PlaceBook,
    roster: Arc<Roster>,
    registry: Arc<Registry>,
    most: usize,
    extra_sessions: ExtraSessions,
    /// By session. No more than there are sessions and upgrades under way.
    standing: Mutex<HashMap<String, LeasedPlace>>,
    /// Given back here and not yet in the store, with the time at which the lease ends by itself.
    left: Mutex<Vec<(StoredPlace, Instant)>>,
    /// Sessions of other nodes that lost their place and have not been told.
    replaced: Mutex<Vec<String>>,
    /// What was renewed before this may be lost.
    doubted: Mutex<Option<Instant>>,
    wake: Notify,
}

#[derive(Debug)]
struct LeasedPlace {
    user: UserHash,
    since: UnixMillis,
    renewed: Instant,
}

/// One place in the fleet. Whoever takes it and whoever has it hold it together: it goes back after
/// both.
#[derive(Debug)]
struct FleetPlace {
    fleet_places: Arc<FleetPlaces>,
    held: StoredPlace,
}

impl SessionPlaces {
    pub fn new(
        most: usize,
        extra_sessions: ExtraSessions,
        fleet_places: Option<&Arc<FleetPlaces>>,
    ) -> Self {
        Self { local: UserLimit::new(most, extra_sessions), fleet_places: fleet_places.cloned() }
    }

    /// Before an upstream is asked. With `refuse` it decides here, and the store has its time to
    /// say so.
    pub async fn enter(
        &self,
        principal: &Principal,
        session: SessionId,
    ) -> Result<Box<SessionPlace>, Rejection> {
        // Who is at the limit on this node is at the fleet's.
        let local = self.local.enter(principal)?;
        let mut place = SessionPlace { local, fleet: None, fleet_place: None };
        if let Some(fleet_places) = &self.fleet_places {
            let user = UserHash::of(&principal.issuer, &principal.subject);
            place.fleet = Some((Arc::clone(fleet_places), user));
            if fleet_places.extra_sessions == ExtraSessions::Refuse {
                let fleet_place = fleet_places.sit(user, session);
                place.fleet_place = Some(Arc::clone(&fleet_place));
                // In a task of its own: the client may leave before it is answered, and then the
                // place goes back after it.
                let taken = tokio::spawn(async move { fleet_place.take().await }).await;
                if matches!(taken, Ok(Ok(Taken::Full))) {
                    return Err(Rejection::TooManySessions);
                }
            }
        }
        Ok(Box::new(place))
    }
}

impl SessionPlace {
    /// The session begins. With `replace-oldest` another may have to end for it, and nothing waits
    /// for that.
    pub fn begin(&mut self, session: &Arc<SessionHandle>) {
        let peer = session.peer;
        let Some((fleet_places, user)) = self.fleet.as_ref().filter(|(fleet_places, _)| {
            fleet_places.extra_sessions == ExtraSessions::ReplaceOldest
        }) else {
            let replaced = self.local.begin(session);
            (0..replaced).for_each(|_| tell_limit(peer));
            return;
        };
        let user_sessions = self.local.join(session);
        let fleet_place = fleet_places.sit(*user, session.id);
        self.fleet_place = Some(Arc::clone(&fleet_place));
        tokio::spawn(async move {
            match fleet_place.take().await {
                Ok(Taken::Place { replaced }) => {
                    for session in replaced {
                        tell_limit(peer);
                        fleet_place.fleet_places.replace(session);
                    }
                }
                Ok(Taken::Full) => {}
                Err(_) => (0..user_sessions.give_way()).for_each(|_| tell_limit(peer)),
            }
        });
    }
}

fn tell_limit(peer: IpAddr) {
    LimitReached { limit: Limit::SessionsPerUser, peer: Some(peer) }.emit();
}

impl FleetPlace {
    async fn take(&self) -> Result<Taken, StoreFault> {
        let FleetPlaces { book, most, extra_sessions, .. } = &*self.fleet_places;
        let taken = book.take(&self.held, *most, *extra_sessions, Now::read().wall).await;
        if taken.is_err() {
            self.fleet_places.doubt();
        }
        taken
    }
}

impl Drop for FleetPlace {
    fn drop(&mut self) {
        self.fleet_places.forget(&self.held.session);
        let mut left = lock(&self.fleet_places.left);
        if left.len() < MOST_WAITING {
            left.push((self.held.clone(), Now::read().mono + LEASE));
        }
        drop(left);
        self.fleet_places.wake.notify_one();
    }
}

impl FleetPlaces {
    pub(super) fn new(
        roster: &Arc<Roster>,
        registry: &Arc<Registry>,
        most: usize,
        extra_sessions: ExtraSessions,
    ) -> Arc<Self> {
        Arc::new(Self {
            book: roster.places(),
            roster: Arc::clone(roster),
            registry: Arc::clone(registry),
            most,
            extra_sessions,
            standing: Mutex::default(),
            left: Mutex::default(),
            replaced: Mutex::default(),
            doubted: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// Keeps the store's count true, for ever.
    pub async fn keep(self: Arc<Self>) {
        let mut every = interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => self.renew().await,
                () = self.wake.notified() => {}
            }
            // After the renewal, never beside it: what has ended must not come back.
            self.give_back().await;
            self.tell_replaced().await;
        }
    }

    /// The store may have lost what it was told: it is told again when it answers.
    pub(super) fn doubt(&self) {
        *lock(&self.doubted) = Some(Now::read().mono);
    }

    /// A session of this node lost its place. Says whether it is one of this node.
    pub(super) fn end(&self, session: &str) -> bool {
        self.forget(session);
        let found = SessionId::read(session).and_then(|id| self.registry.find(id));
        found.is_some_and(|found| {
            found.close(CloseReason::Replaced);
            true
        })
    }

    pub(super) async fn give_back(&self) {
        loop {
            let now = Now::read().mono;
            let page: Vec<(StoredPlace, Instant)> = {
                let mut left = lock(&self.left);
                left.retain(|(_, end)| *end > now);
                let count = left.len().min(PAGE);
                left.drain(..count).collect()
            };
            if page.is_empty() {
                return;
            }
            let held: Vec<StoredPlace> = page.iter().map(|(held, _)| held.clone()).collect();
            if self.book.give_back(&held).await.is_err() {
                let mut left = lock(&self.left);
                let room = MOST_WAITING.saturating_sub(left.len());
                left.extend(page.into_iter().take(room));
                return;
            }
        }
    }

    fn sit(self: &Arc<Self>, user: UserHash, session: SessionId) -> Arc<FleetPlace> {
        let (now, session) = (Now::read(), session.to_string());
        lock(&self.standing)
            .insert(session.clone(), LeasedPlace { user, since: now.wall, renewed: now.mono });
        Arc::new(FleetPlace {
            fleet_places: Arc::clone(self),
            held: StoredPlace { user, since: now.wall, session },
        })
    }

    fn forget(&self, session: &str) {
        lock(&self.standing).remove(session);
    }

    fn replace(&self, session: String) {
        if self.end(&session) {
            return;
        }
        let mut replaced = lock(&self.replaced);
        if replaced.len() < MOST_WAITING {
            replaced.push(session);
        }
        drop(replaced);
        self.wake.notify_one();
    }

    async fn renew(&self) {
        let (now, doubted) = (Now::read().mono, *lock(&self.doubted));
        let is_due = |one: &LeasedPlace| {
            now.saturating_duration_since(one.renewed) >= RENEW
                || doubted.is_some_and(|doubted| one.renewed <= doubted)
        };
        let due: Vec<String> = lock(&self.standing)
            .iter()
            .filter(|(_, one)| is_due(one))
            .map(|(session, _)| session.clone())
            .collect();
        for page in due.chunks(PAGE) {
            let now = Now::read();
            let held = |session: &String| {
                // It may have ended since.
                let standing = lock(&self.standing);
                standing.get(session).map(|one| StoredPlace {
                    user: one.user,
                    since: one.since,
                    session: session.clone(),
                })
            };
            let held: Vec<StoredPlace> = page.iter().filter_map(held).collect();
            if held.is_empty() {
                continue;
            }
            if self.book.renew(&held, now.wall).await.is_err() {
                self.doubt();
                return;
            }
            let mut standing = lock(&self.standing);
            for StoredPlace { session, .. } in held {
                if let Some(one) = standing.get_mut(&session) {
                    one.renewed = now.mono;
                }
            }
        }
    }

    async fn tell_replaced(&self) {
        loop {
            let page: Vec<String> = {
                let mut replaced = lock(&self.replaced);
                let count = replaced.len().min(PAGE);
                replaced.drain(..count).collect()
            };
            if page.is_empty() {
                return;
            }
            let notices: Vec<String> = page
                .iter()
                .filter_map(|session| {
                    serde_json::to_string(&Notice::Replaced(session.clone())).ok()
                })
                .collect();
            if self.roster.notify(&notices).await.is_err() {
                // Their own node puts them back meanwhile, and the next who comes replaces them
                // again.
                lock(&self.replaced).extend(page);
                return;
            }
        }
    }
}
