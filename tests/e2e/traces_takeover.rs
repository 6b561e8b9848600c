//! Traces while one process replaces another: no span is lost, and links lead to the spans before.

use serde_json::{Value, json};

use crate::service_manager::{Service, is_running};
use crate::support::client::{Answer, Raw};
use crate::support::{Echo, SpanReceiver, eventually, signal, token, upgrade_request};

/// Issues a ticket on a connection that stays open, if the process lets it.
async fn issue(raw: &mut Raw) -> String {
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: chat.example.com\r\n\
         Authorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
        token::mint("ada", json!({}))
    );
    raw.send(request).await;
    let head = Answer::parse(raw.read_head().await.as_bytes());
    let length = head.header("content-length").unwrap().parse().unwrap();
    let body = raw.read_exactly(length).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    answer["ticket_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_sends_its_spans_before_it_leaves_and_the_next_one_links_them() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    // Only the exit sends spans.
    let traces = receiver.table("exit_timeout = \"30s\"").replace("50ms", "1h");
    let tables = format!(
        "{traces}[drain]\nwindow = \"60s\"\n[[route]]\npath = \"/ws\"\nupstream = \"chat\"\n\
         auth = [\"ticket\"]\n[[issuer]]\nname = \"main\"\nissuer = \"https://id.example.com\"\n\
         audience = [\"chat\"]\nalgorithms = [\"HS256\"]\nsecret_file = \"secret\"\n"
    );
    let mut service =
        Service::start_with("traces", &echo.url(), Some("takeover.sock"), &tables).await;
    assert_eq!(service.message().await, "READY=1");
    let mut kept = Raw::connect(service.address).await;
    let before = issue(&mut kept).await;
    let successor = service.replace().await;
    // This connection is still with the old process.
    let behind = issue(&mut kept).await;
    assert!(receiver.requests().is_empty(), "{}", receiver.text());
    drop(kept);
    service.ended().await;
    let mut issued = Vec::new();
    for index in 0..2 {
        issued.push(receiver.request("POST /websocket/ticket", index).await.0);
    }
    assert_eq!(receiver.requests().len(), 1, "the old process has sent all of its spans at once");

    let redeemed_at = async |ticket: &str| {
        let mut raw = Raw::connect(service.address).await;
        raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
        assert_eq!(Answer::parse(raw.read_head().await.as_bytes()).status, 101);
    };
    redeemed_at(&before).await;
    redeemed_at(&behind).await;
    signal(successor.0, "TERM");
    eventually("the new process exits", async || !is_running(successor.0)).await;
    for (index, issue) in issued.iter().enumerate() {
        let (redemption, _) = receiver.request("GET /ws", index).await;
        let link = &redemption["links"][0];
        assert_eq!(
            (&link["trace_id"], &link["span_id"], &link["attributes"]["usher.link"]),
            (&issue["trace_id"], &issue["span_id"], &json!("ticket"))
        );
    }
    for secret in [&before, &behind] {
        assert!(!receiver.text().contains(secret));
    }
    std::fs::remove_dir_all(&service.folder).unwrap();
}
