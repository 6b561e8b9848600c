//! The views for operators, and the secrets that no view shows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::client::{self, Raw};
use crate::support::token::SECRET;
use crate::support::{Echo, Setup, upgrade_request};

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_tells_what_happens() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let socket = usher.connect("ada").await;
    assert_eq!(client::get(usher.admin, "/livez").await.status, 200);
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    let sessions: Value =
        serde_json::from_str(&client::get(usher.admin, "/sessions").await.body).unwrap();
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
    for wanted in [
        "_bucket{",
        "usher_build_info",
        "method=\"header\"",
        "missing_credential",
        "usher_tls_handshakes_total",
    ] {
        assert!(metrics.contains(wanted), "{wanted} is not in\n{metrics}");
    }
    assert!(!metrics.contains("quantile="), "the metrics have a summary");
    assert!(!metrics.contains("ada"), "a label names a user");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_anywhere_however_it_is_shown() {
    let echo = Echo::start().await;
    let every = r#"
        [log]
        filter = "trace"
        [bypass]
        secret_file = "secret"
        [[route]]
        path = "/every/*"
        upstream = "chat"
        auth = ["ticket", "header", "subprotocol", "query", "cookie", "bypass", "message"]
        origins = ["https://app.example.com"]
        [[route]]
        path = "/closed/*"
        upstream = "chat"
        auth = ["subprotocol", "query", "cookie", "bypass"]
        origins = ["https://app.example.com"]
        reject_mode = "close"
    "#;
    let usher = Setup::new(echo.url()).extra(every).argument("--allow-bypass").start().await;
    let token = usher.token("ada");
    let encoded = URL_SAFE_NO_PAD.encode(&token);
    usher.keep_secret(&encoded);
    let ticket = usher.issue_ticket(&token).await;
    let page = "Origin: https://app.example.com\r\n";
    // Valid, damaged, doubled, cut in half, and in the wrong place.
    let shown = [
        format!("Sec-WebSocket-Protocol: bearer, {token}\r\n"),
        format!("Sec-WebSocket-Protocol: bearer.{token}x, chat\r\n"),
        format!("Sec-WebSocket-Protocol: {token}, bearer\r\n"),
        format!("Sec-WebSocket-Protocol: bearer.{token}, bearer.{token}\r\n"),
        format!(
            "Sec-WebSocket-Protocol: chat, base64url.bearer.authorization.k8s.io.{encoded}\r\n"
        ),
        format!("Sec-WebSocket-Protocol: base64url.bearer.authorization.{encoded}.x\r\n"),
        format!("{page}Cookie: access_token={token}\r\n"),
        format!("{page}Cookie: access_token={token}x; a=1\r\n"),
        format!("{page}Cookie: access_token={token}; access_token={token}\r\n"),
        format!("Cookie: access_token={token}\r\n"),
        format!("X-Usher-Bypass: {SECRET} ada\r\n"),
        format!("X-Usher-Bypass: {SECRET}x ada\r\n"),
        format!("X_Usher_Bypass: {SECRET}\r\nX-Usher-Bypass: {SECRET}\r\n"),
    ];
    let queries = [
        format!("access_token={token}"),
        format!("%61ccess_token={token}x"),
        format!("access_token={token}&access_token={token}"),
    ];
    let mut requests: Vec<(String, String)> = Vec::new();
    for path in ["/every/x", "/closed/x", "/none"] {
        requests.extend(shown.iter().map(|headers| (path.to_owned(), headers.clone())));
        requests.extend(queries.iter().map(|query| (format!("{path}?{query}"), String::new())));
    }
    for (target, headers) in requests {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(&target, &headers)).await;
        let head = raw.read_head().await;
        assert!(
            !head.contains(&token) && !head.contains(&encoded) && !head.contains(SECRET),
            "{head}"
        );
        let plain =
            format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
        client::http(usher.plain, plain.as_bytes()).await;
        let asked = format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        let answer: Value =
            serde_json::from_str(&client::http(usher.plain, asked.as_bytes()).await.body).unwrap();
        if let Some(ticket) = answer["ticket_id"].as_str() {
            usher.keep_secret(ticket);
        }
    }
    let visits = format!("{:?}", echo.visits());
    assert!(
        !visits.contains(&token) && !visits.contains(&encoded) && !visits.contains(SECRET),
        "{visits}"
    );
    // In the right places and in wrong ones.
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
    // `finish` looks for the secret, the tokens and the tickets in the log, the audit log and the
    // metrics.
    usher.finish().await;
}
