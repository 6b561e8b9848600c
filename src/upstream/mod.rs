//! The servers behind us.

pub mod signed_context;
