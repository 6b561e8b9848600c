//! Takeovers between unequal processes: another user, sockets of a service manager, another number
//! of threads. An admin listener on a unix socket and tickets in Redis are here too.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::redis::{RedisServer, free_port};
use crate::support::usher::is_alive;
use crate::support::{Backend, Echo, Setup, client, eventually, signal};

const USHER: &str = env!("CARGO_BIN_EXE_usher");
/// A user id without rights and files.
const NOBODY: &str = "65534";

/// A process with a configuration of its own, and what it logs.
struct Process {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

/// A folder for configurations, removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("usher-tp-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("takeover.sock")
    }

    /// Writes a configuration. Each process has a window of no time.
    fn write(&self, name: &str, address: SocketAddr, threads: usize, more: &str) -> PathBuf {
        let path = self.0.join(name);
        let text = format!(
            "state_dir = \"state\"\ntakeover = \"takeover.sock\"\nthreads = {threads}\n\
             [[listener]]\naddress = \"{address}\"\nplain = true\n\
             [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:9\"]\n\
             [[route]]\npath = \"/public/*\"\nupstream = \"chat\"\nauth = []\n\
             [drain]\nwindow = \"0s\"\n{more}"
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Process {
    /// Starts a process and waits until it is ready.
    fn start(command: &mut Command, config: &Path) -> Self {
        let mut process = Self::spawn(command.args(["run", "--log-format", "json", "-c"]), config);
        let ready = process.until("\"event\":\"ready\"");
        assert!(ready.is_ok(), "not ready: {}", ready.unwrap_err());
        process
    }

    fn spawn(command: &mut Command, config: &Path) -> Self {
        let mut child = command
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log up to a line with this text. The error is the whole log.
    fn until(&mut self, text: &str) -> Result<String, String> {
        let (mut all, mut line) = (String::new(), String::new());
        while self.log.read_line(&mut line).unwrap() > 0 {
            if line.contains(text) {
                return Ok(line);
            }
            all.push_str(&std::mem::take(&mut line));
        }
        Err(all)
    }

    async fn exit_code(mut self) -> Option<i32> {
        let ended = async || self.child.try_wait().unwrap();
        eventually("the process ends", ended).await.code()
    }

    fn terminate(&self) {
        signal(self.child.id(), "TERM");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// The upstream is away, so a served client gets 502.
async fn is_served(address: SocketAddr) {
    let request = "GET /public/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(client::http(address, request.as_bytes()).await.status, 502);
}

/// Returns false, with a loud message, if this test cannot become another user.
#[allow(clippy::print_stderr, reason = "a test that is skipped must be seen")]
fn can_be_another_user() -> bool {
    let tried =
        Command::new("setpriv").args(["--reuid", NOBODY, "--clear-groups", "true"]).output();
    let can = tried.as_ref().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("SKIPPED: only root can be another user: {tried:?}");
    }
    can
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_user_that_listens_at_the_path_makes_the_start_fail() {
    if !can_be_another_user() {
        return;
    }
    let folder = Folder::new("listener");
    let config = folder.write("usher.toml", address(), 1, "");
    // Only root can bind in the folder. The credentials of a listener are those of `listen`.
    let script = "import os, socket, sys\n\
        one = socket.socket(socket.AF_UNIX)\n\
        one.bind(sys.argv[1])\n\
        os.setuid(int(sys.argv[2]))\n\
        one.listen()\n\
        print('listening', file=sys.stderr, flush=True)\n\
        kept = [one.accept() for _ in range(2)]\n\
        sys.stdin.read()\n";
    let mut python = Command::new("python3");
    python.args(["-c", script, folder.socket().to_str().unwrap()]);
    let mut rogue = Process::spawn(&mut python, Path::new(NOBODY));
    rogue.until("listening").unwrap();
    let output =
        Command::new(USHER).args(["run", "-c"]).arg(&config).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("the other process belongs to user 65534"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_user_gets_nothing_at_the_path() {
    if !can_be_another_user() {
        return;
    }
    let (folder, address) = (Folder::new("client"), address());
    let config = folder.write("usher.toml", address, 1, "");
    let mut usher = Process::start(&mut Command::new(USHER), &config);
    let script = "import os, socket, sys\n\
        os.setgroups([])\n\
        os.setuid(int(sys.argv[2]))\n\
        one = socket.socket(socket.AF_UNIX)\n\
        try:\n    one.connect(sys.argv[1])\n\
        except PermissionError:\n    print('no entry'); sys.exit()\n\
        one.settimeout(20)\n\
        print('bytes', len(one.recv(100)))\n";
    let as_nobody = || {
        let output = Command::new("python3")
            .args(["-c", script, folder.socket().to_str().unwrap(), NOBODY])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert_eq!(as_nobody(), "no entry\n");
    // Also if the mode of the file lets it in.
    std::fs::set_permissions(folder.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(as_nobody(), "bytes 0\n");
    let line = usher.until("hand_over_failed").unwrap();
    assert!(line.contains("the other process belongs to user 65534"), "{line}");
    is_served(address).await;
    usher.terminate();
    assert_eq!(usher.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemd_goes_on_to_the_next_process() {
    let program = "systemd-socket-activate";
    if Command::new(program).arg("--version").output().is_err() {
        eprintln!("SKIPPED: {program} is missing; scripts/setup-tests.sh installs it");
        return;
    }
    let (folder, address) = (Folder::new("systemd"), address());
    let config = folder.write("usher.toml", address, 2, "");
    let mut activate = Command::new(program);
    activate.args(["-l", &address.to_string(), USHER, "run", "--log-format", "json", "-c"]);
    let mut first = Process::spawn(&mut activate, &config);
    // It starts Usher for the first client.
    let is_listening = async || std::net::TcpStream::connect(address).is_ok();
    eventually("systemd-socket-activate listens", is_listening).await;
    is_served(address).await;
    first.until("\"event\":\"ready\"").unwrap();
    let mut former = first;
    for _ in 0..2 {
        let next = Process::start(&mut Command::new(USHER), &config);
        is_served(address).await;
        assert_eq!(former.exit_code().await, Some(0));
        former = next;
    }
    is_served(address).await;
    former.terminate();
    assert_eq!(former.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_may_have_another_number_of_threads() {
    let (folder, address) = (Folder::new("threads"), address());
    let mut former: Option<Process> = None;
    for threads in [1, 4, 2, 3] {
        let config = folder.write("usher.toml", address, threads, "");
        let next = Process::start(&mut Command::new(USHER), &config);
        // Every socket has a thread that accepts, wherever the kernel puts a client.
        for _ in 0..40 {
            is_served(address).await;
        }
        if let Some(former) = former.replace(next) {
            assert_eq!(former.exit_code().await, Some(0));
        }
    }
    let last = former.unwrap();
    last.terminate();
    assert_eq!(last.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_socket_at_a_path_is_the_new_process_s() {
    let (folder, address) = (Folder::new("admin"), address());
    let admin = "[admin]\naddress = \"unix:admin.sock\"\n";
    let config = folder.write("usher.toml", address, 1, admin);
    let status = || {
        let mut command = Command::new(USHER);
        let output = command.args(["status", "--json", "-c"]).arg(&config).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let mut former = Process::start(&mut Command::new(USHER), &config);
    for _ in 0..3 {
        assert!(status().contains("\"listeners\""), "{}", status());
        let next = Process::start(&mut Command::new(USHER), &config);
        assert!(status().contains("\"listeners\""), "{}", status());
        assert_eq!(former.exit_code().await, Some(0));
        former = next;
    }
    assert!(status().contains("\"listeners\""), "{}", status());
    is_served(address).await;
    former.terminate();
    assert_eq!(former.exit_code().await, Some(0));
    assert!(UnixStream::connect(folder.0.join("admin.sock")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tickets_in_redis_both_processes_ask_redis() {
    let (echo, backend, server) =
        (Echo::start().await, Backend::start().await, RedisServer::start(&[]));
    let files = format!("[[upstream]]\nname = \"files\"\nservers = [\"{}\"]\n", backend.url());
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"ticket\", \"header\"]\n\
        [[route]]\npath = \"/public/*\"\nupstream = \"files\"\nauth = []\n";
    // The timeout is long because a busy machine must not fail the test.
    let store = format!("[store]\nurl = \"{}\"\ntimeout = \"10s\"\n", server.url());
    let mut usher = Setup::new(echo.url())
        .node("edge-1\"\ntakeover = \"takeover.sock")
        .routes(routes)
        .extra(&format!("{files}{store}"))
        .drain("1000h")
        .start()
        .await;
    usher.pin_addresses();
    let [first, second] = [
        usher.issue_ticket(&usher.token("ada")).await,
        usher.issue_ticket(&usher.token("bob")).await,
    ];
    let mut kept = client::Raw::connect(usher.plain).await;
    kept.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(kept.read_head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(kept.read_exactly(5).await, b"hello");
    let old = usher.replace().await;
    let mut socket = usher.connect_ticket(&first).await.unwrap();
    is_alive(&mut socket).await;
    drop(socket);
    assert_eq!(client::attempt(usher.plain, &format!("/ws?ticket={first}"), "").await.status, 403);
    // The old process redeems a ticket on its kept connection, and it is used for both.
    kept.send(client::upgrade_request(&format!("/ws?ticket={second}"), "")).await;
    let head = kept.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(client::attempt(usher.plain, &format!("/ws?ticket={second}"), "").await.status, 403);
    drop(kept);
    assert!(old.exit().await.success());
    usher.finish().await;
}
