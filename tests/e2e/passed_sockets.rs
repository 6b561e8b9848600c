//! Sockets that a service manager passes: `LISTEN_FDS`.
//!
//! `systemd-socket-activate` is the part of systemd that runs without systemd. It starts one
//! process and ends with it, so a small manager in Python starts a second one on the same socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::support::Backend;
use crate::support::client::{self, Raw};
use crate::support::redis::free_port;
use crate::support::{eventually, signal};

const USHER: &str = env!("CARGO_BIN_EXE_usher");
const REQUEST: &str = "GET /public/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Passes one socket to each of two processes, one after the other. Kills the first one with
/// SIGTERM after a line on its input.
const MANAGER: &str = r#"
import os, signal, socket, sys
address, program = sys.argv[1], sys.argv[2:]
host, port = address.split(":")
listener = socket.create_server((host, int(port)), backlog=128)
print("listening", flush=True)
for turn in range(2):
    child = os.fork()
    if child == 0:
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execv(program[0], program)
    sys.stdin.readline()
    os.kill(child, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ended", status, flush=True)
    sys.stdin.readline()
"#;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("usher-fds-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes a configuration with this listener.
fn write(folder: &Path, address: SocketAddr, upstream: &str) -> PathBuf {
    let path = folder.join("usher.toml");
    let text = format!(
        "state_dir = \"state\"\nthreads = 2\n[[listener]]\naddress = \"{address}\"\nplain = true\n\
         [[upstream]]\nname = \"chat\"\nservers = [\"{upstream}\"]\n\
         [[route]]\npath = \"/public/*\"\nupstream = \"chat\"\nauth = []\n\
         [drain]\nwindow = \"0s\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

async fn is_served(address: SocketAddr) {
    assert_eq!(client::http(address, REQUEST.as_bytes()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_passes_the_sockets_and_the_first_client_waits_for_the_start() {
    let program = "systemd-socket-activate";
    if std::process::Command::new(program).arg("--version").output().is_err() {
        eprintln!("SKIPPED: {program} is missing; scripts/setup-tests.sh installs it");
        return;
    }
    let (backend, folder) = (Backend::start().await, folder("activate"));
    let address = address();
    let config = write(&folder, address, &backend.url());
    let mut child = Command::new(program)
        .args(["-l", &address.to_string(), USHER, "run", "-c"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let is_listening = async || std::net::TcpStream::connect(address).is_ok();
    eventually("systemd-socket-activate listens", is_listening).await;
    is_served(address).await;
    is_served(address).await;
    signal(child.id().unwrap(), "TERM");
    assert!(child.wait().await.unwrap().success());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_wait_in_the_queue_from_one_process_to_the_next() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let (backend, folder) = (Backend::start().await, folder("queue"));
    let address = address();
    let config = write(&folder, address, &backend.url());
    let mut child = Command::new("python3")
        .args(["-c", MANAGER, &address.to_string(), USHER, "run", "-c"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("python3; scripts/setup-tests.sh installs it");
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "listening");
    is_served(address).await;
    input.write_all(b"stop\n").await.unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "ended 0");
    // No process accepts now. A connection that is open waits, and is served by the next process.
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut raw = Raw::connect(address).await;
        raw.send(REQUEST).await;
        waiting.push(raw);
    }
    input.write_all(b"start\n").await.unwrap();
    for mut raw in waiting {
        let answer = String::from_utf8(raw.read_to_close().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
    is_served(address).await;
    input.write_all(b"stop\n").await.unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "ended 0");
    input.write_all(b"end\n").await.unwrap();
    assert!(child.wait().await.unwrap().success());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_socket_that_no_listener_names_is_an_error() {
    let folder = folder("unknown");
    let (passed, configured) = (address(), address());
    let config = write(&folder, configured, "http://127.0.0.1:9");
    let script = "import os, socket, sys\n\
        host, port = sys.argv[1].split(':')\n\
        listener = socket.create_server((host, int(port)))\n\
        os.dup2(listener.fileno(), 3)\n\
        os.set_inheritable(3, True)\n\
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[2], sys.argv[2:])\n";
    let output = Command::new("python3")
        .args(["-c", script, &passed.to_string(), USHER, "run", "-c"])
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains(&format!("passes a socket at {passed}, but no listener")), "{text}");
    std::fs::remove_dir_all(folder).unwrap();
}
