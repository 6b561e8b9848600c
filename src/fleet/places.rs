//! The limit of sessions for one user, on this node, and with a shared store on all nodes.
//!
//! Each node always counts its own sessions (`session/user_limit.rs`). With a shared store, a
//! session also takes a place in the store, which decides for the whole fleet. If the store does
//! not answer in time, the count of this node decides. So without the store, n nodes together may
//! accept n times the limit, but no client is refused because of the store. A place is a lease. The
//! node renews it, gives it back when the session ends, and writes it again if the store has lost
//! it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
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
use crate::session::user_limit::{User, UserLimit, UserPlace};
use crate::store::redis::{LEASE, PAGE, PlaceBook, Roster, StoredPlace, Taken, UserHash};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

/// The time between two renewals of a place: a third of the lease, so that two renewals may fail.
const RENEW: Duration = Duration::from_secs(20);
/// How often places are checked for renewal.
const LOOK: Duration = Duration::from_secs(1);
/// The most entries that wait for the store. A place that does not fit expires with its lease.
const MOST_WAITING: usize = 100_000;

#[derive(Debug)]
pub struct SessionPlaces {
    local: Arc<UserLimit>,
    fleet_places: Option<Arc<FleetPlaces>>,
}

/// A user's place for one session. Dropping it gives the place back.
#[derive(Debug)]
pub struct SessionPlace {
    local: Box<UserPlace>,
    fleet: Option<(Arc<FleetPlaces>, UserHash)>,
    /// Set from the start with `refuse`, and after the session has begun with `replace-oldest`.
    fleet_place: Option<Arc<FleetPlace>>,
}

/// The places of this node that the store should have.
#[derive(Debug)]
pub struct FleetPlaces {
    book: PlaceBook,
    roster: Arc<Roster>,
    registry: Arc<Registry>,
    most: usize,
    extra_sessions: ExtraSessions,
    /// The places by session id. There is at most one for each session and each upgrade under way.
    standing: Mutex<HashMap<String, LeasedPlace>>,
    /// Places that the store must still remove, each with the time at which its lease expires.
    left: Mutex<Vec<(StoredPlace, Instant)>>,
    /// Sessions of other nodes that lost their place, and whose nodes are not yet notified.
    replaced: Mutex<Vec<String>>,
    /// The store may have lost places that were renewed before this time.
    doubted: Mutex<Option<Instant>>,
    wake: Notify,
}

#[derive(Debug)]
struct LeasedPlace {
    user: UserHash,
    since: UnixMillis,
    renewed: Instant,
}

/// One place in the fleet. The task that takes it and the session that uses it share it: the place
/// is given back after both have dropped it.
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

    /// Takes a place on this node, above the limit too, for a session of the process before. That
    /// process keeps its place in the store.
    pub fn hold(
        &self,
        user: User,
        session: SessionId,
        origin: &mpsc::UnboundedSender<SessionId>,
    ) -> Box<UserPlace> {
        self.local.hold(user, session, origin)
    }

    /// Takes a place before the upstream is dialled. With `refuse`, waits for the decision of the
    /// store, up to the store's timeout.
    pub async fn enter(
        &self,
        principal: &Principal,
        session: SessionId,
    ) -> Result<Box<SessionPlace>, Rejection> {
        // A user who reaches the limit on this node also reaches it in the fleet.
        let local = self.local.enter(principal)?;
        let mut place = SessionPlace { local, fleet: None, fleet_place: None };
        if let Some(fleet_places) = &self.fleet_places {
            let user = UserHash::of(&principal.issuer, &principal.subject);
            place.fleet = Some((Arc::clone(fleet_places), user));
            if fleet_places.extra_sessions == ExtraSessions::Refuse {
                let fleet_place = fleet_places.create_fleet_place(user, session);
                place.fleet_place = Some(Arc::clone(&fleet_place));
                // In a separate task: the client may disconnect before the store answers. The place
                // is then given back after the answer.
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
    /// Called when the session begins. With `replace-oldest`, another session may have to end for
    /// it. The new session does not wait for that.
    pub fn begin(&mut self, session: &Arc<SessionHandle>) {
        let peer = session.peer;
        let Some((fleet_places, user)) = self.fleet.as_ref().filter(|(fleet_places, _)| {
            fleet_places.extra_sessions == ExtraSessions::ReplaceOldest
        }) else {
            let replaced = self.local.begin(session);
            (0..replaced).for_each(|_| log_user_limit(peer));
            return;
        };
        let user_sessions = self.local.join(session);
        let fleet_place = fleet_places.create_fleet_place(*user, session.id);
        self.fleet_place = Some(Arc::clone(&fleet_place));
        tokio::spawn(async move {
            match fleet_place.take().await {
                Ok(Taken::Place { replaced }) => {
                    for session in replaced {
                        log_user_limit(peer);
                        fleet_place.fleet_places.replace(session);
                    }
                }
                Ok(Taken::Full) => {}
                Err(_) => (0..user_sessions.give_way()).for_each(|_| log_user_limit(peer)),
            }
        });
    }
}

fn log_user_limit(peer: IpAddr) {
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

    /// Keeps the places in the store up to date, for ever.
    pub async fn keep(self: Arc<Self>) {
        let mut every = interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => self.renew().await,
                () = self.wake.notified() => {}
            }
            // This runs after the renewal, never at the same time: a place that was given back must
            // not be renewed.
            self.give_back().await;
            self.send_replaced_notices().await;
        }
    }

    /// Marks all places as possibly lost. They are written again when the store answers.
    pub(super) fn doubt(&self) {
        *lock(&self.doubted) = Some(Now::read().mono);
    }

    /// Closes a session that lost its place. Returns true if it is a session of this node.
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

    fn create_fleet_place(self: &Arc<Self>, user: UserHash, session: SessionId) -> Arc<FleetPlace> {
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
                // The session may have ended in between.
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

    async fn send_replaced_notices(&self) {
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
                // Until the notice is sent, their own node may write the places again. The next
                // session of the user replaces them again.
                lock(&self.replaced).extend(page);
                return;
            }
        }
    }
}
