//! HTTP/2: plain HTTP and WebSockets take the same way as over HTTP/1.1.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use h2::ext::Protocol;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::http2::{
    self, END_STREAM, GOAWAY, HEADERS, RST_STREAM, RawHttp2, Tunnel, connect_request, offering,
};
use crate::support::{Backend, Echo, Http2, Raw, Setup, Usher};

const PATIENCE: Duration = Duration::from_secs(30);
const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header", "subprotocol"]
    [[route]]
    path = "/strict"
    upstream = "chat"
    auth = ["header", "cookie"]
    origins = ["https://chat.example.com"]
    [[route]]
    path = "/close"
    upstream = "chat"
    auth = ["header"]
    reject_mode = "close"
    [[route]]
    path = "/open"
    upstream = "chat"
    auth = []
"#;

fn bearer(usher: &Usher, user: &str) -> String {
    format!("Bearer {}", usher.token(user))
}

async fn next(tunnel: &mut Tunnel) -> Message {
    let next = timeout(PATIENCE, tunnel.next()).await.expect("no message came");
    next.expect("the session has ended").unwrap()
}

async fn echoes(tunnel: &mut Tunnel, message: Message) {
    tunnel.send(message.clone()).await.unwrap();
    assert_eq!(next(tunnel).await, message);
}

/// Reads to the end of the session. Returns the close frame's code and reason.
async fn farewell(tunnel: &mut Tunnel) -> Option<(u16, String)> {
    let mut farewell = None;
    while let Some(Ok(message)) = timeout(PATIENCE, tunnel.next()).await.expect("no end came") {
        if let Message::Close(frame) = message {
            farewell = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
        }
    }
    farewell
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_takes_the_way_of_http_1() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).start().await;
    let mut client = Http2::connect(&usher).await;

    let answer = client.get("/public/hello", &[("x-user-context", "forged")]).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    for gone in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert!(!answer.headers.contains_key(gone), "{gone}: {:?}", answer.headers);
    }
    assert!(answer.headers.contains_key("x-request-id") && answer.headers.contains_key("date"));
    let head = backend.heads().pop().unwrap();
    assert_eq!(
        (&head["host"], &head["x-forwarded-proto"]),
        (&"chat.example.com".parse().unwrap(), &"https".parse().unwrap())
    );
    assert_eq!(head["x-forwarded-for"], "127.0.0.1");
    assert!(!head.contains_key("x-user-context"));

    let large = "x".repeat(1 << 20);
    let answer = client.post("/public/echo", &[], large.as_bytes()).await;
    assert_eq!((answer.status, answer.body.len()), (200, large.len()));
    let answer = client.post("/public/echo", &[("content-length", "5")], b"12345").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "12345"));
    let head = backend.heads().pop().unwrap();
    assert_eq!(head["content-length"], "5");

    let answer = client.get("/public/events", &[]).await;
    assert_eq!(answer.body, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    let answer = client.get("/public/trailers", &[("te", "trailers")]).await;
    assert_eq!((answer.body.as_str(), &answer.headers["x-sum"]), ("body", &"42".parse().unwrap()));
    let head = Http2::request(Method::HEAD, "/public/hello", &[]);
    let (response, _) = client.send(head, true).await.unwrap();
    let answer = http2::read(response).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.headers["content-length"], "5");

    // A server that breaks off in the middle of an answer resets the stream, not the connection.
    let (response, _) =
        client.send(Http2::request(Method::GET, "/public/broken", &[]), true).await.unwrap();
    assert!(http2::read(response).await.is_err());

    let answer = client.get("/api/who", &[]).await;
    assert_eq!(
        (answer.status, &answer.headers["www-authenticate"]),
        (401, &"Bearer".parse().unwrap())
    );
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(problem["request_id"], answer.headers["x-request-id"].to_str().unwrap());
    let token = bearer(&usher, "ada");
    let crumbs = [("authorization", &*token), ("cookie", "a=1"), ("cookie", "b=2")];
    let answer = client.get("/api/who", &crumbs).await;
    assert_eq!(answer.status, 200);
    let head = backend.heads().pop().unwrap();
    assert_eq!(head["cookie"], "a=1; b=2");
    assert!(head.contains_key("x-user-context") && !head.contains_key("authorization"));

    let answer = client.post("/websocket/ticket", &[("authorization", &token)], b"").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let answer = client.get("/.well-known/usher/jwks.json", &[]).await;
    assert!(answer.body.contains("\"keys\""), "{}", answer.body);

    let metrics = usher.metrics().await;
    assert!(
        metrics.contains("usher_connection_protocols_total{protocol=\"http2\"} 1"),
        "{metrics}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_readings_is_refused_and_the_others_go_on() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).start().await;
    let mut client = Http2::connect(&usher).await;
    for headers in [
        &[("host", "other.example.com")][..],
        &[("host", "chat.example.com"), ("host", "chat.example.com")],
        &[("x-padded", " a")],
        &[("content-length", "0"), ("content-length", "0")],
    ] {
        let answer = client.get("/public/hello", headers).await;
        assert_eq!(answer.status, 400, "{headers:?}: {}", answer.body);
    }
    let long = "x".repeat(9000);
    let answer = client.get(&format!("/public/{long}"), &[]).await;
    assert_eq!(answer.status, 431);
    let answer = client.get("/public/hello", &[("x-long", &long), ("x-longer", &long)]).await;
    assert_eq!(answer.status, 431);
    usher.logged(&["request_rejected", "two hosts"]).await;
    assert_eq!(client.get("/public/hello", &[("host", "chat.example.com")]).await.status, 200);
    assert_eq!(backend.heads().len(), 1);

    // The library refuses what HTTP/2 forbids. Only the stream ends.
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let mut stream = 1;
    for field in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        (":path", "/public/other"),
    ] {
        let fields = [&http2::get_fields("/public/hello")[..], &[field]].concat();
        let flags = http2::END_HEADERS | END_STREAM;
        raw.send(&http2::frame(HEADERS, flags, stream, &http2::block(&fields))).await.unwrap();
        assert_eq!(raw.until(RST_STREAM).await.stream, stream, "{field:?}");
        stream += 2;
    }
    // An upgrade too, and each has a line.
    let upgrade = connect_request(stream, "/ws", &[("connection", "upgrade")]);
    raw.send(&upgrade).await.unwrap();
    assert_eq!(raw.until(RST_STREAM).await.stream, stream);
    stream += 2;
    usher.until_metric("usher_malformed_streams_total 6").await;
    usher.logged(&["http2_stream_malformed", "HTTP/2 forbids the head"]).await;
    raw.send(&http2::get(stream, "/public/hello")).await.unwrap();
    assert_eq!(raw.until(HEADERS).await.stream, stream);
    // A name in capital letters cannot be decoded: the library ends the connection.
    let fields = [&http2::get_fields("/public/hello")[..], &[("X-Capital", "a")]].concat();
    let flags = http2::END_HEADERS | END_STREAM;
    raw.send(&http2::frame(HEADERS, flags, stream + 2, &http2::block(&fields))).await.unwrap();
    assert_eq!(raw.goodbye().await, Some(1));
    usher.logged(&["http2_failed", "\"reason\":\"protocol\""]).await;
    assert_eq!(backend.heads().len(), 2);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_is_an_http_1_upgrade_for_the_upstream() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let mut client = Http2::connect(&usher).await;
    let token = bearer(&usher, "ada");
    let offers = [
        ("authorization", &*token),
        ("sec-websocket-protocol", "other, echo.v1"),
        ("x-user-context", "forged"),
        ("origin", "https://chat.example.com"),
    ];
    let (mut socket, headers) = client.open("/ws?room=1", &offers).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "echo.v1");
    for gone in ["sec-websocket-accept", "connection", "upgrade", "content-length"] {
        assert!(!headers.contains_key(gone), "{gone}: {headers:?}");
    }
    for size in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        echoes(&mut socket, Message::text("x".repeat(size))).await;
        echoes(&mut socket, Message::binary(vec![7; size])).await;
    }
    let visit = echo.visits().pop().unwrap();
    assert_eq!(visit.target, "/ws?room=1");
    for (name, value) in [
        ("host", "chat.example.com"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "other, echo.v1"),
        ("x-forwarded-proto", "https"),
        ("origin", "https://chat.example.com"),
    ] {
        assert_eq!(visit.all(name), [value], "{name}");
    }
    assert_eq!(visit.all("sec-websocket-key").len(), 1);
    assert_eq!(visit.all("x-user-context").len(), 1);
    assert_eq!(visit.all("authorization"), [""; 0]);

    // The other ways to show a credential, on the same connection.
    let ticket = usher.issue_ticket(&usher.token("bob")).await;
    let (mut second, _) = client.open(&format!("/ws?ticket={ticket}"), &[]).await.unwrap();
    echoes(&mut second, Message::text("by ticket")).await;
    let (mut third, _) = client.open("/ws", &[]).await.unwrap();
    let auth = json!({"type": "auth", "id": "1", "payload": {"token": usher.token("eve")}});
    third.send(Message::text(auth.to_string())).await.unwrap();
    let accepted: Value =
        serde_json::from_str(&next(&mut third).await.into_text().unwrap()).unwrap();
    assert_eq!(
        (&accepted["type"], &accepted["payload"]["user"]),
        (&"auth_ok".into(), &"eve".into())
    );
    echoes(&mut third, Message::text("by message")).await;
    let protocols = format!("bearer.{}", usher.token("dan"));
    let offer = [("sec-websocket-protocol", &*protocols)];
    let (mut fourth, _) = client.open("/ws", &offer).await.unwrap();
    echoes(&mut fourth, Message::text("by subprotocol")).await;

    usher.until_metric("usher_sessions_active{route=\"/ws\"} 4").await;
    usher.until_metric("usher_streams_open 4").await;
    usher.until_metric("usher_unauthenticated_open 0").await;
    usher.until_metric("usher_connections_open 1").await;
    usher.until_at_least("usher_upgrades_received_total{protocol=\"http2\"}", 4).await;
    for tunnel in [&mut socket, &mut second, &mut third, &mut fourth] {
        tunnel.close(None).await.unwrap();
        farewell(tunnel).await;
    }
    usher.until_metric("usher_streams_open 0").await;
    assert_eq!(client.get("/none", &[]).await.status, 404, "the connection goes on");
    let audit = usher.finish().await;
    let ended = audit.iter().filter(|line| line["event"] == "session_ended").count();
    assert_eq!(ended, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_websocket_ends_its_stream_only() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let mut client = Http2::connect(&usher).await;
    let token = bearer(&usher, "ada");
    let (mut kept, _) = client.open("/ws", &[("authorization", &token)]).await.unwrap();
    let good = ("authorization", &*token);
    for (path, headers, status) in [
        ("/none", &[good][..], 404),
        ("/strict", &[], 401),
        ("/strict", &[("authorization", "Bearer wrong")], 401),
        ("/strict", &[good, ("origin", "https://evil.example.com")], 403),
        ("/ws", &[good, ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")], 400),
        ("/ws", &[good, ("sec-websocket-version", "12")], 426),
        ("/ws", &[good, ("content-length", "4")], 400),
        ("/ws", &[good, ("host", "other")], 400),
    ] {
        let Err(answer) = client.open(path, headers).await else {
            panic!("{path} {headers:?} was accepted")
        };
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.body);
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["request_id"], answer.headers["x-request-id"].to_str().unwrap());
        echoes(&mut kept, Message::text("still here")).await;
    }
    let mut request =
        Http2::request(Method::CONNECT, "/ws", &[good, ("sec-websocket-version", "13")]);
    request.extensions_mut().insert(Protocol::from_static("connect-udp"));
    let (response, _) = client.send(request, false).await.unwrap();
    assert_eq!(http2::read(response).await.unwrap().status, 400);

    // `reject_mode = "close"`, and a wrong first message: 200, and then a close frame.
    let (mut closed, _) = client.open("/close", &[]).await.unwrap();
    let (code, reason) = farewell(&mut closed).await.unwrap();
    assert!(code == 1008 && reason.contains('('), "{code} {reason}");
    let (mut wrong, _) = client.open("/ws", &[]).await.unwrap();
    wrong.send(Message::text("hello")).await.unwrap();
    assert!(next(&mut wrong).await.into_text().unwrap().contains("\"error\""));
    let (code, reason) = farewell(&mut wrong).await.unwrap();
    assert_eq!((code, reason.as_str()), (1008, "First message must be auth"));
    echoes(&mut kept, Message::text("still here")).await;
    assert_eq!(echo.visits().len(), 1, "nothing of a refused client reaches the upstream");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_and_drain_end_sessions_in_good_order() {
    let echo = Echo::start().await;
    let mut usher = Setup::new(echo.url()).routes(ROUTES).drain("2s").start().await;
    let mut client = Http2::connect(&usher).await;
    let open = async |client: &mut Http2, user: &str| {
        let token = bearer(&usher, user);
        client.open("/ws", &[("authorization", &token)]).await.unwrap().0
    };
    let mut ada = open(&mut client, "ada").await;
    let mut bob = open(&mut client, "bob").await;
    echoes(&mut bob, Message::text("here")).await;
    let body = r#"{"user":"ada"}"#;
    let request = format!(
        "POST /revoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = crate::support::client::http(usher.admin, request.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(farewell(&mut ada).await, Some((1008, "Session revoked".to_owned())));
    echoes(&mut bob, Message::text("still here")).await;

    let mut raw = RawHttp2::connect(&usher, &[]).await;
    raw.send(&http2::get(1, "/none")).await.unwrap();
    raw.until(HEADERS).await;
    usher.signal("TERM");
    assert_eq!(farewell(&mut bob).await.unwrap().0, 1001);
    raw.until(GOAWAY).await;
    drop(raw);
    assert!(usher.exit().await.success());
    usher.finish_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_http_2_and_a_plain_one_speak_http_1_alone() {
    let echo = Echo::start().await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = false\n\
        certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]\n";
    let usher = Setup::new(echo.url()).extra(listener).start().await;
    let connector = offering(usher.certificate(), &["h2", "http/1.1"]);
    let tcp = tokio::net::TcpStream::connect(usher.listeners[2]).await.unwrap();
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    let mut raw = Raw::connect(usher.plain).await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = String::from_utf8(raw.read_to_close().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_its_upgrade_leaves_nothing_behind() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    raw.send(&connect_request(1, "/ws", &[])).await.unwrap();
    assert_eq!(raw.until(HEADERS).await.stream, 1);
    usher.until_metric("usher_unauthenticated_open 1").await;
    raw.send(&http2::frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await.unwrap();
    usher.until_metric("usher_streams_open 0").await;
    let token = bearer(&usher, "ada");
    raw.send(&connect_request(3, "/ws", &[("authorization", &token)])).await.unwrap();
    assert_eq!(raw.until(HEADERS).await.stream, 3);
    usher.until_metric("usher_sessions_active{route=\"/ws\"} 1").await;
    raw.0.shutdown().await.unwrap();
    drop(raw);
    usher.until_metric("usher_sessions_active{route=\"/ws\"} 0").await;
    usher.until_metric("usher_streams_open 0").await;
    usher.until_metric("usher_connections_open 0").await;
    usher.finish().await;
}

/// A client that sends faster than its upstream reads, on one of two streams.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_read_stops_its_stream_alone() {
    let echo = Echo::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    // It accepts the upgrade, and reads nothing more.
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = silent.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                tokio::io::AsyncReadExt::read_exact(&mut socket, &mut byte).await.unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
            let accept = usher::ws::accept::accept_for(key.unwrap().as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
            held.push(socket);
        }
    });
    let routes = format!(
        "{ROUTES}[[upstream]]\nname = \"silent\"\nservers = [\"http://{address}\"]\n\
         [[route]]\npath = \"/silent\"\nupstream = \"silent\"\nauth = [\"header\"]\n"
    );
    let usher = Setup::new(echo.url()).routes(&routes).start().await;
    let mut client = Http2::connect(&usher).await;
    let token = bearer(&usher, "ada");
    let (mut good, _) = client.open("/ws", &[("authorization", &token)]).await.unwrap();
    let (mut stuck, _) = client.open("/silent", &[("authorization", &token)]).await.unwrap();
    let before = usher.resident_kib();
    let sending = tokio::spawn(async move {
        // Small messages: each is a frame of its own.
        for _ in 0..2_000_000 {
            if stuck.send(Message::text("0123456789")).await.is_err() {
                return stuck;
            }
        }
        stuck
    });
    for round in 0..200 {
        echoes(&mut good, Message::text(format!("round {round}"))).await;
    }
    let grown = usher.resident_kib().saturating_sub(before);
    assert!(!sending.is_finished(), "the client was not stopped");
    println!("{grown} KiB for a server that does not read");
    assert!(grown < 8 * 1024, "{grown} KiB");
    sending.abort();
    usher.finish().await;
}

/// Many streams on one connection, each with its own messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sessions_share_a_connection_and_the_next_one_waits() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let mut client = Http2::connect(&usher).await;
    let token = bearer(&usher, "ada");
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        tunnels.push(client.open("/ws", &[("authorization", &token)]).await.unwrap().0);
    }
    usher.until_metric("usher_streams_open 100").await;
    for round in 0..3 {
        for (number, tunnel) in tunnels.iter_mut().enumerate() {
            tunnel.send(Message::text(format!("{number} {round}"))).await.unwrap();
        }
        for (number, tunnel) in tunnels.iter_mut().enumerate() {
            assert_eq!(next(tunnel).await, Message::text(format!("{number} {round}")));
        }
    }
    usher.until_metric("usher_connections_open 1").await;
    // The client knows the limit, and waits until a stream is free.
    let authorization = [("authorization", &*token)];
    let opening = client.open("/ws", &authorization);
    let mut tunnel = tunnels.pop().unwrap();
    let closing = async {
        tunnel.close(None).await.unwrap();
        farewell(&mut tunnel).await
    };
    let (opened, _) = tokio::join!(opening, closing);
    echoes(&mut opened.unwrap().0, Message::text("the next one")).await;
    usher.finish().await;
}
