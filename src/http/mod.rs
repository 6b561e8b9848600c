//! HTTP on the client's side: HTTP/1.1, and HTTP/2 in `http2`.
//!
//! `net/http1` has the strict reader that judges every head. Upgrades and plain HTTP are admitted
//! by the same function (`admit.rs`, with `request.rs` and `witness.rs`). An upgrade is then
//! carried out here, without an HTTP stack (`upgrade.rs`, `first_message.rs`, `reach.rs`,
//! `open_session.rs`, `refusal.rs`).
//!
//! Plain HTTP is served by hyper. A guard before hyper follows each message, and hands the
//! connection back at a message's end (`guard.rs`, `serve.rs`). Plain HTTP is forwarded over pooled
//! connections (`forward.rs`).

pub mod admit;
pub mod client_end;
pub mod connection;
pub mod endpoints;
pub mod events;
mod first_message;
pub mod forward;
pub mod forwarding;
pub mod guard;
pub mod headers;
pub mod http2;
mod last_answer;
mod open_session;
mod pending;
mod reach;
mod refusal;
pub mod request;
pub mod serve;
mod switch;
pub mod traced;
pub mod upgrade;
pub mod witness;
