//! An authenticated client and upstream, joined.
//!
//! `state.rs` holds the rules (no I/O, no clock), `timer.rs` the deadlines, `relay.rs` moves the bytes and carries out what
//! the rules ask for, `registry.rs` knows every live session, `close.rs` every way one ends.

pub mod close;
pub mod registry;
pub mod relay;
pub mod state;
pub mod timer;
