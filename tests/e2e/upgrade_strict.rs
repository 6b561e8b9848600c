//! An upgrade has one reading. An ambiguous or malformed request never reaches the upstream.

use crate::support::client::Answer;
use crate::support::{Raw, Recorder, Script, Setup, Usher, eventually, upgrade_request};

async fn usher(script: Script) -> (Recorder, Usher) {
    let recorder = Recorder::start(script).await;
    let usher = Setup::new(recorder.url()).start().await;
    (recorder, usher)
}

/// Sends these bytes and waits for the close. Returns the answer.
async fn answer_to(usher: &Usher, request: &str) -> Answer {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(request).await;
    Answer::parse(&raw.read_to_close().await)
}

fn bearer(usher: &Usher) -> String {
    format!("Authorization: Bearer {}\r\n", usher.token("ada"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_upgrade_is_refused_closed_and_never_forwarded() {
    let (recorder, usher) = usher(Script::Accept(Vec::new())).await;
    let auth = bearer(&usher);
    let good = upgrade_request("/ws", &auth);
    let cases = [
        ("version 777", good.replace("Version: 13", "Version: 777"), 426),
        ("no version", good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426),
        ("no key", good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        ("a short key", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        (
            "two keys",
            upgrade_request(
                "/ws",
                &format!("{auth}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            ),
            400,
        ),
        ("POST", good.replace("GET ", "POST "), 405),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (
            "a version of websocket",
            good.replace("Upgrade: websocket", "Upgrade: websocket/13"),
            400,
        ),
        (
            "a Host with a sign in its port",
            good.replace("Host: chat.example.com", "Host: localhost:+80"),
            400,
        ),
        ("a Host of dots", good.replace("Host: chat.example.com", "Host: .."), 400),
        (
            "h2c beside websocket",
            good.replace("Upgrade: websocket", "Upgrade: websocket, h2c"),
            400,
        ),
        (
            "no Connection: Upgrade",
            good.replace("Connection: Upgrade", "Connection: keep-alive"),
            400,
        ),
        (
            "a length and chunks",
            upgrade_request(
                "/ws",
                &format!("{auth}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
            ),
            400,
        ),
        (
            "a body",
            format!(
                "{}{}",
                upgrade_request("/ws", &format!("{auth}Content-Length: 35\r\n")),
                "x".repeat(35)
            ),
            400,
        ),
        (
            "a chunked body",
            upgrade_request("/ws", &format!("{auth}Transfer-Encoding: chunked\r\n")) + "0\r\n\r\n",
            400,
        ),
        ("two Hosts", upgrade_request("/ws", &format!("{auth}Host: other.example.com\r\n")), 400),
        ("no Host", good.replace("Host: chat.example.com\r\n", ""), 400),
        ("a Host that is not a host", good.replace("Host: chat.example.com", "Host: a b"), 400),
        ("a space before the colon", upgrade_request("/ws", &format!("{auth}X-One : 1\r\n")), 400),
        ("a folded line", upgrade_request("/ws", &format!("{auth}X-One: 1\r\n two\r\n")), 400),
        (
            "a bare line feed",
            upgrade_request("/ws", &format!("{auth}X-One: 1\nX-User-Context: eve\r\n")),
            400,
        ),
        (
            "a bare carriage return",
            upgrade_request("/ws", &format!("{auth}X-One: 1\rX-Two: 2\r\n")),
            400,
        ),
        ("a NUL", upgrade_request("/ws", &format!("{auth}X-One: a\0b\r\n")), 400),
        ("an empty name", upgrade_request("/ws", &format!("{auth}: 1\r\n")), 400),
        ("another host in the target", upgrade_request("http://evil.example.com/ws", &auth), 400),
        ("a dot segment", upgrade_request("/public/../ws", &auth), 400),
        ("an encoded dot segment", upgrade_request("/public/%2e%2e/ws", &auth), 400),
        ("an encoded slash", upgrade_request("/public/..%2fws", &auth), 400),
        ("a backslash", upgrade_request("/public%5c..%5cws", &auth), 400),
        ("a path parameter that hides the route", upgrade_request("/ws;x=1", ""), 400),
        ("an encoded NUL", upgrade_request("/ws%00", &auth), 400),
        ("an expectation", upgrade_request("/ws", &format!("{auth}Expect: 100-continue\r\n")), 400),
        ("two Authorizations", upgrade_request("/ws", &format!("{auth}{auth}")), 400),
    ];
    for (what, request, status) in &cases {
        let answer = answer_to(&usher, request).await;
        assert_eq!(answer.status, *status, "{what}: {}", answer.head);
        assert!(
            answer.head.contains("connection: close") || answer.head.contains("upgrade, close"),
            "{what}: {}",
            answer.head
        );
    }
    assert_eq!(
        recorder.connections().len(),
        0,
        "the upstream was contacted: {:?}",
        recorder.connections()
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_a_refused_upgrade_is_never_read() {
    for answer in [
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (recorder, usher) = usher(Script::Answer(answer.into())).await;
        let behind = "GET /public/secret HTTP/1.1\r\nHost: chat.example.com\r\n\r\n";
        let got = answer_to(&usher, &(upgrade_request("/ws", &bearer(&usher)) + behind)).await;
        assert_eq!(got.status, if answer.contains("426") { 426 } else { 200 });
        assert_eq!(recorder.requests(), 1, "{:?}", recorder.connections());
        assert!(!recorder.connections().concat().contains("secret"));
        // The same after a refusal of Usher itself.
        let got = answer_to(&usher, &(upgrade_request("/ws", "") + behind)).await;
        assert_eq!((got.status, recorder.requests()), (401, 1));
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_another_key_opens_no_tunnel() {
    let (recorder, usher) = usher(Script::WrongAccept).await;
    let behind = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = answer_to(&usher, &(upgrade_request("/ws", &bearer(&usher)) + behind)).await;
    assert_eq!(answer.status, 502);
    assert!(!recorder.connections().concat().contains("smuggled"));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_sees_exactly_one_context_and_it_is_ours() {
    let (recorder, usher) = usher(Script::Accept(Vec::new())).await;
    let spoofs = [
        "X-User-Context: mallory was here\r\n",
        "x_user_context: mallory was here\r\n",
        "X.User.Context: mallory was here\r\n",
        "X-User_Context: mallory was here\r\nX-USER-CONTEXT: mallory was here\r\n",
        "X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_User: mallory was here\r\nX-Real-IP: 6.6.6.6\r\n\
         Forwarded: for=\"mallory was here\"\r\n",
    ];
    for (turn, spoof) in spoofs.iter().enumerate() {
        let nominate = "Connection: X-User-Context, X-Forwarded-For\r\n";
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(
            "/ws?a=1&ticketx=2",
            &format!("{}{spoof}{nominate}", bearer(&usher)),
        ))
        .await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
        let head = recorder.connections()[turn].to_ascii_lowercase();
        assert!(!head.contains("mallory") && !head.contains("6.6.6.6"), "{head}");
        assert_eq!(head.matches("user-context").count(), 1, "{head}");
        assert_eq!(head.matches("x-forwarded-for: 127.0.0.1\r\n").count(), 1, "{head}");
        assert!(!head.contains("authorization"), "{head}");
        assert!(head.starts_with("get /ws?a=1&ticketx=2 http/1.1\r\n"), "{head}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_gone_from_the_target_that_the_upstream_sees() {
    let (recorder, usher) = usher(Script::Accept(Vec::new())).await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(&format!("/ws?room=blue&ticket={ticket}&x=%20"), "")).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
    assert!(recorder.connections()[0].starts_with("GET /ws?room=blue&x=%20 HTTP/1.1\r\n"));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_with_the_upgrade_reach_the_upstream_only_after_its_101() {
    let (recorder, usher) = usher(Script::Silent).await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &bearer(&usher)) + "EARLY-BYTES").await;
    // The upstream has the head and no other bytes.
    eventually("the upstream gets the request", async || recorder.requests() == 1).await;
    assert!(recorder.connections()[0].ends_with("\r\n\r\n"));
    drop(raw);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_come_byte_by_byte_and_a_bad_one_is_answered_before_its_end() {
    let (recorder, usher) = usher(Script::Accept(Vec::new())).await;
    let mut raw = Raw::connect(usher.plain).await;
    for byte in upgrade_request("/ws", &bearer(&usher)).as_bytes() {
        raw.send([*byte]).await;
    }
    assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(recorder.requests(), 1);
    let mut raw = Raw::connect(usher.plain).await;
    for byte in b"GET /ws HTTP/1.1\nHost" {
        raw.send([*byte]).await;
    }
    assert_eq!(Answer::parse(&raw.read_to_close().await).status, 400);
    usher.finish().await;
}
