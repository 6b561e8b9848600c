//! The streams of one connection: how many live, and what became of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::base::lock::lock;

/// The streams of a connection that have a task.
#[derive(Debug, Default)]
pub struct ServedStreams {
    live: AtomicUsize,
    sessions: AtomicUsize,
    refused: AtomicUsize,
    turned_away: AtomicUsize,
    has_granted: AtomicBool,
    is_last: AtomicBool,
    /// The task of the connection.
    waker: Mutex<Option<Waker>>,
}

/// A stream's place among the served streams. Dropping it tells the task of the connection.
#[derive(Debug)]
pub struct StreamLease {
    served: Arc<ServedStreams>,
    is_session: bool,
}

impl ServedStreams {
    pub fn lease(self: &Arc<Self>) -> StreamLease {
        self.live.fetch_add(1, Ordering::AcqRel);
        StreamLease { served: Arc::clone(self), is_session: false }
    }

    pub fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Acquire)
    }

    /// Returns the number of upgrades that were refused since the last one that was granted.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Acquire)
    }

    /// Counts a stream that got no place. Returns how many there were since the last grant.
    pub fn turn_away(&self) -> usize {
        self.turned_away.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Returns true if one stream has had a good credential.
    pub fn has_granted(&self) -> bool {
        self.has_granted.load(Ordering::Acquire)
    }

    /// Returns true if the client needs another connection for its next request.
    pub fn has_had_last(&self) -> bool {
        self.is_last.load(Ordering::Acquire)
    }

    /// Keeps the waker of the connection's task, which is woken by every change.
    pub fn register(&self, waker: &Waker) {
        let mut kept = lock(&self.waker);
        match &mut *kept {
            Some(kept) => kept.clone_from(waker),
            None => *kept = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }
}

impl StreamLease {
    pub fn note_refusal(&self) {
        self.served.refused.fetch_add(1, Ordering::AcqRel);
        self.served.wake();
    }

    /// Notes that the client needs another connection for its next request.
    pub fn note_last(&self) {
        self.served.is_last.store(true, Ordering::Release);
        self.served.wake();
    }

    /// Notes that the stream has become a session.
    pub fn note_session(&mut self, is_known: bool) {
        if !self.is_session {
            self.is_session = true;
            self.served.sessions.fetch_add(1, Ordering::AcqRel);
        }
        if is_known {
            self.served.refused.store(0, Ordering::Release);
            self.note_grant();
        }
    }

    /// Notes that the stream had a good credential.
    pub fn note_grant(&self) {
        self.served.turned_away.store(0, Ordering::Release);
        self.served.has_granted.store(true, Ordering::Release);
        self.served.wake();
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        if self.is_session {
            self.served.sessions.fetch_sub(1, Ordering::AcqRel);
        }
        self.served.live.fetch_sub(1, Ordering::AcqRel);
        self.served.wake();
    }
}
