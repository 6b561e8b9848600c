//! `usher explain` predicts what a running Usher does.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::redis::RedisServer;
use crate::support::verifier_server::VerifierServer;
use crate::support::{Echo, Setup, Usher};

/// Runs the command. The headers or the token of the request go to its standard input.
fn run(config: &Path, url: &str, arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["explain", "--json", "-c"])
        .arg(config)
        .args(arguments)
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Returns the explanation of a request as JSON.
pub async fn explained(usher: &Usher, url: &str, arguments: &[&str], input: &str) -> Value {
    let (config, url, input) = (usher.config_path(), url.to_owned(), input.to_owned());
    let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&config, &url, &arguments, &input)
    });
    let output = running.await.unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!(
            "{} {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let expected = match told["verdict"]["let_in"].as_bool() {
        Some(true) => 0,
        Some(false) => 1,
        None => 69,
    };
    assert_eq!(output.status.code(), Some(expected));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_ticket_is_explained_and_usher_s_other_endpoints_are_not() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let url = "http://chat.example.com/websocket/config";
    let told = explained(&usher, url, &[], "").await;
    assert_eq!(told["verdict"]["let_in"], Value::Null, "{told:#}");
    let url = "http://chat.example.com/websocket/ticket";
    let arguments = ["--method", "POST", "--token-file", "-"];
    let told = explained(&usher, url, &arguments, &usher.token("ada")).await;
    assert_eq!(
        (&told["verdict"]["status"], &told["verdict"]["user"], &told["method"]),
        (&json!(201), &json!("ada"), &json!("header")),
        "{told:#}"
    );
    let told = explained(&usher, url, &["--method", "POST"], "").await;
    assert_eq!(told["verdict"]["label"], "missing_credential", "{told:#}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_looked_at_and_stays_good() {
    let echo = Echo::start().await;
    let redis = RedisServer::start(&[]);
    let store = format!("[store]\nurl = \"{}\"\ntimeout = \"10s\"\n", redis.url());
    let usher = Setup::new(echo.url()).extra(&store).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    usher.keep_secret(&ticket);
    for _ in 0..2 {
        let told =
            explained(&usher, "ws://chat.example.com/ws", &["--ticket-file", "-"], &ticket).await;
        assert_eq!(
            (&told["verdict"]["let_in"], &told["verdict"]["user"]),
            (&json!(true), &json!("ada")),
            "{told:#}"
        );
        assert!(!told.to_string().contains(&ticket));
    }
    drop(usher.connect_ticket(&ticket).await.unwrap());
    let told =
        explained(&usher, "ws://chat.example.com/ws", &["--ticket-file", "-"], &ticket).await;
    assert_eq!(
        (&told["verdict"]["status"], &told["verdict"]["code"]),
        (&json!(403), &json!("INVALID_TICKET")),
        "{told:#}"
    );
    usher.finish().await;

    let usher = Setup::new(echo.url()).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let told =
        explained(&usher, "ws://chat.example.com/ws", &["--ticket-file", "-"], &ticket).await;
    assert_eq!(told["verdict"]["let_in"], Value::Null, "{told:#}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_has_the_exit_codes_of_every_command() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let config = usher.config_path();
    let outcome = tokio::task::spawn_blocking(move || {
        let code = |config: &Path, url: &str, arguments: &[&str]| {
            run(config, url, arguments, "").status.code()
        };
        [
            code(&config, "ws://chat.example.com/public/x", &[]),
            code(&config, "ws://chat.example.com/ws", &[]),
            code(&config, "ftp://chat.example.com/ws", &[]),
            code(&config, "ws://chat.example.com/ws", &["--token-file", "/nowhere"]),
            code(Path::new("/nowhere.toml"), "ws://chat.example.com/ws", &[]),
        ]
    });
    assert_eq!(outcome.await.unwrap(), [Some(0), Some(1), Some(2), Some(2), Some(78)]);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_asks_the_verifier_and_offline_leaves_the_verdict_open() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let route = "[[route]]\npath = \"/opaque\"\nupstream = \"chat\"\n\
        auth = [\"session\", \"header\"]\norigins = [\"https://app.example.com\"]\n\
        verifier = \"login\"\n";
    let usher = Setup::new(echo.url())
        .routes(route)
        .extra(&verifier.table("login", "http", ""))
        .start()
        .await;
    let (known, unknown) = ("a-token-that-is-known", "a-token-that-nobody-knows");
    usher.keep_secret(known);
    verifier.knows(known, "ada");
    let url = format!("ws://{}/opaque", usher.plain);
    let told = explained(&usher, &url, &["--token-file", "-"], known).await;
    assert_eq!(
        (&told["verdict"]["let_in"], &told["upstream"]["context"]["sub"]),
        (&json!(true), &json!("ada")),
        "{told}"
    );
    let told = explained(&usher, &url, &["--token-file", "-"], unknown).await;
    assert_eq!(
        (&told["verdict"]["status"], &told["verdict"]["code"]),
        (&json!(401), &json!("INVALID_TOKEN")),
        "{told}"
    );
    let told = explained(&usher, &url, &["--offline", "--token-file", "-"], known).await;
    assert_eq!(told["verdict"]["let_in"], Value::Null, "{told}");
    let cookie = format!("Origin: https://app.example.com\r\nCookie: session={known}\r\n");
    let told = explained(&usher, &url, &["--headers-file", "-"], &cookie).await;
    assert_eq!(
        (&told["verdict"]["let_in"], &told["method"]),
        (&json!(true), &json!("session")),
        "{told}"
    );
    assert!(!told.to_string().contains(known));
    usher.finish().await;
}
