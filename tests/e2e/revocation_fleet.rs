//! Revocation over several Ushers and one real Redis: an order to one node is in force on all,
//! whatever happens to Redis.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::revocation::{JSON, is_refused, is_revoked, post};
use crate::store_redis::{setup, usher};
use crate::support::redis::RedisServer;
use crate::support::usher::Socket;
use crate::support::{Echo, Usher, eventually, token};

const PATIENCE: Duration = Duration::from_secs(30);
const STREAM: &str = "usher:revocations";

struct Pair {
    echo: Echo,
    server: RedisServer,
    a: Usher,
    b: Usher,
}

impl Pair {
    async fn start() -> Self {
        let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
        let [a, b] = [usher(&echo, &store(&server)).await, usher(&echo, &store(&server)).await];
        Self { echo, server, a, b }
    }

    /// Starts another node, after the others have run for a while.
    async fn newcomer(&self) -> Usher {
        usher(&self.echo, &store(&self.server)).await
    }

    async fn finish(self) -> [Vec<Value>; 2] {
        [self.a.finish().await, self.b.finish().await]
    }
}

fn store(server: &RedisServer) -> String {
    format!("url = \"{}\"\ntimeout = \"2s\"", server.url())
}

/// Gives the order while Redis is there.
async fn revoke(usher: &Usher, order: &Value) -> Value {
    let (status, answer) = post(usher, JSON, &order.to_string()).await;
    assert_eq!((status, &answer["fleet"]), (200, &json!(true)), "{answer}");
    answer
}

/// Gives the order while Redis is away.
async fn revoke_here_only(usher: &Usher, order: &Value) {
    let (status, answer) = post(usher, JSON, &order.to_string()).await;
    assert_eq!(
        (status, &answer["fleet"], &answer["code"]),
        (503, &json!(false), &json!("REVOKED_HERE_ONLY")),
        "{answer}"
    );
    assert!(
        answer["message"].as_str().unwrap().contains("this node only")
            && answer["until"].is_string(),
        "{answer}"
    );
}

async fn is_closed(socket: &mut Socket) {
    timeout(PATIENCE, is_revoked(socket)).await.expect("the session goes on");
}

/// Waits until the stream has an entry, and returns it.
async fn stream_entry(server: &RedisServer) -> String {
    let entry = server.cli(&["XREAD", "BLOCK", "20000", "STREAMS", STREAM, "0"]);
    assert!(entry.contains("\"until\""), "{entry}");
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_one_node_ends_sessions_at_the_others() {
    let pair = Pair::start().await;
    let mut ada =
        [pair.a.connect("ada").await, pair.b.connect("ada").await, pair.b.connect("ada").await];
    let mut bob = pair.b.connect("bob").await;
    let answer = revoke(&pair.a, &json!({"user": "ada"})).await;
    assert_eq!(answer["closed"], 1, "the sessions of this node");
    for socket in &mut ada {
        is_closed(socket).await;
    }
    for usher in [&pair.a, &pair.b] {
        is_refused(usher, &usher.token("ada")).await;
    }
    // Orders in the other direction, so that A has read its own order in the stream.
    revoke(&pair.b, &json!({"user": "eva"})).await;
    revoke(&pair.b, &json!({"user": "bob"})).await;
    is_closed(&mut bob).await;
    let mut bound: i64 = pair.server.cli(&["PTTL", STREAM]).trim().parse().unwrap();
    bound /= 24 * 3600 * 1000;
    assert!((29..=31).contains(&bound), "it leaves by itself: {bound}");
    let audits = pair.finish().await;
    for audit in audits {
        let mut users: Vec<&str> = audit
            .iter()
            .filter(|line| line["event"] == "revoked")
            .map(|line| line["user"].as_str().unwrap())
            .collect();
        users.sort_unstable();
        users.dedup();
        let all = audit.iter().filter(|line| line["event"] == "revoked").count();
        assert_eq!(
            all,
            users.len(),
            "an order is one event on each node, also on the node that it was given to"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_longer_than_keep_stays_in_the_stream_until_it_ends() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    let short = format!("{}\n[revocation]\nttl = \"2s\"", store(&server));
    let first = usher(&echo, &short).await;
    let left = || server.cli(&["PTTL", STREAM]).trim().parse::<u64>().unwrap();
    let hour = 3_600_000;
    revoke(&first, &json!({"user": "ada", "until": (token::now() + 3600) * 1000})).await;
    assert!((hour - 60_000..=hour).contains(&left()), "{}", left());
    // A shorter order does not shorten the time, and neither does an order from a process that only
    // read the long one.
    revoke(&first, &json!({"user": "bob"})).await;
    let second = usher(&echo, &short).await;
    revoke(&second, &json!({"user": "eve"})).await;
    assert!((hour - 60_000..=hour).contains(&left()), "{}", left());
    // An unlimited end is stored as the largest one that Redis can hold.
    revoke(&second, &json!({"user": "eve", "until": u64::MAX})).await;
    assert!(left() > hour);
    first.finish().await;
    second.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_reads_the_orders_before_it_accepts_clients() {
    let pair = Pair::start().await;
    revoke(&pair.a, &json!({"user": "ada"})).await;
    revoke(&pair.b, &json!({"token_id": "t1"})).await;
    let newcomer = pair.newcomer().await;
    is_refused(&newcomer, &newcomer.token("ada")).await;
    is_refused(&newcomer, &newcomer.token_with("bob", json!({"jti": "t1"}))).await;
    let metrics = newcomer.metrics().await;
    assert!(
        metrics.contains("usher_revocation_stream_entries_total{outcome=\"new\"} 2"),
        "{metrics}"
    );
    drop(newcomer.connect("bob").await);
    newcomer.finish().await;
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_given_while_redis_hangs_reaches_the_others_when_it_goes_on() {
    let pair = Pair::start().await;
    let (mut here, mut there) = (pair.a.connect("ada").await, pair.b.connect("ada").await);
    pair.server.signal("STOP");
    revoke_here_only(&pair.a, &json!({"user": "ada"})).await;
    is_closed(&mut here).await;
    is_refused(&pair.a, &pair.a.token("ada")).await;
    pair.server.signal("CONT");
    is_closed(&mut there).await;
    is_refused(&pair.b, &pair.b.token("ada")).await;
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_given_without_redis_reaches_the_others_and_a_newcomer_once_it_is_back_empty() {
    let mut pair = Pair::start().await;
    // Redis knew the first order and forgets it. The second order never reached it.
    revoke(&pair.a, &json!({"user": "eva"})).await;
    let mut there = pair.b.connect("ada").await;
    pair.server.kill();
    revoke_here_only(&pair.a, &json!({"user": "ada"})).await;
    pair.server.start_again();
    is_closed(&mut there).await;
    // Then the order is in the stream, after the older one.
    let newcomer = pair.newcomer().await;
    is_refused(&newcomer, &newcomer.token("ada")).await;
    is_refused(&newcomer, &newcomer.token("eva")).await;
    newcomer.finish().await;
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_emptied_is_noticed_and_written_again() {
    let pair = Pair::start().await;
    revoke(&pair.a, &json!({"user": "ada"})).await;
    pair.server.cli(&["DEL", STREAM]);
    let entry = stream_entry(&pair.server).await;
    assert!(entry.contains("ada"), "{entry}");
    // An order after it works as before.
    let mut bob = pair.b.connect("bob").await;
    revoke(&pair.a, &json!({"user": "bob"})).await;
    is_closed(&mut bob).await;
    let newcomer = pair.newcomer().await;
    is_refused(&newcomer, &newcomer.token("ada")).await;
    newcomer.finish().await;
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_from_an_old_snapshot_learns_what_it_has_forgotten() {
    let mut pair = Pair::start().await;
    revoke(&pair.a, &json!({"user": "ada"})).await;
    pair.server.cli(&["SAVE"]);
    revoke(&pair.a, &json!({"user": "bob"})).await;
    pair.server.start_again();
    let knows_bob = || pair.server.cli(&["XRANGE", STREAM, "-", "+"]).contains("bob");
    eventually("Redis has the order again", async || knows_bob()).await;
    let newcomer = pair.newcomer().await;
    is_refused(&newcomer, &newcomer.token("ada")).await;
    is_refused(&newcomer, &newcomer.token("bob")).await;
    newcomer.finish().await;
    pair.finish().await;
}

/// Each node could write all orders. They start at different places, and each leaves out the orders
/// that others have written.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_restore_the_same_orders_share_the_work() {
    const ORDERS: usize = 1_000;
    let mut pair = Pair::start().await;
    let nodes = [pair.newcomer().await, pair.newcomer().await, pair.newcomer().await];
    for number in 0..ORDERS {
        revoke(&pair.a, &json!({"user": format!("user-{number}")})).await;
    }
    let all = async |pair: &Pair, metric: &str| {
        let mut found = Vec::new();
        for usher in nodes.iter().chain([&pair.a, &pair.b]) {
            usher.until_metric(metric).await;
            found.push(usher.metrics().await);
        }
        found
    };
    pair.server.kill();
    all(&pair, "usher_revocation_stream_reading 0").await;
    pair.server.start_again();
    // The metric is 1 after the node has read the stream and written the missing orders.
    let metrics = all(&pair, "usher_revocation_stream_reading 1").await;
    let told = |text: &String| {
        text.lines().find_map(|line| {
            line.strip_prefix("usher_revocation_stream_restored_total ")?.parse().ok()
        })
    };
    let written: Vec<usize> = metrics.iter().map(|text| told(text).unwrap()).collect();
    let all: usize = written.iter().sum();
    assert!((ORDERS..ORDERS * written.len()).contains(&all), "{written:?}");
    let newcomer = pair.newcomer().await;
    is_refused(&newcomer, &newcomer.token("user-0")).await;
    is_refused(&newcomer, &newcomer.token(&format!("user-{}", ORDERS - 1))).await;
    for usher in nodes.into_iter().chain([newcomer]) {
        usher.finish().await;
    }
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_keeps_the_order_on_this_node_until_there_is_room() {
    let pair = Pair::start().await;
    let mut there = pair.b.connect("ada").await;
    pair.server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    revoke_here_only(&pair.a, &json!({"user": "ada"})).await;
    pair.server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    is_closed(&mut there).await;
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_started_without_redis_reads_the_orders_when_redis_comes() {
    let mut pair = Pair::start().await;
    pair.server.kill();
    revoke_here_only(&pair.a, &json!({"user": "ada"})).await;
    let late = pair.newcomer().await;
    // The node could not learn of the order, so it accepts the token: without the store, all
    // methods but tickets go on.
    let mut ada = late.connect("ada").await;
    pair.server.start_again();
    is_closed(&mut ada).await;
    is_refused(&late, &late.token("ada")).await;
    late.finish().await;
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_entry_in_the_stream_is_skipped() {
    let pair = Pair::start().await;
    let huge = format!(
        r#"{{"id":"{}","at":1,"until":9999999999999,"user":"bob"}}"#,
        "x".repeat(16 * 1024)
    );
    for entry in [["order", "{}"], ["order", "no json"], ["other", "{}"], ["order", &huge]] {
        pair.server.cli(&[&["XADD", STREAM, "*"], entry.as_slice()].concat());
    }
    let mut bob = pair.b.connect("bob").await;
    revoke(&pair.a, &json!({"user": "bob"})).await;
    is_closed(&mut bob).await;
    let metrics = pair.b.metrics().await;
    assert!(
        metrics.contains("usher_revocation_stream_entries_total{outcome=\"unreadable\"} 4"),
        "{metrics}"
    );
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_answers_an_order_without_a_fleet_field() {
    let echo = Echo::start().await;
    let usher = setup(&echo, "url = \"memory\"").start().await;
    let (status, answer) = post(&usher, JSON, r#"{"user":"ada"}"#).await;
    assert_eq!((status, answer.get("fleet")), (200, None));
    usher.finish().await;
}
