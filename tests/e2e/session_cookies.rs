//! Session cookies whose sessions are in a real Redis, as web applications write them.

use serde_json::{Value, json};

use crate::first_message::close_frame;
use crate::support::client::{self, Answer};
use crate::support::redis::RedisServer;
use crate::support::{Echo, Program, Raw, Recorder, Script, Setup, Usher, upgrade_request};

const PAGE: &str = "https://app.example.com";
const ID: &str = "Zm9vYmFy-canary_0123456789";
const COOKIE_SECRET: &str = "keyboard canary";

/// Returns the cookie for `ID` with a signature under that secret, as express-session writes it:
/// `encodeURIComponent("s:" + id + "." + signature)`.
fn signed(id: &str) -> String {
    use base64::Engine as _;
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, COOKIE_SECRET.as_bytes());
    let signature = base64::engine::general_purpose::STANDARD_NO_PAD
        .encode(aws_lc_rs::hmac::sign(&key, id.as_bytes()));
    format!("s%3A{id}.{}", signature.replace('+', "%2B").replace('/', "%2F"))
}

fn setup(upstream: String, lines: &str) -> Setup {
    let routes = format!(
        "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"session\", \"ticket\"]\n\
         origins = [\"{PAGE}\"]\nsession_cookie = \"connect.sid\"\nsession_verifier = \"app\"\n"
    );
    let extra = format!(
        "[[verifier]]\nname = \"app\"\nkind = \"redis\"\nkey = \"sess:{{id}}\"\n\
         user_claim = \"/user/id\"\npermissions_claim = \"/user/roles\"\ncache_ttl = \"0s\"\n\
         negative_cache_ttl = \"0s\"\ntimeout = \"5s\"\n{lines}\n[tickets]\n\
         session_verifier = \"app\"\nsession_cookie = \"connect.sid\"\n"
    );
    Setup::new(upstream).routes(&routes).extra(&extra)
}

async fn upgrade(usher: &Usher, cookie: &str) -> u16 {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(
        "/ws",
        &format!("Origin: {PAGE}\r\nCookie: theme=dark; connect.sid={cookie}\r\n"),
    ))
    .await;
    Answer::parse(raw.read_head().await.as_bytes()).status
}

fn session(id: u64) -> String {
    let cookie = json!({
        "originalMaxAge": 600_000,
        "expires": "2099-01-01T00:00:00.000Z",
        "httpOnly": true,
        "path": "/",
    });
    json!({ "cookie": cookie, "user": { "id": id, "roles": ["chat:read"] } }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_redis_opens_for_as_long_as_its_key_lives() {
    let (redis, upstream) =
        (RedisServer::start(&[]), Recorder::start(Script::Accept(Vec::new())).await);
    let lines = format!("url = \"{}\"\nrevalidate = \"1s\"", redis.url());
    let usher = setup(upstream.url(), &lines).start().await;
    usher.keep_secret(ID);
    assert_eq!(upgrade(&usher, ID).await, 401);
    redis.cli(&["SET", &format!("sess:{ID}"), &session(42), "EX", "600"]);
    assert_eq!(upgrade(&usher, ID).await, 101);
    let seen = upstream.connections().pop().unwrap();
    let claims = crate::methods::context(&seen);
    assert_eq!((&claims["sub"], &claims["permissions"]), (&json!("42"), &json!(["chat:read"])));
    assert_eq!(
        (&claims["auth"]["method"], &claims["auth"]["issuer"]),
        (&json!("session"), &json!("app"))
    );
    assert!(seen.contains("cookie: theme=dark\r\n") && !seen.contains(ID), "{seen}");
    let left = claims["session_exp"].as_u64().unwrap() - crate::support::token::now();
    assert!((500..=600).contains(&left), "{left}");

    // A session gets a ticket if the request comes from a page of a listed origin.
    let ask = async |headers: &str| {
        let request = format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        client::http(usher.plain, request.as_bytes()).await
    };
    let cookie = format!("Cookie: connect.sid={ID}\r\n");
    let answer = ask(&format!("Origin: {PAGE}\r\n{cookie}")).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let ticket = serde_json::from_str::<Value>(&answer.body).unwrap()["ticket_id"]
        .as_str()
        .unwrap()
        .to_owned();
    drop(usher.connect_ticket(&ticket).await.unwrap());
    assert_eq!(ask(&cookie).await.status, 403);
    assert_eq!(ask(&format!("Origin: https://evil.example.com\r\n{cookie}")).await.status, 403);

    // Values that are not sessions.
    for (value, status) in [
        ("{}", 401),
        ("[1]", 503),
        ("no json", 503),
        (r#"{"user":{"id":""}}"#, 401),
        (r#"{"user":{"id":true}}"#, 401),
    ] {
        redis.cli(&["SET", &format!("sess:{ID}"), value, "EX", "600"]);
        assert_eq!(upgrade(&usher, ID).await, status, "{value}");
    }
    redis.cli(&[
        "SET",
        &format!("sess:{ID}"),
        &session(42).replace("chat:read", &"x".repeat(70_000)),
        "EX",
        "600",
    ]);
    assert_eq!(upgrade(&usher, ID).await, 503, "larger than max_answer_bytes");
    redis.cli(&["DEL", &format!("sess:{ID}")]);
    redis.cli(&["LPUSH", &format!("sess:{ID}"), "a list"]);
    assert_eq!(upgrade(&usher, ID).await, 503);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_cannot_name_another_key() {
    let (redis, echo) = (RedisServer::start(&[]), Echo::start().await);
    // The sessions are in the Redis of the store.
    let usher = setup(echo.url(), "")
        .extra(&format!("[store]\nurl = \"{}\"\ntimeout = \"5s\"\n", redis.url()))
        .start()
        .await;
    for key in [
        "sess:admin:0123456789abcdef",
        "sess:{0123456789abcdef}",
        "sess:0123456789 abcdef",
        "sess:short",
        "sess:",
        "sess:0123456789abcdef\\n",
        "sess:0123456789%61bcdef",
    ] {
        redis.cli(&["SET", key, &session(1)]);
        let id = key.strip_prefix("sess:").unwrap();
        assert_eq!(upgrade(&usher, id).await, 401, "{id}");
    }
    let long = "a".repeat(300);
    redis.cli(&["SET", &format!("sess:{long}"), &session(1)]);
    assert_eq!(upgrade(&usher, &long).await, 401);
    redis.cli(&["SET", &format!("sess:{ID}"), &session(1)]);
    assert_eq!(upgrade(&usher, ID).await, 101, "a key without an end lasts for max_lifetime");
    assert_eq!(upgrade(&usher, &format!("{ID}; connect.sid={ID}")).await, 400);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_cookie_counts_by_its_signature_and_logging_out_ends_the_socket() {
    let (mut redis, echo) = (RedisServer::start(&[]), Echo::start().await);
    let lines = format!(
        "url = \"{}\"\nrevalidate = \"1s\"\n\
         cookie_secret_file = \"cookie-secret\"",
        redis.url()
    );
    let usher =
        setup(echo.url(), &lines).file("cookie-secret", COOKIE_SECRET.to_owned()).start().await;
    usher.keep_secret(COOKIE_SECRET);
    usher.keep_secret(ID);
    let set =
        |redis: &RedisServer| redis.cli(&["SET", &format!("sess:{ID}"), &session(42), "EX", "600"]);
    set(&redis);
    let cookie = signed(ID);
    let forged = cookie.replace(ID, "Zm9vYmFy-canary_0123456780");
    for (cookie, status) in [
        (&*cookie, 101),
        (ID, 401),
        (&forged, 401),
        (&cookie[..cookie.len() - 1], 401),
        ("s%3A.", 401),
        ("s:", 401),
    ] {
        assert_eq!(upgrade(&usher, cookie).await, status, "{cookie}");
    }
    let headers = format!("connect.sid={cookie}");
    let mut socket = usher.open("/ws", &[("origin", PAGE), ("cookie", &headers)]).await.unwrap();
    redis.cli(&["DEL", &format!("sess:{ID}")]);
    assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
    redis.kill();
    assert_eq!(upgrade(&usher, &cookie).await, 503);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_a_real_web_application_opens_a_socket_and_a_logout_closes_it() {
    let (redis, echo) = (RedisServer::start(&[]), Echo::start().await);
    let app =
        Program::node(&["tests/e2e/clients/sessions/app.mjs", &redis.url(), COOKIE_SECRET]).await;
    let address = format!("127.0.0.1:{}", app.lines()[0]).parse().unwrap();
    let post = async |path: &str, headers: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: app\r\n{headers}Content-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        let mut raw = Raw::connect(address).await;
        raw.send(request).await;
        String::from_utf8(raw.read_to_close().await).unwrap()
    };
    let welcome = post("/login?user=42", "").await;
    let cookie = welcome
        .split("Set-Cookie: connect.sid=")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .expect(&welcome)
        .to_owned();
    let lines = format!(
        "url = \"{}\"\nrevalidate = \"1s\"\n\
         cookie_secret_file = \"cookie-secret\"",
        redis.url()
    );
    let usher =
        setup(echo.url(), &lines).file("cookie-secret", COOKIE_SECRET.to_owned()).start().await;
    usher.keep_secret(&cookie);
    usher.keep_secret(COOKIE_SECRET);
    let header = format!("connect.sid={cookie}");
    let mut socket = usher.open("/ws", &[("origin", PAGE), ("cookie", &header)]).await.unwrap();
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains(
            "usher_upgrades_total{route=\"/ws\",method=\"session\",outcome=\"accepted\"} 1"
        ),
        "{metrics}"
    );
    assert!(post("/logout", &format!("Cookie: {header}\r\n")).await.ends_with("goodbye"));
    assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
    assert_eq!(upgrade(&usher, &cookie).await, 401);
    let audit = usher.finish().await;
    assert!(
        audit.iter().any(|line| line["event"] == "session_ended"
            && line["user"] == "42"
            && line["outcome"] == "revoked"),
        "{audit:?}"
    );
}
