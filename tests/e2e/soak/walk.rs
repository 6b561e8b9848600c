//! The move from one method to another, step by step, while clients are connected.
//!
//! `USHER_WALK_TABLE=file` writes the growth of the figures in each step, as rows of the table in
//! `docs/migration.md`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use usher::base::clock::Now;

use super::asked_for;
use crate::migration::{RATES, config, connect, is_alive, routes, ticket, upgrade, value};
use crate::support::eventually::eventually_within;
use crate::support::{Echo, Setup, Usher, client};

const PATIENCE: Duration = Duration::from_secs(60);
/// The share of a client depends on its name. With this name, 10 % and 50 % are about that many
/// clients, both of 60 and of 200. One of the first 10 % is an application that was not updated.
const NAME: &str = "worker";

struct Walk {
    usher: Usher,
    /// Clients below this number are applications that were not updated: they use the header alone.
    old: u64,
    /// How often each client has connected again.
    rounds: Vec<AtomicU64>,
    /// From then on, updated applications send a ticket beside their header.
    sends_ticket: AtomicBool,
    asks: AtomicBool,
    all_updated: AtomicBool,
    stop: AtomicBool,
}

impl Walk {
    /// Keeps one session from the first step to the last, and connects another one again and again.
    async fn live(self: Arc<Self>, number: u64) {
        let token = self.usher.token(&format!("{NAME} {number}"));
        let mut kept =
            connect(&self.usher, "/ws", Some(&token)).await.expect("a valid client was refused");
        while !self.stop.load(Ordering::Relaxed) {
            let is_old = number < self.old && !self.all_updated.load(Ordering::Relaxed);
            let method = if self.asks.load(Ordering::Relaxed) && !is_old {
                let (status, answer) = config(&self.usher, "?route=/ws", Some(&token)).await;
                assert_eq!(status, 200, "{answer}");
                answer["method"].as_str().unwrap().to_owned()
            } else {
                "header".to_owned()
            };
            let beside = !is_old && method == "header" && self.sends_ticket.load(Ordering::Relaxed);
            let target = match method == "ticket" || beside {
                true => format!("/ws?ticket={}", ticket(&self.usher, &token).await),
                false => "/ws".to_owned(),
            };
            let header = (method == "header").then_some(token.as_str());
            let mut socket = connect(&self.usher, &target, header)
                .await
                .unwrap_or_else(|why| panic!("a valid client was refused: {why}"));
            is_alive(&mut socket).await;
            let _ = socket.close(None).await;
            is_alive(&mut kept).await;
            let round = &self.rounds[usize::try_from(number).unwrap()];
            self.keep_step(round.fetch_add(1, Ordering::Relaxed) + 1).await;
        }
        is_alive(&mut kept).await;
    }

    /// Waits until every client has done `rounds` rounds. Otherwise the quick clients, which use
    /// the header, would count for more than their share.
    async fn keep_step(&self, rounds: u64) {
        let is_behind = |other: &AtomicU64| other.load(Ordering::Relaxed) < rounds;
        while self.rounds.iter().any(is_behind) && !self.stop.load(Ordering::Relaxed) {
            // Nothing announces a round.
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Puts the route's `lines` in force.
    async fn reload(&self, lines: &str) {
        let path = self.usher.folder().join("usher.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("auth = ").unwrap();
        let (_, after) = rest.split_once("# end of the route").unwrap();
        std::fs::write(&path, format!("{before}{lines}\n# end of the route{after}")).unwrap();
        let request = "POST /reload HTTP/1.1\r\nhost: 127.0.0.1\r\n\
            content-type: application/json\r\ncontent-length: 0\r\n\r\n";
        let answer = client::http(self.usher.admin, request.as_bytes()).await;
        assert_eq!(answer.status, 200, "{lines}: {}", answer.body);
    }

    /// Reloads, waits for two rounds of every client, and returns how much the figures grew in the
    /// next two. One round is not enough: a client that was in the middle of one would not count.
    async fn step(&self, name: &str, lines: &str) -> BTreeMap<&'static str, u64> {
        self.reload(lines).await;
        // After two rounds, every attempt under the old configuration has ended.
        self.everybody(2).await;
        let before = self.figures().await;
        self.everybody(2).await;
        let after = self.figures().await;
        let grown: BTreeMap<_, _> =
            after.into_iter().map(|(name, value)| (name, value - before[name])).collect();
        if let Ok(path) = std::env::var("USHER_WALK_TABLE") {
            use std::io::Write as _;
            let cells: Vec<_> = grown.values().map(u64::to_string).collect();
            let mut file =
                std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            writeln!(file, "| {name} | {} |", cells.join(" | ")).unwrap();
        }
        assert_eq!((grown["refused"], grown["sessions dropped"]), (0, 0), "{name}: {grown:?}");
        grown
    }

    async fn everybody(&self, times: u64) {
        let goals: Vec<_> =
            self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed) + times).collect();
        eventually_within(PATIENCE, "every client connects again", async || {
            let mut rounds = self.rounds.iter().zip(&goals);
            rounds.all(|(rounds, goal)| rounds.load(Ordering::Relaxed) >= *goal)
        })
        .await;
    }

    async fn figures(&self) -> BTreeMap<&'static str, u64> {
        let metrics = self.usher.metrics().await;
        let sum = |prefix: &str, wanted: &dyn Fn(&str) -> bool| {
            let lines = metrics.lines().filter(|line| line.starts_with(prefix) && wanted(line));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum::<u64>()
        };
        let upgrades = "usher_upgrades_total{route=\"/ws\"";
        let by = |method: &str| {
            sum(upgrades, &|line| {
                line.contains(&format!("method=\"{method}\"")) && line.contains("\"accepted\"")
            })
        };
        let standing = |name: &str| {
            value(
                &metrics,
                &format!("usher_rollout_upgrades_total{{route=\"/ws\",standing=\"{name}\"}}"),
            )
        };
        BTreeMap::from([
            ("by header", by("header")),
            ("by ticket", by("ticket")),
            ("followed", standing("followed")),
            ("lagging", standing("lagging")),
            ("mismatches", sum("usher_shadow_mismatches_total", &|_| true)),
            ("outside", standing("outside")),
            ("refused", sum(upgrades, &|line| !line.contains("\"accepted\""))),
            (
                "sessions dropped",
                sum("usher_session_closes_total", &|line| {
                    !line.contains("client_closed") && !line.contains("client_gone")
                }),
            ),
            (
                "shadow accepted",
                sum("usher_shadow_verdicts_total", &|line| line.contains("\"accepted\"")),
            ),
            (
                "shadow absent",
                sum("usher_shadow_verdicts_total", &|line| line.contains("\"absent\"")),
            ),
        ])
    }
}

/// 60 clients walk once. With `make soak`, 200 clients walk again until the time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_walk_from_the_header_to_tickets_and_none_is_refused_or_dropped() {
    let Some(duration) = asked_for() else { return walk(60).await };
    let end = Now::read().mono + duration;
    while Now::read().mono < end {
        walk(200).await;
    }
}

/// header alone -> shadow -> both -> 10 % -> 50 % -> back to 10 % -> 50 % -> 100 % -> enforced ->
/// gone.
async fn walk(clients: u64) {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(&routes("auth = [\"header\"]\n# end of the route"))
        .extra(RATES)
        .start()
        .await;
    let walk = Arc::new(Walk {
        usher,
        old: clients / 10,
        rounds: (0..clients).map(|_| AtomicU64::new(0)).collect(),
        sends_ticket: AtomicBool::new(false),
        asks: AtomicBool::new(false),
        all_updated: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    let clients: Vec<_> =
        (0..clients).map(|number| tokio::spawn(Arc::clone(&walk).live(number))).collect();
    walk.everybody(2).await;

    let figures = walk.step("header alone", "auth = [\"header\"]").await;
    assert_eq!(figures["by ticket"], 0);

    let shadow = "auth = [\"header\"]\nshadow = [\"ticket\"]";
    // Before this is in force, a client that asks for a ticket gets none.
    walk.reload(shadow).await;
    walk.sends_ticket.store(true, Ordering::Relaxed);
    let figures = walk.step("shadow", shadow).await;
    assert!(
        figures["shadow accepted"] > 0
            && figures["shadow absent"] > 0
            && figures["mismatches"] == 0,
        "{figures:?}"
    );
    walk.sends_ticket.store(false, Ordering::Relaxed);
    walk.everybody(2).await;

    walk.asks.store(true, Ordering::Relaxed);
    let both =
        "auth = [\"ticket\", \"header\"]\nlegacy = [\"header\"]\ndeprecated = \"2026-11-01\"";
    let share = |rollout: &str| format!("{both}\nrollout = {{ {rollout} }}");
    let figures = walk.step("both, 0 %", &share("ticket = 0")).await;
    assert!(figures["by ticket"] == 0 && figures["outside"] > 0, "{figures:?}");

    let mut last = 0;
    for percent in [10, 50, 10, 50, 100] {
        if percent == 100 {
            walk.all_updated.store(true, Ordering::Relaxed);
        }
        let figures =
            walk.step(&format!("{percent} %"), &share(&format!("ticket = {percent}"))).await;
        let all = figures["followed"] + figures["lagging"] + figures["outside"];
        let share = (figures["followed"] + figures["lagging"]) * 100 / all;
        assert!(share.abs_diff(percent) <= 12, "{percent} %: {share} of {all}: {figures:?}");
        assert_eq!(figures["lagging"] == 0, percent == 100, "{percent} %: {figures:?}");
        last = figures["by header"];
    }
    assert_eq!(last, 0, "a client still uses the header, so it cannot be refused");
    walk.step("100 %, enforced", &share("ticket = 100, enforce = true")).await;
    let late = upgrade(
        &walk.usher,
        "/ws",
        &format!("Authorization: Bearer {}\r\n", walk.usher.token("late")),
    )
    .await;
    assert_eq!(late.status, 403);
    let figures = walk.step("header gone", "auth = [\"ticket\"]").await;
    assert_eq!(figures["by header"], 0);

    walk.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    Arc::into_inner(walk).unwrap().usher.finish().await;
}
