//! Replacement of a running process on one machine.
//!
//! A new process finds the running one at the takeover socket (`predecessor.rs`) and gets its
//! listening sockets, its tickets and its deny list (`successor.rs` gives them). Until the commit
//! nothing has changed for the old process. After it, the old one asks the new one about tickets,
//! and gets its revocations, until it exits (`link.rs`). The new one counts the sessions that the
//! old one still serves (`former.rs`).

pub mod events;
mod former;
mod link;
mod message;
mod predecessor;
mod successor;

use std::path::PathBuf;

pub use former::FormerSessions;
pub use link::{Outgoing, follow};
pub use predecessor::{Handover, Predecessor};
pub use successor::{Closed, HandoverSockets, HeldSocket, Successor, wait_for_successor};

use crate::net::handover::FolderError;

#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot take over from the process at {}: {why}\n  \
             help: nothing has changed for that process; its log has its side", path.display())]
    Failed { path: PathBuf, why: String },
    #[error("cannot listen at the takeover socket {}: {why}", path.display())]
    Listen { path: PathBuf, why: String },
}
