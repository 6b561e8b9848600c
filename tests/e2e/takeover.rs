//! A new process takes over from a running one, or fails to and changes nothing. The load is in
//! `soak/replace.rs`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Output, Stdio};

use serde_json::json;

use crate::revocation::{refused, revoke};
use crate::support::usher::is_alive;
use crate::support::{Backend, Echo, Setup, Usher, client, eventually};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "header"]
    [[route]]
    path = "/public/*"
    upstream = "files"
    auth = []
"#;

async fn start(echo: &Echo, backend: &Backend, window: &str) -> Usher {
    let files = format!("[[upstream]]\nname = \"files\"\nservers = [\"{}\"]\n", backend.url());
    let usher = Setup::new(echo.url())
        .extra(&files)
        .node("edge-1\"\ntakeover = \"takeover.sock")
        .routes(ROUTES)
        .drain(window)
        .start()
        .await;
    usher.pin_addresses();
    usher
}

/// Runs another process with the file of the first one. It must end.
async fn run_another(usher: &Usher, file: &str) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["run", "--log-format", "json", "-c"]).arg(usher.folder().join(file));
    command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_and_revocations_are_the_new_process_s_and_bind_the_old_one() {
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let mut usher = start(&echo, &backend, "30s").await;
    let [first, second] = [
        usher.issue_ticket(&usher.token("ada")).await,
        usher.issue_ticket(&usher.token("bob")).await,
    ];
    assert_eq!(revoke(&usher, json!({"user": "eve"})).await, 0);
    let mut live = usher.connect("carl").await;
    // These connections stay with the old process.
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut raw = client::Raw::connect(usher.plain).await;
        raw.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
        assert_eq!(raw.read_exactly(5).await, b"hello");
        kept.push(raw);
    }
    let mut old = usher.replace().await;
    is_alive(&mut live).await;
    // Tickets of the old process are good at the new one, once.
    is_alive(&mut usher.connect_ticket(&first).await.unwrap()).await;
    assert_eq!(client::attempt(usher.plain, &format!("/ws?ticket={first}"), "").await.status, 403);
    // The deny list has come along.
    let eve = format!("Authorization: Bearer {}\r\n", usher.token("eve"));
    assert_eq!(refused(&usher, "/ws", &eve).await, (401, "REVOKED".to_owned()));
    // The old process redeems at the new one, once.
    let upgrade = |ticket: &str| client::upgrade_request(&format!("/ws?ticket={ticket}"), "");
    let mut statuses = Vec::new();
    for raw in kept.iter_mut().take(2) {
        raw.send(upgrade(&second)).await;
        statuses.push(raw.read_head().await.split(' ').nth(1).unwrap().to_owned());
    }
    assert_eq!(statuses, ["101", "403"]);
    // A ticket that the old process issues is the new one's.
    let mut third = kept.pop().unwrap();
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        usher.token("dora")
    );
    third.send(request).await;
    let answer = client::Answer::parse(&third.read_to_close().await);
    let issued: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let ticket = issued["ticket_id"].as_str().expect(&answer.body);
    usher.keep_secret(ticket);
    is_alive(&mut usher.connect_ticket(ticket).await.unwrap()).await;
    // An order at the new process ends a session of the old one.
    assert!(!old.has_ended());
    revoke(&usher, json!({"user": "carl"})).await;
    let end = crate::first_message::close_frame(&mut live).await;
    assert_eq!(end, (1008, "Session revoked".to_owned()));
    drop(kept);
    assert!(old.exit().await.success());
    let audit = usher.finish().await;
    for event in ["handed_over", "taken_over"] {
        let line = audit.iter().find(|line| line["event"] == event).expect(event);
        assert_eq!(line["detail"], "2 tickets, 1 revocations");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_fails_to_start_changes_nothing() {
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let mut usher = start(&echo, &backend, "300ms").await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let mut live = usher.connect("bob").await;
    let good = std::fs::read_to_string(usher.config_path()).unwrap();
    let folder = usher.folder().to_owned();
    let broken = |name: &str, from: &str, to: &str| {
        std::fs::write(folder.join(name), good.replacen(from, to, 1)).unwrap();
    };
    broken("syntax.toml", "[[route]]", "[[route]");
    broken("key.toml", "secret_file = \"secret\"", "secret_file = \"none\"");
    // Another process has the port: the new one finds that out before it takes anything.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = usher.plain.to_string();
    broken("port.toml", &plain, &other.local_addr().unwrap().to_string());
    for (name, code) in [("syntax.toml", 78), ("key.toml", 78), ("port.toml", 69)] {
        let output = run_another(&usher, name).await;
        assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output));
        assert!(!text(&output).contains("\"event\":\"ready\""), "{name}");
        is_alive(&mut live).await;
    }
    assert!(!usher.log().contains("drain_started") && !usher.log().contains("handed_over"));
    is_alive(&mut usher.connect_ticket(&ticket).await.unwrap()).await;
    // A good one can still take over.
    let old = usher.replace().await;
    assert!(old.exit().await.success());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_after_the_sockets_came_changes_nothing() {
    use std::io::{Read as _, Write as _};
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let mut usher = start(&echo, &backend, "300ms").await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let path = usher.folder().join("takeover.sock");
    let plain = usher.plain;
    let dying = move || {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut offer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut offer).unwrap();
        let take = format!("{{\"take\":{{\"addresses\":[\"{plain}\"]}}}}");
        stream.write_all(&u32::try_from(take.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(take.as_bytes()).unwrap();
        // The tickets arrive, so the old process has stopped accepting.
        stream.read_exact(&mut [0; 8]).unwrap();
    };
    tokio::task::spawn_blocking(dying).await.unwrap();
    usher.logged(&["hand_over_failed"]).await;
    is_alive(&mut usher.connect_ticket(&ticket).await.unwrap()).await;
    is_alive(&mut usher.connect("bob").await).await;
    let old = usher.replace().await;
    assert!(old.exit().await.success());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rogue_at_the_takeover_path_makes_the_start_fail() {
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let usher = start(&echo, &backend, "300ms").await;
    let text_of = |path: &str| {
        let good = std::fs::read_to_string(usher.config_path()).unwrap();
        good.replacen("takeover.sock", path, 1)
    };
    let folder = usher.folder().to_owned();
    // It accepts and speaks another protocol.
    let rogue = UnixListener::bind(folder.join("rogue.sock")).unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        let mut streams: Vec<_> = rogue.incoming().take(2).map(Result::unwrap).collect();
        streams.iter_mut().for_each(|stream| drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")));
    });
    std::fs::write(folder.join("rogue.toml"), text_of("rogue.sock")).unwrap();
    let output = run_another(&usher, "rogue.toml").await;
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(text(&output).contains("not an Usher"), "{}", text(&output));
    // A folder that others can write to.
    let open = folder.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(folder.join("open.toml"), text_of("open/takeover.sock")).unwrap();
    let output = run_another(&usher, "open.toml").await;
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
    assert!(text(&output).contains("can be written by other users"), "{}", text(&output));
    // A file that is not a socket.
    std::fs::write(folder.join("file"), "mine").unwrap();
    std::fs::write(folder.join("file.toml"), text_of("file")).unwrap();
    let output = run_another(&usher, "file.toml").await;
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"mine");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_while_another_one_stops_does_not_wait_for_it() {
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let mut usher = start(&echo, &backend, "12h").await;
    let mut live = usher.connect("ada").await;
    usher.signal("TERM");
    usher.logged(&["drain_started"]).await;
    let socket = usher.folder().join("takeover.sock");
    eventually("the takeover socket is closed", async || (!socket.exists()).then_some(())).await;
    // It finds no process to take over from, and the admin listener is still that of the old one.
    let output = run_another(&usher, "usher.toml").await;
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(text(&output).contains("the port is in use"), "{}", text(&output));
    is_alive(&mut live).await;
    drop(live);
    assert!(usher.exit().await.success());
    usher.finish_stopped().await;
}
