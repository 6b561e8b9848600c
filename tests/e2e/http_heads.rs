//! The heads and bodies that a client sends, and the part of them that the backend gets.

use crate::support::client;
use crate::support::{Backend, Raw, Recorder, Script, Setup, Usher, upgrade_request};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

async fn recorded() -> (Recorder, Usher) {
    let recorder = Recorder::start(Script::Answer(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).start().await;
    (recorder, usher)
}

/// Returns all bytes that the upstream got, in lower case.
fn seen(recorder: &Recorder) -> String {
    recorder.connections().concat().to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_s_trailers_end_at_usher() {
    let (recorder, usher) = recorded().await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    for (path, auth) in [("/public/x", ""), ("/api/x", bearer.as_str())] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{auth}Transfer-Encoding: chunked\r\n\
             Connection: close, TE\r\nTE: trailers\r\n\
             Trailer: X-User-Context, X-User-Id, X-Forwarded-For\r\n\
             Trailer: Cookie, x_user_context, X-Sum\r\n\r\n\
             4\r\nbody\r\n0\r\nX-User-Context: mallory\r\nx_user_context: mallory\r\n\
             X-User-Id: mallory\r\n\
             X-Forwarded-For: 6.6.6.6\r\nCookie: session=mallory\r\nX-Sum: mallory\r\n\r\n"
        );
        let answer = client::http(usher.plain, request.as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{path}");
    }
    let seen = seen(&recorder);
    assert_eq!(seen.matches("4\r\nbody\r\n0\r\n\r\n").count(), 2, "{seen}");
    assert!(
        !seen.contains("mallory") && !seen.contains("6.6.6.6") && !seen.contains("trailer:"),
        "{seen}"
    );
    assert_eq!(
        seen.matches("te: trailers\r\n").count(),
        2,
        "the client takes an answer's trailers: {seen}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailer_section_that_is_no_list_of_fields_ends_the_connection() {
    let (recorder, usher) = recorded().await;
    for trailer in
        ["X-Sum: 1\r\n folded", "X-Sum: a\0b", "X-Sum: a\nX-User-Id: b", ": 1", " X-Sum: 1"]
    {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(format!(
            "POST /public/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\
             \r\n4\r\nbody\r\n0\r\n{trailer}\r\n\r\n"
        ))
        .await;
        // The upstream may have answered before the end of the body. The connection must end in any
        // case.
        raw.read_to_close().await;
    }
    assert!(!seen(&recorder).contains("x-sum"));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_header_removes_no_header_that_usher_checked() {
    let (recorder, usher) = recorded().await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let judged = "Origin: https://app.example.com\r\nSec-WebSocket-Protocol: chat\r\n\
        Cookie: a=b\r\nX-Hop: 1\r\n\
        Connection: Origin, Host, Sec-WebSocket-Protocol, Sec-WebSocket-Key, \
        Sec-WebSocket-Version, Cookie, X-Hop\r\n\
        Connection: X-User-Context, X-Forwarded-For, X-Forwarded-Host, Forwarded, Content-Length, \
        X-Request-Id\r\n";
    let upgrade = client::attempt(usher.plain, "/ws", &format!("{bearer}{judged}")).await;
    assert_eq!(upgrade.status, 200, "the answer of an upstream that does not switch goes through");
    let request = format!(
        "POST /api/x HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\
         Content-Length: 2\r\n{bearer}{judged}\r\nhi"
    );
    assert_eq!(client::http(usher.plain, request.as_bytes()).await.status, 200);
    let connections = recorder.connections();
    assert_eq!(connections.len(), 2);
    for head in &connections {
        let head = head.to_ascii_lowercase();
        for kept in [
            "origin: https://app.example.com",
            "host: chat.example.com",
            "cookie: a=b",
            "sec-websocket-protocol: chat",
        ] {
            assert_eq!(head.matches(&format!("\r\n{kept}\r\n")).count(), 1, "{kept}: {head}");
        }
        assert!(
            head.contains("x-user-context: ey") && head.contains("x-forwarded-for: 127.0.0.1\r\n"),
            "{head}"
        );
        assert!(!head.contains("x-hop"), "{head}");
    }
    let (upgrade, plain) =
        (connections[0].to_ascii_lowercase(), connections[1].to_ascii_lowercase());
    assert!(
        upgrade.contains("sec-websocket-key: dghl")
            && upgrade.contains("sec-websocket-version: 13\r\n"),
        "{upgrade}"
    );
    assert!(plain.contains("content-length: 2\r\n") && plain.ends_with("\r\n\r\nhi"), "{plain}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_anything_but_websocket_is_ignored() {
    let (recorder, usher) = recorded().await;
    let h2c = "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    for (request, status) in [
        (format!("GET /public/x HTTP/1.1\r\nHost: x\r\n{h2c}\r\n"), 200),
        (format!("POST /public/x HTTP/1.1\r\nHost: x\r\n{h2c}Content-Length: 4\r\n\r\nbody"), 200),
        (format!("GET /api/x HTTP/1.1\r\nHost: x\r\n{h2c}\r\n"), 401),
    ] {
        assert_eq!(client::http(usher.plain, request.as_bytes()).await.status, status, "{request}");
    }
    let token = usher.token("ada");
    assert_eq!(usher.ask_ticket(&token, "", &h2c.replace(", close", "")).await.0, 201);
    // Without the word `websocket`, the handshake of a WebSocket is not an upgrade.
    let plain = upgrade_request("/public/x", "").replace("Upgrade: websocket", "Upgrade: h2c");
    assert_eq!(
        client::http(
            usher.plain,
            plain.replace("Connection: Upgrade", "Connection: Upgrade, close").as_bytes()
        )
        .await
        .status,
        200
    );
    let seen = seen(&recorder);
    assert!(
        !seen.contains("upgrade:") && !seen.contains("h2c") && !seen.contains("http2-settings"),
        "{seen}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_one_grammar() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).start().await;
    for host in [
        "localhost:+80",
        "..",
        ".",
        "a..b",
        "localhost:",
        "localhost:0",
        "localhost:99999",
        "a b",
        "a,b",
        "1.2.3",
        "0x7f.1",
        "[::1",
    ] {
        let request =
            format!("GET /public/hello HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(client::http(usher.plain, request.as_bytes()).await.status, 400, "{host}");
    }
    for host in ["localhost:80", "LOCALHOST", "chat.example.com.", "127.0.0.1:8080", "[::1]:443"] {
        let request =
            format!("GET /public/hello HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(client::http(usher.plain, request.as_bytes()).await.status, 200, "{host}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_without_a_host_takes_the_routes_without_hosts() {
    let recorder = Recorder::start(Script::Answer(OK.to_vec())).await;
    let routes = r#"
        [[route]]
        path = "/*"
        upstream = "chat"
        auth = []
        [[route]]
        path = "/only"
        hosts = ["chat.example.com"]
        upstream = "chat"
        auth = ["header"]
    "#;
    let usher = Setup::new(recorder.url()).routes(routes).start().await;
    let ask = async |head: &str| {
        client::http(usher.plain, format!("{head}\r\n\r\n").as_bytes()).await.status
    };
    assert_eq!(ask("OPTIONS / HTTP/1.0").await, 200);
    assert_eq!(ask("GET /only HTTP/1.0").await, 200);
    assert_eq!(ask("GET /only HTTP/1.0\r\nHost: chat.example.com").await, 401);
    assert_eq!(ask("GET http://chat.example.com/only HTTP/1.0").await, 401);
    assert_eq!(ask("GET http://..:+1/only HTTP/1.0").await, 400);
    assert_eq!(ask("OPTIONS * HTTP/1.0").await, 404);
    assert_eq!(ask("OPTIONS / HTTP/1.1\r\nConnection: close").await, 400);
    assert_eq!(recorder.connections().len(), 2);
    for head in recorder.connections() {
        let head = head.to_ascii_lowercase();
        // The request to the upstream is HTTP/1.1 and needs a Host. The only name that Usher knows
        // is the address of the upstream.
        assert!(
            head.contains(&format!("host: {}\r\n", recorder.address))
                && !head.contains("x-forwarded-host"),
            "{head}"
        );
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_asked_for_by_name_and_never_by_position() {
    let (_recorder, usher) = recorded().await;
    let token = usher.token("ada");
    for body in [
        "[]",
        "[60]",
        "[null,null,null,null]",
        "[60,true,[],\"/ws\"]",
        r#"{"ttl_seconds":5,"ttl_seconds":60}"#,
        "null",
        "\"\"",
        "1",
    ] {
        let (status, answer) = usher.ask_ticket(&token, body, "").await;
        assert_eq!(
            (status, answer["code"].as_str()),
            (400, Some("INVALID_REQUEST")),
            "{body}: {answer}"
        );
    }
    assert_eq!(usher.ask_ticket(&token, r#" {"ttl_seconds":5} "#, "").await.0, 201);
    usher.finish().await;
}
