//! HTTP/1.1 on the client side.

pub mod route;
