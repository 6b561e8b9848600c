//! One process after another takes over under load: new connections, tickets, plain HTTP, kept
//! connections and live sessions. No connection is reset, no client refused, no good ticket lost.
//!
//! `make test` replaces the process 3 times, and `make soak` 100 times. `--nocapture` prints the
//! table.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::asked_for;
use crate::support::{Backend, Echo, Setup, Usher, eventually, token};

const SHORT: u64 = 3;
const LONG: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "header"]
    [[route]]
    path = "/public/*"
    upstream = "files"
    auth = []
"#;
const NO_RATES: &str =
    "[tickets]\nrate_per_user = \"100000/1s\"\nrate_per_address = \"100000/1s\"\n";

struct Load {
    plain: SocketAddr,
    stop: AtomicBool,
    counts: [AtomicU64; Kind::ALL.len()],
    /// Each failure, in words.
    failures: Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Kept,
    Ticket,
    KeptTicket,
    Upgrade,
    Echo,
    Farewell,
}

impl Kind {
    const ALL: [(Self, &str); 7] = [
        (Self::Plain, "plain requests, each on a new connection"),
        (Self::Kept, "plain requests on kept connections"),
        (Self::Ticket, "tickets issued and redeemed on new connections"),
        (Self::KeptTicket, "tickets issued or redeemed on a kept connection"),
        (Self::Upgrade, "upgrades with a token"),
        (Self::Echo, "messages of live sessions, each with its echo"),
        (Self::Farewell, "live sessions closed with 1001"),
    ];
}

fn token_of(user: &str) -> String {
    token::mint(user, serde_json::json!({}))
}

/// A client's connection, which may be kept.
struct Kept(TcpStream);

/// The status and body of an answer, and whether the connection is kept.
struct Answer {
    status: u16,
    body: String,
    is_kept: bool,
}

impl Kept {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        TcpStream::connect(address).await.map(Self)
    }

    async fn ask(&mut self, request: &str) -> io::Result<Answer> {
        self.0.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        let head_ends = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more(&mut bytes).await?;
        };
        let head = String::from_utf8_lossy(&bytes[..head_ends]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let field = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        let length: usize =
            field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        while bytes.len() < head_ends + length {
            self.more(&mut bytes).await?;
        }
        let body = String::from_utf8_lossy(&bytes[head_ends..]).into_owned();
        Ok(Answer { status, body, is_kept: field("connection:").as_deref() != Some("close") })
    }

    async fn more(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        match self.0.read_buf(bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn ticket_in(answer: &Answer) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    Some(json["ticket_id"].as_str()?.to_owned())
}

fn ask_for_ticket(user: &str, connection: &str) -> String {
    format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 0\r\nConnection: {connection}\r\n\r\n",
        token_of(user)
    )
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn count(&self, kind: Kind) {
        self.counts[kind as usize].fetch_add(1, Ordering::SeqCst);
    }

    fn fail(&self, what: impl Into<String>) {
        self.failures.lock().unwrap().push(what.into());
    }

    fn judge(&self, kind: Kind, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.count(kind),
            Err(why) => self.fail(format!("{}: {why}", Kind::ALL[kind as usize].1)),
        }
    }

    async fn plain(&self) {
        while self.goes_on() {
            let request = "GET /public/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let asked = async { Kept::open(self.plain).await?.ask(request).await };
            self.judge(Kind::Plain, is(200, asked.await));
            // The pause sets the pace of the load, here and below.
            sleep(Duration::from_millis(7)).await;
        }
    }

    /// Sends requests on one connection until the server says that it closes it.
    async fn kept(&self) {
        while self.goes_on() {
            let Ok(mut kept) = Kept::open(self.plain).await else {
                self.fail("a kept connection cannot be opened");
                continue;
            };
            while self.goes_on() {
                let answer = kept.ask("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
                let is_kept = answer.as_ref().is_ok_and(|answer| answer.is_kept);
                self.judge(Kind::Kept, is(200, answer));
                if !is_kept {
                    break;
                }
                sleep(Duration::from_millis(11)).await;
            }
        }
    }

    /// Fetches a ticket, waits, and redeems it. The process may be replaced meanwhile.
    async fn ticket(&self, number: u64) {
        for round in 0.. {
            if !self.goes_on() {
                return;
            }
            let request = ask_for_ticket(&format!("guest-{number}-{round}"), "close");
            let asked = async { Kept::open(self.plain).await?.ask(&request).await };
            let outcome = match asked.await {
                Ok(answer) => match ticket_in(&answer) {
                    Some(ticket) => {
                        sleep(Duration::from_millis(number * 37 % 400)).await;
                        let target = format!("/ws?ticket={ticket}");
                        self.open(&target, None).await.map(drop)
                    }
                    None => Err(format!("{} {}", answer.status, answer.body)),
                },
                Err(error) => Err(error.to_string()),
            };
            self.judge(Kind::Ticket, outcome);
        }
    }

    /// Keeps a connection over a replacement: fetches one ticket over it and redeems another one.
    async fn kept_ticket(&self, number: u64) {
        for round in 0.. {
            if !self.goes_on() {
                return;
            }
            let outcome = self.kept_round(&format!("kept-{number}-{round}"), number).await;
            self.judge(Kind::KeptTicket, outcome);
        }
    }

    async fn kept_round(&self, user: &str, number: u64) -> Result<(), String> {
        let said = |error: io::Error| error.to_string();
        let mut one = Kept::open(self.plain).await.map_err(said)?;
        let mut other = Kept::open(self.plain).await.map_err(said)?;
        let public = "GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n";
        for kept in [&mut one, &mut other] {
            if !kept.ask(public).await.map_err(said)?.is_kept {
                return Ok(());
            }
        }
        sleep(Duration::from_millis(number * 53 % 300)).await;
        let answer = one.ask(&ask_for_ticket(user, "close")).await.map_err(said)?;
        let ticket =
            ticket_in(&answer).ok_or_else(|| format!("{} {}", answer.status, answer.body))?;
        let request = format!("ws://{}/ws?ticket={ticket}", self.plain);
        let mut socket = websocket(request, None, other.0).await?;
        let _ = socket.close(None).await;
        Ok(())
    }

    async fn open(
        &self,
        target: &str,
        token: Option<&str>,
    ) -> Result<WebSocketStream<TcpStream>, String> {
        let stream = TcpStream::connect(self.plain).await.map_err(|error| error.to_string())?;
        websocket(format!("ws://{}{target}", self.plain), token, stream).await
    }

    /// Sends messages and reads their echoes until the server closes with 1001.
    async fn live(&self, number: u64) {
        while self.goes_on() {
            let mut socket = match self.open("/ws", Some(&token_of(&format!("m-{number}")))).await {
                Ok(socket) => socket,
                Err(why) => {
                    self.fail(format!("upgrade with a token: {why}"));
                    continue;
                }
            };
            self.count(Kind::Upgrade);
            if let Err(why) = self.talk(&mut socket).await {
                self.fail(format!("live session: {why}"));
            }
        }
    }

    async fn talk(&self, socket: &mut WebSocketStream<TcpStream>) -> Result<(), String> {
        while self.goes_on() {
            if let Err(error) = socket.send(Message::text("hello")).await
                && !is_closing(&error)
            {
                return Err(error.to_string());
            }
            match timeout(PATIENCE, socket.next()).await.map_err(|_| "silence")? {
                Some(Ok(Message::Text(_))) => self.count(Kind::Echo),
                Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1001 => {
                    self.count(Kind::Farewell);
                    while let Some(Ok(_)) = socket.next().await {}
                    return Ok(());
                }
                other => return Err(format!("{other:?}")),
            }
            sleep(Duration::from_millis(13)).await;
        }
        let _ = socket.close(None).await;
        Ok(())
    }
}

fn is_closing(error: &tungstenite::Error) -> bool {
    matches!(
        error,
        tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(_)
    )
}

fn is(status: u16, answer: io::Result<Answer>) -> Result<(), String> {
    match answer {
        Ok(answer) if answer.status == status => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
        Err(error) => Err(error.to_string()),
    }
}

async fn websocket(
    url: String,
    token: Option<&str>,
    stream: TcpStream,
) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request = url.into_client_request().unwrap();
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    crate::support::client::websocket(request, stream).await.map_err(|error| match error {
        tungstenite::Error::Http(answer) => {
            let body = answer.body().as_deref().unwrap_or_default();
            format!("{} {}", answer.status(), String::from_utf8_lossy(body))
        }
        error => error.to_string(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_loses_no_connection_and_no_ticket() {
    let (echo, backend) = (Echo::start().await, Backend::start().await);
    let files = format!("[[upstream]]\nname = \"files\"\nservers = [\"{}\"]\n", backend.url());
    let mut usher: Usher = Setup::new(echo.url())
        .node("edge-1\"\ntakeover = \"takeover.sock")
        .routes(ROUTES)
        .extra(NO_RATES)
        .extra(&files)
        // Longer than a client on a busy machine rests on a kept connection.
        .drain("5s")
        .start()
        .await;
    usher.pin_addresses();
    let load = Arc::new(Load {
        plain: usher.plain,
        stop: AtomicBool::new(false),
        counts: Default::default(),
        failures: Mutex::default(),
    });
    let mut clients = Vec::new();
    for number in 0..6 {
        let load = |_| Arc::clone(&load);
        let [a, b, c, d, e] = [(); 5].map(load);
        clients.push(tokio::spawn(async move { a.plain().await }));
        clients.push(tokio::spawn(async move { b.kept().await }));
        clients.push(tokio::spawn(async move { c.ticket(number).await }));
        clients.push(tokio::spawn(async move { d.kept_ticket(number).await }));
        clients.push(tokio::spawn(async move { e.live(number).await }));
    }
    let runs = if asked_for().is_some() { LONG } else { SHORT };
    for run in 0..runs {
        let farewells = load.counts[Kind::Farewell as usize].load(Ordering::SeqCst);
        let old = usher.replace().await;
        assert!(old.exit().await.success(), "run {run}\n{}", usher.log());
        // Each live session of the old process has ended, and its client comes back.
        eventually("the sessions of the old process close", async || {
            load.counts[Kind::Farewell as usize].load(Ordering::SeqCst) > farewells
        })
        .await;
    }
    load.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let failures = load.failures.lock().unwrap().clone();
    println!("| {runs} replacements | |\n|---|--:|");
    for (kind, name) in Kind::ALL {
        println!("| {name} | {} |", load.counts[kind as usize].load(Ordering::SeqCst));
    }
    println!("| resets, refusals, lost tickets | {} |", failures.len());
    let first = &failures[..failures.len().min(10)];
    assert!(failures.is_empty(), "{} faults: {first:#?}\n{}", failures.len(), usher.log());
    for (count, (_, name)) in load.counts.iter().zip(Kind::ALL) {
        assert!(count.load(Ordering::SeqCst) > 0, "{name}");
    }
    usher.finish().await;
}
