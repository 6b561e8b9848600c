//! What `usher explain` says is what a running Usher does.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::client::{self, Answer};
use crate::support::redis::RedisServer;
use crate::support::verifier_server::VerifierServer;
use crate::support::{Echo, KeyServer, Raw, Setup, Signer, Usher, token, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["header", "subprotocol", "query", "cookie"]
    origins = ["https://app.example.com"]
    [[route]]
    path = "/rooms/{room}"
    upstream = "chat"
    auth = ["header"]
    require = ["chat:read", "room:{room}"]
    [[route]]
    path = "/old"
    upstream = "chat"
    auth = ["ticket", "header"]
    legacy = ["header"]
    deprecated = "2026-01-01"
    rollout = { ticket = 50, enforce = true }
    [[route]]
    path = "/close"
    upstream = "chat"
    auth = ["header"]
    reject_mode = "close"
    close_codes = "http"
    [[route]]
    path = "/tickets"
    upstream = "chat"
    auth = ["ticket"]
    [[route]]
    path = "/public/*"
    upstream = "chat"
    auth = []
"#;

/// Runs the command; the request's headers, or its token, come by standard input.
fn run(config: &Path, url: &str, arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["explain", "--json", "-c"])
        .arg(config)
        .args(arguments)
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

async fn explained(usher: &Usher, url: &str, arguments: &[&str], input: &str) -> Value {
    let (config, url, input) = (usher.config_path(), url.to_owned(), input.to_owned());
    let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&config, &url, &arguments, &input)
    });
    let output = running.await.unwrap();
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)));
    let expected = match told["verdict"]["let_in"].as_bool() {
        Some(true) => 0,
        Some(false) => 1,
        None => 69,
    };
    assert_eq!(output.status.code(), Some(expected));
    told
}

/// Status, code, and the code of a close frame behind a 101.
type Said = (u64, Option<String>, Option<u64>);

async fn live(usher: &Usher, target: &str, headers: &str) -> Said {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(target, headers)).await;
    if target.starts_with("/close") {
        let bytes = raw.read_to_close().await;
        let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let status = u64::from(Answer::parse(&bytes).status);
        return (status, None, bytes.get(at + 2..at + 4).map(|code| u64::from(u16::from_be_bytes([code[0], code[1]]))));
    }
    let head = Answer::parse(raw.read_head().await.as_bytes());
    if head.status == 101 {
        return (101, None, None);
    }
    let body: Value = serde_json::from_slice(&raw.read_to_close().await).unwrap();
    (u64::from(head.status), body["code"].as_str().map(str::to_owned), None)
}

fn said(told: &Value) -> Said {
    let verdict = &told["verdict"];
    let close = verdict["close_code"].as_u64();
    // The code is in a body only.
    let code = verdict["code"].as_str().map(str::to_owned).filter(|_| close.is_none());
    (verdict["status"].as_u64().unwrap(), code, close)
}

fn raw_token(header: &Value, claims: &Value) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(token::SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_a_running_usher_does() {
    let echo = Echo::start().await;
    let (good, other) = (Signer::new("published"), Signer::new("elsewhere"));
    let server = KeyServer::publishing(&[&good]).await;
    let away = KeyServer::publishing(&[&good]).await;
    let tables = format!("{}{}", server.table("keys", ""), away.table("away", "jwks_timeout = \"500ms\""));
    away.say("500 Internal Server Error", "");
    let usher = Setup::new(echo.url()).routes(ROUTES).issuer(&tables).start().await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let with = |changes: Value| bearer(&usher.token_with("ada", changes));
    let ada = usher.token("ada");
    let unsigned = raw_token(&json!({ "alg": "none" }), &token::claims("eve", json!({})));
    let stranger = jsonwebtoken::encode(&Header::default(), &token::claims("eve", json!({})), &EncodingKey::from_secret(b"x")).unwrap();
    let encoded = URL_SAFE_NO_PAD.encode(&ada);
    let mut requests: Vec<(String, String)> = vec![
        ("/ws".into(), bearer(&ada)),
        (format!("/ws?access_token={ada}"), String::new()),
        (format!("/ws?access_token={ada}&access_token={ada}"), String::new()),
        ("/ws".into(), format!("Sec-WebSocket-Protocol: chat, bearer, {ada}\r\n")),
        ("/ws".into(), format!("Sec-WebSocket-Protocol: base64url.bearer.authorization.{encoded}\r\n")),
        ("/ws".into(), "Sec-WebSocket-Protocol: bearer\r\n".into()),
        ("/ws".into(), format!("Cookie: a=b; access_token={ada}\r\nOrigin: https://app.example.com\r\n")),
        ("/ws".into(), format!("Cookie: access_token={ada}\r\n")),
        ("/ws".into(), format!("{}Cookie: access_token=wrong\r\n", bearer(&ada))),
        ("/ws".into(), format!("{}Authorization: Basic YTpi\r\n", bearer(&ada))),
        ("/ws".into(), "Authorization: Basic YTpi\r\n".into()),
        ("/ws".into(), String::new()),
        ("/ws".into(), format!("{}Origin: https://evil.example.com\r\n", bearer(&ada))),
        ("/ws".into(), format!("{}Origin: https://app.example.com\r\nOrigin: null\r\n", bearer(&ada))),
        ("/ws".into(), with(json!({ "exp": token::now() - 1 }))),
        ("/ws".into(), with(json!({ "nbf": token::now() + 60 }))),
        ("/ws".into(), with(json!({ "aud": "other" }))),
        ("/ws".into(), with(json!({ "iss": "https://nobody.example.com" }))),
        ("/ws".into(), with(json!({ "iss": server.issuer.clone() }))),
        ("/ws".into(), with(json!({ "sub": null }))),
        ("/ws".into(), with(json!({ "permissions": 5 }))),
        ("/ws".into(), with(json!({ "x": "x".repeat(9000) }))),
        ("/ws".into(), bearer(&unsigned)),
        ("/ws".into(), bearer(&stranger)),
        ("/ws".into(), bearer("abc")),
        ("/ws".into(), bearer(&good.token(&server, "ada", json!({})))),
        ("/ws".into(), bearer(&other.token(&server, "ada", json!({})))),
        ("/ws".into(), bearer(&other.token(&server, "ada", json!({ "aud": "other" })))),
        ("/ws".into(), bearer(&good.token(&away, "ada", json!({})))),
        ("/rooms/blue".into(), with(json!({ "permissions": "chat:read room:blue" }))),
        ("/rooms/red".into(), with(json!({ "permissions": "chat:read room:blue" }))),
        ("/rooms/a:b".into(), with(json!({ "permissions": "chat:read room:a:b" }))),
        ("/rooms/".into(), bearer(&ada)),
        ("/rooms/a%2fb".into(), bearer(&ada)),
        ("/rooms//blue".into(), bearer(&ada)),
        ("/close".into(), with(json!({ "exp": 5 }))),
        ("/close".into(), String::new()),
        ("/tickets?ticket=short".into(), String::new()),
        ("/tickets".into(), bearer(&ada)),
        ("/public/x".into(), String::new()),
        ("/nowhere".into(), bearer(&ada)),
        ("/ws".into(), format!("{}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", bearer(&ada))),
        ("/ws".into(), format!("{}Expect: 100-continue\r\n", bearer(&ada))),
        ("/ws".into(), format!("{}Host: other.example.com\r\n", bearer(&ada))),
    ];
    // Of ten, some are in the share and some are not.
    requests.extend((0..10).map(|number| ("/old".to_owned(), bearer(&usher.token(&format!("user {number}"))))));
    for (target, headers) in &requests {
        let whole = upgrade_request(target, headers);
        let told =
            explained(&usher, &format!("ws://chat.example.com{target}"), &["--headers-file", "-"], &whole.replace("\r\n", "\n")).await;
        assert_eq!(said(&told), live(&usher, target, headers).await, "{target} {headers} {told:#}");
        for secret in [&ada, &encoded, &unsigned, &stranger] {
            assert!(!told.to_string().contains(secret.as_str()), "{target}");
            assert!(!told.to_string().contains(secret.rsplit('.').next().unwrap()), "a signature at {target}");
        }
    }
    let own = explained(&usher, "http://chat.example.com/websocket/ticket", &["--method", "POST"], "").await;
    assert_eq!(own["verdict"]["let_in"], Value::Null, "{own:#}");
    for (path, headers) in [("/ws", bearer(&ada)), ("/ws", String::new()), ("/none", String::new()), ("/ws", with(json!({ "aud": "x" })))] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: chat.example.com\r\n{headers}Connection: close\r\n\r\n");
        let answer = client::http(usher.plain, request.as_bytes()).await;
        let told = explained(&usher, &format!("http://chat.example.com{path}"), &["--headers-file", "-"], &headers).await;
        // What is passed on has the upstream's own status.
        match told["verdict"]["status"].as_u64() {
            Some(status) => assert_eq!(status, u64::from(answer.status), "{path} {told:#}"),
            None => assert!(told["verdict"]["let_in"] == true && !matches!(answer.status, 400..=499), "{path} {told:#}"),
        }
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_looked_at_and_stays_good() {
    let echo = Echo::start().await;
    let redis = RedisServer::start(&[]);
    let store = format!("[store]\nurl = \"{}\"\n", redis.url());
    let usher = Setup::new(echo.url()).extra(&store).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    usher.keep_secret(&ticket);
    for _ in 0..2 {
        let told = explained(&usher, "ws://chat.example.com/ws", &["--ticket-file", "-"], &ticket).await;
        assert_eq!((&told["verdict"]["let_in"], &told["verdict"]["user"]), (&json!(true), &json!("ada")), "{told:#}");
        assert!(!told.to_string().contains(&ticket));
    }
    drop(usher.connect_ticket(&ticket).await.unwrap());
    let told = explained(&usher, "ws://chat.example.com/ws", &["--ticket-file", "-"], &ticket).await;
    assert_eq!((&told["verdict"]["status"], &told["verdict"]["code"]), (&json!(403), &json!("INVALID_TICKET")), "{told:#}");
    usher.finish().await;

    let usher = Setup::new(echo.url()).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let told = explained(&usher, "ws://chat.example.com/ws", &["--ticket-file", "-"], &ticket).await;
    assert_eq!(told["verdict"]["let_in"], Value::Null, "{told:#}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_the_exit_codes_of_every_command() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let config = usher.config_path();
    let outcome = tokio::task::spawn_blocking(move || {
        let code = |config: &Path, url: &str, arguments: &[&str]| run(config, url, arguments, "").status.code();
        [
            code(&config, "ws://chat.example.com/public/x", &[]),
            code(&config, "ws://chat.example.com/ws", &[]),
            code(&config, "ftp://chat.example.com/ws", &[]),
            code(&config, "ws://chat.example.com/ws", &["--token-file", "/nowhere"]),
            code(Path::new("/nowhere.toml"), "ws://chat.example.com/ws", &[]),
        ]
    });
    assert_eq!(outcome.await.unwrap(), [Some(0), Some(1), Some(2), Some(2), Some(78)]);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_is_asked_as_for_a_client_and_offline_nobody_can_say() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let route = "[[route]]\npath = \"/opaque\"\nupstream = \"chat\"\nauth = [\"session\", \"header\"]\norigins = [\"https://app.example.com\"]\nverifier = \"login\"\n";
    let usher = Setup::new(echo.url()).routes(route).extra(&verifier.table("login", "http", "")).start().await;
    let (known, unknown) = ("a-token-that-is-known", "a-token-that-nobody-knows");
    usher.keep_secret(known);
    verifier.knows(known, "ada");
    let url = format!("ws://{}/opaque", usher.plain);
    let told = explained(&usher, &url, &["--token-file", "-"], known).await;
    assert_eq!((&told["verdict"]["let_in"], &told["upstream"]["context"]["sub"]), (&json!(true), &json!("ada")), "{told}");
    let told = explained(&usher, &url, &["--token-file", "-"], unknown).await;
    assert_eq!((&told["verdict"]["status"], &told["verdict"]["code"]), (&json!(401), &json!("INVALID_TOKEN")), "{told}");
    let told = explained(&usher, &url, &["--offline", "--token-file", "-"], known).await;
    assert_eq!(told["verdict"]["let_in"], Value::Null, "{told}");
    let cookie = format!("Origin: https://app.example.com\r\nCookie: session={known}\r\n");
    let told = explained(&usher, &url, &["--headers-file", "-"], &cookie).await;
    assert_eq!((&told["verdict"]["let_in"], &told["method"]), (&json!(true), &json!("session")), "{told}");
    assert!(!told.to_string().contains(known));
    usher.finish().await;
}
