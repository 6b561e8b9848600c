//! The death of a master: a ticket on the replica that takes its place.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use usher::base::clock::Now;

use crate::store_faults::{Drill, NO_RATES, note};
use crate::store_redis::{IDENTITY, RIGHTS, certificate, redeem, setup, usher};
use crate::support::redis::{RedisServer, TLS, TLS_CLI};
use crate::support::{DoorBook, Echo, eventually};

/// A connection to a server that the test can cut. Sockets that were open at the cut stay open and
/// silent, even after it is mended.
struct Cable {
    port: u16,
    cut: watch::Sender<bool>,
}

impl Cable {
    async fn to(port_behind: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port_behind)).await else {
                    continue;
                };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, is_cut.clone()));
                tokio::spawn(carry(from_server, to_client, is_cut.clone()));
            }
        });
        Self { port, cut }
    }
}

/// Passes bytes on until the cut. After it, neither end notices anything.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: watch::Receiver<bool>) {
    let mut buffer = [0; 4096];
    let mut until_cut = Box::pin(async move { drop(is_cut.wait_for(|cut| *cut).await) });
    loop {
        tokio::select! {
            biased;
            () = &mut until_cut => break,
            read = from.read(&mut buffer) => match read {
                Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => {}
                _ => return,
            },
        }
    }
    // Both sockets stay open.
    std::future::pending::<()>().await;
}

/// Redeems a ticket on a master whose replica is cut off, kills the master, and redeems the ticket
/// again on the replica. Returns both statuses.
async fn replay(acknowledge: &str) -> (u16, u16) {
    let mut master = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let cable = Cable::to(master.port).await;
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &cable.port.to_string()]);
    let online = || master.cli(&["INFO", "replication"]).contains("state=online");
    eventually("the replica is online", async || online()).await;

    let echo = Echo::start().await;
    let lines = format!("wait_for_replicas = {acknowledge}\ntimeout = \"2s\"");
    let before = usher(&echo, &format!("url = \"{}\"\n{lines}", master.url())).await;
    let mut book = DoorBook::default();
    // While the replica follows, an acknowledged ticket lets its owner in.
    let ticket = before.issue_ticket(&before.token("ada")).await;
    book.admit("ada");
    assert_eq!(redeem(&before, &ticket).await, 101);

    let ticket = before.issue_ticket(&before.token("ada")).await;
    book.admit("ada");
    eventually("the replica has the ticket", async || replica.tickets() == master.tickets()).await;
    cable.cut.send_replace(true);
    let first = redeem(&before, &ticket).await;
    master.kill();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    let after = usher(&echo, &format!("url = \"{}\"\ntimeout = \"2s\"", replica.url())).await;
    after.keep_secret(&ticket);
    let second = redeem(&after, &ticket).await;
    let twice = first == 101 && second == 101;
    assert_eq!(book.verdict(&echo.visits()).is_empty(), !twice);
    before.finish().await;
    after.finish().await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_acknowledgement_no_ticket_works_twice() {
    // The master refuses the ticket because no replica acknowledges it. The replica accepts it once
    // because it did not learn of the first attempt.
    assert_eq!(replay("1").await, (503, 101));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_acknowledgement_a_ticket_can_work_twice_as_documented() {
    assert_eq!(replay("\"none\"").await, (101, 101));
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_names_the_next_master_and_tickets_go_on() {
    let rights = [RIGHTS, &["+role"]].concat();
    let mut master =
        RedisServer::start(&[&["--repl-diskless-sync-delay", "0"], &rights[..]].concat());
    let replica = RedisServer::start(
        &[&["--replicaof", "127.0.0.1", &master.port.to_string()], &rights[..]].concat(),
    );
    eventually("the replica is online", async || {
        master.cli(&["INFO", "replication"]).contains("state=online")
    })
    .await;
    let sentinel = Arc::new(RedisServer::sentinel(master.port));
    let known =
        || sentinel.cli(&["SENTINEL", "REPLICAS", "chat"]).contains(&replica.port.to_string());
    eventually("the sentinel knows the replica", async || known()).await;

    let mut drill = Drill::start(
        "master killed, Sentinel promotes",
        &format!(
            "url = \"redis+sentinel://127.0.0.1:{}/chat\"\ntimeout = \"1s\"\n{IDENTITY}\n\
            {NO_RATES}",
            sentinel.port
        ),
    )
    .await;
    let spent = drill.until_well().await;
    let spare = drill.spare_ticket().await;
    eventually("the replica has the ticket", async || replica.tickets() == master.tickets()).await;
    let member = drill.member().await;
    master.kill();
    let killed = Now::read();
    assert_eq!(redeem(&drill.usher, &spent).await, 503);
    let (revoke, closed) = drill.revoke(member).await;
    assert_eq!(revoke, 503);
    drop(drill.usher.connect("bob").await);
    drill.book.admit("bob");
    drill.until_well().await;
    let recovered = killed.mono.elapsed();
    let known = drill.until_closed(closed).await.saturating_duration_since(killed.mono);
    note(
        "master killed, Sentinel promotes (down-after 1 s)",
        "503 | 503 | 503",
        Some(recovered),
        known,
    );
    // The replica knows which tickets are good and which are spent.
    assert_eq!(
        (redeem(&drill.usher, &spare).await, redeem(&drill.usher, &spent).await),
        (101, 403)
    );
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_and_their_servers_behind_tls_are_known_by_their_certificate() {
    let (cert, key) = certificate();
    let files = [("cert.pem", cert.as_str()), ("key.pem", key.as_str())];
    let start = |extra: &[&str]| {
        RedisServer::start_with(&[TLS, extra, RIGHTS, &["+role"]].concat(), &files, TLS_CLI)
    };
    let mut master = start(&["--repl-diskless-sync-delay", "0"]);
    let replica = start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    eventually("the replica is online", async || {
        master.cli(&["INFO", "replication"]).contains("state=online")
    })
    .await;
    let sentinel = RedisServer::sentinel_with(master.port, &files);
    let known =
        || sentinel.cli(&["SENTINEL", "REPLICAS", "chat"]).contains(&replica.port.to_string());
    eventually("the sentinel knows the replica", async || known()).await;

    let (echo, mut book) = (Echo::start().await, DoorBook::default());
    let url = format!(
        "url = \"rediss+sentinel://127.0.0.1:{}/chat\"\ntimeout = \"2s\"\n{IDENTITY}",
        sentinel.port
    );
    let with = |lines: &str| {
        setup(&echo, &format!("{url}\n{lines}\n{NO_RATES}")).file("redis-ca.pem", cert.clone())
    };
    let stranger = with("").start().await;
    assert_eq!(stranger.ask_ticket(&stranger.token("ada"), "", "").await.0, 503);
    stranger.finish().await;

    let trusting = || with("ca_file = \"redis-ca.pem\"").start();
    let (usher, other) = (trusting().await, trusting().await);
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    book.admit("ada");
    assert_eq!((redeem(&usher, &ticket).await, redeem(&usher, &ticket).await), (101, 403));
    master.kill();
    let mut drill =
        Drill { echo, usher, other, book, row: "master killed, Sentinel promotes, over TLS" };
    drill.until_well().await;
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_leads_nowhere_is_given_up() {
    let server = RedisServer::start(&[]);
    let cable = Cable::to(server.port).await;
    let store = format!("url = \"redis://127.0.0.1:{}\"\n{NO_RATES}", cable.port);
    let mut drill = Drill::start("host vanished, sockets left open", &store).await;
    let spent = drill.until_well().await;
    let member = drill.member().await;
    cable.cut.send_replace(true);
    for _ in 0..4 {
        assert_eq!(redeem(&drill.usher, &spent).await, 503);
    }
    let (revoke, closed) = drill.revoke(member).await;
    assert_eq!(revoke, 503);
    cable.cut.send_replace(false);
    let mended = Now::read();
    drill.until_well().await;
    let recovered = mended.mono.elapsed();
    let known = drill.until_closed(closed).await.saturating_duration_since(mended.mono);
    note("host vanished, sockets left open", "503 | 503 | 503", Some(recovered), known);
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_brings_a_ticket_back_as_the_docs_say() {
    let (echo, mut server) = (Echo::start().await, RedisServer::start(&[]));
    let usher = usher(&echo, &format!("url = \"{}\"\ntimeout = \"5s\"", server.url())).await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    server.cli(&["SAVE"]);
    assert_eq!(redeem(&usher, &ticket).await, 101);
    server.start_again();
    // The breaker is closed, and the first answer may still come from the old connection.
    let mut again = redeem(&usher, &ticket).await;
    while again == 503 {
        again = redeem(&usher, &ticket).await;
    }
    assert_eq!(again, 101);
    usher.finish().await;
}
