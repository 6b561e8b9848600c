//! Tests that need many rounds. With the other tests each runs for a few seconds, and with `make
//! soak` for as long as it is asked to.

mod replace;
mod storm;
mod walk;

use std::time::Duration;

use usher::config::value::duration;

/// Returns how long each test runs, which `make soak` sets in `USHER_SOAK`.
fn asked_for() -> Option<Duration> {
    let text = std::env::var("USHER_SOAK").ok()?;
    Some(duration(&text).unwrap_or_else(|fault| panic!("USHER_SOAK: {fault}")))
}
