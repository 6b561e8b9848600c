//! Bytes to and from other processes: sockets, TLS, HTTP/1.1 heads, Usher's own requests.

pub mod admin_socket;
pub mod bind;
pub mod fetch;
pub mod handover;
pub mod http1;
pub mod passed;
pub mod proxy_protocol;
pub mod stream;
pub mod tls;
