//! Authentication in the first message: the early 101, the wait, every refusal, and the bytes that
//! the upstream gets.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::client::Answer;
use crate::support::redis::free_port;
use crate::support::usher::Socket;
use crate::support::{
    Echo, Ledger, Raw, Recorder, Script, Setup, Usher, eventually, token, upgrade_request,
};

const PATIENCE: Duration = Duration::from_secs(30);
const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    [[route]]
    path = "/short"
    upstream = "chat"
    auth = ["message"]
    close_codes = "http"
    first_message = { timeout = "2s", max_bytes = "1KiB" }
    [[route]]
    path = "/forward"
    upstream = "chat"
    auth = ["message"]
    first_message = { forward = "forward" }
    [[route]]
    path = "/redact"
    upstream = "chat"
    auth = ["message"]
    first_message = { forward = "redact" }
    [[route]]
    path = "/quiet"
    upstream = "chat"
    auth = ["message"]
    subprotocols = ["chat.v2", "chat.v1"]
    first_message = { ack = false }
    [[route]]
    path = "/close"
    upstream = "chat"
    auth = ["header"]
    reject_mode = "close"
    close_codes = "http"
    subprotocols = ["chat.v1"]
"#;

pub async fn start(upstream: String) -> Usher {
    Setup::new(upstream).routes(ROUTES).start().await
}

pub async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    timeout(PATIENCE, socket.next()).await.expect("no message came")
}

pub async fn text(socket: &mut Socket) -> String {
    match next(socket).await {
        Some(Ok(Message::Text(text))) => text.to_string(),
        other => panic!("expected a text message, got {other:?}"),
    }
}

pub async fn json(socket: &mut Socket) -> Value {
    serde_json::from_str(&text(socket).await).unwrap()
}

/// Returns the next close frame, and skips one error frame before it.
pub async fn close_frame(socket: &mut Socket) -> (u16, String) {
    let mut message = next(socket).await;
    if let Some(Ok(Message::Text(text))) = &message
        && text.contains(r#""type":"error""#)
    {
        message = next(socket).await;
    }
    match message {
        Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("expected a close frame, got {other:?}"),
    }
}

pub fn auth(token: &str) -> Message {
    Message::text(json!({"type": "auth", "id": "m1", "payload": {"token": token}}).to_string())
}

/// Returns a client frame, masked with zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = vec![first];
    if payload.len() < 126 {
        wire.push(0x80 | payload.len() as u8);
    } else {
        wire.push(0x80 | 126);
        wire.extend((payload.len() as u16).to_be_bytes());
    }
    [&wire[..], &[0; 4], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_or_a_ticket_in_the_first_message_opens_the_door() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let token = usher.token("ada");
    let mut socket = usher.open("/ws?room=1", &[("x-other", "kept")]).await.unwrap();
    assert!(echo.visits().is_empty(), "the upstream was dialled before the credential came");
    socket.send(auth(&token)).await.unwrap();
    let ok = json(&mut socket).await;
    assert_eq!(
        (&ok["type"], &ok["id"], &ok["payload"]["user"]),
        (&json!("auth_ok"), &json!("m1"), &json!("ada"))
    );
    assert!(ok["payload"]["expires_at"].as_u64().unwrap() / 1000 > token::now());
    assert!(ok["timestamp"].as_str().unwrap().ends_with('Z'));
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(text(&mut socket).await, "hello");
    assert_eq!(echo.messages(), [Message::text("hello")], "the auth message reached the upstream");
    let visit = &echo.visits()[0];
    assert_eq!((visit.target.as_str(), visit.all("x-other")), ("/ws?room=1", vec!["kept"]));
    let session = ok["payload"]["session_id"].as_str().unwrap();
    let context = visit.all("x-user-context")[0].split('.').nth(1).unwrap().to_owned();
    let claims: Value = serde_json::from_slice(
        &base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, context)
            .unwrap(),
    )
    .unwrap();
    assert_eq!(
        (&claims["sub"], &claims["sid"], &claims["auth"]["method"]),
        (&json!("ada"), &json!(session), &json!("message"))
    );

    let ticket = usher.issue_ticket(&token).await;
    for expected in ["auth_ok", "error"] {
        let mut socket = usher.open("/ws", &[]).await.unwrap();
        socket
            .send(Message::text(json!({"type": "auth", "payload": {"ticket": ticket}}).to_string()))
            .await
            .unwrap();
        let answer = json(&mut socket).await;
        assert_eq!(answer["type"], expected, "a ticket works once");
        if expected == "error" {
            assert_eq!(answer["payload"]["code"], "INVALID_TICKET");
            assert_eq!(close_frame(&mut socket).await, (1008, "Invalid token".to_owned()));
        }
    }
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains(
            "usher_upgrades_total{route=\"/ws\",method=\"message\",outcome=\"accepted\"} 2"
        ),
        "{metrics}"
    );
    assert!(
        metrics.contains("usher_first_message_wait_seconds_count{route=\"/ws\"} 3"),
        "{metrics}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_reason_and_dials_no_upstream() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let expired = usher.token_with("ada", json!({ "exp": token::now() - 60 }));
    let cases = [
        ("hello".to_owned(), 4400, "First message must be auth", "FIRST_MESSAGE_NOT_AUTH"),
        (
            r#"{"type":"chat"}"#.to_owned(),
            4400,
            "First message must be auth",
            "FIRST_MESSAGE_NOT_AUTH",
        ),
        (
            r#"{"type":"auth","id":"m7"}"#.to_owned(),
            4401,
            "Missing auth token",
            "MISSING_CREDENTIAL",
        ),
        (
            r#"{"type":"auth","payload":{"token":"x"}}"#.to_owned(),
            4401,
            "Invalid token",
            "INVALID_TOKEN",
        ),
        (
            json!({"type": "auth", "payload": {"token": expired}}).to_string(),
            4401,
            "Invalid token",
            "INVALID_TOKEN",
        ),
        ("x".repeat(2000), 1009, "First message too big", "FIRST_MESSAGE_TOO_BIG"),
        (String::new(), 4408, "Authentication timeout", "AUTHENTICATION_TIMEOUT"),
    ];
    for (message, http, reason, code) in &cases {
        for (route, expected) in
            [("/ws", if *http > 4000 { 1008 } else { *http }), ("/short", *http)]
        {
            if route == "/ws" && (message.is_empty() || message.len() >= 2000) {
                continue;
            }
            let mut socket = usher.open(route, &[]).await.unwrap();
            if !message.is_empty() {
                socket.send(Message::text(message.clone())).await.unwrap();
            }
            let error = json(&mut socket).await;
            assert_eq!(
                (&error["type"], &error["payload"]["code"]),
                (&json!("error"), &json!(code)),
                "{error}"
            );
            assert_eq!(error["payload"]["request_id"].as_str().unwrap().len(), 32);
            assert!(!message.contains("m7") || error["id"] == "m7", "{error}");
            assert_eq!(
                close_frame(&mut socket).await,
                (expected, (*reason).to_owned()),
                "{message}"
            );
        }
    }
    let mut socket = usher.open("/ws", &[]).await.unwrap();
    socket.send(Message::binary(br#"{"type":"auth"}"#.to_vec())).await.unwrap();
    assert_eq!(json(&mut socket).await["payload"]["code"], "FIRST_MESSAGE_NOT_AUTH");
    assert!(echo.visits().is_empty());
    let audit = usher.finish().await;
    let refused = audit.iter().filter(|line| line["event"] == "upgrade_rejected").count();
    assert_eq!(refused, 2 * cases.len() - 2 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_fragments_are_fine_while_waiting_and_other_frames_are_not() {
    let recorder = Recorder::start(Script::Accept(Vec::new())).await;
    let usher = start(recorder.url()).await;
    let token = usher.token("ada");
    let message = json!({"type": "auth", "payload": {"token": token}}).to_string();
    let (first, second) = message.as_bytes().split_at(20);
    let behind = frame(0x81, b"behind");
    // Byte by byte, and all at once.
    for step in [1, 10_000] {
        let mut raw = Raw::connect(usher.plain).await;
        let wire = [
            upgrade_request("/quiet", "").into_bytes(),
            frame(0x01, first),
            frame(0x89, b"are you there"),
            frame(0x80, second),
            behind.clone(),
        ]
        .concat();
        for piece in wire.chunks(step) {
            raw.send(piece).await;
        }
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
        assert_eq!(raw.read_exactly(15).await, [&[0x8a, 13][..], b"are you there"].concat());
        let arrived =
            || recorder.connections().last().is_some_and(|bytes| bytes.ends_with("behind"));
        eventually("the rest arrives", async || arrived()).await;
        let seen = recorder.connections().pop().unwrap();
        assert!(!seen.contains("auth"), "{seen}");
    }
    // An unmasked frame, a compressed frame without agreement, a continuation of nothing, and
    // reserved opcode 3.
    for bad in
        [&b"\x81\x05hello"[..], b"\xc1\x80\0\0\0\0", b"\x80\x80\0\0\0\0", b"\x83\x80\0\0\0\0"]
    {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send([upgrade_request("/quiet", "").as_bytes(), bad].concat()).await;
        let answer = raw.read_to_close().await;
        let codes = [1002u16.to_be_bytes(), 1008u16.to_be_bytes()];
        assert!(codes.iter().any(|code| answer.windows(2).any(|pair| pair == code)), "{bad:?}");
    }
    // A close frame of the client is answered, as RFC 6455 requires.
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(
        [upgrade_request("/quiet", "").as_bytes(), &frame(0x88, &1001u16.to_be_bytes())].concat(),
    )
    .await;
    raw.read_head().await;
    assert_eq!(raw.read_to_close().await, [0x88, 2, 0x03, 0xe9]);
    assert_eq!(recorder.connections().len(), 2);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_after_the_auth_message_wait_in_order_while_the_upstream_is_dialled() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let mut ledger = Ledger::new(1);
    let (mut sink, mut stream) = usher.open("/quiet", &[]).await.unwrap().split();
    let sizes: Vec<usize> = (0..300).map(|turn| turn * 37 % 20_000).collect();
    let messages: Vec<_> = sizes.iter().map(|&size| ledger.message(size)).collect();
    let first = auth(&usher.token("ada"));
    let send = async move {
        sink.feed(first).await.unwrap();
        for message in messages {
            sink.feed(message).await.unwrap();
        }
        sink.flush().await.unwrap();
        sink
    };
    let receive = async {
        for _ in 0..sizes.len() {
            ledger.receive(
                &timeout(PATIENCE, stream.next()).await.expect("no message came").unwrap().unwrap(),
            );
        }
    };
    let (_sink, ()) = tokio::join!(send, receive);
    assert_eq!(ledger.verdict(), Vec::<String>::new());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_gets_the_message_as_the_route_says() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let token = token::mint("ada", json!({}));
    let sent = json!({"type": "auth", "id": "m1", "payload": {"token": token, "more": 1}});
    for (route, expected) in [
        ("/forward", sent.clone()),
        ("/redact", json!({"type": "auth", "id": "m1", "payload": {"token": "", "more": 1}})),
    ] {
        let mut socket = usher.open(route, &[]).await.unwrap();
        socket.send(Message::text(sent.to_string())).await.unwrap();
        // The answer is the echo of the upstream, and Usher sends none.
        assert_eq!(json(&mut socket).await, expected);
        socket.send(Message::text("next")).await.unwrap();
        assert_eq!(text(&mut socket).await, "next");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_after_the_101_is_explained() {
    let away = format!("http://127.0.0.1:{}", free_port());
    let wrong = Recorder::start(Script::WrongAccept).await;
    let busy =
        Recorder::start(Script::Answer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec()))
            .await;
    for (url, code) in [(away, 1013), (wrong.url(), 1014), (busy.url(), 1014)] {
        let usher = start(url).await;
        let token = usher.token("ada");
        // As raw bytes, because not every client library accepts the code 1014.
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", "")).await;
        raw.read_head().await;
        raw.send(frame(0x81, auth(&token).to_text().unwrap().as_bytes())).await;
        let said = raw.read_to_close().await;
        let (error, close) = said.split_at(said.len() - 24);
        let error: Value = serde_json::from_slice(&error[4..]).unwrap();
        assert_eq!(
            (&error["payload"]["code"], &error["id"]),
            (&json!("UPSTREAM_UNAVAILABLE"), &json!("m1"))
        );
        assert_eq!(
            close,
            [&[0x88, 22][..], &u16::to_be_bytes(code), b"Upstream unavailable"].concat()
        );
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_listed_subprotocol_is_chosen_and_offered_alone() {
    let recorder = Recorder::start(Script::Accept(Vec::new())).await;
    let usher = start(recorder.url()).await;
    let token = usher.token("ada");
    for (offered, chosen) in [("chat.v9, chat.v1, chat.v2", Some("chat.v1")), ("chat.v9", None)] {
        let mut raw = Raw::connect(usher.plain).await;
        let request = upgrade_request("/quiet", &format!("Sec-WebSocket-Protocol: {offered}\r\n"));
        raw.send(request).await;
        let head = raw.read_head().await.to_ascii_lowercase();
        assert_eq!(
            head.contains("sec-websocket-protocol: chat.v1\r\n"),
            chosen.is_some(),
            "{head}"
        );
        assert!(head.contains("x-request-id: "));
        let before = recorder.connections().len();
        raw.send(frame(
            0x81,
            json!({"type": "auth", "payload": {"token": token}}).to_string().as_bytes(),
        ))
        .await;
        eventually("the upstream gets the request", async || recorder.requests() > before).await;
        let seen = recorder.connections().pop().unwrap();
        assert_eq!(
            seen.contains("sec-websocket-protocol: chat.v1\r\n"),
            chosen.is_some(),
            "{seen}"
        );
        assert!(!seen.contains("chat.v9"));
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reject_mode_close_sends_the_refusal_in_a_close_frame() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    for (header, code, reason) in
        [(None, 4401, "Missing auth token"), (Some("Bearer x.y.z"), 4401, "Invalid token")]
    {
        let headers: Vec<_> = header.iter().map(|value| ("authorization", *value)).collect();
        let mut socket = usher.open("/close", &headers).await.unwrap();
        let (told, text) = close_frame(&mut socket).await;
        assert_eq!(told, code);
        let (said, id) = text.split_once(" (").unwrap();
        assert_eq!((said, id.trim_end_matches(')').len()), (reason, 32), "{text}");
        usher.logged(&[id.trim_end_matches(')')]).await;
    }
    // A request that matches no route is refused in HTTP.
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/nowhere", "")).await;
    assert_eq!(Answer::parse(&raw.read_to_close().await).status, 404);
    assert!(echo.visits().is_empty());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_counted_and_limited_by_address() {
    let echo = Echo::start().await;
    let limits = "[limits]\nunauthenticated_per_address = 3\n";
    let usher = Setup::new(echo.url()).routes(ROUTES).extra(limits).start().await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", "")).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
        waiting.push(raw);
    }
    assert_eq!(Raw::connect(usher.plain).await.read_to_close().await, b"");
    let metrics = usher.metrics().await;
    assert!(metrics.contains("usher_unauthenticated_open 3"), "{metrics}");
    assert!(
        metrics.contains("usher_limits_hit_total{limit=\"unauthenticated_per_address\"} 1"),
        "{metrics}"
    );
    // An authenticated client takes no place any more.
    let token = usher.token("ada");
    for mut raw in waiting.drain(..) {
        raw.send(frame(
            0x81,
            json!({"type": "auth", "payload": {"token": token}}).to_string().as_bytes(),
        ))
        .await;
        assert_eq!(raw.read_exactly(1).await, [0x81]);
        let mut more = usher.open("/ws", &[]).await.unwrap();
        more.send(auth(&token)).await.unwrap();
        assert_eq!(json(&mut more).await["type"], "auth_ok");
    }
    usher.finish().await;
}

/// A connection that sent plain HTTP first counts as a stranger like any other when it asks for an
/// upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_no_way_around_the_limit_of_strangers() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[limits]\nunauthenticated_per_address = 3\n")
        .start()
        .await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send("GET /nowhere HTTP/1.1\r\nHost: chat.example.com\r\n\r\n").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 404 "));
    let mut waiting = Vec::new();
    while waiting.len() < 3 {
        let mut other = Raw::connect(usher.plain).await;
        other.send(upgrade_request("/ws", "")).await;
        other.read_head().await;
        waiting.push(other);
    }
    // It was idle after its request, so it gave its place to the last of them.
    let rest = String::from_utf8_lossy(&raw.read_to_close().await).into_owned();
    assert!(rest.ends_with("}") && rest.contains("NO_ROUTE"), "{rest}");
    assert!(
        Raw::connect(usher.plain).await.read_to_close().await.is_empty(),
        "a client that is not idle lost its place"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_first_message_is_not_taken_for_a_renewal() {
    let echo = Echo::start().await;
    for forward in ["forward", "redact"] {
        let routes = format!(
            "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
             first_message = {{ forward = \"{forward}\" }}\nreauth = {{ proactive = true }}\n"
        );
        let usher = Setup::new(echo.url()).routes(&routes).start().await;
        let mut socket = usher.open("/ws", &[]).await.unwrap();
        socket.send(auth(&token::mint("ada", json!({})))).await.unwrap();
        socket.send(Message::text("behind")).await.unwrap();
        assert_eq!(json(&mut socket).await["type"], "auth", "the echo of the upstream");
        assert_eq!(text(&mut socket).await, "behind");
        usher.finish().await;
    }
}

/// Messages of the protocol before the credential count against the limit, in their inflated size.
#[tokio::test(flavor = "multi_thread")]
async fn small_talk_before_the_credential_is_bounded() {
    let echo = Echo::start().await;
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
        first_message = { preset = \"graphql-transport-ws\" }\n";
    let usher = Setup::new(echo.url()).routes(routes).start().await;
    let mut socket = usher.open("/ws", &[]).await.unwrap();
    let mut pongs = 0;
    for _ in 0..2000 {
        let _ = socket.feed(Message::text(r#"{"type":"ping"}"#)).await;
    }
    let _ = socket.flush().await;
    let closed = loop {
        match next(&mut socket).await {
            Some(Ok(Message::Text(text))) if text == r#"{"type":"pong"}"# => pongs += 1,
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(closed, 1009);
    assert!(pongs <= 16 * 1024 / 15, "{pongs}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_limited_by_size_and_by_number_from_their_headers() {
    let echo = Echo::start().await;
    let limits = "[limits]\nmessage_bytes = \"1KiB\"\nmessages_per_second = 20\n";
    let usher = Setup::new(echo.url()).extra(limits).start().await;
    let mut socket = usher.connect("ada").await;
    socket.send(Message::binary(vec![0; 1024])).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap().len(), 1024);
    socket.send(Message::binary(vec![0; 1025])).await.unwrap();
    assert_eq!(close_frame(&mut socket).await, (1009, "Message too big".to_owned()));

    let mut socket = usher.connect("bob").await;
    for _ in 0..40 {
        socket.feed(Message::text("quick")).await.unwrap();
    }
    let _ = socket.flush().await;
    let mut echoed = 0;
    loop {
        match next(&mut socket).await {
            Some(Ok(Message::Text(_))) => echoed += 1,
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(
                    (u16::from(frame.code), frame.reason.as_str()),
                    (1008, "Too many messages")
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(echoed <= 21, "{echoed}");
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains("limit=\"message_bytes\"} 1")
            && metrics.contains("limit=\"messages_per_second\"} 1"),
        "{metrics}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_credentials_in_one_message_let_nobody_in() {
    let echo = Echo::start().await;
    let routes = format!(
        "{ROUTES}\n[[route]]\npath = \"/early\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
         reauth = {{ proactive = true }}\n"
    );
    let usher = Setup::new(echo.url()).routes(&routes).start().await;
    let token = usher.token("ada");
    let ticket = usher.issue_ticket(&token).await;
    let two = |ticket: &Value| {
        json!({"type": "auth", "id": "m1", "payload": {"token": token, "ticket": ticket}})
            .to_string()
    };
    for second in [json!("junk"), json!(ticket), json!(7), json!({})] {
        let mut socket = usher.open("/ws", &[]).await.unwrap();
        socket.send(Message::text(two(&second))).await.unwrap();
        let error = json(&mut socket).await;
        assert_eq!(
            (&error["payload"]["code"], &error["id"]),
            (&json!("TWO_CREDENTIALS"), &json!("m1")),
            "{error}"
        );
        assert_eq!(close_frame(&mut socket).await, (1008, "Invalid token".to_owned()));
    }
    assert!(echo.visits().is_empty());
    // In a renewal, two credentials are a wrong answer. None of these attempts has spent the
    // ticket.
    let mut socket = usher.open("/early", &[]).await.unwrap();
    socket
        .send(auth(&usher.token_with("ada", json!({ "exp": token::now() + 300 }))))
        .await
        .unwrap();
    assert_eq!(json(&mut socket).await["type"], "auth_ok");
    socket.send(Message::text(two(&json!(ticket)))).await.unwrap();
    assert_eq!(json(&mut socket).await["payload"]["code"], "TWO_CREDENTIALS");
    socket
        .send(Message::text(json!({"type": "auth", "payload": {"ticket": ticket}}).to_string()))
        .await
        .unwrap();
    assert_eq!(json(&mut socket).await["type"], "auth_ok");
    assert!(echo.messages().is_empty(), "{:?}", echo.messages());
    let audit = usher.finish().await;
    let refused = audit
        .iter()
        .filter(|line| line["event"] == "upgrade_rejected" && line["outcome"] == "two_credentials")
        .count();
    assert_eq!(refused, 4);
}

/// Keeps a repeated `auth` from the upstream, at once and late, on routes that renew, close or
/// never end a session.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_credential_does_not_reach_the_upstream() {
    let echo = Echo::start().await;
    let route = |path: &str, more: &str| {
        format!("[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = [\"message\"]\n{more}\n")
    };
    let routes = [
        route("/renews", "reauth = { grace = \"1s\" }"),
        route("/closes", "reauth = { mode = \"close\" }"),
        route("/stays", "reauth = { mode = \"off\" }"),
        route("/redacts", "first_message = { forward = \"redact\" }"),
        route("/forwards", "first_message = { forward = \"forward\" }"),
    ];
    let usher = Setup::new(echo.url()).routes(&routes.concat()).start().await;
    let token = token::mint("ada", json!({}));
    let message = json!({"type": "auth", "payload": {"token": token}}).to_string();
    for path in ["/renews", "/closes", "/stays", "/redacts"] {
        let mut socket = usher.open(path, &[]).await.unwrap();
        // The second copy goes out before the answer comes, and a third one later.
        socket.feed(auth(&token)).await.unwrap();
        socket.send(Message::text(message.clone())).await.unwrap();
        let first = json(&mut socket).await;
        assert_eq!(first["type"], if path == "/redacts" { "auth" } else { "auth_ok" }, "{path}");
        // Time has to pass before the third copy.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        socket.send(Message::text(message.clone())).await.unwrap();
        // A message without a credential belongs to the application.
        socket.send(Message::text(r#"{"type":"auth","of":"the application"}"#)).await.unwrap();
        assert_eq!(text(&mut socket).await, r#"{"type":"auth","of":"the application"}"#, "{path}");
    }
    let seen = format!("{:?}", echo.messages());
    assert!(!seen.contains(&token), "{seen}");
    let mut socket = usher.open("/forwards", &[]).await.unwrap();
    for _ in 0..2 {
        socket.send(Message::text(message.clone())).await.unwrap();
        assert_eq!(text(&mut socket).await, message, "on this route the upstream gets the message");
    }
    usher.finish().await;
}
