//! Issue and redeem.

pub mod endpoint;
