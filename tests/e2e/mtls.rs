//! Client certificates with clients of other projects: OpenSSL through Python and on the command
//! line, curl, and rustls.

use std::process::{Command, Output};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::first_message::close_frame;
use crate::revocation::{JSON, post};
use crate::support::client::websocket;
use crate::support::usher::Socket;
use crate::support::{Backend, Echo, Setup, Usher, upgrade_request};

const LISTENERS: &str = r#"
    [[listener]]
    address = "127.0.0.1:0"
    certificates = [{ cert = "cert.pem", key = "key.pem" }]
    client_ca = "clients.pem"
    [[listener]]
    address = "127.0.0.1:0"
    certificates = [{ cert = "cert.pem", key = "key.pem" }]
    client_ca = "clients.pem"
    client_auth = "required"
    [[listener]]
    address = "127.0.0.1:0"
    certificates = [{ cert = "cert.pem", key = "key.pem" }]
    client_ca = "others.pem"
    [[listener]]
    address = "127.0.0.1:0"
    certificates = [{ cert = "cert.pem", key = "key.pem" }]
    client_ca = "clients.pem"
    trusted_peers = ["127.0.0.1"]
    [mtls]
    permissions = ["chat:read"]
"#;
const ROUTES: &str = r#"
    [[route]]
    path = "/who"
    upstream = "chat"
    auth = ["mtls"]
    require = ["chat:read"]
    identity_headers = { "X-User-Id" = "sub" }
    [[route]]
    path = "/either"
    upstream = "chat"
    auth = ["mtls", "header"]
    identity_headers = { "X-User-Id" = "sub" }
    [[route]]
    path = "/token-first"
    upstream = "chat"
    auth = ["header", "mtls"]
    identity_headers = { "X-User-Id" = "sub" }
    [[route]]
    path = "/pages"
    upstream = "chat"
    auth = ["mtls"]
    origins = ["https://app.example.com"]
    [[route]]
    path = "/admin"
    upstream = "chat"
    auth = ["mtls"]
    require = ["chat:admin"]
"#;
const OPTIONAL: usize = 2;
const REQUIRED: usize = 3;
const OTHER: usize = 4;
const TRUSTED: usize = 5;

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Returns a certificate and its key in PEM, valid for so many seconds from now.
pub fn client(
    authority: &Authority,
    name: Option<&str>,
    seconds: i64,
    purpose: ExtendedKeyUsagePurpose,
) -> [String; 2] {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
    params.not_after = OffsetDateTime::now_utc() + Duration::seconds(seconds);
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    [params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem()]
}

struct Clients {
    usher: Usher,
}

impl Clients {
    async fn start(upstream: &str, short: i64) -> Self {
        let (ours, others) = (authority("clients"), authority("others"));
        // This authority has the same name as `ours`, and another key.
        let twin = authority("clients");
        let (day, purpose) = (86_400, ExtendedKeyUsagePurpose::ClientAuth);
        let mut setup = Setup::new(upstream)
            .routes(ROUTES)
            .extra(LISTENERS)
            .file("clients.pem", ours.pem())
            .file("others.pem", others.pem());
        for (file, [certificate, key]) in [
            ("ada", client(&ours, Some("ada"), day, purpose.clone())),
            ("bob", client(&ours, Some("bob"), day, purpose.clone())),
            ("nameless", client(&ours, None, day, purpose.clone())),
            ("short", client(&ours, Some("short"), short, purpose.clone())),
            ("expired", client(&ours, Some("ada"), -day, purpose.clone())),
            ("stranger", client(&others, Some("ada"), day, purpose.clone())),
            ("forger", client(&twin, Some("ada"), day, purpose)),
            ("server", client(&ours, Some("ada"), day, ExtendedKeyUsagePurpose::ServerAuth)),
        ] {
            setup =
                setup.file(&format!("{file}.pem"), certificate).file(&format!("{file}.key"), key);
        }
        Self { usher: setup.start().await }
    }

    /// Reloads the configuration, and waits until this many reloads of the process were applied.
    async fn reload(&self, number: usize) {
        self.usher.signal("HUP");
        let line = format!("usher_reloads_total{{outcome=\"applied\"}} {number}");
        self.usher.until_metric(&line).await;
    }

    fn path(&self, file: &str) -> String {
        self.usher.certificate_path().with_file_name(file).display().to_string()
    }

    fn fingerprint(&self, name: &str) -> String {
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn connector(&self, name: Option<&str>) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.usher.certificate()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate =
                    CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    async fn open(
        &self,
        connector: &TlsConnector,
        listener: usize,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, Value> {
        let address = self.usher.listeners[listener];
        let tcp = TcpStream::connect(address).await.unwrap();
        let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        let mut request =
            format!("wss://localhost:{}{target}", address.port()).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        match websocket(request, stream).await {
            Ok(socket) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => {
                Err(serde_json::from_slice(answer.body().as_deref().unwrap_or_default())
                    .unwrap_or(json!({ "status": answer.status().as_u16() })))
            }
            Err(other) => panic!("{other}"),
        }
    }

    async fn run(&self, program: &'static str, arguments: Vec<String>) -> Output {
        tokio::task::spawn_blocking(move || {
            Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output()
        })
        .await
        .unwrap()
        .unwrap()
    }
}

fn claims_of(echo: &Echo) -> Value {
    let visits = echo.visits();
    let header = visits.last().unwrap().all("x-user-context")[0].to_owned();
    let payload = header.split('.').nth(1).unwrap();
    serde_json::from_slice(
        &base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload)
            .unwrap(),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_shows_good_and_bad_certificates_and_resumes_as_itself_in_both_versions() {
    let echo = Echo::start().await;
    let clients = Clients::start(&echo.url(), 86_400).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients/python/mtls.py");
    let ports = [OPTIONAL, REQUIRED, OTHER]
        .map(|listener| clients.usher.listeners[listener].port().to_string());
    let folder = clients.usher.certificate_path().parent().unwrap().display().to_string();
    let output =
        clients.run("python3", [vec![script.to_owned(), folder], ports.to_vec()].concat()).await;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim() == "ok", "{out}{err}");
    let visits = echo.visits();
    assert_eq!(visits.len(), 12, "two versions, two listeners, three turns");
    assert!(
        visits.iter().all(|visit| visit.all("x-user-id") == ["ada"]),
        "a resumed session belongs to the same client"
    );
    let metrics = clients.usher.metrics().await;
    let failed: u64 = metrics
        .lines()
        .find_map(|line| {
            line.strip_prefix("usher_tls_handshakes_total{outcome=\"certificate\"} ")?.parse().ok()
        })
        .unwrap();
    assert_eq!(failed, 2 * (2 + 1 + 2 * 4), "{metrics}");
    clients.usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_and_curl_on_the_command_line_get_the_same_answers() {
    let backend = Backend::start().await;
    let clients = Clients::start(&backend.url(), 86_400).await;
    let port = clients.usher.listeners[REQUIRED].port();
    let s_client = |name: &'static str, version: &'static str| {
        let (ca, cert, key) = (
            clients.path("cert.pem"),
            clients.path(&format!("{name}.pem")),
            clients.path(&format!("{name}.key")),
        );
        let words = format!(
            "s_client -connect 127.0.0.1:{port} -servername localhost -verify_return_error \
             {version} -ign_eof"
        );
        let mut arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
        arguments.extend([
            "-CAfile".to_owned(),
            ca,
            "-cert".to_owned(),
            cert,
            "-key".to_owned(),
            key,
        ]);
        clients.run("openssl", arguments)
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let output = s_client("stranger", version).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("alert unknown ca"), "{version}: {told}");
        let asked = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            asked.contains("CN = clients"),
            "the client hears which authority is meant: {asked}"
        );
    }
    let curl = |name: Option<&'static str>, listener: usize, target: &str| {
        let url = format!("https://localhost:{}{target}", clients.usher.listeners[listener].port());
        let mut arguments =
            vec!["-s".to_owned(), "--http1.1".to_owned(), "--max-time".to_owned(), "15".to_owned()];
        arguments.extend([
            "--cacert".to_owned(),
            clients.path("cert.pem"),
            "-w".to_owned(),
            "\n%{http_code}".to_owned(),
            url,
        ]);
        if let Some(name) = name {
            arguments.extend([
                "--cert".to_owned(),
                clients.path(&format!("{name}.pem")),
                "--key".to_owned(),
                clients.path(&format!("{name}.key")),
            ]);
        }
        let run = clients.run("curl", arguments);
        async move {
            let output = run.await;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let (body, status) = text.rsplit_once('\n').unwrap();
            (status.parse::<u16>().unwrap(), body.to_owned(), output.status.code())
        }
    };
    for listener in [OPTIONAL, REQUIRED] {
        let (status, body, _) = curl(Some("ada"), listener, "/who").await;
        assert_eq!((status, body.as_str()), (200, "hello"));
        let heads = backend.heads();
        assert_eq!(heads.last().unwrap()["x-user-id"], "ada");
    }
    let (status, body, _) = curl(None, OPTIONAL, "/who").await;
    assert!(status == 401 && body.contains("MISSING_CREDENTIAL"), "{status} {body}");
    let (status, body, _) = curl(Some("ada"), OPTIONAL, "/admin").await;
    assert!(status == 403 && body.contains("`chat:admin`"), "{status} {body}");
    let (status, _, code) = curl(None, REQUIRED, "/who").await;
    assert!(status == 0 && code != Some(0), "the handshake ends: {code:?}");
    assert_eq!(backend.heads().len(), 2);
    clients.usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_in_its_place_among_the_methods() {
    let echo = Echo::start().await;
    let clients = Clients::start(&echo.url(), 86_400).await;
    let [ada, nameless, nobody] =
        [Some("ada"), Some("nameless"), None].map(|name| clients.connector(name));
    let eve = clients.usher.token("eve");
    let bearer = format!("Bearer {eve}");
    let token = [("authorization", bearer.as_str())];
    for (connector, target, headers, user) in [
        (&ada, "/who", &[][..], "ada"),
        (&ada, "/either", &token, "ada"),
        (&ada, "/token-first", &token, "eve"),
        (&ada, "/token-first", &[], "ada"),
        (&nobody, "/either", &token, "eve"),
    ] {
        drop(clients.open(connector, OPTIONAL, target, headers).await.unwrap());
        let visits = echo.visits();
        let visit = visits.last().unwrap();
        assert_eq!(visit.all("x-user-id"), [user], "{target}");
        assert!(
            visit.all("authorization").is_empty(),
            "the upstream got a token that was not needed"
        );
    }
    drop(clients.open(&ada, OPTIONAL, "/who", &[]).await.unwrap());
    let claims = claims_of(&echo);
    assert_eq!(
        (&claims["sub"], &claims["auth"]["method"], &claims["auth"]["issuer"]),
        (&json!("ada"), &json!("mtls"), &json!("mtls"))
    );
    assert!(claims["auth"].to_string().contains(&clients.fingerprint("ada")), "{claims}");
    assert_eq!(claims["permissions"], json!(["chat:read"]));

    let count = echo.visits().len();
    for (connector, listener, target, headers, code) in [
        // A client with a wrong certificate is refused, even with another good credential.
        (&nameless, OPTIONAL, "/either", &token[..], "INVALID_CERTIFICATE"),
        (&nameless, OPTIONAL, "/who", &[], "INVALID_CERTIFICATE"),
        (&nobody, OPTIONAL, "/who", &token, "MISSING_CREDENTIAL"),
        (&nobody, OPTIONAL, "/either", &[("authorization", "Bearer x")], "INVALID_TOKEN"),
        (&ada, OPTIONAL, "/admin", &[], "MISSING_PERMISSION"),
        // A trusted peer forwards requests of others, so its certificate is not that of the client.
        (&ada, TRUSTED, "/who", &[], "MISSING_CREDENTIAL"),
        // This listener does not ask for a certificate.
        (&ada, 0, "/who", &[], "MISSING_CREDENTIAL"),
    ] {
        let refused = clients.open(connector, listener, target, headers).await.unwrap_err();
        assert_eq!(refused["code"], code, "{target} {refused}");
    }
    assert_eq!(echo.visits().len(), count);
    let audit = clients.usher.finish().await;
    assert!(
        audit.iter().any(|line| line["event"] == "upgrade_rejected"
            && line.to_string().contains("has no user name")),
        "{audit:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_out_and_stays_out() {
    let echo = Echo::start().await;
    let clients = Clients::start(&echo.url(), 86_400).await;
    let [ada, bob] = [Some("ada"), Some("bob")].map(|name| clients.connector(name));
    for (order, name, connector) in [
        (json!({ "token_id": clients.fingerprint("ada") }), "ada", &ada),
        (json!({ "user": "bob", "issuer": "mtls" }), "bob", &bob),
    ] {
        let mut socket = clients.open(connector, OPTIONAL, "/who", &[]).await.unwrap();
        let (status, answer) = post(&clients.usher, JSON, &order.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
        // The client resumes its TLS session in the next handshake, and is refused as the same
        // client.
        for _ in 0..2 {
            assert_eq!(
                clients.open(connector, OPTIONAL, "/who", &[]).await.unwrap_err()["code"],
                "REVOKED",
                "{name}"
            );
        }
    }
    clients.usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_certificate_and_a_resumed_handshake_does_not_bring_it_back() {
    let echo = Echo::start().await;
    let clients = Clients::start(&echo.url(), 10).await;
    let connector = clients.connector(Some("short"));
    let mut socket = clients.open(&connector, OPTIONAL, "/who", &[]).await.unwrap();
    // Usher does not ask for a new token: the client has none.
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    assert_eq!(close_frame(&mut socket).await, (1008, "Session expired".to_owned()));
    let refused = clients.open(&connector, OPTIONAL, "/who", &[]).await.unwrap_err();
    assert_eq!(refused["code"], "INVALID_CERTIFICATE", "{refused}");
    let metrics = clients.usher.metrics().await;
    assert!(metrics.contains("usher_tls_handshakes_total{outcome=\"resumed\"} 1"), "{metrics}");
    let audit = clients.usher.finish().await;
    assert!(
        audit.iter().any(|line| line.to_string().contains("the certificate has expired")),
        "{audit:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_does_not_open_a_socket_with_the_certificate_that_its_browser_shows() {
    let echo = Echo::start().await;
    let clients = Clients::start(&echo.url(), 86_400).await;
    let ada = clients.connector(Some("ada"));
    let page = ("origin", "https://app.example.com");
    for (target, origin, is_in) in [
        ("/who", None, true),
        ("/who", Some(page.1), false),
        ("/who", Some("null"), false),
        ("/pages", Some(page.1), true),
        ("/pages", None, true),
        ("/pages", Some("https://evil.example"), false),
    ] {
        let headers: Vec<_> = origin.map(|origin| (page.0, origin)).into_iter().collect();
        match clients.open(&ada, OPTIONAL, target, &headers).await {
            Ok(_) => assert!(is_in, "{target} {origin:?}"),
            Err(refused) => assert!(
                !is_in && refused["code"] == "FORBIDDEN_ORIGIN",
                "{target} {origin:?} {refused}"
            ),
        }
    }
    // Where the token decides, a page may send it with or without a certificate.
    let bearer = format!("Bearer {}", clients.usher.token("eve"));
    drop(
        clients
            .open(&ada, OPTIONAL, "/token-first", &[page, ("authorization", &bearer)])
            .await
            .unwrap(),
    );
    clients.usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_does_not_outlive_the_authority_of_its_certificate() {
    let backend = Backend::start().await;
    let clients = Clients::start(&backend.url(), 86_400).await;
    let ada = clients.connector(Some("ada"));
    let address = clients.usher.listeners[OPTIONAL];
    let mut kept = Vec::new();
    for _ in 0..3 {
        let tcp = TcpStream::connect(address).await.unwrap();
        kept.push(ada.connect("localhost".try_into().unwrap(), tcp).await.unwrap());
    }
    let get = format!("GET /who HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", address.port());
    let upgrade = upgrade_request("/who", "");
    for stream in &mut kept {
        assert!(ask(stream, &get).await.starts_with("HTTP/1.1 200 "));
    }
    // Another authority beside ours changes nothing.
    let (ours, others) = (clients.path("clients.pem"), clients.path("others.pem"));
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    std::fs::write(&ours, read(&ours) + &read(&others)).unwrap();
    clients.reload(1).await;
    for stream in &mut kept {
        assert!(ask(stream, &get).await.starts_with("HTTP/1.1 200 "));
    }
    std::fs::write(&ours, read(&others)).unwrap();
    clients.reload(2).await;
    for (stream, request) in
        kept.iter_mut().zip([&get, &upgrade, &get.replace("/who", "/token-first")])
    {
        let answer = ask(stream, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 401 ") && answer.contains("INVALID_CERTIFICATE"),
            "{request} {answer}"
        );
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    clients.usher.finish().await;
}

/// Sends a request and reads the answer: its head, and as many bytes of the body as the head says.
pub async fn ask(stream: &mut tokio_rustls::client::TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = String::new();
    loop {
        if let Some((head, body)) = heard.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return heard;
            }
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await.unwrap() {
            0 => return heard,
            count => heard.push_str(std::str::from_utf8(&bytes[..count]).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_reloads_when_an_authority_is_removed() {
    let echo = Echo::start().await;
    let (ours, others) = (authority("clients"), authority("others"));
    let table = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
        certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]\nclient_ca = \"clients.pem\"\n";
    let usher = Setup::new(echo.url())
        .extra(table)
        .file("clients.pem", ours.pem() + &others.pem())
        .argument("--watch")
        .start()
        .await;
    std::fs::write(usher.folder().join("clients.pem"), others.pem()).unwrap();
    usher.until_metric("usher_reloads_total{outcome=\"applied\"} 1").await;
    usher.finish().await;
}
