//! What one thread serves its requests by.

use std::sync::Arc;

use super::{Current, Edge};
use crate::upstream::pool::Pool;

/// What one thread has, and what it serves one request by.
#[derive(Clone, Debug)]
pub struct Worker {
    pub edge: Arc<Edge>,
    pub pool: Arc<Pool>,
    pub current: Current,
}

impl Worker {
    /// By what is in force now. What has begun goes on by what it began with.
    pub fn renewed(&self) -> Self {
        Self {
            edge: self.current.load_full(),
            pool: Arc::clone(&self.pool),
            current: Arc::clone(&self.current),
        }
    }
}
