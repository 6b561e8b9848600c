//! `usher demo`: everything on one machine, by one command.
//!
//! It starts a chat backend and a development issuer, writes the configuration that a person would have written, runs the
//! real proxy from it, and says where to look. All of it is on loopback, and there is no flag for any other address,
//! because the issuer asks for no password.

mod backend;
mod chat;
mod issuer;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use self::backend::Backend;
use self::issuer::{AUDIENCE, DevelopmentIssuer, ISSUER};
use crate::app::{App, Reloading};
use crate::clock::Now;
use crate::config::secret::Secret;

const CERTIFICATE_DAYS: i64 = 30;

/// Try Usher here: a chat, a login and the proxy, on loopback only.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Port of the plain listener, which a browser opens without a certificate warning. Another is taken when it is busy.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Port of the TLS listener. Another is taken when it is busy.
    #[arg(long, default_value_t = 8443)]
    pub tls_port: u16,
    /// Port of the admin listener. Another is taken when it is busy.
    #[arg(long, default_value_t = 9090)]
    pub admin_port: u16,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let folder = TemporaryFolder::create()?;
    let secret = write_files(&folder.path)?;
    let backend = Backend::start(DevelopmentIssuer::new(secret))?;
    let ports = Ports::choose(&arguments)?;
    let text = configuration(&folder.path, ports, backend.address);
    let proxy = start_proxy(&text)?;
    let introduction = introduction(&folder.path, ports, &text, Colours::of_stdout());
    // Whoever closed our output has read enough; the demo goes on.
    let _ = std::io::stdout().write_all(introduction.as_bytes());
    proxy.run(Reloading::default()).context("the proxy ended badly")?;
    // The proxy goes first, so that nobody is sent to a backend that has gone.
    drop(backend);
    drop(folder);
    Ok(ExitCode::SUCCESS)
}

/// From the text of a configuration to a proxy that listens.
fn start_proxy(text: &str) -> anyhow::Result<App> {
    let loaded = crate::config::resolve::parse(text, None, &|_| None)
        .map_err(|diagnostics| anyhow::anyhow!("the demo's own configuration is not valid:\n{diagnostics}"))?;
    App::build(loaded.config).context("the proxy cannot start")
}

/// The ports that were free a moment ago.
#[derive(Clone, Copy, Debug)]
struct Ports {
    plain: u16,
    tls: u16,
    admin: u16,
}

impl Ports {
    /// Each is known before the proxy binds it, because the configuration lists the page's origins. All three are held until
    /// all are chosen, so that no two are the same.
    fn choose(arguments: &Arguments) -> anyhow::Result<Self> {
        let plain = free_port(arguments.port)?;
        let tls = free_port(arguments.tls_port)?;
        let admin = free_port(arguments.admin_port)?;
        Ok(Self { plain: plain.local_addr()?.port(), tls: tls.local_addr()?.port(), admin: admin.local_addr()?.port() })
    }
}

fn free_port(wanted: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no loopback port is free")
}

/// A folder that only its owner can read, gone when the demo ends.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("usher-demo-{}", hex(&random::<8>()?)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The issuer's secret, a certificate for loopback and its key. The secret is text, so that it can be copied.
fn write_files(folder: &Path) -> anyhow::Result<Secret> {
    let secret = URL_SAFE_NO_PAD.encode(random::<32>()?);
    write_private(&folder.join("issuer.secret"), &secret)?;

    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let mut parameters = rcgen::CertificateParams::new(names)?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "Usher demo");
    let now = time::OffsetDateTime::from_unix_timestamp(i64::try_from(Now::read().wall.as_secs())?)?;
    parameters.not_before = now - time::Duration::days(1);
    parameters.not_after = now + time::Duration::days(CERTIFICATE_DAYS);
    let key = rcgen::KeyPair::generate()?;
    write_private(&folder.join("cert.pem"), &parameters.self_signed(&key)?.pem())?;
    write_private(&folder.join("key.pem"), &key.serialize_pem())?;
    Ok(Secret::from(secret.as_str()))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn configuration(folder: &Path, ports: Ports, backend: SocketAddr) -> String {
    let Ports { plain, tls, admin } = ports;
    let file = |name: &str| quoted(&folder.join(name));
    format!(
        r#"state_dir = {state}

[[listener]]
address = "127.0.0.1:{plain}"
plain = true

[[listener]]
address = "127.0.0.1:{tls}"
certificates = [{{ cert = {cert}, key = {key} }}]

[[issuer]]
name = "demo"
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
algorithms = ["HS256"]
secret_file = {secret}

[[upstream]]
name = "chat"
servers = ["http://{backend}"]

[[route]]
path = "/ws"
upstream = "chat"
auth = ["ticket", "header"]
origins = ["http://127.0.0.1:{plain}", "http://localhost:{plain}", "https://127.0.0.1:{tls}", "https://localhost:{tls}"]

# The first message says who it is. Half a minute is short, so that one sees the session being renewed.
[[route]]
path = "/live"
upstream = "chat"
auth = ["message"]
origins = ["http://127.0.0.1:{plain}", "http://localhost:{plain}", "https://127.0.0.1:{tls}", "https://localhost:{tls}"]
reauth = {{ max_age = "30s", before_expiry = "15s" }}

[[route]]
path = "/api/*"
upstream = "chat"
auth = ["header"]

# Public on purpose: the page, and the login that gives out tokens.
[[route]]
path = "/"
upstream = "chat"
auth = []

[[route]]
path = "/assets/*"
upstream = "chat"
auth = []

[[route]]
path = "/login"
upstream = "chat"
auth = []

[admin]
address = "127.0.0.1:{admin}"
"#,
        state = file("state"),
        cert = file("cert.pem"),
        key = file("key.pem"),
        secret = file("issuer.secret"),
    )
}

/// A path as a TOML string; what JSON escapes, TOML reads alike.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[derive(Clone, Copy)]
struct Colours(bool);

impl Colours {
    fn of_stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn introduction(folder: &Path, ports: Ports, configuration: &str, colours: Colours) -> String {
    let Ports { plain, tls, admin } = ports;
    let base = format!("http://127.0.0.1:{plain}");
    let cert = folder.join("cert.pem");
    let cert = cert.display();
    let heading = |text: &str| colours.paint("1", text);
    let note = |text: &str| colours.paint("2", text);
    let mut out = String::new();
    let _ = writeln!(out, "\n  {}  {}\n", heading("Usher demo"), note("loopback only, nothing is kept"));
    let _ = writeln!(out, "  Open   {}   {}", colours.paint("1;36", &base), note("in two tabs, and chat"));
    let _ = writeln!(out, "  TLS    https://localhost:{tls}   {}", note("with a certificate made for this run"));
    let _ = writeln!(out, "  Admin  http://127.0.0.1:{admin}\n");

    let _ = writeln!(out, "{}  {}", heading("usher.toml"), note("what runs now; the files in it last as long as the demo"));
    for line in configuration.lines() {
        let _ = writeln!(out, "{}", if line.is_empty() { String::new() } else { format!("    {}", colours.paint("32", line)) });
    }

    let commands = [
        (
            "log in",
            format!(
                r#"TOKEN=$(curl -s {base}/login -H 'Content-Type: application/json' -d '{{"name":"ada"}}' | sed -E 's/.*"token":"([^"]+)".*/\1/')"#
            ),
        ),
        ("call the API as that user", format!(r#"curl -s {base}/api/hello -H "Authorization: Bearer $TOKEN""#)),
        (
            "ask for a ticket",
            format!(
                r#"TICKET=$(curl -s -X POST {base}/websocket/ticket -H "Authorization: Bearer $TOKEN" | sed -E 's/.*"ticket_id": ?"([^"]+)".*/\1/')"#
            ),
        ),
        (
            "is it still good? (this does not use it up)",
            format!(r#"curl -s {base}/websocket/ticket/$TICKET/validate -H "Authorization: Bearer $TOKEN""#),
        ),
        (
            "open the WebSocket with it, for three seconds; run it again and see it refused",
            format!(
                r#"curl -isN --http1.1 --max-time 3 --output - "{base}/ws?ticket=$TICKET" -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='"#
            ),
        ),
        ("who is connected", format!("curl -s http://127.0.0.1:{admin}/sessions")),
        ("the same over TLS", format!(r#"curl -s --cacert {cert} https://localhost:{tls}/api/hello -H "Authorization: Bearer $TOKEN""#)),
    ];
    let _ = writeln!(out, "\n{}  {}", heading("By hand"), note("each line works as it stands"));
    for (purpose, command) in commands {
        let _ = writeln!(out, "    {}\n    {command}", note(&format!("# {purpose}")));
    }
    let _ = writeln!(out, "\n  Stop with Ctrl-C.\n");
    out
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system has no randomness to give"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { plain: 8080, tls: 8443, admin: 9090 };

    #[test]
    fn the_configuration_is_toml_and_names_only_loopback() {
        let text = configuration(Path::new("/tmp/a \"b\"\\c"), PORTS, "127.0.0.1:4711".parse().unwrap());
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["issuer"][0]["secret_file"].as_str(), Some("/tmp/a \"b\"\\c/issuer.secret"));
        assert_eq!(table["route"].as_array().unwrap().len(), 6);
        for listener in table["listener"].as_array().unwrap().iter().chain([&table["admin"]]) {
            assert!(listener["address"].as_str().unwrap().starts_with("127.0.0.1:"));
        }
    }

    #[test]
    fn a_busy_port_is_replaced_by_a_free_one() {
        let taken = free_port(0).unwrap();
        let busy = taken.local_addr().unwrap().port();
        let ports = Ports::choose(&Arguments { port: busy, tls_port: busy, admin_port: busy }).unwrap();
        assert!(![ports.plain, ports.tls, ports.admin].contains(&busy));
        assert!(ports.plain != ports.tls && ports.tls != ports.admin && ports.plain != ports.admin);
    }

    #[test]
    fn the_files_go_when_the_demo_ends() {
        let folder = TemporaryFolder::create().unwrap();
        let path = folder.path.clone();
        let secret = write_files(&path).unwrap();
        assert!(secret.len() >= 32);
        assert_eq!(std::fs::read(path.join("issuer.secret")).unwrap(), secret.expose());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_printed_shows_no_secret_and_no_colour_off_a_terminal() {
        let text = introduction(Path::new("/tmp/x"), PORTS, "state_dir = \"/tmp/x\"\n", Colours(false));
        assert!(text.contains("http://127.0.0.1:8080") && text.contains("state_dir"));
        assert!(!text.contains('\x1b'));
        assert!(introduction(Path::new("/tmp/x"), PORTS, "", Colours(true)).contains('\x1b'));
    }
}
