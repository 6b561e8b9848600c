//! May a load balancer send clients here?
//!
//! The process goes from starting to ready to draining and never back.

use std::sync::atomic::{AtomicU8, Ordering};

#[derive(Debug, Default)]
pub struct Readiness {
    stage: AtomicU8,
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
