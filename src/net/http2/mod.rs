//! HTTP/2 with clients: the strict reading of heads, the count of frames, and streams as bytes.
//!
//! The crate `h2` reads and writes the frames. `frames.rs` counts them before, on the wire,
//! and `sent_resets.rs` counts the streams that the library refuses.
//! `head.rs` reads a request that `h2` has decoded, with the rules of the reader for HTTP/1.1.
//! `exchange.rs` is a stream that has no answer yet, `stream.rs` one that was accepted as a tunnel,
//! and `body.rs` the body of a request. `served_streams.rs` counts the streams of one connection.

pub mod body;
pub mod exchange;
pub mod frames;
pub mod head;
pub mod sent_resets;
pub mod served_streams;
pub mod stream;
