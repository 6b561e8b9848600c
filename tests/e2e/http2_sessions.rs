//! Sessions in HTTP/2 streams: renewal, compression, and client certificates. The upgrade itself is
//! in `http2.rs`.

use std::sync::Arc;
use std::time::Duration;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::{auth, frame};
use crate::reload::usher_reload;
use crate::support::http2::Tunnel;
use crate::support::openssl_ca::OpensslCa;
use crate::support::{Echo, Http2, Program, Setup, Usher, token};

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: u32 = 86_400;
const DEFLATE: &str = "tests/e2e/clients/node/deflate.mjs";
const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["mtls", "ticket", "message", "header"]
"#;
const FIN_TEXT: u8 = 0x81;
const COMPRESSED: u8 = 0x40;

fn short(usher: &Usher, subject: &str, seconds: u64) -> String {
    let id = format!("{subject}-{seconds}");
    usher.token_with(subject, json!({ "exp": token::now() + seconds, "jti": id }))
}

async fn next(tunnel: &mut Tunnel) -> Message {
    let next = timeout(PATIENCE, tunnel.next()).await.expect("no message came");
    next.expect("the session has ended").unwrap()
}

async fn json_of(tunnel: &mut Tunnel) -> Value {
    serde_json::from_str(&next(tunnel).await.into_text().unwrap()).unwrap()
}

async fn is_alive(tunnel: &mut Tunnel) {
    tunnel.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(tunnel).await, Message::text("still here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renewed_in_its_stream() {
    let echo = Echo::start().await;
    let routes = ROUTES.replace("\"mtls\", ", "");
    let usher = Setup::new(echo.url()).routes(&routes).start().await;
    let mut client = Http2::connect(&usher).await;
    let lasting = format!("Bearer {}", usher.token("bob"));
    let (mut other, _) = client.open("/ws", &[("authorization", &lasting)]).await.unwrap();
    let first = format!("Bearer {}", short(&usher, "ada", 4));
    let (mut renewed, _) = client.open("/ws", &[("authorization", &first)]).await.unwrap();
    let (mut silent, _) = client.open("/ws", &[("authorization", &first)]).await.unwrap();
    for tunnel in [&mut renewed, &mut silent] {
        assert_eq!(json_of(tunnel).await["type"], "auth_required");
    }
    renewed.send(auth(&short(&usher, "ada", 600))).await.unwrap();
    let ok = json_of(&mut renewed).await;
    assert_eq!((&ok["type"], &ok["payload"]["user"]), (&json!("auth_ok"), &json!("ada")), "{ok}");
    // The session without an answer ends, and it alone.
    assert_eq!(json_of(&mut silent).await["payload"]["code"], "REAUTHENTICATION_TIMEOUT");
    let end = next(&mut silent).await;
    assert!(matches!(&end, Message::Close(Some(end)) if u16::from(end.code) == 1008), "{end:?}");
    is_alive(&mut renewed).await;
    is_alive(&mut other).await;
    let messages = echo.messages();
    assert!(messages.iter().all(|one| !one.to_string().contains("\"auth\"")), "{messages:?}");
    usher.until_metric("usher_reauth_total{route=\"/ws\",outcome=\"renewed\"} 1").await;
    usher.finish().await;
}

/// A client of permessage-deflate that writes and reads the frames of its stream itself.
struct Deflating {
    tunnel: Tunnel,
    compress: Compress,
    decompress: Decompress,
}

impl Deflating {
    fn new(tunnel: Tunnel) -> Self {
        let compress = Compress::new(Compression::default(), false);
        Self { tunnel, compress, decompress: Decompress::new(false) }
    }

    /// Sends a text whose block stands alone.
    async fn send(&mut self, text: &str) {
        self.compress.reset();
        let mut deflated = Vec::with_capacity(text.len() + 64);
        let flush = FlushCompress::Sync;
        self.compress.compress_vec(text.as_bytes(), &mut deflated, flush).unwrap();
        let end = deflated.len() - 4;
        assert_eq!(deflated.split_off(end), [0, 0, 0xff, 0xff]);
        let wire = frame(FIN_TEXT | COMPRESSED, &deflated);
        self.tunnel.get_mut().write_all(&wire).await.unwrap();
    }

    /// Returns the next text, and whether it was compressed.
    async fn next(&mut self) -> (String, bool) {
        timeout(PATIENCE, self.read()).await.expect("no message came")
    }

    async fn read(&mut self) -> (String, bool) {
        let stream = self.tunnel.get_mut();
        let first = stream.read_u8().await.unwrap();
        let length = match stream.read_u8().await.unwrap() {
            126 => usize::from(stream.read_u16().await.unwrap()),
            127 => panic!("a long message"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        assert_eq!(first & !COMPRESSED, FIN_TEXT, "{payload:?}");
        if first & COMPRESSED != 0 {
            payload.extend([0, 0, 0xff, 0xff]);
            let mut text = Vec::with_capacity(64 * 1024);
            self.decompress.decompress_vec(&payload, &mut text, FlushDecompress::Sync).unwrap();
            payload = text;
        }
        (String::from_utf8(payload).unwrap(), first & COMPRESSED != 0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_flow_and_are_renewed_in_a_stream() {
    for server in ["on", "off"] {
        let upstream = Program::node(&[DEFLATE, "server", server]).await;
        let routes = ROUTES.replace("\"mtls\", ", "");
        let url = format!("http://127.0.0.1:{}", upstream.lines()[0]);
        let usher = Setup::new(url).routes(&routes).start().await;
        let mut client = Http2::connect(&usher).await;
        let offer = [("sec-websocket-extensions", "permessage-deflate")];
        let (tunnel, headers) = client.open("/ws", &offer).await.unwrap();
        let agreed = headers["sec-websocket-extensions"].to_str().unwrap();
        assert!(agreed.starts_with("permessage-deflate"), "{agreed}");
        let mut socket = Deflating::new(tunnel);
        let say = |token: String| json!({"type": "auth", "payload": {"token": token}}).to_string();
        socket.send(&say(short(&usher, "ada", 4))).await;
        let (text, _) = socket.next().await;
        assert!(text.contains("\"auth_ok\""), "{text}");
        let long = "so it goes ".repeat(1000);
        socket.send(&long).await;
        assert_eq!(socket.next().await, (long.clone(), server == "on"));
        let (text, _) = socket.next().await;
        assert!(text.contains("\"auth_required\""), "{text}");
        socket.send(&say(short(&usher, "ada", 600))).await;
        let (text, _) = socket.next().await;
        assert!(text.contains("\"auth_ok\""), "{text}");
        socket.send(&long).await;
        assert_eq!(socket.next().await.0, long);
        let lines = upstream.lines();
        assert!(!lines.iter().any(|line| line == "LEAK"), "{lines:?}");
        drop(socket);
        usher.finish().await;
    }
}

/// Connects to the listener for clients with certificates.
async fn with_certificate(usher: &Usher, ca: &OpensslCa, name: &str) -> Http2 {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(usher.certificate()).unwrap();
    let certificate = CertificateDer::from_pem_file(ca.path(&format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(ca.path(&format!("{name}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let server = *usher.listeners.last().unwrap();
    let tcp = TcpStream::connect(server).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    Http2::over(stream, server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_is_revoked_ends_its_sessions_and_no_other_stream() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("clients");
    for name in ["ada", "bob"] {
        ca.issue_client(name);
    }
    let listener = r#"
        [[listener]]
        address = "127.0.0.1:0"
        certificates = [{ cert = "cert.pem", key = "key.pem" }]
        client_ca = "clients.pem"
        client_crls = ["clients.crl"]
        [[route]]
        path = "/token"
        upstream = "chat"
        auth = ["header"]
        "#;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra(listener)
        .file("clients.pem", ca.text("ca.pem"))
        .file("clients.crl", ca.crl(DAY))
        .start()
        .await;
    let mut ada = with_certificate(&usher, &ca, "ada").await;
    let mut bob = with_certificate(&usher, &ca, "bob").await;
    let (mut hers, _) = ada.open("/ws", &[]).await.unwrap();
    let (mut his, _) = bob.open("/ws", &[]).await.unwrap();
    let bearer = format!("Bearer {}", usher.token("eve"));
    let (mut by_token, _) = ada.open("/token", &[("authorization", &bearer)]).await.unwrap();
    for tunnel in [&mut hers, &mut his, &mut by_token] {
        is_alive(tunnel).await;
    }

    ca.revoke("ada");
    std::fs::write(usher.folder().join("clients.crl"), ca.crl(DAY)).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert_eq!(code, 0, "{said}");
    let end = next(&mut hers).await;
    let Message::Close(Some(end)) = end else { panic!("{end:?}") };
    assert_eq!((u16::from(end.code), end.reason.as_str()), (1008, "Session revoked"));
    is_alive(&mut his).await;
    is_alive(&mut by_token).await;
    // The next request with the certificate is refused, and the connection takes no more.
    let Err(refused) = ada.open("/ws", &[]).await else {
        panic!("a revoked certificate is accepted")
    };
    assert!(refused.status == 401 && refused.body.contains("INVALID_CERTIFICATE"), "{refused:?}");
    is_alive(&mut by_token).await;
    let request = Http2::request(http::Method::GET, "/none", &[]);
    crate::support::eventually("the connection takes no more requests", async || {
        ada.send(request.clone(), true).await.is_err().then_some(())
    })
    .await;
    is_alive(&mut by_token).await;
    bob.open("/ws", &[]).await.unwrap();
    usher.finish().await;
}
