//! HTTP/1.1 on the client's side.
//!
//! Every head is read and judged by our own strict reader (`head.rs`). An upgrade is carried out here, without an HTTP
//! stack (`upgrade.rs`, `first_message.rs`, `reach.rs`, `begin.rs`); plain HTTP is served by hyper through a guard that follows each message and hands the connection
//! back at a message's end (`guard.rs`, `serve.rs`), and is forwarded over pooled connections (`forward.rs`).

mod begin;
mod first_message;
pub mod forward;
pub mod framing;
pub mod guard;
pub mod head;
pub mod headers;
mod reach;
pub mod response;
pub mod route;
pub mod serve;
mod switch;
pub mod upgrade;
