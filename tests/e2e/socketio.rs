//! The example for Socket.IO, with the configuration that its page shows: by WebSocket, by polling,
//! and with an upgrade from polling.

use std::process::{Command, Output};

use crate::documents::Page;
use crate::support::client::{self, Answer};
use crate::support::redis::free_port;
use crate::support::{Program, Setup, Usher};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/socketio");

/// The server needs the address of the keys and Usher that of the server, so the port of the server
/// is chosen first.
async fn start() -> (Usher, Program, u16) {
    let port = free_port();
    let blocks = Page::named("docs/live-auth.md").blocks("toml");
    let shown = blocks
        .iter()
        .find(|block| block.text.contains("/socket.io/"))
        .expect("the page shows a configuration");
    let usher = Setup::new(format!("http://127.0.0.1:{port}")).routes(&shown.text).start().await;
    let keys = format!("http://{}/.well-known/usher/jwks.json", usher.plain);
    let server = Program::node(&[&format!("{FOLDER}/server.mjs"), &port.to_string(), &keys]).await;
    (usher, server, port)
}

/// Runs the client of the example over TLS.
async fn client(usher: &Usher, transports: &'static str, token: &str) -> (Option<i32>, String) {
    let mut command = Command::new("node");
    command
        .args(["client.mjs", &format!("https://localhost:{}", usher.tls.port()), transports])
        .current_dir(FOLDER);
    command.env("TOKEN", token).env("NODE_EXTRA_CA_CERTS", usher.certificate_path());
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_talks_over_each_transport_and_is_refused_on_each() {
    let (usher, _server, _) = start().await;
    for (transports, last, refusal) in [
        ("websocket", "websocket", "INVALID_TOKEN"),
        ("polling", "polling", "401"),
        ("polling,websocket", "websocket", "401"),
    ] {
        let (code, said) = client(&usher, transports, &usher.token("ada")).await;
        assert_eq!(
            (code, said),
            (Some(0), format!("ada: hello by {last}\nauthenticated as ada\n")),
            "{transports}"
        );
        let (code, said) = client(&usher, transports, "x.y.z").await;
        assert_eq!((code, said), (Some(1), format!("refused: {refusal}\n")), "{transports}");
    }
    usher.finish().await;
}

/// Sends a GET of the polling transport, to Usher or directly to the server.
async fn poll(address: std::net::SocketAddr, query: &str, header: &str) -> Answer {
    let request = format!(
        "GET /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: localhost\r\n\
         {header}Connection: close\r\n\r\n"
    );
    client::http(address, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_s_server_believes_the_signed_header_alone_and_keeps_sessions_apart() {
    let (usher, _server, port) = start().await;
    let bearer = |subject: &str| format!("Authorization: Bearer {}\r\n", usher.token(subject));
    let opened = poll(usher.plain, "", &bearer("ada")).await;
    let packet =
        opened.body.get(opened.body.find('{').unwrap()..).unwrap().split('}').next().unwrap();
    let packet: serde_json::Value = serde_json::from_str(&format!("{packet}}}")).unwrap();
    let session = format!("&sid={}", packet["sid"].as_str().unwrap());

    let around = ([127, 0, 0, 1], port).into();
    for header in ["", &bearer("ada"), "X-User-Context: x.y.z\r\n"] {
        assert_eq!(poll(around, "", header).await.status, 401, "{header}");
    }
    assert_eq!(
        poll(usher.plain, &session, &bearer("bob")).await.status,
        403,
        "the session belongs to ada"
    );
    assert_eq!(poll(usher.plain, &session, "").await.status, 401, "Usher's own");
    usher.finish().await;
}
