//! The move from one method to another, step by step, while clients are connected.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::client::{self, Answer, Raw};
use crate::support::eventually::eventually_or;
use crate::support::{Echo, Setup, Usher, upgrade_request};

const PATIENCE: Duration = Duration::from_secs(60);
pub const RATES: &str =
    "[tickets]\nrate_per_user = \"100000/1m\"\nrate_per_address = \"1000000/1m\"\n";

pub type Socket = WebSocketStream<TcpStream>;

pub fn routes(lines: &str) -> String {
    format!("[[route]]\npath = \"/ws\"\nupstream = \"chat\"\n{lines}\n")
}

pub async fn config(usher: &Usher, query: &str, token: Option<&str>) -> (u16, Value) {
    let authorization =
        token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /websocket/config{query} HTTP/1.1\r\nHost: chat.example.com\r\n\
         {authorization}Connection: close\r\n\r\n"
    );
    let answer = client::http(usher.plain, request.as_bytes()).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_the_method_of_its_own_host_and_never_a_test_method() {
    let echo = Echo::start().await;
    let lines = |host: &str, auth: &str| {
        routes(&format!(
            "hosts = [\"{host}\"]\nauth = {auth}\norigins = [\"https://app.example.com\"]"
        ))
    };
    let all = [
        lines("a.example.com", "[\"bypass\", \"ticket\", \"header\"]"),
        lines("*.other.example.com", "[\"cookie\"]"),
        "[bypass]\nsecret_file = \"bypass\"\n".to_owned(),
    ];
    let usher = Setup::new(echo.url())
        .routes(&all.concat())
        .file("bypass", "b".repeat(40))
        .argument("--allow-bypass")
        .start()
        .await;
    for (host, method, methods) in [
        ("a.example.com", "ticket", json!(["ticket", "header"])),
        ("b.other.example.com:8443", "cookie", json!(["cookie"])),
        ("api.example.com", "ticket", json!(["ticket", "header"])),
    ] {
        let request = format!(
            "GET /websocket/config?route=/ws HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        let told: Value =
            serde_json::from_str(&client::http(usher.plain, request.as_bytes()).await.body)
                .unwrap();
        assert_eq!(
            (&told["method"], &told["methods"]),
            (&json!(method), &methods),
            "{host} {told}"
        );
    }
    usher.finish().await;
}

/// Issues a ticket like `Usher::issue_ticket`. The logs are not searched for it, which would take
/// long for so many tickets.
pub async fn ticket(usher: &Usher, token: &str) -> String {
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: chat.example.com\r\n\
         Authorization: Bearer {token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = client::http(usher.plain, request.as_bytes()).await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    body["ticket_id"]
        .as_str()
        .unwrap_or_else(|| panic!("a valid client got no ticket: {body}"))
        .to_owned()
}

pub async fn connect(usher: &Usher, target: &str, token: Option<&str>) -> Result<Socket, String> {
    let mut request = format!("ws://{}{target}", usher.plain).into_client_request().unwrap();
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let stream = TcpStream::connect(usher.plain).await.unwrap();
    client::websocket(request, stream).await.map_err(|error| error.to_string())
}

pub async fn is_alive(socket: &mut Socket) {
    socket.send(Message::text("here")).await.expect("the session was dropped");
    let heard = timeout(PATIENCE, socket.next())
        .await
        .expect("no message came")
        .expect("the session was dropped")
        .expect("the session was dropped");
    assert_eq!(heard, Message::text("here"));
}

pub async fn upgrade(usher: &Usher, target: &str, headers: &str) -> Answer {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(target, headers)).await;
    Answer::parse(raw.read_head().await.as_bytes())
}

/// Returns the value of a series, and 0 if the series is missing.
pub fn value(metrics: &str, series: &str) -> u64 {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map_or(0, |value| value.parse().unwrap())
}

async fn counts(usher: &Usher, series: &str, wanted: u64) {
    let is_so = async || value(&usher.metrics().await, series) == wanted;
    let complaint = async || format!("{series} is {wanted}:\n{}", usher.metrics().await);
    eventually_or(is_so, complaint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_method_works_with_a_deprecation_header_and_is_reported() {
    let echo = Echo::start().await;
    let lines = "auth = [\"ticket\", \"header\"]\nlegacy = [\"header\"]\n\
        deprecated = \"2026-11-01\"\nsunset = \"2027-03-01\"";
    let usher = Setup::new(echo.url()).routes(&routes(lines)).start().await;
    let token = usher.token("ada");
    let answer = upgrade(&usher, "/ws", &format!("Authorization: Bearer {token}\r\n")).await;
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!(
        (answer.header("deprecation"), answer.header("sunset")),
        (Some("@1793491200"), Some("mon, 01 mar 2027 00:00:00 gmt"))
    );
    let ticket = usher.issue_ticket(&token).await;
    let answer = upgrade(&usher, &format!("/ws?ticket={ticket}"), "").await;
    assert!(answer.status == 101 && !answer.head.contains("deprecation"), "{}", answer.head);

    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    let legacy = &status["legacy"][0];
    assert_eq!(
        (&legacy["route"], &legacy["method"], &legacy["uses"]),
        (&json!("/ws"), &json!("header"), &json!(1))
    );
    assert_eq!(legacy["recent_users"], json!(["ada"]));
    assert_eq!(
        value(
            &usher.metrics().await,
            "usher_legacy_upgrades_total{route=\"/ws\",method=\"header\"}"
        ),
        1
    );
    let line = usher.logged(&["\"event\":\"legacy_method\""]).await;
    assert!(line.contains("2026-11-01") && line.contains("2027-03-01"), "{line}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_enforced_refuses_the_legacy_way_and_no_other() {
    let echo = Echo::start().await;
    let lines = "auth = [\"ticket\", \"message\", \"header\"]\nlegacy = [\"header\"]\n\
        deprecated = \"2026-11-01\"\n[route.rollout]\nticket = 50\nenforce = true";
    let usher = Setup::new(echo.url()).routes(&routes(lines)).start().await;
    let mut told = BTreeMap::new();
    for user in 0..40 {
        let token = usher.token(&format!("user {user}"));
        let (status, answer) = config(&usher, "?route=%2Fws", Some(&token)).await;
        assert_eq!(status, 200, "{answer}");
        let method = answer["method"].as_str().unwrap().to_owned();
        let by_header = upgrade(&usher, "/ws", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(
            by_header.status,
            if method == "ticket" { 403 } else { 101 },
            "{}",
            by_header.head
        );
        let ticket = usher.issue_ticket(&token).await;
        connect(&usher, &format!("/ws?ticket={ticket}"), None).await.unwrap();
        *told.entry(method).or_insert(0) += 1;
    }
    assert!(told.len() == 2 && told.values().all(|count| *count > 8), "{told:?}");
    let mut raw = Raw::connect(usher.plain).await;
    let refused = (0..40).map(|user| usher.token(&format!("user {user}")));
    let mut code = None;
    for token in refused {
        raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
        let head = raw.read_head().await;
        if head.contains(" 403 ") {
            assert!(head.to_ascii_lowercase().contains("deprecation: @"), "{head}");
            let body: Value = serde_json::from_slice(&raw.read_to_close().await).unwrap();
            code = Some((body["code"].clone(), body["message"].clone()));
            break;
        }
    }
    drop(raw);
    assert_eq!(code, Some((json!("LEGACY_METHOD"), json!("use the ticket method instead"))));
    assert_eq!(
        config(&usher, "?route=/ws", None).await.0,
        401,
        "a client must authenticate to learn its share"
    );
    assert_eq!(config(&usher, "?route=/other", None).await.0, 400);
    assert_eq!(config(&usher, "?route=/ws", Some("nonsense")).await.0, 401);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_counts_and_never_blocks() {
    let echo = Echo::start().await;
    let open =
        "[[route]]\npath = \"/open\"\nupstream = \"chat\"\nauth = []\nshadow = [\"header\"]\n";
    let usher = Setup::new(echo.url())
        .routes(&(routes("auth = [\"header\"]\nshadow = [\"ticket\"]") + open))
        .start()
        .await;
    let (ada, bob) = (usher.token("ada"), usher.token("bob"));
    let (good, theirs) = (usher.issue_ticket(&ada).await, usher.issue_ticket(&bob).await);
    usher.keep_secret("wrong-ticket");
    for target in [
        format!("/ws?ticket={good}"),
        format!("/ws?ticket={theirs}"),
        "/ws?a=1&ticket=wrong-ticket".to_owned(),
        "/ws".to_owned(),
    ] {
        connect(&usher, &target, Some(&ada)).await.unwrap();
    }
    let ticket = usher.issue_ticket(&ada).await;
    assert!(
        connect(&usher, &format!("/ws?ticket={ticket}"), Some("nonsense")).await.is_err(),
        "a method in shadow mode lets a client in"
    );
    let verdict = |verdict: &str| {
        format!(
            "usher_shadow_verdicts_total{{route=\"/ws\",method=\"ticket\",verdict=\"{verdict}\"}}"
        )
    };
    let mismatch = |kind: &str| {
        format!(
            "usher_shadow_mismatches_total{{route=\"/ws\",method=\"ticket\",mismatch=\"{kind}\"}}"
        )
    };
    for (series, wanted) in [
        (verdict("accepted"), 3),
        (verdict("invalid_ticket"), 1),
        (verdict("absent"), 1),
        (mismatch("would_refuse"), 1),
        (mismatch("would_accept"), 1),
        (mismatch("other_user"), 1),
    ] {
        counts(&usher, &series, wanted).await;
    }
    let targets: Vec<_> = echo.visits().iter().map(|visit| visit.target.clone()).collect();
    assert_eq!(targets, ["/ws", "/ws", "/ws?a=1", "/ws"], "the upstream got a ticket");
    // On a public route, the backend checks the credential.
    connect(&usher, "/open", Some(&ada)).await.unwrap();
    counts(
        &usher,
        "usher_shadow_verdicts_total{route=\"/open\",method=\"header\",verdict=\"accepted\"}",
        1,
    )
    .await;
    assert!(echo.visits().last().unwrap().headers.iter().any(|(name, _)| name == "authorization"));
    assert!(connect(&usher, &format!("/ws?ticket={good}"), None).await.is_err());
    usher.finish().await;
}
