//! HTTP/1.1 heads and bodies, read strictly and written: for both sides, clients and upstreams.

pub mod framing;
pub mod head;
pub mod hop_by_hop;
pub mod host;
pub mod response;
