//! The load tester against Usher: each method over TLS, its counts, and the targets that it
//! refuses.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Echo, Recorder, Script, Setup, Usher, eventually};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
"#;

async fn bench(token: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.arg("bench").args(arguments).env("BENCH_TOKEN", token).stdin(Stdio::null());
    command.output().await.unwrap()
}

/// Runs the bench with `--json` against the TLS listener. Returns the exit code and the report.
async fn tell(usher: &Usher, token: &str, mode: &[&str], arguments: &[&str]) -> (i32, Value) {
    let (url, ca) = (format!("wss://localhost:{}/ws", usher.tls.port()), usher.certificate_path());
    let common = ["--json", "--token-env", "BENCH_TOKEN", "--ca", ca.to_str().unwrap(), &url];
    let output = bench(token, &[mode, arguments, &common].concat()).await;
    let told = String::from_utf8_lossy(&output.stdout);
    let json = serde_json::from_str(&told)
        .unwrap_or_else(|_| panic!("{told}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), json)
}

async fn start(echo: &Echo) -> Usher {
    Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[tickets]\nrate_per_user = \"1000/1m\"\n")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_uses_and_counts_every_method() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let token = usher.token("ada");
    for (auth, phases) in [
        ("header", &["connect", "tls", "upgrade", "echo", "total"][..]),
        ("ticket", &["ticket", "connect", "tls", "upgrade", "echo", "total"]),
        ("message", &["connect", "tls", "upgrade", "auth", "echo", "total"]),
    ] {
        let (code, json) = tell(
            &usher,
            &token,
            &["connect"],
            &["--auth", auth, "--connections", "50", "--concurrency", "8"],
        )
        .await;
        assert_eq!(
            (code, &json["opened"], &json["failed"]),
            (0, &json!(50), &json!(0)),
            "{auth}: {json}"
        );
        assert_eq!(json["phases"].as_object().unwrap().keys().collect::<Vec<_>>(), phases);
        assert!(phases.iter().all(|phase| json["phases"][phase]["count"] == 50), "{json}");
    }
    assert_eq!(
        (echo.visits().len(), echo.messages().iter().filter(|message| message.is_text()).count()),
        (150, 150)
    );

    let (code, json) =
        tell(&usher, &token, &[], &["--auth", "header", "--rate", "100", "--duration", "200ms"])
            .await;
    assert_eq!(
        (code, &json["opened"], &json["phases"]["late"]["count"]),
        (0, &json!(20), &json!(20)),
        "an open loop: {json}"
    );
    // With one connection at a time, each connection after the first can resume the TLS session
    // before it.
    let one_by_one = ["--auth", "header", "--connections", "6", "--concurrency", "1"];
    let (code, json) =
        tell(&usher, &token, &[], &[&one_by_one[..], &["--tls-resume"]].concat()).await;
    assert_eq!((code, &json["opened"], &json["tls_resumed"]), (0, &json!(6), &json!(5)), "{json}");
    let (_, json) = tell(&usher, &token, &[], &one_by_one).await;
    assert_eq!(json["tls_resumed"], json!(0));
    let audit = usher.finish().await;
    assert_eq!(audit.iter().filter(|line| line["event"] == "session_ended").count(), 182);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_echoed_and_idle_connections_weighed() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let token = usher.token("ada");
    let (code, json) = tell(
        &usher,
        &token,
        &["messages"],
        &["--auth", "message", "--connections", "5", "--size", "100KiB", "--duration", "1s"],
    )
    .await;
    assert_eq!(
        (code, &json["opened"], &json["message_bytes"]),
        (0, &json!(5), &json!(102_400)),
        "{json}"
    );
    assert!(json["phases"]["message"]["count"].as_u64().unwrap() >= 5, "{json}");

    let pid = usher.pid().to_string();
    let arguments = [
        "--auth",
        "ticket",
        "--pid",
        &pid,
        "--connections",
        "30",
        "--step",
        "20",
        "--hold",
        "50ms",
    ];
    let (code, json) = tell(&usher, &token, &["idle"], &arguments).await;
    assert_eq!((code, &json["opened"], &json["lost"]), (0, &json!(30), &json!(0)), "{json}");
    assert_eq!((&json["steps"][0]["open"], &json["steps"][1]["open"]), (&json!(20), &json!(30)));
    assert!(
        json["kib_per_connection"].is_number() && json["after_kib"].as_u64().unwrap() > 1000,
        "{json}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_that_is_stopped_tells_what_there_was() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let url = format!("ws://{}/ws", echo.url().trim_start_matches("http://"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["bench", "messages", &url, "--duration", "1h", "--connections", "3", "--json"]);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // All threads wait for the signal once messages are echoed.
    eventually("messages are echoed", async || echo.messages().len() >= 10).await;
    let stopped = std::process::Command::new("kill")
        .args(["-INT", &child.id().unwrap().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    let output = child.wait_with_output().await.unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &json["partial"], &json["opened"]),
        (Some(1), &json!(true), &json!(3)),
        "{json}"
    );
    assert!(json["phases"]["message"]["count"].as_u64().unwrap() >= 1, "{json}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_acts_as_graphql_clients() {
    let echo = Echo::start().await;
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
        subprotocols = [\"graphql-transport-ws\"]\n\
        [route.first_message]\npreset = \"graphql-transport-ws\"\n";
    let usher = Setup::new(echo.url()).routes(routes).start().await;
    let token = usher.token("ada");
    // This server echoes and does not acknowledge, as a GraphQL server would.
    let arguments = [
        "--auth",
        "message",
        "--preset",
        "graphql-transport-ws",
        "--no-ack",
        "--connections",
        "4",
        "--no-echo",
    ];
    let (code, json) = tell(&usher, &token, &[], &arguments).await;
    assert_eq!((code, &json["phases"]["auth"]["count"]), (0, &json!(4)), "{json}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_named_and_fails_the_bench() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    for (auth, cause) in
        [("header", "upgrade 401"), ("ticket", "ticket 401"), ("message", "auth 1008")]
    {
        let few = ["--auth", auth, "--connections", "4", "--concurrency", "1"];
        let (code, json) = tell(&usher, "nonsense", &["connect"], &few).await;
        assert_eq!(
            (code, &json["opened"], &json["failures"]),
            (1, &json!(0), &json!({ cause: 4 })),
            "{json}"
        );
        let (code, _) =
            tell(&usher, "nonsense", &["connect"], &[&few[..], &["--tolerate", "4"]].concat())
                .await;
        assert_eq!(code, 0, "as many failures as are tolerated");
    }
    // A certificate that is not trusted, a first message that is not a login, and a port without a
    // listener.
    let url = format!("wss://127.0.0.1:{}/ws", usher.tls.port());
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = usher.certificate_path().with_file_name("other.pem");
    std::fs::write(&ca, other.cert.pem()).unwrap();
    for (arguments, line) in [
        (&["--ca", ca.to_str().unwrap(), &url][..], "failed: tls                  2"),
        (&["--insecure", &url], "failed: echo                 2"),
        (&["ws://127.0.0.1:1/ws"], "failed: connect              2"),
    ] {
        let output = bench("", &[&["--connections", "2"], arguments].concat()).await;
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.code() == Some(1) && told.contains(line),
            "{told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    usher.finish().await;
    assert!(echo.visits().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_names_its_phase_and_the_remedy() {
    for (script, phase, remedy) in [
        (Script::Accept(Vec::new()), "echo", "add --no-echo"),
        (Script::Silent, "upgrade", "the upgrade was not answered"),
    ] {
        let silent = Recorder::start(script).await;
        let url = format!("ws://{}/ws", silent.address);
        let output = bench("", &["--connections", "2", "--timeout", "2s", &url]).await;
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            told.contains(&format!("failed: timeout {phase}")) && told.contains(remedy),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_this_machine_is_refused_before_a_byte_is_sent() {
    for (arguments, why) in [
        (&["ws://192.0.2.1/ws"][..], "--yes-i-may-load-this-host"),
        (&["messages", "wss://192.0.2.1/ws"], "not this machine"),
        (&["http://localhost/ws"], "is not a valid target"),
        (&["--auth", "header", "ws://localhost/ws"], "--token-env"),
        (&["--rate", "10", "ws://localhost/ws"], "--duration"),
        (&[], "--help"),
    ] {
        let output = bench("", arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{arguments:?}: {said}");
    }
}
