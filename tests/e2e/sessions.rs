//! The list of sessions, and the limit of sessions for each user.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::{auth, close_frame, text};
use crate::support::client::{self, Answer, Raw};
use crate::support::usher::OTHER_ISSUER;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Echo, Setup, Usher, eventually, upgrade_request};

const PATIENCE: Duration = Duration::from_secs(30);
const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    close_codes = "rfc"
    [[route]]
    path = "/pages/*"
    upstream = "chat"
    auth = ["header"]
    close_codes = "http"
    reject_mode = "close"
    [[route]]
    path = "/public/*"
    upstream = "chat"
    auth = []
"#;
async fn start(upstream: String, limits: &str) -> Usher {
    Setup::new(upstream)
        .routes(ROUTES)
        .issuer(OTHER_ISSUER)
        .extra(&format!("[limits]\n{limits}\n"))
        .start()
        .await
}

async fn open(usher: &Usher, target: &str, token: &str) -> Result<Socket, ()> {
    usher.open(target, &[("authorization", &format!("Bearer {token}"))]).await.map_err(|_| ())
}

pub async fn refused(usher: &Usher, token: &str) -> (u16, String) {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    let answer = Answer::parse(&raw.read_to_close().await);
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    (answer.status, body["code"].as_str().unwrap_or_default().to_owned())
}

pub async fn is_replaced(socket: &mut Socket, code: u16) {
    assert_eq!(close_frame(socket).await, (code, "Session replaced".to_owned()));
    while let Some(Ok(_)) = socket.next().await {}
}

async fn admin(usher: &Usher, target: &str) -> Value {
    serde_json::from_str(&client::get(usher.admin, target).await.body).unwrap()
}

/// Waits until the node has this many sessions.
async fn settles_at(usher: &Usher, count: usize) {
    let has_so_many = async || admin(usher, "/status").await["sessions"] == count;
    eventually(format!("the node has {count} sessions"), has_so_many).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_upgrades_of_one_user_exactly_as_many_as_may_stay() {
    for on_limit in ["refuse", "replace-oldest"] {
        let echo = Echo::start().await;
        let limits = format!("sessions_per_user = 5\nextra_sessions = \"{on_limit}\"");
        let setup = Setup::new(echo.url()).routes(ROUTES).extra(&format!("[limits]\n{limits}\n"));
        let usher = Arc::new(setup.start().await);
        let token = usher.token("ada");
        let racers: Vec<_> = (0..64)
            .map(|_| {
                let (usher, token) = (Arc::clone(&usher), token.clone());
                tokio::spawn(async move { open(&usher, "/ws", &token).await })
            })
            .collect();
        let mut sockets = Vec::new();
        for racer in racers {
            sockets.extend(racer.await.unwrap());
        }
        assert_eq!(sockets.len(), if on_limit == "refuse" { 5 } else { 64 });
        // Each client sends a message. A replaced client gets the close frame, and the others get
        // their own message back.
        let heard = futures_util::future::join_all(sockets.iter_mut().map(|socket| async move {
            let _ = socket.send(Message::text("here")).await;
            loop {
                match timeout(PATIENCE, socket.next()).await.expect("no message came") {
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return frame.reason.as_str().to_owned();
                    }
                    Some(Ok(Message::Text(text))) if text.as_str() == "here" => {
                        return "echo".to_owned();
                    }
                    Some(Ok(_)) => {}
                    other => return format!("{other:?}"),
                }
            }
        }))
        .await;
        let replaced = heard.iter().filter(|heard| *heard == "Session replaced").count();
        assert_eq!(
            (replaced, heard.len() - replaced),
            (sockets.len() - 5, 5),
            "{on_limit}: {heard:?}"
        );
        assert!(
            heard.iter().all(|heard| heard == "echo" || heard == "Session replaced"),
            "{heard:?}"
        );
        let metrics = usher.metrics().await;
        assert!(
            metrics.contains("usher_limits_hit_total{limit=\"sessions_per_user\"} 59"),
            "{on_limit}: {metrics}"
        );
        drop(sockets);
        let audit = Arc::into_inner(usher).unwrap().finish().await;
        let outcome = if on_limit == "refuse" {
            ("upgrade_rejected", "too_many_sessions")
        } else {
            ("session_ended", "replaced")
        };
        let told = audit.iter().filter(|line| {
            (line["event"].as_str(), line["outcome"].as_str()) == (Some(outcome.0), Some(outcome.1))
        });
        assert_eq!(told.count(), 59, "{on_limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_at_the_limit_is_refused_by_every_method_until_a_session_ends() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "sessions_per_user = 1").await;
    let (token, other) = (
        usher.token("ada"),
        usher.token_with("ada", json!({ "iss": "https://other.example.com" })),
    );
    let mut first = open(&usher, "/ws", &token).await.unwrap();
    let ticket = usher.issue_ticket(&token).await;
    let visits = echo.visits().len();
    assert_eq!(refused(&usher, &token).await, (429, "TOO_MANY_SESSIONS".to_owned()));
    assert!(usher.connect_ticket(&ticket).await.is_err());
    let mut late = usher.open("/ws", &[]).await.unwrap();
    late.send(auth(&token)).await.unwrap();
    let refusal: Value = serde_json::from_str(&text(&mut late).await).unwrap();
    assert!(refusal.to_string().contains("TOO_MANY_SESSIONS"), "{refusal}");
    assert_eq!(close_frame(&mut late).await, (1008, "Too many sessions".to_owned()));
    let mut page = open(&usher, "/pages/a", &token).await.unwrap();
    let (code, reason) = close_frame(&mut page).await;
    assert!(code == 4429 && reason.starts_with("Too many sessions ("), "{code} {reason}");
    assert_eq!(echo.visits().len(), visits, "the upstream was asked");
    // A user of the same name from another issuer and anonymous users have limits of their own.
    let mut namesake = open(&usher, "/ws", &other).await.unwrap();
    let mut strangers =
        [usher.open("/public/a", &[]).await.unwrap(), usher.open("/public/a", &[]).await.unwrap()];
    for socket in strangers.iter_mut().chain([&mut first, &mut namesake]) {
        is_alive(socket).await;
    }
    settles_at(&usher, 4).await;
    first.close(None).await.unwrap();
    while let Some(Ok(_)) = first.next().await {}
    // Her place is free when the task of the session has ended, a moment after the close handshake.
    let open_again = async || open(&usher, "/ws", &token).await.ok();
    let mut again = eventually("the place is free again", open_again).await;
    is_alive(&mut again).await;
    drop((again, namesake, strangers, late, page));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_session_is_replaced_and_told_so_on_both_sides() {
    let echo = Echo::start().await;
    let usher =
        start(echo.url(), "sessions_per_user = 2\nextra_sessions = \"replace-oldest\"").await;
    let token = usher.token("ada");
    let mut bob = usher.connect("bob").await;
    let mut first = open(&usher, "/pages/a", &token).await.unwrap();
    let mut second = open(&usher, "/ws", &token).await.unwrap();
    let mut third = open(&usher, "/ws", &token).await.unwrap();
    is_replaced(&mut first, 4409).await;
    let mut fourth = open(&usher, "/ws", &token).await.unwrap();
    is_replaced(&mut second, 1008).await;
    for socket in [&mut bob, &mut third, &mut fourth] {
        is_alive(socket).await;
    }
    let told = || {
        let closes = echo
            .messages()
            .into_iter()
            .filter_map(|message| if let Message::Close(frame) = message { frame } else { None });
        closes
            .map(|frame| (u16::from(frame.code), frame.reason.as_str().to_owned()))
            .collect::<Vec<_>>()
    };
    settles_at(&usher, 3).await;
    eventually("the upstream gets both close frames", async || told().len() >= 2).await;
    assert_eq!(told(), vec![(1008, "Session replaced".to_owned()); 2]);
    // A session that ends by itself makes room, so no other is replaced.
    third.close(None).await.unwrap();
    while let Some(Ok(_)) = third.next().await {}
    settles_at(&usher, 2).await;
    let mut fifth = open(&usher, "/ws", &token).await.unwrap();
    for socket in [&mut bob, &mut fourth, &mut fifth] {
        is_alive(socket).await;
    }
    drop((bob, fourth, fifth));
    usher.finish().await;
}

pub async fn command(name: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command
        .arg(name)
        .args(arguments)
        .env("ADMIN_TOKEN", "0123456789abcdef")
        .env("WRONG_TOKEN", "fedcba9876543210");
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null()).output().await.unwrap()
}

async fn printed(name: &str, arguments: &[&str]) -> String {
    let output = command(name, arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_sessions_and_shows_how_the_node_stands() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .file("admin-token", "0123456789abcdef\n".to_owned())
        .admin_lines("token_file = \"admin-token\"")
        .start()
        .await;
    usher.keep_secret("0123456789abcdef");
    let address = usher.admin.to_string();
    let at = ["--admin", &address, "--admin-token-env", "ADMIN_TOKEN"];
    let ada = usher.token("ada & bob");
    let sockets = [
        open(&usher, "/ws", &ada).await.unwrap(),
        open(&usher, "/pages/a", &ada).await.unwrap(),
        usher.connect("cleo").await,
        usher.open("/public/a", &[]).await.unwrap(),
    ];
    let table = printed("sessions", &at).await;
    assert!(table.starts_with("USER       ROUTE      METHOD  SINCE"), "{table}");
    assert!(
        table.contains("\n-          /public/*  -  ")
            && table.ends_with("4 of 4 sessions listed\n"),
        "{table}"
    );
    for (arguments, users) in [
        (&["--user", "ada & bob"][..], vec!["ada & bob", "ada & bob"]),
        (&["--user", "ada & bob", "--route", "/pages/*"], vec!["ada & bob"]),
        (&["--route", "/ws", "--limit", "1"], vec!["ada & bob"]),
        (&["--user", "nobody"], vec![]),
    ] {
        let answer: Value = serde_json::from_str(
            &printed("sessions", &[arguments, &["--json"], &at].concat()).await,
        )
        .unwrap();
        let listed: Vec<_> = answer["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|session| session["user"].as_str().unwrap())
            .collect();
        assert_eq!(listed, users, "{arguments:?}");
    }
    let status: Value =
        serde_json::from_str(&printed("status", &[&["--json"], &at[..]].concat()).await).unwrap();
    assert_eq!(
        (&status["sessions"], &status["connections"], &status["stage"]),
        (&json!(4), &json!(4), &json!("ready"))
    );
    assert_eq!(
        (&status["store"]["kind"], &status["store"]["breaker"]),
        (&json!("memory"), &Value::Null)
    );
    assert!(
        status["sessions_by"]
            .as_array()
            .unwrap()
            .contains(&json!({ "route": "/ws", "method": "header", "sessions": 2 })),
        "{status}"
    );
    let page = printed("status", &at).await;
    for wanted in [
        "stage            ready\n",
        "2 by header on /ws\n",
        "store            memory\n",
        "tickets          0\n",
    ] {
        assert!(page.contains(wanted), "{wanted} is not in\n{page}");
    }
    assert!(printed("metrics", &at).await.contains("\nusher_sessions_active{route=\"/ws\"} "));
    for name in ["sessions", "status", "metrics"] {
        for (arguments, code, part) in [
            (&["--admin", &address][..], 77, "the admin token is missing or wrong"),
            (
                &["--admin", &address, "--admin-token-env", "WRONG_TOKEN"],
                77,
                "the admin token is wrong",
            ),
            (&["--admin", "127.0.0.1:1"], 69, "no answer from the admin listener"),
            (&["--limits"], 2, "unexpected argument"),
        ] {
            let output = command(name, arguments).await;
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.code() == Some(code) && err.contains(part),
                "{name} {arguments:?}: {:?} {err}",
                output.status
            );
        }
    }
    drop(sockets);
    usher.finish().await;
}
