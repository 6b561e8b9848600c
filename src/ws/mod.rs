//! The WebSocket wire, without I/O.

pub mod close_code;
