//! The load tester against Usher: each method over TLS, its counts, and the targets that it
//! refuses.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Echo, Recorder, Script, Setup, Usher, eventually, signal};

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
    signal(child.id().unwrap(), "INT");
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

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_key_exchange_is_offered() {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::secp256r1);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // It knows no WebSocket, so a connection ends after the handshake.
            let _ = acceptor.accept(tcp).await;
        }
    });
    for (key_exchange, failure) in [("p256", "upgrade"), ("x25519", "tls")] {
        let few = ["--connections", "2", "--insecure", "--json", "--key-exchange", key_exchange];
        let output = bench("", &[&few[..], &[&url]].concat()).await;
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["failures"], json!({ failure: 2 }), "{key_exchange}");
    }
    server.abort();
}

/// Fails if a report is not what its schema or HTML allows.
async fn validate(files: &[&Path]) {
    let output = Command::new("target/e2e-tools/venv/bin/python")
        .args(["tests/e2e/clients/python/bench_report.py", "docs/bench-report.schema.json"])
        .args(files)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .await
        .expect("python; scripts/setup-tests.sh installs what the tests need");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_targets_take_turns_and_the_report_names_no_secret() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let token = usher.token("ada");
    let (page, json_file) =
        (usher.folder().join("report.html"), usher.folder().join("report.json"));
    let url = format!("wss://localhost:{}/ws?key=s3cret", usher.tls.port());
    let ca = usher.certificate_path();
    let pid = usher.pid().to_string();
    let common = [
        "--auth",
        "header",
        "--token-env",
        "BENCH_TOKEN",
        "--ca",
        ca.to_str().unwrap(),
        "--json",
        "--html",
        page.to_str().unwrap(),
        "--pid",
        &pid,
        "--quiet",
        &url,
    ];
    let compared = ["--compare", &url, "--rounds", "6"];

    let few = ["connect", "--connections", "30", "--concurrency", "3", "--message", "s3cret"];
    let output = bench(&token, &[&few[..], &common, &compared].concat()).await;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no progress with --quiet");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &json["format"], &json["rounds"], &json["partial"]),
        (Some(0), &json!(1), &json!(6), &json!(false)),
        "{json}"
    );
    for target in ["a", "b"] {
        let told = &json[target];
        assert_eq!((&told["opened"], &told["failed"]), (&json!(30), &json!(0)), "{json}");
        assert_eq!(told["target"], url.replace("key=s3cret", "[redacted]"));
    }
    assert!(json["a"]["server_cpu_ms"].is_u64() && json["b"]["server_cpu_ms"].is_null(), "{json}");
    let ratios = json["ratios"].as_array().unwrap();
    for measure in ["per_second", "connect p50", "tls p50", "upgrade p50", "total p99"] {
        let ratio = ratios.iter().find(|ratio| ratio["measure"] == measure);
        let of = |name: &str| ratio.unwrap()[name].as_f64().unwrap();
        let (low, median, high) = (of("low"), of("median"), of("high"));
        assert!(0.0 < low && low <= median && median <= high, "{measure}: {json}");
    }
    std::fs::write(&json_file, &output.stdout).unwrap();
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("B divided by A, in 6 rounds") && html.contains("<polyline"), "{html}");
    for text in [&html, &String::from_utf8(output.stdout).unwrap()] {
        assert!(!text.contains("s3cret") && !text.contains(&token), "{text}");
    }
    validate(&[&json_file, &page]).await;

    // A single target, a message run, an idle run, and failures.
    let runs: [(&str, &[&str]); 3] = [
        ("messages", &["--connections", "2", "--duration", "300ms"]),
        ("idle", &["--connections", "4", "--hold", "10ms"]),
        ("connect", &["--rate", "50", "--duration", "200ms"]),
    ];
    for (mode, arguments) in runs {
        let output = bench(&token, &[&[mode][..], arguments, &common].concat()).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{mode}: {told}");
        std::fs::write(&json_file, &output.stdout).unwrap();
        validate(&[&json_file, &page]).await;
    }
    let output =
        bench("nonsense", &[&["connect", "--connections", "3"][..], &common].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    std::fs::write(&json_file, &output.stdout).unwrap();
    assert!(std::fs::read_to_string(&page).unwrap().contains("upgrade 401"));
    validate(&[&json_file, &page]).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_a_table_and_a_plot_without_colours() {
    let echo = Echo::start().await;
    let url = format!("ws://{}/ws", echo.url().trim_start_matches("http://"));
    let output = bench("", &["--connections", "20", &url]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains('\u{1b}') && output.stderr.is_empty(), "{text}");
    let (_, plot) = text.split_once("total, up to ms\n").unwrap();
    let counts = plot.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    assert_eq!(counts.sum::<u64>(), 20, "{text}");
    assert!(text.contains("20 of 20 connections") && text.contains("CPU time: client"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_made_is_refused_before_the_load() {
    let echo = Echo::start().await;
    let url = format!("ws://{}/ws", echo.url().trim_start_matches("http://"));
    for (arguments, code, why) in [
        (
            &["--html", "/nowhere/at/all.html"][..],
            1,
            "cannot write the report /nowhere/at/all.html",
        ),
        (&["--pid", "4000000000"], 1, "cannot read the CPU time of the server"),
        (&["--compare", "ws://192.0.2.1/"], 2, "--yes-i-may-load-this-host"),
        (&["--compare", &url, "--rounds", "5"], 2, "6..=1000"),
        (&["--compare", &url, "--rounds", "9", "--connections", "8"], 2, "into 9 rounds"),
        (&["--rounds", "9"], 2, "--compare"),
    ] {
        let output = bench("", &[arguments, &[&url]].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        let is_told = said.contains(why);
        assert!(output.status.code() == Some(code) && is_told, "{arguments:?}: {said}");
    }
    assert!(echo.visits().is_empty(), "nothing was sent");
}
