//! The address and the id of a request: the backend, the client, the log and the audit log agree.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::support::client::{self, Answer};
use crate::support::{Raw, Recorder, Script, Setup, Usher, upgrade_request};

const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Request-Id: backend\r\n\r\nok";

/// The headers of a front that terminates TLS. Its client wrote the entries on the left and the
/// other headers itself.
const FRONT: &str = "X-Forwarded-For: 6.6.6.6, 198.51.100.9:4711, 127.0.0.2\r\n\
    X-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: public.example.com\r\nForwarded: \
    for=6.6.6.6;proto=http;host=evil.example.com\r\n\
    X-Real-IP: 6.6.6.6\r\nX-Request-Id: front-1.a_b\r\nx_request_id: evil\r\n";

const CHAIN: &str = "198.51.100.9, 127.0.0.2, 127.0.0.1";

/// Starts Usher with two more listeners: the third trusts this machine, the fourth reads
/// `Forwarded` alone.
async fn behind_a_front(script: Script) -> (Recorder, Usher) {
    let recorder = Recorder::start(script).await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
        trusted_peers = [\"127.0.0.0/8\"]\n";
    let listeners = format!("{listener}{listener}forwarding_header = \"forwarded\"\n");
    let usher = Setup::new(recorder.url()).extra(&listeners).start().await;
    (recorder, usher)
}

fn fields(head: &str, name: &str) -> Vec<String> {
    head.lines()
        .filter_map(|line| {
            Some(line.to_ascii_lowercase().strip_prefix(name)?.strip_prefix(": ")?.to_owned())
        })
        .collect()
}

fn claims(head: &str) -> Value {
    let token = head.lines().find_map(|line| line.strip_prefix("x-user-context: ")).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_front_sets_the_same_client_in_every_header() {
    let (recorder, usher) = behind_a_front(Script::Answer(OK.to_vec())).await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let front = usher.listeners[2];
    let request =
        format!("GET /api/x HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{bearer}{FRONT}\r\n");
    let answer = client::http(front, request.as_bytes()).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("front-1.a_b")));
    let answer = client::attempt(front, "/ws", &format!("{bearer}{FRONT}")).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("front-1.a_b")));
    assert_eq!(recorder.connections().len(), 2);
    for head in recorder.connections() {
        assert_eq!(fields(&head, "x-forwarded-for"), [CHAIN], "{head}");
        assert_eq!(
            (fields(&head, "x-forwarded-proto"), fields(&head, "x-forwarded-host")),
            (vec!["https".into()], vec!["public.example.com".into()])
        );
        let forwarded = "for=198.51.100.9;host=\"public.example.com\";proto=https, for=127.0.0.2, \
            for=127.0.0.1";
        assert_eq!(
            (fields(&head, "forwarded"), fields(&head, "x-real-ip")),
            (vec![forwarded.into()], vec!["198.51.100.9".into()])
        );
        assert_eq!(fields(&head, "x-request-id"), ["front-1.a_b"]);
        assert!(!head.contains("6.6.6.6") && !head.contains("evil"), "{head}");
        let claims = claims(&head);
        assert_eq!(claims["client"], "198.51.100.9");
        assert_ne!(claims["sid"], "front-1.a_b", "the session has the id that a peer chose");
    }
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n\
         Content-Length: 0\r\n{bearer}{FRONT}\r\n"
    );
    let answer = client::http(front, request.as_bytes()).await;
    let ticket: Value = serde_json::from_str(&answer.body).unwrap();
    usher.keep_secret(ticket["ticket_id"].as_str().unwrap());
    assert!(
        ticket["websocket_url"]
            .as_str()
            .unwrap()
            .starts_with("wss://public.example.com/ws?ticket="),
        "{}",
        answer.body
    );
    usher.logged(&["198.51.100.9", "front-1.a_b"]).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_is_read_from_a_trusted_peer() {
    let (recorder, usher) = behind_a_front(Script::Answer(OK.to_vec())).await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let own = "Forwarded: for=6.6.6.6, for=\"198.51.100.9:4711\";proto=https;\
        host=public.example.com\r\nForwarded: for=127.0.0.2\r\n";
    // Usher reads the header that is there. If both are there, it reads the configured one,
    // whatever the client wrote into the other.
    for (listener, sent) in [
        (2, own.to_owned()),
        (3, format!("{own}X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\n")),
    ] {
        let request = format!(
            "GET /api/x HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{bearer}{sent}\r\n"
        );
        assert_eq!(client::http(usher.listeners[listener], request.as_bytes()).await.status, 200);
    }
    assert_eq!(recorder.connections().len(), 2);
    for head in recorder.connections() {
        assert_eq!(
            (fields(&head, "x-forwarded-for"), fields(&head, "x-forwarded-proto")),
            (vec![CHAIN.into()], vec!["https".into()]),
            "{head}"
        );
        assert_eq!(claims(&head)["client"], "198.51.100.9");
        assert!(!head.contains("6.6.6.6"), "{head}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_chooses_neither_its_address_nor_its_request_id() {
    let (recorder, usher) = behind_a_front(Script::Answer(OK.to_vec())).await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let request =
        format!("GET /api/x HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{bearer}{FRONT}\r\n");
    let plain = client::http(usher.plain, request.as_bytes()).await;
    let upgrade = client::attempt(usher.plain, "/ws", &format!("{bearer}{FRONT}")).await;
    for (answer, head) in [plain, upgrade].iter().zip(recorder.connections()) {
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_eq!(
            (fields(&head, "x-request-id"), fields(&head, "x-forwarded-for")),
            (vec![id.clone()], vec!["127.0.0.1".into()]),
            "{head}"
        );
        assert!(
            !head.contains("6.6.6.6") && !head.contains("evil") && !head.contains("front-1"),
            "{head}"
        );
        usher.logged(&[&id]).await;
    }
    // A value that is not a valid id is replaced, even from a trusted peer.
    let odd = request.replace("front-1.a_b", "front 1");
    let answer = client::http(usher.listeners[2], odd.as_bytes()).await;
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_carries_the_same_id_everywhere() {
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["header"]
        [[route]]
        path = "/close"
        upstream = "chat"
        auth = ["header"]
        reject_mode = "close"
        [[route]]
        path = "/message"
        upstream = "chat"
        auth = ["message"]
    "#;
    let recorder = Recorder::start(Script::Accept(Vec::new())).await;
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
        trusted_peers = [\"127.0.0.0/8\"]\n";
    let usher = Setup::new(recorder.url()).routes(routes).extra(trusting).start().await;
    let front = usher.listeners[2];

    let answer = client::attempt(front, "/ws", "X-Request-Id: id-http\r\n").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (answer.status, answer.header("x-request-id"), &body["request_id"]),
        (401, Some("id-http"), &"id-http".into())
    );

    let mut raw = Raw::connect(front).await;
    raw.send(upgrade_request("/close", "X-Request-Id: id-close\r\n")).await;
    assert_eq!(
        Answer::parse(raw.read_head().await.as_bytes()).header("x-request-id"),
        Some("id-close")
    );
    assert!(String::from_utf8_lossy(&raw.read_to_close().await).contains("(id-close)"));

    let mut raw = Raw::connect(front).await;
    raw.send(upgrade_request("/message", "X-Request-Id: id-message\r\n")).await;
    assert_eq!(
        Answer::parse(raw.read_head().await.as_bytes()).header("x-request-id"),
        Some("id-message")
    );
    raw.send(b"\x81\x82\0\0\0\0{}").await;
    let mut frame = vec![0; 2];
    raw.0.read_exact(&mut frame).await.unwrap();
    assert!(
        String::from_utf8_lossy(&raw.read_to_close().await)
            .contains("\"request_id\":\"id-message\"")
    );

    for id in ["id-http", "id-close", "id-message"] {
        usher.logged(&[&format!("\"request_id\":\"{id}\"")]).await;
    }
    let audit = usher.finish().await;
    for id in ["id-http", "id-close", "id-message"] {
        assert_eq!(
            audit.iter().filter(|line| line["request_id"] == id).count(),
            1,
            "{id}: {audit:?}"
        );
    }
}
