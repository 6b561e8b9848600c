//! Certificates over ACME, from Pebble: issued, renewed, kept while the authority is away.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::client::{self, get};
use crate::support::pebble::Pebble;
use crate::support::redis::RedisServer;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Echo, Setup, Usher, eventually};

const DOMAIN: &str = "chat.example.com";
/// The life of a certificate that no test sees the end of, in seconds.
const LONG: u64 = 86_400 * 90;

/// Returns `[acme]`, and a listener that has its certificate alone.
fn acme(pebble: &Pebble, lines: &str) -> String {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nacme = true\n";
    let domains = if lines.contains("domains") {
        String::new()
    } else {
        format!("domains = [\"{DOMAIN}\"]\n")
    };
    format!("{listener}[acme]\n{}{domains}{lines}", pebble.lines())
}

fn setup(echo: &Echo, pebble: &Pebble, lines: &str) -> Setup {
    Setup::new(echo.url()).extra(&acme(pebble, lines)).file("acme-ca.pem", pebble.authority())
}

/// Starts Usher, and leads the authority to its listeners: that of `[acme]`, and the plain one.
async fn start(echo: &Echo, pebble: &Pebble, lines: &str) -> Usher {
    let usher = setup(echo, pebble, lines).start().await;
    lead(pebble, &[&usher]);
    usher
}

/// Leads the authority to these nodes. It waits 3 s for an answer: on a busy machine, the first
/// order may have failed before. The reload tries again at once.
fn lead(pebble: &Pebble, nodes: &[&Usher]) {
    let listeners: Vec<_> = nodes.iter().map(|node| (node.listeners[2], node.plain)).collect();
    pebble.lead_to(&listeners);
    nodes.iter().for_each(|node| node.signal("HUP"));
}

/// Returns a client that trusts this root, or without one that accepts any certificate.
fn client_config(root: Option<&CertificateDer<'static>>, protocol: &[u8]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = match root {
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root.clone()).unwrap();
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => {
            let verifier = Arc::new(AnyCertificate(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// Accepts every certificate: tests of short lives must not fail on a busy machine.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes a handshake, as a client that trusts this root.
async fn shake(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    name: &str,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(client_config(Some(root), protocol)).connect(name, tcp).await
}

async fn http(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    shake(address, root, name, b"http/1.1").await
}

/// Makes a handshake with the listener of `[acme]`, and accepts any certificate.
async fn shake_with_any(address: SocketAddr) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(DOMAIN).unwrap();
    TlsConnector::from(client_config(None, b"http/1.1")).connect(name, tcp).await.unwrap()
}

/// Returns the certificate that a new client gets.
async fn leaf(address: SocketAddr) -> CertificateDer<'static> {
    let stream = shake_with_any(address).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Opens a session on the listener of `[acme]`.
async fn open_session(usher: &Usher) -> Socket {
    let stream = shake_with_any(usher.listeners[2]).await;
    let mut request = format!("wss://{DOMAIN}/ws").into_client_request().unwrap();
    let bearer = format!("Bearer {}", usher.token("ada"));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    client::websocket(request, stream).await.unwrap()
}

async fn status(usher: &Usher) -> Value {
    let answer = get(usher.admin, "/status").await;
    serde_json::from_str::<Value>(&answer.body).unwrap()["acme"].clone()
}

async fn until_in_force(usher: &Usher) {
    usher.logged(&["acme_certificate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_in_the_handshake_and_a_restart_uses_it() {
    let echo = Echo::start().await;
    let bad_nonces = [("PEBBLE_WFE_NONCEREJECT", "50")];
    let pebble = Pebble::start(LONG, json!({}), &bad_nonces).await;
    let lines = format!(
        "domains = [\"{DOMAIN}\", \"Other.example.com\"]\n\
        contact = [\"mailto:ops@example.com\"]\n"
    );
    let usher = start(&echo, &pebble, &lines).await;
    usher.logged(&["acme_missing", DOMAIN]).await;
    until_in_force(&usher).await;
    let (address, root) = (usher.listeners[2], pebble.root().await);
    for name in [DOMAIN, "other.example.com"] {
        let stream = http(address, &root, name).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    let status = status(&usher).await;
    assert_eq!((&status["state"], &status["fault"]), (&json!("issued"), &Value::Null), "{status}");
    usher.until_metric("usher_acme_orders_total{outcome=\"issued\"} 1").await;
    usher.until_at_least("usher_acme_challenges_total{challenge=\"tls-alpn-01\"}", 2).await;
    let (tls, plain) = pebble.validations();
    assert!(tls >= 2 && plain == 0, "{tls} {plain}");
    assert!(usher.audit().iter().any(|line| line["event"] == "acme_certificate"));
    keeps_its_state_to_itself(&usher.folder().join("state/acme"));
    let before = leaf(address).await;

    let usher = usher.kill_and_restart().await;
    assert_eq!(leaf(usher.listeners[2]).await, before, "from the first handshake on");
    assert_eq!(pebble.issued(), 1, "{}", pebble.log());
    usher.finish().await;
}

/// Only the owner can read the account's key and the certificate's.
fn keeps_its_state_to_itself(folder: &Path) {
    let mut files = 0;
    for directory in fs::read_dir(folder).unwrap().flatten() {
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for file in fs::read_dir(directory.path()).unwrap().flatten() {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            files += 1;
        }
    }
    assert!(files >= 3, "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_by_a_request_to_the_plain_listener() {
    let echo = Echo::start().await;
    let pebble = Pebble::start(LONG, json!({}), &[]).await;
    let usher = start(&echo, &pebble, "challenge = \"http-01\"\n").await;
    until_in_force(&usher).await;
    assert!(http(usher.listeners[2], &pebble.root().await, DOMAIN).await.is_ok());
    usher.until_at_least("usher_acme_challenges_total{challenge=\"http-01\"}", 1).await;
    let (tls, plain) = pebble.validations();
    assert!(tls == 0 && plain >= 1, "{tls} {plain}");
    // Afterwards the tokens are forgotten, and the path belongs to the routes again.
    let refused = get(usher.plain, "/.well-known/acme-challenge/abcdefghijklmnopqrstuvwxyz").await;
    assert_eq!(refused.status, 404, "{}", refused.body);
    usher.finish().await;
}

/// An authority that is away must not change what clients get. Prints the log of the authority.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_authority_is_away_the_old_certificate_stays_and_sessions_survive_the_next() {
    let echo = Echo::start().await;
    let mut pebble = Pebble::start(10, json!({}), &[]).await;
    // Due after 4 s at the latest. Every certificate of this test ends soon.
    let usher = start(&echo, &pebble, "renew_before = \"1h\"\ntimeout = \"1s\"\n").await;
    until_in_force(&usher).await;
    let address = usher.listeners[2];
    let first = leaf(address).await;
    let mut session = open_session(&usher).await;
    // It hangs, and then it is dead. A connection to it ends first with one fault, then the other.
    pebble.signal("STOP");
    usher.logged(&["acme_failed", "\"fault\":\"timeout\""]).await;
    pebble.kill();
    usher.logged(&["acme_failed", "\"fault\":\"unreachable\""]).await;
    assert_eq!(leaf(address).await, first, "the old one stays");
    let away = status(&usher).await;
    assert!(away["failures"].as_u64() >= Some(2) && away["retry"].is_string(), "{away}");
    // It has forgotten the account, and has another root.
    let before = pebble.issued();
    pebble.start_again().await;
    usher.signal("HUP");
    pebble.until_issued(before + 1).await;
    eventually("the next certificate is served", async || leaf(address).await != first).await;
    is_alive(&mut session).await;
    let renewal = usher.logged(&["acme_order", "\"reason\":\"renewal\""]).await;
    println!("usher: {renewal}");
    for line in pebble.log().lines().filter(|line| line.starts_with("Pebble ")) {
        println!("{line}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_name_fails_with_the_reason_and_a_reload_tries_at_once() {
    let echo = Echo::start().await;
    let changes = json!({ "domainBlocklist": ["blocked.example.com"] });
    let pebble = Pebble::start(LONG, changes, &[]).await;
    let lines = "domains = [\"blocked.example.com\"]\n";
    let usher = start(&echo, &pebble, lines).await;
    let refused = usher.logged(&["acme_failed", "\"fault\":\"refused\""]).await;
    assert!(refused.contains("rejectedIdentifier"), "{refused}");
    // The name is changed, and leads to a port that is closed.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    pebble.lead_to(&[(closed, closed)]);
    change(&usher, "blocked.example.com", DOMAIN);
    usher.logged(&["acme_failed", "\"fault\":\"validation\"", DOMAIN]).await;
    usher.until_metric("usher_acme_orders_total{outcome=\"validation\"} 1").await;
    let status = status(&usher).await;
    assert_eq!((&status["state"], &status["failures"]), (&json!("none"), &json!(1)), "{status}");
    // The cause is removed, and the pause of a minute has not ended.
    lead(&pebble, &[&usher]);
    until_in_force(&usher).await;
    assert!(http(usher.listeners[2], &pebble.root().await, DOMAIN).await.is_ok());
    usher.finish().await;
}

/// Changes the configuration, and reloads it.
fn change(usher: &Usher, from: &str, to: &str) {
    let text = fs::read_to_string(usher.config_path()).unwrap();
    assert!(text.contains(from));
    fs::write(usher.config_path(), text.replacen(from, to, 1)).unwrap();
    usher.signal("HUP");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_domains_are_ordered_at_a_reload_and_the_old_certificate_serves_meanwhile() {
    let echo = Echo::start().await;
    let mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let changes = json!({
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": { "kid-1": mac },
    });
    let pebble = Pebble::start(LONG, changes, &[]).await;
    let lines = "eab_kid = \"kid-1\"\neab_key_file = \"eab-key\"\n";
    let setup = setup(&echo, &pebble, lines).file("eab-key", mac.to_owned());
    let usher = setup.start().await;
    usher.keep_secret(mac);
    lead(&pebble, &[&usher]);
    until_in_force(&usher).await;
    let (address, root) = (usher.listeners[2], pebble.root().await);
    let first = leaf(address).await;
    // The next order cannot be validated yet.
    pebble.lead_to(&[]);
    change(&usher, "[\"chat.example.com\"]", "[\"chat.example.com\", \"two.example.com\"]");
    usher.logged(&["acme_order", "\"reason\":\"other_domains\"", "two.example.com"]).await;
    assert_eq!(leaf(address).await, first);
    let error = http(address, &root, "two.example.com").await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    lead(&pebble, &[&usher]);
    let is_served = async || http(address, &root, "two.example.com").await.is_ok();
    eventually("both names have a certificate", is_served).await;
    assert!(leaf(address).await != first && pebble.issued() == 2, "{}", pebble.log());
    usher.finish().await;
}

/// While a challenge is pending, a stranger learns nothing by it and gets no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_answered_only_while_it_is_pending_and_for_its_name() {
    let echo = Echo::start().await;
    let pebble = Pebble::start(LONG, json!({}), &[]).await;
    let usher = setup(&echo, &pebble, "").start().await;
    let (address, root) = (usher.listeners[2], pebble.root().await);
    let error = async |name: &str, protocol: &[u8]| {
        shake(address, &root, name, protocol).await.unwrap_err().to_string()
    };
    // Its own certificate is not there yet; that of another name is never shown in its place.
    assert!(error(DOMAIN, b"http/1.1").await.contains("AccessDenied"));
    assert!(error("other.example.com", b"acme-tls/1").await.contains("AccessDenied"));
    usher.until_at_least("usher_tls_handshakes_total{outcome=\"not_issued\"}", 1).await;
    usher.until_at_least("usher_tls_handshakes_total{outcome=\"no_challenge\"}", 1).await;
    // The authority waits for this test to name the node, for 3 s at each attempt. The challenge
    // certificate is signed by its own key, so this client refuses it.
    let mut looks = 0;
    let is_pending = async || {
        if looks % 100 == 0 {
            usher.signal("HUP");
        }
        looks += 1;
        let error = error(DOMAIN, b"acme-tls/1").await;
        assert!(error.contains("AccessDenied") || error.contains("invalid peer certificate"));
        error.contains("invalid peer certificate")
    };
    eventually("a challenge is pending", is_pending).await;
    assert!(error("other.example.com", b"acme-tls/1").await.contains("AccessDenied"));
    lead(&pebble, &[&usher]);
    until_in_force(&usher).await;
    let is_over = async || error(DOMAIN, b"acme-tls/1").await.contains("AccessDenied");
    eventually("no challenge is pending", is_over).await;
    assert!(http(address, &root, DOMAIN).await.is_ok());
    // A client that offers both protocols is one of HTTP. Another listener has no challenges.
    let error = shake(usher.tls, &root, DOMAIN, b"acme-tls/1").await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_orders_for_the_fleet_and_all_answer_the_authority() {
    let echo = Echo::start().await;
    let mut redis = RedisServer::start(&[]);
    let pebble = Pebble::start(LONG, json!({}), &[]).await;
    let lines = format!(
        "domains = [\"{DOMAIN}\", \"b.example.com\", \"c.example.com\", \"d.example.com\"]\n\
         [store]\nurl = \"{}\"\n",
        redis.url()
    );
    // It waits until both nodes are there.
    pebble.signal("STOP");
    let (one, other) = tokio::join!(
        setup(&echo, &pebble, &lines).node("one").start(),
        setup(&echo, &pebble, &lines).node("other").start()
    );
    lead(&pebble, &[&one, &other]);
    pebble.signal("CONT");
    for node in [&one, &other] {
        until_in_force(node).await;
        // The balancer gives each a part of the validations.
        node.until_at_least("usher_acme_challenges_total{challenge=\"tls-alpn-01\"}", 1).await;
    }
    let issued = leaf(one.listeners[2]).await;
    assert_eq!(leaf(other.listeners[2]).await, issued);
    assert_eq!(pebble.issued(), 1, "{}", pebble.log());

    // Redis is away: a node that starts has its copy. Redis comes back without data: the
    // certificate is written again, and not ordered.
    redis.kill();
    let other = other.kill_and_restart().await;
    assert_eq!(leaf(other.listeners[2]).await, issued);
    redis.start_again();
    let is_written = async || redis.cli(&["KEYS", "usher:{acme:*}:certificate-*"]).contains("acme");
    eventually("the certificate is in Redis again", is_written).await;
    assert_eq!(pebble.issued(), 1, "{}", pebble.log());
    one.finish().await;
    other.finish().await;
}

/// An authority over plain HTTP on loopback, which a test can make misbehave.
struct FakeAuthority {
    address: SocketAddr,
    mode: Arc<Mutex<&'static str>>,
}

impl FakeAuthority {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(Mutex::new("garbage"));
        let current = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mode = *current.lock().unwrap();
                tokio::spawn(Self::answer(stream, address, mode));
            }
        });
        Self { address, mode }
    }

    fn set_mode(&self, mode: &'static str) {
        *self.mode.lock().unwrap() = mode;
    }

    async fn answer(stream: TcpStream, address: SocketAddr, mode: &'static str) {
        let mut stream = BufReader::new(stream);
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        stream.read_line(&mut first).await.unwrap();
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        let _ = stream.read_exact(&mut body).await;
        let path = first.split(' ').nth(1).unwrap_or_default();
        let url = |path: &str| format!("http://{address}{path}");
        let (status, body) = match (mode, path) {
            ("garbage", _) => ("200 OK", "<html>".to_owned()),
            ("redirect", _) => ("302 Found\r\nlocation: http://127.0.0.2/", String::new()),
            ("elsewhere", _) => {
                let url = "http://ca.example.com/";
                let directory = json!({ "newNonce": url, "newAccount": url, "newOrder": url });
                ("200 OK", directory.to_string())
            }
            ("silent", _) => return tokio::time::sleep(std::time::Duration::from_secs(60)).await,
            ("endless", _) => {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head).await;
                let chunk = [b"4000\r\n", &[b'a'; 0x4000][..], b"\r\n"].concat();
                while stream.write_all(&chunk).await.is_ok() {}
                return;
            }
            (_, "/dir") => {
                let directory = json!({ "newNonce": url("/nonce"), "newAccount": url("/account"),
                    "newOrder": url("/order") });
                ("200 OK", directory.to_string())
            }
            ("limited", "/order") => {
                let problem = json!({ "type": "urn:ietf:params:acme:error:rateLimited",
                    "detail": format!("too many\u{1b}[31m {}", "x".repeat(5000)) });
                ("429 Too Many Requests\r\nretry-after: 7200", problem.to_string())
            }
            (_, "/certificate") => {
                let other = rcgen::generate_simple_self_signed([DOMAIN.to_owned()]).unwrap();
                ("200 OK", other.cert.pem())
            }
            (_, "/order") => {
                let order = json!({ "status": "ready", "authorizations": [],
                    "finalize": url("/finalize"), "certificate": url("/certificate") });
                ("201 Created", order.to_string())
            }
            (_, "/finalize") => ("200 OK", json!({ "status": "processing" }).to_string()),
            (_, "/orders/1") => {
                let order = json!({ "status": "valid", "certificate": url("/certificate") });
                ("200 OK", order.to_string())
            }
            _ => ("200 OK", json!({ "status": "valid" }).to_string()),
        };
        let place = if path == "/order" { url("/orders/1") } else { url("/accounts/1") };
        let place = if mode == "redirect" { "" } else { &format!("location: {place}\r\n") };
        let answer = format!(
            "HTTP/1.1 {status}\r\nreplay-nonce: bm9uY2U\r\n{place}\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_misbehaves_changes_nothing_and_its_pauses_are_kept() {
    let echo = Echo::start().await;
    let fake = FakeAuthority::start().await;
    let tables = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nacme = true\n\
         certificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]\n[acme]\n\
         directory = \"http://{}/dir\"\nterms_agreed = true\ntimeout = \"1s\"\n\
         domains = [\"{DOMAIN}\"]\n",
        fake.address
    );
    let usher = Setup::new(echo.url()).extra(&tables).start().await;
    usher.logged(&["acme_failed", "malformed", "the body is not a JSON object"]).await;
    for (mode, fault, part) in [
        ("redirect", "malformed", "redirects are not followed"),
        ("elsewhere", "malformed", "plain http to another machine"),
        ("silent", "timeout", "no whole answer within 1s"),
        ("endless", "malformed", "larger than 131072 bytes"),
        ("another key", "certificate", "the key is not that of the certificate"),
        ("limited", "rate_limited", "too many"),
    ] {
        fake.set_mode(mode);
        usher.signal("HUP");
        let line = usher.logged(&["acme_failed", &format!("\"fault\":\"{fault}\""), part]).await;
        assert!(line.len() < 1500 && !line.contains('\u{1b}'), "{line}");
    }
    let status = status(&usher).await;
    let left = retry_in(&status);
    assert!((7100..=7200).contains(&left), "{left} s: {status}");
    // Clients of the other names are served as before.
    let own = usher.certificate();
    assert!(http(usher.listeners[2], &own, "localhost").await.is_ok());
    usher.finish().await;
}

/// Returns the seconds until the next attempt.
fn retry_in(status: &Value) -> i64 {
    let format = &time::format_description::well_known::Rfc3339;
    let retry = time::OffsetDateTime::parse(status["retry"].as_str().unwrap(), format).unwrap();
    (retry - time::OffsetDateTime::now_utc()).whole_seconds()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_takes_over_in_the_middle_of_an_order_orders_at_once() {
    let echo = Echo::start().await;
    let fake = FakeAuthority::start().await;
    // Each order waits for its first answer.
    fake.set_mode("silent");
    let tables = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nacme = true\n[acme]\n\
         directory = \"http://{}/dir\"\nterms_agreed = true\ntimeout = \"60s\"\n\
         domains = [\"{DOMAIN}\"]\n",
        fake.address
    );
    let node = "edge-1\"\ntakeover = \"takeover.sock";
    let mut usher = Setup::new(echo.url()).extra(&tables).node(node).drain("12h").start().await;
    usher.pin_addresses();
    let orders = |usher: &Usher| usher.log().matches("\"event\":\"acme_order\"").count();
    eventually("the order begins", async || (orders(&usher) == 1).then_some(())).await;
    let mut live = usher.connect("ada").await;
    let old = usher.replace().await;
    // The old process has dropped its order, and with it the lock.
    eventually("the new process orders", async || (orders(&usher) == 2).then_some(())).await;
    assert!(status(&usher).await["ordering"] == true);
    is_alive(&mut live).await;
    drop(live);
    assert!(old.exit().await.success());
    assert_eq!(orders(&usher), 2);
    assert!(!usher.log().contains("acme_failed"), "{}", usher.log());
    usher.finish().await;
}
