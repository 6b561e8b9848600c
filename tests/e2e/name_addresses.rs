//! A name with several addresses, from a real DNS server: each address is a server of its own, and
//! they come and go while sessions live.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::client;
use crate::support::redis::free_port;
use crate::support::usher::{acceptor, is_alive};
use crate::support::{Dns, Echo, Nginx, Recorder, Script, Setup, Usher, eventually};

const NAME: &str = "chat.test";
const LINES: &str = "resolve_every = \"1s\"\nslow_start = \"0s\"\neject_for = \"1h\"\n\
                     dial_timeout = \"2s\"\nupgrade_timeout = \"2s\"";

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Starts echo servers at loopback addresses that end so, all at one port.
async fn echoes<const COUNT: usize>(lasts: [u8; COUNT]) -> ([Echo; COUNT], u16) {
    let port = free_port();
    let echoes = join_all(lasts.map(|last| Echo::start_at((loopback(last), port).into()))).await;
    (echoes.try_into().unwrap_or_else(|_| unreachable!()), port)
}

async fn start(dns: &Dns, url: &str, lines: &str) -> Usher {
    let setup = Setup::new(url).upstream_lines(&format!("{LINES}\n{lines}"));
    setup.file("resolv.conf", dns.resolv_conf()).start().await
}

fn url(port: u16) -> String {
    format!("http://{NAME}:{port}")
}

/// Opens a session on a connection that closes at once. Returns the status of the answer.
async fn attempt(usher: &Usher, user: &str) -> u16 {
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token(user));
    client::attempt(usher.plain, "/ws", &bearer).await.status
}

/// Returns the label, the state and the busy places of each server.
async fn servers(usher: &Usher) -> Vec<(String, String, u64)> {
    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let row = |one: &Value| (text(&one["server"]), text(&one["state"]), one["busy"].as_u64());
    let rows = status["servers"].as_array().unwrap().iter().map(row);
    rows.map(|(server, state, busy)| (server, state, busy.unwrap())).collect()
}

/// Waits until the servers have these addresses and states.
async fn until_servers(usher: &Usher, port: u16, expected: &[(u8, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(last, state)| (format!("{} ({})", url(port), loopback(*last)), (*state).to_owned()))
        .collect();
    eventually(format!("the servers are {expected:?}"), async || {
        let rows = servers(usher).await.into_iter();
        rows.map(|(server, state, _)| (server, state)).eq(expected.clone())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_balanced_over_the_addresses_of_a_name() {
    let addresses = [2, 3, 4].map(loopback);
    let Some(dns) = Dns::start(NAME, &addresses).await else { return };
    let (echoes, port) = echoes([2, 3, 4]).await;
    let usher = start(&dns, &url(port), "").await;
    let mut sockets = Vec::new();
    for _ in 0..9 {
        sockets.push(usher.connect("ada").await);
    }
    assert_eq!(echoes.each_ref().map(|echo| echo.visits().len()), [3, 3, 3]);
    let busy: Vec<_> = servers(&usher).await.iter().map(|(_, _, busy)| *busy).collect();
    assert_eq!(busy, [3, 3, 3]);
    usher.until_metric("usher_upstream_servers{upstream=\"chat\",state=\"serving\"} 3").await;
    until_servers(&usher, port, &[(2, "serving"), (3, "serving"), (4, "serving")]).await;
    drop(sockets);
    usher.finish().await;

    // A sticky user stays at its address, also when another address leaves.
    let usher = start(&dns, &url(port), "balance = \"sticky\"").await;
    let home = async |user: &str| {
        let before = echoes.each_ref().map(|echo| echo.visits().len());
        assert_eq!(attempt(&usher, user).await, 101);
        (0..3).find(|index| echoes[*index].visits().len() > before[*index]).unwrap()
    };
    let users: Vec<_> = (0..20).map(|number| format!("user {number}")).collect();
    let mut homes = Vec::new();
    for user in &users {
        homes.push(home(user).await);
    }
    assert!((0..3).all(|index| homes.contains(&index)), "{homes:?}");
    dns.set(NAME, &addresses[..2]);
    until_servers(&usher, port, &[(2, "serving"), (3, "serving")]).await;
    for (user, before) in users.iter().zip(homes) {
        let after = home(user).await;
        assert!(if before == 2 { after < 2 } else { after == before }, "{user}: {before}, {after}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_address_is_ejected_while_the_other_one_serves() {
    let Some(dns) = Dns::start(NAME, &[2, 3].map(loopback)).await else { return };
    let (behind, ([echo], port)) = (Echo::start().await, echoes([3]).await);
    let nginx = Nginx::start_at((loopback(2), port).into(), behind.address).await;
    let usher = start(&dns, &url(port), "").await;
    for number in 0..2 {
        assert_eq!(attempt(&usher, &format!("first {number}")).await, 101);
    }
    assert_eq!((behind.visits().len(), echo.visits().len()), (1, 1));
    nginx.hang();
    let ejected = "usher_upstream_servers{upstream=\"chat\",state=\"ejected\"} 1";
    for number in 0.. {
        assert_eq!(attempt(&usher, &format!("user {number}")).await, 101);
        if usher.metrics().await.lines().any(|line| line == ejected) {
            break;
        }
        assert!(number < 30, "not ejected:\n{}", usher.log());
    }
    until_servers(&usher, port, &[(2, "ejected"), (3, "serving")]).await;
    usher.logged(&["server_ejected", &format!("{} (127.0.0.2)", url(port))]).await;
    let tries = "usher_upstream_dial_failures_total{upstream=\"chat\"}";
    let failed =
        |metrics: String| metrics.lines().find(|line| line.starts_with(tries)).unwrap().to_owned();
    let before = failed(usher.metrics().await);
    for number in 0..4 {
        assert_eq!(attempt(&usher, &format!("later {number}")).await, 101);
    }
    assert_eq!(failed(usher.metrics().await), before, "a client waited for the ejected address");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_follow_the_addresses() {
    let Some(dns) = Dns::start(NAME, &[2, 3].map(loopback)).await else { return };
    let behind = Echo::start().await;
    let port = free_port();
    let at = |last| SocketAddr::from((loopback(last), port));
    let sick = Nginx::start_at(at(2), behind.address).await;
    let well = Nginx::start_at(at(3), behind.address).await;
    let lines = "health = { path = \"/healthz\", every = \"100ms\", timeout = \"3s\" }";
    let usher = start(&dns, &url(port), lines).await;
    usher
        .until_at_least(
            "usher_upstream_health_checks_total{upstream=\"chat\",outcome=\"passed\"}",
            4,
        )
        .await;
    sick.hang();
    until_servers(&usher, port, &[(2, "ejected"), (3, "serving")]).await;
    // The checks of an address end when it leaves, and begin when it comes.
    dns.set(NAME, &[loopback(3)]);
    until_servers(&usher, port, &[(3, "serving")]).await;
    // Nothing listens there.
    dns.set(NAME, &[3, 4].map(loopback));
    until_servers(&usher, port, &[(3, "serving"), (4, "ejected")]).await;
    drop(well);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_and_go_under_live_sessions() {
    let Some(dns) = Dns::start(NAME, &[2, 3].map(loopback)).await else { return };
    let ([old, stays, new], port) = echoes([2, 3, 4]).await;
    let usher = start(&dns, &url(port), "").await;
    let (mut one, mut two) = (usher.connect("ada").await, usher.connect("bob").await);
    assert_eq!((old.visits().len(), stays.visits().len()), (1, 1));

    dns.set(NAME, &[3, 4].map(loopback));
    until_servers(&usher, port, &[(3, "serving"), (4, "serving")]).await;
    usher.logged(&["addresses_changed", "127.0.0.4"]).await;
    let mut later = Vec::new();
    for _ in 0..5 {
        later.push(usher.connect("eve").await);
    }
    // The session at the address that left goes on, and no other one comes.
    is_alive(&mut one).await;
    is_alive(&mut two).await;
    assert_eq!((old.visits().len(), stays.visits().len(), new.visits().len()), (1, 3, 3));

    // An address that returns still has its session.
    dns.set(NAME, &[2, 3, 4].map(loopback));
    let all = [(2, "serving"), (3, "serving"), (4, "serving")];
    until_servers(&usher, port, &all).await;
    let busy: Vec<_> = servers(&usher).await.iter().map(|(_, _, busy)| *busy).collect();
    assert_eq!(busy, [1, 3, 3]);
    drop((one, two, later));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_comes_starts_slowly_and_a_reload_keeps_all_of_them() {
    let Some(dns) = Dns::start(NAME, &[loopback(2)]).await else { return };
    let ([first, second], port) = echoes([2, 3]).await;
    let lines = "resolve_every = \"1s\"\nslow_start = \"1h\"";
    let usher = Setup::new(url(port))
        .upstream_lines(lines)
        .file("resolv.conf", dns.resolv_conf())
        .start()
        .await;
    let mut sockets = vec![usher.connect("ada").await];
    dns.set(NAME, &[2, 3].map(loopback));
    until_servers(&usher, port, &[(2, "serving"), (3, "slow_start")]).await;
    for _ in 0..20 {
        sockets.push(usher.connect("ada").await);
    }
    // With the fewest sessions, it would get all of them.
    assert!((1..=4).contains(&second.visits().len()), "{} of 20", second.visits().len());
    assert_eq!(first.visits().len() + second.visits().len(), 21);
    let before = servers(&usher).await;
    let file = std::fs::read_to_string(usher.config_path()).unwrap();
    std::fs::write(usher.config_path(), file.replace("\"1s\"", "\"2s\"")).unwrap();
    // The resolver is away, so the reload cannot look the name up.
    dns.hang();
    assert_eq!(crate::reload::usher_reload(&usher).await.0, 0);
    assert_eq!(servers(&usher).await, before);
    assert_eq!(attempt(&usher, "bob").await, 101);
    drop(sockets);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_away_keeps_its_addresses_and_one_without_any_is_refused() {
    let Some(dns) = Dns::start(NAME, &[]).await else { return };
    let ([echo], port) = echoes([2]).await;
    let usher = start(&dns, &url(port), "").await;
    assert_eq!(attempt(&usher, "ada").await, 502);
    usher.logged(&["resolve_failed", &url(port)]).await;
    usher.logged(&["dial_failed", "the names of the upstream have no address"]).await;
    assert_eq!(servers(&usher).await, [(url(port), "unresolved".to_owned(), 0)]);
    usher.until_metric("usher_upstream_servers{upstream=\"chat\",state=\"unresolved\"} 1").await;

    dns.set(NAME, &[loopback(2)]);
    until_servers(&usher, port, &[(2, "serving")]).await;
    assert_eq!(attempt(&usher, "ada").await, 101);
    let lines = || usher.log().matches("\"resolve_failed\"").count();
    let before = lines();
    let series = "usher_upstream_resolve_failures_total{upstream=\"chat\"}";
    let failures = async || -> u64 {
        let metrics = usher.metrics().await;
        metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap().trim().parse().unwrap()
    };
    let failed = failures().await;
    dns.set(NAME, &[]);
    usher.until_at_least(series, failed + 2).await;
    dns.hang();
    let failed = failures().await;
    usher.until_at_least(series, failed + 1).await;
    until_servers(&usher, port, &[(2, "serving")]).await;
    assert_eq!(attempt(&usher, "ada").await, 101);
    assert_eq!(lines(), before + 1, "each failure in a row has a line");
    assert_eq!(echo.visits().len(), 2);
    dns.go_on();
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_of_each_family_is_one_server() {
    let both = [loopback(2), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
    let Some(dns) = Dns::start(NAME, &both).await else { return };
    let ([echo], port) = echoes([2]).await;
    // Nothing listens at ::1.
    let usher = start(&dns, &url(port), "").await;
    let tries = "usher_upstream_dial_failures_total{upstream=\"chat\"} 0";
    for number in 0..4 {
        assert_eq!(attempt(&usher, &format!("user {number}")).await, 101);
    }
    assert_eq!(echo.visits().len(), 4);
    usher.until_metric(tries).await;
    until_servers(&usher, port, &[(2, "serving")]).await;
    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    let addresses = status["servers"][0]["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 2, "{status}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_addresses_is_limited_and_one_server_has_all_of_them() {
    let Some(dns) = Dns::start(NAME, &[2, 3, 4].map(loopback)).await else { return };
    let ([last], port) = echoes([4]).await;
    let usher = start(&dns, &url(port), "max_addresses = 2").await;
    until_servers(&usher, port, &[(2, "serving"), (3, "serving")]).await;
    usher.until_at_least("usher_limits_hit_total{limit=\"upstream_max_addresses\"}", 2).await;
    assert_eq!(usher.log().matches("\"addresses_unused\"").count(), 1, "{}", usher.log());
    assert_eq!(attempt(&usher, "ada").await, 502);
    usher.finish().await;

    let usher = start(&dns, &url(port), "addresses = \"one-server\"").await;
    for number in 0..4 {
        assert_eq!(attempt(&usher, &format!("user {number}")).await, 101);
    }
    assert_eq!(last.visits().len(), 4);
    let rows = servers(&usher).await;
    assert!(matches!(&*rows, [(server, _, _)] if *server == url(port)), "{rows:?}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_stays_the_host_and_the_name_in_certificates() {
    let Some(dns) = Dns::start(NAME, &[2, 3].map(loopback)).await else { return };
    let certified = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let port = free_port();
    let tls = |last| Echo::start_tls_at((loopback(last), port).into(), acceptor(&certified));
    let (one, two) = (tls(2).await, tls(3).await);
    let usher = Setup::new(format!("https://{NAME}:{port}"))
        .upstream_lines(&format!("{LINES}\nca_file = \"ca.pem\""))
        .file("ca.pem", certified.cert.pem())
        .file("resolv.conf", dns.resolv_conf())
        .start()
        .await;
    for number in 0..4 {
        assert_eq!(attempt(&usher, &format!("user {number}")).await, 101);
    }
    assert_eq!((one.visits().len(), two.visits().len()), (2, 2));
    usher.finish().await;

    let recorder = Recorder::start(Script::AnswerAndClose(b"HTTP/1.1 200 OK\r\n\r\n".into())).await;
    dns.set(NAME, &[loopback(1)]);
    let port = recorder.address.port();
    let usher =
        start(&dns, &url(port), "health = { path = \"/healthz\", every = \"100ms\" }").await;
    eventually("a check comes", async || recorder.requests() > 0).await;
    let check = recorder.connections().remove(0);
    assert!(check.contains(&format!("Host: {NAME}:{port}\r\n")), "{check}");
    usher.finish().await;
}
