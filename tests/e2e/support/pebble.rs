//! Pebble, the ACME authority of Let's Encrypt for tests, as a child process.
//!
//! Its validations go to two ports of this process, which lead to the nodes in turn, as a balancer
//! would. Its questions about names go to a name server here, which answers 127.0.0.1 for all.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::client::Answer;
use super::eventually::eventually;
use super::redis::{folder, free_port};
use super::usher::connector_for;

const MOST_STARTS: usize = 5;
/// The time within which a test names the nodes.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Pebble {
    child: Child,
    folder: PathBuf,
    config: Value,
    environment: Vec<(&'static str, String)>,
    port: u16,
    management: u16,
    certificate: String,
    tls: Lead,
    plain: Lead,
}

/// A port that leads to the nodes in turn.
struct Lead {
    address: SocketAddr,
    nodes: watch::Sender<Vec<SocketAddr>>,
    connections: Arc<AtomicUsize>,
}

impl Pebble {
    /// Starts an authority. `life` is that of its certificates, in seconds; `changes` go into its
    /// configuration, `environment` turns its failures on.
    pub async fn start(life: u64, changes: Value, environment: &[(&'static str, &str)]) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = folder();
        fs::write(folder.join("cert.pem"), own.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), own.signing_key.serialize_pem()).unwrap();
        let (tls, plain) = (Lead::start().await, Lead::start().await);
        let names = name_server().await;
        let mut config = json!({
            "certificate": folder.join("cert.pem"),
            "privateKey": folder.join("key.pem"),
            "httpPort": plain.address.port(),
            "tlsPort": tls.address.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": life,
        });
        for (name, value) in changes.as_object().into_iter().flatten() {
            config[name.as_str()] = value.clone();
        }
        let mut all = vec![
            ("PEBBLE_VA_NOSLEEP", "1".to_owned()),
            ("PEBBLE_WFE_NONCEREJECT", "0".to_owned()),
            // Each order is validated.
            ("PEBBLE_AUTHZREUSE", "0".to_owned()),
            ("names", names.to_string()),
        ];
        for (name, value) in environment {
            all.retain(|(other, _)| other != name);
            all.push((name, (*value).to_owned()));
        }
        for _ in 0..MOST_STARTS {
            let (port, management) = (free_port(), free_port());
            config["listenAddress"] = json!(format!("127.0.0.1:{port}"));
            config["managementListenAddress"] = json!(format!("127.0.0.1:{management}"));
            let child = spawn(&folder, &config, &all);
            let mut pebble = Self {
                child,
                folder: folder.clone(),
                config: config.clone(),
                environment: all.clone(),
                port,
                management,
                certificate: own.cert.pem(),
                tls: tls.again(),
                plain: plain.again(),
            };
            if pebble.listens().await {
                return pebble;
            }
            pebble.folder = PathBuf::new();
        }
        panic!("pebble does not start; scripts/setup-tests.sh installs it");
    }

    /// Returns the keys of `[acme]` that name this authority. The file `acme-ca.pem` has
    /// [`Self::authority`].
    pub fn lines(&self) -> String {
        format!(
            "directory = \"https://localhost:{}/dir\"\nca_file = \"acme-ca.pem\"\n\
             terms_agreed = true\n",
            self.port
        )
    }

    /// Returns the certificate of its own server.
    pub fn authority(&self) -> String {
        self.certificate.clone()
    }

    /// Leads validations to these nodes, each with its TLS and its plain listener.
    pub fn lead_to(&self, nodes: &[(SocketAddr, SocketAddr)]) {
        self.tls.nodes.send_replace(nodes.iter().map(|(tls, _)| *tls).collect());
        self.plain.nodes.send_replace(nodes.iter().map(|(_, plain)| *plain).collect());
    }

    /// Returns the number of connections to a TLS listener, and to a plain one.
    pub fn validations(&self) -> (usize, usize) {
        let count = |lead: &Lead| lead.connections.load(Ordering::Relaxed);
        (count(&self.tls), count(&self.plain))
    }

    /// Returns the root of its certificates.
    pub async fn root(&self) -> CertificateDer<'static> {
        let own = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let tcp = TcpStream::connect(("127.0.0.1", self.management)).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream = connector_for(own).connect(name, tcp).await.unwrap();
        let request = b"GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        CertificateDer::from_pem_slice(Answer::parse(&answer).body.as_bytes()).unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Returns the lines of its log with this text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Returns the number of certificates that it has issued.
    pub fn issued(&self) -> usize {
        self.logged("Issued certificate serial").len()
    }

    pub async fn until_issued(&self, count: usize) {
        let what = format!("{count} certificates are issued");
        eventually(what, async || self.issued() >= count).await;
    }

    pub fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same port, without its accounts and orders, and with another root.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.folder, &self.config, &self.environment);
        assert!(self.listens().await, "{}", self.log());
    }

    /// Waits until it listens. Returns false if it has ended.
    async fn listens(&mut self) -> bool {
        for port in [self.port, self.management] {
            let is_up = eventually("pebble listens", async || {
                if self.child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                TcpStream::connect(("127.0.0.1", port)).await.is_ok().then_some(true)
            });
            if !is_up.await {
                return false;
            }
        }
        true
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn spawn(folder: &PathBuf, config: &Value, environment: &[(&'static str, String)]) -> Child {
    fs::write(folder.join("config.json"), json!({ "pebble": config }).to_string()).unwrap();
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    let names = environment.iter().find(|(name, _)| *name == "names").unwrap();
    let variables = environment.iter().filter(|(name, _)| name.starts_with("PEBBLE_"));
    Command::new("pebble")
        .args(["-config", "config.json", "-dnsserver", &names.1])
        .envs(variables.map(|(name, value)| (name, value)))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("pebble; scripts/setup-tests.sh installs what the tests need")
}

impl Lead {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (nodes, watcher) = watch::channel(Vec::<SocketAddr>::new());
        let lead =
            Self { address: listener.local_addr().unwrap(), nodes, connections: Arc::default() };
        let connections = Arc::clone(&lead.connections);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let turn = connections.fetch_add(1, Ordering::Relaxed);
                let mut watcher = watcher.clone();
                tokio::spawn(async move {
                    let named = async {
                        let nodes = watcher.wait_for(|nodes| !nodes.is_empty()).await.ok()?;
                        Some(nodes[turn % nodes.len()])
                    };
                    let named = tokio::time::timeout(PATIENCE, named).await;
                    let Ok(Some(node)) = named else { return };
                    if let Ok(mut node) = TcpStream::connect(node).await {
                        let _ = copy_bidirectional(&mut client, &mut node).await;
                    }
                });
            }
        });
        lead
    }

    fn again(&self) -> Self {
        Self {
            address: self.address,
            nodes: self.nodes.clone(),
            connections: Arc::clone(&self.connections),
        }
    }
}

/// Starts a name server: 127.0.0.1 for each question about an IPv4 address, nothing for others.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut question).await {
            let Some(answer) = name_answer(&question[..length]) else { continue };
            let _ = socket.send_to(&answer, client).await;
        }
    });
    address
}

/// RFC 1035 section 4: a head of 12 bytes, the name as labels, and two numbers.
fn name_answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    let asked = question.get(..end + 5)?;
    let is_address = asked[end + 1..end + 3] == [0, 1];
    let mut answer = asked.to_vec();
    // An answer, with recursion, and without an error.
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
