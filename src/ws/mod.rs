//! The WebSocket wire, without I/O: frames followed by their headers, frames that Usher writes itself, close codes.

pub mod accept;
pub mod close_code;
pub mod frame;
