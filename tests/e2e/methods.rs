//! Credentials of every kind, alone and combined, in front of an upstream that records every byte.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};

use crate::first_message::{auth, json as json_of};
use crate::support::client::{self, Answer};
use crate::support::{Backend, Echo, Raw, Recorder, Script, Setup, Usher, token, upgrade_request};

const BYPASS_SECRET: &str = "bypass-canary-0123456789-0123456789-0123456789";
const PAGE: &str = "https://app.example.com";
const METHODS: [&str; 6] = ["ticket", "header", "subprotocol", "query", "cookie", "bypass"];

/// The parts of a request that carry the credential of one method.
struct Shown {
    query: String,
    headers: String,
    secret: String,
}

async fn show(usher: &Usher, method: &str, user: &str, is_good: bool) -> Shown {
    let secret = match (method, is_good) {
        ("ticket", true) => usher.issue_ticket(&usher.token(user)).await,
        ("ticket", false) => {
            URL_SAFE_NO_PAD.encode(format!("no such ticket, {user}, 32 byte").as_bytes())
        }
        ("bypass", true) => BYPASS_SECRET.to_owned(),
        ("bypass", false) => format!("{BYPASS_SECRET}-wrong"),
        (_, true) => usher.token(user),
        (_, false) => usher.token_with(user, json!({ "exp": token::now() - 1 })),
    };
    usher.keep_secret(&secret);
    let (query, headers) = match method {
        "ticket" => (format!("&ticket={secret}"), String::new()),
        "query" => (format!("&%61ccess_toke%6E={secret}"), String::new()),
        "header" => (String::new(), format!("Authorization: Bearer {secret}\r\n")),
        "subprotocol" => (
            String::new(),
            format!(
                "Sec-WebSocket-Protocol: chat.v1, bearer\r\nSec-WebSocket-Protocol: {secret}\r\n"
            ),
        ),
        "cookie" => {
            (String::new(), format!("Cookie: theme=\"dark\"; access_token={secret};  lang=en\r\n"))
        }
        "bypass" => (String::new(), format!("X-Usher-Bypass: {secret} {user}\r\n")),
        other => panic!("{other}"),
    };
    Shown { query, headers, secret }
}

fn setup(upstream: String, routes: &str) -> Setup {
    Setup::new(upstream)
        .routes(routes)
        .extra(
            "[bypass]\nsecret_file = \"bypass-secret\"\n[tickets]\n\
             origins = [\"https://app.example.com\"]\nrate_per_user = \"1000/1m\"\n",
        )
        .file("bypass-secret", BYPASS_SECRET.to_owned())
        .argument("--allow-bypass")
}

fn route(path: &str, auth: &[&str]) -> String {
    format!(
        "[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = {auth:?}\n\
         origins = [\"{PAGE}\"]\n"
    )
}

/// Asks for an upgrade as a page of a listed origin. Returns the status and the whole head.
async fn upgrade(usher: &Usher, path: &str, shown: &[&Shown]) -> Answer {
    let query: String = shown.iter().map(|shown| shown.query.as_str()).collect();
    let headers: String = shown.iter().map(|shown| shown.headers.as_str()).collect();
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(
        &format!("{path}?room=1{query}"),
        &format!("Origin: {PAGE}\r\n{headers}"),
    ))
    .await;
    Answer::parse(raw.read_head().await.as_bytes())
}

/// Returns the claims in the signed context of a request.
pub fn context(seen: &str) -> Value {
    let line = seen
        .lines()
        .find_map(|line| line.strip_prefix("x-user-context: "))
        .unwrap_or_else(|| panic!("no signed context in {seen}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(line.split('.').nth(1).unwrap()).unwrap())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_credentials_the_preferred_one_decides_and_both_are_removed() {
    let upstream = Recorder::start(Script::Accept(Vec::new())).await;
    let pairs: Vec<(&str, &str)> = METHODS
        .iter()
        .flat_map(|first| {
            METHODS
                .iter()
                .filter(move |second| *second != first)
                .map(move |second| (*first, *second))
        })
        .collect();
    let routes: String = pairs
        .iter()
        .map(|(first, second)| route(&format!("/{first}-{second}"), &[first, second, "message"]))
        .collect();
    let ticket_issuing = route("/ws", &["ticket"]);
    let usher = setup(upstream.url(), &(routes + &ticket_issuing)).start().await;
    for (first, second) in pairs {
        let path = format!("/{first}-{second}");
        let wrong_then_right =
            [show(&usher, first, "ada", false).await, show(&usher, second, "bob", true).await];
        let wrong_alone = [show(&usher, second, "bob", false).await];
        for refused in [wrong_then_right.iter().collect::<Vec<_>>(), wrong_alone.iter().collect()] {
            let before = upstream.connections().len();
            let answer = upgrade(&usher, &path, &refused).await;
            assert!(matches!(answer.status, 401 | 403), "{path}: {}", answer.head);
            assert_eq!(
                answer.status == 401,
                answer.header("www-authenticate") == Some("bearer error=\"invalid_token\""),
                "{path}"
            );
            assert_eq!(upstream.connections().len(), before, "{path}");
            assert!(
                refused
                    .iter()
                    .all(|shown| !answer.head.contains(&shown.secret.to_ascii_lowercase())),
                "{}",
                answer.head
            );
        }
        let right_then_wrong =
            [show(&usher, first, "ada", true).await, show(&usher, second, "bob", false).await];
        let both_right =
            [show(&usher, first, "ada", true).await, show(&usher, second, "bob", true).await];
        let second_alone = [show(&usher, second, "ada", true).await];
        for (shown, method) in
            [(&right_then_wrong[..], first), (&both_right[..], first), (&second_alone[..], second)]
        {
            let shown: Vec<&Shown> = shown.iter().collect();
            let answer = upgrade(&usher, &path, &shown).await;
            assert_eq!(answer.status, 101, "{path}: {}", answer.head);
            let seen = upstream.connections().pop().unwrap();
            let claims = context(&seen);
            assert_eq!(
                (claims["sub"].as_str(), claims["auth"]["method"].as_str()),
                (Some("ada"), Some(method)),
                "{path}"
            );
            for shown in &shown {
                assert!(
                    !seen.contains(&shown.secret) && !seen.contains(BYPASS_SECRET),
                    "{path}: {seen}"
                );
                assert!(
                    !answer.head.contains(&shown.secret.to_ascii_lowercase()),
                    "{}",
                    answer.head
                );
            }
            assert!(seen.starts_with(&format!("GET {path}?room=1 HTTP/1.1\r\n")), "{seen}");
            let shows_cookie = shown.iter().any(|shown| shown.headers.contains("Cookie: "));
            assert_eq!(
                seen.contains("cookie: theme=\"dark\";  lang=en\r\n"),
                shows_cookie,
                "{seen}"
            );
            assert!(!seen.contains("bearer") && !seen.to_lowercase().contains("bypass:"), "{seen}");
        }
    }
    let metrics = usher.metrics().await;
    for method in METHODS {
        assert!(
            metrics.contains(&format!("method=\"{method}\",outcome=\"accepted\"")),
            "{method} is not in\n{metrics}"
        );
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_among_the_subprotocols_opens_in_every_form_and_a_real_one_is_answered() {
    let echo = Echo::start().await;
    let usher = setup(echo.url(), &route("/ws", &["subprotocol"])).start().await;
    let token = usher.token("ada");
    let encoded = URL_SAFE_NO_PAD.encode(&token);
    usher.keep_secret(&encoded);
    for (offered, forwarded, answered) in [
        (format!("bearer.{token}"), None, None),
        (format!("chat.v9, bearer.{token}"), Some("chat.v9"), None),
        (format!("bearer.{token}, chat.v9, echo.v1"), Some("chat.v9, echo.v1"), Some("echo.v1")),
        (format!("bearer, {token}"), None, Some("bearer")),
        (format!("bearer, {token}, chat.v9"), Some("chat.v9"), Some("bearer")),
        (format!("echo.v1, bearer, {token}"), Some("echo.v1"), Some("echo.v1")),
        (
            format!("base64url.bearer.authorization.{encoded}, echo.v1"),
            Some("echo.v1"),
            Some("echo.v1"),
        ),
        (
            format!("base64url.bearer.authorization.k8s.io.{encoded}, echo.v1"),
            Some("echo.v1"),
            Some("echo.v1"),
        ),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &format!("Sec-WebSocket-Protocol: {offered}\r\n"))).await;
        let head = raw.read_head().await;
        let answer = Answer::parse(head.as_bytes());
        assert_eq!(
            (answer.status, answer.header("sec-websocket-protocol")),
            (101, answered),
            "{offered}"
        );
        let visit = echo.visits().pop().unwrap();
        assert_eq!(
            visit.all("sec-websocket-protocol"),
            forwarded.into_iter().collect::<Vec<_>>(),
            "{offered}"
        );
        assert!(
            visit
                .headers
                .iter()
                .all(|(_, value)| !value.contains(&token) && !value.contains(&encoded)),
            "{visit:?}"
        );
    }
    let seen = echo.visits().len();
    for (offered, status) in [
        (format!("bearer.{token}, bearer.{token}"), 400),
        (format!("bearer, {token}, bearer.{token}"), 400),
        (format!("{token}, bearer"), 401),
        ("bearer".to_owned(), 401),
        ("chat.v1".to_owned(), 401),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &format!("Sec-WebSocket-Protocol: {offered}\r\n"))).await;
        let answer = Answer::parse(raw.read_head().await.as_bytes());
        assert_eq!(
            (answer.status, answer.header("sec-websocket-protocol")),
            (status, None),
            "{offered}"
        );
    }
    assert_eq!(echo.visits().len(), seen);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_chooses_the_marker_or_the_token_is_refused() {
    for chosen in ["bearer", "bearer.x"] {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: {chosen}\r\n\r\n"
        );
        let upstream = Recorder::start(Script::Answer(answer.into_bytes())).await;
        let usher = setup(upstream.url(), &route("/ws", &["subprotocol"])).start().await;
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(
            "/ws",
            &format!("Sec-WebSocket-Protocol: bearer, {}, chat\r\n", usher.token("ada")),
        ))
        .await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 502 "), "{chosen}");
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_close_frame_answers_the_marker_so_that_a_page_can_read_it() {
    let echo = Echo::start().await;
    let routes = route("/ws", &["subprotocol"]) + "reject_mode = \"close\"\n";
    let usher = setup(echo.url(), &routes).start().await;
    let expired = usher.token_with("ada", json!({ "exp": token::now() - 1 }));
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Sec-WebSocket-Protocol: bearer, {expired}\r\n")))
        .await;
    let answer = Answer::parse(raw.read_head().await.as_bytes());
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("bearer")));
    assert!(String::from_utf8_lossy(&raw.read_to_close().await).contains("Invalid token"));
    assert!(echo.visits().is_empty());
    usher.finish().await;
}

/// Returns how many upgrades were rejected under this label.
async fn rejections(usher: &Usher, label: &str) -> usize {
    let (metrics, outcome) = (usher.metrics().await, format!("outcome=\"{label}\"}} "));
    let lines = metrics.lines().filter(|line| line.starts_with("usher_upgrades_total{"));
    lines.filter_map(|line| line.split_once(&outcome)?.1.parse::<usize>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_only_from_a_page_of_a_listed_origin() {
    let echo = Echo::start().await;
    let backend = Backend::start().await;
    let routes = route("/ws", &["cookie", "message"])
        + &route("/api/*", &["cookie"]).replace("\"chat\"", "\"api\"");
    let other = format!("[[upstream]]\nname = \"api\"\nservers = [\"{}\"]\n", backend.url());
    let usher = setup(echo.url(), &(other + &routes)).start().await;
    let token = usher.token("ada");
    let page = format!("Origin: {PAGE}\r\n");
    let cookie = format!("Cookie: a=1; access_token={token}\r\n");
    let mut labels = Vec::new();
    for (headers, status, label) in [
        (format!("{page}{cookie}"), 101, ""),
        (cookie.clone(), 403, "missing_origin"),
        (format!("Origin: https://evil.example.com\r\n{cookie}"), 403, "forbidden_origin"),
        (format!("Origin: null\r\n{cookie}"), 403, "forbidden_origin"),
        (
            format!("{page}Cookie: access_token={token}; access_token={token}\r\n"),
            400,
            "bad_request",
        ),
        (
            format!("{page}Cookie: access_token={token}\r\nCookie: access_token={token}\r\n"),
            400,
            "bad_request",
        ),
        (format!("{page}Cookie: access_token=\r\n"), 401, "invalid_token"),
        // The request has no credential, so Usher waits for the first message.
        (format!("{page}Cookie: theme=dark\r\n"), 101, ""),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &headers)).await;
        let answer = Answer::parse(raw.read_head().await.as_bytes());
        assert_eq!(answer.status, status, "{headers}");
        if !label.is_empty() {
            labels.push(label);
            let times = labels.iter().filter(|one| **one == label).count();
            assert_eq!(rejections(&usher, label).await, times, "{label}");
        }
    }
    assert_eq!(echo.visits().len(), 1);
    assert_eq!(echo.visits()[0].all("cookie"), ["a=1"]);

    let body = "Content-Length: 0\r\nConnection: close\r\n";
    for (method, headers, status) in [
        ("GET", format!("{page}{cookie}"), 200),
        ("GET", cookie.clone(), 200),
        ("HEAD", cookie.clone(), 200),
        ("POST", format!("{page}{cookie}"), 200),
        ("POST", cookie.clone(), 403),
        ("DELETE", cookie.clone(), 403),
        ("GET", format!("Origin: https://evil.example.com\r\n{cookie}"), 403),
    ] {
        let request = format!("{method} /api/x HTTP/1.1\r\nHost: x\r\n{headers}{body}\r\n");
        let seen = backend.heads().len();
        let answer = client::http(usher.plain, request.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {headers}");
        assert_eq!(backend.heads().len(), seen + usize::from(status == 200), "{method} {headers}");
    }
    assert!(!backend.heads().is_empty());
    assert!(
        backend
            .heads()
            .iter()
            .all(|head| head["cookie"] == "a=1" && head.contains_key("x-user-context"))
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_page_of_a_listed_origin_gets_a_ticket_by_cookie() {
    let echo = Echo::start().await;
    let usher = setup(echo.url(), &route("/ws", &["ticket"])).start().await;
    let token = usher.token("ada");
    let ask = async |method: &str, path: &str, headers: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        client::http(usher.plain, request.as_bytes()).await
    };
    let cookie = format!("Cookie: access_token={token}\r\n");
    let answer = ask("POST", "/websocket/ticket", &format!("Origin: {PAGE}\r\n{cookie}")).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-credentials")),
        (201, Some("true")),
        "{}",
        answer.body
    );
    let ticket = serde_json::from_str::<Value>(&answer.body).unwrap()["ticket_id"]
        .as_str()
        .unwrap()
        .to_owned();
    usher.keep_secret(&ticket);
    assert_eq!(
        ask("GET", &format!("/websocket/ticket/{ticket}/validate"), &cookie).await.status,
        200
    );
    for (headers, status) in [
        (cookie.clone(), 403),
        (format!("Origin: https://evil.example.com\r\n{cookie}"), 403),
        (format!("Origin: {PAGE}\r\nCookie: access_token={token}x\r\n"), 401),
        // A wrong bearer token beside a good cookie.
        (format!("Origin: {PAGE}\r\n{cookie}Authorization: Bearer {token}x\r\n"), 401),
        (format!("Origin: {PAGE}\r\nCookie: other={token}\r\n"), 401),
    ] {
        let answer = ask("POST", "/websocket/ticket", &headers).await;
        assert_eq!(answer.status, status, "{headers}");
    }
    drop(usher.connect_ticket(&ticket).await.unwrap());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_in_origins_gives_no_ticket_by_cookie() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).extra("[tickets]\norigins = [\"*\"]\n").start().await;
    let headers = format!(
        "Origin: https://evil.example.com\r\nCookie: access_token={}\r\n",
        usher.token("ada")
    );
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = client::http(usher.plain, request.as_bytes()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-credentials")), (403, None));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn query_cookie_and_header_open_plain_http_and_other_credentials_go_on() {
    let backend = Backend::start().await;
    let routes = route("/api/*", &["query", "cookie"])
        + "token_parameter = \"jwt\"\ntoken_cookie = \"__Host-jwt\"\n";
    let usher = setup(backend.url(), &routes).start().await;
    let token = usher.token("ada");
    let get = async |target: String, headers: &str| {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
        client::http(usher.plain, request.as_bytes()).await.status
    };
    // A form decoder reads both of these names as one.
    for name in ["jwt", "%6a%77t"] {
        assert_eq!(get(format!("/api/x?{name}={}", token.replace('.', "%2E")), "").await, 200);
    }
    assert_eq!(
        get(
            "/api/x".to_owned(),
            &format!(
                "Cookie: __Host-jwt={token}; access_token=mine\r\nAuthorization: Basic mine\r\n"
            )
        )
        .await,
        200
    );
    let heads = backend.heads();
    assert_eq!(
        (heads[2]["cookie"].to_str().unwrap(), heads[2]["authorization"].to_str().unwrap()),
        ("access_token=mine", "Basic mine")
    );
    // No credential of the upstream has the form of a ticket.
    let ticket = "A".repeat(43);
    let cookie = format!("Cookie: __Host-jwt={token}\r\n");
    assert_eq!(get(format!("/api/x?ticket={ticket}&ticket=7"), &cookie).await, 200);
    assert_eq!(backend.targets().last().unwrap(), "/api/x?ticket=7");
    assert_eq!(
        get(format!("/api/x?access_token={token}"), "").await,
        401,
        "on this route the parameter has another name"
    );
    assert_eq!(get(format!("/api/x?jwt={token}&jwt={token}"), "").await, 400);
    assert_eq!(
        get("/api/x?jwt=".to_owned(), &format!("Cookie: __Host-jwt={token}\r\n")).await,
        401
    );
    assert_eq!(backend.heads().len(), 4);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begun_by_any_token_is_renewed_in_its_stream() {
    let echo = Echo::start().await;
    let routes: String = ["subprotocol", "query", "cookie"]
        .map(|method| route(&format!("/{method}"), &[method]))
        .concat();
    let usher = setup(echo.url(), &routes).start().await;
    for method in ["subprotocol", "query", "cookie"] {
        let token = usher.token_with("ada", json!({ "exp": token::now() + 6 }));
        let (target, headers) = match method {
            "query" => (format!("/query?access_token={token}"), vec![]),
            "cookie" => ("/cookie".to_owned(), vec![("cookie", format!("access_token={token}"))]),
            _ => (
                "/subprotocol".to_owned(),
                vec![("sec-websocket-protocol", format!("echo.v1, bearer.{token}"))],
            ),
        };
        let mut headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push(("origin", PAGE));
        let mut socket = usher.open(&target, &headers).await.unwrap();
        assert_eq!(json_of(&mut socket).await["type"], "auth_required", "{method}");
        let fresh = usher.token_with("ada", json!({ "exp": token::now() + 3600 }));
        socket.send(auth(&fresh)).await.unwrap();
        assert_eq!(json_of(&mut socket).await["type"], "auth_ok", "{method}");
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
    assert!(
        echo.messages().iter().all(|message| !message.is_text()),
        "an auth message reached the upstream"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_identity_is_loud_and_is_removed_in_every_spelling() {
    let upstream = Recorder::start(Script::Accept(Vec::new())).await;
    let routes =
        route("/ws", &["bypass"]) + "[[route]]\npath = \"/open\"\nupstream = \"chat\"\nauth = []\n";
    let usher = setup(upstream.url(), &routes).start().await;
    usher.keep_secret(BYPASS_SECRET);
    let good = format!("{BYPASS_SECRET} ada chat:read,chat:write");
    for (path, headers, status) in [
        ("/ws", format!("X-Usher-Bypass: {good}\r\nX_Usher_Bypass: {good}\r\n"), 101),
        ("/ws", format!("X-Usher-Bypass: {good}\r\nX-Usher-Bypass: {good}\r\n"), 400),
        ("/ws", format!("X_Usher_Bypass: {good}\r\n"), 401),
        ("/ws", format!("X-Usher-Bypass: {BYPASS_SECRET}\r\n"), 401),
        ("/ws", format!("X-Usher-Bypass: {BYPASS_SECRET}x ada\r\n"), 401),
        (
            "/open",
            format!(
                "X-Usher-Bypass: {good}\r\nx.usher.bypass: {good}\r\nX-USHER_BYPASS: {good}\r\n"
            ),
            101,
        ),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(path, &headers)).await;
        assert_eq!(Answer::parse(raw.read_head().await.as_bytes()).status, status, "{headers}");
    }
    let seen = upstream.connections();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|seen| !seen.to_lowercase().contains("bypass:") && !seen.contains("canary")),
        "{seen:?}"
    );
    let claims = context(&seen[0]);
    assert_eq!(
        (&claims["sub"], &claims["auth"]["method"], &claims["auth"]["issuer"]),
        (&json!("ada"), &json!("bypass"), &json!("bypass"))
    );
    assert_eq!(claims["permissions"], json!(["chat:read", "chat:write"]));

    let metrics = usher.metrics().await;
    for line in [
        "usher_bypass_allowed 1",
        "usher_bypass_used_total{route=\"/ws\",outcome=\"accepted\"} 1",
        "usher_bypass_used_total{route=\"/ws\",outcome=\"refused\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    usher.logged(&["bypass enabled"]).await;
    for event in ["bypass_allowed", "bypass_used"] {
        usher.logged(&["\"WARN\"", event]).await;
    }
    let audit = usher.finish().await;
    let used: Vec<_> = audit.iter().filter(|line| line["event"] == "bypass_used").collect();
    assert_eq!(used.len(), 3);
    for line in used {
        assert_eq!((&line["method"], &line["route"]), (&json!("bypass"), &json!("/ws")), "{line}");
        let user = (line["outcome"] == "accepted").then_some("ada");
        assert_eq!(line["user"].as_str(), user, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_cannot_turn_test_identities_on() {
    let upstream = Recorder::start(Script::Accept(Vec::new())).await;
    let plain = Setup::new(upstream.url()).routes(&route("/ws", &["header"]));
    let bypass = "[bypass]\nsecret_file = \"bypass-secret\"\n";
    let usher = plain.extra(bypass).file("bypass-secret", BYPASS_SECRET.to_owned()).start().await;
    usher.keep_secret(BYPASS_SECRET);
    let path = usher.folder().join("usher.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replace("auth = [\"header\"]", "auth = [\"header\", \"bypass\"]"))
        .unwrap();
    let order = format!(
        "POST /reload HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: 2\r\n\r\n{{}}",
        usher.admin
    );
    let answer = client::http(usher.admin, order.as_bytes()).await;
    assert!(answer.status == 422 && answer.body.contains("--allow-bypass"), "{}", answer.body);
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("X-Usher-Bypass: {BYPASS_SECRET} ada\r\n"))).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 401 "));
    assert!(usher.metrics().await.contains("usher_bypass_allowed 0"));
    usher.finish().await;
}

#[test]
fn a_test_identity_without_its_flag_keeps_usher_from_starting() {
    let folder = std::env::temp_dir().join(format!("usher-bypass-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("usher.toml");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n[[upstream]]\nname = \"chat\"\n\
         servers = [\"http://127.0.0.1:9\"]\n[bypass]\nsecret_file = \"secret\"\n{}",
        route("/ws", &["bypass"])
    );
    std::fs::write(&file, config).unwrap();
    std::fs::write(folder.join("secret"), BYPASS_SECRET).unwrap();
    let usher = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_usher")).args(arguments).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains(BYPASS_SECRET), "{text}");
        (output.status.code(), text)
    };
    let (code, text) = usher(&["run", "-c"]);
    assert!(code == Some(78) && text.contains("--allow-bypass"), "{code:?} {text}");
    let (code, text) = usher(&["check", "--offline", "-c"]);
    assert!(code == Some(78) && text.contains("--allow-bypass"), "{code:?} {text}");
    let (code, text) = usher(&["check", "--offline", "--allow-bypass", "-c"]);
    assert!(code == Some(0) && text.contains("impersonates any user"), "{code:?} {text}");
    let (code, text) = usher(&["check", "--offline", "--allow-bypass", "--strict", "-c"]);
    assert!(code == Some(1) && text.contains("impersonates any user"), "{code:?} {text}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_browser_opens_by_subprotocol_and_by_cookie() {
    let echo = Echo::start().await;
    let routes = (route("/protocol", &["subprotocol"]) + &route("/cookie", &["cookie"]))
        .replace(PAGE, "http://localhost");
    let usher = setup(echo.url(), &routes).start().await;
    let token = usher.token("ada");
    let base = format!("localhost:{}", usher.plain.port());
    let shown = token.clone();
    let run = move || {
        Command::new("node")
            .args(["credentials.mjs", &base, &shown])
            .current_dir("tests/e2e/browser")
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{out}{err}{}\nscripts/setup-tests.sh installs what the tests need",
        usher.log()
    );
    let visits = echo.visits();
    assert!(visits.len() >= 2, "one for each way: {visits:?}");
    for visit in visits {
        assert!(!format!("{visit:?}").contains(&token), "{visit:?}");
    }
    usher.finish().await;
}
