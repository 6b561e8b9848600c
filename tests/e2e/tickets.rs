//! Tickets, from the endpoint to the socket.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::client::{self, Raw};
use crate::support::{DoorBook, Echo, Recorder, Script, Setup, eventually, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket"]
    origins = ["https://app.example.com"]
    identity_headers = { "X-User-Id" = "sub" }
    [[route]]
    path = "/other"
    upstream = "chat"
    auth = ["ticket"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_socket_once() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let mut book = DoorBook::default();
    let token = usher.token("ada");
    let (status, answer) =
        usher.ask_ticket(&token, r#"{"ttl_seconds": 20, "permissions": ["chat:read"]}"#, "").await;
    assert_eq!(status, 201);
    assert_eq!(
        (answer["ttl_seconds"].as_u64(), answer["single_use"].as_bool()),
        (Some(20), Some(true))
    );
    assert_eq!(
        answer["expires_at"].as_u64().unwrap() - answer["created_at"].as_u64().unwrap(),
        20_000
    );
    let ticket = answer["ticket_id"].as_str().unwrap();
    assert_eq!(answer["websocket_url"], format!("ws://chat.example.com/ws?ticket={ticket}"));

    let validate = format!(
        "GET /websocket/ticket/{ticket}/validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer "
    );
    let valid = client::http(usher.plain, format!("{validate}{token}\r\n\r\n").as_bytes()).await;
    assert!(valid.status == 200 && valid.body.contains("\"valid\":true"), "{}", valid.body);
    let theirs =
        client::http(usher.plain, format!("{validate}{}\r\n\r\n", usher.token("eve")).as_bytes())
            .await;
    assert!(
        theirs.status == 200 && theirs.body.contains("\"valid\":false"),
        "another's ticket: {}",
        theirs.body
    );

    book.admit("ada");
    drop(usher.connect_ticket(ticket).await.unwrap());
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    let again = client::Answer::parse(&raw.read_to_close().await);
    assert!(again.status == 403 && again.body.contains("INVALID_TICKET"), "{}", again.body);
    assert_eq!(book.verdict(&echo.visits()), Vec::<String>::new());
    let audit = usher.finish().await;
    assert!(
        audit.iter().any(|line| line["event"] == "ticket_redeem_refused"
            && line["outcome"].to_string().contains("used")),
        "{audit:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_racing_redemptions_over_tls_one_wins() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let mut book = DoorBook::default();
    for _ in 0..3 {
        let ticket = usher.issue_ticket(&usher.token("ada")).await;
        book.admit("ada");
        // All TLS sessions are open before the first request goes out.
        let streams = join_all((0..64).map(|_| usher.tls_stream())).await;
        let request = upgrade_request(&format!("/ws?ticket={ticket}"), "");
        let heads = join_all(streams.into_iter().map(|stream| async {
            let mut raw = Raw(stream);
            raw.send(&request).await;
            raw.read_head().await
        }))
        .await;
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 101 ")).count(), 1);
        assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 403 ")).count(), 63);
    }
    assert_eq!(book.verdict(&echo.visits()), Vec::<String>::new());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_asks_too_much_is_told_so() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let token = usher.token("ada");
    for (body, status, code) in [
        (r#"{"ttl_seconds": 301}"#, 400, "INVALID_REQUEST"),
        (r#"{"ttl_seconds": 0}"#, 400, "INVALID_REQUEST"),
        (r#"{"ttl_seconds": "20"}"#, 400, "INVALID_REQUEST"),
        (r#"{"ttl": 20}"#, 400, "INVALID_REQUEST"),
        (r#"{"single_use": false}"#, 400, "INVALID_REQUEST"),
        (r#"{"route": "/none"}"#, 400, "INVALID_REQUEST"),
        (r#"{"permissions": ["chat:read", "admin"]}"#, 403, "PERMISSION_DENIED"),
        ("{", 400, "INVALID_REQUEST"),
        (&"x".repeat(5000), 400, "BAD_REQUEST"),
    ] {
        let (got, answer) = usher.ask_ticket(&token, body, "").await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{body:.40}");
        assert!(
            answer["request_id"].is_string()
                && answer["recoverable"].is_boolean()
                && answer["message"].is_string()
        );
    }
    let (status, answer) = usher.ask_ticket("nonsense", "", "").await;
    assert_eq!((status, answer["code"].as_str()), (401, Some("INVALID_TOKEN")));
    let get = client::get(usher.plain, "/websocket/ticket").await;
    assert_eq!((get.status, get.header("allow")), (405, Some("post, options")));
    assert_eq!(client::get(usher.plain, "/websocket/ticket/x/y/z").await.status, 404);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_listed_origin_may_ask_and_others_may_not() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /websocket/ticket HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"
        )
    };
    let good = client::http(usher.plain, preflight("https://app.example.com").as_bytes()).await;
    assert_eq!(
        (good.status, good.header("access-control-allow-origin")),
        (204, Some("https://app.example.com"))
    );
    let allowed = Some("authorization, content-type, traceparent, tracestate");
    assert_eq!(good.header("access-control-allow-headers"), allowed);
    let bad = client::http(usher.plain, preflight("https://evil.example.com").as_bytes()).await;
    assert_eq!((bad.status, bad.header("access-control-allow-origin")), (403, None));
    let token = usher.token("ada");
    assert_eq!(usher.ask_ticket(&token, "", "Origin: https://app.example.com\r\n").await.0, 201);
    assert_eq!(usher.ask_ticket(&token, "", "Origin: https://evil.example.com\r\n").await.0, 403);
    usher.finish().await;
}

/// Another page than those of `ROUTES`.
const HEADER_ROUTE: &str = r#"
    [[route]]
    path = "/header"
    upstream = "chat"
    auth = ["header"]
    origins = ["https://admin.example.com"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_route_without_tickets_can_read_which_methods_it_takes() {
    let echo = Echo::start().await;
    let (page, other) = ("https://admin.example.com", "https://evil.example.com");
    let body = r#"{"route":"/header"}"#;
    // Whether another route takes tickets or not.
    for routes in [HEADER_ROUTE.to_owned(), format!("{ROUTES}{HEADER_ROUTE}")] {
        let usher = Setup::new(echo.url()).routes(&routes).start().await;
        let send = async |request: &str, origin: &str, headers: &str, body: &str| {
            let head = format!(
                "{request} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n{headers}\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let answer = client::http(usher.plain, head.as_bytes()).await;
            let reader = answer.header("access-control-allow-origin").map(str::to_owned);
            (answer.status, reader, answer.body)
        };
        let readable = Some(page.to_owned());
        let preflight = "Access-Control-Request-Method: POST\r\n";
        let (status, reader, _) = send("OPTIONS /websocket/ticket", page, preflight, "").await;
        assert_eq!((status, reader), (204, readable.clone()));
        let (status, reader, text) = send("POST /websocket/ticket", page, "", body).await;
        assert_eq!((status, reader), (404, readable.clone()), "{text}");
        assert!(text.contains("TICKETS_OFF") && text.contains(r#"["header"]"#), "{text}");
        let config = "GET /websocket/config?route=/header";
        // A cookie of the page is not refused either. This one is not valid.
        for (headers, expected) in [("", 200), ("Cookie: access_token=x\r\n", 401)] {
            let (status, reader, text) = send(config, page, headers, "").await;
            assert_eq!((status, reader), (expected, readable.clone()), "{text}");
        }
        assert_eq!(send("POST /websocket/ticket", other, "", body).await.1, None);
        assert_eq!(send(config, other, "", "").await.1, None);
        // The page gets no ticket for another route, neither by its token nor by a cookie.
        let token = usher.token("ada");
        for credential in [
            format!("Authorization: Bearer {token}\r\n"),
            format!("Cookie: access_token={token}\r\n"),
        ] {
            for wanted in ["", r#"{"route":"/ws"}"#] {
                let request = "POST /websocket/ticket";
                let (status, _, text) = send(request, page, &credential, wanted).await;
                let expected = if routes == HEADER_ROUTE { 404 } else { 403 };
                assert_eq!(status, expected, "{credential} {wanted}: {text}");
            }
        }
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_origins_at_the_endpoints_of_usher_are_a_bad_request() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let token = usher.token("ada");
    let (listed, other) = ("https://app.example.com", "https://evil.example.com");
    for (first, second) in [(listed, other), (other, listed), (listed, listed)] {
        let origins = format!("Origin: {first}\r\nOrigin: {second}\r\n");
        for request in ["POST /websocket/ticket", "GET /websocket/config?route=/ws"] {
            let head = format!(
                "{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
                 {origins}Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let answer = client::http(usher.plain, head.as_bytes()).await;
            assert!(
                answer.status == 400 && answer.body.contains("\"BAD_REQUEST\""),
                "{request} {origins}: {} {}",
                answer.status,
                answer.body
            );
            assert_eq!(answer.header("access-control-allow-origin"), None, "{request} {origins}");
        }
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_ticket_is_good_only_where_it_was_made_for() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[tickets]\nbind = [\"origin\", \"ip\"]\n")
        .start()
        .await;
    let token = usher.token("ada");
    for (target, origin, status) in [
        ("/ws", "https://app.example.com", "HTTP/1.1 101 "),
        ("/other", "https://app.example.com", "HTTP/1.1 403 "),
        ("/ws", "", "HTTP/1.1 403 "),
    ] {
        let (_, answer) = usher
            .ask_ticket(
                &token,
                &json!({ "route": "/ws" }).to_string(),
                "Origin: https://app.example.com\r\n",
            )
            .await;
        let ticket = answer["ticket_id"].as_str().unwrap();
        let origin =
            if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(&format!("{target}?ticket={ticket}"), &origin)).await;
        assert!(raw.read_head().await.starts_with(status), "{target} {origin}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_above_the_ticket_rate_gets_retry_after() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[tickets]\nrate_per_user = \"3/1h\"\n")
        .start()
        .await;
    let token = usher.token("ada");
    for _ in 0..3 {
        assert_eq!(usher.ask_ticket(&token, "", "").await.0, 201);
    }
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = client::http(usher.plain, request.as_bytes()).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(usher.ask_ticket(&usher.token("bob"), "", "").await.0, 201, "another user");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_it_is_let_in_leaves_nothing_behind() {
    let recorder = Recorder::start(Script::Silent).await;
    let usher = Setup::new(recorder.url()).routes(ROUTES).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    eventually("the upstream gets the request", async || recorder.requests() == 1).await;
    drop(raw);
    eventually("the connection to the upstream is closed", async || recorder.open() == 0).await;
    // The ticket is spent, so a second client cannot use it.
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(&format!("/ws?ticket={ticket}"), "")).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 403 "));
    drop(raw);
    let audit = usher.finish().await;
    let of = |event: &str| {
        audit
            .iter()
            .filter(|line| line["event"] == event)
            .map(|line| line["outcome"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("ticket_lost").len(), 1);
    assert_eq!(of("upgrade_rejected"), ["\"client_gone\"", "\"invalid_ticket\""]);
}

const NO_TICKETS: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["query", "message", "header"]
    legacy = ["query"]
    deprecated = "2026-11-01"
    origins = ["https://app.example.com"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn where_no_route_takes_tickets_the_endpoint_lists_the_methods() {
    let echo = Echo::start().await;
    let tickets = "[tickets]\norigins = [\"https://app.example.com\"]\n";
    let usher = Setup::new(echo.url()).routes(NO_TICKETS).extra(tickets).start().await;
    for (token, body) in [
        (usher.token("ada"), ""),
        (usher.token("ada"), r#"{"route":"/ws"}"#),
        ("none".to_owned(), ""),
    ] {
        let (status, answer) = usher.ask_ticket(&token, body, "").await;
        assert_eq!(
            (status, &answer["code"], &answer["recoverable"]),
            (404, &"TICKETS_OFF".into(), &false.into()),
            "{answer}"
        );
        assert_eq!((&answer["route"], &answer["method"]), (&"/ws".into(), &"message".into()));
        // The methods that are not legacy come first.
        assert_eq!(answer["methods"], serde_json::json!(["message", "header", "query"]));
    }
    // A page of another origin gets no list of methods.
    let (status, answer) =
        usher.ask_ticket(&usher.token("ada"), "", "Origin: https://evil.example.com\r\n").await;
    assert_eq!(
        (status, &answer["code"], answer.get("methods")),
        (403, &"FORBIDDEN_ORIGIN".into(), None)
    );
    assert!(usher.finish().await.iter().any(|line| line["outcome"] == "tickets_off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_takes_no_tickets_has_none_made_for_it() {
    let echo = Echo::start().await;
    let other = "[[route]]\npath = \"/old\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
        [[route]]\npath = \"/open\"\nupstream = \"chat\"\nauth = []\n";
    let usher = Setup::new(echo.url()).routes(&format!("{ROUTES}{other}")).start().await;
    let token = usher.token("ada");
    let (status, answer) = usher.ask_ticket(&token, r#"{"route":"/old"}"#, "").await;
    assert_eq!(
        (status, &answer["code"], &answer["methods"]),
        (404, &"TICKETS_OFF".into(), &serde_json::json!(["header"]))
    );
    for token in [&*token, "none"] {
        let (status, answer) = usher.ask_ticket(token, r#"{"route":"/open"}"#, "").await;
        assert_eq!(
            (status, &answer["code"], &answer["methods"]),
            (404, &"TICKETS_OFF".into(), &serde_json::json!([]))
        );
    }
    let (status, answer) = usher.ask_ticket(&token, r#"{"route":"/nowhere"}"#, "").await;
    assert_eq!((status, &answer["code"]), (400, &"INVALID_REQUEST".into()));
    assert_eq!(usher.ask_ticket(&token, "", "").await.0, 201);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_can_read_retry_after_and_the_request_id_of_a_refusal() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTES)
        .extra("[tickets]\nrate_per_user = \"1/1h\"\n")
        .start()
        .await;
    let token = usher.token("ada");
    let ask = |body: &str| {
        format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Origin: https://app.example.com\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let first = client::http(usher.plain, ask("").as_bytes()).await;
    usher.keep_secret(
        serde_json::from_str::<serde_json::Value>(&first.body).unwrap()["ticket_id"]
            .as_str()
            .unwrap(),
    );
    let limited = client::http(usher.plain, ask("").as_bytes()).await;
    let long = client::http(usher.plain, ask(&" ".repeat(5000)).as_bytes()).await;
    for (answer, status) in [(&first, 201), (&limited, 429), (&long, 400)] {
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (status, Some("https://app.example.com"))
        );
        assert_eq!(
            answer.header("access-control-expose-headers"),
            Some("retry-after, x-request-id")
        );
        assert!(answer.header("x-request-id").is_some());
    }
    assert!(limited.header("retry-after").is_some());
    usher.finish().await;
}

/// A user asks while the store is full. That is not a fault of the user, so it does not count
/// against the rate.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_the_server_could_not_make_is_not_counted() {
    let echo = Echo::start().await;
    let extra = "[tickets]\nrate_per_user = \"2/1h\"\nrate_per_address = \"100/1h\"\n[store]\n\
        max_tickets = 1\n";
    let usher = Setup::new(echo.url()).routes(ROUTES).extra(extra).start().await;
    let (ada, bob) = (usher.token("ada"), usher.token("bob"));
    let ticket = usher.issue_ticket(&bob).await;
    for _ in 0..5 {
        let (status, answer) = usher.ask_ticket(&ada, "", "").await;
        assert_eq!((status, &answer["code"]), (503, &"STORE_UNAVAILABLE".into()));
    }
    drop(usher.open(&format!("/ws?ticket={ticket}"), &[]).await.unwrap());
    assert_eq!(
        usher.ask_ticket(&ada, "", "").await.0,
        201,
        "there is room, and the rate is not used up"
    );
    usher.finish().await;
}
