//! TLS with clients, and the trust in servers.
//!
//! `server.rs` has the offers of a listener: certificates, versions, resumption. `handshake.rs`
//! runs the handshake with rustls. `record.rs` and `stream.rs` are the established connection: two
//! keys and a socket. The stream of a library keeps 4 KiB and more for each connection, also for an
//! idle one, and copies each byte twice. This one keeps nothing and copies nothing. The part of the
//! standard that it implements is small: RFC 8446 sections 4.6.3, 5.2 to 5.5 and 6.

pub mod acme;
pub mod crl;
pub mod dates;
mod der;
mod handshake;
#[cfg(test)]
#[allow(clippy::large_futures, reason = "tests hold a handshake each")]
mod handshake_tests;
pub mod ocsp;
#[cfg(test)]
mod ocsp_tests;
pub mod pem;
pub mod record;
#[cfg(test)]
#[allow(clippy::large_futures, reason = "tests hold a handshake each")]
mod record_tests;
pub mod self_signed;
pub mod server;
mod signed;
pub mod stapling;
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
