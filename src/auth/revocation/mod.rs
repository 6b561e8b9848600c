//! The deny list, and the data of a live session that a revocation matches.
//!
//! Every credential is checked against the deny list [`Revocations`]. [`Identity`] is the part of
//! its token that a live session keeps.

mod deny_list;
pub mod events;
mod identity;

pub use deny_list::{DenyListFull, RevocationEffect, Revocations};
pub use identity::Identity;
