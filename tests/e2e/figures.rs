//! Figures of `/metrics` that move while sessions live, and the formats that they are written in.

use std::io::Write;
use std::process::{Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::revocation::revoke;
use crate::support::client::{self, Answer};
use crate::support::{Echo, Setup, Usher};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Returns the value of a series, 0 without one.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn relayed(metrics: &str, figure: &str, direction: &str) -> u64 {
    let series = format!("usher_relay_{figure}_total{{route=\"/ws\",direction=\"{direction}\"}}");
    value(metrics, &series) as u64
}

async fn metrics_as(usher: &Usher, accept: &str) -> Answer {
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    client::http(usher.admin, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mebibyte_of_a_live_session_is_counted_while_it_moves_and_never_twice() {
    const MESSAGES: u64 = 64;
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut socket = usher.connect("ada").await;
    let message = Message::binary(vec![7; 16 * 1024]);
    let mut before = 0;
    for sent in 1..=MESSAGES {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
        if sent % 8 == 0 {
            let bytes = relayed(&usher.metrics().await, "bytes", "from_client");
            // The last echo may be with the client before its session has counted it.
            assert!(bytes >= before.max((sent - 1) * 16 * 1024), "{bytes} after {before}");
            before = bytes;
        }
    }
    for direction in ["from_client", "from_upstream"] {
        let series = format!("usher_relay_bytes_total{{route=\"/ws\",direction=\"{direction}\"}}");
        usher.until_at_least(&series, MESSAGES * 16 * 1024).await;
    }
    let metrics = usher.metrics().await;
    assert_eq!(value(&metrics, "usher_sessions_active{route=\"/ws\"}"), 1.0, "it lives");
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    usher.logged(&["session_ended"]).await;
    let metrics = usher.metrics().await;
    let audit = usher.finish().await;
    let end = audit.iter().find(|line| line["event"] == "session_ended").unwrap();
    for direction in ["from_client", "from_upstream"] {
        for figure in ["bytes", "messages"] {
            let counted = relayed(&metrics, figure, direction);
            assert_eq!(end[direction][figure], json!(counted), "{direction} {figure}");
        }
        assert_eq!(relayed(&metrics, "messages", direction), MESSAGES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_timed_until_each_of_its_sessions_has_ended() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut sockets = Vec::new();
    for user in ["ada", "ada", "bob"] {
        sockets.push(usher.connect(user).await);
    }
    assert_eq!(revoke(&usher, json!({ "user": "ada" })).await, 2);
    for socket in &mut sockets[..2] {
        while let Some(Ok(_)) = socket.next().await {}
    }
    usher.until_metric("usher_revocation_close_duration_seconds_count 2").await;
    let mut last = sockets.pop().unwrap();
    last.close(None).await.unwrap();
    while let Some(Ok(_)) = last.next().await {}
    usher.until_metric("usher_sessions_active{route=\"/ws\"} 0").await;
    let metrics = usher.metrics().await;
    assert_eq!(value(&metrics, "usher_revocation_close_duration_seconds_count"), 2.0);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_has_figures_by_their_usual_names() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let before = usher.metrics().await;
    let sockets = [usher.connect("ada").await, usher.connect("bob").await];
    // Each session has two sockets. Connections of before may close meanwhile.
    let open = value(&before, "process_open_fds") as u64;
    usher.until_at_least("process_open_fds", open + 2).await;
    let after = usher.metrics().await;
    assert!(value(&after, "process_max_fds") > value(&after, "process_open_fds"), "{after}");
    let resident = value(&after, "process_resident_memory_bytes");
    let kib = usher.resident_kib() as f64;
    assert!((0.5..2.0).contains(&(resident / 1024.0 / kib)), "{resident} B, {kib} KiB");
    assert!(value(&after, "process_virtual_memory_bytes") >= resident, "{after}");
    assert!(value(&after, "process_threads") >= 1.0, "{after}");
    let cpu = |metrics| value(metrics, "process_cpu_seconds_total");
    assert!(cpu(&after) > cpu(&before) && cpu(&before) > 0.0, "{after}");
    assert_eq!(
        value(&after, "process_start_time_seconds"),
        value(&after, "usher_start_time_seconds")
    );
    drop(sockets);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_is_well_formed_and_openmetrics_has_exemplars() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let bearer = format!("Bearer {}", usher.token("ada"));
    let traced = format!("00-{TRACE}-b7ad6b7169203331-01");
    let unsampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let mut sockets = Vec::new();
    for traceparent in [&traced, unsampled, "x\"} 1"] {
        let headers = [("authorization", bearer.as_str()), ("traceparent", traceparent)];
        sockets.push(usher.open("/ws", &headers).await.unwrap());
    }
    let traceparent = format!("traceparent: {traced}\r\n");
    assert_eq!(usher.ask_ticket(&usher.token("ada"), "", &traceparent).await.0, 201);

    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let open = metrics_as(&usher, accept).await;
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let text = metrics_as(&usher, "text/plain").await;
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(
        !text.body.contains(TRACE) && text.body.contains("usher_ticket_issue_duration_seconds")
    );

    let files = [("open", &open.body), ("text", &text.body)].map(|(name, page)| {
        let path = usher.folder().join(name);
        std::fs::write(&path, page).unwrap();
        path
    });
    let promtool_page = text.body.clone();
    let (read, checked) = tokio::task::spawn_blocking(move || {
        let read = Command::new("target/e2e-tools/venv/bin/python")
            .arg("tests/e2e/clients/python/metrics_page.py")
            .args(files)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("scripts/setup-tests.sh installs what the tests need");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scripts/setup-tests.sh installs what the tests need");
        promtool.stdin.take().unwrap().write_all(promtool_page.as_bytes()).unwrap();
        (read, promtool.wait_with_output().unwrap())
    })
    .await
    .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let exemplars = String::from_utf8_lossy(&read.stdout);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let lines: Vec<&str> = exemplars.lines().collect();
    for family in
        ["usher_upgrade_duration", "usher_upgrade_phase_duration", "usher_ticket_issue_duration"]
    {
        let line = format!("{family}_seconds_bucket {TRACE}");
        assert!(lines.contains(&&*line), "{line} in {exemplars}");
    }
    // One for the upgrade, one for each of its phases, one for the ticket.
    assert!(lines.len() == 5 && lines.iter().all(|line| line.ends_with(TRACE)), "{exemplars}");
    drop(sockets);
    usher.finish().await;
}
