//! The WebSocket wire, without I/O: frames written and followed, masks, compression, close codes.

pub mod accept;
pub mod close_code;
pub mod deflate;
pub mod follow;
pub mod frame;
pub mod mask;
