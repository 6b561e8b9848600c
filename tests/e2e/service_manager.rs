//! The service manager: it reads `NOTIFY_SOCKET`, and asks for a new process by SIGUSR2.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixDatagram;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::support::redis::free_port;
use crate::support::token::SECRET;
use crate::support::{Backend, client, eventually, signal};

const USHER: &str = env!("CARGO_BIN_EXE_usher");
const REQUEST: &str = "GET /public/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// A process whose service manager is the test.
pub struct Service {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    manager: UnixDatagram,
    pub address: SocketAddr,
    pub folder: PathBuf,
}

/// A process that Usher has started. It is killed when this is dropped.
pub struct Successor(pub u32);

impl Service {
    async fn start(name: &str, upstream: &str, takeover: Option<&str>) -> Self {
        Self::start_with(name, upstream, takeover, "[drain]\nwindow = \"0s\"\n").await
    }

    /// Starts a service with these tables in its configuration.
    pub async fn start_with(
        name: &str,
        upstream: &str,
        takeover: Option<&str>,
        tables: &str,
    ) -> Self {
        let folder = std::env::temp_dir().join(format!("usher-unit-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let text = format!(
            "state_dir = \"state\"\nthreads = 2\n[[listener]]\naddress = \"{address}\"\n\
             plain = true\n[[upstream]]\nname = \"chat\"\nservers = [\"{upstream}\"]\n\
             [[route]]\npath = \"/public/*\"\nupstream = \"chat\"\nauth = []\n{tables}"
        );
        std::fs::write(folder.join("usher.toml"), text).unwrap();
        std::fs::write(folder.join("secret"), SECRET).unwrap();
        let place = folder.join("notify.sock");
        let manager = UnixDatagram::bind(&place).unwrap();
        let mut command = Command::new(USHER);
        command.args(["run", "--log-format", "json", "-c"]).arg(folder.join("usher.toml"));
        if let Some(takeover) = takeover {
            command.arg("--takeover").arg(folder.join(takeover));
        }
        command.env("NOTIFY_SOCKET", &place).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log, manager, address, folder }
    }

    /// Returns the next message of the service.
    pub async fn message(&self) -> String {
        let mut bytes = [0; 256];
        let received = timeout(PATIENCE, self.manager.recv(&mut bytes)).await;
        let count = received.expect("the service sends a message").unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    /// Reads the log up to the line of an event.
    async fn logged(&mut self, event: &str) -> String {
        let wanted = format!("\"event\":\"{event}\"");
        let mut seen = String::new();
        loop {
            let next = timeout(PATIENCE, self.log.next_line()).await;
            let line = next.unwrap_or_else(|_| panic!("no {event} in {seen}")).unwrap();
            let line = line.unwrap_or_else(|| panic!("the log ends without {event}: {seen}"));
            if line.contains(&wanted) {
                return line;
            }
            seen += &line;
        }
    }

    async fn is_served(&self) {
        assert_eq!(client::http(self.address, REQUEST.as_bytes()).await.status, 200);
    }

    /// Opens a connection that stays with this process.
    async fn keep_connection(&self) -> client::Raw {
        let mut kept = client::Raw::connect(self.address).await;
        kept.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(kept.read_head().await.starts_with("HTTP/1.1 200 "));
        kept
    }

    fn signal(&self, name: &str) {
        signal(self.child.id().unwrap(), name);
    }

    /// Has the process start another one, which takes over.
    pub async fn replace(&self) -> Successor {
        self.signal("USR2");
        // The messages of two processes have no order.
        let mut messages = [self.message().await, self.message().await];
        messages.sort();
        assert_eq!(messages[1], "READY=1");
        Successor(messages[0].strip_prefix("MAINPID=").unwrap().parse().unwrap())
    }

    /// Waits for the end of a process that has left to another one.
    pub async fn ended(&mut self) {
        let old = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(old.success(), "{old}");
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if is_running(self.0) {
            signal(self.0, "KILL");
        }
    }
}

/// Returns false for a process that has ended, also before its parent has noticed.
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_replaces_the_process_and_the_manager_follows() {
    let backend = Backend::start().await;
    let mut service = Service::start("replace", &backend.url(), Some("takeover.sock")).await;
    assert_eq!(service.message().await, "READY=1");
    service.is_served().await;
    // A connection that is open stays with the old process.
    let kept = service.keep_connection().await;
    let successor = service.replace().await;
    let pid = successor.0;
    assert_ne!(Some(pid), service.child.id());
    drop(kept);
    service.ended().await;
    service.is_served().await;
    signal(pid, "TERM");
    let message = service.message().await;
    assert!(message.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{message}");
    eventually("the new process exits", async || !is_running(pid)).await;
    drop(successor);
    std::fs::remove_dir_all(&service.folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_crashes_fails_the_service() {
    let backend = Backend::start().await;
    let takeover = Some("takeover.sock");
    let mut service =
        Service::start_with("crash", &backend.url(), takeover, "[drain]\nwindow = \"60s\"\n").await;
    assert_eq!(service.message().await, "READY=1");
    let kept = service.keep_connection().await;
    let successor = service.replace().await;
    let old = service.child.id().unwrap();
    signal(successor.0, "KILL");
    assert_eq!(service.message().await, format!("MAINPID={old}"));
    drop(kept);
    let status = timeout(PATIENCE, service.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    std::fs::remove_dir_all(&service.folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_cannot_start_changes_nothing() {
    let backend = Backend::start().await;
    let mut service = Service::start("broken", &backend.url(), Some("takeover.sock")).await;
    assert_eq!(service.message().await, "READY=1");
    let config = service.folder.join("usher.toml");
    std::fs::write(&config, "nonsense = true\n").unwrap();
    service.signal("USR2");
    let line = service.logged("replacement_ended").await;
    assert!(line.contains("exit status: 78"), "{line}");
    service.is_served().await;
    service.signal("TERM");
    assert!(service.message().await.starts_with("STOPPING=1\n"));
    assert!(timeout(PATIENCE, service.child.wait()).await.unwrap().unwrap().success());
    std::fs::remove_dir_all(&service.folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_takeover_socket_the_signal_is_refused() {
    let backend = Backend::start().await;
    let mut service = Service::start("alone", &backend.url(), None).await;
    assert_eq!(service.message().await, "READY=1");
    service.signal("USR2");
    let line = service.logged("replacement_not_started").await;
    assert!(line.contains("--takeover"), "{line}");
    service.is_served().await;
    service.signal("TERM");
    assert!(timeout(PATIENCE, service.child.wait()).await.unwrap().unwrap().success());
    std::fs::remove_dir_all(&service.folder).unwrap();
}
