//! Waits for a condition that no event announces.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// The longest time that a busy machine may need for a condition of a test.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two checks.
const INTERVAL: Duration = Duration::from_millis(10);

/// The result of a condition: `true`, or a value, once it holds.
pub trait Answer {
    type Value;

    fn value(self) -> Option<Self::Value>;
}

impl Answer for bool {
    type Value = ();

    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Answer for Option<T> {
    type Value = T;

    fn value(self) -> Self {
        self
    }
}

/// Checks until the condition holds, and returns its value. Panics with `what` after half a minute.
pub async fn eventually<A: Answer>(
    what: impl Display,
    condition: impl AsyncFnMut() -> A,
) -> A::Value {
    eventually_within(PATIENCE, what, condition).await
}

/// Like `eventually`, with another time limit.
pub async fn eventually_within<A: Answer>(
    patience: Duration,
    what: impl Display,
    condition: impl AsyncFnMut() -> A,
) -> A::Value {
    let Some(value) = poll(patience, condition).await else {
        panic!("this did not happen within {patience:?}: {what}");
    };
    value
}

/// Like `eventually`, with a message that is made when the time is over.
pub async fn eventually_or<A: Answer, P: Display>(
    condition: impl AsyncFnMut() -> A,
    complaint: impl AsyncFnOnce() -> P,
) -> A::Value {
    match poll(PATIENCE, condition).await {
        Some(value) => value,
        None => panic!("this did not happen within {PATIENCE:?}: {}", complaint().await),
    }
}

async fn poll<A: Answer>(
    patience: Duration,
    mut condition: impl AsyncFnMut() -> A,
) -> Option<A::Value> {
    let polling = async {
        loop {
            if let Some(value) = condition().await.value() {
                return value;
            }
            sleep(INTERVAL).await;
        }
    };
    timeout(patience, polling).await.ok()
}

#[tokio::test]
async fn a_late_value_is_awaited_and_returned() {
    let mut looks = 0;
    let third = eventually("a third look", async || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(third.await, 3);
}

#[tokio::test]
#[should_panic(expected = "this did not happen within 50ms: pigs fly")]
async fn a_condition_that_never_holds_fails_the_test_with_its_description() {
    eventually_within(Duration::from_millis(50), "pigs fly", async || false).await;
}

#[tokio::test]
#[should_panic(expected = "this did not happen within 50ms: an answer")]
async fn a_condition_that_hangs_fails_the_test_too() {
    let hangs = async || std::future::pending::<bool>().await;
    eventually_within(Duration::from_millis(50), "an answer", hangs).await;
}
