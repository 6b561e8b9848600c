//! What is judged by many rounds over some time: a few seconds of each run with the other tests,
//! and `make soak` runs each for as long as it is asked to.

mod storm;
mod walk;

use std::time::Duration;

use usher::config::value::duration;

/// How long each is to run, where `make soak` says so in `USHER_SOAK`.
fn asked_for() -> Option<Duration> {
    let text = std::env::var("USHER_SOAK").ok()?;
    Some(duration(&text).unwrap_or_else(|fault| panic!("USHER_SOAK: {fault}")))
}
