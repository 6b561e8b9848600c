//! A master that dies: what a ticket is worth on the replica that takes its place.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use usher::clock::Now;

use crate::store_faults::{Drill, note};
use crate::store_redis::{IDENTITY, RIGHTS, redeem, usher};
use crate::support::redis::RedisServer;
use crate::support::{DoorBook, Echo};

/// Polls: Redis tells nobody when replication has come so far.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came: {what}");
}

/// The way from a replica to its master, which can be cut.
struct Cable {
    port: u16,
    cut: watch::Sender<bool>,
}

impl Cable {
    async fn to(master: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((replica, _)) = listener.accept().await {
                let Ok(master) = TcpStream::connect(("127.0.0.1", master)).await else { continue };
                let ((from_replica, to_replica), (from_master, to_master)) = (replica.into_split(), master.into_split());
                tokio::spawn(carry(from_replica, to_master, is_cut.clone()));
                tokio::spawn(carry(from_master, to_replica, is_cut.clone()));
            }
        });
        Self { port, cut }
    }
}

/// Nothing that arrives after the cut is passed on, and neither end hears of it.
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

/// Redeems on a master whose replica is cut off, lets the master die, and redeems again on the replica. Gives back both answers.
async fn replay(acknowledge: &str) -> (u16, u16) {
    let mut master = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let cable = Cable::to(master.port).await;
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &cable.port.to_string()]);
    let online = || master.cli(&["INFO", "replication"]).contains("state=online");
    until("the replica is online", online).await;

    let echo = Echo::start().await;
    let lines = format!("acknowledge = {acknowledge}\ntimeout = \"2s\"");
    let before = usher(&echo, &format!("url = \"{}\"\n{lines}", master.url())).await;
    let mut book = DoorBook::default();
    // While the replica follows, an acknowledged ticket lets its owner in.
    let ticket = before.issue_ticket(&before.token("ada")).await;
    book.admit("ada");
    assert_eq!(redeem(&before, &ticket).await, 101);

    let ticket = before.issue_ticket(&before.token("ada")).await;
    book.admit("ada");
    until("the replica has the ticket", || replica.cli(&["DBSIZE"]).trim() == "1").await;
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
async fn with_an_acknowledgement_no_ticket_lets_in_twice_whatever_dies() {
    // Refused on the master, because nobody else knew; good for once on the replica, which did not know.
    assert_eq!(replay("1").await, (503, 101));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_a_ticket_comes_back_to_life_as_the_docs_say() {
    assert_eq!(replay("\"none\"").await, (101, 101));
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_names_the_next_master_and_tickets_go_on() {
    let rights = [RIGHTS, &["+role"]].concat();
    let mut master = RedisServer::start(&[&["--repl-diskless-sync-delay", "0"], &rights[..]].concat());
    let replica = RedisServer::start(&[&["--replicaof", "127.0.0.1", &master.port.to_string()], &rights[..]].concat());
    until("the replica is online", || master.cli(&["INFO", "replication"]).contains("state=online")).await;
    let sentinel = Arc::new(RedisServer::sentinel(master.port));
    let known = || sentinel.cli(&["SENTINEL", "REPLICAS", "chat"]).contains(&replica.port.to_string());
    until("the sentinel knows the replica", known).await;

    let mut drill = Drill::start(
        "master killed, Sentinel promotes",
        &format!("url = \"redis+sentinel://127.0.0.1:{}/chat\"\n{IDENTITY}", sentinel.port),
    )
    .await;
    let spent = drill.until_well().await;
    let spare = drill.spare_ticket().await;
    until("the replica has the ticket", || replica.cli(&["DBSIZE"]).trim() == "1").await;
    master.kill();
    let killed = Now::read();
    assert_eq!(redeem(&drill.usher, &spent).await, 503);
    drop(drill.usher.connect("bob").await);
    drill.book.admit("bob");
    drill.until_well().await;
    note("master killed, Sentinel promotes (down-after 1 s)", "503 | 503", killed.mono.elapsed());
    // What was replicated is as good, or as spent, as before.
    assert_eq!((redeem(&drill.usher, &spare).await, redeem(&drill.usher, &spent).await), (101, 403));
    drill.finish().await;
}
