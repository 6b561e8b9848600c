//! Revoked client certificates, with authorities and lists of OpenSSL.

use std::fs;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::first_message::close_frame;
use crate::mtls::ask;
use crate::reload::usher_reload;
use crate::support::client::websocket;
use crate::support::openssl_ca::OpensslCa;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Backend, Echo, Setup, Usher, eventually, upgrade_request};

const LISTENER: usize = 2;
const DAY: u32 = 86_400;
const ROUTES: &str = r#"
    [[route]]
    path = "/who"
    upstream = "chat"
    auth = ["mtls"]
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["header"]
"#;

fn setup(upstream: String, ca: &OpensslCa, crl: &str, lines: &str) -> Setup {
    let listener = format!(
        r#"
        [[listener]]
        address = "127.0.0.1:0"
        certificates = [{{ cert = "cert.pem", key = "key.pem" }}]
        client_ca = "clients.pem"
        client_crls = ["clients.crl"]
        {lines}
        "#
    );
    Setup::new(upstream)
        .routes(ROUTES)
        .extra(&listener)
        .file("clients.pem", ca.text("ca.pem"))
        .file("clients.crl", crl.to_owned())
}

/// Returns a client with a certificate of the authority. It remembers TLS tickets.
fn connector(usher: &Usher, ca: &OpensslCa, name: &str, chain: Option<&OpensslCa>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(usher.certificate()).unwrap();
    let mut certificates =
        vec![CertificateDer::from_pem_file(ca.path(&format!("{name}.pem"))).unwrap()];
    if let Some(above) = chain {
        certificates.push(CertificateDer::from_pem_file(above.path("ca.pem")).unwrap());
    }
    let key = PrivateKeyDer::from_pem_file(ca.path(&format!("{name}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // In TLS 1.2 the client learns in the handshake that it is refused.
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

async fn shake(usher: &Usher, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(usher.listeners[LISTENER]).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), tcp).await
}

async fn open(usher: &Usher, connector: &TlsConnector) -> Socket {
    let stream = shake(usher, connector).await.unwrap();
    let address = usher.listeners[LISTENER];
    let request = format!("wss://localhost:{}/who", address.port()).into_client_request().unwrap();
    websocket(request, stream).await.unwrap()
}

async fn refused(usher: &Usher, connector: &TlsConnector, alert: &str) {
    let error = shake(usher, connector).await.unwrap_err().to_string();
    assert!(error.contains(alert), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_and_its_session_ends_at_the_reload() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("clients");
    for name in ["ada", "bob", "eve"] {
        ca.issue_client(name);
    }
    ca.revoke("eve");
    let usher = setup(echo.url(), &ca, &ca.crl(DAY), "").start().await;
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|name| connector(&usher, &ca, name, None));
    refused(&usher, &eve, "CertificateRevoked").await;
    let line = usher.logged(&["tls_failed", "Revoked"]).await;
    assert!(line.contains("\"reason\":\"revoked\""), "{line}");
    usher.until_metric("usher_tls_handshakes_total{outcome=\"revoked\"} 1").await;

    let (mut hers, mut his) = (open(&usher, &ada).await, open(&usher, &bob).await);
    ca.revoke("ada");
    fs::write(usher.folder().join("clients.crl"), ca.crl(DAY)).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert_eq!(code, 0, "{said}");
    let (close, reason) = close_frame(&mut hers).await;
    assert_eq!((close, reason.as_str()), (1008, "Session revoked"));
    is_alive(&mut his).await;
    refused(&usher, &ada, "CertificateRevoked").await;
    open(&usher, &bob).await;
    usher.until_metric("usher_revoked_certificate_sessions_total 1").await;
    drop(his);
    let audit = usher.finish().await;
    assert!(audit.iter().any(|line| line["event"] == "certificates_revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_of_a_revoked_certificate_is_refused() {
    let backend = Backend::start().await;
    let ca = OpensslCa::new("clients");
    ca.issue_client("ada");
    ca.issue_client("bob");
    let usher = setup(backend.url(), &ca, &ca.crl(DAY), "").start().await;
    let get = format!("GET /who HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", usher.listeners[2].port());
    let mut kept = Vec::new();
    for name in ["ada", "ada", "bob"] {
        let mut stream = shake(&usher, &connector(&usher, &ca, name, None)).await.unwrap();
        assert!(ask(&mut stream, &get).await.starts_with("HTTP/1.1 200 "));
        kept.push(stream);
    }
    ca.revoke("ada");
    fs::write(usher.folder().join("clients.crl"), ca.crl(DAY)).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    for (stream, request) in kept.iter_mut().zip([&get, &upgrade_request("/who", "")]) {
        let answer = ask(stream, request).await;
        assert!(answer.contains(" 401 ") && answer.contains("INVALID_CERTIFICATE"), "{answer}");
    }
    assert!(ask(&mut kept[2], &get).await.starts_with("HTTP/1.1 200 "));
    usher.logged(&["the certificate is revoked"]).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_broken_forged_or_older_changes_nothing() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("clients");
    // The name of the authority, with another key.
    let twin = OpensslCa::new("clients");
    for name in ["ada", "eve"] {
        ca.issue_client(name);
    }
    let first = ca.crl(DAY);
    ca.revoke("eve");
    let second = ca.crl(DAY);
    let usher = setup(echo.url(), &ca, &second, "").start().await;
    let [ada, eve] = ["ada", "eve"].map(|name| connector(&usher, &ca, name, None));
    let file = usher.folder().join("clients.crl");
    let half = &second[..second.len() / 2];
    for (text, part) in [
        (twin.crl(DAY).as_str(), "not signed by the key of that authority"),
        (first.as_str(), "older than the one in force"),
        (half, "client CRLs"),
        ("", "the file holds no CRL"),
        (&(second.clone() + &first), "a second CRL of CN=clients"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, said) = usher_reload(&usher).await;
        assert!(code != 0 && said.contains(part), "{part}: {code} {said}");
        refused(&usher, &eve, "CertificateRevoked").await;
        open(&usher, &ada).await;
    }
    // A list of another name is not of this authority, so nothing vouches for its clients.
    let other = OpensslCa::new("others");
    fs::write(&file, other.crl(DAY)).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert_eq!(code, 0, "{said}");
    for part in [
        "no CRL of CN=clients: all of its certificates are refused",
        "`client_ca` has no authority CN=others",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for client in [&ada, &eve] {
        assert!(shake(&usher, client).await.is_err());
    }
    usher.logged(&["tls_failed", "no CRL of the listener is of"]).await;

    fs::write(&file, &second).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    open(&usher, &ada).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_list_refuses_all_and_is_warned_of() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("clients");
    ca.issue_client("ada");
    let usher = setup(echo.url(), &ca, &ca.crl(3), "").start().await;
    let ada = || connector(&usher, &ca, "ada", None);
    let returning = ada();
    let was_in_time = shake(&usher, &returning).await.is_ok();
    // Each client is a new one, without a TLS ticket.
    eventually("the list expires", async || shake(&usher, &ada()).await.is_err().then_some(()))
        .await;
    let line = usher.logged(&["tls_failed", "revocation list"]).await;
    assert!(line.contains("\"reason\":\"certificate\""), "{line}");
    if was_in_time {
        let mut resumed = shake(&usher, &returning).await.unwrap();
        let answer = ask(&mut resumed, &upgrade_request("/who", "")).await;
        assert!(answer.contains(" 401 ") && answer.contains("INVALID_CERTIFICATE"), "{answer}");
    }
    let (code, said) = usher_reload(&usher).await;
    assert!(code == 0 && said.contains("CRL of CN=clients, expired on"), "{code} {said}");
    usher.logged(&["certificate_expires", "client_crl", "\"expired\""]).await;
    let path = usher.folder().join("clients.crl");
    let metrics = usher.metrics().await;
    let series = format!("{{purpose=\"client_crl\",file=\"{}\"}}", path.display());
    assert!(metrics.contains(&series), "{metrics}");

    fs::write(&path, ca.crl(DAY)).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    open(&usher, &ada()).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_chain_is_checked_and_a_missing_list_can_be_accepted() {
    let echo = Echo::start().await;
    let root = OpensslCa::new("root");
    let office = OpensslCa::below(&root, "office");
    office.issue_client("ada");
    office.issue_client("eve");
    office.revoke("eve");
    // Without a list of the intermediate authority, nothing is known about its clients.
    let usher = setup(echo.url(), &root, &root.crl(DAY), "").start().await;
    let [ada, eve] = ["ada", "eve"].map(|name| connector(&usher, &office, name, Some(&office)));
    assert!(shake(&usher, &ada).await.is_err());
    let path = usher.config_path();
    let text = fs::read_to_string(&path).unwrap();
    let both = "[\"clients.crl\", \"office.crl\"]";
    fs::write(usher.folder().join("office.crl"), office.crl(DAY)).unwrap();
    fs::write(&path, text.replace("[\"clients.crl\"]", both)).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    open(&usher, &ada).await;
    refused(&usher, &eve, "CertificateRevoked").await;

    let accepting =
        text.replace("[\"clients.crl\"]", "[\"clients.crl\"]\nclient_without_crl = \"accept\"");
    fs::write(&path, accepting).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    open(&usher, &eve).await;
    // The list of the root still counts.
    root.revoke("office");
    fs::write(usher.folder().join("clients.crl"), root.crl(DAY)).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    refused(&usher, &ada, "CertificateRevoked").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_list_ends_sessions_in_the_processes_that_were_replaced() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("clients");
    ca.issue_client("ada");
    ca.issue_client("bob");
    let mut usher = setup(echo.url(), &ca, &ca.crl(DAY), "")
        .node("edge-1\"\ntakeover = \"takeover.sock")
        .drain("12h")
        .start()
        .await;
    usher.pin_addresses();
    let [ada, bob] = ["ada", "bob"].map(|name| connector(&usher, &ca, name, None));
    // Two sessions and a connection of the first process, one session of the second one.
    let (mut hers, mut his) = (open(&usher, &ada).await, open(&usher, &bob).await);
    let mut kept = shake(&usher, &ada).await.unwrap();
    let oldest = usher.replace().await;
    let mut later = open(&usher, &ada).await;
    let older = usher.replace().await;
    for socket in [&mut hers, &mut his, &mut later] {
        is_alive(socket).await;
    }

    ca.revoke("ada");
    fs::write(usher.folder().join("clients.crl"), ca.crl(DAY)).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert_eq!(code, 0, "{said}");
    for socket in [&mut hers, &mut later] {
        assert_eq!(close_frame(socket).await, (1008, "Session revoked".to_owned()));
    }
    let answer = ask(&mut kept, &upgrade_request("/who", "")).await;
    assert!(answer.contains(" 401 ") && answer.contains("INVALID_CERTIFICATE"), "{answer}");
    is_alive(&mut his).await;
    refused(&usher, &ada, "CertificateRevoked").await;
    drop((hers, his, later, kept));
    assert!(oldest.exit().await.success());
    assert!(older.exit().await.success());
    let audit = usher.finish().await;
    let revoked = audit.iter().filter(|line| line["event"] == "certificates_revoked").count();
    assert_eq!(revoked, 2);
}
