//! The admin listener on a unix socket, and the commands that use it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::signal;
use crate::support::token::SECRET;

struct Node {
    folder: PathBuf,
    child: Child,
    ready: Value,
}

fn usher(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn folder(admin: &str) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("usher-as-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("secret"), SECRET).unwrap();
    let config = format!(
        r#"
        state_dir = "state"
        [[listener]]
        address = "127.0.0.1:0"
        plain = true
        [[issuer]]
        name = "main"
        issuer = "https://id.example.com"
        audience = ["chat"]
        algorithms = ["HS256"]
        secret_file = "secret"
        [[upstream]]
        name = "chat"
        servers = ["http://127.0.0.1:9"]
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["header"]
        [admin]
        {admin}
        "#
    );
    fs::write(folder.join("usher.toml"), config).unwrap();
    folder
}

impl Node {
    fn start(folder: &Path) -> Self {
        let (child, ready) = Self::launch(folder);
        Self { folder: folder.to_owned(), child, ready }
    }

    fn restart(&mut self) {
        (self.child, self.ready) = Self::launch(&self.folder);
    }

    fn launch(folder: &Path) -> (Child, Value) {
        let config = folder.join("usher.toml");
        let mut child = usher(&["run", "--log-format", "json", "-c", config.to_str().unwrap()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line =
            lines.find(|line| line.contains("\"event\":\"ready\"")).expect("Usher is not ready");
        std::thread::spawn(move || lines.for_each(drop));
        (child, serde_json::from_str(&line).unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Runs a command. The address of the admin listener comes from the configuration, or from
    /// `admin`.
    fn command(&self, arguments: &[&str], admin: &[&str]) -> Output {
        let config = self.folder.join("usher.toml");
        let at =
            if admin.is_empty() { vec!["-c", config.to_str().unwrap()] } else { admin.to_vec() };
        usher(&[arguments, &at].concat()).output().unwrap()
    }

    fn get(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn stop(&mut self) -> i32 {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn commands_speak_to_a_socket_that_only_its_owner_reaches() {
    let folder = folder("address = \"unix:admin.sock\"");
    let mut node = Node::start(&folder);
    let path = node.socket();
    let address = format!("unix:{}", path.display());
    assert_eq!(node.ready["admin"], address);
    let found = fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);

    let order = ["revoke", "--user", "ada", "--json"];
    for (arguments, wanted) in [
        (&["status", "--json"][..], "\"listeners\""),
        (&["metrics"], "\nusher_ready 1\n"),
        (&["sessions", "--json"], "\"total\""),
        (&["reload", "--json"], "\"changed\""),
        (&order, "\"closed\""),
    ] {
        for admin in [&[][..], &["--admin", &address]] {
            let output = node.command(arguments, admin);
            let (said, why) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{arguments:?} {admin:?}: {why}");
            assert!(said.contains(wanted), "{arguments:?}: {said}");
        }
    }
    let check = node.command(&["check"], &[]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    // Any Host is accepted: no page in a browser can reach a file.
    let metrics = node.get("GET /metrics HTTP/1.1\r\nHost: usher\r\nConnection: close\r\n\r\n");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("usher_ready 1"), "{metrics}");

    // A second process does not take the socket over.
    let second = node.command(&["run"], &[]);
    let why = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(69), "{why}");
    assert!(why.contains("another process listens there"), "{why}");
    assert!(
        node.get("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 200")
    );

    // The file that a killed process leaves behind is replaced.
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    assert!(path.exists());
    assert_eq!(node.command(&["status"], &[]).status.code(), Some(69));
    let check = node.command(&["check"], &[]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    node.restart();
    assert!(node.command(&["status"], &[]).status.success());
    assert_eq!(node.stop(), 0);
    assert!(!path.exists(), "the socket is removed with the process");
}

#[test]
fn an_admin_socket_asks_for_its_token_and_replaces_only_a_socket() {
    let folder = folder("address = \"unix:admin.sock\"\ntoken_file = \"secret\"");
    let mut node = Node::start(&folder);
    let refused = node.get("GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(node.command(&["status"], &[]).status.success());
    assert_eq!(node.stop(), 0);

    fs::write(node.socket(), "mine").unwrap();
    for command in ["run", "check"] {
        let output = node.command(&[command], &[]);
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.status.success() && said.contains("is not a socket"), "{command}: {said}");
    }
    assert_eq!(fs::read(node.socket()).unwrap(), b"mine");
}
