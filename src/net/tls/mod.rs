//! TLS with clients, and the trust in servers.
//!
//! `server.rs` holds what a listener offers: certificates, versions, resumption. `handshake.rs`
//! carries a handshake of rustls. `record.rs` and `stream.rs` are what an established connection
//! is: two keys and a socket. A library's stream keeps 4 KiB and more for each connection, also
//! while nothing happens, and copies each byte twice; this one keeps nothing and copies none. What
//! it must get right is small: RFC 8446, sections 4.6.3, 5.2 to 5.5 and 6.

mod handshake;
#[cfg(test)]
#[allow(clippy::large_futures, reason = "tests hold a handshake each")]
mod handshake_tests;
pub mod pem;
pub mod record;
#[cfg(test)]
#[allow(clippy::large_futures, reason = "tests hold a handshake each")]
mod record_tests;
pub mod self_signed;
pub mod server;
mod stream;
#[cfg(test)]
#[allow(clippy::large_futures, reason = "tests hold a handshake each")]
mod test_ends;
#[cfg(test)]
#[allow(clippy::large_futures, reason = "tests hold a handshake each")]
mod tests;
pub mod trust;

pub use handshake::{Established, HandshakeError, accept};
pub use stream::TlsStream;
