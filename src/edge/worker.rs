//! The state with which one thread serves its requests.

use std::sync::Arc;

use super::{Current, Edge};
use crate::upstream::pool::Pool;

/// The state of one thread, with the edge that serves one request.
#[derive(Clone, Debug)]
pub struct Worker {
    pub edge: Arc<Edge>,
    pub pool: Arc<Pool>,
    pub current: Current,
}

impl Worker {
    /// Returns a worker with the edge that is in force now. A request that has begun keeps its
    /// edge.
    pub fn renewed(&self) -> Self {
        Self {
            edge: self.current.load_full(),
            pool: Arc::clone(&self.pool),
            current: Arc::clone(&self.current),
        }
    }
}
