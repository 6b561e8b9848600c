//! Who the client is, and what they may open.

pub mod algorithm;
pub mod credential;
pub mod grant;
pub mod issuer_keys;
pub mod jwt;
pub mod origin;
pub mod principal;
