//! An authenticated client and upstream, joined.
//!
//! `state.rs` holds the rules (no I/O, no clock), `timer.rs` the deadlines, `relay.rs` carries out
//! what the rules ask for, `direction.rs` moves the bytes of one direction, `conversation.rs` is
//! what Usher says and hears in the stream, `revalidation.rs` asks the verifier again,
//! `registry.rs` knows every live session, `user_limit.rs` how many one user has, `close.rs` every
//! way one ends.

pub mod conversation;
mod direction;
pub mod events;
pub mod filter;
mod message_rate;
pub mod registry;
pub mod relay;
pub mod revalidation;
pub mod revoke;
pub mod state;
pub mod timer;
pub mod user_limit;
