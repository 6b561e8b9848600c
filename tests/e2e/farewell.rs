//! The error frame before a close frame: which sessions get it, its fields, and its place in the
//! stream.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::{auth, json as json_of, next, text};
use crate::revocation::revoke;
use crate::support::usher::Socket;
use crate::support::{Echo, Raw, Recorder, Script, Setup, Usher, token, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    [[route]]
    path = "/close"
    upstream = "chat"
    auth = ["message", "header"]
    close_codes = "http"
    reauth = { mode = "close" }
    [[route]]
    path = "/off"
    upstream = "chat"
    auth = ["ticket", "header"]
    reauth = { mode = "off" }
    [[route]]
    path = "/graphql"
    upstream = "chat"
    auth = ["message"]
    first_message = { preset = "graphql-transport-ws", forward = "consume" }
    [[route]]
    path = "/socketio"
    upstream = "chat"
    auth = ["message"]
    first_message = { preset = "socketio" }
    [[route]]
    path = "/home"
    upstream = "chat"
    auth = ["message"]
    first_message = { preset = "home-assistant" }
    [[route]]
    path = "/stomp"
    upstream = "chat"
    auth = ["message"]
    first_message = { preset = "stomp", forward = "redact" }
"#;

async fn start(upstream: String) -> Usher {
    let limits = "[limits]\nsessions_per_user = 1\nextra_sessions = \"replace-oldest\"\n\
        messages_per_second = 3\n";
    Setup::new(upstream).routes(ROUTES).extra(limits).start().await
}

async fn bearer(usher: &Usher, target: &str, token: &str) -> Socket {
    usher.open(target, &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
}

/// Logs in by a first message.
async fn by_message(usher: &Usher, target: &str, token: &str) -> Socket {
    let mut socket = usher.open(target, &[]).await.unwrap();
    socket.send(auth(token)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
    socket
}

async fn closed(socket: &mut Socket) -> (u16, String) {
    match next(socket).await {
        Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("expected a close frame, got {other:?}"),
    }
}

/// Checks the envelope of the error frame and returns its payload.
fn payload(frame: &Value) -> Value {
    assert_eq!(frame["type"], "error", "{frame}");
    assert_eq!(frame["id"].as_str().unwrap().len(), 36);
    assert!(frame["timestamp"].as_str().unwrap().ends_with('Z'), "{frame}");
    let mut payload = frame["payload"].clone();
    let request_id = payload.as_object_mut().unwrap().remove("request_id").unwrap();
    assert_eq!(request_id.as_str().unwrap().len(), 32);
    payload
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_an_error_frame_and_then_a_close_frame() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;

    let mut socket = by_message(&usher, "/ws", &usher.token("ada")).await;
    assert_eq!(revoke(&usher, json!({"user": "ada"})).await, 1);
    let frame = json_of(&mut socket).await;
    let revoked = json!({
        "code": "SESSION_REVOKED",
        "message": "the session was revoked",
        "recoverable": false,
        "details": {"status": 401},
    });
    assert_eq!(payload(&frame), revoked);
    assert_eq!(closed(&mut socket).await, (1008, "Session revoked".to_owned()));
    let request_id = frame["payload"]["request_id"].clone();

    let ends = token::now() + 4;
    let token = usher.token_with("bob", json!({ "exp": ends }));
    let mut socket = by_message(&usher, "/close", &token).await;
    let expired = json!({
        "code": "SESSION_EXPIRED",
        "message": "the session ended because its credential expired",
        "recoverable": true,
        "details": {"status": 401, "expires_at": ends * 1000},
    });
    assert_eq!(payload(&json_of(&mut socket).await), expired);
    assert_eq!(closed(&mut socket).await, (4401, "Session expired".to_owned()));

    // A session that began by a header on a route with `message` gets the error frame too: the
    // route may ask its client for a new credential in a message.
    let mut first = bearer(&usher, "/ws", &usher.token("eve")).await;
    let mut second = bearer(&usher, "/ws", &usher.token("eve")).await;
    let replaced = json!({
        "code": "SESSION_REPLACED",
        "message": "another session of this user replaced this one",
        "recoverable": false,
        "details": {"status": 409},
    });
    assert_eq!(payload(&json_of(&mut first).await), replaced);
    assert_eq!(closed(&mut first).await, (1008, "Session replaced".to_owned()));
    for _ in 0..4 {
        second.send(Message::text("quick")).await.unwrap();
    }
    let mut frame = text(&mut second).await;
    while frame == "quick" {
        frame = text(&mut second).await;
    }
    let frame = payload(&serde_json::from_str(&frame).unwrap());
    assert_eq!(
        (&frame["code"], &frame["details"]),
        (&json!("RATE_LIMITED"), &json!({"status": 429}))
    );
    assert_eq!(closed(&mut second).await, (1008, "Too many messages".to_owned()));

    let audit = usher.finish().await;
    let ended = audit
        .iter()
        .find(|line| line["event"] == "session_ended" && line["outcome"] == "revoked")
        .unwrap();
    assert_eq!(ended["request_id"], request_id);
}

/// Sends no error frame to such a client: its application would take it for a message of the
/// upstream.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_speak_the_dialect_gets_the_close_frame_alone() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    for (number, target) in ["/off", "/close", "/off"].into_iter().enumerate() {
        let user = format!("user-{number}");
        let token = usher.token(&user);
        let mut socket = match number {
            2 => usher
                .open(&format!("/off?ticket={}", usher.issue_ticket(&token).await), &[])
                .await
                .unwrap(),
            _ => bearer(&usher, target, &token).await,
        };
        assert_eq!(revoke(&usher, json!({ "user": user })).await, 1);
        let code = if target == "/close" { 4401 } else { 1008 };
        assert_eq!(closed(&mut socket).await, (code, "Session revoked".to_owned()), "{target}");
    }
    let token = usher.token_with("late", json!({ "exp": token::now() + 3 }));
    let mut socket = bearer(&usher, "/close", &token).await;
    assert_eq!(closed(&mut socket).await, (4401, "Session expired".to_owned()));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_has_its_own_words_for_the_end() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    for (target, protocol) in
        [("/graphql", "graphql-transport-ws"), ("/socketio", ""), ("/home", "")]
    {
        let user = target.trim_start_matches('/');
        let token = usher.token(user);
        let headers = [("sec-websocket-protocol", protocol)];
        let headers = if protocol.is_empty() { &[][..] } else { &headers[..] };
        let mut socket = usher.open(target, headers).await.unwrap();
        // Reads the messages of Usher or of the echo server, until the session is authenticated.
        let (login, ready) = match target {
            "/graphql" => (
                json!({"type": "connection_init", "payload": {"token": token}}).to_string(),
                "connection_ack",
            ),
            "/socketio" => (format!("40{}", json!({ "token": token })), "40{\"token\":\"\"}"),
            _ => (json!({"type": "auth", "access_token": token}).to_string(), "auth_ok"),
        };
        socket.send(Message::text(login)).await.unwrap();
        while !text(&mut socket).await.contains(ready) {}
        assert_eq!(revoke(&usher, json!({ "user": user })).await, 1);
        let code = if target == "/graphql" { 4401 } else { 1008 };
        let told = text(&mut socket).await;
        match target {
            "/graphql" => {
                let told: Value = serde_json::from_str(&told).unwrap();
                assert_eq!(
                    (&told["type"], &told["payload"]["type"]),
                    (&json!("ping"), &json!("error"))
                );
                assert_eq!(told["payload"]["code"], "SESSION_REVOKED");
            }
            "/socketio" => assert!(
                told.starts_with("42[\"auth_error\",{\"code\":\"SESSION_REVOKED\""),
                "{told}"
            ),
            _ => assert_eq!(told, r#"{"type":"auth_invalid","message":"the session was revoked"}"#),
        }
        assert_eq!(closed(&mut socket).await, (code, "Session revoked".to_owned()), "{target}");
    }
    usher.finish().await;
}

/// STOMP has no message that a server may send at any time.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_broker_gets_the_close_frame_alone() {
    let connected = b"CONNECTED\nversion:1.2\n\n\0";
    let frame = [&[0x81, u8::try_from(connected.len()).unwrap()], &connected[..]].concat();
    let broker = Recorder::start(Script::Accept(frame)).await;
    let usher = start(broker.url()).await;
    let mut socket =
        usher.open("/stomp", &[("sec-websocket-protocol", "v12.stomp")]).await.unwrap();
    let login = format!("CONNECT\nAuthorization:Bearer {}\n\n\0", usher.token("ada"));
    socket.send(Message::text(login)).await.unwrap();
    assert!(text(&mut socket).await.starts_with("CONNECTED\n"));
    assert_eq!(revoke(&usher, json!({ "user": "ada" })).await, 1);
    assert_eq!(closed(&mut socket).await, (1008, "Session revoked".to_owned()));
    usher.finish().await;
}

/// A close frame may stand between two fragments. An error frame there would break the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_fragmented_message_there_is_a_close_frame_alone() {
    let recorder = Recorder::start(Script::Accept(b"\x01\x05begin".to_vec())).await;
    let usher = start(recorder.url()).await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {}\r\n", usher.token("ada"))))
        .await;
    raw.read_head().await;
    assert_eq!(raw.read_exactly(7).await, b"\x01\x05begin");
    assert_eq!(revoke(&usher, json!({"user": "ada"})).await, 1);
    let rest = tokio::time::timeout(Duration::from_secs(40), raw.read_to_close()).await.unwrap();
    assert_eq!(rest, b"\x88\x11\x03\xf0Session revoked");
    usher.finish().await;
}
