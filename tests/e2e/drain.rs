//! Stopping in good order.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client;
use crate::support::{Echo, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_told_to_go_and_the_exit_is_clean() {
    let echo = Echo::start().await;
    let mut usher = Setup::new(echo.url()).drain("1500ms").start().await;
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    let mut sockets = Vec::new();
    for number in 0..20 {
        sockets.push(usher.connect(&format!("user-{number}")).await);
    }
    usher.signal("TERM");
    // Not ready comes before the first close, or the first close has not come yet.
    timeout(Duration::from_secs(5), async {
        while client::get(usher.admin, "/readyz").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it stays ready");
    for socket in &mut sockets {
        let message = timeout(Duration::from_secs(10), socket.next()).await.unwrap().unwrap().unwrap();
        let Message::Close(Some(frame)) = message else { panic!("{message:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "Server going away"));
        // The answer goes out with the next poll.
        while let Some(Ok(_)) = socket.next().await {}
    }
    assert!(usher.exit().await.success());
    let ends: Vec<_> = usher.audit().into_iter().filter(|line| line["event"] == "session_ended").collect();
    assert_eq!(ends.len(), 20);
    assert!(ends.iter().all(|line| line["outcome"] == "draining"), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_at_once() {
    let echo = Echo::start().await;
    let mut usher = Setup::new(echo.url()).drain("10m").start().await;
    let _sockets = (usher.connect("ada").await, usher.connect("bob").await);
    usher.signal("TERM");
    timeout(Duration::from_secs(5), async {
        while client::get(usher.admin, "/readyz").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    usher.signal("TERM");
    assert_eq!(usher.exit().await.code(), Some(1));
}
