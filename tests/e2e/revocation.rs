//! Revocation: the sessions that it ends, the sessions that stay, and the logins that it refuses.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use usher::ws::accept::accept_for;

use crate::first_message::{auth, close_frame, json as json_of};
use crate::support::client::{self, Answer, Raw};
use crate::support::usher::OTHER_ISSUER;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Echo, Setup, Usher, eventually, token, upgrade_request};

const PATIENCE: Duration = Duration::from_secs(30);
const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    reauth = { proactive = true }
    [[route]]
    path = "/api/*"
    upstream = "chat"
    auth = ["header"]
    [[route]]
    path = "/public/*"
    upstream = "chat"
    auth = []
"#;

async fn start(upstream: String) -> Usher {
    Setup::new(upstream).routes(ROUTES).issuer(OTHER_ISSUER).start().await
}

pub async fn post(usher: &Usher, headers: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "POST /revoke HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let answer = client::http(usher.admin, request.as_bytes()).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
}

pub const JSON: &str = "Content-Type: application/json\r\n";

/// Gives an order. Returns how many sessions were closed.
pub async fn revoke(usher: &Usher, order: Value) -> u64 {
    let (status, answer) = post(usher, JSON, &order.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer["closed"].as_u64().unwrap()
}

async fn bearer(usher: &Usher, target: &str, token: &str) -> Socket {
    usher.open(target, &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
}

/// Asks for an upgrade. Returns the status and the code of the refusal.
pub async fn refused(usher: &Usher, target: &str, headers: &str) -> (u16, String) {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(target, headers)).await;
    let answer = Answer::parse(&raw.read_to_close().await);
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    (answer.status, body["code"].as_str().unwrap_or_default().to_owned())
}

pub async fn is_refused(usher: &Usher, token: &str) {
    assert_eq!(
        refused(usher, "/ws", &format!("Authorization: Bearer {token}\r\n")).await,
        (401, "REVOKED".to_owned())
    );
}

/// Checks that the client gets 1008 `Session revoked`.
pub async fn is_revoked(socket: &mut Socket) {
    assert_eq!(close_frame(socket).await, (1008, "Session revoked".to_owned()));
    while let Some(Ok(_)) = socket.next().await {}
}

/// Checks that the upstream got the same close frame, so many times.
async fn upstream_heard(echo: &Echo, times: usize) {
    let told = || {
        let closes = echo
            .messages()
            .into_iter()
            .filter_map(|message| if let Message::Close(frame) = message { frame } else { None });
        closes
            .filter(|frame| {
                (u16::from(frame.code), frame.reason.as_str()) == (1008, "Session revoked")
            })
            .count()
    };
    eventually(format!("the upstream gets {times} close frames"), async || told() >= times).await;
    assert_eq!(told(), times);
}

/// Returns the `sid` that the upstream got for the last session.
fn session_id(echo: &Echo) -> String {
    let visit = echo.visits().pop().unwrap();
    let context = visit.all("x-user-context")[0].split('.').nth(1).unwrap().to_owned();
    let claims =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, context).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["sid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_order_ends_its_sessions_and_leaves_the_others() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let (now, other) = (token::now(), "https://other.example.com");
    // An order, a token that it concerns, and a similar token that it does not concern.
    let cases = [
        (
            json!({"user": "ada", "issuer": "main"}),
            ("ada", json!({})),
            ("ada", json!({ "iss": other })),
        ),
        (json!({"user": "bob"}), ("bob", json!({ "iss": other })), ("bobby", json!({}))),
        (json!({"token_id": "t1"}), ("cleo", json!({"jti": "t1"})), ("cleo", json!({"jti": "t2"}))),
        (
            json!({"session": "login-1"}),
            ("dora", json!({"sid": "login-1"})),
            ("dora", json!({"sid": "login-2"})),
        ),
        (
            json!({"issued_before": (now - 50) * 1000, "user": "eva"}),
            ("eva", json!({"iat": now - 60})),
            ("eva", json!({"iat": now - 40})),
        ),
        (
            json!({"issued_before": (now - 500) * 1000}),
            ("finn", json!({"iat": now - 600})),
            ("finn", json!({"iat": now - 400})),
        ),
    ];
    let (mut kept, mut times) = (Vec::new(), 0);
    for (order, (user, claims), (like, like_claims)) in cases {
        let (token, like) = (usher.token_with(user, claims), usher.token_with(like, like_claims));
        let mut sockets =
            [bearer(&usher, "/ws", &token).await, bearer(&usher, "/ws", &token).await];
        kept.push(bearer(&usher, "/ws", &like).await);
        // A ticket has the marks of the token that it was issued for.
        let mut by_ticket = usher.connect_ticket(&usher.issue_ticket(&token).await).await.unwrap();
        assert_eq!(revoke(&usher, order.clone()).await, 3, "{order}");
        for socket in sockets.iter_mut().chain([&mut by_ticket]) {
            is_revoked(socket).await;
        }
        times += 3;
        upstream_heard(&echo, times).await;
        is_refused(&usher, &token).await;
        kept.push(bearer(&usher, "/ws", &like).await);
        assert_eq!(revoke(&usher, order).await, 0, "a session is still there");
    }
    // The id in `/sessions`, in the audit log and at the upstream names a session, also a public
    // one.
    for target in ["/ws", "/public/x"] {
        let token = usher.token("gina");
        let mut one = bearer(&usher, target, &token).await;
        let sessions: Value =
            serde_json::from_str(&client::get(usher.admin, "/sessions").await.body).unwrap();
        let newest = sessions["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .max_by_key(|row| row["since"].as_str().unwrap().to_owned());
        let id = newest.unwrap()["id"].as_str().unwrap().to_owned();
        if target == "/ws" {
            assert_eq!(id, session_id(&echo));
        }
        kept.push(bearer(&usher, target, &token).await);
        assert_eq!(revoke(&usher, json!({ "session": id })).await, 1);
        times += 1;
        is_revoked(&mut one).await;
        upstream_heard(&echo, times).await;
    }
    for socket in &mut kept {
        is_alive(socket).await;
    }
    let metrics = usher.metrics().await;
    for line in [
        "usher_revocations_total{kind=\"token_id\"} 2",
        "usher_revocations_total{kind=\"session\"} 4",
        "usher_revocations_held 8",
        "usher_revoked_sessions_total 20",
        "usher_session_closes_total{code=\"1008\",reason=\"revoked\"} 20",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    drop(kept);
    let audit = usher.finish().await;
    let orders: Vec<_> = audit.iter().filter(|line| line["event"] == "revoked").collect();
    assert_eq!(orders.len(), 14);
    assert_eq!((&orders[0]["user"], &orders[0]["issuer"]), (&json!("ada"), &json!("main")));
    assert!(orders[0]["detail"].as_str().unwrap().ends_with("3 sessions closed"), "{}", orders[0]);
    let operator = audit.iter().find(|line| line["event"] == "admin_order").unwrap();
    assert_eq!(
        (&operator["path"], &operator["peer"], &operator["status"], &operator["outcome"]),
        (&json!("/revoke"), &json!("127.0.0.1"), &json!(200), &json!("accepted"))
    );
    assert_eq!(
        audit
            .iter()
            .filter(|line| line["event"] == "session_ended" && line["outcome"] == "revoked")
            .count(),
        20
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_is_refused_by_every_method() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let token = usher.token_with("ada", json!({"jti": "t1"}));
    let ticket = usher.issue_ticket(&token).await;
    let messaged = usher.issue_ticket(&token).await;
    let mut bob = usher.connect("bob").await;
    let mut ada = bearer(&usher, "/ws", &usher.token_with("ada", json!({"jti": "t0"}))).await;
    assert_eq!(revoke(&usher, json!({"token_id": "t1"})).await, 0);
    let visits = echo.visits().len();

    is_refused(&usher, &token).await;
    assert_eq!(
        refused(&usher, &format!("/ws?ticket={ticket}"), "").await,
        (401, "REVOKED".to_owned())
    );
    for proof in [json!({ "token": token }), json!({ "ticket": messaged })] {
        let mut socket = usher.open("/ws", &[]).await.unwrap();
        socket
            .send(Message::text(json!({"type": "auth", "payload": proof}).to_string()))
            .await
            .unwrap();
        let error = json_of(&mut socket).await;
        assert_eq!(
            (&error["payload"]["code"], &error["payload"]["recoverable"]),
            (&json!("REVOKED"), &json!(true)),
            "{error}"
        );
        assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
    }
    let (status, answer) = usher.ask_ticket(&token, "", "").await;
    assert_eq!((status, &answer["code"]), (401, &json!("REVOKED")));
    let request = format!(
        "GET /api/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         \r\n"
    );
    let answer = client::http(usher.plain, request.as_bytes()).await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, Some("bearer error=\"invalid_token\""))
    );
    assert_eq!(echo.visits().len(), visits, "a revoked user reached the upstream");

    // A revoked token does not renew a live session. Another token does.
    let later = |jti: &str| usher.token_with("ada", json!({"jti": jti, "exp": token::now() + 900}));
    ada.send(auth(&later("t1"))).await.unwrap();
    assert_eq!(json_of(&mut ada).await["payload"]["code"], "REVOKED");
    ada.send(auth(&later("t2"))).await.unwrap();
    assert_eq!(json_of(&mut ada).await["type"], "auth_ok");
    // Now the session belongs to the new token: an order about the old one does not end it, and an
    // order about the new one does.
    assert_eq!(revoke(&usher, json!({"token_id": "t0"})).await, 0);
    is_alive(&mut ada).await;
    assert_eq!(revoke(&usher, json!({"token_id": "t2"})).await, 1);
    assert_eq!(close_frame(&mut ada).await, (1008, "Session revoked".to_owned()));
    is_alive(&mut bob).await;

    // If the user is revoked, a new token does not help.
    assert_eq!(revoke(&usher, json!({"user": "bob"})).await, 1);
    let mut socket = usher.open("/ws", &[]).await.unwrap();
    socket.send(auth(&usher.token_with("bob", json!({"jti": "new"})))).await.unwrap();
    assert_eq!(json_of(&mut socket).await["payload"]["recoverable"], false);
    let audit = usher.finish().await;
    let rejected = audit
        .iter()
        .filter(|line| line["event"] == "upgrade_rejected" && line["outcome"] == "revoked");
    let details: Vec<_> =
        rejected.map(|line| line["detail"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        details,
        [
            "revoked by token_id",
            "revoked by token_id",
            "revoked by token_id",
            "revoked by token_id",
            "revoked by user"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_by_itself() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[revocation]\nttl = \"4s\"\nmax_entries = 2\n")
        .start()
        .await;
    let token = usher.token("ada");
    revoke(&usher, json!({"user": "ada"})).await;
    revoke(&usher, json!({"user": "bob", "until": "2999-01-01T00:00:00Z"})).await;
    is_refused(&usher, &token).await;
    // There is no place for a third order, and it has no effect at all.
    let mut cleo = usher.connect("cleo").await;
    let (status, answer) = post(&usher, JSON, r#"{"user":"cleo"}"#).await;
    assert_eq!((status, &answer["code"]), (503, &json!("REVOCATIONS_FULL")), "{answer}");
    is_alive(&mut cleo).await;
    let headers = [("authorization", &*format!("Bearer {token}"))];
    let is_over = async || {
        refused(&usher, "/api/x", "").await.0 != 0 && usher.open("/ws", &headers).await.is_ok()
    };
    eventually("the order ends", is_over).await;
    is_refused(&usher, &usher.token("bob")).await;
    // An order that has ended leaves its place.
    assert_eq!(revoke(&usher, json!({"user": "cleo"})).await, 1);
    assert!(usher.metrics().await.contains("usher_limits_hit_total{limit=\"revocations\"} 1"));
    drop(cleo);
    let audit = usher.finish().await;
    assert_eq!(
        audit
            .iter()
            .filter(|line| line["event"] == "revocation_refused" && line["outcome"] == "full")
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_order_is_refused_with_a_reason() {
    let echo = Echo::start().await;
    let usher = start(echo.url()).await;
    let mut ada = usher.connect("ada").await;
    for (headers, body, status, part) in [
        (JSON, "", 400, "not a revocation"),
        (JSON, r#"{"usr":"ada"}"#, 400, "unknown field `usr`"),
        (JSON, "{}", 400, "one of user, session, token_id and issued_before is needed"),
        (JSON, r#"{"user":"ada","session":"x"}"#, 400, "only one of"),
        (JSON, r#"{"user":""}"#, 400, "1 to 1024 bytes"),
        (JSON, r#"{"user":"ada","issuer":"mian"}"#, 400, "the issuers are main, other"),
        (JSON, r#"{"issued_before":1700000000}"#, 400, "must be in milliseconds"),
        ("", r#"{"user":"ada"}"#, 415, "Content-Type: application/json"),
        (
            "Content-Type: text/plain\r\n",
            r#"{"user":"ada"}"#,
            415,
            "Content-Type: application/json",
        ),
    ] {
        let (got, answer) = post(&usher, headers, body).await;
        assert!(
            got == status && answer["message"].as_str().unwrap().contains(part),
            "{body}: {got} {answer}"
        );
    }
    let (status, _) = post(&usher, JSON, &format!(r#"{{"user":"{}"}}"#, "a".repeat(9000))).await;
    assert_eq!(status, 400);
    is_alive(&mut ada).await;
    drop(ada);
    usher.finish().await;
}

async fn command(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command
        .arg("revoke")
        .args(arguments)
        .env("REVOKE_TOKEN", "0123456789abcdef")
        .env("WRONG_TOKEN", "fedcba9876543210");
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null()).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_revokes_and_its_exit_code_says_what_came_of_it() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .file("admin-token", "0123456789abcdef\n".to_owned())
        .admin_lines("token_file = \"admin-token\"")
        .start()
        .await;
    usher.keep_secret("0123456789abcdef");
    let admin = usher.admin.to_string();
    let (status, _) = post(&usher, JSON, r#"{"user":"ada"}"#).await;
    assert_eq!(status, 401);
    let (status, _) = post(
        &usher,
        &format!("{JSON}Authorization: Bearer fedcba9876543210\r\n"),
        r#"{"user":"ada"}"#,
    )
    .await;
    assert_eq!(status, 401);

    let mut ada = usher.connect("ada").await;
    let mut bob = usher.connect("bob").await;
    let at = ["--admin", &admin, "--admin-token-env", "REVOKE_TOKEN"];
    for (arguments, wrong, code, part) in [
        (
            &["--user", "ada"][..],
            &["--admin", &admin][..],
            77,
            "the admin token is missing or wrong",
        ),
        (
            &["--user", "ada"],
            &["--admin", &admin, "--admin-token-env", "WRONG_TOKEN"],
            77,
            "the admin token is wrong",
        ),
        (
            &["--user", "ada"],
            &["--admin", "127.0.0.1:1", "--admin-token-env", "REVOKE_TOKEN"],
            69,
            "no answer from the admin listener",
        ),
        (&["--user", "ada", "--session", "s"], &at, 2, "cannot be used with"),
        (&[], &at, 2, "required"),
        (&["--issued-before", "yesterday"], &at, 2, "is not a time"),
        (&["--user", "ada", "--issuer", "mian"], &at, 2, "no issuer has the name"),
        (
            &["--user", "ada"],
            &["--admin", &admin, "--admin-token-env", "NOT_THERE"],
            1,
            "the environment variable NOT_THERE is not set",
        ),
    ] {
        let output = command(&[arguments, wrong].concat()).await;
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && err.contains(part),
            "{arguments:?}: {:?} {err}",
            output.status
        );
    }
    is_alive(&mut ada).await;
    let output = command(&[&["--user", "ada"], &at[..]].concat()).await;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && out.contains("; 1 session closed"),
        "{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    is_revoked(&mut ada).await;
    upstream_heard(&echo, 1).await;
    is_alive(&mut bob).await;
    for (arguments, part) in [
        (&["--token-id", "jti-bob"][..], "; 1 session closed"),
        (&["--session", "login"], "no open session has this id"),
        (&["--issued-before", "now", "--user", "cleo"], "; 0 sessions closed"),
        (
            &["--issued-before", "2026-01-01T00:00:00Z", "--until", "2999-01-01T00:00:00Z"],
            "; 0 sessions closed",
        ),
    ] {
        let output = command(&[arguments, &at[..]].concat()).await;
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && out.contains(part), "{arguments:?} {out}");
    }
    drop((ada, bob));
    usher.finish().await;
}

/// An upstream that answers an upgrade when the test says so. It returns the bytes that come after
/// it.
struct Slow {
    url: String,
    asked: Arc<Notify>,
    go: Arc<Notify>,
    heard: tokio::task::JoinHandle<Vec<u8>>,
}

impl Slow {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, go) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let (told, wait) = (Arc::clone(&asked), Arc::clone(&go));
        let heard = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let key = head.lines().find_map(|line| {
                line.to_ascii_lowercase().starts_with("sec-websocket-key: ").then(|| &line[19..])
            });
            told.notify_one();
            wait.notified().await;
            let accept = accept_for(key.unwrap().trim().as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let _ = socket.read_to_end(&mut heard).await;
            heard
        });
        Self { url, asked, go, heard }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_revoked_while_the_upstream_is_dialled_does_not_get_in() {
    for way in ["header", "message"] {
        let slow = Slow::start().await;
        let usher = Setup::new(slow.url.clone())
            .routes(ROUTES)
            .extra("[keepalive]\nclose_timeout = \"300ms\"\n")
            .start()
            .await;
        let token = usher.token("ada");
        let mut raw = Raw::connect(usher.plain).await;
        if way == "header" {
            raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
        } else {
            raw.send(upgrade_request("/ws", "")).await;
            raw.read_head().await;
            let message = auth(&token);
            let payload = message.to_text().unwrap().as_bytes();
            raw.send(
                [&[0x81, 0xfe][..], &(payload.len() as u16).to_be_bytes(), &[0; 4], payload]
                    .concat(),
            )
            .await;
        }
        timeout(PATIENCE, slow.asked.notified()).await.expect("the upstream was not asked");
        // It is not a session yet, so none is closed. It must not become a session either.
        assert_eq!(revoke(&usher, json!({"user": "ada"})).await, 0);
        slow.go.notify_one();
        if way == "header" {
            assert!(raw.read_head().await.starts_with("HTTP/1.1 101"));
        }
        let rest = raw.read_to_close().await;
        let goodbye = b"\x88\x11\x03\xf0Session revoked";
        assert!(rest.ends_with(goodbye), "{way}: {:?}", String::from_utf8_lossy(&rest));
        assert!(String::from_utf8_lossy(&rest).contains("SESSION_REVOKED"), "{way}");
        // The upstream gets one masked close frame, and no other bytes.
        let heard = timeout(PATIENCE, slow.heard).await.unwrap().unwrap();
        assert_eq!((heard[0], heard[1], heard.len()), (0x88, 0x80 | 17, 6 + 17), "{heard:?}");
        let audit = usher.finish().await;
        assert!(
            audit
                .iter()
                .any(|line| line["event"] == "session_ended" && line["outcome"] == "revoked"),
            "{audit:?}"
        );
    }
}

/// Upgrades and orders race. In any order, no revoked session stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_upgrades_that_race_with_their_revocation_none_stays() {
    let echo = Echo::start().await;
    let usher = Arc::new(start(echo.url()).await);
    let upgrades: Vec<_> = (0..64)
        .map(|number| {
            let (usher, token) = (Arc::clone(&usher), usher.token(&format!("racer-{number}")));
            tokio::spawn(async move {
                let Ok(mut socket) =
                    usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await
                else {
                    return "refused";
                };
                assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
                "closed"
            })
        })
        .collect();
    let orders: Vec<_> = (0..64)
        .map(|number| {
            let usher = Arc::clone(&usher);
            tokio::spawn(async move {
                revoke(&usher, json!({ "user": format!("racer-{number}") })).await
            })
        })
        .collect();
    for order in orders {
        order.await.unwrap();
    }
    for upgrade in upgrades {
        upgrade.await.unwrap();
    }
    Arc::into_inner(usher).unwrap().finish().await;
}

/// A close frame for the upstream cannot stand inside another frame, and Usher does not wait for
/// the end of that frame.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_client_in_the_middle_of_a_frame_is_cut_off() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[keepalive]\nclose_timeout = \"10m\"\n")
        .start()
        .await;
    let token = usher.token("ada");
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    raw.send(b"\x82\xfe\x10\x00\0\0\0\0and so on").await;
    assert_eq!(revoke(&usher, json!({"user": "ada"})).await, 1);
    assert!(raw.read_to_close().await.ends_with(b"\x88\x11\x03\xf0Session revoked"));
    let audit = usher.finish().await;
    assert!(
        audit.iter().any(|line| line["event"] == "session_ended" && line["outcome"] == "revoked"),
        "{audit:?}"
    );
}
