//! Two Ushers under mixed load, while their Redis is killed again and again. An auditor judges
//! their logs.
//!
//! Some clients fetch tickets and use each three times at once at both nodes. Others connect and
//! stay, and an operator revokes them in every way at either node. `support/auditor.rs` judges the
//! result. `--nocapture` shows the figures.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use usher::base::clock::Now;
use usher::model::secret::Secret;
use usher::store::TicketHash;

use super::asked_for;
use crate::revocation::{JSON, post};
use crate::store_faults::NO_RATES;
use crate::store_redis::{redeem, usher};
use crate::support::auditor::{Bounds, Case, Entry, Order, Record, Token, judge};
use crate::support::redis::RedisServer;
use crate::support::{Echo, Usher, client, eventually, token};

/// `calm` is what Usher promises. `recovery` is the time after the return of the store, as in
/// `docs/revocation-fleet.md`. `slack` is for a machine that does other work.
const BOUNDS: Bounds = Bounds { calm: 200, recovery: 4_000, slack: 2_000 };
/// How long the load goes on without `make soak`.
const SHORT: Duration = Duration::from_secs(5);
/// How long Redis stays away, in milliseconds, in turn.
const AWAY: [u64; 3] = [700, 2_000, 4_000];

struct Fleet {
    ushers: [Usher; 2],
    stop: AtomicBool,
    record: Mutex<Record>,
    /// The clients that are connected and not yet revoked.
    present: Mutex<VecDeque<Token>>,
    refused_by_store: AtomicBool,
}

/// Returns when Redis is killed, in milliseconds from the start of the load, and for how long.
/// After the last time, the load goes on for a second.
fn kills(load: u64) -> Vec<(u64, u64)> {
    let kills = (2_000..).step_by(9_000).zip(AWAY.into_iter().cycle());
    kills.take_while(|(at, away)| at + away + 1_000 <= load).collect()
}

fn now() -> u64 {
    Now::read().wall.0
}

/// Returns a user with a unique name, and a token for it.
fn somebody(name: &str) -> (Token, String) {
    let issued_at = token::now();
    let who = Token {
        user: name.to_owned(),
        token_id: format!("token-{name}"),
        session: format!("login-{name}"),
        issued_at: issued_at * 1000,
    };
    let claims = json!({"iat": issued_at, "jti": who.token_id, "sid": who.session});
    (who, token::mint(name, claims))
}

impl Fleet {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn note(&self, node: usize, token: &Token, ticket: Option<&str>, asked_at: u64, let_in: bool) {
        let ticket = ticket.map(|ticket| {
            TicketHash::of(&Secret::new(ticket.to_owned())).name().as_str().to_owned()
        });
        self.record.lock().unwrap().entries.push(Entry {
            node,
            token: token.clone(),
            ticket,
            asked_at,
            let_in,
        });
    }

    /// Returns `None` if the ticket is refused. Only the secrets of the first round are searched
    /// for in the logs: all of them would take minutes.
    async fn ticket(&self, node: usize, token: &str, is_first: bool) -> Option<String> {
        let request = format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = client::http(self.ushers[node].plain, request.as_bytes()).await;
        match answer.status {
            201 => {}
            401 => return None,
            503 => {
                self.refused_by_store.store(true, Ordering::SeqCst);
                return None;
            }
            other => panic!("{other}: {}", answer.body),
        }
        let json: Value = serde_json::from_str(&answer.body).unwrap();
        let ticket = json["ticket_id"].as_str().unwrap().to_owned();
        if is_first {
            self.ushers.iter().for_each(|usher| {
                [token, &ticket].into_iter().for_each(|secret| usher.keep_secret(secret));
            });
        }
        Some(ticket)
    }

    /// Fetches tickets and uses each three times at once.
    async fn come_and_go(&self, number: usize) {
        for round in (0..).take_while(|_| self.goes_on()) {
            // This pause and the ones below set the pace of the load.
            sleep(Duration::from_millis(120)).await;
            let (who, token) = somebody(&format!("guest-{number}-{round}"));
            let Some(ticket) = self.ticket((number + round) % 2, &token, round == 0).await else {
                continue;
            };
            let show = async |node: usize| (node, now(), redeem(&self.ushers[node], &ticket).await);
            for (node, asked_at, status) in join_all([0, 1, 0].map(show)).await {
                assert!([101, 401, 403, 503].contains(&status), "{status}");
                self.note(node, &who, Some(&ticket), asked_at, status == 101);
            }
        }
    }

    /// Connects at both nodes, at one of them perhaps by ticket, and stays until the session is
    /// revoked.
    async fn stay(&self, number: usize) {
        for round in (0..).take_while(|_| self.goes_on()) {
            let (who, token) = somebody(&format!("member-{number}-{round}"));
            let ticket = if number.is_multiple_of(2) {
                self.ticket(round % 2, &token, round == 0).await
            } else {
                None
            };
            let mut open = Vec::new();
            for node in 0..2 {
                let ticket = ticket.as_deref().filter(|_| node == round % 2);
                let asked_at = now();
                let socket = self.open(node, &token, ticket).await;
                self.note(node, &who, ticket, asked_at, socket.is_some());
                open.extend(socket);
            }
            if !open.is_empty() {
                self.present.lock().unwrap().push_back(who);
            }
            for ended in join_all(open.into_iter().map(until_closed)).await {
                assert!(
                    !self.goes_on() || ended == (1008, "Session revoked".to_owned()),
                    "{ended:?}"
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn open(
        &self,
        node: usize,
        token: &str,
        ticket: Option<&str>,
    ) -> Option<WebSocketStream<TcpStream>> {
        let query = ticket.map_or_else(String::new, |ticket| format!("?ticket={ticket}"));
        let mut request =
            format!("ws://{}/ws{query}", self.ushers[node].plain).into_client_request().unwrap();
        if ticket.is_none() {
            request
                .headers_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let stream = TcpStream::connect(self.ushers[node].plain).await.unwrap();
        client::websocket(request, stream).await.ok()
    }

    /// Revokes the clients by each kind of order at each node in turn, and lets them try to connect
    /// again at once.
    async fn revoke(&self) {
        for round in (0..).take_while(|_| self.goes_on()) {
            sleep(Duration::from_millis(120)).await;
            let node = (round / 5) % 2;
            let everybody = round % 60 == 59;
            let Some(who) = self.present.lock().unwrap().pop_front() else { continue };
            let order = match round % 5 {
                _ if everybody => json!({"issued_before": "now"}),
                0 => json!({"user": who.user}),
                1 => json!({"session": who.session, "issuer": "main"}),
                2 => json!({"token_id": who.token_id}),
                3 => json!({"user": who.user, "issued_before": who.issued_at + 1}),
                _ => match self.session_id(node, &who.user).await {
                    Some(session) => json!({ "session": session }),
                    None => json!({"user": who.user}),
                },
            };
            self.order(node, &order).await;
            if round % 5 == 4 && !everybody {
                // This order ended one session. The user may have another one, so a later order
                // revokes the user again.
                self.present.lock().unwrap().push_back(who);
                continue;
            }
            let claims =
                json!({"iat": who.issued_at / 1000, "jti": who.token_id, "sid": who.session});
            let token = token::mint(&who.user, claims);
            for node in [node, 1 - node] {
                let asked_at = now();
                let socket = self.open(node, &token, None).await;
                self.note(node, &who, None, asked_at, socket.is_some());
            }
        }
    }

    async fn order(&self, node: usize, order: &Value) {
        let (status, answer) = post(&self.ushers[node], JSON, &order.to_string()).await;
        assert!(status == 200 || answer["code"] == "REVOKED_HERE_ONLY", "{status} {answer}");
        let order =
            Order { id: answer["id"].as_str().unwrap().to_owned(), node, answered_at: now() };
        self.record.lock().unwrap().orders.push(order);
    }

    /// Returns the id that Usher gave to a session of the user.
    async fn session_id(&self, node: usize, user: &str) -> Option<String> {
        let answer = client::get(self.ushers[node].admin, &format!("/sessions?user={user}")).await;
        let json: Value = serde_json::from_str(&answer.body).unwrap();
        json["sessions"][0]["id"].as_str().map(str::to_owned)
    }

    /// Waits until both nodes know every order. The auditor judges whether that was in time.
    async fn settle(&self) {
        let orders: Vec<String> =
            self.record.lock().unwrap().orders.iter().map(|order| order.id.clone()).collect();
        let knows_all = |usher: &Usher| {
            let audit = usher.audit();
            let lines = audit.iter().filter(|line| line["event"] == "revoked");
            let known: HashSet<&str> = lines.filter_map(|line| line["order"].as_str()).collect();
            orders.iter().all(|id| known.contains(id.as_str()))
        };
        let know_all = async || self.ushers.iter().all(knows_all);
        eventually("both nodes know every order", know_all).await;
    }
}

/// Returns the close code and the reason.
async fn until_closed(mut socket: WebSocketStream<TcpStream>) -> (u16, String) {
    let mut ended = (0, String::new());
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            ended = (frame.code.into(), frame.reason.to_string());
        }
    }
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_revoked_client_stays_under_mixed_load_while_redis_is_killed() {
    let load_lasts = asked_for().unwrap_or(SHORT);
    let load_ends = u64::try_from(load_lasts.as_millis()).unwrap();
    let kills = kills(load_ends);
    assert!(!kills.is_empty(), "too short for a kill: {load_lasts:?}");
    let (echo, mut server) = (Echo::start().await, RedisServer::start(&[]));
    let store = format!("url = \"{}\"\ntimeout = \"2s\"\n{NO_RATES}", server.url());
    let fleet = Arc::new(Fleet {
        ushers: [usher(&echo, &store).await, usher(&echo, &store).await],
        stop: AtomicBool::new(false),
        record: Mutex::default(),
        present: Mutex::default(),
        refused_by_store: AtomicBool::new(false),
    });
    let mut load = tokio::task::JoinSet::new();
    for number in 0..4 {
        let theirs = Arc::clone(&fleet);
        load.spawn(async move { theirs.come_and_go(number).await });
    }
    for number in 0..16 {
        let theirs = Arc::clone(&fleet);
        load.spawn(async move { theirs.stay(number).await });
    }
    let theirs = Arc::clone(&fleet);
    load.spawn(async move { theirs.revoke().await });

    let began = now();
    let until = async |offset: u64| {
        sleep(Duration::from_millis((began + offset).saturating_sub(now()))).await;
    };
    let mut outages = Vec::new();
    for (at, away) in kills {
        until(at).await;
        let killed = now();
        server.kill();
        until(at + away).await;
        let is_noticed = async || fleet.refused_by_store.load(Ordering::SeqCst);
        eventually("a ticket is refused without Redis", is_noticed).await;
        server.start_again();
        outages.push((killed, now()));
    }
    until(load_ends).await;
    fleet.stop.store(true, Ordering::SeqCst);
    // The remaining clients are revoked.
    for node in 0..2 {
        fleet.order(node, &json!({"issued_before": "now"})).await;
    }
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    fleet.settle().await;

    let Ok(Fleet { ushers, record, refused_by_store, .. }) = Arc::try_unwrap(fleet).map_err(drop)
    else {
        panic!("a client still runs")
    };
    let mut logs = Vec::new();
    for usher in ushers {
        assert!(usher.metrics().await.contains("usher_audit_lines_dropped_total 0"));
        logs.push(usher.finish().await);
    }
    let record = record.into_inner().unwrap();
    let (let_in, orders) =
        (record.entries.iter().filter(|entry| entry.let_in).count(), record.orders.len());
    let mut findings = judge(&Case { logs, outages, record }, BOUNDS);
    println!("{let_in} let in, {orders} orders\n{}", findings.figures());
    assert_eq!(findings.complaints, Vec::<String>::new());
    let seconds = usize::try_from(load_lasts.as_secs()).unwrap();
    assert!(
        let_in > 3 * seconds && 2 * orders > seconds && refused_by_store.into_inner(),
        "too little load, or no fault"
    );
}
