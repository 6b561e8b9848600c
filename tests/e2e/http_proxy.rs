//! Plain HTTP beside the sockets: bodies stream, connections are kept, and an ambiguous request
//! ends its connection.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::client::{self, Answer};
use crate::support::{Backend, Echo, Raw, Recorder, Script, Setup, Usher, upgrade_request};

async fn start() -> (Backend, Usher) {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).start().await;
    (backend, usher)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_streams_through_both_ways() {
    let (_backend, usher) = start().await;
    const SIZE: usize = 20 * 1024 * 1024;
    let stream = usher.tls_stream().await;
    let (read, mut write) = tokio::io::split(stream);
    let body: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let expected = body.clone();
    let sending = tokio::spawn(async move {
        let head = format!(
            "POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\
             Connection: close\r\n\r\n"
        );
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&body).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    let mut raw = Raw(tokio::io::join(read, tokio::io::sink()));
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let bytes = raw.read_to_close().await;
    let _write = sending.await.unwrap();
    assert_eq!(dechunked(&bytes).len(), expected.len());
    assert!(dechunked(&bytes) == expected, "the bytes differ");
    usher.finish().await;
}

fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_one_by_one_and_trailers_at_the_end() {
    let (_backend, usher) = start().await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send("GET /public/events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(raw.read_head().await.contains("text/event-stream"));
    // The first event arrives while the answer goes on.
    assert_eq!(raw.read_exactly(3 + 9 + 2).await, b"9\r\ndata: 0\n\n\r\n");
    raw.read_exactly(2 * (3 + 9 + 2) + 5).await;
    raw.send(
        "GET /public/trailers HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n",
    )
    .await;
    let answer = Answer::parse(&raw.read_to_close().await);
    assert!(answer.body.ends_with("4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n"), "{}", answer.body);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_is_met_a_head_has_no_body_and_an_error_is_no_clean_end() {
    let (_backend, usher) = start().await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(
        "POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\
        Expect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(raw.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("body").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(raw.read_exactly(4 + 3 + 2 + 5).await, b"4\r\nbody\r\n0\r\n\r\n");

    raw.send("HEAD /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = raw.read_head().await.to_ascii_lowercase();
    assert!(head.contains("content-length: 5") && !head.contains("x-hop"), "{head}");
    raw.send("GET /public/broken HTTP/1.1\r\nHost: x\r\n\r\n").await;
    raw.read_head().await;
    let bytes = raw.read_to_close().await;
    assert_eq!(bytes, b"4\r\nhalf\r\n", "without the last chunk, the client sees the error");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_an_answer_begins_when_the_request_is_out() {
    // The server answers after the whole body, and without it never.
    let server = Recorder::start(Script::AnswerTo("the end")).await;
    let usher =
        Setup::new(server.url()).upstream_lines("answer_timeout = \"1500ms\"").start().await;
    let post = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 8200\r\nConnection: close\r\n\r\n"
        )
    };
    let mut slow = Raw::connect(usher.plain).await;
    slow.send(post("/public/slow")).await;
    for _ in 0..8 {
        // The body takes longer than `answer_timeout`, and each pause is shorter.
        tokio::time::sleep(Duration::from_millis(250)).await;
        slow.send("x".repeat(1024)).await;
    }
    slow.send(" the end").await;
    let head = slow.read_head().await;
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "an upload of two seconds is no fault of the server: {head}"
    );

    let mut unanswered = Raw::connect(usher.plain).await;
    unanswered.send(post("/public/slow") + &"x".repeat(8200)).await;
    assert!(unanswered.read_head().await.starts_with("HTTP/1.1 504 "));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_the_client_s_fault() {
    let server = Recorder::start(Script::AnswerTo("the end")).await;
    let usher =
        Setup::new(server.url()).extra("[limits]\nstall_timeout = \"400ms\"\n").start().await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send("POST /public/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
    let answer = Answer::parse(&raw.read_to_close().await);
    assert!(
        answer.status == 408 && answer.body.contains("BODY_TIMEOUT"),
        "{} {}",
        answer.status,
        answer.body
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let (backend, usher) = start().await;
    // A client connection stays on one thread, and each thread keeps one connection to the backend.
    let mut raw = Raw::connect(usher.plain).await;
    for _ in 0..10 {
        raw.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
        raw.read_head().await;
        assert_eq!(raw.read_exactly(5).await, b"hello");
    }
    assert!(backend.connections() <= 2, "{}", backend.connections());
    drop(raw);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_gets_our_headers_and_not_the_client_s_hop_by_hop_ones() {
    let (backend, usher) = start().await;
    let token = usher.token("ada");
    let request = |path: &str, auth: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: chat.example.com:8443\r\nConnection: close, X-Secret\r\n\
             X-Secret: 1\r\nX_User_Context: eve\r\nX-Forwarded-For: 6.6.6.6\r\nKeep-Alive: 5\r\n\
             {auth}\r\n"
        )
    };
    let answer = client::http(
        usher.plain,
        request("/api/hello", &format!("Authorization: Bearer {token}\r\n")).as_bytes(),
    )
    .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    let heads = backend.heads();
    let head = &heads[0];
    assert_eq!(head.get_all("x-user-context").iter().count(), 1);
    assert_eq!(head["x-user-context"].to_str().unwrap().matches('.').count(), 2);
    assert_eq!(
        (&head["x-forwarded-for"], &head["x-forwarded-host"], &head["x-forwarded-proto"]),
        (
            &"127.0.0.1".parse().unwrap(),
            &"chat.example.com:8443".parse().unwrap(),
            &"http".parse().unwrap()
        )
    );
    for absent in ["x-secret", "x_user_context", "keep-alive", "authorization", "connection"] {
        assert!(!head.contains_key(absent), "{absent}: {head:?}");
    }
    let answer = client::http(usher.plain, request("/api/hello", "").as_bytes()).await;
    assert_eq!((answer.status, backend.heads().len()), (401, 1));
    let answer = client::http(usher.plain, request("/public/hello", "").as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert!(!backend.heads()[1].contains_key("x-user-context"), "a public route has no user");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_request_behind_a_good_one_is_refused_and_ends_the_connection() {
    let (backend, usher) = start().await;
    let good = "POST /public/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\
        body\r\n0\r\n\r\n";
    for bad in [
        "POST /public/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\
         \r\n0\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n",
        "POST /public/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4\r\n\r\nbody",
        "POST /public/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET /public/x HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET http://y/public/x HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let seen = backend.heads().len();
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(good).await;
        raw.read_head().await;
        raw.read_exactly(14).await;
        raw.send(format!("{bad}GET /public/after HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let answer = Answer::parse(&raw.read_to_close().await);
        assert_eq!(
            (answer.status, answer.header("connection")),
            (400, Some("close")),
            "{bad}: {} {}",
            answer.head,
            answer.body
        );
        assert_eq!(backend.heads().len(), seen + 1, "{bad}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_may_follow_on_a_kept_connection() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let token = usher.token("ada");
    let mut raw = Raw::connect(usher.plain).await;
    let ask = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    raw.send(&ask).await;
    let head = raw.read_head().await.to_ascii_lowercase();
    let length: usize = head
        .split("content-length: ")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&raw.read_exactly(length).await).unwrap();
    let ticket = body["ticket_id"].as_str().unwrap();
    usher.keep_secret(ticket);
    raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
    raw.send(b"\x81\x82\0\0\0\0hi").await;
    assert_eq!(raw.read_exactly(4).await, b"\x81\x02hi");
    drop(raw);
    usher.finish().await;
}
