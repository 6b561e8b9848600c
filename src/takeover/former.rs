//! The sessions that the process before this one still serves, for the limits that count them.
//!
//! The old process names each of them, and says when it ends. Here each holds its places under the
//! limits of this process, until then or until the old process is gone. If this process is replaced
//! while some are left, the next one gets them too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::base::lock::lock;
use crate::edge::Edge;
use crate::session::changes::{CountedSession, SessionChange, SessionChanges};
use crate::session::registry::{Registry, SessionId};
use crate::session::session_counts::CountedPlace;
use crate::session::user_limit::{User, UserPlace};

/// The table cannot grow beyond the connections of the process before.
#[derive(Debug, Default)]
pub struct FormerSessions {
    held: Mutex<HashMap<SessionId, FormerSession>>,
    /// The process that replaces this one.
    follower: Mutex<Option<SessionChanges>>,
}

#[derive(Debug)]
struct FormerSession {
    session: CountedSession,
    /// The way to the process that serves it.
    origin: mpsc::UnboundedSender<SessionId>,
    _counted: Option<Box<CountedPlace>>,
    _user: Option<Box<UserPlace>>,
}

impl FormerSessions {
    /// Gives a session its places, above the limits too. If a newer session replaces it, `origin`
    /// gets its id.
    pub fn enter(
        &self,
        session: CountedSession,
        origin: &mpsc::UnboundedSender<SessionId>,
        edge: &Edge,
    ) {
        let Some(id) = SessionId::read(&session.id) else { return };
        let mut held = lock(&self.held);
        // A session that begins during the hand-over may be named twice.
        if held.contains_key(&id) {
            return;
        }
        let user = session.user.as_ref().map(|(issuer, subject)| User {
            issuer: issuer.as_str().into(),
            subject: subject.as_str().into(),
        });
        let places = edge.places.as_ref().zip(user);
        let user_place = places.map(|(places, user)| places.hold(user, id, origin));
        let route = Arc::from(session.route.as_str());
        let counted_place = edge.session_counts.hold(session.address, &route);
        self.notify_follower(|| SessionChange::Began(session.clone()));
        let origin = origin.clone();
        let former = FormerSession { session, origin, _counted: counted_place, _user: user_place };
        held.insert(id, former);
    }

    pub fn remove(&self, id: SessionId) {
        // Its places are given back after the lock.
        let former = lock(&self.held).remove(&id);
        if former.is_some() {
            self.notify_follower(|| SessionChange::Ended(id));
        }
    }

    /// Gives all places back: the process before this one is gone.
    pub fn clear(&self) {
        let former = std::mem::take(&mut *lock(&self.held));
        for id in former.keys() {
            self.notify_follower(|| SessionChange::Ended(*id));
        }
    }

    /// Asks the process that serves a session to end it, because a newer one takes its place.
    pub fn replace(&self, id: SessionId) {
        if let Some(former) = lock(&self.held).get(&id) {
            // If that process has gone, the session has ended.
            let _ = former.origin.send(id);
        }
    }

    /// Returns the sessions of this process and of those before it, the oldest first, and every
    /// change from now on.
    pub fn follow(
        &self,
        registry: &Registry,
    ) -> (Vec<CountedSession>, mpsc::UnboundedReceiver<SessionChange>) {
        // At most two changes for each connection that this process has.
        let (sender, changes) = mpsc::unbounded_channel();
        registry.tell_changes(Some(sender.clone()));
        let held = lock(&self.held);
        *lock(&self.follower) = Some(sender);
        let mut sessions: Vec<_> = held.values().map(|former| former.session.clone()).collect();
        drop(held);
        let mut own = registry.handles();
        own.sort_by_key(|session| session.started);
        sessions.extend(own.iter().map(|session| CountedSession::of(session)));
        (sessions, changes)
    }

    /// Ends what [`FormerSessions::follow`] has begun: the other process failed.
    pub fn unfollow(&self, registry: &Registry) {
        registry.tell_changes(None);
        *lock(&self.follower) = None;
    }

    fn notify_follower(&self, change: impl FnOnce() -> SessionChange) {
        if let Some(follower) = &*lock(&self.follower) {
            // If the other process has gone, no process counts.
            let _ = follower.send(change());
        }
    }
}
