//! Servers that fail beside one that works: what a client sees, how long it waits, and how the sick
//! server leaves and returns.
//!
//! With `USHER_SICK_TABLE=/tmp/sick` each drill adds a row of `docs/sick-servers.md` to that file,
//! with the time limits of the default configuration.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use usher::base::clock::Now;
use usher::ws::accept::accept_for;

use crate::reload::usher_reload;
use crate::support::client::{self, Answer};
use crate::support::redis::free_port;
use crate::support::usher::is_alive;
use crate::support::{
    Backend, Echo, Nginx, Raw, Recorder, Script, Setup, Usher, eventually, upgrade_request,
};

/// The limits of the tests: a healthy server must not be late on a busy machine, and a trial must
/// not disturb the counts.
const LIMITS: &str = "dial_timeout = \"2s\"\nupgrade_timeout = \"2s\"\neject_for = \"1h\"\n\
                      slow_start = \"0s\"";

/// The series of a metric, up to the value of its last label.
const EJECTED_BY: &str = "usher_upstream_ejections_total{upstream=\"chat\",fault=";

/// The table of the page has the times of the default limits.
fn limits() -> &'static str {
    if table().is_some() { "eject_for = \"1h\"" } else { LIMITS }
}

fn table() -> Option<String> {
    std::env::var("USHER_SICK_TABLE").ok()
}

async fn start(servers: &[String], lines: &str) -> Usher {
    Setup::new("").servers(servers).upstream_lines(&format!("{}\n{lines}", limits())).start().await
}

/// Opens a session on a connection that closes at once. Returns the answer and the wait for it.
async fn attempt(usher: &Usher, user: &str) -> (Answer, Duration) {
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token(user));
    let begun = Now::read().mono;
    let answer = client::attempt(usher.plain, "/ws", &bearer).await;
    (answer, begun.elapsed())
}

/// Returns the number of tries that failed. Each is counted before its client gets an answer.
async fn failed_tries(usher: &Usher) -> u64 {
    value(usher, "usher_upstream_dial_failures_total{upstream=\"chat\"}").await
}

async fn value(usher: &Usher, series: &str) -> u64 {
    let metrics = usher.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("{series} in\n{metrics}")).trim().parse().unwrap()
}

/// The answers to the clients of one drill, and their waits.
struct Drill {
    statuses: Vec<u16>,
    waits: Vec<Duration>,
    later: Vec<u16>,
    later_waits: Vec<Duration>,
}

/// Sends clients, each another user, until the sick server is ejected, and four more after that.
async fn drill(usher: &Usher, fault: &str) -> Drill {
    let ejected =
        format!("usher_upstream_ejections_total{{upstream=\"chat\",fault=\"{fault}\"}} 1");
    let (mut statuses, mut waits) = (Vec::new(), Vec::new());
    for number in 0.. {
        let (answer, wait) = attempt(usher, &format!("user {number}")).await;
        statuses.push(answer.status);
        waits.push(wait);
        if usher.metrics().await.lines().any(|line| line == ejected) {
            break;
        }
        assert!(number < 30, "not ejected:\n{}", usher.log());
    }
    usher.logged(&["server_ejected", &format!("\"fault\":\"{fault}\"")]).await;
    let before = failed_tries(usher).await;
    let (mut later, mut later_waits) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let (answer, wait) = attempt(usher, &format!("later {number}")).await;
        later.push(answer.status);
        later_waits.push(wait);
    }
    assert_eq!(failed_tries(usher).await, before, "a client waited for the ejected server");
    Drill { statuses, waits, later, later_waits }
}

impl Drill {
    /// Returns the number of clients before the ejection, which all must have got in.
    fn all_in(&self) -> usize {
        assert!(self.statuses.iter().all(|status| *status == 101), "{:?}", self.statuses);
        assert_eq!(self.later, [101; 4]);
        self.statuses.len()
    }

    fn note(&self, server: &str) {
        let seconds =
            |wait: Option<&Duration>| format!("{:.2} s", wait.map_or(0.0, Duration::as_secs_f64));
        note(&format!(
            "| {server} | {:?} | {} | {} | {:?} | {} |",
            self.statuses,
            seconds(self.waits.iter().max()),
            self.waits.len(),
            self.later,
            seconds(self.later_waits.iter().max())
        ));
    }
}

fn note(row: &str) {
    if let Some(path) = table() {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.unwrap(), "{row}").unwrap();
    }
}

/// Returns the URL of a server that does not exist.
fn dead() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_costs_its_clients_nothing_and_is_ejected() {
    let echo = Echo::start().await;
    let usher = start(&[dead(), echo.url()], "").await;
    let drill = drill(&usher, "dial").await;
    drill.note("refused");
    // Every other turn begins with the sick server.
    assert!(drill.all_in() <= 6);
    assert_eq!(failed_tries(&usher).await, 3);
    usher.finish().await;
}

/// A server whose queue of connections is full: the kernel drops every further one.
struct Blackhole {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Blackhole {
    fn start() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // The queue holds one or two. Three connections that wait prove that it is full.
        let mut waiting = 0;
        while waiting < 3 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if socket.connect_timeout(&address, Duration::from_millis(300)).is_err() {
                waiting += 1;
            } else {
                waiting = 0;
            }
            queued.push(socket);
            assert!(queued.len() < 64, "the queue does not fill");
        }
        Self { listener, _queued: queued }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap().as_socket().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blackholed_server_costs_a_client_dial_timeout_and_is_ejected() {
    let (hole, echo) = (Blackhole::start(), Echo::start().await);
    let usher = start(&[hole.url(), echo.url()], "").await;
    let drill = drill(&usher, "dial").await;
    drill.note("blackholed");
    assert!(drill.all_in() <= 6);
    assert_eq!(failed_tries(&usher).await, 3);
    usher.logged(&["dial_failed", "no connection within dial_timeout"]).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_costs_three_users_upgrade_timeout_and_is_ejected() {
    let (behind, echo) = (Echo::start().await, Echo::start().await);
    let nginx = Nginx::start(behind.address).await;
    let usher = start(&[nginx.url(), echo.url()], "").await;
    nginx.hang();
    // One user is not enough, however often it comes.
    for _ in 0..4 {
        assert_eq!(attempt(&usher, "ada").await.0.status, 101);
    }
    let ejected = "usher_upstream_ejections_total{upstream=\"chat\",fault=\"timeout\"} 0";
    usher.until_metric(ejected).await;
    let tries = failed_tries(&usher).await;
    let drill = drill(&usher, "timeout").await;
    drill.note("silent after accept (SIGSTOP)");
    assert!(drill.all_in() <= 6);
    assert!(tries >= 1 && failed_tries(&usher).await <= tries + 3);
    usher.finish().await;
}

/// A server that answers an upgrade correctly, but after a while. It counts the connections that
/// were closed when the late answer was sent.
struct Slow {
    url: String,
    closed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Slow {
    async fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let closed = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&closed);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
                    while !head.ends_with(b"\r\n\r\n") {
                        let read = socket.read(&mut buffer).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        head.extend_from_slice(&buffer[..read]);
                    }
                    // The server is slow: this time must pass.
                    tokio::time::sleep(delay).await;
                    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                    assert!(head.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq=="));
                    let accept = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==");
                    let answer = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                    while let Ok(1..) = socket.read(&mut buffer).await {}
                    count.fetch_add(1, Ordering::AcqRel);
                });
            }
        });
        Self { url, closed, task }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_late_is_ejected_and_its_late_101_is_closed() {
    let (slow, echo) = (Slow::start(Duration::from_secs(4)).await, Echo::start().await);
    let usher = start(&[slow.url.clone(), echo.url()], "").await;
    let drill = drill(&usher, "timeout").await;
    drill.note("slow (101 after 4 s)");
    assert!(drill.all_in() <= 6);
    assert_eq!(failed_tries(&usher).await, 3);
    eventually("each late 101 is closed", async || slow.closed.load(Ordering::Acquire) == 3).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_slow_within_its_time_is_not_ejected() {
    let (slow, echo) = (Slow::start(Duration::from_millis(300)).await, Echo::start().await);
    let servers = [slow.url.clone(), echo.url()];
    let lines = "upgrade_timeout = \"20s\"\nreach_timeout = \"30s\"";
    let usher = Setup::new("").servers(&servers).upstream_lines(lines).start().await;
    for number in 0..8 {
        assert_eq!(attempt(&usher, &format!("user {number}")).await.0.status, 101);
    }
    assert_eq!(failed_tries(&usher).await, 0);
    usher.until_metric("usher_upstream_servers{upstream=\"chat\",state=\"serving\"} 2").await;
    usher.finish().await;
}

/// A server that answers every second upgrade with 503, and the others with a correct 101.
async fn half_bad() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut socket, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = socket.read(&mut buffer).await;
                let accept = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==");
                let answer = if number % 2 == 0 {
                    "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy".to_owned()
                } else {
                    format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                    )
                };
                let _ = socket.write_all(answer.as_bytes()).await;
                while let Ok(1..) = socket.read(&mut buffer).await {}
            });
        }
    });
    (url, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_half_of_its_answers_bad_costs_its_clients_nothing_and_is_ejected() {
    let ((sick, task), echo) = (half_bad().await, Echo::start().await);
    let usher = start(&[sick, echo.url()], "balance = \"round-robin\"").await;
    let drill = drill(&usher, "answer").await;
    drill.note("half of answers 503");
    assert!(drill.all_in() <= 10, "{:?}", drill.statuses);
    assert_eq!(failed_tries(&usher).await, 3);
    usher.finish().await;
    task.abort();
}

/// An answer of a server that is too busy, with a header of its own.
const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy";

#[tokio::test(flavor = "multi_thread")]
async fn if_all_servers_are_busy_a_client_asks_two_and_gets_the_last_answer() {
    let busy = async || Recorder::start(Script::AnswerAndClose(BUSY.to_vec())).await;
    let servers = [busy().await, busy().await, busy().await];
    let lines = "balance = \"round-robin\"\neject_after = 20\nmax_ejected_percent = 0";
    let usher = start(&servers.each_ref().map(Recorder::url), lines).await;
    for number in 0..6 {
        let (answer, _) = attempt(&usher, &format!("user {number}")).await;
        assert_eq!((answer.status, &*answer.body), (503, "busy"), "{}", answer.head);
        assert_eq!(answer.header("retry-after"), Some("7"), "{}", answer.head);
    }
    let asked: usize = servers.iter().map(Recorder::requests).sum();
    assert_eq!(asked, 12);
    usher.finish().await;

    // The other server gives no answer, so the client gets that of the first.
    let usher = start(&[servers[0].url(), dead()], "max_ejected_percent = 0").await;
    for number in 0..4 {
        let (answer, _) = attempt(&usher, &format!("user {number}")).await;
        assert_eq!((answer.status, &*answer.body), (503, "busy"), "{}", answer.head);
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_http_is_followed_by_the_next_server() {
    let nonsense = Recorder::start(Script::AnswerAndClose(b"220 smtp\r\n\r\n".to_vec())).await;
    let echo = Echo::start().await;
    let usher = start(&[nonsense.url(), echo.url()], "").await;
    let drill = drill(&usher, "answer").await;
    drill.note("closes, or answers nonsense");
    assert!(drill.all_in() <= 6);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_servers_away_clients_learn_it_and_half_of_the_servers_stay() {
    let usher = start(&[dead(), dead()], "").await;
    let withheld = "usher_upstream_ejections_withheld_total{upstream=\"chat\"}";
    let begun = Now::read().mono;
    for number in 0..8 {
        assert_eq!(attempt(&usher, &format!("user {number}")).await.0.status, 502);
    }
    note(&format!("| all refuse | 502 | {:.2} s |", begun.elapsed().as_secs_f64() / 8.0));
    usher.until_at_least(withheld, 1).await;
    usher.until_metric("usher_upstream_servers{upstream=\"chat\",state=\"ejected\"} 1").await;
    usher.until_metric("usher_upstream_servers{upstream=\"chat\",state=\"serving\"} 1").await;
    usher.logged(&["ejection_withheld", "\"ejected_others\":1"]).await;
    usher.finish().await;

    let (one, two) = (Recorder::start(Script::Silent).await, Recorder::start(Script::Silent).await);
    let usher = start(&[one.url(), two.url()], "").await;
    let (answer, wait) = attempt(&usher, "ada").await;
    assert_eq!(answer.status, 504);
    note(&format!("| all hang | 504 | {:.2} s |", wait.as_secs_f64()));
    assert_eq!((one.requests(), two.requests()), (1, 1));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_server_is_the_last_resort() {
    let behind = Echo::start().await;
    let nginx = Nginx::start(behind.address).await;
    let gone = dead();
    let usher = start(&[nginx.url(), gone], "balance = \"round-robin\"").await;
    nginx.hang();
    let mut users = (0..).map(|number| format!("user {number}"));
    let ejected = "usher_upstream_servers{upstream=\"chat\",state=\"ejected\"} 1";
    while !usher.metrics().await.lines().any(|line| line == ejected) {
        attempt(&usher, &users.next().unwrap()).await;
    }
    nginx.go_on();
    // Whichever server was ejected: the other one refuses, or the client comes to nginx first.
    for _ in 0..4 {
        assert_eq!(attempt(&usher, &users.next().unwrap()).await.0.status, 101);
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_ejection_only_the_client_of_each_trial_waits_until_the_server_returns() {
    let (behind, echo) = (Echo::start().await, Echo::start().await);
    let nginx = Nginx::start(behind.address).await;
    let lines = "dial_timeout = \"2s\"\nupgrade_timeout = \"2s\"\neject_for = \"500ms\"\n\
                 eject_for_at_most = \"1s\"\nslow_start = \"0s\"";
    let usher =
        Setup::new("").servers(&[nginx.url(), echo.url()]).upstream_lines(lines).start().await;
    nginx.hang();
    for number in 0.. {
        assert!(number < 30, "not ejected:\n{}", usher.log());
        assert_eq!(attempt(&usher, &format!("user {number}")).await.0.status, 101);
        if usher.log().contains("server_ejected") {
            break;
        }
    }
    let before = failed_tries(&usher).await;
    let trials = "usher_upstream_failed_trials_total{upstream=\"chat\"}";
    let failed_trials = async || value(&usher, trials).await;
    // Of eight clients that come together, at most one begins a trial.
    let mut round = 0;
    while failed_trials().await < 2 {
        round += 1;
        let burst = (0..8).map(|number| {
            let (usher, name) = (&usher, format!("burst {round} {number}"));
            async move { attempt(usher, &name).await.0.status }
        });
        assert_eq!(join_all(burst).await, [101; 8]);
    }
    let done = async || failed_tries(&usher).await == before + failed_trials().await;
    eventually("each failed try is that of a trial", done).await;
    nginx.go_on();
    let mut number = 0;
    while !usher.log().contains("server_returned") {
        number += 1;
        attempt(&usher, &format!("return {number}")).await;
    }
    usher.until_metric("usher_upstream_returns_total{upstream=\"chat\"} 1").await;
    let visits = behind.visits().len();
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(usher.connect("ada").await);
    }
    assert!(behind.visits().len() > visits, "the server that returned gets no clients");
    drop(sockets);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_eject_a_hung_server_before_a_client_comes_and_return_it() {
    let (behind, echo) = (Echo::start().await, Echo::start().await);
    let nginx = Nginx::start(behind.address).await;
    let healthy = Nginx::start(echo.address).await;
    let lines = "health = { path = \"/healthz\", every = \"100ms\", timeout = \"3s\" }\n\
                 eject_for = \"100ms\"\nslow_start = \"0s\"";
    let usher =
        Setup::new("").servers(&[nginx.url(), healthy.url()]).upstream_lines(lines).start().await;
    let passed = "usher_upstream_health_checks_total{upstream=\"chat\",outcome=\"passed\"}";
    usher.until_at_least(passed, 4).await;
    nginx.hang();
    let ejected = "usher_upstream_ejections_total{upstream=\"chat\",fault=\"check\"}";
    usher.until_at_least(ejected, 1).await;
    usher.logged(&["health_check_failed", "no answer within the timeout of the check"]).await;
    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    let sick = status["servers"].as_array().unwrap().iter();
    let sick = sick.clone().find(|server| server["server"] == nginx.url()).unwrap();
    assert_eq!((&sick["state"], &sick["fault"]), (&"ejected".into(), &"check".into()), "{sick}");
    assert_eq!((&sick["upstream"], &sick["busy"]), (&"chat".into(), &0.into()), "{sick}");
    for number in 0..4 {
        assert_eq!(attempt(&usher, &format!("user {number}")).await.0.status, 101);
    }
    assert_eq!(failed_tries(&usher).await, 0);
    nginx.go_on();
    usher.until_at_least("usher_upstream_returns_total{upstream=\"chat\"}", 1).await;
    usher.until_metric("usher_upstream_servers{upstream=\"chat\",state=\"ejected\"} 0").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sticky_user_stays_on_its_server_as_long_as_that_serves() {
    let echoes = [Echo::start().await, Echo::start().await, Echo::start().await];
    let urls = echoes.each_ref().map(Echo::url);
    let usher = start(&urls, "balance = \"sticky\"").await;
    let visits = || echoes.each_ref().map(|echo| echo.visits().len());
    let mut used = [false; 3];
    for number in 0..40 {
        let user = format!("user {number}");
        let before = visits();
        for _ in 0..2 {
            assert_eq!(attempt(&usher, &user).await.0.status, 101);
        }
        let after = visits();
        let grown: Vec<_> = (0..3).filter(|index| after[*index] != before[*index]).collect();
        assert_eq!((grown.len(), after[grown[0]] - before[grown[0]]), (1, 2), "{user}");
        used[grown[0]] = true;
    }
    assert_eq!(used, [true; 3], "one server has no users");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_takes_turns_and_ejects_too() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let usher = start(&[one.url(), two.url()], "balance = \"round-robin\"").await;
    let get = async |user: &str| {
        let request = format!(
            "GET /api/x HTTP/1.1\r\nHost: chat.example.com\r\nAuthorization: Bearer {}\r\n\
             Connection: close\r\n\r\n",
            usher.token(user)
        );
        client::http(usher.plain, request.as_bytes()).await.status
    };
    for _ in 0..8 {
        assert_eq!(get("ada").await, 200);
    }
    assert_eq!((one.heads().len(), two.heads().len()), (4, 4));
    usher.finish().await;

    let silent = Recorder::start(Script::Silent).await;
    let lines = "balance = \"round-robin\"\nanswer_timeout = \"5s\"";
    let usher = start(&[silent.url(), two.url()], lines).await;
    let get = async |user: &str| {
        let request = format!(
            "GET /api/x HTTP/1.1\r\nHost: chat.example.com\r\nAuthorization: Bearer {}\r\n\
             Connection: close\r\n\r\n",
            usher.token(user)
        );
        client::http(usher.plain, request.as_bytes()).await.status
    };
    let users: Vec<_> = (0..6).map(|number| format!("user {number}")).collect();
    let mut statuses = join_all(users.iter().map(|user| get(user))).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 504, 504, 504]);
    usher.logged(&["server_ejected", "\"fault\":\"timeout\""]).await;
    for number in 0..4 {
        assert_eq!(get(&format!("later {number}")).await, 200);
    }
    assert_eq!(silent.requests(), 3);
    usher.finish().await;
}

/// Returns false, with a loud message, if this system lets no process have its own `/etc/hosts`.
#[allow(clippy::print_stderr, reason = "a test that is skipped must be seen")]
fn can_change_hosts() -> bool {
    let script = "mount --bind /etc/hosts /etc/hosts";
    let tried = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .output();
    let can = tried.as_ref().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("SKIPPED: this system allows no mount namespace, so no name changes: {tried:?}");
    }
    can
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_gets_another_address_is_followed() {
    if !can_change_hosts() {
        return;
    }
    let old = Echo::start_at(([127, 0, 0, 2], 0).into()).await;
    let port = old.address.port();
    let new = Echo::start_at(([127, 0, 0, 3], port).into()).await;
    let hosts = |address: &str| format!("127.0.0.1 localhost\n{address} server.test\n");
    let usher = Setup::new(format!("http://server.test:{port}"))
        .upstream_lines("resolve_every = \"1s\"")
        .file("hosts", hosts("127.0.0.2"))
        .start()
        .await;
    let file = usher.folder().join("hosts");
    let mut live = usher.connect("ada").await;
    assert_eq!(old.visits().len(), 1);
    // The mount shows the same file, so it is written in place.
    std::fs::write(&file, hosts("127.0.0.3")).unwrap();
    let changed = Now::read().mono;
    eventually("a client comes to the new address", async || {
        assert_eq!(attempt(&usher, "ada").await.0.status, 101);
        !new.visits().is_empty()
    })
    .await;
    note(&format!(
        "| DNS changed | 101 | followed after {:.2} s |",
        changed.elapsed().as_secs_f64()
    ));
    usher.logged(&["addresses_changed", "127.0.0.3"]).await;
    // A live session stays.
    is_alive(&mut live).await;

    // A name that cannot be resolved any more keeps its last addresses.
    std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    let failed = "usher_upstream_resolve_failures_total{upstream=\"chat\"}";
    eventually("a lookup fails", async || {
        assert_eq!(attempt(&usher, "ada").await.0.status, 101);
        value(&usher, failed).await > 0
    })
    .await;
    usher.logged(&["resolve_failed"]).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_a_hung_server_early_do_not_hide_it() {
    let (silent, echo) = (Recorder::start(Script::Silent).await, Echo::start().await);
    let lines = "balance = \"round-robin\"\nupgrade_timeout = \"1h\"\nreach_timeout = \"4s\"\n\
                 eject_for = \"1h\"";
    let usher =
        Setup::new("").servers(&[silent.url(), echo.url()]).upstream_lines(lines).start().await;
    let leave = async |user: String, after: Duration| {
        let bearer = format!("Authorization: Bearer {}\r\n", usher.token(&user));
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &bearer)).await;
        // The client is patient for this long.
        tokio::time::sleep(after).await;
    };
    // A client that leaves at once proves nothing. Half of the turns begin with the silent server.
    for number in 0..8 {
        leave(format!("hasty {number}"), Duration::ZERO).await;
    }
    let users = (0..16).map(|number| leave(format!("user {number}"), Duration::from_secs(3)));
    join_all(users).await;
    usher.until_at_least(&format!("{EJECTED_BY}\"timeout\"}}"), 1).await;
    usher.logged(&["server_ejected", "\"fault\":\"timeout\""]).await;
    assert_eq!(value(&usher, &format!("{EJECTED_BY}\"dial\"}}")).await, 0);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_an_ejection_and_a_server_that_it_adds_starts_slowly() {
    let (gone, one, two) = (dead(), Echo::start().await, Echo::start().await);
    let lines = "eject_for = \"1h\"\nslow_start = \"1h\"";
    let usher = Setup::new("").servers(&[gone.clone(), one.url()]).upstream_lines(lines);
    let usher = usher.start().await;
    drill(&usher, "dial").await;
    let file = std::fs::read_to_string(usher.config_path()).unwrap();
    let added = format!("\"{}\", \"{}\"", one.url(), two.url());
    std::fs::write(usher.config_path(), file.replace(&format!("\"{}\"", one.url()), &added))
        .unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    let tries = failed_tries(&usher).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(usher.connect("ada").await);
    }
    assert_eq!(failed_tries(&usher).await, tries, "the ejected server was tried");
    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    let states: Vec<_> =
        status["servers"].as_array().unwrap().iter().map(|server| &server["state"]).collect();
    assert_eq!(states, ["ejected", "serving", "slow_start"]);
    // With the fewest sessions, it would get all of them.
    assert!((1..=4).contains(&two.visits().len()), "{} of 20", two.visits().len());
    drop(sockets);
    usher.finish().await;
}
