//! A cluster of three nodes. A ticket is one key, so every operation goes to one node.

use std::process::Command;

use usher::base::clock::Now;

use crate::fleet_sessions;
use crate::revocation::{JSON, is_revoked, post};
use crate::store_faults::{Drill, NO_RATES, note};
use crate::store_redis::{IDENTITY, RIGHTS, certificate, race, redeem, setup};
use crate::support::redis::{RedisServer, TLS, TLS_CLI};
use crate::support::{DoorBook, Echo, eventually};

struct Cluster(Vec<RedisServer>);

impl Cluster {
    async fn form() -> Self {
        Self::of(3, &[], &[], &[]).await
    }

    /// Forms a cluster. Six nodes are three masters with a replica each.
    async fn of(count: usize, extra: &[&str], files: &[(&str, &str)], cli: &[&str]) -> Self {
        let rights = [extra, RIGHTS, &["+cluster", "+asking", "+ping"]].concat();
        let cluster =
            Self((0..count).map(|_| RedisServer::cluster_node(&rights, files, cli)).collect());
        let nodes: Vec<_> =
            cluster.0.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let replicas = if count < 6 { "0" } else { "1" };
        let mut create = vec!["--cluster", "create"];
        create.extend(nodes.iter().map(String::as_str));
        create.extend(["--cluster-replicas", replicas, "--cluster-yes"]);
        let made = cluster.0[0].cli(&create);
        assert!(made.contains("[OK] All 16384 slots covered"), "{made}");
        cluster.until_whole().await;
        cluster
    }

    async fn until_whole(&self) {
        let is_well =
            |node: &RedisServer| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        eventually("the cluster is complete", async || self.0.iter().all(is_well)).await;
    }

    fn store(&self) -> String {
        let nodes: Vec<_> = self.0.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("url = \"redis+cluster://{}\"\n{IDENTITY}", nodes.join(","))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_cluster_too_one_of_sixty_four_wins() {
    let cluster = Cluster::form().await;
    race(Echo::start().await, &format!("{}\ntimeout = \"10s\"", cluster.store())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_too_nodes_list_each_other_s_sessions_and_a_user_is_counted_once() {
    let (echo, cluster) = (Echo::start().await, Cluster::form().await);
    let store = format!("{}\ntimeout = \"10s\"", cluster.store());
    let nodes = fleet_sessions::Nodes::start(
        &echo,
        &store,
        "sessions_per_user = 1\nextra_sessions = \"replace-oldest\"",
    )
    .await;
    nodes.replace_each_other().await;
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_a_node_refuses_and_heals() {
    let mut cluster = Cluster::form().await;
    let mut drill =
        Drill::start("one of three nodes killed", &format!("{}\n{NO_RATES}", cluster.store()))
            .await;
    drill.until_well().await;
    let member = drill.member().await;
    // The node that holds the orders may be any of the three.
    let slot: usize =
        cluster.0[0].cli(&["CLUSTER", "KEYSLOT", "usher:revocations"]).trim().parse().unwrap();
    let lost = slot * 3 / 16384;
    cluster.0[lost].kill();
    let (revoke, closed) = drill.revoke(member).await;
    assert_eq!(revoke, 503);
    // Each ticket belongs to one node. Of many tickets, some belong to the dead node.
    let mut refused = 0;
    for _ in 0..64 {
        let (status, answer) = drill.usher.ask_ticket(&drill.usher.token("ada"), "", "").await;
        match status {
            201 => {
                drill.book.admit("ada");
                let status = redeem(&drill.usher, answer["ticket_id"].as_str().unwrap()).await;
                assert!(status == 101 || status == 503, "{status}");
            }
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0);
    drop(drill.usher.connect("bob").await);
    drill.book.admit("bob");
    cluster.0[lost].start_again();
    let healed = Now::read();
    cluster.until_whole().await;
    drill.until_well().await;
    let recovered = healed.mono.elapsed();
    let known = drill.until_closed(closed).await.saturating_duration_since(healed.mono);
    let seen = "503 for its tickets | 503 for its tickets | 503 where it held the orders";
    note("one of three nodes killed, then started", seen, Some(recovered), known);
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_follow_their_slots_to_another_node() {
    let cluster = Cluster::form().await;
    let mut drill =
        Drill::start("resharded", &format!("{}\ntimeout = \"10s\"\n{NO_RATES}", cluster.store()))
            .await;
    let mut tickets = Vec::new();
    for _ in 0..100 {
        tickets.push(drill.spare_ticket().await);
    }
    let ids: Vec<_> =
        cluster.0.iter().map(|node| node.cli(&["CLUSTER", "MYID"]).trim().to_owned()).collect();
    let entry = format!("127.0.0.1:{}", cluster.0[0].port);
    // From the third node, with the slot of the orders.
    let (from, to) = (ids[2].clone(), ids[1].clone());
    let member = drill.member().await;
    let reshard = tokio::task::spawn_blocking(move || {
        let slots = ["--cluster-slots", "1500", "--cluster-yes"];
        Command::new("redis-cli")
            .args(["--cluster", "reshard", &entry, "--cluster-from", &from, "--cluster-to", &to])
            .args(slots)
            .output()
    });
    for ticket in &tickets {
        assert_eq!(redeem(&drill.usher, ticket).await, 101);
    }
    let ordered = Now::read();
    let (revoke, closed) = drill.revoke(member).await;
    assert_eq!(revoke, 200);
    let known = drill.until_closed(closed).await.saturating_duration_since(ordered.mono);
    note(drill.row, "works | works | 200", None, known);
    let moved = reshard.await.unwrap().unwrap();
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
    for ticket in &tickets {
        assert_eq!(redeem(&drill.usher, ticket).await, 403);
    }
    drill.until_well().await;
    // The slot of the orders has moved too, and both nodes have followed it.
    let mut member = drill.other.connect("zoe").await;
    drill.book.admit("zoe");
    assert_eq!(post(&drill.usher, JSON, r#"{"user":"zoe"}"#).await.0, 200);
    is_revoked(&mut member).await;
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_replicas_acknowledges_nothing() {
    let cluster = Cluster::form().await;
    let mut drill = Drill::start(
        "no replicas",
        &format!("{}\nwait_for_replicas = 1\ntimeout = \"2s\"", cluster.store()),
    )
    .await;
    let ticket = drill.spare_ticket().await;
    assert_eq!(redeem(&drill.usher, &ticket).await, 503);
    // The ticket is spent even so: the cluster holds none.
    assert!(cluster.0.iter().all(|node| node.tickets().is_empty()));
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_cluster_acknowledge_what_is_redeemed() {
    let cluster = Cluster::of(6, &["--repl-diskless-sync-delay", "0"], &[], &[]).await;
    let is_replica = |node: &&RedisServer| node.cli(&["ROLE"]).starts_with("slave");
    let replicas: Vec<_> = cluster.0.iter().filter(is_replica).collect();
    let masters: Vec<_> = cluster.0.iter().filter(|node| !is_replica(node)).collect();
    assert_eq!((masters.len(), replicas.len()), (3, 3));
    for master in &masters {
        eventually("the replica of the master is online", async || {
            master.cli(&["INFO", "replication"]).contains("state=online")
        })
        .await;
    }
    let store = format!("{}\nwait_for_replicas = 1\ntimeout = \"5s\"\n{NO_RATES}", cluster.store());
    let mut drill = Drill::start("acknowledged in a cluster", &store).await;
    // Enough tickets that each master has some.
    for _ in 0..20 {
        let ticket = drill.spare_ticket().await;
        assert_eq!(
            (redeem(&drill.usher, &ticket).await, redeem(&drill.usher, &ticket).await),
            (101, 403)
        );
    }
    let ticket = drill.spare_ticket().await;
    replicas.iter().for_each(|replica| replica.signal("STOP"));
    assert_eq!(redeem(&drill.usher, &ticket).await, 503);
    assert!(
        masters.iter().all(|master| master.tickets().is_empty()),
        "a refused ticket is not spent"
    );
    replicas.iter().for_each(|replica| replica.signal("CONT"));
    drill.until_well().await;
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_behind_tls_is_known_by_its_certificate() {
    let (cert, key) = certificate();
    let cluster = Cluster::of(3, TLS, &[("cert.pem", &cert), ("key.pem", &key)], TLS_CLI).await;
    let store = cluster.store().replace("redis+cluster://", "rediss+cluster://");
    let (echo, mut book) = (Echo::start().await, DoorBook::default());
    let with = |lines: &str| {
        setup(&echo, &format!("{store}\ntimeout = \"10s\"\n{lines}\n{NO_RATES}"))
            .file("redis-ca.pem", cert.clone())
    };
    let usher = with("ca_file = \"redis-ca.pem\"").start().await;
    for _ in 0..20 {
        let ticket = usher.issue_ticket(&usher.token("ada")).await;
        book.admit("ada");
        assert_eq!((redeem(&usher, &ticket).await, redeem(&usher, &ticket).await), (101, 403));
    }
    usher.finish().await;
    let usher = with("").start().await;
    assert_eq!(usher.ask_ticket(&usher.token("ada"), "", "").await.0, 503);
    usher.finish().await;
    assert_eq!(book.verdict(&echo.visits()), Vec::<String>::new());
}
