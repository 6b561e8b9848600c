//! Compares `usher explain` with a running Usher on a hundred requests.
//!
//! Both get the same bytes. The answer of the running Usher is read from the wire, the method and
//! the user from its log, and the upstream path from the upstream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use usher::ws::accept::accept_for;

use crate::explain::explained;
use crate::mtls::{authority, client};
use crate::support::redis::{RedisServer, free_port};
use crate::support::verifier_server::VerifierServer;
use crate::support::{KeyServer, Setup, Signer, Usher, eventually, token, upgrade_request};

const PATIENCE: Duration = Duration::from_secs(30);
const TICKETS: &str = "/websocket/ticket";
const PAGE: &str = "https://app.example.com";
const BYPASS: &str = "bypass-canary-0123456789-0123456789-0123456789";

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["header", "subprotocol", "query", "cookie"]
    origins = ["https://app.example.com"]
    [[route]]
    path = "/rooms/{room}"
    upstream = "chat"
    auth = ["header"]
    require = ["chat:read", "room:{room}"]
    [[route]]
    path = "/old"
    upstream = "chat"
    auth = ["ticket", "header"]
    legacy = ["header"]
    deprecated = "2026-01-01"
    rollout = { ticket = 50, enforce = true }
    [[route]]
    path = "/lagging"
    upstream = "chat"
    auth = ["ticket", "header"]
    legacy = ["header"]
    deprecated = "2026-01-01"
    rollout = { ticket = 100 }
    [[route]]
    path = "/watched"
    upstream = "chat"
    auth = ["header"]
    shadow = ["query"]
    [[route]]
    path = "/close"
    upstream = "chat"
    auth = ["header"]
    reject_mode = "close"
    close_codes = "http"
    [[route]]
    path = "/tickets"
    upstream = "chat"
    auth = ["ticket"]
    [[route]]
    path = "/message"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    require = ["chat:read"]
    [[route]]
    path = "/codes"
    upstream = "chat"
    auth = ["message"]
    close_codes = "http"
    [[route]]
    path = "/opaque"
    upstream = "chat"
    auth = ["session", "header"]
    origins = ["https://app.example.com"]
    verifier = "login"
    [[route]]
    path = "/certified"
    upstream = "chat"
    auth = ["mtls"]
    [[route]]
    path = "/tests"
    upstream = "chat"
    auth = ["bypass"]
    [[route]]
    path = "/api/*"
    upstream = "chat"
    auth = ["header", "cookie"]
    origins = ["https://app.example.com"]
    strip_prefix = "/api"
    [[route]]
    path = "/named"
    upstream = "chat"
    auth = ["header"]
    identity_headers = { "X-User-Id" = "sub" }
    [[route]]
    path = "/public/*"
    upstream = "chat"
    auth = []
    [[route]]
    path = "/hosted"
    hosts = ["chat.example.com"]
    upstream = "chat"
    auth = ["header"]
"#;

/// One request of the table.
#[derive(Clone, Debug, Default)]
struct Case {
    /// `None` upgrades. Any other method is plain HTTP.
    method: Option<&'static str>,
    target: String,
    headers: String,
    /// The field and the value of the credential in the first message: `token` or `ticket`.
    message: Option<(&'static str, String)>,
    /// The name of the client certificate.
    certificate: Option<&'static str>,
}

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: u64,
    /// The outcome in metrics and logs. It is `accepted` if the request is let in.
    label: String,
    code: Option<String>,
    close_code: Option<u64>,
    method: Option<String>,
    user: Option<String>,
    upstream_path: Option<String>,
}

/// An upstream that accepts every request and notes its path by the request id.
struct Upstream {
    url: String,
    paths: Arc<Mutex<HashMap<String, String>>>,
    serving: JoinHandle<()>,
}

impl Upstream {
    /// The status of its answers to plain HTTP.
    const STATUS: u64 = 203;

    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let paths: Arc<Mutex<HashMap<String, String>>> = Arc::default();
        let book = Arc::clone(&paths);
        let serving = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let book = Arc::clone(&book);
                tokio::spawn(async move {
                    let head = read_head(&mut socket).await;
                    let id = header(&head, "x-request-id").unwrap();
                    let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap();
                    book.lock().unwrap().insert(id, path.to_owned());
                    let answer = match header(&head, "sec-websocket-key") {
                        Some(key) => format!(
                            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                             Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                            accept_for(key.as_bytes())
                        ),
                        None => format!(
                            "HTTP/1.1 {} Other\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                            Self::STATUS
                        ),
                    };
                    let _ = socket.write_all(answer.as_bytes()).await;
                    // A session lasts until its client leaves.
                    if answer.starts_with("HTTP/1.1 101") {
                        let _ = socket.read_to_end(&mut Vec::new()).await;
                    }
                });
            }
        });
        Self { url, paths, serving }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match timeout(PATIENCE, stream.read_u8()).await.expect("no head arrived") {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}

/// Returns the code of the first close frame among these frames of a server.
fn close_code(mut frames: &[u8]) -> Option<u64> {
    while let [first, length, rest @ ..] = frames {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        let payload = rest.get(..length)?;
        if first & 0x0f == 8 {
            return Some(u64::from(u16::from_be_bytes([payload[0], payload[1]])));
        }
        frames = &rest[length..];
    }
    None
}

/// Returns a text message of a client, masked with zeros.
fn masked(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&[0x81, 0x80 | 126][..], &length, &[0; 4], text.as_bytes()].concat()
}

impl Case {
    fn bytes(&self) -> String {
        match self.method {
            None => upgrade_request(&self.target, &self.headers),
            Some(method) => format!(
                "{method} {} HTTP/1.1\r\nHost: chat.example.com\r\n{}Connection: close\r\n\r\n",
                self.target, self.headers
            ),
        }
    }

    /// The line about a ticket that was issued does not name the method.
    fn asks_for_a_ticket(&self) -> bool {
        self.target == TICKETS
    }

    /// Sends the request to a running Usher.
    async fn live(&self, world: &World) -> Outcome {
        match self.certificate {
            None => {
                let stream = TcpStream::connect(world.usher.plain).await.unwrap();
                self.exchange(stream, world).await
            }
            Some(name) => {
                let tcp = TcpStream::connect(("127.0.0.1", world.certified_port)).await.unwrap();
                let connector = world.connector(name);
                let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
                self.exchange(stream, world).await
            }
        }
    }

    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        world: &World,
    ) -> Outcome {
        stream.write_all(self.bytes().as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        let status: u64 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let id = header(&head, "x-request-id").unwrap();
        if let (101, Some((kind, credential))) = (status, &self.message) {
            let payload = json!({ (*kind): credential });
            let text = json!({ "type": "auth", "id": "1", "payload": payload }).to_string();
            stream.write_all(&masked(&text)).await.unwrap();
        }
        let line = world.end_of(&id).await;
        let event = line["event"].as_str().unwrap();
        let is_rejected = event.ends_with("_rejected") || event == "ticket_refused";
        let mut rest = Vec::new();
        if is_rejected {
            let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
                .await
                .expect("the connection stayed open");
        }
        let problem: Value = serde_json::from_slice(&rest).unwrap_or_default();
        let text =
            |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Outcome {
            status,
            label: text(&line["outcome"]).unwrap_or_else(|| "accepted".to_owned()),
            code: text(&problem["code"]),
            close_code: if status == 101 { close_code(&rest) } else { None },
            method: text(&line["method"]).filter(|_| !self.asks_for_a_ticket()),
            user: text(&line["user"]),
            upstream_path: world.upstream.paths.lock().unwrap().get(&id).cloned(),
        }
    }

    /// Asks `usher explain` about the same request.
    async fn explained(&self, number: usize, world: &World) -> (Outcome, Value) {
        let usher = &world.usher;
        let file = usher.folder().join(format!("request-{number}.txt"));
        std::fs::write(&file, self.bytes().replace("\r\n", "\n")).unwrap();
        let scheme = match (self.certificate, self.method) {
            (Some(_), _) => "wss",
            (None, None) => "ws",
            (None, Some(_)) => "http",
        };
        let port = if self.certificate.is_some() { world.certified_port } else { 80 };
        let url = format!("{scheme}://chat.example.com:{port}{}", self.target);
        let folder = usher.folder().display().to_string();
        let mut arguments = vec!["--allow-bypass".to_owned(), "--headers-file".to_owned()];
        arguments.push(file.display().to_string());
        arguments
            .extend(self.method.iter().flat_map(|method| ["--method", method]).map(Into::into));
        if let Some(name) = self.certificate.filter(|name| *name != NO_CERTIFICATE) {
            arguments.extend(["--certificate-file".to_owned(), format!("{folder}/{name}.pem")]);
        }
        let mut input = "";
        if let Some((kind, credential)) = &self.message {
            let file = format!("--{kind}-file");
            arguments.extend([&*file, "-", "--as", "message"].map(str::to_owned));
            input = credential.as_str();
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let told = explained(usher, &url, &arguments, input).await;
        let verdict = &told["verdict"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_let_in = verdict["let_in"].as_bool().unwrap_or_else(|| panic!("{told:#}"));
        let close_code = verdict["close_code"].as_u64();
        let label = text(&verdict["label"]).unwrap_or_else(|| "accepted".to_owned());
        let outcome = Outcome {
            // A request that is passed on gets the status of the upstream.
            status: verdict["status"].as_u64().unwrap_or(Upstream::STATUS),
            label: label.clone(),
            // Only a body has the code, and a close frame does not.
            code: text(&verdict["code"]).filter(|_| close_code.is_none()),
            close_code,
            // A running Usher does not look for a credential if the upgrade is malformed.
            method: text(&told["method"])
                .filter(|_| !label.starts_with("upgrade_") && !self.asks_for_a_ticket()),
            user: text(&verdict["user"]),
            upstream_path: text(&told["upstream"]["path"]),
        };
        assert_eq!(is_let_in, outcome.label == "accepted", "{told:#}");
        (outcome, told)
    }
}

impl Case {
    /// Asks both. Returns the difference if their answers differ.
    async fn check(&self, number: usize, world: &World) -> Option<String> {
        // The explanation comes first: it does not spend the ticket of the request.
        let (explained, told) = self.explained(number, world).await;
        let live = self.live(world).await;
        let text = told.to_string();
        let secrets = [self.headers.split_once("Bearer "), self.target.split_once("access_token=")];
        for (_, behind) in secrets.into_iter().flatten() {
            let secret: String =
                behind.chars().take_while(|c| !c.is_whitespace() && *c != '&').collect();
            let signature = secret.rsplit('.').next().unwrap_or_default();
            assert!(signature.len() < 20 || !text.contains(signature), "a signature is in {text}");
        }
        let steps = &told["steps"];
        (explained != live)
            .then(|| format!("{self:?}\nexplained {explained:?}\nlive      {live:?}\n{steps:#}"))
    }
}

/// Not the name of a certificate: the client connects without one to the listener that asks for
/// one.
const NO_CERTIFICATE: &str = "none";

struct World {
    usher: Usher,
    upstream: Upstream,
    certified_port: u16,
}

impl World {
    /// Returns the log line with the end of a request, or with the start of its session.
    async fn end_of(&self, id: &str) -> Value {
        let line = format!("\"request_id\":\"{id}\"");
        let is_end = |line: &Value| {
            let event = line["event"].as_str().unwrap_or_default();
            let ends = [
                "session_started",
                "upgrade_rejected",
                "request_rejected",
                "http_forwarded",
                "ticket_issued",
                "ticket_refused",
            ];
            ends.contains(&event)
        };
        eventually(format!("the log has an end of {id}"), async || {
            let log = self.usher.log();
            let lines = log.lines().filter(|one| one.contains(&line));
            lines.filter_map(|one| serde_json::from_str(one).ok()).find(is_end)
        })
        .await
    }

    fn connector(&self, name: &str) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.usher.certificate()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let file = |kind: &str| self.usher.folder().join(format!("{name}.{kind}"));
        let config = if name == NO_CERTIFICATE {
            config.with_no_client_auth()
        } else {
            let leaf = CertificateDer::from_pem_file(file("pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
            config.with_client_auth_cert(vec![leaf], key).unwrap()
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn raw_token(header: &Value, claims: &Value) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(token::SECRET.as_bytes());
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn upgrade(target: &str, headers: impl Into<String>) -> Case {
    Case { target: target.to_owned(), headers: headers.into(), ..Case::default() }
}

fn plain(method: &'static str, target: &str, headers: impl Into<String>) -> Case {
    Case { method: Some(method), ..upgrade(target, headers) }
}

fn message(target: &str, kind: &'static str, credential: &str) -> Case {
    Case { message: Some((kind, credential.to_owned())), ..upgrade(target, "") }
}

fn certified(certificate: &'static str, headers: impl Into<String>) -> Case {
    Case { certificate: Some(certificate), ..upgrade("/certified", headers) }
}

/// Credentials in headers, queries, subprotocols and cookies, valid and invalid.
fn token_cases(usher: &Usher) -> Vec<Case> {
    let ada = usher.token("ada");
    let with = |changes: Value| bearer(&usher.token_with("ada", changes));
    let encoded = URL_SAFE_NO_PAD.encode(&ada);
    let unsigned = raw_token(&json!({ "alg": "none" }), &token::claims("eve", json!({})));
    let key = EncodingKey::from_secret(b"x");
    let claims = token::claims("eve", json!({}));
    let stranger = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    usher.keep_secret(&unsigned);
    usher.keep_secret(&stranger);
    let page = format!("Origin: {PAGE}\r\n");
    vec![
        upgrade("/ws", bearer(&ada)),
        upgrade("/ws", format!("{page}{}", bearer(&ada))),
        upgrade(&format!("/ws?access_token={ada}"), ""),
        upgrade(&format!("/ws?room=1&access_token={ada}&b=2"), ""),
        upgrade(&format!("/ws?access_token={ada}&access_token={ada}"), ""),
        upgrade("/ws?access_token=", ""),
        upgrade("/ws", format!("Sec-WebSocket-Protocol: chat, bearer, {ada}\r\n")),
        upgrade("/ws", format!("Sec-WebSocket-Protocol: bearer.{ada}\r\n")),
        upgrade(
            "/ws",
            format!("Sec-WebSocket-Protocol: base64url.bearer.authorization.{encoded}\r\n"),
        ),
        upgrade("/ws", "Sec-WebSocket-Protocol: bearer\r\n"),
        upgrade("/ws", format!("Cookie: a=b; access_token={ada}\r\n{page}")),
        upgrade("/ws", format!("Cookie: access_token={ada}; access_token=b\r\n{page}")),
        upgrade("/ws", format!("Cookie: access_token={ada}\r\n")),
        upgrade("/ws", format!("Cookie: access_token=wrong\r\n{page}")),
        upgrade("/ws", format!("{}Cookie: access_token=wrong\r\n", bearer(&ada))),
        upgrade("/ws", format!("{}Authorization: Basic YTpi\r\n", bearer(&ada))),
        upgrade("/ws", "Authorization: Basic YTpi\r\n"),
        upgrade("/ws", ""),
        upgrade("/ws", format!("{}Origin: https://evil.example.com\r\n", bearer(&ada))),
        upgrade("/ws", "Origin: https://evil.example.com\r\n"),
        upgrade("/ws", format!("{}Origin: null\r\n", bearer(&ada))),
        upgrade("/ws", format!("{page}{}Origin: null\r\n", bearer(&ada))),
        upgrade("/ws", with(json!({ "exp": token::now() - 1 }))),
        upgrade("/ws", with(json!({ "nbf": token::now() + 60 }))),
        upgrade("/ws", with(json!({ "aud": "other" }))),
        upgrade("/ws", with(json!({ "iss": "https://nobody.example.com" }))),
        upgrade("/ws", with(json!({ "sub": null }))),
        upgrade("/ws", with(json!({ "permissions": 5 }))),
        upgrade("/ws", with(json!({ "x": "x".repeat(9000) }))),
        upgrade("/ws", bearer(&unsigned)),
        upgrade("/ws", bearer(&stranger)),
        upgrade("/ws", bearer("abc")),
        upgrade("/named", bearer(&usher.token("ada"))),
        upgrade("/named", bearer(&usher.token("ad\u{e4}"))),
    ]
}

/// Issuers with published keys, and issuers whose keys cannot be fetched.
fn issuer_cases(usher: &Usher, keys: &KeyServer, away: &KeyServer) -> Vec<Case> {
    let good = Signer::new("published");
    let other = Signer::new("elsewhere");
    keys.publish(&[&good]);
    let other_audience = json!({ "aud": "other" });
    vec![
        upgrade("/ws", bearer(&usher.token_with("ada", json!({ "iss": keys.issuer.clone() })))),
        upgrade("/ws", bearer(&good.token(keys, "ada", json!({})))),
        upgrade("/ws", bearer(&other.token(keys, "ada", json!({})))),
        upgrade("/ws", bearer(&other.token(keys, "ada", other_audience))),
        upgrade("/ws", bearer(&good.token(away, "ada", json!({})))),
    ]
}

/// Spellings of paths, required permissions, and malformed upgrades.
fn path_cases(usher: &Usher) -> Vec<Case> {
    let ada = bearer(&usher.token("ada"));
    let with =
        |permissions: &str| bearer(&usher.token_with("ada", json!({ "permissions": permissions })));
    vec![
        upgrade("/rooms/blue", with("chat:read room:blue")),
        upgrade("/rooms/red", with("chat:read room:blue")),
        upgrade("/rooms/a:b", with("chat:read room:a:b")),
        upgrade("/rooms/bl%75e", with("chat:read room:blue")),
        upgrade("/rooms/", &*ada),
        upgrade("/rooms/a%2fb", &*ada),
        upgrade("/rooms//blue", &*ada),
        upgrade("/rooms/blue;x=1", with("chat:read room:blue")),
        upgrade("/rooms/../ws", &*ada),
        upgrade("/WS", &*ada),
        upgrade("/nowhere", &*ada),
        upgrade("/hosted", &*ada),
        upgrade("/public/x", ""),
        upgrade("/public/x?ticket=short", "Authorization: Bearer kept\r\n"),
        upgrade("/api/rooms/blue?x=1", &*ada),
        upgrade("/ws", format!("{ada}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
        upgrade("/ws", format!("{ada}Expect: 100-continue\r\n")),
        upgrade("/ws", format!("{ada}Content-Length: 1\r\n")),
        upgrade("/ws", format!("{ada}Host: other.example.com\r\n")),
        upgrade("/close", with("chat:read")),
        upgrade("/close", bearer(&usher.token_with("ada", json!({ "exp": 5 })))),
        upgrade("/close", ""),
        upgrade("/close", format!("{ada}Sec-WebSocket-Version: 8\r\n")),
    ]
}

/// Shares of a migration, and methods in shadow mode.
fn migration_cases(usher: &Usher) -> Vec<Case> {
    let ada = bearer(&usher.token("ada"));
    let mut cases = vec![
        upgrade("/lagging", &*ada),
        upgrade("/watched", &*ada),
        upgrade("/watched?access_token=wrong", &*ada),
        upgrade(&format!("/watched?access_token={}", usher.token("bob")), ""),
        plain("GET", "/old", &*ada),
    ];
    // Some of these users are in the share and some are not.
    let users = (0..6).map(|number| usher.token(&format!("user {number}")));
    cases.extend(users.map(|token| upgrade("/old", bearer(&token))));
    cases
}

/// Tickets, first messages, sessions, certificates and test identities.
async fn other_methods(usher: &Usher, verifier: &VerifierServer) -> Vec<Case> {
    let ada = usher.token("ada");
    let ticket = || async { usher.issue_ticket(&ada).await };
    let page = format!("Origin: {PAGE}\r\n");
    let no_rights = usher.token_with("ada", json!({ "permissions": "" }));
    verifier.knows("session-of-ada", "ada");
    verifier.knows("token-of-bob", "bob");
    let bypass = |value: &str| format!("X-Usher-Bypass: {value}\r\n");
    vec![
        upgrade(&format!("/tickets?ticket={}", ticket().await), ""),
        upgrade(&format!("/tickets?a=1&ticket={}", ticket().await), ""),
        upgrade("/tickets?ticket=short", ""),
        upgrade(&format!("/tickets?ticket={}", "A".repeat(43)), ""),
        upgrade("/tickets", bearer(&ada)),
        upgrade(&format!("/old?ticket={}", ticket().await), ""),
        message("/message", "token", &ada),
        message("/message", "token", &no_rights),
        message("/message", "token", "abc"),
        message("/message", "ticket", &ticket().await),
        message("/message", "ticket", "short"),
        message("/codes", "token", &usher.token_with("ada", json!({ "exp": 5 }))),
        message("/codes", "token", &ada),
        upgrade("/message", bearer(&ada)),
        upgrade("/message", bearer("abc")),
        upgrade("/opaque", format!("{page}Cookie: session=session-of-ada\r\n")),
        upgrade("/opaque", format!("{page}Cookie: session=unknown-session\r\n")),
        upgrade("/opaque", "Cookie: session=session-of-ada\r\n"),
        upgrade("/opaque", bearer("token-of-bob")),
        upgrade("/opaque", bearer("token-of-nobody")),
        certified("ada", ""),
        certified("nameless", ""),
        certified("ada", page),
        certified(NO_CERTIFICATE, ""),
        upgrade("/tests", bypass(&format!("{BYPASS} ada"))),
        upgrade("/tests", bypass("wrong ada")),
        upgrade("/tests", ""),
    ]
}

/// Plain HTTP on the same routes.
fn plain_cases(usher: &Usher) -> Vec<Case> {
    let ada = usher.token("ada");
    vec![
        plain("GET", "/ws", bearer(&ada)),
        plain("GET", "/ws", ""),
        plain("GET", "/ws", bearer(&usher.token_with("ada", json!({ "aud": "x" })))),
        plain("GET", "/none", ""),
        plain("GET", "/public/x?y=1", ""),
        plain("DELETE", "/api/rooms/blue?x=1", bearer(&ada)),
        plain("GET", "/api/rooms", format!("Cookie: access_token={ada}\r\n")),
        plain("DELETE", "/api/rooms", format!("Cookie: access_token={ada}\r\n")),
        plain("GET", "/api/rooms", format!("Origin: https://evil.example.com\r\n{}", bearer(&ada))),
        plain("GET", "/message", ""),
        plain("GET", "/rooms/red", bearer(&ada)),
        plain("GET", "/close", ""),
    ]
}

/// Requests for a ticket.
fn ticket_cases(usher: &Usher) -> Vec<Case> {
    let ada = usher.token("ada");
    let page = format!("Origin: {PAGE}\r\n");
    let foreign = "Origin: https://evil.example.com\r\n";
    vec![
        plain("POST", TICKETS, bearer(&ada)),
        plain("POST", TICKETS, format!("{page}{}", bearer(&ada))),
        plain("POST", TICKETS, format!("{foreign}{}", bearer(&ada))),
        plain("POST", TICKETS, ""),
        plain("POST", TICKETS, bearer("no-token")),
        plain("POST", TICKETS, bearer(&usher.token_with("ada", json!({ "aud": "x" })))),
        plain("POST", TICKETS, format!("{}{}", bearer(&ada), bearer(&ada))),
        plain("POST", TICKETS, format!("{page}Cookie: access_token={ada}\r\n")),
        plain("POST", TICKETS, format!("Cookie: access_token={ada}\r\n")),
        plain("POST", TICKETS, format!("{foreign}Cookie: access_token={ada}\r\n")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_agrees_with_a_running_usher_on_a_hundred_requests() {
    let upstream = Upstream::start().await;
    let redis = RedisServer::start(&[]);
    let verifier = VerifierServer::start().await;
    let first = Signer::new("first");
    let keys = KeyServer::publishing(&[&first]).await;
    let away = KeyServer::publishing(&[&first]).await;
    away.say("500 Internal Server Error", "");
    let clients = authority("clients");
    let day = 86_400;
    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
    let [ada, ada_key] = client(&clients, Some("ada"), day, purpose.clone());
    let [nameless, nameless_key] = client(&clients, None, day, purpose);
    let certified_port = free_port();
    let tables = format!(
        "[store]\nurl = \"{}\"\ntimeout = \"10s\"\n[bypass]\nsecret_file = \"bypass-secret\"\n\
         [tickets]\n\
         rate_per_user = \"1000/1m\"\n{}\n\
         [[listener]]\naddress = \"127.0.0.1:{certified_port}\"\n\
         certificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]\n\
         client_ca = \"clients.pem\"\n",
        redis.url(),
        verifier.table("login", "http", "")
    );
    let issuers =
        format!("{}{}", keys.table("keys", ""), away.table("away", "jwks_timeout = \"500ms\""));
    let usher = Setup::new(upstream.url.clone())
        .routes(ROUTES)
        .issuer(&issuers)
        .extra(&tables)
        .file("bypass-secret", BYPASS.to_owned())
        .file("clients.pem", clients.pem())
        .file("ada.pem", ada)
        .file("ada.key", ada_key)
        .file("nameless.pem", nameless)
        .file("nameless.key", nameless_key)
        .argument("--allow-bypass")
        .start()
        .await;
    usher.keep_secret(BYPASS);
    let mut cases = token_cases(&usher);
    cases.extend(issuer_cases(&usher, &keys, &away));
    cases.extend(path_cases(&usher));
    cases.extend(migration_cases(&usher));
    cases.extend(other_methods(&usher, &verifier).await);
    cases.extend(plain_cases(&usher));
    cases.extend(ticket_cases(&usher));
    assert!(cases.len() >= 100, "{}", cases.len());

    let world = World { usher, upstream, certified_port };
    let mut different = Vec::new();
    // A few at a time: each explanation is a process.
    for (first, some) in cases.chunks(4).enumerate() {
        let checks =
            some.iter().enumerate().map(|(number, case)| case.check(first * 4 + number, &world));
        different.extend(join_all(checks).await.into_iter().flatten());
    }
    assert!(
        different.is_empty(),
        "{} of {} differ:\n{}",
        different.len(),
        cases.len(),
        different.join("\n\n")
    );
    world.usher.finish().await;
}
