//! Clients in other languages, which connect through Usher with tickets over TLS.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Backend, Echo, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn python_and_node_clients_talk_through_a_ticket() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    for program in [
        ["target/e2e-tools/venv/bin/python", "tests/e2e/clients/python/client.py"],
        ["node", "tests/e2e/clients/node/client.mjs"],
    ] {
        let ticket = usher.issue_ticket(&usher.token("ada")).await;
        let url = format!("wss://localhost:{}/ws?ticket={ticket}", usher.tls.port());
        let certificate = usher.certificate_path();
        let output = tokio::task::spawn_blocking(move || {
            Command::new(program[0])
                .arg(program[1])
                .arg(url)
                .arg(certificate)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output()
        })
        .await
        .unwrap()
        .unwrap_or_else(|error| {
            panic!("{program:?}: {error}; scripts/setup-tests.sh installs what the tests need")
        });
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.trim() == "ok 1000", "{program:?}: {out}{err}");
    }
    assert_eq!(echo.visits().len(), 2);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_client_that_asks_for_h2c_is_served_in_http_1() {
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["ticket"]
        [[route]]
        path = "/public/*"
        upstream = "web"
        auth = []
    "#;
    let web = format!("[[upstream]]\nname = \"web\"\nservers = [\"{}\"]\n", backend.url());
    let usher = Setup::new(echo.url()).routes(routes).extra(&web).start().await;
    let (token, address) = (usher.token("ada"), usher.plain.to_string());
    let run = move || {
        let mut child = Command::new("java")
            .args(["tests/e2e/clients/java/Client.java", &address])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().unwrap().write_all(token.as_bytes())?;
        child.wait_with_output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap_or_else(|error| {
        panic!("java: {error}; scripts/setup-tests.sh installs what the tests need")
    });
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim() == "ok", "{out}{err}");
    let heads = backend.heads();
    assert_eq!(heads.len(), 3);
    for head in heads {
        for gone in ["upgrade", "http2-settings", "connection"] {
            assert!(!head.contains_key(gone), "{gone}: {head:?}");
        }
    }
    usher.finish().await;
}
