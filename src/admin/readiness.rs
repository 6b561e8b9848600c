//! Whether a load balancer may send clients to this node.
//!
//! The process goes from starting to ready to draining, and never back. A store that does not
//! answer is shown, but does not make the node unready. Otherwise, all nodes of a fleet would
//! become unready at once, even for clients that do not need a ticket.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::store::StoreHealth;

#[derive(Debug, Default)]
pub struct Readiness {
    stage: AtomicU8,
    store: AtomicU8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadinessStage {
    Starting,
    Ready,
    Draining,
}

impl Readiness {
    pub fn stage(&self) -> ReadinessStage {
        match self.stage.load(Ordering::Acquire) {
            0 => ReadinessStage::Starting,
            1 => ReadinessStage::Ready,
            _ => ReadinessStage::Draining,
        }
    }

    /// Returns the state of the store. `None`: the store is in this process.
    pub fn store(&self) -> Option<&'static str> {
        match self.store.load(Ordering::Acquire) {
            0 => None,
            1 => Some("here"),
            _ => Some("away"),
        }
    }

    pub fn set_store(&self, presence: StoreHealth) {
        let number = match presence {
            StoreHealth::Local => 0,
            StoreHealth::Here => 1,
            StoreHealth::Away => 2,
        };
        self.store.store(number, Ordering::Release);
    }

    /// Sets the stage to ready. Does nothing while draining.
    pub fn set_ready(&self) {
        self.stage.fetch_max(1, Ordering::AcqRel);
    }

    pub fn set_draining(&self) {
        self.stage.fetch_max(2, Ordering::AcqRel);
    }
}

impl ReadinessStage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}
