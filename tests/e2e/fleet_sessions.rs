//! Two Ushers and one real Redis: the list of sessions, and the limit of sessions for each user,
//! over both nodes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use usher::base::clock::Now;

use crate::sessions::{command, is_replaced, refused};
use crate::store_redis::setup;
use crate::support::eventually::eventually_or;
use crate::support::redis::RedisServer;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Echo, Usher, client, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Nodes {
    one: Usher,
    two: Usher,
}

impl Nodes {
    pub async fn start(echo: &Echo, store: &str, limits: &str) -> Self {
        let start = |name: &str| {
            setup(echo, store).extra(&format!("[limits]\n{limits}\n")).node(name).start()
        };
        let nodes = Self { one: start("edge-1").await, two: start("edge-2").await };
        nodes.until(|list| list["nodes"].as_array().unwrap().len() == 2).await;
        nodes
    }

    /// Returns the list of all nodes, as the first node gives it.
    async fn list(&self, query: &str) -> Value {
        list(&self.one, query).await
    }

    /// Waits until the list fulfils the condition, and returns it.
    async fn until(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let list = async || Some(self.list("").await).filter(&holds);
        eventually_or(list, async || format!("the list is {}", self.list("").await)).await
    }

    /// With one session for each user, the newer session replaces the older one on any node.
    pub async fn replace_each_other(&self) {
        let mut bob = self.one.connect("bob").await;
        let mut ada = self.one.connect("ada").await;
        for usher in [&self.two, &self.one, &self.two] {
            // The store gets a session a moment after it has begun.
            self.until(|list| list["total"] == 2).await;
            let mut next = usher.connect("ada").await;
            timeout(PATIENCE, is_replaced(&mut ada, 1008))
                .await
                .expect("the older session was not replaced");
            is_alive(&mut next).await;
            ada = next;
        }
        is_alive(&mut bob).await;
        let list = self.until(|list| list["total"] == 2 && list["fleet"] == "whole").await;
        let rows: Vec<_> = list["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (&row["user"], &row["node"]))
            .collect();
        assert_eq!(rows, [(&json!("bob"), &json!("edge-1")), (&json!("ada"), &json!("edge-2"))]);
    }

    pub async fn finish(self) -> [Vec<Value>; 2] {
        [self.one.finish().await, self.two.finish().await]
    }
}

async fn list(usher: &Usher, query: &str) -> Value {
    let answer = client::get(usher.admin, &format!("/sessions?fleet=true{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

fn store(server: &RedisServer) -> String {
    format!("url = \"{}\"\ntimeout = \"2s\"", server.url())
}

/// The time is long because a busy machine must not fail the test.
fn patient(server: &RedisServer) -> String {
    format!("url = \"{}\"\ntimeout = \"10s\"", server.url())
}

/// Returns the keys of the users that hold places.
fn users(server: &RedisServer) -> Vec<String> {
    server
        .cli(&["KEYS", "usher:user:*"])
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Waits until Redis counts this many places of the only user.
async fn counted(server: &RedisServer, count: usize) {
    let places = |key: &String| server.cli(&["ZCARD", key]).trim().parse().unwrap();
    eventually(format!("Redis counts {count} places"), async || {
        users(server).first().map_or(0, places) == count
    })
    .await;
}

async fn open(usher: &Usher, token: &str) -> Option<Socket> {
    usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_all_nodes_are_one_list() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    let nodes = Nodes::start(&echo, &patient(&server), "").await;
    let sockets = [
        nodes.one.connect("ada").await,
        nodes.two.connect("ada").await,
        nodes.two.connect("bob").await,
    ];
    for (query, total, rows) in [
        ("", 3, vec![("ada", "edge-1"), ("ada", "edge-2"), ("bob", "edge-2")]),
        ("&user=ada", 2, vec![("ada", "edge-1"), ("ada", "edge-2")]),
        ("&limit=1", 3, vec![("ada", "edge-1")]),
        ("&user=bob&route=/ws", 1, vec![("bob", "edge-2")]),
        ("&route=/other", 0, vec![]),
    ] {
        let list = nodes.list(query).await;
        let listed = list["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["user"].as_str().unwrap(), row["node"].as_str().unwrap()));
        assert_eq!(
            (listed.collect::<Vec<_>>(), &list["total"], &list["fleet"]),
            (rows, &json!(total), &json!("whole")),
            "{query}: {list}"
        );
        for column in ["route", "method", "since", "last_activity", "id"] {
            assert!(
                list["sessions"].as_array().unwrap().iter().all(|row| row[column].is_string()),
                "{list}"
            );
        }
    }
    let address = nodes.two.admin.to_string();
    let output = command("sessions", &["--all", "--admin", &address]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success()
            && text.starts_with("NODE    USER")
            && text.ends_with("3 of 3 sessions listed\n"),
        "{text}"
    );
    assert!(text.contains("\nedge-1  ada") && text.contains("\nedge-2  bob"), "{text}");
    // A node knows the others from its last heartbeat.
    let status = eventually("the node knows the other node", async || {
        let body = client::get(nodes.one.admin, "/status").await.body;
        let status: Value = serde_json::from_str(&body).unwrap();
        let knows_both = status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2);
        knows_both.then_some(status)
    })
    .await;
    assert_eq!(status["node"], "edge-1");
    let keys = server.cli(&["KEYS", "*"]);
    assert!(
        !keys.contains("usher:user:") && !keys.contains("ada"),
        "nothing is counted that is not limited: {keys}"
    );
    drop(sockets);
    let Nodes { one, two } = nodes;
    two.finish().await;
    let left = list(&one, "").await;
    assert_eq!(
        (left["nodes"].as_array().unwrap().len(), &left["fleet"]),
        (1, &json!("whole")),
        "who stops says so: {left}"
    );
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_leaves_the_list_by_itself_and_its_places_end() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    let mut nodes = Nodes::start(&echo, &patient(&server), "sessions_per_user = 1").await;
    let (bob, ada) = (nodes.one.connect("bob").await, nodes.two.connect("ada").await);
    nodes.two.signal("KILL");
    nodes.two.exit().await;
    drop(ada);
    let list = nodes.list("").await;
    assert_eq!((&list["fleet"], &list["total"]), (&json!("partial"), &json!(1)));
    let silent =
        list["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "edge-2").unwrap();
    assert_eq!((&silent["answered"], &silent["sessions"]), (&json!(false), &Value::Null));
    let output = command("sessions", &["--all", "--admin", &nodes.one.admin.to_string()]).await;
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(69) && err.contains("no answer from node edge-2"),
        "{err}"
    );
    let list = nodes.until(|list| list["nodes"].as_array().unwrap().len() == 1).await;
    assert_eq!((&list["fleet"], &list["total"]), (&json!("whole"), &json!(1)));

    // Her place is held until its lease ends, after at most a minute. Here the lease is set into
    // the past.
    let token = nodes.one.token("ada");
    assert_eq!(refused(&nodes.one, &token).await, (429, "TOO_MANY_SESSIONS".to_owned()));
    for key in users(&server) {
        for member in server.cli(&["ZRANGE", &key, "0", "-1"]).lines() {
            server.cli(&["ZADD", &key, "XX", "1000", member]);
        }
    }
    let mut again = open(&nodes.one, &token).await.expect("the place is still taken");
    is_alive(&mut again).await;
    drop((bob, again));
    nodes.one.finish().await;
    nodes.two.finish_killed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_upgrades_of_one_user_over_two_nodes_exactly_as_many_as_may_stay() {
    for on_limit in ["refuse", "replace-oldest"] {
        let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
        let limits = format!("sessions_per_user = 5\nextra_sessions = \"{on_limit}\"");
        let nodes = Arc::new(Nodes::start(&echo, &patient(&server), &limits).await);
        let token = nodes.one.token("ada");
        nodes.two.keep_secret(&token);
        let mut racers = JoinSet::new();
        for number in 0..64 {
            let (nodes, token) = (Arc::clone(&nodes), token.clone());
            racers.spawn(async move {
                open(if number % 2 == 0 { &nodes.one } else { &nodes.two }, &token).await
            });
        }
        let sockets: Vec<Socket> = racers.join_all().await.into_iter().flatten().collect();
        assert_eq!(sockets.len(), if on_limit == "refuse" { 5 } else { 64 });
        // The replaced sessions get a close frame on either node.
        let mut ends = JoinSet::new();
        let many = sockets.len() - 5;
        for mut socket in sockets {
            ends.spawn(async move {
                let mut reason = String::new();
                while let Some(Ok(message)) = socket.next().await {
                    if let Message::Close(Some(frame)) = message {
                        reason = frame.reason.as_str().to_owned();
                    }
                }
                reason
            });
        }
        for _ in 0..many {
            let end = timeout(PATIENCE, ends.join_next())
                .await
                .expect("too many sessions stay")
                .unwrap()
                .unwrap();
            assert_eq!(end, "Session replaced");
        }
        counted(&server, 5).await;
        let list = nodes.until(|list| list["total"] == 5).await;
        assert_eq!(list["fleet"], "whole");
        assert_eq!(ends.len(), 5);
        ends.shutdown().await;
        // When the others have left, no places remain.
        nodes.until(|list| list["total"] == 0).await;
        counted(&server, 0).await;
        Arc::into_inner(nodes).unwrap().finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_younger_session_takes_the_place_of_an_older_one_at_another_node() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    let nodes = Nodes::start(
        &echo,
        &patient(&server),
        "sessions_per_user = 1\nextra_sessions = \"replace-oldest\"",
    )
    .await;
    nodes.replace_each_other().await;
    let hits = [nodes.one.metrics().await, nodes.two.metrics().await].map(|metrics| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with("usher_limits_hit_total{limit=\"sessions_per_user\"}"))
            .unwrap();
        line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    });
    assert_eq!(hits, [1, 2], "the node of the newer session counts it");
    let replaced = nodes
        .finish()
        .await
        .map(|audit| audit.iter().filter(|line| line["outcome"] == "replaced").count());
    assert_eq!(replaced, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_node_keeps_its_own_limit_and_the_count_heals_when_it_is_back_empty() {
    let (echo, mut server) = (Echo::start().await, RedisServer::start(&[]));
    let nodes = Nodes::start(&echo, &store(&server), "sessions_per_user = 1").await;
    let (token, too_many) = (nodes.one.token("ada"), (429, "TOO_MANY_SESSIONS".to_owned()));
    nodes.two.keep_secret(&token);
    let mut here = open(&nodes.one, &token).await.unwrap();
    assert_eq!(refused(&nodes.two, &token).await, too_many);
    server.kill();
    let mut there =
        open(&nodes.two, &token).await.expect("a client was refused because the store is down");
    assert_eq!(
        (refused(&nodes.one, &token).await, refused(&nodes.two, &token).await),
        (too_many.clone(), too_many.clone())
    );
    let list = nodes.list("").await;
    assert_eq!(
        (&list["fleet"], &list["total"], list["nodes"].as_array().unwrap().len()),
        (&json!("unknown"), &json!(1), 1)
    );
    assert_eq!(
        (&list["sessions"][0]["node"], &list["nodes"][0]["node"]),
        (&json!("edge-1"), &json!("edge-1"))
    );
    let output = command("sessions", &["--all", "--admin", &nodes.one.admin.to_string()]).await;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.code() == Some(69)
            && err.contains("only the sessions of this node")
            && out.contains("edge-1  ada"),
        "{out}{err}"
    );

    server.start_again();
    counted(&server, 2).await;
    for socket in [&mut here, &mut there] {
        is_alive(socket).await;
    }
    // When her session on the second node ends, the one on the first node still counts for the
    // second.
    there.close(None).await.unwrap();
    while let Some(Ok(_)) = there.next().await {}
    counted(&server, 1).await;
    assert_eq!(refused(&nodes.two, &token).await, too_many);
    nodes
        .until(|list| list["fleet"] == "whole" && list["nodes"].as_array().unwrap().len() == 2)
        .await;
    drop(here);
    nodes.finish().await;
}

/// Prints how much time the limit adds to an upgrade. Run it with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn what_a_limit_over_the_fleet_adds_to_an_upgrade() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    let start = |limits: &str| {
        setup(&echo, &store(&server)).extra(&format!("[limits]\n{limits}\n")).start()
    };
    let ushers = [
        start("").await,
        start("sessions_per_user = 5").await,
        start("sessions_per_user = 5\nextra_sessions = \"replace-oldest\"").await,
    ];
    let mut taken = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..1100 {
        for (usher, taken) in ushers.iter().zip(&mut taken) {
            let token = usher.token(&format!("u{round}"));
            let mut raw = crate::support::Raw::connect(usher.plain).await;
            let request = crate::support::upgrade_request(
                "/ws",
                &format!("Authorization: Bearer {token}\r\n"),
            );
            let began = Now::read().mono;
            raw.send(request).await;
            assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
            if round >= 100 {
                taken.push(began.elapsed());
            }
        }
    }
    for (name, mut taken) in ["no limit", "refuse", "replace-oldest"].into_iter().zip(taken) {
        taken.sort_unstable();
        println!(
            "{name}: median {:?}, p99 {:?}",
            taken[taken.len() / 2],
            taken[taken.len() * 99 / 100]
        );
    }
    for usher in ushers {
        let metrics = usher.metrics().await;
        let figures = metrics.lines().filter(|line| {
            line.starts_with("usher_store_operation_duration_seconds") && line.contains("\"place\"")
        });
        figures.for_each(|line| println!("{line}"));
        usher.finish().await;
    }
}
