//! How long it takes to read a path and to find its pattern among a few dozen.
//!
//! Every request pays this before anything is known about its client. The loop is our own: the figure is a median of
//! batches, enough to see a change of a tenth.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints its result, and may stop at a mistake")]

use std::hint::black_box;

use usher::clock::Now;
use usher::http::route::{CanonicalPath, PathPattern};

const BATCHES: usize = 101;
const ROUNDS: u32 = 2_000;

fn main() {
    let patterns: Vec<PathPattern> = (0..32)
        .map(|n| format!("/service-{n}/rooms/{{room}}/members"))
        .chain(["/ws".to_owned(), "/files/*".to_owned()])
        .map(|text| PathPattern::parse(&text).unwrap())
        .collect();

    for (name, path) in [
        ("short path", "/ws"),
        ("below a prefix", "/files/2026/report.pdf"),
        ("named segment, last of 32", "/service-31/rooms/lobby/members"),
        ("percent-encoded", "/service-31/rooms/caf%C3%A9%20noir/members"),
        ("no such route", "/nothing/here"),
    ] {
        measure(name, || {
            let canonical = CanonicalPath::parse(black_box(path)).unwrap();
            patterns.iter().find_map(|pattern| pattern.matches(&canonical))
        });
    }
}

fn measure<T>(name: &str, mut work: impl FnMut() -> T) {
    let mut batches: Vec<u128> = (0..BATCHES)
        .map(|_| {
            let start = Now::read().mono;
            for _ in 0..ROUNDS {
                black_box(work());
            }
            Now::read().mono.duration_since(start).as_nanos()
        })
        .collect();
    batches.sort_unstable();
    let median = batches.get(BATCHES / 2).copied().unwrap_or_default() / u128::from(ROUNDS);
    println!("{name:<28} {median:>7} ns");
}
