//! TLS towards clients: certificates by name, versions, resumption.

use std::process::Command;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::get;
use crate::support::{Echo, Raw, Setup, Usher};

fn config(
    roots: &[&CertificateDer<'static>],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add((*root).clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Makes a handshake and a request, so that the session tickets after the handshake arrive.
async fn shake(
    usher: &Usher,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(usher.tls).await?;
    let mut stream = TlsConnector::from(Arc::clone(config))
        .connect(ServerName::try_from(name).unwrap(), tcp)
        .await?;
    stream.write_all(b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 404 "));
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_gets_its_certificate_and_each_version_its_due() {
    let echo = Echo::start().await;
    let one = rcgen::generate_simple_self_signed(["one.example.com".to_owned()]).unwrap();
    let any = rcgen::generate_simple_self_signed(["*.two.example.com".to_owned()]).unwrap();
    let certificates = r#"
        [[listener]]
        address = "127.0.0.1:0"
        certificates = [
            { cert = "cert.pem", key = "key.pem" },
            { cert = "one.pem", key = "one.key" },
            { cert = "any.pem", key = "any.key" },
        ]
    "#;
    let mut usher = Setup::new(echo.url())
        .extra(certificates)
        .file("one.pem", one.cert.pem())
        .file("one.key", one.signing_key.serialize_pem())
        .file("any.pem", any.cert.pem())
        .file("any.key", any.signing_key.serialize_pem())
        .start()
        .await;
    usher.tls = usher.listeners[2];
    let (one, any) = (one.cert.der().clone(), any.cert.der().clone());
    let first = usher.certificate();
    let both = [&rustls::version::TLS12, &rustls::version::TLS13];

    for (name, certificate) in
        [("one.example.com", &one), ("chat.two.example.com", &any), ("localhost", &first)]
    {
        let stream = shake(&usher, &config(&[certificate], &both), name).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    assert!(
        shake(&usher, &config(&[&one], &both), "other.example.com").await.is_err(),
        "a name that no certificate covers"
    );

    let old = shake(&usher, &config(&[&one], &[&rustls::version::TLS12]), "one.example.com")
        .await
        .unwrap();
    assert_eq!(old.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));

    for version in both {
        let config = config(&[&one], &[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            kinds.push(
                shake(&usher, &config, "one.example.com")
                    .await
                    .unwrap()
                    .get_ref()
                    .1
                    .handshake_kind()
                    .unwrap(),
            );
        }
        assert_eq!(kinds[1], HandshakeKind::Resumed, "{version:?}");
    }
    let metrics = usher.metrics().await;
    assert!(metrics.contains("outcome=\"resumed\"} 2"), "{metrics}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_while_the_client_changes_its_keys() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut socket = usher.connect("alice").await;
    for size in (0..60_000).step_by(1000) {
        socket.get_mut().get_mut().1.refresh_traffic_keys().unwrap();
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_its_sessions_in_both_versions_and_hears_the_goodbye() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let (port, certificate) = (usher.tls.port().to_string(), usher.certificate_path());
    let run = move || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients/python/resume.py");
        Command::new("python3").arg(script).arg(port).arg(certificate).output()
    };
    let output = tokio::task::spawn_blocking(run)
        .await
        .unwrap()
        .expect("python3; scripts/setup-tests.sh installs what the tests need");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim() == "ok", "{out}{err}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_handshake_are_answered_with_an_alert_and_harm_nobody() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut socket = usher.connect("alice").await;
    // The last case: a hello that cannot be read, and a whole message after it in the same record.
    let hello: &[u8] = &[22, 3, 1, 0, 12, 1, 0, 0, 2, 3, 3, 20, 0, 0, 2, 0, 0];
    for said in [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", hello] {
        let mut raw = Raw::connect(usher.tls).await;
        raw.send(said).await;
        assert!(raw.read_to_close().await.ends_with(&[0, 2, 2, 50]), "fatal, decode_error");
    }
    let metrics = usher.metrics().await;
    assert!(metrics.contains("usher_connection_panics_total 0"), "{metrics}");
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    socket.close(None).await.unwrap();
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_speaks_ipv6_and_on_every_address_ipv4_too() {
    let echo = Echo::start().await;
    let listeners = "[[listener]]\naddress = \"[::1]:0\"\nplain = true\n[[listener]]\n\
        address = \"[::]:0\"\nplain = true\n";
    let usher = Setup::new(echo.url()).extra(listeners).start().await;
    assert_eq!(get(usher.listeners[2], "/none").await.status, 404);
    let port = usher.listeners[3].port();
    for host in ["127.0.0.1", "[::1]"] {
        assert_eq!(get(format!("{host}:{port}").parse().unwrap(), "/none").await.status, 404);
    }
    let audit = usher.finish().await;
    let peers: Vec<_> = audit
        .iter()
        .filter(|line| line["event"] == "request_rejected")
        .map(|line| line["peer"].as_str().unwrap())
        .collect();
    assert_eq!(peers, ["::1", "127.0.0.1", "::1"]);
}
