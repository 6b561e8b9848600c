//! The program that libFuzzer runs. `USHER_FUZZ_TARGET` names the target.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("USHER_FUZZ_TARGET").unwrap_or_default();
        let found = targets::ALL.iter().find(|(one, _)| *one == name);
        let (_, target) = found.expect("USHER_FUZZ_TARGET must be the name of a target");
        TARGET.set(*target).expect("the target is set once");
    },
    |data: &[u8]| TARGET.wait()(data)
);
