//! Measures each step from a client's first byte to its messages.
//!
//! Each subject has a file. All are in one program, because linking a program takes a minute.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench prints its result, and may stop at a mistake"
)]

mod events;
mod frames;
mod heads;
mod known;
mod routes;
mod signed_contexts;
#[path = "../support/mod.rs"]
mod support;
mod tickets;
mod tokens;

fn main() {
    support::main(|runner| {
        routes::run(runner);
        heads::run(runner);
        tokens::run(runner);
        tickets::run(runner);
        signed_contexts::run(runner);
        frames::run(runner);
        events::run(runner);
    });
}
