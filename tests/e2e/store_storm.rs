//! Two Ushers under load while their Redis is killed again and again, and a checker that believes only the audit logs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::Value;

use crate::store_faults::NO_RATES;
use crate::store_redis::{redeem, usher};
use crate::support::redis::RedisServer;
use crate::support::{Echo, Usher};

/// What one client lived through, with each ticket under a name of its own.
#[derive(Default)]
struct Tally {
    issued: Vec<String>,
    refused: usize,
    let_in: usize,
}

/// Fetches tickets and shows each of them three times at once, at both nodes, until it is told to stop.
async fn client(number: usize, ushers: Arc<[Usher; 2]>, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Each ticket and token is looked for in all logs at the end: some hundreds are enough.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let user = format!("user-{number}-{round}");
        let issuer = &ushers[(number + round) % 2];
        let (status, answer) = issuer.ask_ticket(&issuer.token(&user), "", "").await;
        match status {
            201 => {}
            503 => {
                tally.refused += 1;
                continue;
            }
            other => panic!("{other}: {answer}"),
        }
        let ticket = answer["ticket_id"].as_str().unwrap();
        ushers.iter().for_each(|usher| usher.keep_secret(ticket));
        tally.issued.push(user);
        let answers = join_all((0..3).map(|n| redeem(&ushers[n % 2], ticket))).await;
        let wins = answers.iter().filter(|&&status| status == 101).count();
        assert!(wins <= 1 && answers.iter().all(|status| [101, 403, 503].contains(status)), "{answers:?}");
        tally.let_in += wins;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_with_redis_killed_three_times_no_ticket_lets_in_twice() {
    let (echo, mut server) = (Echo::start().await, RedisServer::start(&[]));
    let store = format!("url = \"{}\"\n{NO_RATES}", server.url());
    let ushers = Arc::new([usher(&echo, &store).await, usher(&echo, &store).await]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients = join_all((0..8).map(|number| tokio::spawn(client(number, Arc::clone(&ushers), Arc::clone(&stop)))));
    let trouble = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.start_again();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (tallies, ()) = join(clients, trouble).await;
    let tallies: Vec<Tally> = tallies.into_iter().map(Result::unwrap).collect();
    let (refused, let_in) =
        (tallies.iter().map(|tally| tally.refused).sum::<usize>(), tallies.iter().map(|tally| tally.let_in).sum::<usize>());
    assert!(refused > 0 && let_in > 0, "{refused} refused, {let_in} let in: there was no trouble, or no load");

    let mut audit = Vec::new();
    for usher in Arc::into_inner(ushers).unwrap() {
        audit.extend(usher.finish().await);
    }
    let count = |event: &str| {
        let mut users: HashMap<String, usize> = HashMap::new();
        for line in audit.iter().filter(|line| line["event"] == event) {
            *users.entry(line["user"].as_str().map(str::to_owned).unwrap_or_else(|| Value::to_string(&line["user"]))).or_default() += 1;
        }
        users
    };
    let (issued, redeemed, started) = (count("ticket_issued"), count("ticket_redeemed"), count("session_started"));
    assert!(tallies.iter().flat_map(|tally| &tally.issued).all(|user| issued.get(user) == Some(&1)));
    assert!(redeemed.values().all(|&times| times == 1), "a ticket was redeemed twice");
    assert!(started.iter().all(|(user, &times)| times == 1 && redeemed.contains_key(user)), "somebody came in without a ticket");
    assert_eq!(started.len(), let_in, "what the logs say and what clients saw");
}
