//! Limits on sessions, and the memory of used tickets, over the replacement of a process. Three
//! processes are alive at once.

use futures_util::StreamExt;
use serde_json::json;

use crate::first_message::close_frame;
use crate::revocation::{refused, revoke};
use crate::sessions::is_replaced;
use crate::support::client;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Echo, Setup, Usher, eventually, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "header"]
"#;

/// Starts a process whose drain closes no session by itself while a test runs.
async fn start(echo: &Echo, limits: &str) -> Usher {
    let usher = Setup::new(echo.url())
        .node("edge-1\"\ntakeover = \"takeover.sock")
        .routes(ROUTES)
        .extra(&format!("[limits]\n{limits}\n"))
        .drain("1000h")
        .start()
        .await;
    usher.pin_addresses();
    usher
}

async fn close(mut socket: Socket) {
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}

/// Opens a session once a place is free.
async fn open_when_free(usher: &Usher, user: &str) -> Socket {
    let bearer = format!("Bearer {}", usher.token(user));
    let open = async || usher.open("/ws", &[("authorization", &bearer)]).await.ok();
    eventually("a place is free", open).await
}

async fn refusal(usher: &Usher, user: &str) -> u16 {
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token(user));
    refused(usher, "/ws", &bearer).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_the_old_process_count_until_they_end() {
    for (limit, status) in [
        ("sessions_per_user = 2", 429),
        ("sessions_per_address = 2", 429),
        ("sessions_per_route = 2", 503),
    ] {
        let echo = Echo::start().await;
        let mut usher = start(&echo, limit).await;
        let (mut first, second) = (usher.connect("ada").await, usher.connect("ada").await);
        let old = usher.replace().await;
        assert_eq!(refusal(&usher, "ada").await, status, "{limit}");
        is_alive(&mut first).await;
        close(first).await;
        let third = open_when_free(&usher, "ada").await;
        assert_eq!(refusal(&usher, "ada").await, status, "{limit}");
        close(second).await;
        assert!(old.exit().await.success());
        let fourth = open_when_free(&usher, "ada").await;
        assert_eq!(refusal(&usher, "ada").await, status, "{limit}");
        close(third).await;
        close(fourth).await;
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_replaces_the_oldest_one_of_the_old_process() {
    let echo = Echo::start().await;
    let limits = "sessions_per_user = 2\nextra_sessions = \"replace-oldest\"";
    let mut usher = start(&echo, limits).await;
    let mut first = usher.connect("ada").await;
    let mut second = usher.connect("ada").await;
    let old = usher.replace().await;
    let mut third = usher.connect("ada").await;
    is_replaced(&mut first, 1008).await;
    for socket in [&mut second, &mut third] {
        is_alive(socket).await;
    }
    let fourth = usher.connect("ada").await;
    is_replaced(&mut second, 1008).await;
    assert!(old.exit().await.success());
    close(third).await;
    close(fourth).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_the_old_process_redeemed_is_known_as_used() {
    let echo = Echo::start().await;
    let mut usher = start(&echo, "").await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    close(usher.connect_ticket(&ticket).await.unwrap()).await;
    let old = usher.replace().await;
    let answer = client::attempt(usher.plain, &format!("/ws?ticket={ticket}"), "").await;
    assert_eq!(answer.status, 403);
    assert!(old.exit().await.success());
    let audit = usher.finish().await;
    let refused: Vec<_> =
        audit.iter().filter(|line| line["event"] == "ticket_redeem_refused").collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0]["outcome"].to_string().contains("used"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_at_once_share_limits_tickets_and_revocations() {
    let echo = Echo::start().await;
    let mut usher = start(&echo, "sessions_per_route = 4").await;
    // This connection stays with the first process.
    let mut kept = client::Raw::connect(usher.plain).await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("fred"));
    kept.send(format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\n{bearer}Content-Length: 0\r\n\r\n"
    ))
    .await;
    let head = kept.read_head().await.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let body = kept.read_exactly(length.expect(&head).parse().unwrap()).await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    usher.keep_secret(body["ticket_id"].as_str().unwrap());
    let mut first = usher.connect("ada").await;
    let oldest = usher.replace().await;
    let mut second = usher.connect("bob").await;
    let older = usher.replace().await;
    let third = usher.connect("carl").await;
    // A ticket of the third process is redeemed by the first one, over both links.
    let ticket = usher.issue_ticket(&usher.token("dora")).await;
    kept.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    let head = kept.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("eve"));
    let attempt = async || client::attempt(usher.plain, "/ws", &bearer).await.status == 503;
    eventually("the route is full", attempt).await;
    for socket in [&mut first, &mut second] {
        is_alive(socket).await;
    }
    // An order at the third process ends sessions of the first and of the second one.
    revoke(&usher, json!({"user": "ada"})).await;
    revoke(&usher, json!({"user": "bob"})).await;
    for mut socket in [first, second] {
        assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
        while let Some(Ok(_)) = socket.next().await {}
    }
    let fifth = open_when_free(&usher, "eve").await;
    drop(kept);
    assert!(oldest.exit().await.success());
    assert!(older.exit().await.success());
    close(third).await;
    close(fifth).await;
    usher.finish().await;
}
