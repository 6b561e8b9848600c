//! Usher as a child process, with its own configuration, certificate and secret.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::eventually::eventually_or;
use super::token::{self, SECRET};
use super::{client, upgrade_ends};

/// The table of another issuer with the same secret.
pub const OTHER_ISSUER: &str = r#"
    [[issuer]]
    name = "other"
    issuer = "https://other.example.com"
    audience = ["chat"]
    algorithms = ["HS256"]
    secret_file = "secret"
"#;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The time that a busy machine may need.
const PATIENCE: Duration = Duration::from_secs(30);

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Sends a message through Usher to the echo server, and waits for its echo.
pub async fn is_alive(socket: &mut Socket) {
    socket.send(Message::text("still here")).await.expect("the session has ended");
    let heard = timeout(PATIENCE, socket.next())
        .await
        .expect("no message came")
        .expect("the session has ended")
        .unwrap();
    assert_eq!(heard, Message::text("still here"));
}

/// A configuration that a test builds.
pub struct Setup {
    node: String,
    upstream: String,
    upstream_lines: String,
    routes: String,
    issuers: String,
    extra: String,
    drain: String,
    admin: String,
    files: Vec<(String, Vec<u8>)>,
    run: Vec<&'static str>,
}

pub struct Usher {
    child: Child,
    folder: PathBuf,
    pub tls: SocketAddr,
    pub plain: SocketAddr,
    /// All listeners in the order of the configuration: TLS, plain, and those of the test.
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
    connector: TlsConnector,
    /// Further arguments of `usher run`.
    run: Vec<&'static str>,
    log: Arc<Mutex<String>>,
    /// Secrets that must not appear in a log, a metric or an audit line.
    canaries: Mutex<Vec<String>>,
    /// Request ids of answered upgrades: those of earlier processes, and at the end all.
    answered: Vec<String>,
    /// Request ids of upgrades that were open when an earlier process was killed.
    lost: HashSet<String>,
    /// Whether one of the `finish` functions was called, or a new process has taken the folder
    /// over.
    is_finished: bool,
}

impl Setup {
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            node: String::new(),
            upstream: format!("\"{}\"", upstream.into()),
            upstream_lines: String::new(),
            routes: r#"
                [[route]]
                path = "/ws"
                upstream = "chat"
                auth = ["ticket", "header"]
                [[route]]
                path = "/api/*"
                upstream = "chat"
                auth = ["header"]
                [[route]]
                path = "/public/*"
                upstream = "chat"
                auth = []
            "#
            .to_owned(),
            issuers: String::new(),
            extra: String::new(),
            drain: "200ms".to_owned(),
            admin: String::new(),
            files: Vec::new(),
            run: Vec::new(),
        }
    }

    /// Sets the name of the node.
    pub fn node(mut self, name: &str) -> Self {
        self.node = format!("node = \"{name}\"");
        self
    }

    pub fn servers(mut self, servers: &[String]) -> Self {
        self.upstream =
            servers.iter().map(|server| format!("\"{server}\"")).collect::<Vec<_>>().join(", ");
        self
    }

    pub fn upstream_lines(mut self, lines: &str) -> Self {
        self.upstream_lines = lines.to_owned();
        self
    }

    pub fn routes(mut self, routes: &str) -> Self {
        self.routes = routes.to_owned();
        self
    }

    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuers.push_str(issuer);
        self
    }

    pub fn extra(mut self, tables: &str) -> Self {
        self.extra.push_str(tables);
        self
    }

    pub fn drain(mut self, window: &str) -> Self {
        self.drain = window.to_owned();
        self
    }

    /// Sets further keys of `[admin]`.
    pub fn admin_lines(mut self, lines: &str) -> Self {
        self.admin = lines.to_owned();
        self
    }

    /// Adds an argument of `usher run`.
    pub fn argument(mut self, argument: &'static str) -> Self {
        self.run.push(argument);
        self
    }

    /// Adds a file beside the configuration.
    pub fn file(self, name: &str, text: String) -> Self {
        self.binary(name, text.into_bytes())
    }

    pub fn binary(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.files.push((name.to_owned(), bytes));
        self
    }

    pub async fn start(self) -> Usher {
        tokio::task::spawn_blocking(move || self.start_blocking()).await.unwrap()
    }

    fn start_blocking(self) -> Usher {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("usher-e2e-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let connector = certificate(&folder);
        fs::write(folder.join("secret"), SECRET).unwrap();
        for (name, text) in &self.files {
            fs::write(folder.join(name), text).unwrap();
        }
        let Self { node, upstream, upstream_lines, routes, issuers, extra, drain, admin, .. } =
            &self;
        // At the end of most tests, a client is left that never answers a close frame. The short
        // timeout saves time.
        let keepalive = if extra.contains("[keepalive]") {
            ""
        } else {
            "[keepalive]\nclose_timeout = \"500ms\""
        };
        // Each refusal gets a log line, because tests look for theirs.
        let log = if extra.contains("[log]") { "" } else { "[log]\nrefusal_lines = 1000000" };
        let config = format!(
            r#"
            state_dir = "state"
            {node}
            [[listener]]
            address = "127.0.0.1:0"
            certificates = [{{ cert = "cert.pem", key = "key.pem" }}]
            [[listener]]
            address = "127.0.0.1:0"
            plain = true
            [[issuer]]
            name = "main"
            issuer = "https://id.example.com"
            audience = ["chat"]
            algorithms = ["HS256"]
            secret_file = "secret"
            leeway = "0s"
            {issuers}
            [[upstream]]
            name = "chat"
            servers = [{upstream}]
            {upstream_lines}
            {routes}
            [admin]
            address = "127.0.0.1:0"
            {admin}
            [audit]
            file = "audit.jsonl"
            [drain]
            window = "{drain}"
            {extra}
            {keepalive}
            {log}
            "#
        );
        fs::write(folder.join("usher.toml"), config).unwrap();
        Usher::launch(folder, connector, self.run)
    }
}

impl Usher {
    /// Makes the next process watch its files.
    pub fn watching(mut self) -> Self {
        self.run.push("--watch");
        self
    }

    /// Kills this process and starts a new one with the same files. The new one has other ports and
    /// an empty memory. Upgrades that are open now need no end.
    pub async fn kill_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.forgive_open_upgrades();
        self.hides_secrets_and_did_not_panic("");
        self.is_finished = true;
        let folder = std::mem::take(&mut self.folder);
        let connector = self.connector.clone();
        let run = std::mem::take(&mut self.run);
        let launch = move || Self::launch(folder, connector, run);
        let mut next = tokio::task::spawn_blocking(launch).await.unwrap();
        next.canaries = std::mem::take(&mut self.canaries);
        next.answered = std::mem::take(&mut self.answered);
        next.lost = std::mem::take(&mut self.lost);
        next
    }

    /// Writes the bound addresses in place of port 0, so that another process can take them over.
    pub fn pin_addresses(&self) {
        let path = self.config_path();
        let text = fs::read_to_string(&path).unwrap();
        let pin = |text: &str, address: SocketAddr| {
            text.replacen("\"127.0.0.1:0\"", &format!("\"{address}\""), 1)
        };
        // A test may have added listeners behind `[admin]`.
        let (before, behind) = text.split_once("[admin]").unwrap();
        let mut text = format!("{before}[admin]{}", pin(behind, self.admin));
        for address in &self.listeners {
            text = pin(&text, *address);
        }
        fs::write(path, text).unwrap();
    }

    /// Starts another process that takes over from this one, and returns the old one, which drains.
    /// From now on, this is the new one. Both write into one log.
    pub async fn replace(&mut self) -> OldProcess {
        let (folder, run, log) = (self.folder.clone(), self.run.clone(), Arc::clone(&self.log));
        let spawn = move || Self::spawn(&folder, &run, &log);
        let (child, _) = tokio::task::spawn_blocking(spawn).await.unwrap();
        OldProcess(std::mem::replace(&mut self.child, child))
    }

    fn spawn(folder: &Path, run: &[&str], log: &Arc<Mutex<String>>) -> (Child, Value) {
        let mut child = command(folder)
            .args(["run", "--log-format", "json", "-c"])
            .arg(folder.join("usher.toml"))
            .args(run)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, ready) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let copy = Arc::clone(log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("\"event\":\"ready\"") {
                    let _ = sender.send(line.clone());
                }
                copy.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let line = ready.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| {
            // The `Usher` that would end the process when it is dropped does not exist yet.
            let _ = child.kill();
            let _ = child.wait();
            panic!("Usher did not become ready:\n{}", log.lock().unwrap())
        });
        let ready: Value = serde_json::from_str(&line).unwrap();
        (child, ready)
    }

    fn launch(folder: PathBuf, connector: TlsConnector, run: Vec<&'static str>) -> Self {
        let log = Arc::new(Mutex::new(String::new()));
        let (child, ready) = Self::spawn(&folder, &run, &log);
        let listeners: Vec<SocketAddr> = ready["listeners"]
            .as_str()
            .unwrap()
            .trim_matches(['[', ']'])
            .split(", ")
            .map(|one| one.parse().unwrap())
            .collect();
        let admin = ready["admin"].as_str().unwrap().parse().unwrap();
        let canaries = Mutex::new(vec![SECRET.to_owned()]);
        // The kernel may give this process the port of an earlier one whose test failed.
        upgrade_ends::take(&listeners);
        Self {
            child,
            folder,
            tls: listeners[0],
            plain: listeners[1],
            listeners,
            admin,
            connector,
            run,
            log,
            canaries,
            answered: Vec::new(),
            lost: HashSet::new(),
            is_finished: false,
        }
    }
}

/// Returns the command that starts Usher. If the folder has a file `hosts` or `resolv.conf`, the
/// process has it in place of that of `/etc`, in a mount namespace of its own.
fn command(folder: &Path) -> Command {
    let own = ["hosts", "resolv.conf"].map(|name| (folder.join(name), name));
    let mounts: Vec<_> = own
        .iter()
        .filter(|(path, _)| path.exists())
        .map(|(path, name)| format!("mount --bind '{}' /etc/{name} && ", path.display()))
        .collect();
    if mounts.is_empty() {
        return Command::new(env!("CARGO_BIN_EXE_usher"));
    }
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("{}exec \"$0\" \"$@\"", mounts.concat()))
        .arg(env!("CARGO_BIN_EXE_usher"));
    command
}

impl Usher {
    pub fn token(&self, subject: &str) -> String {
        self.token_with(subject, json!({}))
    }

    /// Returns a token with the usual claims and these changes. `null` removes a claim.
    pub fn token_with(&self, subject: &str, changes: Value) -> String {
        let token = token::mint(subject, changes);
        self.keep_secret(&token);
        token
    }

    /// Declares a secret: from now on it must not appear anywhere.
    pub fn keep_secret(&self, secret: &str) {
        self.canaries.lock().unwrap().push(secret.to_owned());
    }

    /// Asks for a ticket. Returns the status and the answer.
    pub async fn ask_ticket(&self, token: &str, body: &str, headers: &str) -> (u16, Value) {
        let request = format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: chat.example.com\r\n\
             Authorization: Bearer {token}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\
             \r\n{body}",
            body.len()
        );
        let answer = client::http(self.plain, request.as_bytes()).await;
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if let Some(ticket) = json["ticket_id"].as_str() {
            self.keep_secret(ticket);
        }
        (answer.status, json)
    }

    pub async fn issue_ticket(&self, token: &str) -> String {
        let (status, answer) = self.ask_ticket(token, "", "").await;
        assert_eq!(status, 201, "{answer}");
        answer["ticket_id"].as_str().unwrap().to_owned()
    }

    pub async fn tls_stream(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.tls).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        self.connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    /// Opens a WebSocket over TLS, with these headers in the request.
    pub async fn open(
        &self,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, tungstenite::Error> {
        let mut request =
            format!("wss://localhost:{}{target}", self.tls.port()).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        let stream = self.tls_stream().await;
        client::websocket(request, stream).await
    }

    pub async fn connect(&self, subject: &str) -> Socket {
        let token = self.token(subject);
        self.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
    }

    pub async fn connect_ticket(&self, ticket: &str) -> Result<Socket, tungstenite::Error> {
        self.open(&format!("/ws?ticket={ticket}"), &[]).await
    }

    pub async fn metrics(&self) -> String {
        client::get(self.admin, "/metrics").await.body
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.certificate_path()).unwrap()
    }

    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.join("usher.toml")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn resident_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for the first log line that has all of these parts. Lines arrive through a pipe and a
    /// thread, so they may be late.
    pub async fn logged(&self, parts: &[&str]) -> String {
        let find = async || {
            let log = self.log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)))?;
            Some(line.to_owned())
        };
        eventually_or(find, async || format!("a line with {parts:?} in\n{}", self.log())).await
    }

    /// Waits until the metrics have this line.
    pub async fn until_metric(&self, line: &str) {
        let is_there = async || self.metrics().await.lines().any(|one| one == line);
        eventually_or(is_there, async || format!("{line} in\n{}", self.metrics().await)).await;
    }

    /// Waits until this series of a metric has at least this value.
    pub async fn until_at_least(&self, series: &str, least: u64) {
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<u64>().ok();
        let is_reached =
            async || self.metrics().await.lines().filter_map(value).any(|value| value >= least);
        let complaint = async || format!("{series} is {least}:\n{}", self.metrics().await);
        eventually_or(is_reached, complaint).await;
    }

    /// Returns the audit lines that are written so far. A thread of Usher writes them: the file has
    /// all of them only after the process has ended, and may end in the middle of a line before.
    pub fn audit(&self) -> Vec<Value> {
        let text = self.audit_text();
        let whole_lines = text.rfind('\n').map_or("", |end| &text[..end]);
        whole_lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn audit_text(&self) -> String {
        fs::read_to_string(self.folder.join("audit.jsonl")).unwrap_or_default()
    }

    pub fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let log = Arc::clone(&self.log);
        let complaint = async || format!("Usher stops:\n{}", log.lock().unwrap());
        eventually_or(async || self.child.try_wait().unwrap(), complaint).await
    }

    /// Stops Usher and checks the rules that hold after every test. Returns the audit lines.
    pub async fn finish(self) -> Vec<Value> {
        let metrics = self.metrics().await;
        // If the admin listener asks for a token, the answer has no metrics.
        let is_answered = metrics.contains("usher_audit_lines_dropped_total");
        let are_all_written = metrics.contains("usher_audit_lines_dropped_total 0\n");
        assert!(!is_answered || are_all_written, "audit lines were dropped:\n{metrics}");
        self.signal("TERM");
        self.finish_with(&metrics).await
    }

    /// Like `finish`, for a test that has sent the signal to stop itself.
    pub async fn finish_stopped(self) -> Vec<Value> {
        self.finish_with("").await
    }

    /// Like `finish`, for a test that killed the process. Upgrades that were open then need no end.
    /// All other rules are checked.
    pub async fn finish_killed(mut self) -> Vec<Value> {
        let status = self.exit().await;
        assert!(!status.success(), "Usher was not killed: call finish() instead");
        self.forgive_open_upgrades();
        self.judge("")
    }

    async fn finish_with(mut self, metrics: &str) -> Vec<Value> {
        let status = self.exit().await;
        assert!(status.success(), "{status}\n{}", self.log());
        self.judge(metrics)
    }

    fn judge(&mut self, metrics: &str) -> Vec<Value> {
        self.is_finished = true;
        self.collect_answered();
        let audit = self.audit();
        let complaints = upgrade_ends::verdict(&audit, &self.answered, &self.lost);
        assert_eq!(complaints, Vec::<String>::new(), "\n{}", self.log());
        self.hides_secrets_and_did_not_panic(metrics);
        audit
    }

    fn hides_secrets_and_did_not_panic(&self, metrics: &str) {
        let (log, audit) = (self.log(), self.audit_text());
        for canary in self.canaries.lock().unwrap().iter() {
            for (place, text) in [("log", &*log), ("audit", &audit), ("metrics", metrics)] {
                let line = text.lines().find(|line| line.contains(canary.as_str()));
                assert!(line.is_none(), "a secret is in the {place}: {line:?}");
            }
        }
        assert!(!log.contains("panicked"), "{log}");
    }

    fn collect_answered(&mut self) {
        self.answered.extend(upgrade_ends::take(&self.listeners));
    }

    fn forgive_open_upgrades(&mut self) {
        self.collect_answered();
        self.lost.extend(upgrade_ends::without_end(&self.audit(), &self.answered));
    }
}

/// A process that another one has replaced. It is killed if it is dropped before it ends.
pub struct OldProcess(Child);

impl OldProcess {
    pub async fn exit(mut self) -> ExitStatus {
        eventually_or(
            async || self.0.try_wait().unwrap(),
            async || "the old process ends".to_owned(),
        )
        .await
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for OldProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Usher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
        if !self.is_finished && !std::thread::panicking() {
            panic!(
                "the test did not call finish(): the rules that hold after every test are unchecked"
            );
        }
    }
}

/// Writes a self-signed certificate for localhost into the folder. Returns a client that trusts it
/// alone.
pub fn certificate(folder: &Path) -> TlsConnector {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .unwrap();
    fs::write(folder.join("cert.pem"), certified.cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    connector_for(certified.cert.der().clone())
}

/// Returns a TLS server with this certificate, which is for localhost.
pub fn acceptor(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    TlsAcceptor::from(Arc::new(
        config.with_single_cert(vec![certified.cert.der().clone()], key.into()).unwrap(),
    ))
}

pub fn connector_for(certificate: CertificateDer<'static>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

impl Usher {
    /// Leaves the process `spare` descriptors more than it has open. Returns the limit that it had
    /// before.
    pub fn limit_descriptors(&mut self, spare: usize) -> String {
        let pid = self.child.id().to_string();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let before = before.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let before = before.split_whitespace().nth(3).unwrap().to_owned();
        self.prlimit(&format!("{}:{before}", open + spare));
        before
    }

    pub fn restore_descriptors(&mut self, before: String) {
        self.prlimit(&format!("{before}:{before}"));
    }

    fn prlimit(&self, files: &str) {
        let set = Command::new("prlimit")
            .args(["--pid", &self.child.id().to_string(), &format!("--nofile={files}")])
            .status()
            .unwrap();
        assert!(set.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "the test did not call finish()")]
async fn a_test_that_does_not_finish_fails() {
    let usher = Setup::new("http://127.0.0.1:9").start().await;
    drop(usher);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_harness_note_every_answered_upgrade() {
    let echo = super::Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let noted = || upgrade_ends::take(&usher.listeners).len();
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    for (headers, status) in [(&*bearer, 101), ("", 401)] {
        assert_eq!(client::attempt(usher.plain, "/ws", headers).await.status, status);
        assert_eq!(noted(), 1, "{status}");
    }
    drop(usher.connect("ada").await);
    assert_eq!(noted(), 1, "over TLS");
    assert!(usher.open("/ws", &[]).await.is_err());
    assert_eq!(noted(), 1, "refused over TLS");
    client::get(usher.plain, "/public/x").await;
    assert_eq!(noted(), 0, "plain HTTP is not an upgrade");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "has no end")]
async fn a_test_with_an_upgrade_that_has_no_end_fails() {
    let usher = Setup::new("http://127.0.0.1:9").start().await;
    upgrade_ends::note(Some(usher.plain), Some("an id that no log knows"));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "was not killed")]
async fn a_test_that_calls_finish_killed_without_a_kill_fails() {
    let usher = Setup::new("http://127.0.0.1:9").start().await;
    usher.signal("TERM");
    usher.finish_killed().await;
}
