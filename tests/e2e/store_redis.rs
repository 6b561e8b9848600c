//! Two Ushers, one Redis.

use futures_util::future::join_all;

use crate::support::redis::RedisServer;
use crate::support::{DoorBook, Echo, Raw, Setup, Usher, upgrade_request};

pub const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "header"]
    identity_headers = { "X-User-Id" = "sub" }
"#;

pub async fn usher(echo: &Echo, store: &str) -> Usher {
    Setup::new(echo.url()).routes(ROUTES).extra(&format!("[store]\n{store}\n")).start().await
}

/// Redeems with a plain upgrade; gives back the status.
pub async fn redeem(usher: &Usher, ticket: &str) -> u16 {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    let head = raw.read_head().await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_racing_redemptions_over_two_processes_one_wins() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    // A busy machine is not what is tested.
    let store = format!("url = \"{}\"\ntimeout = \"10s\"", server.url());
    let ushers = [usher(&echo, &store).await, usher(&echo, &store).await];
    let mut book = DoorBook::default();
    for round in 0..10 {
        let ticket = ushers[round % 2].issue_ticket(&ushers[0].token("ada")).await;
        ushers[1 - round % 2].keep_secret(&ticket);
        book.admit("ada");
        // All connections are open before the first request goes out.
        let sockets = join_all((0..64).map(|n| Raw::connect(ushers[n % 2].plain))).await;
        let request = &upgrade_request(&format!("/ws?ticket={ticket}"), "");
        let heads = join_all(sockets.into_iter().map(|mut raw| async move {
            raw.send(request).await;
            raw.read_head().await
        }))
        .await;
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 101 ")).count(), 1);
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 403 ")).count(), 63);
        let keys = server.cli(&["KEYS", "*"]);
        assert!(!keys.contains(&ticket), "{keys}");
    }
    assert_eq!(book.verdict(&echo.visits()), Vec::<String>::new());
    for usher in ushers {
        usher.finish().await;
    }
}
