//! The PROXY protocol, versions 1 and 2: the header in which a proxy names the client of a
//! connection, in front of its first byte.
//!
//! `read.rs` and `write.rs` know both versions, `v1.rs` the line, `v2.rs` the binary form, and
//! `crc32c.rs` its checksum. Nothing here does I/O. The listener reads headers, and the dial of an
//! upstream writes them. A header is judged by the rules of haproxy's `proxy-protocol.txt`.

mod crc32c;
mod read;
#[cfg(test)]
mod tests;
mod v1;
mod v2;
mod write;

use std::net::SocketAddr;

use crate::config::TlsVersion;

pub use read::{HeaderProgress, read};
pub use write::write;

/// The most bytes of a header that are read. Without extensions a header has at most 232 bytes.
pub const MOST_BYTES: usize = 4 * 1024;

/// The facts about a connection that a header names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// `None` if the connection is one of the proxy itself (`LOCAL`), or if the proxy does not
    /// know the client (`UNKNOWN`). Then the addresses of the socket count.
    pub addresses: Option<ProxiedAddresses>,
    /// The host that the client named in its TLS handshake.
    pub authority: Option<Box<str>>,
    /// `None` if the client does not use TLS, or if the header does not tell.
    pub tls: Option<ClientTls>,
}

/// Both ends of the client's connection to the first proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedAddresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// The TLS of a client with the first proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// `None` for a version that Usher does not accept itself, or that the header does not name.
    pub version: Option<TlsVersion>,
}

/// The reason why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    #[error("the first bytes are not a PROXY header")]
    NotProxy,
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    #[error("the PROXY header is larger than 4 KiB")]
    TooLarge,
    #[error("the checksum does not match the PROXY header")]
    Checksum,
}

/// Returns a host name from outside, if it is one that a certificate can have.
fn host_name(bytes: &[u8]) -> Option<Box<str>> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    if bytes.is_empty() || bytes.len() > 253 || !bytes.iter().all(is_part) {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(Box::from)
}
