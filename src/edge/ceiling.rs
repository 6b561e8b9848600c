//! The limit on client connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::events::{ConnectionClosed, ConnectionOpened, ConnectionPanicked};
use crate::telemetry::Event;

/// The number of open client connections, and its limit.
#[derive(Debug)]
pub struct Ceiling {
    open: AtomicUsize,
    limit: AtomicUsize,
}

/// A connection's place under the ceiling. Dropping it counts the end of the connection, and a
/// panic if that was the cause.
#[derive(Debug)]
pub struct Permit(Arc<Ceiling>);

impl Ceiling {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), limit: AtomicUsize::new(limit) })
    }

    /// Sets the limit for new connections. Open connections stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        let entered = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
            (open < limit).then_some(open + 1)
        });
        entered.is_ok().then(|| {
            ConnectionOpened.emit();
            Permit(Arc::clone(self))
        })
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        ConnectionClosed.emit();
        if std::thread::panicking() {
            ConnectionPanicked.emit();
        }
    }
}
