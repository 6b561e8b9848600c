//! Sessions: an authenticated client, joined with an upstream.
//!
//! `state.rs` holds the rules (no I/O, no clock), and `timer.rs` the deadlines. `relay.rs` carries
//! out the actions of the rules, and `direction.rs` moves the bytes of one direction.
//! `conversation.rs` handles Usher's own messages in the stream, and `revalidation.rs` asks the
//! verifier again. `registry.rs` lists every live session, `user_limit.rs` counts those of one
//! user, and `changes.rs` tells another process of both. `rejection/close.rs` lists the reasons for
//! an end.

pub mod changes;
pub mod conversation;
mod direction;
pub mod events;
pub mod filter;
mod message_rate;
pub mod registry;
pub mod relay;
pub mod revalidation;
pub mod revoke;
pub mod session_counts;
pub mod state;
pub mod timer;
pub mod user_limit;
