//! Bytes to and from other processes: sockets, TLS, heads of HTTP/1.1 and HTTP/2, Usher's own
//! requests.

pub mod admin_socket;
pub mod bind;
pub mod fetch;
pub mod handover;
pub mod http1;
pub mod http2;
pub mod passed;
pub mod proxy_protocol;
pub mod service_manager;
pub mod stall;
pub mod stream;
pub mod tls;
