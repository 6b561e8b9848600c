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

/// Each client opens its WebSockets in streams of one HTTP/2 connection, and sends a request there.
#[tokio::test(flavor = "multi_thread")]
async fn python_and_node_clients_talk_over_http_2() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let certificate = usher.certificate_path().display().to_string();
    let mut tickets = Vec::new();
    for _ in 0..5 {
        tickets.push(usher.issue_ticket(&usher.token("ada")).await);
    }
    let (port, one) = (usher.tls.port(), tickets.pop().unwrap());
    let python = ["localhost", &port.to_string(), &certificate, "/ws"].map(str::to_owned);
    let url = format!("wss://localhost:{port}/ws?ticket={one}");
    for (program, arguments, expected) in [
        (
            ["target/e2e-tools/venv/bin/python", "tests/e2e/clients/python/http2_client.py"],
            [&python[..], &tickets[..]].concat(),
            "ok 4",
        ),
        (["node", "tests/e2e/clients/node/http2.mjs"], vec![url, certificate.clone()], "ok 1000"),
    ] {
        let run = move || {
            Command::new(program[0])
                .arg(program[1])
                .args(arguments)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap_or_else(|error| {
            panic!("{program:?}: {error}; scripts/setup-tests.sh installs what the tests need")
        });
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.trim() == expected, "{program:?}: {out}{err}");
    }
    assert_eq!(echo.visits().len(), 5);
    let metrics = usher.metrics().await;
    for line in [
        "usher_connection_protocols_total{protocol=\"http2\"} 2",
        "usher_upgrades_received_total{protocol=\"http2\"} 5",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_h2load_are_served_over_http_2() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).start().await;
    let url = format!("https://localhost:{}/public/hello", usher.tls.port());
    let certificate = usher.certificate_path().display().to_string();
    for (program, arguments, expected) in [
        (
            "curl",
            vec!["-sS", "--http2", "-w", " %{http_version}", "--cacert", &*certificate],
            "hello 2",
        ),
        (
            "curl",
            vec!["-sS", "--http1.1", "-w", " %{http_version}", "--cacert", &certificate],
            "hello 1.1",
        ),
        ("h2load", vec!["-n", "1000", "-c", "5", "-m", "20"], "1000 succeeded, 0 failed"),
    ] {
        let arguments: Vec<String> =
            arguments.into_iter().chain([&*url]).map(str::to_owned).collect();
        let run = move || Command::new(program).args(arguments).output();
        let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap_or_else(|error| {
            panic!("{program}: {error}; scripts/setup-tests.sh installs what the tests need")
        });
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains(expected), "{program}: {out}{err}");
    }
    assert_eq!(backend.heads().len(), 1002);
    usher.finish().await;
}

/// Each browser loads a page and opens two sockets, all over one HTTP/2 connection.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_open_websockets_over_http_2() {
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
    // One browser runs at a time, so these may wait long for their turn.
    let web = format!(
        "[tickets]\nttl = \"1h\"\nmax_ttl = \"1h\"\n\
         [[upstream]]\nname = \"web\"\nservers = [\"{}\"]\n",
        backend.url()
    );
    let usher = Setup::new(echo.url()).routes(routes).extra(&web).start().await;
    let base = format!("https://localhost:{}", usher.tls.port());
    for (number, browser) in (1..).zip(["chromium", "firefox"]) {
        let mut arguments = vec![browser.to_owned(), base.clone(), "/public/hello".to_owned()];
        for _ in 0..2 {
            let ticket = usher.issue_ticket(&usher.token("ada")).await;
            arguments.push(format!("/ws?ticket={ticket}"));
        }
        let run = move || {
            let _turn = crate::demo::turn();
            Command::new("node")
                .arg("http2.mjs")
                .args(arguments)
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/browser"))
                .output()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{browser}: {out}{err}{}\nscripts/setup-tests.sh installs what the tests need",
            usher.log()
        );
        let metrics = usher.metrics().await;
        let opened = format!("usher_upgrades_received_total{{protocol=\"http2\"}} {}", 2 * number);
        assert!(metrics.contains(&opened), "{browser}: {opened}\n{metrics}");
        assert!(
            metrics.contains("usher_upgrades_received_total{protocol=\"http1\"} 0"),
            "{metrics}"
        );
    }
    assert_eq!(echo.visits().len(), 4);
    usher.finish().await;
}
