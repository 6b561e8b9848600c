//! The configuration of the demo, in the form in which a person would write it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;

use super::Arguments;
use super::issuer::{AUDIENCE, ISSUER};

/// The chosen ports, which were free when they were checked.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub plain: u16,
    pub tls: u16,
    pub admin: u16,
}

impl Ports {
    /// Chooses the ports before the proxy binds them, because the configuration lists the origins
    /// of the page. All three are bound until all are chosen, so that they differ.
    pub fn choose(arguments: &Arguments) -> anyhow::Result<Self> {
        let plain = free_port(arguments.port)?;
        let tls = free_port(arguments.tls_port)?;
        let admin = free_port(arguments.admin_port)?;
        let port = |listener: TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Self { plain: port(plain)?, tls: port(tls)?, admin: port(admin)? })
    }
}

fn free_port(wanted: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("cannot find a free port on loopback")
}

/// The addresses of the two servers behind Usher.
#[derive(Clone, Copy, Debug)]
pub struct DemoServers {
    pub site: SocketAddr,
    pub chat: SocketAddr,
}

pub fn configuration(folder: &Path, ports: Ports, servers: DemoServers) -> String {
    let Ports { plain, tls, admin } = ports;
    let DemoServers { site, chat } = servers;
    let file = |name: &str| quoted(&folder.join(name));
    let [plain_origins, tls_origins] = [("http", plain), ("https", tls)].map(|(scheme, port)| {
        format!(r#""{scheme}://127.0.0.1:{port}", "{scheme}://localhost:{port}""#)
    });
    let origins = format!("[{plain_origins}, {tls_origins}]");
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

# The chat: it has no auth code.
[[upstream]]
name = "chat"
servers = ["http://{chat}"]

# The page, the login, and the buttons that cause faults.
[[upstream]]
name = "site"
servers = ["http://{site}"]

[[route]]
path = "/ws"
upstream = "chat"
auth = ["ticket", "message", "header"]
origins = {origins}
reauth = {{ before_expiry = "10s", grace = "10s", proactive = true }}

# The legacy method: the token is in the URL. It works, and each use is counted.
[[route]]
path = "/old"
upstream = "chat"
auth = ["query"]
legacy = ["query"]
deprecated = "2026-11-01"
origins = {origins}

[[route]]
path = "/api/*"
upstream = "chat"
auth = ["header"]

[[route]]
path = "/control/*"
upstream = "site"
auth = ["header"]

# Public routes: the page, and the login that issues tokens.
[[route]]
path = "/"
upstream = "site"
auth = []

[[route]]
path = "/assets/*"
upstream = "site"
auth = []

[[route]]
path = "/login"
upstream = "site"
auth = []

[[route]]
path = "/refresh"
upstream = "site"
auth = []

[admin]
address = "127.0.0.1:{admin}"

# Ctrl-C stops the demo at once. A real proxy spreads the closes over its window.
[drain]
window = "0s"

[keepalive]
close_timeout = "1s"
"#,
        state = file("state"),
        cert = file("cert.pem"),
        key = file("key.pem"),
        secret = file("issuer.secret"),
    )
}

/// Returns a path as a TOML string. TOML accepts the escapes of JSON.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { plain: 7080, tls: 7443, admin: 7090 };

    #[test]
    fn the_configuration_is_toml_and_names_only_loopback() {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let servers = DemoServers { site: address(4711), chat: address(4712) };
        let text = configuration(Path::new("/tmp/a \"b\"\\c"), PORTS, servers);
        let table: toml::Table = toml::from_str(&text).unwrap();
        let secret = table["issuer"][0]["secret_file"].as_str();
        assert_eq!(secret, Some("/tmp/a \"b\"\\c/issuer.secret"));
        assert_eq!(table["route"].as_array().unwrap().len(), 8);
        // Ctrl-C does not wait for anything.
        assert_eq!(table["drain"]["window"].as_str(), Some("0s"));
        let listeners = table["listener"].as_array().unwrap().iter().chain([&table["admin"]]);
        for listener in listeners {
            assert!(listener["address"].as_str().unwrap().starts_with("127.0.0.1:"));
        }
    }

    #[test]
    fn a_busy_port_is_replaced_by_a_free_one() {
        let taken = free_port(0).unwrap();
        let busy = taken.local_addr().unwrap().port();
        let ports =
            Ports::choose(&Arguments { port: busy, tls_port: busy, admin_port: busy }).unwrap();
        assert!(![ports.plain, ports.tls, ports.admin].contains(&busy));
        assert!(ports.plain != ports.tls && ports.tls != ports.admin && ports.plain != ports.admin);
    }
}
