//! May a load balancer send clients here?
//!
//! The process goes from starting to ready to draining and never back. A store that is away is told
//! and does not make it unready: every node of a fleet would leave at once, and with it the clients
//! that need no ticket.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::store::Presence;

#[derive(Debug, Default)]
pub struct Readiness {
    stage: AtomicU8,
    store: AtomicU8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Ready,
    Draining,
}

impl Readiness {
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            _ => Stage::Draining,
        }
    }

    /// `None`: there is none outside of this process.
    pub fn store(&self) -> Option<&'static str> {
        match self.store.load(Ordering::Acquire) {
            0 => None,
            1 => Some("here"),
            _ => Some("away"),
        }
    }

    pub fn set_store(&self, presence: Presence) {
        let number = match presence {
            Presence::Local => 0,
            Presence::Here => 1,
            Presence::Away => 2,
        };
        self.store.store(number, Ordering::Release);
    }

    /// Does nothing once draining.
    pub fn set_ready(&self) {
        self.stage.fetch_max(1, Ordering::AcqRel);
    }

    pub fn set_draining(&self) {
        self.stage.fetch_max(2, Ordering::AcqRel);
    }
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}
