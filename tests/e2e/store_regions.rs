//! Two regions, each with its own Usher and Redis. Tickets work in both, and a fault stays in its
//! region.

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::store_faults::NO_RATES;
use crate::store_redis::redeem;
use crate::support::client;
use crate::support::redis::RedisServer;
use crate::support::{DoorBook, Echo, Raw, Setup, Usher, eventually, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    identity_headers = { "X-User-Id" = "sub" }
"#;
const NAMES: [&str; 2] = ["us", "eu"];
/// The rights that `docs/regions.md` tells a region to give to the others.
const GUEST: &[&str] = &[
    "--user",
    "guest",
    "on",
    ">sesame-sesame",
    "~usher:ticket:*",
    "~usher:multi:*",
    "-@all",
    "+hello",
    "+get",
    "+getdel",
    "+eval",
    "+pttl",
    "+wait",
];

struct World {
    echo: Echo,
    book: DoorBook,
    /// In the order of their names.
    stores: [RedisServer; 2],
    ushers: [Usher; 2],
}

impl World {
    /// Starts both regions. `patience` is the timeout for the store of the other region. It is
    /// short only where that store hangs.
    async fn start(patience: &str) -> Self {
        let (echo, stores) =
            (Echo::start().await, [RedisServer::start(GUEST), RedisServer::start(GUEST)]);
        let usher = |own: usize, other: usize| {
            let store = format!(
                "[store]\nurl = \"{}\"\nregion = \"{}\"\ntimeout = \"10s\"\n[store.regions.{}]\n\
                 url = \"{}\"\ntimeout = \"{patience}\"\n\
                 username = \"guest\"\npassword_file = \"guest-password\"\n{NO_RATES}",
                stores[own].url(),
                NAMES[own],
                NAMES[other],
                stores[other].url()
            );
            Setup::new(echo.url())
                .routes(ROUTES)
                .extra(&store)
                .file("guest-password", "sesame-sesame".to_owned())
                .start()
        };
        let ushers = [usher(0, 1).await, usher(1, 0).await];
        Self { echo, book: DoorBook::default(), stores, ushers }
    }

    /// Issues a ticket, which admits one client.
    async fn ticket(&mut self, region: usize) -> String {
        let ticket = self.ushers[region].issue_ticket(&self.ushers[region].token("ada")).await;
        self.ushers[1 - region].keep_secret(&ticket);
        assert!(ticket.starts_with(&format!("{}.", NAMES[region])), "{ticket}");
        self.book.admit("ada");
        ticket
    }

    async fn redeem(&self, region: usize, ticket: &str) -> u16 {
        redeem(&self.ushers[region], ticket).await
    }

    async fn finish(self) -> [Vec<Value>; 2] {
        assert_eq!(self.book.verdict(&self.echo.visits()), Vec::<String>::new());
        let [us, eu] = self.ushers;
        [us.finish().await, eu.finish().await]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_one_region_lets_in_at_the_other_once() {
    let mut world = World::start("10s").await;
    let ticket = world.ticket(0).await;
    assert_eq!(
        world.stores[1].cli(&["KEYS", "usher:ticket:*"]).trim(),
        "",
        "the ticket is not in the store that it names"
    );

    let as_guest =
        ["--user", "guest", "--pass", "sesame-sesame", "SET", "usher:ticket:made-up", "x"];
    assert!(
        world.stores[0].cli(&as_guest).contains("NOPERM"),
        "another region may create tickets here"
    );

    let token = world.ushers[1].token("ada");
    let look = format!(
        "GET /websocket/ticket/{ticket}/validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    let is_valid = async || {
        client::http(world.ushers[1].plain, look.as_bytes()).await.body.contains("\"valid\":true")
    };
    assert!(is_valid().await);
    assert_eq!(world.redeem(1, &ticket).await, 101);
    assert!(!is_valid().await);
    assert_eq!((world.redeem(0, &ticket).await, world.redeem(1, &ticket).await), (403, 403));

    // In the other direction, as a first message.
    let ticket = world.ticket(1).await;
    let mut socket = world.ushers[0].open("/ws", &[]).await.unwrap();
    let auth = json!({ "type": "auth", "payload": { "ticket": ticket } });
    socket.send(Message::text(auth.to_string())).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert!(answer.to_text().unwrap().contains("auth_ok"), "{answer}");
    drop(socket);

    let metrics = world.ushers[1].metrics().await;
    assert!(
        metrics.contains(
            "usher_store_operations_total{operation=\"peek\",outcome=\"ok\",region=\"us\"} 2\n"
        ),
        "{metrics}"
    );
    let [_, eu] = world.finish().await;
    assert!(
        eu.iter().any(|line| line["event"] == "ticket_redeemed" && line["detail"] == "region us"),
        "{eu:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_racing_redemptions_over_two_regions_one_wins() {
    let mut world = World::start("10s").await;
    for round in 0..10 {
        let ticket = world.ticket(round % 2).await;
        // All connections are open before the first request goes out.
        let sockets = join_all((0..64).map(|n| Raw::connect(world.ushers[n % 2].plain))).await;
        let request = &upgrade_request(&format!("/ws?ticket={ticket}"), "");
        let heads = join_all(sockets.into_iter().map(|mut raw| async move {
            raw.send(request).await;
            raw.read_head().await
        }))
        .await;
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 101 ")).count(), 1);
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 403 ")).count(), 63);
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_with_another_region_is_invalid() {
    let mut world = World::start("10s").await;
    let ticket = world.ticket(0).await;
    let bits = ticket.strip_prefix("us.").unwrap();
    let spellings = [
        format!("eu.{bits}"),
        bits.to_owned(),
        format!("ap.{bits}"),
        format!("US.{bits}"),
        format!("us.eu.{bits}"),
    ];
    for region in [0, 1] {
        world.ushers[region].keep_secret(bits);
        for spelling in &spellings {
            let mut raw = Raw::connect(world.ushers[region].plain).await;
            raw.send(upgrade_request(&format!("/ws?ticket={spelling}"), "")).await;
            let answer = client::Answer::parse(&raw.read_to_close().await);
            assert!(
                answer.status == 403 && answer.body.contains("INVALID_TICKET"),
                "{spelling}: {}",
                answer.body
            );
            assert!(answer.body.contains("the ticket is not valid"), "all alike: {}", answer.body);
        }
    }
    // The ticket itself is still good.
    assert_eq!(world.redeem(1, &ticket).await, 101);
    for audit in world.finish().await {
        let faults: Vec<_> = audit
            .iter()
            .filter(|line| line["event"] == "ticket_redeem_refused")
            .map(|line| &line["outcome"])
            .collect();
        assert_eq!(faults, ["unknown", "unknown", "unknown_region", "malformed", "malformed"]);
    }
}

/// Takes the store of one region away by a fault.
async fn without_eu(fault: impl Fn(&mut RedisServer), heal: impl Fn(&mut RedisServer)) {
    let mut world = World::start("1s").await;
    let theirs = world.ticket(1).await;
    fault(&mut world.stores[1]);
    for _ in 0..8 {
        let mut raw = Raw::connect(world.ushers[0].plain).await;
        raw.send(upgrade_request(&format!("/ws?ticket={theirs}"), "")).await;
        let answer = client::Answer::parse(&raw.read_to_close().await);
        assert!(
            answer.status == 503 && answer.body.contains("STORE_UNAVAILABLE"),
            "{}",
            answer.body
        );
        let ours = world.ticket(0).await;
        assert_eq!(world.redeem(0, &ours).await, 101);
    }
    let ours = world.ticket(0).await;
    assert_eq!(world.redeem(1, &ours).await, 101, "at the node whose own store is away");

    let status: Value =
        serde_json::from_str(&client::get(world.ushers[0].admin, "/status").await.body).unwrap();
    let store = &status["store"];
    assert_eq!((&store["region"], &store["breaker"]), (&json!("us"), &json!("closed")));
    assert!(store["regions"]["eu"] == "open" || store["regions"]["eu"] == "half-open", "{status}");
    assert!(
        client::get(world.ushers[0].admin, "/readyz").await.body.contains("\"store\":\"here\"")
    );

    heal(&mut world.stores[1]);
    eventually("a ticket of the recovered region is accepted elsewhere", async || {
        // The Usher of the region must recover too.
        let own = &world.ushers[1];
        let (201, answer) = own.ask_ticket(&own.token("ada"), "", "").await else { return false };
        let ticket = answer["ticket_id"].as_str().unwrap();
        world.ushers[0].keep_secret(ticket);
        world.book.admit("ada");
        world.redeem(0, ticket).await == 101
    })
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_store_was_killed_refuses_its_own_tickets_alone() {
    without_eu(RedisServer::kill, RedisServer::start_again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_store_hangs_refuses_its_own_tickets_alone() {
    without_eu(|store| store.signal("STOP"), |store| store.signal("CONT")).await;
}
