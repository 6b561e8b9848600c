//! Clients without a credential have little memory and little time for their whole life, and never
//! keep other clients out.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::migration::value;
use crate::support::{
    Backend, Echo, Raw, Recorder, Script, Setup, Usher, eventually, upgrade_request,
};

const GET: &str = "GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(30);

const OPEN: &str = "[[route]]\npath = \"/public/*\"\nupstream = \"chat\"\nauth = []\n\
    [[route]]\npath = \"/open\"\nupstream = \"chat\"\nauth = []\n\
    [[route]]\npath = \"/api/*\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
    [[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"message\", \"header\"]\n";

/// Waits until a metric without labels has this value.
async fn metric_is(usher: &Usher, name: &str, figure: &str) {
    usher.until_metric(&format!("{name} {figure}")).await;
}

/// Sends a request and reads its answer. The connection stays open.
async fn ask(raw: &mut Raw, request: &str) {
    raw.send(request).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    raw.read_exactly(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_answers_is_closed_and_the_others_are_served_meanwhile() {
    let body = "x".repeat(8 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let large = Recorder::start(Script::Answer(answer.into_bytes())).await;
    let echo = Echo::start().await;
    let upstream = format!("[[upstream]]\nname = \"large\"\nservers = [\"{}\"]\n", large.url());
    let routes =
        format!("{OPEN}{upstream}[[route]]\npath = \"/large\"\nupstream = \"large\"\nauth = []\n");
    let limits = "[limits]\nconnections = 60\nstall_timeout = \"6s\"\n";
    let usher = Setup::new(echo.url()).routes(&routes).extra(limits).start().await;
    let request = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
    let (before, mut crowd) = (usher.resident_kib(), Vec::new());
    for _ in 0..60 {
        let mut raw = Raw::connect(usher.plain).await;
        // A client without a place is closed, perhaps in the middle of this.
        let _ = raw.0.write_all(request.as_bytes()).await;
        crowd.push(raw);
    }
    // Fifteen of thirty: one address may have half of the places for strangers, which are half of
    // all connections.
    metric_is(&usher, "usher_unauthenticated_open", "15").await;
    let held = usher.resident_kib().saturating_sub(before) / 15;
    println!("{held} KiB for each answer that is not read");
    assert!(held < 512, "{held} KiB for each answer of 8 MiB that is not read");
    // These clients share one address, which may have half of the places for strangers. A client
    // with another address is served.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let mut known = Raw(socket.connect(usher.plain).await.unwrap());
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    known.send(upgrade_request("/ws", &bearer)).await;
    assert!(known.read_head().await.starts_with("HTTP/1.1 101 "));
    metric_is(&usher, "usher_unauthenticated_open", "0").await;
    assert!(usher.metrics().await.contains("usher_limits_hit_total{limit=\"stall_timeout\"}"));
    drop(crowd);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_keeps_its_place_in_plain_http_and_a_resting_one_gives_way() {
    let backend = Backend::start().await;
    let limits =
        "[limits]\nunauthenticated = 2\nunauthenticated_per_address = 2\nstall_timeout = \"1m\"\n";
    let usher = Setup::new(backend.url()).routes(OPEN).extra(limits).start().await;
    let (mut first, mut second) =
        (Raw::connect(usher.plain).await, Raw::connect(usher.plain).await);
    ask(&mut first, GET).await;
    // In the middle of a request it keeps its place, however long the request takes.
    second.send("POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nbod").await;
    assert!(second.read_head().await.starts_with("HTTP/1.1 200 "));
    metric_is(&usher, "usher_unauthenticated_open", "2").await;

    let mut third = Raw::connect(usher.plain).await;
    ask(&mut third, GET).await;
    assert_eq!(first.read_to_close().await, b"", "it was idle, and gave its place away");
    metric_is(&usher, "usher_unauthenticated_displaced_total", "1").await;
    third.send("GET /public/hello HTTP/1.1\r\n").await;
    metric_is(&usher, "usher_unauthenticated_open", "2").await;
    // Neither of the two is idle now. The start of the head may not have arrived yet: then a
    // newcomer takes its place, and is not idle either.
    let mut newcomers = Vec::new();
    eventually("there is no place for a third client", async || {
        let mut newcomer = Raw::connect(usher.plain).await;
        // A newcomer without a place is closed, perhaps before it has sent anything.
        let _ = newcomer.0.write_all(b"GET /public/hello HTTP/1.1\r\n").await;
        newcomers.push(newcomer);
        let limit = "usher_limits_hit_total{limit=\"unauthenticated_per_address\"}";
        value(&usher.metrics().await, limit) > 0
    })
    .await;
    second.send("y!!").await;
    assert_eq!(
        second.read_exactly(3 + 3 + 2 + 3 + 3 + 2 + 5).await,
        b"3\r\nbod\r\n3\r\ny!!\r\n0\r\n\r\n"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_lets_others_wait_gives_way_too() {
    let backend = Backend::start().await;
    let limits =
        "[limits]\nunauthenticated = 2\nunauthenticated_per_address = 2\nstall_timeout = \"6s\"\n";
    let usher = Setup::new(backend.url()).routes(OPEN).extra(limits).start().await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send("POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nbod").await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
        slow.push(raw);
    }
    // A newcomer is refused until Usher has waited for one of them for a second.
    let token = usher.token("ada");
    let request = format!(
        "GET /api/hello HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    eventually("a slow client gives its place away", async || {
        let mut raw = Raw::connect(usher.plain).await;
        // A newcomer without a place may be closed before it has sent anything.
        let _ = raw.0.write_all(request.as_bytes()).await;
        raw.read_to_close().await.starts_with(b"HTTP/1.1 200 ")
    })
    .await;
    metric_is(&usher, "usher_unauthenticated_displaced_total", "1").await;
    let given_way = slow.remove(0).read_to_close().await;
    assert_eq!(
        given_way, b"3\r\nbod\r\n",
        "the first of them lost its place in the middle of its answer"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_gives_the_place_back_until_a_request_comes_without_one() {
    let backend = Backend::start().await;
    let limits =
        "[limits]\nunauthenticated = 1\nunauthenticated_per_address = 1\nstall_timeout = \"1m\"\n";
    let usher = Setup::new(backend.url()).routes(OPEN).extra(limits).start().await;
    let token = usher.token("ada");
    let with_token =
        format!("GET /api/hello HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut known = Raw::connect(usher.plain).await;
    ask(&mut known, &with_token).await;
    metric_is(&usher, "usher_unauthenticated_open", "0").await;
    ask(&mut known, GET).await;
    metric_is(&usher, "usher_unauthenticated_open", "1").await;
    ask(&mut known, &with_token).await;
    metric_is(&usher, "usher_unauthenticated_open", "0").await;

    // While the other client is in the middle of a request, this one gets no place as a stranger.
    let mut busy = Raw::connect(usher.plain).await;
    busy.send("POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nbod").await;
    assert!(busy.read_head().await.starts_with("HTTP/1.1 200 "));
    ask(&mut known, &with_token).await;
    known.send(GET).await;
    let answer = String::from_utf8(known.read_to_close().await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("TOO_MANY_CONNECTIONS"),
        "{answer}"
    );
    busy.send("y!!").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_a_public_route_counts_as_a_stranger_and_a_known_one_does_not() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(OPEN).start().await;
    let open = usher.open("/open", &[]).await.unwrap();
    let _known = usher.connect("ada").await;
    metric_is(&usher, "usher_unauthenticated_open", "1").await;
    drop(open);
    metric_is(&usher, "usher_unauthenticated_open", "0").await;
    // A client whose first message is awaited is a stranger.
    let mut waiting = Raw::connect(usher.plain).await;
    waiting.send(upgrade_request("/ws", "")).await;
    assert!(waiting.read_head().await.starts_with("HTTP/1.1 101 "));
    metric_is(&usher, "usher_unauthenticated_open", "1").await;
    drop(waiting);
    metric_is(&usher, "usher_unauthenticated_open", "0").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_timed_by_its_progress() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url())
        .routes(OPEN)
        .extra("[limits]\nstall_timeout = \"1500ms\"\n")
        .start()
        .await;
    let head = |path: &str, headers: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 16384\r\n\
             Connection: close\r\n\r\n"
        )
    };
    // This client sends all the time, and takes longer than a pause may last.
    let mut steady = Raw::connect(usher.plain).await;
    steady.send(head("/public/echo", "")).await;
    for _ in 0..16 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        steady.send("x".repeat(1024)).await;
    }
    assert!(steady.read_head().await.starts_with("HTTP/1.1 200 "));

    // An authenticated client may be slow. A stranger that sends a few bytes counts as stalled.
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let (mut known, mut stranger) =
        (Raw::connect(usher.plain).await, Raw::connect(usher.plain).await);
    known.send(head("/api/echo", &bearer)).await;
    stranger.send(head("/public/echo", "")).await;
    let trickle = async {
        loop {
            // This pace is what the test is about.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stranger.0.write_all(b"x").await.is_err() {
                break;
            }
            known.send("x").await;
        }
    };
    timeout(PATIENCE, trickle).await.expect("the stranger keeps its place");
    known.send("x").await;
    usher.logged(&["limit_reached", "stall_timeout"]).await;
    // A client that sends nothing at all is disconnected, even if it is authenticated.
    known.read_to_close().await;
    usher.finish().await;
}

const MANY: usize = 300;

/// Starts an Usher with long timeouts and lets some clients connect, so that the cost of the first
/// connections is not counted.
async fn start_patient(echo: &Echo) -> Usher {
    let limits =
        "[limits]\ntls_timeout = \"10m\"\nhead_timeout = \"10m\"\nhandshake_timeout = \"10m\"\n";
    let usher = Setup::new(echo.url()).extra(limits).start().await;
    for number in 0..20 {
        drop(usher.connect(&format!("user-{number}")).await);
    }
    metric_is(&usher, "usher_connections_open", "0").await;
    usher
}

/// Returns the KiB that each of the `MANY` waiting clients needs.
async fn weigh(usher: &Usher, before: usize) -> usize {
    metric_is(usher, "usher_unauthenticated_open", &MANY.to_string()).await;
    usher.resident_kib().saturating_sub(before) / MANY
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_handshake_holds_less_than_the_published_bound() {
    let echo = Echo::start().await;
    let usher = start_patient(&echo).await;
    // A message of 65,535 bytes in records of 16 KiB, of which almost all arrives.
    let mut hello = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    hello.extend(vec![0; 0x4000 - 4]);
    hello.extend([22, 3, 1, 0x40, 0]);
    hello.extend(vec![0; 0x3ff0 - 5]);
    let (before, mut crowd) = (usher.resident_kib(), Vec::new());
    for _ in 0..MANY {
        let mut raw = Raw::connect(usher.tls).await;
        raw.send(&hello).await;
        crowd.push(raw);
    }
    let held = weigh(&usher, before).await;
    assert!((16..64).contains(&held), "{held} KiB for each unfinished handshake");
    println!("{held} KiB for each unfinished handshake");
    drop(crowd);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_head_holds_less_than_the_published_bound() {
    let echo = Echo::start().await;
    let usher = start_patient(&echo).await;
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(15_900));
    let (before, mut crowd) = (usher.resident_kib(), Vec::new());
    for _ in 0..MANY {
        let mut raw = Raw(usher.tls_stream().await);
        raw.send(&head).await;
        crowd.push(raw);
    }
    let held = weigh(&usher, before).await;
    assert!((8..64).contains(&held), "{held} KiB for each unfinished head");
    println!("{held} KiB for each unfinished head");
    drop(crowd);
    usher.finish().await;
}
