//! Tests of the admin listener without a process around it.

use super::*;
use crate::auth::revocation::Revocations;
use crate::base::rate::Rate;
use crate::session::registry::tests::handle;
use crate::telemetry::family::LabelNames;
use http::header::{ALLOW, AUTHORIZATION, HOST, ORIGIN};
use http_body_util::BodyExt;
use serde_json::Value;
use std::future::Future;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// `tests/api` holds the operations themselves to a running process.
#[test]
fn every_path_is_in_the_api_reference() {
    let reference = include_str!("../../docs/openapi.yaml");
    for (path, kind) in PATHS {
        let is_post = matches!(kind, Kind::Order | Kind::Login);
        let operation = if is_post { "post" } else { "get" };
        let entry = format!("\n  {path}:\n    servers: *admin\n    {operation}:\n");
        let first = format!("\n  {path}:\n    servers: &admin\n");
        assert!(reference.contains(&entry) || reference.contains(&first), "{path}");
    }
}

fn telemetry() -> Telemetry {
    let names = LabelNames::default().with("route", ["/ws"]);
    Telemetry::detached(crate::telemetry_setup::families(), names)
}

fn admin(token: Option<&str>) -> Arc<Admin> {
    Arc::new(Admin {
        telemetry: Arc::new(telemetry()),
        registry: Registry::new(),
        readiness: Arc::default(),
        token: token.map(Secret::from),
        logins: Arc::default(),
        login_rules: LoginRules {
            ttl: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            most: 4,
            wrong_rate: Rate { count: 2, per: Duration::from_secs(60) },
        },
        history: Arc::default(),
        explaining: Explaining::new(None),
        revoking: Revoking {
            revocations: Arc::new(Revocations::new(10)),
            keep: Duration::from_secs(60),
            issuers: Vec::new(),
            fleet: None,
        },
        draining: Draining {
            drain: Arc::default(),
            rules: crate::config::Drain { delay: Duration::ZERO, window: Duration::ZERO },
        },
        summary: ConfigSummary {
            listeners: vec![SocketAddr::from(([127, 0, 0, 1], 8443))],
            node: "edge-1".to_owned(),
            ..ConfigSummary::default()
        },
        orders: Orders::channel().0,
        figures: Box::new(Figures::default),
    })
}

const PEER: Peer = Peer { is_file: false, address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) };

fn ask(admin: &Admin, method: &str, target: &str, authorization: &[&str]) -> Response<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    for value in authorization {
        request = request.header(AUTHORIZATION, *value);
    }
    asked(admin, &request.body(()).unwrap())
}

fn asked(admin: &Admin, request: &Request<()>) -> Response<Full<Bytes>> {
    let answer = || match request.uri().path() {
        SESSIONS => at_once(admin.sessions(request.uri().query().unwrap_or_default())),
        path => admin.answer(path),
    };
    admin.refuse(request, PEER, Now::read()).unwrap_or_else(answer)
}

/// Polls a future that must be ready: without other nodes, nothing waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(done) = std::pin::pin!(future).poll(&mut context) else {
        panic!("it waits")
    };
    done
}

fn get(admin: &Admin, target: &str) -> (u16, Value) {
    let response = ask(admin, "GET", target, &[]);
    let status = response.status().as_u16();
    let body = at_once(response.into_body().collect()).unwrap();
    (status, serde_json::from_slice(&body.to_bytes()).unwrap())
}

#[test]
fn readiness_follows_the_life_of_the_process() {
    let admin = admin(None);
    assert_eq!(
        get(&admin, "/readyz"),
        (503, json!({ "status": "not ready", "reason": "starting" }))
    );
    admin.readiness.set_ready();
    assert_eq!(get(&admin, "/readyz").0, 200);
    admin.readiness.set_draining();
    admin.readiness.set_ready();
    assert_eq!(
        get(&admin, "/readyz"),
        (503, json!({ "status": "not ready", "reason": "draining" }))
    );
    assert_eq!(get(&admin, "/livez").0, 200);
    assert_eq!(get(&admin, "/status").1["draining"], true);
}

#[test]
fn sessions_are_listed_up_to_the_limit() {
    let admin = admin(None);
    let _guards = [admin.registry.open(handle("ann", 1)), admin.registry.open(handle("bob", 2))];
    let (status, body) = get(&admin, "/sessions?limit=1");
    assert_eq!(
        (status, &body["total"], body["sessions"].as_array().unwrap().len()),
        (200, &2.into(), 1)
    );
    let session = &body["sessions"][0];
    assert_eq!(
        (&session["user"], &session["method"], &session["peer"]),
        (&"ann".into(), &"ticket".into(), &"127.0.0.1".into())
    );
    assert_eq!(get(&admin, "/sessions?limit=many").0, 400);
    let (status, body) = get(&admin, "/sessions?fleet=true&user=ann");
    assert_eq!(
        (status, &body["fleet"], &body["sessions"][0]["node"]),
        (200, &"alone".into(), &"edge-1".into())
    );
    let (_, body) = get(&admin, "/sessions?user=bob&route=%2Fws");
    assert_eq!((&body["total"], &body["sessions"][0]["user"]), (&1.into(), &"bob".into()));
    assert_eq!(get(&admin, "/sessions?user=bob&route=/other").1["total"], 0);
    let by = json!([{ "route": "/ws", "method": "ticket", "sessions": 2 }]);
    assert_eq!(get(&admin, "/status").1["sessions_by"], by);
    assert_eq!(get(&admin, "/status").1["listeners"][0], "127.0.0.1:8443");
}

#[test]
fn everything_but_the_probes_asks_for_the_token() {
    let mut admin = admin(Some("0123456789abcdef"));
    Arc::get_mut(&mut admin).unwrap().login_rules.wrong_rate.count = 5;
    let status = |target: &str, shown: &[&str]| ask(&admin, "GET", target, shown).status().as_u16();
    for target in ["/metrics", "/sessions", "/status", "/revoke", "/nothing"] {
        assert_eq!(status(target, &[]), 401);
        assert_eq!(status(target, &["Bearer 0123456789abcdeX"]), 401);
        assert_eq!(status(target, &["Bearer"]), 401);
        assert_eq!(status(target, &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]), 401);
    }
    assert_eq!(status("/status", &["bearer 0123456789abcdef"]), 200);
    assert_eq!(status("/livez", &[]), 200);
}

/// An address has two wrong tokens, as a login or as a bearer token.
#[test]
fn wrong_tokens_of_an_address_are_limited_and_the_right_one_is_not() {
    let admin = admin(Some("right"));
    let bearer = |target: &str, token: &str| {
        ask(&admin, "GET", target, &[&format!("Bearer {token}")]).status().as_u16()
    };
    let log_in = |token: &str| {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, "application/json".parse().unwrap())]);
        let body = json!({ "token": token }).to_string();
        admin.log_in(&headers, body.as_bytes(), PEER.address, Now::read()).status().as_u16()
    };
    assert_eq!(bearer("/livez", "guess"), 200, "a probe judges no token");
    assert_eq!(ask(&admin, "GET", "/status", &["Basic YTpi"]).status(), 401);
    assert_eq!([bearer("/status", "guess"), log_in("guess")], [401, 401]);
    assert_eq!([bearer("/status", "guess"), bearer("/nothing", "guess"), log_in("a")], [429; 3]);
    assert_eq!([bearer("/status", "right"), log_in("right")], [200, 200]);
    assert_eq!(ask(&admin, "GET", "/status", &[]).status(), 401, "no token is no guess");
}

#[test]
fn the_answer_to_a_login_of_another_page_tells_nothing_about_a_bearer_token() {
    let admin = admin(Some("right"));
    for token in ["right", "guess"] {
        let request = Request::builder()
            .method("POST")
            .uri(LOGOUT)
            .header(ORIGIN, "https://evil.example")
            .header(AUTHORIZATION, format!("Bearer {token}"));
        assert_eq!(asked(&admin, &request.body(()).unwrap()).status(), 403);
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_login_must_come_as_soon_as_a_head() {
    for path in [LOGIN, LOGOUT] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let current = Arc::new(ArcSwap::new(admin(Some("t"))));
        let server = tokio::spawn(Admin::serve(current, Listening::Tcp(listener)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             content-length: 9\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (sent, mut text) = (Now::read(), String::new());
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert!(Now::read().mono - sent.mono < 2 * HEAD_TIMEOUT);
        server.abort();
    }
}

#[test]
fn unknown_paths_and_methods_are_told_so() {
    let admin = admin(None);
    assert_eq!(get(&admin, "/nothing").0, 404);
    let response = ask(&admin, "POST", "/metrics", &[]);
    assert_eq!(
        (response.status().as_u16(), &response.headers()[ALLOW]),
        (405, &HeaderValue::from_static("GET, HEAD"))
    );
    let response = ask(&admin, "GET", "/revoke", &[]);
    assert_eq!(
        (response.status().as_u16(), &response.headers()[ALLOW]),
        (405, &HeaderValue::from_static("POST"))
    );
}

#[test]
fn without_a_token_a_foreign_host_name_is_refused() {
    let status = |admin: &Admin, host: &str| {
        let request = Request::builder()
            .uri("/sessions")
            .header(HOST, host)
            .header(AUTHORIZATION, "Bearer t");
        asked(admin, &request.body(()).unwrap()).status().as_u16()
    };
    let open = admin(None);
    for host in ["localhost:9090", "127.0.0.1:9090", "[::1]:9090", "LOCALHOST"] {
        assert_eq!(status(&open, host), 200, "{host}");
    }
    for host in ["rebound.example.com:9090", "localhost.example.com", ""] {
        assert_eq!(status(&open, host), 421, "{host}");
    }
    assert_eq!(status(&admin(Some("t")), "admin.internal"), 200);
}

#[tokio::test]
async fn metrics_are_served_over_a_real_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        tokio::spawn(Admin::serve(Arc::new(ArcSwap::new(admin(None))), Listening::Tcp(listener)));
    let mut text = String::new();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert!(text.contains("usher_build_info{version="), "{text}");
    server.abort();
}
