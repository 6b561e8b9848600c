//! Two Ushers, one Redis.

use futures_util::future::join_all;

use crate::support::redis::{RedisServer, TLS, TLS_CLI};
use crate::support::{DoorBook, Echo, Raw, Setup, Usher, upgrade_request};

pub const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "header"]
    identity_headers = { "X-User-Id" = "sub" }
"#;

pub async fn usher(echo: &Echo, store: &str) -> Usher {
    setup(echo, store).start().await
}

pub fn setup(echo: &Echo, store: &str) -> Setup {
    Setup::new(echo.url())
        .routes(ROUTES)
        .extra(&format!("[store]\n{store}\n"))
        .file("redis-password", PASSWORD.to_owned())
}

/// Redeems a ticket with a plain upgrade. Returns the status.
pub async fn redeem(usher: &Usher, ticket: &str) -> u16 {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    let head = raw.read_head().await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_racing_redemptions_over_two_processes_one_wins() {
    let (echo, server) = (Echo::start().await, RedisServer::start(&[]));
    // The timeout is long because a busy machine must not fail the test.
    let store = format!("url = \"{}\"\ntimeout = \"10s\"", server.url());
    let ticket = race(echo, &store).await;
    let keys = server.cli(&["KEYS", "*"]);
    assert!(!keys.contains(&ticket), "{keys}");
}

/// Two Ushers and ten tickets, with sixty-four clients for each ticket.
pub async fn race(echo: Echo, store: &str) -> String {
    let ushers = [usher(&echo, store).await, usher(&echo, store).await];
    let (mut book, mut last) = (DoorBook::default(), String::new());
    for round in 0..10 {
        let ticket = ushers[round % 2].issue_ticket(&ushers[0].token("ada")).await;
        ushers[1 - round % 2].keep_secret(&ticket);
        book.admit("ada");
        // All connections are open before the first request goes out.
        let sockets = join_all((0..64).map(|n| Raw::connect(ushers[n % 2].plain))).await;
        let request = &upgrade_request(&format!("/ws?ticket={ticket}"), "");
        let heads = join_all(sockets.into_iter().map(|mut raw| async move {
            raw.send(request).await;
            raw.read_head().await
        }))
        .await;
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 101 ")).count(), 1);
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 403 ")).count(), 63);
        last = ticket;
    }
    assert_eq!(book.verdict(&echo.visits()), Vec::<String>::new());
    for usher in ushers {
        usher.finish().await;
    }
    last
}

const PASSWORD: &str = "sesame-sesame";
/// The login of Usher, for the table of a store.
pub const IDENTITY: &str = "username = \"usher\"\npassword_file = \"redis-password\"";
/// The rights that `docs/fleet.md` tells operators to give, and no more.
pub const RIGHTS: &[&str] = &[
    "--user",
    "usher",
    "on",
    ">sesame-sesame",
    "~usher:*",
    "-@all",
    "+hello",
    "+set",
    "+get",
    "+getdel",
    "+eval",
    "+pttl",
    "+time",
    "+wait",
    "+xadd",
    "+xread",
    "+pexpire",
    "+zadd",
    "+zrem",
    "+zcard",
    "+zrange",
    "+zrangebyscore",
    "+zremrangebyscore",
    "+rpush",
    "+blpop",
];

/// Returns a self-signed certificate for loopback, and its key.
pub fn certificate() -> (String, String) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    (certified.cert.pem(), certified.signing_key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_user_with_few_rights_is_enough() {
    let (cert, key) = certificate();
    let mut extra = TLS.to_vec();
    extra.extend(["--user", "default", "on", ">root", "~*", "&*", "+@all"]);
    extra.extend(RIGHTS);
    let cli = [TLS_CLI, &["-a", "root"]].concat();
    let server = RedisServer::start_with(&extra, &[("cert.pem", &cert), ("key.pem", &key)], &cli);
    let echo = Echo::start().await;
    let url = format!("url = \"rediss://127.0.0.1:{}\"\ntimeout = \"10s\"", server.port);
    let with = |lines: &str, password: &str| {
        setup(&echo, &format!("{url}\n{lines}"))
            .file("redis-ca.pem", cert.clone())
            .file("redis-password", password.to_owned())
            .start()
    };

    let usher = with(&format!("ca_file = \"redis-ca.pem\"\n{IDENTITY}"), PASSWORD).await;
    usher.keep_secret(PASSWORD);
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    assert_eq!((redeem(&usher, &ticket).await, redeem(&usher, &ticket).await), (101, 403));
    usher.finish().await;

    // A wrong password, and a certificate that is not trusted.
    for (lines, password) in [
        (format!("ca_file = \"redis-ca.pem\"\n{IDENTITY}"), "wrong-password"),
        (IDENTITY.to_owned(), PASSWORD),
    ] {
        let usher = with(&lines, password).await;
        usher.keep_secret(password);
        assert_eq!(usher.ask_ticket(&usher.token("ada"), "", "").await.0, 503);
        assert_eq!(redeem(&usher, &ticket).await, 503);
        usher.finish().await;
    }
}
