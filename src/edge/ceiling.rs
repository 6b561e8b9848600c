//! The limit on client connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::events::{
    ConnectionClosed, ConnectionOpened, ConnectionPanicked, StreamClosed, StreamOpened,
};
use crate::telemetry::Event;

/// The number of open client connections, and its limit.
#[derive(Debug)]
pub struct Ceiling {
    open: AtomicUsize,
    limit: AtomicUsize,
}

/// The place of a connection, or of an HTTP/2 stream, under the ceiling. Dropping it counts the end
/// of the connection, and a panic if that was the cause.
#[derive(Debug)]
pub struct Permit {
    /// `None`: the place of the connection covers the stream.
    ceiling: Option<Arc<Ceiling>>,
    is_stream: bool,
}

impl Ceiling {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), limit: AtomicUsize::new(limit) })
    }

    /// Sets the limit for new connections. Open connections stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        self.take_place().then(|| {
            ConnectionOpened.emit();
            Permit { ceiling: Some(Arc::clone(self)), is_stream: false }
        })
    }

    /// Takes a place for a stream of an HTTP/2 connection. The place of the connection counts for
    /// one stream at a time.
    pub fn enter_stream(self: &Arc<Self>, is_only_one: bool) -> Option<Permit> {
        (is_only_one || self.take_place()).then(|| {
            StreamOpened.emit();
            Permit { ceiling: (!is_only_one).then(|| Arc::clone(self)), is_stream: true }
        })
    }

    fn take_place(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let entered = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
            (open < limit).then_some(open + 1)
        });
        entered.is_ok()
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ceiling) = &self.ceiling {
            ceiling.open.fetch_sub(1, Ordering::AcqRel);
        }
        if self.is_stream {
            StreamClosed.emit();
        } else {
            ConnectionClosed.emit();
        }
        if std::thread::panicking() {
            ConnectionPanicked.emit();
        }
    }
}
