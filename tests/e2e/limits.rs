//! A client without a credential gets little time, little memory and few sockets.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::support::client::{self, Answer};
use crate::support::{Backend, Echo, Raw, Setup, eventually, upgrade_request};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_let_go_in_time() {
    let echo = Echo::start().await;
    let limits =
        "[limits]\ntls_timeout = \"1s\"\nhead_timeout = \"2s\"\nhandshake_timeout = \"4s\"\n";
    let usher = Setup::new(echo.url()).extra(limits).start().await;
    let closed = join_all((0..40).map(|turn| {
        let usher = &usher;
        async move {
            let mut raw = Raw::connect(if turn % 2 == 0 { usher.tls } else { usher.plain }).await;
            if turn % 4 == 1 {
                raw.send("GET /ws HTTP/1.1\r\nHost: chat").await;
            }
            raw.read_to_close().await
        }
    }))
    .await;
    let answered = closed.iter().filter(|bytes| Answer::parse(bytes).status == 408).count();
    assert_eq!(answered, 10, "a client that has begun a head gets an answer");
    assert!(usher.metrics().await.contains("outcome=\"timeout\""));
    // Those that have begun a head, and those that were silent.
    usher.until_metric("usher_limits_hit_total{limit=\"head_timeout\"} 20").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rests_too_long_is_closed_and_counted() {
    let backend = Backend::start().await;
    let limits = "[limits]\nhttp_idle_timeout = \"1s\"\n";
    let usher = Setup::new(backend.url()).extra(limits).start().await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(Answer::parse(&raw.read_to_close().await).status, 200);
    usher.until_metric("usher_limits_hit_total{limit=\"http_idle_timeout\"} 1").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let many: String = (0..150).map(|number| format!("X-{number}: 1\r\n")).collect();
    for headers in [long, many] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &headers)).await;
        assert_eq!(Answer::parse(&raw.read_to_close().await).status, 431);
    }
    let target = format!("/public/{}", "x".repeat(9_000));
    assert_eq!(client::get(usher.plain, &target).await.status, 431);
    assert!(echo.visits().is_empty());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_ceiling_a_connection_is_closed_and_below_it_there_is_room_again() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).extra("[limits]\nconnections = 4\n").start().await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(usher.connect("ada").await);
    }
    assert_eq!(Raw::connect(usher.plain).await.read_to_close().await, b"");
    let metrics = usher.metrics().await;
    for line in [
        "limit=\"connections\"",
        "\nusher_connections_limit 4\n",
        "\nusher_unauthenticated_limit 2\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    sockets.clear();
    eventually("the places are free again", async || {
        let request = "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(request).await;
        !raw.read_to_close().await.is_empty()
    })
    .await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_of_descriptors_slows_accepting_and_nothing_more() {
    let echo = Echo::start().await;
    let mut usher = Setup::new(echo.url()).start().await;
    let mut before = usher.connect("before").await;
    // The descriptors that it has now, and eight more.
    let limited = usher.limit_descriptors(8);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(Raw::connect(usher.plain).await);
    }
    // The descriptors for clients are used up. Probes are still answered, one after the other.
    usher.logged(&["accept_failed"]).await;
    for path in ["/readyz", "/livez", "/metrics"].repeat(10) {
        let answer = timeout(Duration::from_secs(30), client::get(usher.admin, path)).await;
        assert_eq!(answer.expect("the probe is not answered").status, 200);
    }
    use futures_util::{SinkExt, StreamExt};
    before.send("still here".into()).await.unwrap();
    assert!(timeout(Duration::from_secs(30), before.next()).await.unwrap().unwrap().is_ok());
    crowd.clear();
    usher.restore_descriptors(limited);
    let after = timeout(Duration::from_secs(30), usher.connect("after")).await;
    assert!(after.is_ok());
    usher.logged(&["accept_failed"]).await;
    drop((before, after));
    usher.finish().await;
}
