//! Strict reading and writing of HTTP/1.1 heads and bodies, for clients and upstreams.

pub mod framing;
pub mod head;
pub mod hop_by_hop;
pub mod host;
pub mod response;
