//! The limit on one user's sessions on this node. `fleet/places.rs` asks here first.
//!
//! An upgrade takes its place once the user is known, before an upstream is reached. With `refuse`
//! the place counts from then on. With `replace-oldest` it counts when the session begins, so that
//! no session ends for an upgrade that fails. Without a limit a session keeps nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use super::registry::{SessionHandle, SessionId};
use crate::base::lock::lock;
use crate::config::ExtraSessions;
use crate::model::principal::Principal;
use crate::rejection::Rejection;
use crate::rejection::close::CloseReason;

#[derive(Debug)]
pub struct UserLimit {
    most: usize,
    extra_sessions: ExtraSessions,
    /// Each entry belongs to a session or to an upgrade under way: there are no more entries than
    /// connections.
    users: Mutex<HashMap<User, UserEntry>>,
}

/// A user of one issuer. Two issuers may give two users the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub issuer: Arc<str>,
    pub subject: Arc<str>,
}

#[derive(Debug, Default)]
struct UserEntry {
    /// The number of places. Used with `refuse`.
    count: usize,
    /// The sessions, the oldest first. Used with `replace-oldest`.
    sessions: VecDeque<UserSession>,
}

/// A session that may have to make way for a newer one.
#[derive(Clone, Debug)]
enum UserSession {
    Here(Arc<SessionHandle>),
    /// A session of the process before this one, and the way to that process.
    Before(SessionId, mpsc::UnboundedSender<SessionId>),
}

/// A user's place for one session. Dropping it gives it back.
#[derive(Debug)]
pub struct UserPlace {
    limit: Arc<UserLimit>,
    user: User,
    session: Option<SessionId>,
}

/// All sessions of one user on this node.
#[derive(Debug)]
pub struct UserSessions {
    limit: Arc<UserLimit>,
    user: User,
}

impl UserLimit {
    pub fn new(most: usize, extra_sessions: ExtraSessions) -> Arc<Self> {
        Arc::new(Self { most, extra_sessions, users: Mutex::default() })
    }

    pub fn enter(self: &Arc<Self>, principal: &Principal) -> Result<Box<UserPlace>, Rejection> {
        let user = User {
            issuer: Arc::clone(&principal.issuer),
            subject: principal.subject.as_str().into(),
        };
        if self.extra_sessions == ExtraSessions::Refuse {
            let mut users = self.lock();
            let held = users.entry(user.clone()).or_default();
            // At the limit the count is not zero, so no empty entry is left behind.
            if held.count >= self.most {
                return Err(Rejection::TooManySessions);
            }
            held.count += 1;
        }
        Ok(Box::new(UserPlace { limit: Arc::clone(self), user, session: None }))
    }

    /// Takes a place above the limit too, for a session that has begun in the process before.
    /// `origin` gets its id if it has to make way.
    pub fn hold(
        self: &Arc<Self>,
        user: User,
        id: SessionId,
        origin: &mpsc::UnboundedSender<SessionId>,
    ) -> Box<UserPlace> {
        let mut users = self.lock();
        let held = users.entry(user.clone()).or_default();
        let mut session = None;
        match self.extra_sessions {
            ExtraSessions::Refuse => held.count += 1,
            ExtraSessions::ReplaceOldest => {
                held.sessions.push_back(UserSession::Before(id, origin.clone()));
                session = Some(id);
            }
        }
        drop(users);
        Box::new(UserPlace { limit: Arc::clone(self), user, session })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<User, UserEntry>> {
        lock(&self.users)
    }
}

impl UserPlace {
    /// Begins the session. Returns how many sessions were asked to end for it.
    pub fn begin(&mut self, session: &Arc<SessionHandle>) -> usize {
        self.join(session).give_way()
    }

    /// Begins the session. Does not decide which sessions must end for it.
    pub fn join(&mut self, session: &Arc<SessionHandle>) -> UserSessions {
        if self.limit.extra_sessions == ExtraSessions::ReplaceOldest && self.session.is_none() {
            self.session = Some(session.id);
            self.limit
                .lock()
                .entry(self.user.clone())
                .or_default()
                .sessions
                .push_back(UserSession::Here(Arc::clone(session)));
        }
        UserSessions { limit: Arc::clone(&self.limit), user: self.user.clone() }
    }
}

impl UserSessions {
    /// Ends the oldest sessions above the limit. Returns how many were asked to end.
    pub fn give_way(&self) -> usize {
        let mut users = self.limit.lock();
        let Some(held) = users.get_mut(&self.user) else { return 0 };
        let many = held.sessions.len().saturating_sub(self.limit.most);
        let oldest: Vec<_> = held.sessions.drain(..many).collect();
        drop(users);
        oldest.iter().filter(|oldest| oldest.replace()).count()
    }
}

impl UserSession {
    fn id(&self) -> SessionId {
        match self {
            Self::Here(session) => session.id,
            Self::Before(id, _) => *id,
        }
    }

    /// Asks the session to end. Returns true if it was not ending already.
    fn replace(&self) -> bool {
        match self {
            Self::Here(session) => session.close(CloseReason::Replaced),
            Self::Before(id, origin) => origin.send(*id).is_ok(),
        }
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut users = self.limit.lock();
        let Some(held) = users.get_mut(&self.user) else { return };
        match &self.session {
            // A session that was replaced is not on the list any more.
            Some(id) => held.sessions.retain(|other| other.id() != *id),
            None if self.limit.extra_sessions == ExtraSessions::Refuse => held.count -= 1,
            None => {}
        }
        if held.count == 0 && held.sessions.is_empty() {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::principal::tests::principal;
    use crate::session::registry::tests::handle;
    use std::sync::Barrier;
    use std::task::{Context, Poll, Waker};
    use std::thread;

    fn user(name: &str, issuer: &str) -> Principal {
        principal(name, issuer, None, None, 0)
    }

    fn ended(session: &SessionHandle) -> bool {
        match session.poll_close(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reason) => reason == CloseReason::Replaced,
            Poll::Pending => false,
        }
    }

    #[test]
    fn a_place_is_refused_at_the_limit_and_given_back() {
        let limit = UserLimit::new(2, ExtraSessions::Refuse);
        let ada = user("ada", "main");
        let places = [limit.enter(&ada).unwrap(), limit.enter(&ada).unwrap()];
        assert_eq!(limit.enter(&ada).unwrap_err(), Rejection::TooManySessions);
        let namesake = limit.enter(&user("ada", "other")).unwrap();
        drop(places);
        drop((limit.enter(&ada).unwrap(), namesake));
        assert!(limit.lock().is_empty(), "no user is remembered");
    }

    #[test]
    fn the_oldest_gives_way_and_those_after_it_stay() {
        let limit = UserLimit::new(2, ExtraSessions::ReplaceOldest);
        let ada = user("ada", "main");
        let sessions: Vec<_> = (0..4).map(|at| Arc::new(handle("ada", at))).collect();
        let mut places: Vec<_> = (0..4).map(|_| limit.enter(&ada).unwrap()).collect();
        assert_eq!([0, 1, 2].map(|at| places[at].begin(&sessions[at])), [0, 0, 1]);
        assert_eq!(
            sessions.iter().map(|session| ended(session)).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        // The place of the session that ended is free, and that of the replaced one was already
        // given away.
        drop(places.remove(1));
        drop(places.remove(0));
        assert_eq!(places[1].begin(&sessions[3]), 0);
        assert_eq!(
            sessions.iter().map(|session| ended(session)).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        // A place whose session never began takes nothing away.
        drop(limit.enter(&user("bob", "main")).unwrap());
        drop(places);
        assert!(limit.lock().is_empty());
    }

    #[test]
    fn sessions_of_the_process_before_count_and_the_oldest_of_them_gives_way() {
        let ada = user("ada", "main");
        let name = || User { issuer: "main".into(), subject: "ada".into() };
        let (origin, mut replaced) = mpsc::unbounded_channel();
        let ids: Vec<_> = (0..3).map(|_| SessionId::random()).collect();
        let limit = UserLimit::new(2, ExtraSessions::Refuse);
        let held = [limit.hold(name(), ids[0], &origin), limit.hold(name(), ids[1], &origin)];
        assert_eq!(limit.enter(&ada).unwrap_err(), Rejection::TooManySessions);
        drop(held);
        assert!(limit.enter(&ada).is_ok() && limit.lock().is_empty());

        let limit = UserLimit::new(2, ExtraSessions::ReplaceOldest);
        let held: Vec<_> = ids.iter().map(|id| limit.hold(name(), *id, &origin)).collect();
        let session = Arc::new(handle("ada", 0));
        let mut place = limit.enter(&ada).unwrap();
        assert_eq!(place.begin(&session), 2);
        assert_eq!([replaced.try_recv().unwrap(), replaced.try_recv().unwrap()], ids[..2]);
        assert!(replaced.try_recv().is_err() && !ended(&session));
        drop((held, place));
        assert!(limit.lock().is_empty());
    }

    #[test]
    fn of_sixty_four_at_once_exactly_as_many_as_may_get_in() {
        for extra_sessions in [ExtraSessions::Refuse, ExtraSessions::ReplaceOldest] {
            for _ in 0..50 {
                let (limit, start) = (UserLimit::new(5, extra_sessions), Barrier::new(64));
                let entered: Vec<_> = thread::scope(|scope| {
                    let racers: Vec<_> = (0..64)
                        .map(|at| {
                            let (limit, start) = (&limit, &start);
                            scope.spawn(move || {
                                let (session, ada) =
                                    (Arc::new(handle("ada", at)), user("ada", "main"));
                                start.wait();
                                let mut place = limit.enter(&ada).ok()?;
                                place.begin(&session);
                                Some((place, session))
                            })
                        })
                        .collect();
                    racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
                });
                assert_eq!(entered.iter().filter(|(_, session)| !ended(session)).count(), 5);
                drop(entered);
                assert!(limit.lock().is_empty());
            }
        }
    }

    #[test]
    fn a_session_is_on_the_list_once_and_leaves_no_other_behind() {
        let limit = UserLimit::new(2, ExtraSessions::ReplaceOldest);
        let ada = user("ada", "main");
        let sessions: Vec<_> = (0..3).map(|at| Arc::new(handle("ada", at))).collect();
        let mut first = limit.enter(&ada).unwrap();
        first.begin(&sessions[0]);
        assert_eq!(first.begin(&sessions[0]), 0, "begun twice, it counts once");
        let mut second = limit.enter(&ada).unwrap();
        assert_eq!(second.begin(&sessions[1]), 0);
        drop(first);
        let mut third = limit.enter(&ada).unwrap();
        assert_eq!(third.begin(&sessions[2]), 0, "one of two places was free");
        assert!(sessions.iter().all(|session| !ended(session)));
    }
}
