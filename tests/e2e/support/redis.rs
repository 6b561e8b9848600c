//! A real redis-server in a folder of its own, on a free port of loopback. It ends when it is
//! dropped.
//!
//! The unit tests of the store use this file too, so it needs only the standard library.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the unit tests and the end-to-end tests each use a part of it")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);
static NEXT_PORT: AtomicU32 = AtomicU32::new(0);

pub struct RedisServer {
    child: Child,
    folder: PathBuf,
    pub port: u16,
    arguments: Vec<String>,
    /// The arguments that redis-cli needs to connect.
    cli: Vec<String>,
}

/// Only TLS, also between servers, with the files `cert.pem` and `key.pem`.
pub const TLS: &[&str] = &[
    "--tls-cert-file",
    "cert.pem",
    "--tls-key-file",
    "key.pem",
    "--tls-ca-cert-file",
    "cert.pem",
    "--tls-auth-clients",
    "no",
    "--tls-replication",
    "yes",
    "--tls-cluster",
    "yes",
];
pub const TLS_CLI: &[&str] = &["--tls", "--cacert", "cert.pem"];

impl RedisServer {
    pub fn start(extra: &[&str]) -> Self {
        Self::start_with(extra, &[], &[])
    }

    /// Starts a server with files in its folder, which is its working directory, and arguments for
    /// redis-cli.
    pub fn start_with(extra: &[&str], files: &[(&str, &str)], cli: &[&str]) -> Self {
        let folder = folder();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        // Another program may take the port before the server has it.
        for _ in 0..10 {
            let port = free_port();
            let number = port.to_string();
            let tls = extra.contains(&"--tls-cert-file");
            let mut arguments: Vec<&str> = if tls {
                vec!["--port", "0", "--tls-port", &number]
            } else {
                vec!["--port", &number]
            };
            arguments.extend(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            arguments.extend(extra);
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            if let Some(child) = spawn(&folder, &arguments) {
                return Self { child, folder, port, arguments, cli: owned(cli) };
            }
        }
        panic!("redis-server does not start; scripts/setup-tests.sh installs what the tests need");
    }

    /// Starts a sentinel for the master on this port, with the name `chat` and a quorum of one.
    pub fn sentinel(master: u16) -> Self {
        Self::sentinel_with(master, &[])
    }

    /// Starts a sentinel, with TLS if there are files for it.
    pub fn sentinel_with(master: u16, files: &[(&str, &str)]) -> Self {
        let folder = folder();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let (tls, cli) =
            if files.is_empty() { (String::new(), &[][..]) } else { (tls_lines(), TLS_CLI) };
        for _ in 0..10 {
            let port = free_port();
            let config = format!(
                "{tls}sentinel monitor chat 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds chat 1000\nsentinel failover-timeout chat 5000\n"
            );
            std::fs::write(folder.join("sentinel.conf"), config).unwrap();
            let (number, is_tls) = (port.to_string(), !files.is_empty());
            let ports = if is_tls {
                ["--port", "0", "--tls-port", &number].to_vec()
            } else {
                ["--port", &number].to_vec()
            };
            let arguments =
                [&["sentinel.conf", "--sentinel", "--bind", "127.0.0.1"], &ports[..]].concat();
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            if let Some(child) = spawn(&folder, &arguments) {
                return Self { child, folder, port, arguments, cli: owned(cli) };
            }
        }
        panic!("the sentinel does not start");
    }

    /// Starts one node of a cluster that is not yet formed.
    pub fn cluster_node(extra: &[&str], files: &[(&str, &str)], cli: &[&str]) -> Self {
        // With the usual offset, the port of the bus may be too high.
        let bus = free_port().to_string();
        let cluster =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
        Self::start_with(&[&cluster, extra].concat(), files, cli)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the keys of the tickets that can be redeemed, in order. Keys that mark a spent
    /// ticket are left out.
    #[allow(dead_code, reason = "the unit tests share this file")]
    pub fn tickets(&self) -> Vec<String> {
        let keys = self.cli(&["KEYS", "usher:ticket:*"]);
        let keys = keys.lines().map(str::trim).filter(|key| !key.is_empty());
        let mut keys: Vec<_> = keys
            .filter(|key| !self.cli(&["GET", key]).contains("past"))
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }

    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .current_dir(&self.folder)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "--no-auth-warning"])
            .args(&self.cli)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Restarts it on the same port. It is empty unless a snapshot was saved.
    pub fn start_again(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, &self.arguments).unwrap();
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|one| (*one).to_owned()).collect()
}

/// Returns the arguments for TLS as lines of a configuration.
fn tls_lines() -> String {
    TLS.chunks(2).map(|pair| format!("{}\n", pair.join(" ").trim_start_matches("--"))).collect()
}

/// Returns a port of loopback that no other test gets. It lies below the range from which the
/// kernel takes ports by itself, so that it stays free while its server is stopped. The tests in
/// Node take theirs from below 30,000.
pub fn free_port() -> u16 {
    // Two test processes start at different ports.
    let start = std::process::id() % 300 * 64;
    loop {
        let number = start + NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = 30_000 + (number % 2_700) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn folder() -> PathBuf {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("usher-redis-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the process once it accepts connections.
fn spawn(folder: &Path, arguments: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut lines = BufReader::new(child.stdout.take()?).lines().map_while(Result::ok);
    // A sentinel does not log that it is ready. The line about its id is the last of its start.
    let ready = lines.any(|line| {
        line.contains("Ready to accept connections") || line.contains("Sentinel ID is")
    });
    std::thread::spawn(move || lines.for_each(drop));
    if ready {
        return Some(child);
    }
    let _ = child.wait();
    None
}
