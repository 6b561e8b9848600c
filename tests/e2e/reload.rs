//! Another configuration while everything runs.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::support::client::{self, Answer, Raw};
use crate::support::usher::{certificate, is_alive};
use crate::support::{Echo, Setup, Usher};

const PATIENCE: Duration = Duration::from_secs(15);

async fn usher_reload(usher: &Usher) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["reload", "--admin", &usher.admin.to_string()]).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout) + &text(stderr))
}

fn edit(usher: &Usher, from: &str, to: &str) {
    let path = usher.folder().join("usher.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

async fn post(usher: &Usher, content_type: &str) -> Answer {
    let mut raw = Raw::connect(usher.admin).await;
    raw.send(format!("POST /reload HTTP/1.1\r\nhost: {}\r\n{content_type}content-length: 2\r\n\r\n{{}}", usher.admin)).await;
    Answer::parse(&raw.read_to_close().await)
}

async fn metric(usher: &Usher, line: &str) -> bool {
    usher.metrics().await.lines().any(|one| one == line)
}

/// Until it is so.
async fn eventually(usher: &Usher, line: &str) {
    let wait = async {
        while !metric(usher, line).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no {line}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_comes_next_and_no_live_session() {
    let (echo, other) = (Echo::start().await, Echo::start().await);
    let usher = Setup::new(echo.url()).start().await;
    let token = format!("Bearer {}", usher.token("ada"));
    let headers = [("authorization", token.as_str())];
    let mut first = usher.open("/ws", &headers).await.unwrap();

    edit(&usher, "path = \"/ws\"", "path = \"/v2\"");
    edit(&usher, &echo.url(), &other.url());
    let (code, said) = usher_reload(&usher).await;
    assert_eq!((code, said.as_str()), (0, "applied: route, upstream\n"));

    is_alive(&mut first).await;
    assert_eq!(client::get(usher.plain, "/ws").await.status, 404, "the old route has gone");
    let mut second = usher.open("/v2", &headers).await.unwrap();
    is_alive(&mut second).await;
    let status: Value = serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    assert_eq!((&status["routes"][0], &status["sessions"]), (&json!("/v2"), &json!(2)));
    let metrics = usher.metrics().await;
    for line in
        ["usher_sessions_active{route=\"/ws\"} 1", "usher_sessions_active{route=\"/v2\"} 1", "usher_reloads_total{outcome=\"applied\"} 1"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    drop((first, second));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_why_as_check_does() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    edit(&usher, "path = \"/ws\"", "path = \"/v2\"\nhots = []");
    let (code, said) = usher_reload(&usher).await;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("did you mean `hosts`?") && said.contains("hots = []") && said.contains("nothing has changed"), "{said}");
    let check =
        std::process::Command::new(env!("CARGO_BIN_EXE_usher")).arg("check").arg(usher.folder().join("usher.toml")).output().unwrap();
    assert!(said.starts_with(&*String::from_utf8(check.stderr).unwrap()), "the same words: {said}");

    let answer = post(&usher, "content-type: application/json\r\n").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &body["code"], &body["errors"][0]["line"].is_u64()), (422, &json!("CONFIG_REFUSED"), &true));
    assert_eq!(post(&usher, "").await.status, 415);
    // What a file names is looked at before anything is swapped, too.
    edit(&usher, "\nhots = []", "");
    let key = usher.folder().join("key.pem");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert!(code == 78 && said.contains("key.pem"), "{code} {said}");
    assert!(metric(&usher, "usher_config_is_current 0").await);
    assert_eq!(client::get(usher.plain, "/v2").await.status, 404);

    std::fs::write(&key, good).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    assert_eq!(client::get(usher.plain, "/v2").await.status, 401);
    assert!(metric(&usher, "usher_config_is_current 1").await);
    let audit = usher.finish().await;
    let told: Vec<_> = audit.iter().filter_map(|line| line["event"].as_str().filter(|event| event.starts_with("config_"))).collect();
    assert_eq!(told, ["config_refused", "config_refused", "config_refused", "config_applied"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_loads_new_certificates_and_names_what_needs_a_start() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let connector = certificate(usher.folder());
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(usher.tls).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await
    };
    assert!(connect().await.is_err(), "the old certificate is in force");
    edit(&usher, "state_dir = \"state\"", "state_dir = \"elsewhere\"\nthreads = 3");
    usher.signal("HUP");
    eventually(&usher, "usher_reloads_total{outcome=\"applied\"} 1").await;
    connect().await.expect("the new certificate is in force");
    let log = usher.log();
    let line = log.lines().find(|line| line.contains("config_needs_restart")).expect(&log);
    assert!(line.contains("threads, state_dir"), "{line}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_loads_a_change_of_a_named_file_once() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).argument("--watch").start().await;
    let token = format!("Bearer {}", usher.token("ada"));
    drop(usher.open("/ws", &[("authorization", &token)]).await.unwrap());
    std::fs::write(usher.folder().join("secret"), "another secret that is long enough for HS256").unwrap();
    eventually(&usher, "usher_reloads_total{outcome=\"applied\"} 1").await;
    assert!(usher.open("/ws", &[("authorization", &token)]).await.is_err(), "signed with the old secret");
    edit(&usher, "[drain]", "[drian]");
    eventually(&usher, "usher_reloads_total{outcome=\"refused\"} 1").await;
    edit(&usher, "[drian]", "[drain]");
    eventually(&usher, "usher_reloads_total{outcome=\"applied\"} 2").await;
    assert!(metric(&usher, "usher_reloads_total{outcome=\"refused\"} 1").await);
    usher.finish().await;
}

/// Not one connection is refused and no session is dropped while the configuration is loaded over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reloads_under_load_cost_nobody_anything() {
    let echo = Echo::start().await;
    let usher = std::sync::Arc::new(Setup::new(echo.url()).start().await);
    let token = format!("Bearer {}", usher.token("ada"));
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(usher.open("/ws", &[("authorization", &token)]).await.unwrap());
    }
    let reloading = {
        let usher = std::sync::Arc::clone(&usher);
        tokio::spawn(async move {
            for turn in 0..20 {
                edit(&usher, "window = \"200ms\"", "window = \"200ms\" # again");
                assert_eq!(post(&usher, "content-type: application/json\r\n").await.status, 200, "{turn}");
            }
        })
    };
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (usher, token) = (std::sync::Arc::clone(&usher), token.clone());
            tokio::spawn(async move {
                for _ in 0..30 {
                    let mut socket = usher.open("/ws", &[("authorization", &token)]).await.expect("refused");
                    is_alive(&mut socket).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    reloading.await.unwrap();
    for socket in &mut kept {
        is_alive(socket).await;
    }
    drop(kept);
    std::sync::Arc::into_inner(usher).unwrap().finish().await;
}
