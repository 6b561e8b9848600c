//! What operators see.

pub mod audit;
pub mod event;
pub mod log;
pub mod metric;
