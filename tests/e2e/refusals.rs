//! Log lines about refusals: their level, their number, and their method.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::support::redis::free_port;
use crate::support::{Echo, Raw, Setup, upgrade_request};

/// Returns the lines of this event in a JSON log.
fn lines(log: &str, event: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == event).collect()
}

/// One client sends requests as fast as they are refused. The log summarises them and stays small.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_is_refused_two_thousand_times_fills_no_log() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).extra("[log]\nformat = \"json\"\n").start().await;
    let wanted = 2_000_usize;
    let mut size = 0;
    for _ in 0..wanted {
        let mut raw = Raw::connect(usher.plain).await;
        let request = upgrade_request("/ws", "Authorization: Bearer x.y.z\r\n");
        size += request.len();
        raw.send(request).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 401"));
    }
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains(&format!("method=\"header\",outcome=\"invalid_token\"}} {wanted}")),
        "{metrics}"
    );
    let log = {
        let before = usher.log().len();
        // The refusals of the last second are summarised when the second is over.
        usher.logged(&["refusals_summarised"]).await;
        assert!(before < size / 2, "{before} bytes of log for {size} bytes sent");
        usher.log()
    };
    let told = lines(&log, "upgrade_rejected");
    assert!((1..wanted / 4).contains(&told.len()), "{} lines", told.len());
    assert!(told.iter().all(|line| line["peer"] == "127.0.0.1"));
    let audit = usher.finish().await;
    let single = audit.iter().filter(|line| line["event"] == "upgrade_rejected").count();
    let summed: Vec<_> =
        audit.iter().filter(|line| line["event"] == "refusals_summarised").collect();
    let count: u64 = summed.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(single as u64 + count, wanted as u64, "a refusal is missing");
    assert!(!summed.is_empty(), "the audit log has no summary");
    assert!(summed.iter().all(|line| line["peer"] == "127.0.0.1"
        && line["detail"].as_str().unwrap().starts_with("invalid_token: ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_clients_are_as_loud_as_the_file_says() {
    let echo = Echo::start().await;
    for (key, level) in [("refusals = \"warn\"", "WARN"), ("", "INFO")] {
        let usher = Setup::new(echo.url())
            .extra(&format!("[log]\nformat = \"json\"\n{key}\n"))
            .start()
            .await;
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", "")).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 401"));
        let log = usher.logged(&["upgrade_rejected"]).await;
        let line = &lines(&log, "upgrade_rejected")[0];
        assert_eq!(
            (&line["level"], &line["outcome"]),
            (&level.into(), &"missing_credential".into())
        );
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_limit_stops_has_a_line() {
    let echo = Echo::start().await;
    let usher =
        Setup::new(echo.url()).extra("[limits]\nunauthenticated_per_address = 2\n").start().await;
    let _held = [Raw::connect(usher.plain).await, Raw::connect(usher.plain).await];
    assert_eq!(Raw::connect(usher.plain).await.read_to_close().await, b"");
    usher.logged(&["limit_reached", "unauthenticated_per_address", "127.0.0.1"]).await;
    let audit = usher.finish().await;
    let line =
        audit.iter().find(|line| line["event"] == "limit_reached").expect("the limit has no line");
    assert_eq!(
        (&line["outcome"], &line["peer"]),
        (&"unauthenticated_per_address".into(), &"127.0.0.1".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_counts_under_the_method_that_the_route_waited_for() {
    let echo = Echo::start().await;
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
        first_message = { timeout = \"2s\" }\n";
    let usher = Setup::new(echo.url()).routes(routes).start().await;
    for message in [Some("hello"), Some(r#"{"type":"auth"}"#), None] {
        let mut socket = usher.open("/ws", &[]).await.unwrap();
        if let Some(message) = message {
            socket.send(Message::text(message)).await.unwrap();
        }
        while let Some(Ok(_)) = socket.next().await {}
    }
    let metrics = usher.metrics().await;
    for outcome in
        ["first_message_not_auth", "first_message_missing_token", "authentication_timeout"]
    {
        let line = format!(
            "usher_upgrades_total{{route=\"/ws\",method=\"message\",outcome=\"{outcome}\"}} 1"
        );
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("method=\"none\""), "{metrics}");
    let audit = usher.finish().await;
    let refused: Vec<_> = audit.iter().filter(|line| line["event"] == "upgrade_rejected").collect();
    assert!(
        refused.len() == 3 && refused.iter().all(|line| line["method"] == "message"),
        "{refused:?}"
    );
}

/// Also for a value that is not a credential, and for a page that may not connect.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_counts_under_the_method_that_the_client_tried() {
    let echo = Echo::start().await;
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["ticket", "header"]
        origins = ["https://app.example.com"]
    "#;
    let usher = Setup::new(echo.url()).routes(routes).start().await;
    let evil = "Origin: https://evil.example.com\r\nAuthorization: Bearer x.y.z\r\n";
    for (headers, outcome) in [
        ("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "bad_request"),
        ("Authorization: Basic YTpi\r\n", "invalid_token"),
        (evil, "forbidden_origin"),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", headers)).await;
        raw.read_to_close().await;
        let line = format!(
            "usher_upgrades_total{{route=\"/ws\",method=\"header\",outcome=\"{outcome}\"}} 1"
        );
        let metrics = usher.metrics().await;
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    usher.finish().await;
}

/// On a public route, strangers make Usher dial an upstream that does not exist. The log lines are
/// limited as for other refusals.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_a_public_route_without_an_upstream_fill_no_audit_log() {
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n";
    let away = format!("http://127.0.0.1:{}", free_port());
    let setup = Setup::new(away).routes(routes).extra("[log]\nrefusal_lines = 2\n");
    let usher = setup.start().await;
    for _ in 0..100 {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", "")).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 50"));
    }
    let audit = usher.finish().await;
    let single = audit.iter().filter(|line| line["event"] == "upgrade_rejected").count() as u64;
    let summed = audit.iter().filter(|line| line["event"] == "refusals_summarised");
    let summed: u64 = summed.map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(single + summed, 100);
    assert!(single < 60, "{single} lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_live_session_are_counted_once_and_at_once() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut socket = usher.connect("ada").await;
    let messages = |direction: &str, count: u64| {
        format!("usher_relay_messages_total{{route=\"/ws\",direction=\"{direction}\"}} {count}\n")
    };
    for count in 1..=3 {
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        let bytes = format!(
            "usher_relay_bytes_total{{route=\"/ws\",direction=\"from_client\"}} {}\n",
            count * 11
        );
        let wanted = [messages("from_client", count), messages("from_upstream", count), bytes];
        // The client may get its echo before the task of the session has counted it.
        for line in wanted {
            usher.until_metric(line.trim_end()).await;
        }
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    usher.logged(&["session_ended"]).await;
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains(&messages("from_client", 3))
            && metrics.contains(&messages("from_upstream", 3)),
        "{metrics}"
    );
    usher.finish().await;
}
