//! Explains a request: what would happen to it, check by check, and what to change.
//!
//! `request.rs` makes the bytes that a client would send. `explainer.rs` admits the request like a
//! served one (`http/admit.rs`), with the witness of `recorder.rs`. `inspector.rs` inspects the
//! credential without consequences. `listener.rs`, `route.rs`,
//! `credential.rs`, `token.rs` and `rollout.rs` describe each step, and `advice.rs` has the advice
//! for each rejection. `report.rs` collects the steps, and `page.rs` writes them as text. No ticket
//! is redeemed, no upstream is contacted, and nothing is written or counted.
//!
//! `usher explain` judges by a configuration file, the admin listener by the running process.

mod advice;
mod credential;
mod explainer;
mod inspector;
mod listener;
pub mod page;
mod recorder;
pub mod report;
mod request;
mod rollout;
mod route;
mod ticket_request;
mod token;

pub use explainer::Explainer;
pub use inspector::InspectionScope;
pub use request::{ExplainedRequest, GivenCredential, RequestFields, header_line};
