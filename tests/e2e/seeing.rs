//! What operators see, and what nobody may see.

use serde_json::Value;

use crate::support::client::{self, Raw};
use crate::support::{Echo, Setup, upgrade_request};

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_tells_what_happens() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let socket = usher.connect("ada").await;
    assert_eq!(client::get(usher.admin, "/livez").await.status, 200);
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    let sessions: Value = serde_json::from_str(&client::get(usher.admin, "/sessions").await.body).unwrap();
    let session = &sessions["sessions"][0];
    assert_eq!(
        (session["user"].as_str(), session["method"].as_str(), session["route"].as_str()),
        (Some("ada"), Some("header"), Some("/ws"))
    );
    drop(socket);
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", "")).await;
    raw.read_to_close().await;
    let metrics = usher.metrics().await;
    for wanted in ["_bucket{", "usher_build_info", "method=\"header\"", "missing_credential", "usher_tls_handshakes_total"] {
        assert!(metrics.contains(wanted), "{wanted} is not in\n{metrics}");
    }
    assert!(!metrics.contains("quantile="), "histograms, not summaries");
    assert!(!metrics.contains("ada"), "no user in a label");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_anywhere_however_it_is_shown() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).extra("[log]\nfilter = \"trace\"\n").start().await;
    let token = usher.token("ada");
    let ticket = usher.issue_ticket(&token).await;
    // Where they belong, and where they do not.
    for (target, headers) in [
        (format!("/ws?ticket={ticket}"), String::new()),
        (format!("/ws?ticket={ticket}"), String::new()),
        (format!("/ws?token={token}"), String::new()),
        ("/ws".to_owned(), format!("Authorization: Basic {token}\r\n")),
        ("/ws".to_owned(), format!("Authorization: Bearer {token}x\r\n")),
        ("/none".to_owned(), format!("Authorization: Bearer {token}\r\n")),
        (format!("/public/x?access_token={token}"), String::new()),
        (format!("/websocket/ticket/{ticket}/validate"), String::new()),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(&target, &headers)).await;
        raw.read_head().await;
    }
    client::get(usher.plain, &format!("/websocket/ticket/{ticket}/validate")).await;
    client::get(usher.plain, &format!("/api/x?access_token={token}")).await;
    // `finish` looks for the secret, the tokens and the tickets in log, audit and metrics.
    usher.finish().await;
}
