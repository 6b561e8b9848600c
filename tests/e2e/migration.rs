//! Off the old way in and onto the new one, step by step, with everybody connected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::client::{self, Answer, Raw};
use crate::support::{Echo, Setup, Usher, upgrade_request};

const PATIENCE: Duration = Duration::from_secs(60);
const RATES: &str = "[tickets]\nrate_per_user = \"100000/1m\"\nrate_per_address = \"1000000/1m\"\n";

type Socket = WebSocketStream<TcpStream>;

fn routes(lines: &str) -> String {
    format!("[[route]]\npath = \"/ws\"\nupstream = \"chat\"\n{lines}\n")
}

async fn config(usher: &Usher, query: &str, token: Option<&str>) -> (u16, Value) {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET /websocket/config{query} HTTP/1.1\r\nHost: chat.example.com\r\n{authorization}Connection: close\r\n\r\n");
    let answer = client::http(usher.plain, request.as_bytes()).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_the_way_in_at_its_own_host_and_never_that_of_tests() {
    let echo = Echo::start().await;
    let lines = |host: &str, auth: &str| routes(&format!("hosts = [\"{host}\"]\nauth = {auth}\norigins = [\"https://app.example.com\"]"));
    let all = [
        lines("a.example.com", "[\"bypass\", \"ticket\", \"header\"]"),
        lines("*.other.example.com", "[\"cookie\"]"),
        "[bypass]\nsecret_file = \"bypass\"\n".to_owned(),
    ];
    let usher = Setup::new(echo.url()).routes(&all.concat()).file("bypass", "b".repeat(40)).argument("--allow-bypass").start().await;
    for (host, method, methods) in [
        ("a.example.com", "ticket", json!(["ticket", "header"])),
        ("b.other.example.com:8443", "cookie", json!(["cookie"])),
        ("api.example.com", "ticket", json!(["ticket", "header"])),
    ] {
        let request = format!("GET /websocket/config?route=/ws HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let told: Value = serde_json::from_str(&client::http(usher.plain, request.as_bytes()).await.body).unwrap();
        assert_eq!((&told["method"], &told["methods"]), (&json!(method), &methods), "{host} {told}");
    }
    usher.finish().await;
}

/// As `Usher::issue_ticket`, but so many are not all looked for in the logs.
async fn ticket(usher: &Usher, token: &str) -> String {
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: chat.example.com\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = client::http(usher.plain, request.as_bytes()).await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    body["ticket_id"].as_str().unwrap_or_else(|| panic!("a valid client got no ticket: {body}")).to_owned()
}

async fn connect(usher: &Usher, target: &str, token: Option<&str>) -> Result<Socket, String> {
    let mut request = format!("ws://{}{target}", usher.plain).into_client_request().unwrap();
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let stream = TcpStream::connect(usher.plain).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket).map_err(|error| error.to_string())
}

async fn is_alive(socket: &mut Socket) {
    socket.send(Message::text("here")).await.expect("the session was dropped");
    let heard =
        timeout(PATIENCE, socket.next()).await.expect("silence").expect("the session was dropped").expect("the session was dropped");
    assert_eq!(heard, Message::text("here"));
}

async fn upgrade(usher: &Usher, target: &str, headers: &str) -> Answer {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(target, headers)).await;
    Answer::parse(raw.read_head().await.as_bytes())
}

/// The value of a series, 0 where it is not there.
fn value(metrics: &str, series: &str) -> u64 {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map_or(0, |value| value.parse().unwrap())
}

async fn eventually(usher: &Usher, series: &str, wanted: u64) {
    let wait = async {
        while value(&usher.metrics().await, series) != wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(Duration::from_secs(15), wait).await.is_err() {
        panic!("{series} is not {wanted}:\n{}", usher.metrics().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_method_works_is_marked_and_told_to_the_operator() {
    let echo = Echo::start().await;
    let lines = "auth = [\"ticket\", \"header\"]\nlegacy = [\"header\"]\ndeprecated = \"2026-11-01\"\nsunset = \"2027-03-01\"";
    let usher = Setup::new(echo.url()).routes(&routes(lines)).start().await;
    let token = usher.token("ada");
    let answer = upgrade(&usher, "/ws", &format!("Authorization: Bearer {token}\r\n")).await;
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!((answer.header("deprecation"), answer.header("sunset")), (Some("@1793491200"), Some("mon, 01 mar 2027 00:00:00 gmt")));
    let ticket = usher.issue_ticket(&token).await;
    let answer = upgrade(&usher, &format!("/ws?ticket={ticket}"), "").await;
    assert!(answer.status == 101 && !answer.head.contains("deprecation"), "{}", answer.head);

    let status: Value = serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    let legacy = &status["legacy"][0];
    assert_eq!((&legacy["route"], &legacy["method"], &legacy["uses"]), (&json!("/ws"), &json!("header"), &json!(1)));
    assert_eq!(legacy["recent_users"], json!(["ada"]));
    assert_eq!(value(&usher.metrics().await, "usher_legacy_upgrades_total{route=\"/ws\",method=\"header\"}"), 1);
    let line = usher.logged(&["\"event\":\"legacy_method\""]).await;
    assert!(line.contains("2026-11-01") && line.contains("2027-03-01"), "{line}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_enforced_refuses_the_legacy_way_and_no_other() {
    let echo = Echo::start().await;
    let lines = "auth = [\"ticket\", \"message\", \"header\"]\nlegacy = [\"header\"]\ndeprecated = \"2026-11-01\"\n[route.rollout]\nticket = 50\nenforce = true";
    let usher = Setup::new(echo.url()).routes(&routes(lines)).start().await;
    let mut told = BTreeMap::new();
    for user in 0..40 {
        let token = usher.token(&format!("user {user}"));
        let (status, answer) = config(&usher, "?route=%2Fws", Some(&token)).await;
        assert_eq!(status, 200, "{answer}");
        let method = answer["method"].as_str().unwrap().to_owned();
        let by_header = upgrade(&usher, "/ws", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(by_header.status, if method == "ticket" { 403 } else { 101 }, "{}", by_header.head);
        let ticket = usher.issue_ticket(&token).await;
        connect(&usher, &format!("/ws?ticket={ticket}"), None).await.unwrap();
        *told.entry(method).or_insert(0) += 1;
    }
    assert!(told.len() == 2 && told.values().all(|count| *count > 8), "{told:?}");
    let mut raw = Raw::connect(usher.plain).await;
    let refused = (0..40).map(|user| usher.token(&format!("user {user}")));
    let mut code = None;
    for token in refused {
        raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
        let head = raw.read_head().await;
        if head.contains(" 403 ") {
            assert!(head.to_ascii_lowercase().contains("deprecation: @"), "{head}");
            let body: Value = serde_json::from_slice(&raw.read_to_close().await).unwrap();
            code = Some((body["code"].clone(), body["message"].clone()));
            break;
        }
    }
    drop(raw);
    assert_eq!(code, Some((json!("LEGACY_METHOD"), json!("this client is to log in by ticket now"))));
    assert_eq!(config(&usher, "?route=/ws", None).await.0, 401, "who is in a share by name has to say who it is");
    assert_eq!(config(&usher, "?route=/other", None).await.0, 400);
    assert_eq!(config(&usher, "?route=/ws", Some("nonsense")).await.0, 401);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_counts_and_never_blocks() {
    let echo = Echo::start().await;
    let open = "[[route]]\npath = \"/open\"\nupstream = \"chat\"\nauth = []\nshadow = [\"header\"]\n";
    let usher = Setup::new(echo.url()).routes(&(routes("auth = [\"header\"]\nshadow = [\"ticket\"]") + open)).start().await;
    let (ada, bob) = (usher.token("ada"), usher.token("bob"));
    let (good, theirs) = (usher.issue_ticket(&ada).await, usher.issue_ticket(&bob).await);
    usher.keep_secret("wrong-ticket");
    for target in [format!("/ws?ticket={good}"), format!("/ws?ticket={theirs}"), "/ws?a=1&ticket=wrong-ticket".to_owned(), "/ws".to_owned()]
    {
        connect(&usher, &target, Some(&ada)).await.unwrap();
    }
    let ticket = usher.issue_ticket(&ada).await;
    assert!(connect(&usher, &format!("/ws?ticket={ticket}"), Some("nonsense")).await.is_err(), "a shadow lets nobody in");
    let verdict = |verdict: &str| format!("usher_shadow_verdicts_total{{route=\"/ws\",method=\"ticket\",verdict=\"{verdict}\"}}");
    let mismatch = |kind: &str| format!("usher_shadow_mismatches_total{{route=\"/ws\",method=\"ticket\",mismatch=\"{kind}\"}}");
    for (series, wanted) in [
        (verdict("accepted"), 3),
        (verdict("invalid_ticket"), 1),
        (verdict("absent"), 1),
        (mismatch("would_refuse"), 1),
        (mismatch("would_accept"), 1),
        (mismatch("other_user"), 1),
    ] {
        eventually(&usher, &series, wanted).await;
    }
    let targets: Vec<_> = echo.visits().iter().map(|visit| visit.target.clone()).collect();
    assert_eq!(targets, ["/ws", "/ws", "/ws?a=1", "/ws"], "a ticket goes no further");
    // On a public route the credential is somebody else's to check.
    connect(&usher, "/open", Some(&ada)).await.unwrap();
    eventually(&usher, "usher_shadow_verdicts_total{route=\"/open\",method=\"header\",verdict=\"accepted\"}", 1).await;
    assert!(echo.visits().last().unwrap().headers.iter().any(|(name, _)| name == "authorization"));
    assert!(connect(&usher, &format!("/ws?ticket={good}"), None).await.is_err());
    usher.finish().await;
}

const CLIENTS: u64 = 200;
/// Applications that were not updated yet and know the header alone.
const OLD: u64 = 20;

struct Walk {
    usher: Usher,
    /// How often each client has come in anew.
    rounds: Vec<AtomicU64>,
    /// Since when updated applications send a ticket beside their header, and ask which way they are to use.
    sends_ticket: AtomicBool,
    asks: AtomicBool,
    all_updated: AtomicBool,
    stop: AtomicBool,
}

impl Walk {
    /// One session from the first step to the last, and a new one again and again.
    async fn live(self: Arc<Self>, number: u64) {
        let token = self.usher.token(&format!("user {number}"));
        let mut kept = connect(&self.usher, "/ws", Some(&token)).await.expect("a valid client was refused");
        while !self.stop.load(Ordering::Relaxed) {
            let is_old = number < OLD && !self.all_updated.load(Ordering::Relaxed);
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
            let mut socket = connect(&self.usher, &target, header).await.unwrap_or_else(|why| panic!("a valid client was refused: {why}"));
            is_alive(&mut socket).await;
            let _ = socket.close(None).await;
            is_alive(&mut kept).await;
            self.rounds[usize::try_from(number).unwrap()].fetch_add(1, Ordering::Relaxed);
        }
        is_alive(&mut kept).await;
    }

    /// Another configuration, and then everybody comes in anew twice. Gives back what the figures grew by.
    async fn step(&self, name: &str, lines: &str) -> BTreeMap<&'static str, u64> {
        let path = self.usher.folder().join("usher.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("auth = ").unwrap();
        let (_, after) = rest.split_once("# end of the route").unwrap();
        std::fs::write(&path, format!("{before}{lines}\n# end of the route{after}")).unwrap();
        let request = "POST /reload HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n";
        let answer = client::http(self.usher.admin, request.as_bytes()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        // What had begun by the old one is over after two rounds.
        self.everybody(2).await;
        let before = self.figures().await;
        self.everybody(1).await;
        let after = self.figures().await;
        let grown: BTreeMap<_, _> = after.into_iter().map(|(name, value)| (name, value - before[name])).collect();
        if let Ok(path) = std::env::var("USHER_WALK_TABLE") {
            use std::io::Write as _;
            let cells: Vec<_> = grown.values().map(u64::to_string).collect();
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            writeln!(file, "| {name} | {} |", cells.join(" | ")).unwrap();
        }
        assert_eq!((grown["refused"], grown["sessions dropped"]), (0, 0), "{name}: {grown:?}");
        grown
    }

    async fn everybody(&self, times: u64) {
        let goals: Vec<_> = self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed) + times).collect();
        let wait = async {
            while self.rounds.iter().zip(&goals).any(|(rounds, goal)| rounds.load(Ordering::Relaxed) < *goal) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("somebody does not come in");
    }

    async fn figures(&self) -> BTreeMap<&'static str, u64> {
        let metrics = self.usher.metrics().await;
        let sum = |prefix: &str, wanted: &dyn Fn(&str) -> bool| {
            let lines = metrics.lines().filter(|line| line.starts_with(prefix) && wanted(line));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum::<u64>()
        };
        let upgrades = "usher_upgrades_total{route=\"/ws\"";
        let by = |method: &str| sum(upgrades, &|line| line.contains(&format!("method=\"{method}\"")) && line.contains("\"accepted\""));
        let standing = |name: &str| value(&metrics, &format!("usher_rollout_upgrades_total{{route=\"/ws\",standing=\"{name}\"}}"));
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
                sum("usher_session_closes_total", &|line| !line.contains("client_closed") && !line.contains("client_gone")),
            ),
            ("shadow accepted", sum("usher_shadow_verdicts_total", &|line| line.contains("\"accepted\""))),
            ("shadow absent", sum("usher_shadow_verdicts_total", &|line| line.contains("\"absent\""))),
        ])
    }
}

/// header alone -> shadow -> both -> 10 % -> 50 % -> back to 10 % -> 50 % -> 100 % -> enforced -> gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_clients_walk_from_the_header_to_tickets_and_none_is_refused_or_dropped() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(&routes("auth = [\"header\"]\n# end of the route")).extra(RATES).start().await;
    let walk = Arc::new(Walk {
        usher,
        rounds: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
        sends_ticket: AtomicBool::new(false),
        asks: AtomicBool::new(false),
        all_updated: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(Arc::clone(&walk).live(number))).collect();
    walk.everybody(2).await;

    let figures = walk.step("header alone", "auth = [\"header\"]").await;
    assert_eq!(figures["by ticket"], 0);

    walk.sends_ticket.store(true, Ordering::Relaxed);
    let figures = walk.step("shadow", "auth = [\"header\"]\nshadow = [\"ticket\"]").await;
    assert!(figures["shadow accepted"] > 0 && figures["shadow absent"] > 0 && figures["mismatches"] == 0, "{figures:?}");
    walk.sends_ticket.store(false, Ordering::Relaxed);
    walk.everybody(2).await;

    walk.asks.store(true, Ordering::Relaxed);
    let both = "auth = [\"ticket\", \"header\"]\nlegacy = [\"header\"]\ndeprecated = \"2026-11-01\"";
    let share = |rollout: &str| format!("{both}\nrollout = {{ {rollout} }}");
    let figures = walk.step("both, 0 %", &share("ticket = 0")).await;
    assert!(figures["by ticket"] == 0 && figures["outside"] > 0, "{figures:?}");

    let mut last = 0;
    for percent in [10, 50, 10, 50, 100] {
        if percent == 100 {
            walk.all_updated.store(true, Ordering::Relaxed);
        }
        let figures = walk.step(&format!("{percent} %"), &share(&format!("ticket = {percent}"))).await;
        let all = figures["followed"] + figures["lagging"] + figures["outside"];
        let share = (figures["followed"] + figures["lagging"]) * 100 / all;
        assert!(share.abs_diff(percent) <= 12, "{percent} %: {share} of {all}: {figures:?}");
        assert_eq!(figures["lagging"] == 0, percent == 100, "{percent} %: {figures:?}");
        last = figures["by header"];
    }
    assert_eq!(last, 0, "nobody uses the header, so it can be refused");
    walk.step("100 %, enforced", &share("ticket = 100, enforce = true")).await;
    let late = upgrade(&walk.usher, "/ws", &format!("Authorization: Bearer {}\r\n", walk.usher.token("late"))).await;
    assert_eq!(late.status, 403);
    let figures = walk.step("header gone", "auth = [\"ticket\"]").await;
    assert_eq!(figures["by header"], 0);

    walk.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    Arc::into_inner(walk).unwrap().usher.finish().await;
}
