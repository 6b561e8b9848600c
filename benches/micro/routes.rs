//! Measures the path parser and the search for a pattern among a few dozen. Every request does this
//! before its client is authenticated.

use std::hint::black_box;

use usher::model::path::{CanonicalPath, PathPattern};

use crate::support::Runner;

pub fn run(runner: &mut Runner) {
    let patterns: Vec<PathPattern> = (0..32)
        .map(|n| format!("/service-{n}/rooms/{{room}}/members"))
        .chain(["/ws".to_owned(), "/files/*".to_owned()])
        .map(|text| PathPattern::parse(&text).unwrap())
        .collect();
    for (name, path) in [
        ("route: short path", "/ws"),
        ("route: below a prefix", "/files/2026/report.pdf"),
        ("route: named segment, last of 32", "/service-31/rooms/lobby/members"),
        ("route: percent-encoded", "/service-31/rooms/caf%C3%A9%20noir/members"),
        ("route: none", "/nothing/here"),
    ] {
        runner.measure(name, || {
            let canonical = CanonicalPath::parse(black_box(path)).unwrap();
            patterns.iter().find_map(|pattern| pattern.matches(&canonical))
        });
    }
}
