//! permessage-deflate: what is agreed on either side, and that no message is lost while Usher reads
//! the stream.

use std::process::Command;

use serde_json::json;

use crate::support::{Program, Raw, Recorder, Script, Setup, Usher, token, upgrade_request};

const PROGRAM: &str = "tests/e2e/clients/node/deflate.mjs";

async fn usher(url: &str) -> Usher {
    Setup::new(url.to_owned())
        .extra("[limits]\ninflated_bytes = \"1MiB\"\n")
        .routes(
            "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"ticket\", \"message\"]\n",
        )
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_streams_are_renewed_by_ticket_and_by_first_message() {
    for (server, by_ticket, upstream_agreed) in [
        ("on", true, "permessage-deflate"),
        ("on", false, "permessage-deflate"),
        ("off", true, ""),
        ("off", false, ""),
    ] {
        let server = Program::node(&[PROGRAM, "server", server]).await;
        let usher = usher(&format!("http://127.0.0.1:{}", server.lines()[0])).await;
        let first = usher.token_with("ada", json!({ "exp": token::now() + 10 }));
        let renewal = usher.token("ada");
        let mut url = format!("wss://localhost:{}/ws", usher.tls.port());
        let mut arguments = Vec::new();
        if by_ticket {
            url += &format!("?ticket={}", usher.issue_ticket(&first).await);
        } else {
            arguments.push(first);
        }
        let certificate = usher.certificate_path();
        let output = tokio::task::spawn_blocking(move || {
            Command::new("node")
                .args([PROGRAM, "client", &url])
                .arg(certificate)
                .arg(renewal)
                .args(arguments)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output()
        })
        .await
        .unwrap()
        .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // By first message, Usher agrees on compression before it dials the upstream. By ticket, it
        // agrees on what the upstream answers.
        let expected = if by_ticket && upstream_agreed.is_empty() {
            "ok 2000 \n"
        } else {
            "ok 2000 permessage-deflate\n"
        };
        assert_eq!(
            (said.as_str(), output.status.code()),
            (expected, Some(0)),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            server.lines()[1..],
            [format!("extensions: {upstream_agreed}")],
            "the upstream got an auth message"
        );
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_told_that_each_message_stands_alone() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n\r\n";
    let recorder = Recorder::start(Script::Answer(answer.as_bytes().to_vec())).await;
    let routes = "[[route]]\npath = \"/asks\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
        [[route]]\npath = \"/never\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
        reauth = { mode = \"close\" }\n";
    let usher = Setup::new(recorder.url()).routes(routes).start().await;
    let token = usher.token("ada");
    for (path, expected, offered) in [
        (
            "/asks",
            "permessage-deflate; server_max_window_bits=12; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits",
        ),
        (
            "/never",
            "permessage-deflate; server_max_window_bits=12",
            "x-unknown, permessage-deflate; client_max_window_bits",
        ),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        let offer =
            "Sec-WebSocket-Extensions: x-unknown, permessage-deflate; client_max_window_bits";
        raw.send(upgrade_request(path, &format!("Authorization: Bearer {token}\r\n{offer}\r\n")))
            .await;
        let head = raw.read_head().await;
        assert!(head.contains(&format!("sec-websocket-extensions: {expected}\r\n")), "{head}");
        let seen = recorder.connections().pop().unwrap();
        assert!(seen.contains(&format!("sec-websocket-extensions: {offered}\r\n")), "{seen}");
    }
    usher.finish().await;
}

/// Refuses a few kilobytes that inflate to megabytes, as a first message and for an upstream
/// without compression.
#[tokio::test(flavor = "multi_thread")]
async fn a_compression_bomb_is_refused() {
    let bomb = {
        let mut compress = flate2::Compress::new(flate2::Compression::best(), false);
        let mut out = Vec::with_capacity(100_000);
        compress.compress_vec(&vec![b' '; 8 << 20], &mut out, flate2::FlushCompress::Sync).unwrap();
        out
    };
    let framed = |first: u8, payload: &[u8]| {
        [&[first, 0xff][..], &(payload.len() as u64).to_be_bytes(), &[0; 4], payload].concat()
    };
    let recorder = Recorder::start(Script::Accept(Vec::new())).await;
    let usher = usher(&recorder.url()).await;
    let token = usher.token("ada");
    let before = usher.resident_kib();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", offer)).await;
    assert!(raw.read_head().await.contains("client_no_context_takeover"));
    raw.send(framed(0xc1, &bomb[..bomb.len().min(10_000)])).await;
    let said = String::from_utf8_lossy(&raw.read_to_close().await).into_owned();
    assert!(
        said.contains("FIRST_MESSAGE_TOO_BIG") && said.contains("First message too big"),
        "{said}"
    );
    assert!(recorder.connections().is_empty());

    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", offer)).await;
    raw.read_head().await;
    let message = json!({"type": "auth", "payload": {"token": token}}).to_string();
    raw.send(framed(0x81, message.as_bytes())).await;
    raw.send(framed(0xc2, &bomb)).await;
    let said = raw.read_to_close().await;
    assert!(String::from_utf8_lossy(&said).contains("Message too big"));
    let grown = usher.resident_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB");
    assert!(usher.metrics().await.contains("usher_limits_hit_total{limit=\"inflated_bytes\"} 1"));
    usher.finish().await;
}
