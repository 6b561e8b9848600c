//! The effect of each fault of Redis on tickets and revocations. No fault lets a client in or loses
//! an order. The rest goes on, and Usher recovers without a restart.
//!
//! `USHER_FAULT_TABLE=file` writes the statuses that clients saw and the time of the recovery, as
//! rows of the table in `docs/store-faults.md`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use usher::base::clock::Now;

use crate::revocation::{JSON, is_refused, is_revoked, post};
use crate::store_redis::{redeem, usher};
use crate::support::client;
use crate::support::eventually::eventually_or;
use crate::support::redis::RedisServer;
use crate::support::usher::Socket;
use crate::support::{DoorBook, Echo, Recorder, Script, Setup, Usher, eventually};

/// The statuses while the fault lasts.
struct Seen {
    issue: u16,
    redeem: u16,
    revoke: u16,
}

const REFUSED: Seen = Seen { issue: 503, redeem: 503, revoke: 503 };

pub struct Drill {
    pub echo: Echo,
    pub usher: Usher,
    /// Another node, which reads the orders.
    pub other: Usher,
    pub book: DoorBook,
    pub row: &'static str,
}

impl Drill {
    pub async fn start(row: &'static str, store: &str) -> Self {
        let echo = Echo::start().await;
        let (usher, other) = (usher(&echo, store).await, usher(&echo, store).await);
        Self { echo, usher, other, book: DoorBook::default(), row }
    }

    async fn ask(&self) -> (u16, serde_json::Value) {
        self.usher.ask_ticket(&self.usher.token("ada"), "", "").await
    }

    /// Connects a user at the other node who is later revoked at this one.
    pub async fn member(&mut self) -> Socket {
        self.book.admit("eva");
        self.other.connect("eva").await
    }

    /// Revokes the member. Returns the status, and when the session was closed.
    pub async fn revoke(&self, mut member: Socket) -> (u16, JoinHandle<Instant>) {
        let (status, answer) = post(&self.usher, JSON, r#"{"user":"eva"}"#).await;
        assert_eq!(answer["fleet"], status == 200, "{}: {answer}", self.row);
        // On this node the order is in force, whatever the store does.
        is_refused(&self.usher, &self.usher.token("eva")).await;
        let closed = tokio::spawn(async move {
            is_revoked(&mut member).await;
            Now::read().mono
        });
        (status, closed)
    }

    /// Waits until a ticket is issued and lets its owner in, and returns it. A busy machine may
    /// need more than one.
    pub async fn until_well(&mut self) -> String {
        let (usher, row, book) = (&self.usher, self.row, &mut self.book);
        let come_in = async || {
            let (201, answer) = usher.ask_ticket(&usher.token("ada"), "", "").await else {
                return None;
            };
            let ticket = answer["ticket_id"].as_str().unwrap().to_owned();
            book.admit("ada");
            (redeem(usher, &ticket).await == 101).then_some(ticket)
        };
        eventually_or(come_in, async || format!("{row}: it recovers\n{}", usher.log())).await
    }

    pub async fn spare_ticket(&mut self) -> String {
        let ask = async || {
            let (status, answer) = self.ask().await;
            (status == 201).then(|| answer["ticket_id"].as_str().unwrap().to_owned())
        };
        let ticket = eventually(format!("{}: a ticket is issued", self.row), ask).await;
        self.book.admit("ada");
        ticket
    }

    /// Breaks the store, checks the answers to clients, repairs the store and waits until tickets
    /// work again.
    async fn run(mut self, want: Seen, fault: impl AsyncFnOnce(), heal: impl AsyncFnOnce()) {
        let spent = self.until_well().await;
        let spare = self.spare_ticket().await;
        let mut live = self.usher.connect("ann").await;
        self.book.admit("ann");
        let member = self.member().await;
        fault().await;

        for round in 0..8 {
            let refusal = self.ask_raw().await;
            assert_eq!(refusal.status, want.issue, "{}, round {round}: {}", self.row, refusal.body);
            if want.issue == 503 {
                let wait: u64 = refusal.header("retry-after").unwrap().parse().unwrap();
                assert!(
                    (1..=10).contains(&wait) && refusal.body.contains("STORE_UNAVAILABLE"),
                    "{}",
                    refusal.body
                );
            }
            // This ticket was redeemed before the fault. A store that answers knows that.
            let again = redeem(&self.usher, &spent).await;
            assert!(again == 503 || again == 403, "{}: {again}", self.row);
        }
        assert_eq!(redeem(&self.usher, &spare).await, want.redeem, "{}", self.row);
        // Other methods of the route and live sessions go on.
        drop(self.usher.connect("bob").await);
        self.book.admit("bob");
        live.send(Message::text("still here")).await.unwrap();
        assert_eq!(live.next().await.unwrap().unwrap(), Message::text("still here"));

        let (revoke, closed) = self.revoke(member).await;
        assert_eq!(revoke, want.revoke, "{}", self.row);

        heal().await;
        let healed = Now::read();
        self.until_well().await;
        let recovered = healed.mono.elapsed();
        let known = self.until_closed(closed).await.saturating_duration_since(healed.mono);
        // Whether this ticket survived depends on the fault. The door book counts its uses.
        let late = self.redeem_for_sure(&spare).await;
        assert!([101, 403].contains(&late), "{}: {late}", self.row);
        assert_eq!(self.redeem_for_sure(&spent).await, 403, "{}", self.row);
        note(
            self.row,
            &format!("{} | {} | {revoke}", want.issue, want.redeem),
            Some(recovered),
            known,
        );
        drop(live);
        self.finish().await;
    }

    /// Redeems again while the store does not answer in time, which happens on a busy machine.
    async fn redeem_for_sure(&self, ticket: &str) -> u16 {
        let answer =
            async || Some(redeem(&self.usher, ticket).await).filter(|status| *status != 503);
        eventually(format!("{}: the store answers", self.row), answer).await
    }

    pub async fn until_closed(&self, closed: JoinHandle<Instant>) -> Instant {
        let patience = Duration::from_secs(30);
        let closed = tokio::time::timeout(patience, closed).await;
        let closed = closed.unwrap_or_else(|_| {
            panic!("{}: the other node did not get the order\n{}", self.row, self.other.log())
        });
        is_refused(&self.other, &self.other.token("eva")).await;
        closed.unwrap()
    }

    pub async fn finish(self) {
        assert_eq!(self.book.verdict(&self.echo.visits()), Vec::<String>::new());
        self.usher.finish().await;
        self.other.finish().await;
    }

    async fn ask_raw(&self) -> client::Answer {
        let token = self.usher.token("ada");
        let request = format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        client::http(self.usher.plain, request.as_bytes()).await
    }
}

/// Writes a row of the fault table if a file is set. It has the time until tickets worked again,
/// unless they always did, and the time until the other node had the order.
pub fn note(row: &str, seen: &str, recovered: Option<Duration>, known: Duration) {
    if let Ok(path) = std::env::var("USHER_FAULT_TABLE") {
        let mut table = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        let recovered = recovered.map_or_else(
            || "never stopped".to_owned(),
            |recovered| format!("{} ms", recovered.as_millis()),
        );
        writeln!(table, "| {row} | {seen} | {recovered} | {} ms |", known.as_millis()).unwrap();
    }
}

/// Starts a server and a drill. Faults in which some operations still work get a longer timeout: a
/// busy machine must not fail the test.
async fn against(row: &'static str, timeout: &str) -> (RedisServer, Drill) {
    let server = RedisServer::start(&[]);
    let drill = Drill::start(
        row,
        &format!("url = \"{}\"\ntimeout = \"{timeout}\"\n{NO_RATES}", server.url()),
    )
    .await;
    (server, drill)
}

/// Tests issue more tickets than one user would.
pub const NO_RATES: &str =
    "[tickets]\nrate_per_user = \"100000/1s\"\nrate_per_address = \"100000/1s\"";

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed() {
    let (server, drill) = against("killed, then started empty", "250ms").await;
    let server = std::cell::RefCell::new(server);
    drill
        .run(
            REFUSED,
            async || server.borrow_mut().kill(),
            async || server.borrow_mut().start_again(),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_hung() {
    let (server, drill) = against("hung (SIGSTOP)", "250ms").await;
    drill.run(REFUSED, async || server.signal("STOP"), async || server.signal("CONT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_has_become_a_replica() {
    let (server, drill) = against("READONLY (demoted to a replica)", "250ms").await;
    let fault = async || drop(server.cli(&["REPLICAOF", "127.0.0.1", "1"]));
    drill.run(REFUSED, fault, async || drop(server.cli(&["REPLICAOF", "NO", "ONE"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_full() {
    let (server, drill) = against("OOM (`maxmemory` reached)", "5s").await;
    let seen = Seen { issue: 503, redeem: 101, revoke: 503 };
    drill
        .run(
            seen,
            async || drop(server.cli(&["CONFIG", "SET", "maxmemory", "1"])),
            async || {
                server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_wants_a_password_that_usher_has_not() {
    let (server, drill) = against("NOAUTH (a password was set)", "250ms").await;
    let fault = async || {
        server.cli(&["CONFIG", "SET", "requirepass", "sesame"]);
        server.cli(&["-a", "sesame", "CLIENT", "KILL", "TYPE", "normal"]);
    };
    drill
        .run(REFUSED, fault, async || {
            drop(server.cli(&["-a", "sesame", "CONFIG", "SET", "requirepass", ""]));
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_speaks_nonsense() {
    for (row, says) in [
        ("LOADING", "-LOADING Redis is loading the dataset in memory\r\n"),
        ("MASTERDOWN", "-MASTERDOWN Link with MASTER is down\r\n"),
        ("another protocol on its port", "HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("silence on its port", ""),
        ("yes to everything", "+OK\r\n"),
    ] {
        let (server, drill) =
            against(row, if row == "yes to everything" { "5s" } else { "250ms" }).await;
        let (server, stub) = (std::cell::RefCell::new(server), std::cell::RefCell::new(None));
        let fault = async || {
            let port = {
                let mut server = server.borrow_mut();
                server.kill();
                server.port
            };
            *stub.borrow_mut() = Some(Stub::start(port, says).await);
        };
        let heal = async || {
            stub.borrow_mut().take();
            server.borrow_mut().start_again();
        };
        // A server that says yes to everything seems to have taken the ticket, and cannot give it
        // back.
        let seen = if row == "yes to everything" {
            Seen { issue: 201, redeem: 503, revoke: 503 }
        } else {
            REFUSED
        };
        drill.run(seen, fault, heal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_a_tenth_of_a_second_is_slow_and_no_more() {
    let server = RedisServer::start(&[]);
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = format!("url = \"redis://{}\"\ntimeout = \"10s\"", proxy.local_addr().unwrap());
    let port = server.port;
    tokio::spawn(async move {
        while let Ok((client, _)) = proxy.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(
                    async move { tokio::io::copy(&mut from_server, &mut to_client).await },
                );
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                    // This delay is the fault.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if to_server.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let mut drill = Drill::start("slow (100 ms)", &store).await;
    let ticket = drill.until_well().await;
    assert_eq!(redeem(&drill.usher, &ticket).await, 403);
    let member = drill.member().await;
    let ordered = Now::read();
    let (revoke, closed) = drill.revoke(member).await;
    assert_eq!(revoke, 200);
    let known = drill.until_closed(closed).await.saturating_duration_since(ordered.mono);
    note(drill.row, "works | works | 200", None, known);
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usher_starts_without_redis_and_says_so() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let mut drill = Drill::start("away at the start", &format!("url = \"{}\"", server.url())).await;
    assert_eq!(drill.ask().await.0, 503);
    drop(drill.usher.connect("ann").await);
    drill.book.admit("ann");
    let tells = async |what: &str| {
        eventually(format!("/readyz says {what}"), async || {
            let ready = client::get(drill.usher.admin, "/readyz").await;
            assert_eq!(ready.status, 200);
            if !ready.body.contains(what) {
                // Usher notices the state of the store only when it uses it.
                drill.ask().await;
            }
            ready.body.contains(what)
        })
        .await;
    };
    tells("\"store\":\"away\"").await;
    drill.usher.until_metric("usher_store_breaker_state{lane=\"tickets\"} 2").await;
    server.start_again();
    tells("\"store\":\"here\"").await;
    drill.until_well().await;
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_first_message_is_looked_up_has_lost_its_ticket() {
    let (silent, server) = (Recorder::start(Script::Silent).await, RedisServer::start(&[]));
    let route =
        "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"ticket\", \"message\"]\n";
    let store = format!("[store]\nurl = \"{}\"\ntimeout = \"10s\"\n", server.url());
    let usher =
        Setup::new(format!("http://{}", silent.address)).routes(route).extra(&store).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let mut socket = usher.open("/ws", &[]).await.unwrap();
    server.signal("STOP");
    let auth = serde_json::json!({ "type": "auth", "payload": { "ticket": ticket } });
    socket.send(Message::text(auth.to_string())).await.unwrap();
    usher.until_metric("usher_first_message_wait_seconds_count{route=\"/ws\"} 1").await;
    drop(socket);
    server.signal("CONT");
    let ended = |line: &serde_json::Value| line["event"] == "upgrade_rejected";
    eventually("the upgrade has ended", async || usher.audit().iter().any(ended)).await;
    let audit = usher.finish().await;
    let of = |event: &str, outcome: &str| {
        audit.iter().filter(|line| line["event"] == event && line["outcome"] == outcome).count()
    };
    let ends = [
        of("ticket_redeemed", "accepted"),
        of("ticket_lost", "client_gone"),
        of("upgrade_rejected", "client_gone"),
    ];
    assert_eq!(ends, [1, 1, 1], "{audit:#?}");
}

/// A server that sends the same answer to each command.
struct Stub(tokio::task::JoinHandle<()>);

impl Stub {
    async fn start(port: u16, says: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let connections = Arc::new(std::sync::Mutex::new(tokio::task::JoinSet::new()));
        Self(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // The connections end with the set, and the set ends with the task.
                connections.lock().unwrap().spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        let commands = buffer[..count]
                            .windows(2)
                            .filter(|two| two[0] == b'*' && two[1].is_ascii_digit())
                            .count();
                        if stream.write_all(says.repeat(commands.max(1)).as_bytes()).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        }))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.0.abort();
    }
}
