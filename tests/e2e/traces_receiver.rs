//! A receiver of traces that is away, slow, busy or wrong: no request waits for it, and only spans
//! are lost.

use crate::reload::usher_reload;
use crate::support::client::{self, Raw};
use crate::support::{Echo, Setup, SpanReceiver, Usher, eventually, upgrade_request};

async fn start(receiver: &SpanReceiver, lines: &str) -> (Echo, Usher) {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).extra(&receiver.table(lines)).start().await;
    (echo, usher)
}

/// Opens a WebSocket, which has four spans, and closes it.
async fn upgrade(usher: &Usher) {
    let mut raw = Raw::connect(usher.plain).await;
    let headers = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    raw.send(upgrade_request("/ws", &headers)).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
}

/// Returns the value of a metric without labels, or with the only label that this text names.
async fn metric(usher: &Usher, series: &str) -> u64 {
    let metrics = usher.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series}: {metrics}")).parse().unwrap()
}

fn dropped(reason: &str) -> String {
    format!("usher_trace_spans_dropped_total{{reason=\"{reason}\"}}")
}

async fn until(usher: &Usher, series: &str, value: u64) {
    eventually(format!("{series} {value}"), async || metric(usher, series).await == value).await;
}

async fn logged(usher: &Usher, event: &str) {
    let line = format!("\"event\":\"{event}\"");
    eventually(event, async || usher.log().contains(&line)).await;
}

fn edit(usher: &Usher, from: &str, to: &str) {
    let path = usher.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

async fn reload(usher: &Usher) {
    let (code, said) = usher_reload(usher).await;
    assert!(code == 0 && said.starts_with("applied: traces\n"), "{code} {said}");
}

const EXPORTED: &str = "usher_trace_spans_exported_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_receiver_is_asked_again_and_gets_every_span_once() {
    let mut receiver = SpanReceiver::start().await;
    let (_echo, usher) = start(&receiver, "").await;
    receiver.is("answer 503 1").await;
    upgrade(&usher).await;
    eventually("it is asked", async || !receiver.spans_of("answer").is_empty()).await;
    assert_eq!(metric(&usher, EXPORTED).await, 0);
    receiver.is("accept").await;
    until(&usher, EXPORTED, 4).await;
    assert_eq!(receiver.spans_of("accept").len(), 4);
    // A part of a batch.
    receiver.is("partial").await;
    upgrade(&usher).await;
    until(&usher, EXPORTED, 7).await;
    assert_eq!(metric(&usher, &dropped("refused")).await, 1);
    for event in ["traces_on", "traces_not_exported", "traces_exported", "spans_rejected"] {
        logged(&usher, event).await;
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_otlp_costs_spans_and_nothing_else() {
    let mut receiver = SpanReceiver::start().await;
    let (_echo, usher) = start(&receiver, "retry_for = \"0s\"").await;
    for (mood, series) in [
        // The status counts.
        ("garbage", EXPORTED.to_owned()),
        ("answer 401", dropped("refused")),
        ("answer 307", dropped("refused")),
        ("answer 429", dropped("gave_up")),
        ("noise", dropped("refused")),
        ("endless", dropped("refused")),
    ] {
        receiver.is(mood).await;
        let before = metric(&usher, &series).await;
        upgrade(&usher).await;
        until(&usher, &series, before + 4).await;
    }
    receiver.is("accept").await;
    upgrade(&usher).await;
    until(&usher, EXPORTED, 8).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_receiver_is_left_after_the_timeout() {
    let mut receiver = SpanReceiver::start().await;
    receiver.is("silent").await;
    let (_echo, usher) = start(&receiver, "retry_for = \"0s\"\ntimeout = \"500ms\"").await;
    for count in [4, 8] {
        upgrade(&usher).await;
        until(&usher, &dropped("gave_up"), count).await;
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_costs_only_the_spans_beyond_the_queue() {
    let receiver = SpanReceiver::start().await;
    let port = receiver.port;
    let (_echo, usher) = start(&receiver, "queue = 20\nbatch = 20").await;
    drop(receiver);
    for _ in 0..8 {
        upgrade(&usher).await;
    }
    until(&usher, &dropped("queue_full"), 12).await;
    let receiver = SpanReceiver::start_at(port).await;
    until(&usher, EXPORTED, 20).await;
    assert_eq!(receiver.spans_of("accept").len(), 20);
    upgrade(&usher).await;
    until(&usher, EXPORTED, 24).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_names_another_receiver_or_none() {
    let (first, second) = (SpanReceiver::start().await, SpanReceiver::start().await);
    let (_echo, usher) = start(&first, "").await;
    upgrade(&usher).await;
    until(&usher, EXPORTED, 4).await;
    edit(&usher, &first.port.to_string(), &second.port.to_string());
    reload(&usher).await;
    upgrade(&usher).await;
    until(&usher, EXPORTED, 8).await;
    assert_eq!((first.spans_of("accept").len(), second.spans_of("accept").len()), (4, 4));
    // A wrong table changes nothing.
    edit(&usher, "delay = \"50ms\"", "delay = \"50ms\"\nsample_ratio = 2");
    let (code, said) = usher_reload(&usher).await;
    assert!(code == 78 && said.contains("must be a number from 0 to 1"), "{code} {said}");
    edit(&usher, "sample_ratio = 2", "sample_ratio = 0");
    reload(&usher).await;
    upgrade(&usher).await;
    // Without the table, nothing is traced.
    let text = std::fs::read_to_string(usher.config_path()).unwrap();
    let (before, table) = text.split_once("[traces]").unwrap();
    let (_, behind) = table.split_once("[keepalive]").unwrap();
    std::fs::write(usher.config_path(), format!("{before}[keepalive]{behind}")).unwrap();
    reload(&usher).await;
    upgrade(&usher).await;
    logged(&usher, "traces_off").await;
    assert_eq!(metric(&usher, EXPORTED).await, 8);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_sends_what_waits_and_does_not_wait_for_a_silent_receiver() {
    for (mood, patience) in [("accept", "30s"), ("silent", "3s")] {
        let mut receiver = SpanReceiver::start().await;
        let lines = format!("exit_timeout = \"{patience}\"");
        let table = receiver.table(&lines).replace("50ms", "1h");
        let echo = Echo::start().await;
        let usher = Setup::new(echo.url()).extra(&table).start().await;
        receiver.is(mood).await;
        upgrade(&usher).await;
        assert!(receiver.requests().is_empty());
        usher.finish().await;
        eventually(format!("four spans: {mood}"), async || receiver.spans_of(mood).len() == 4)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_judges_the_table_and_asks_for_the_receiver() {
    let receiver = SpanReceiver::start().await;
    let (_echo, usher) = start(&receiver, "").await;
    let check = async || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
        command.arg("check").arg("-c").arg(usher.config_path());
        let output = command.output().await.unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let subject = format!("receiver of traces, 127.0.0.1:{}", receiver.port);
    let said = check().await;
    assert!(said.contains(&subject) && said.contains("nothing was sent"), "{said}");
    drop(receiver);
    let said = check().await;
    assert!(said.contains("spans are dropped until the receiver answers"), "{said}");
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    usher.finish().await;
}
