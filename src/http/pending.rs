//! The end of a request whose future is dropped: nothing behind the `await` runs then.

use std::ops::{Deref, DerefMut};
use std::thread;

use super::request::Request;
use crate::edge::Edge;
use crate::rejection::Rejection;

/// Reports the end of a rejected request: its event, and its span.
pub(super) type Report = fn(&Request, &Edge, &Rejection);

/// A request without an answer yet. If it is dropped, it is reported as rejected: its client has
/// left, the process exits, or its task has panicked.
pub(super) struct PendingRequest<'a> {
    request: &'a mut Request,
    edge: &'a Edge,
    report: Report,
    has_ended: bool,
}

impl<'a> PendingRequest<'a> {
    pub(super) fn new(request: &'a mut Request, edge: &'a Edge, report: Report) -> Self {
        Self { request, edge, report, has_ended: false }
    }

    /// Leaves the report of the end to the caller, who must not wait before it.
    pub(super) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Deref for PendingRequest<'_> {
    type Target = Request;

    fn deref(&self) -> &Request {
        self.request
    }
}

impl DerefMut for PendingRequest<'_> {
    fn deref_mut(&mut self) -> &mut Request {
        self.request
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let rejection = if thread::panicking() {
            Rejection::Internal
        } else if self.edge.drain.refuses_upgrades() {
            // The window of the drain is over, and the process does not wait any longer.
            Rejection::Draining
        } else {
            Rejection::ClientGone
        };
        (self.report)(self.request, self.edge, &rejection);
    }
}
