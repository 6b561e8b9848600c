//! An authenticated pair of connections.

pub mod close;
pub mod registry;
