//! Attackers over HTTP/2: each is bounded, and costs the others nothing.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING,
    RST_STREAM, RawHttp2, SETTINGS, WINDOW_UPDATE, block, connect_request, frame, get, get_fields,
};
use crate::support::{Backend, Echo, Http2, Raw, Recorder, Script, Setup, Usher, eventually};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["message", "header"]
    [[route]]
    path = "/strict"
    upstream = "chat"
    auth = ["header"]
    [[route]]
    path = "/public/*"
    upstream = "chat"
    auth = []
"#;

async fn usher(extra: &str) -> (Backend, Usher) {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).routes(ROUTES).extra(extra).start().await;
    (backend, usher)
}

/// Sends the bytes again and again, until Usher closes. Returns the code of its GOAWAY, and how
/// often they were sent.
async fn flood(mut raw: RawHttp2, wire: &[u8]) -> (Option<u32>, usize) {
    let mut sent = 0;
    while sent < 100_000 && raw.send(wire).await.is_ok() {
        sent += 1;
    }
    (raw.goodbye().await, sent)
}

async fn is_hit(usher: &Usher, limit: &str) {
    usher.until_at_least(&format!("usher_limits_hit_total{{limit=\"{limit}\"}}"), 1).await;
}

/// A client that behaves is served, and the attackers' connections are gone.
async fn goes_on(usher: &Usher) {
    let mut client = Http2::connect(usher).await;
    assert_eq!(client.get("/public/hello", &[]).await.status, 200);
    usher.until_metric("usher_connections_open 1").await;
    usher.until_metric("usher_streams_open 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_control_frames_end_the_connection() {
    let (_backend, usher) = usher("").await;
    for (name, wire) in [
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("settings with values", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("priority", frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        ("unknown", frame(0x42, 0, 0, &[0; 100])),
        ("window", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
    ] {
        let raw = RawHttp2::connect(&usher, &[]).await;
        let (code, sent) = flood(raw, &wire.repeat(50)).await;
        println!("{name}: {code:?} after {sent} times 50 frames");
        // An attacker that goes on sending may miss the goodbye.
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{name}: {code:?}");
        assert!(sent < 100_000, "{name}");
    }
    is_hit(&usher, "http2_control_frames").await;
    goes_on(&usher).await;
    // An attacker that stops to listen is told why.
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    raw.send(&frame(PING, 0, 0, &[0; 8]).repeat(1100)).await.unwrap();
    assert_eq!(raw.goodbye().await, Some(ENHANCE_YOUR_CALM));
    usher.logged(&["limit_reached", "http2_control_frames"]).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let (backend, usher) = usher("").await;
    let cancel = 8u32.to_be_bytes();
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let mut stream = 1;
    let mut sent = 0;
    'attack: loop {
        let mut wire = Vec::new();
        for _ in 0..20 {
            wire.extend(get(stream, "/public/hello"));
            wire.extend(frame(RST_STREAM, 0, stream, &cancel));
            stream += 2;
        }
        if raw.send(&wire).await.is_err() {
            break 'attack;
        }
        sent += 20;
        assert!(sent < 100_000, "the attacker is served for ever");
    }
    println!("closed after {sent} resets; the upstream saw {} requests", backend.heads().len());
    assert!(backend.heads().len() < 1000);
    goes_on(&usher).await;

    // Slowly enough for each request to be looked at: the rate ends it.
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let mut code = None;
    for number in 0..400u32 {
        let stream = 2 * number + 1;
        let wire = [get(stream, "/public/hello"), frame(RST_STREAM, 0, stream, &cancel)].concat();
        if raw.send(&wire).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        if number % 5 == 0 {
            // A ping that is answered shows that Usher has read so far.
            let ping = [&number.to_be_bytes()[..], &[0; 4]].concat();
            if raw.send(&frame(PING, 0, 0, &ping)).await.is_err() {
                break;
            }
            while let Some(frame) = raw.next().await {
                if frame.kind == PING {
                    break;
                }
                if frame.kind == GOAWAY {
                    code = frame.payload.get(7).copied();
                    break;
                }
            }
            if code.is_some() {
                break;
            }
        }
    }
    assert!(code.is_none_or(|code| u32::from(code) == ENHANCE_YOUR_CALM), "{code:?}");
    is_hit(&usher, "http2_resets").await;
    goes_on(&usher).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_ends_the_connection() {
    let (_backend, usher) = usher("[limits]\nhead_timeout = \"1s\"\n").await;
    // Many small pieces, and few large ones.
    for piece in [block(&[("x-a", "b")]), block(&[("x-a", &"b".repeat(12_000))]), Vec::new()] {
        let mut raw = RawHttp2::connect(&usher, &[]).await;
        let begin = frame(HEADERS, 0, 1, &block(&get_fields("/public/hello")));
        raw.send(&begin).await.unwrap();
        let (_, sent) = flood(raw, &frame(CONTINUATION, 0, 1, &piece)).await;
        println!("{} bytes: closed after at most {sent} frames", piece.len());
        assert!(sent < 100_000);
    }
    is_hit(&usher, "head_bytes").await;
    // A head that never ends is a head that is late.
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    raw.send(&frame(HEADERS, 0, 1, &block(&get_fields("/public/hello")))).await.unwrap();
    assert!(raw.goodbye().await.is_some());
    goes_on(&usher).await;
    usher.finish().await;
}

/// A head of a few bytes that is large when it is decoded: one field in the table, repeated by its
/// index.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_bomb_is_refused() {
    let (backend, usher) = usher("").await;
    let before = usher.resident_kib();
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let value = "v".repeat(3900);
    let mut fields = block(&get_fields("/public/hello"));
    // RFC 7541 section 6.2.1: a literal that goes into the table, at index 62.
    let mut entry = block(&[("x-bomb", &value)]);
    entry[0] = 0x40;
    fields.extend(entry);
    fields.extend([0x80 | 62; 12_000]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)).await.unwrap();
    // 47 MB in 16 KB: the connection ends. A smaller one is answered with 431.
    assert!(raw.goodbye().await.is_some());
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let mut fields = block(&get_fields("/public/hello"));
    let mut entry = block(&[("x-bomb", &value)]);
    entry[0] = 0x40;
    fields.extend(entry);
    fields.extend([0x80 | 62; 5]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)).await.unwrap();
    let answer = raw.until(HEADERS).await;
    assert_eq!(answer.stream, 1);
    raw.send(&get(3, "/public/hello")).await.unwrap();
    assert_eq!(raw.until(HEADERS).await.stream, 3, "the connection goes on");
    drop(raw);
    assert_eq!(backend.heads().len(), 1);
    let grown = usher.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    goes_on(&usher).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_small_data_frames_ends_the_connection() {
    let (_backend, usher) = usher("[limits]\nhandshake_timeout = \"4s\"\n").await;
    for (name, payload) in [("empty", &b""[..]), ("one byte", b"x")] {
        let mut raw = RawHttp2::connect(&usher, &[]).await;
        raw.send(&connect_request(1, "/ws", &[])).await.unwrap();
        raw.until(HEADERS).await;
        let (code, sent) = flood(raw, &frame(DATA, 0, 1, payload).repeat(20)).await;
        println!("{name}: {code:?} after {sent} times 20 frames");
        assert!(sent < 100_000, "{name}");
    }
    goes_on(&usher).await;
    usher.finish().await;
}

/// A client that gives Usher no room for its answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_tiny_windows_that_reads_nothing_is_closed() {
    let body = "x".repeat(8 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let large = Recorder::start(Script::Answer(answer.into_bytes())).await;
    let limits = "[limits]\nstall_timeout = \"2s\"\nhttp_idle_timeout = \"2s\"\n";
    let usher = Setup::new(large.url()).routes(ROUTES).extra(limits).start().await;
    let before = usher.resident_kib();
    let requests: Vec<u8> =
        (0..30).flat_map(|number| get(2 * number + 1, "/public/large")).collect();
    let mut crowd = Vec::new();
    // No room at all, one byte, and much room that is not read from the socket.
    for window in [0, 1, 0x7fff_ffff] {
        let mut raw = RawHttp2::connect(&usher, &[(4, window)]).await;
        if window > 1 {
            let more = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
            raw.send(&more).await.unwrap();
        }
        raw.send(&requests).await.unwrap();
        crowd.push(raw);
    }
    let mut most = 0;
    eventually("the answers that are not read end", async || {
        most = most.max(usher.resident_kib().saturating_sub(before));
        let metrics = usher.metrics().await;
        large.requests() >= 90
            && metrics.contains("usher_streams_open 0")
            && metrics.contains("usher_connections_open 0")
    })
    .await;
    println!("at most {most} KiB for 90 answers of 8 MiB that are not read");
    assert!(most < 90 * 512, "{most} KiB");
    is_hit(&usher, "stall_timeout").await;
    drop(crowd);
    usher.finish().await;
}

/// Each stream counts as a stranger of its address, also beside an authenticated one.
#[tokio::test(flavor = "multi_thread")]
async fn idle_streams_are_strangers_also_beside_a_session() {
    let echo = Echo::start().await;
    let limits = "[limits]\nunauthenticated = 40\nunauthenticated_per_address = 10\n\
        handshake_timeout = \"15s\"\n";
    let usher = Setup::new(echo.url()).routes(ROUTES).extra(limits).start().await;
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let bearer = format!("Bearer {}", usher.token("ada"));
    raw.send(&connect_request(1, "/ws", &[("authorization", &bearer)])).await.unwrap();
    assert_eq!(raw.until(HEADERS).await.stream, 1);
    usher.until_metric("usher_unauthenticated_open 0").await;
    // Upgrades that never send their first message: ten get a place, the others are refused.
    let mut accepted = Vec::new();
    let mut refused = Vec::new();
    for number in 1..=30 {
        raw.send(&connect_request(2 * number + 1, "/ws", &[])).await.unwrap();
    }
    while accepted.len() + refused.len() < 30 {
        let frame = raw.next().await.unwrap();
        match frame.kind {
            HEADERS => accepted.push(frame.stream),
            RST_STREAM => {
                assert_eq!(frame.payload, 7u32.to_be_bytes(), "REFUSED_STREAM");
                refused.push(frame.stream);
            }
            _ => {}
        }
    }
    assert_eq!((accepted.len(), refused.len()), (10, 20), "{accepted:?} {refused:?}");
    usher.until_metric("usher_unauthenticated_open 10").await;
    is_hit(&usher, "unauthenticated_per_address").await;
    // They take the places of their address on HTTP/1.1 as well, and of no other address.
    let mut here = Raw::connect(usher.plain).await;
    assert_eq!(here.read_to_close().await, b"");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let mut other = Raw(socket.connect(usher.plain).await.unwrap());
    other.send("GET /none HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(other.read_head().await.starts_with("HTTP/1.1 404 "));
    drop(other);
    // The first messages never came: their streams end, and the session goes on.
    usher.until_metric("usher_streams_open 1").await;
    usher.until_metric("usher_unauthenticated_open 0").await;
    usher.until_metric("usher_sessions_active{route=\"/ws\"} 1").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_grant_ends_like_any_stranger() {
    let limits = "[limits]\nhead_timeout = \"1s\"\nhttp_idle_timeout = \"1s\"\n\
        unauthenticated = 2\nunauthenticated_per_address = 2\nhttp2_streams = 5\n";
    let (_backend, usher) = usher(limits).await;
    // No preface, and no request.
    let silent = crate::support::http2::connect(&usher).await;
    usher.until_metric("usher_connections_open 1").await;
    usher.until_metric("usher_connections_open 0").await;
    drop(silent);
    let raw = RawHttp2::connect(&usher, &[]).await;
    assert_eq!(raw.goodbye().await, Some(0));
    // Idle after a request.
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    raw.send(&get(1, "/public/hello")).await.unwrap();
    raw.until(HEADERS).await;
    assert_eq!(raw.goodbye().await, Some(0));
    for limit in ["head_timeout", "http_idle_timeout"] {
        usher.until_at_least(&format!("usher_limits_hit_total{{limit=\"{limit}\"}}"), 1).await;
    }
    // Refused upgrades without end.
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let mut goodbye = None;
    for number in 0..20 {
        let stream = 2 * number + 1;
        if raw.send(&connect_request(stream, "/strict", &[])).await.is_err() {
            break;
        }
        while let Some(frame) = raw.next().await {
            if frame.kind == GOAWAY {
                goodbye = Some(number);
            }
            if frame.kind == DATA && frame.stream == stream {
                break;
            }
        }
        if goodbye.is_some() {
            break;
        }
    }
    assert!(goodbye.is_some_and(|number| number < 10), "{goodbye:?}");
    drop(raw);
    usher.until_metric("usher_connections_open 0").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resting_connection_gives_its_place_to_a_newcomer() {
    let limits = "[limits]\nunauthenticated = 2\nunauthenticated_per_address = 2\n\
        http_idle_timeout = \"1m\"\n";
    let (_backend, usher) = usher(limits).await;
    let mut resting = Vec::new();
    for _ in 0..2 {
        let mut raw = RawHttp2::connect(&usher, &[]).await;
        raw.send(&get(1, "/public/hello")).await.unwrap();
        raw.until(HEADERS).await;
        resting.push(raw);
    }
    usher.until_metric("usher_unauthenticated_open 2").await;
    usher.until_metric("usher_streams_open 0").await;
    let mut newcomer = Http2::connect(&usher).await;
    assert_eq!(newcomer.get("/public/hello", &[]).await.status, 200);
    usher.until_at_least("usher_unauthenticated_displaced_total", 1).await;
    assert_eq!(resting.remove(0).goodbye().await, Some(0));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_gives_its_place_to_a_newcomer() {
    let limits =
        "[limits]\nunauthenticated = 2\nunauthenticated_per_address = 2\nstall_timeout = \"6s\"\n";
    let (_backend, usher) = usher(limits).await;
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "chat.example.com"),
        (":path", "/public/echo"),
    ];
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut raw = RawHttp2::connect(&usher, &[]).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).await.unwrap();
        raw.send(&frame(DATA, 0, 1, b"bod")).await.unwrap();
        raw.until(HEADERS).await;
        slow.push(raw);
    }
    let token = usher.token("ada");
    let request = format!(
        "GET /strict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    eventually("a slow upload gives its place away", async || {
        let mut raw = Raw::connect(usher.plain).await;
        // A newcomer without a place may be closed before it has sent anything.
        let _ = raw.0.write_all(request.as_bytes()).await;
        raw.read_to_close().await.starts_with(b"HTTP/1.1 ")
    })
    .await;
    usher.until_at_least("usher_unauthenticated_displaced_total", 1).await;
    assert_eq!(slow.remove(0).until(RST_STREAM).await.stream, 1);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_find_no_place_end_the_connection() {
    let limits = "[limits]\nunauthenticated_per_address = 1\nhttp2_streams = 5\n";
    let (_backend, usher) = usher(limits).await;
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    raw.send(&connect_request(1, "/ws", &[])).await.unwrap();
    raw.until(HEADERS).await;
    for number in 1..=5 {
        raw.send(&connect_request(2 * number + 1, "/ws", &[])).await.unwrap();
        assert_eq!(raw.until(RST_STREAM).await.payload, 7u32.to_be_bytes(), "REFUSED_STREAM");
    }
    raw.send(&connect_request(13, "/ws", &[])).await.unwrap();
    assert_eq!(raw.goodbye().await, Some(ENHANCE_YOUR_CALM));
    usher.until_at_least("usher_protocol_failures_total{reason=\"flood\"}", 1).await;
    usher.finish().await;
}

/// More streams than the limit: the library refuses them, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded() {
    let (_backend, usher) = usher("[limits]\nhttp2_streams = 3\n").await;
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    for number in 0..10 {
        raw.send(&connect_request(2 * number + 1, "/ws", &[])).await.unwrap();
    }
    let (mut accepted, mut refused) = (0, 0);
    while accepted + refused < 10 {
        match raw.next().await.unwrap().kind {
            HEADERS => accepted += 1,
            RST_STREAM => refused += 1,
            _ => {}
        }
    }
    assert_eq!((accepted, refused), (3, 7));
    is_hit(&usher, "http2_streams").await;
    usher.until_metric("usher_streams_open 3").await;
    drop(raw);
    goes_on(&usher).await;
    usher.finish().await;
}

/// Streams count as connections.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_on_one_connection_count_under_the_ceiling() {
    let echo = Echo::start().await;
    let limits = "[limits]\nconnections = 4\n";
    let usher = Setup::new(echo.url()).routes(ROUTES).extra(limits).start().await;
    let mut raw = RawHttp2::connect(&usher, &[]).await;
    let bearer = format!("Bearer {}", usher.token("ada"));
    let mut refused = 0;
    let mut accepted = 0;
    for number in 0..8 {
        let wire = connect_request(2 * number + 1, "/strict", &[("authorization", &bearer)]);
        raw.send(&wire).await.unwrap();
        loop {
            match raw.next().await.unwrap().kind {
                HEADERS => accepted += 1,
                RST_STREAM => refused += 1,
                _ => continue,
            }
            break;
        }
    }
    assert_eq!((accepted, refused), (4, 4));
    is_hit(&usher, "connections").await;
    usher.finish().await;
}

/// Connections that open streams and leave.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go_leave_nothing() {
    let (_backend, usher) = usher("").await;
    for _ in 0..100 {
        let mut raw = RawHttp2::connect(&usher, &[]).await;
        for number in 0..10 {
            let wire =
                [get(4 * number + 1, "/public/hello"), connect_request(4 * number + 3, "/ws", &[])];
            if raw.send(&wire.concat()).await.is_err() {
                break;
            }
        }
    }
    eventually("all are gone", async || {
        let metrics = usher.metrics().await;
        ["usher_connections_open 0", "usher_streams_open 0", "usher_unauthenticated_open 0"]
            .iter()
            .all(|line| metrics.contains(line))
    })
    .await;
    goes_on(&usher).await;
    usher.finish().await;
}
