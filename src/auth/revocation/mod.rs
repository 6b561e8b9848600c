//! What is revoked now, and what a live session keeps so that an order finds it.
//!
//! [`Revocations`] is the deny list that every credential is checked against; [`Identity`] is the
//! little that a live session keeps of its token.

mod deny_list;
pub mod events;
mod identity;

pub use deny_list::{Applied, Full, Revocations};
pub use identity::Identity;
