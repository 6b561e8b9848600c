//! Traces: the spans of requests, as a receiver with the published messages reads them.

use futures_util::SinkExt;
use serde_json::{Value, json};

use crate::first_message::auth;
use crate::support::client::{self, Answer};
use crate::support::span_receiver::names;
use crate::support::{
    Echo, Http2, Raw, Setup, SpanReceiver, Usher, eventually, token, upgrade_request,
};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CALLER_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN: &str = "00f067aa0ba902b7";

const ROUTES: &str = r#"
    [[route]]
    path = "/rooms/{room}"
    upstream = "chat"
    auth = ["ticket", "header", "query", "cookie", "message"]
    origins = ["https://app.example.com"]
    [[route]]
    path = "/api/*"
    upstream = "chat"
    auth = ["header"]
"#;

/// A listener whose peer is trusted, as the third one.
const TRUSTING: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
                        trusted_peers = [\"127.0.0.1\"]\n";

async fn start(echo: &Echo, receiver: &SpanReceiver, lines: &str) -> Usher {
    let extra = format!("{TRUSTING}{}", receiver.table(lines));
    Setup::new(echo.url()).routes(ROUTES).extra(&extra).start().await
}

/// Opens a WebSocket over this listener, and closes it. Returns the status.
async fn upgrade(usher: &Usher, listener: usize, target: &str, headers: &str) -> u16 {
    let mut raw = Raw::connect(usher.listeners[listener]).await;
    raw.send(upgrade_request(target, headers)).await;
    Answer::parse(raw.read_head().await.as_bytes()).status
}

/// Returns the headers of a caller with a trace.
fn traced() -> String {
    format!("traceparent: {CALLER}\r\ntracestate: vendor=1\r\n")
}

fn bearer(usher: &Usher, user: &str) -> String {
    format!("Authorization: Bearer {}\r\n", usher.token(user))
}

/// Returns the trace, the span and the flags that the upstream got last.
fn upstream_context(echo: &Echo) -> (String, String, String) {
    let visits = echo.visits();
    let seen = visits.last().unwrap().all("traceparent");
    let [header] = seen.as_slice() else { panic!("one traceparent: {seen:?}") };
    let parts: Vec<&str> = header.split('-').collect();
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_one_span_with_its_phases_that_ends_at_the_101() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    let usher = start(&echo, &receiver, "service_name = \"edge\"").await;
    let headers = bearer(&usher, "ada") + &traced();
    assert_eq!(upgrade(&usher, 1, "/rooms/42?access_token_hint=x", &headers).await, 101);

    let (root, phases) = receiver.request("GET /rooms/{room}", 0).await;
    assert_eq!(names(&phases), ["authenticate", "dial", "upgrade"]);
    let mut last = root["start"].as_u64();
    for phase in &phases {
        assert!(last <= phase["start"].as_u64(), "{phases:?}");
        assert!(phase["start"].as_u64() <= phase["end"].as_u64(), "{phases:?}");
        assert!(phase["end"].as_u64() <= root["end"].as_u64(), "{root} {phases:?}");
        last = phase["end"].as_u64();
    }
    let found = &root["attributes"];
    for (key, expected) in [
        ("http.request.method", json!("GET")),
        ("http.route", json!("/rooms/{room}")),
        ("http.response.status_code", json!(101)),
        ("url.scheme", json!("http")),
        ("network.protocol.version", json!("1.1")),
        ("usher.upgrade", json!("websocket")),
        ("usher.auth.method", json!("header")),
        ("usher.upstream", json!("chat")),
    ] {
        assert_eq!(found[key], expected, "{key}: {found}");
    }
    assert!(found["client.address"].is_null() && found["url.path"].is_null(), "{found}");
    let resource = &receiver.requests()[0]["resource"];
    assert_eq!(resource["service.name"], "edge");

    // The client is a stranger: its trace is linked and not continued, and its state ends here.
    assert_ne!(root["trace_id"], CALLER_TRACE);
    let link = &root["links"][0];
    assert_eq!((&link["trace_id"], &link["span_id"]), (&json!(CALLER_TRACE), &json!(CALLER_SPAN)));
    let (trace_id, span_id, flags) = upstream_context(&echo);
    assert_eq!(
        (json!(trace_id), json!(span_id)),
        (root["trace_id"].clone(), phases[2]["span_id"].clone(),)
    );
    assert_eq!(flags, "01");
    assert!(echo.visits().last().unwrap().all("tracestate").is_empty());

    // From the lines of the start and of the end to the trace.
    let ended = async || {
        let log = usher.log();
        let line = log.lines().find(|line| line.contains("\"event\":\"session_ended\""))?;
        serde_json::from_str::<Value>(line).ok()
    };
    let logged = eventually("the end is in the log", ended).await;
    let audit = usher.finish().await;
    for event in ["session_started", "session_ended"] {
        let line = audit.iter().find(|line| line["event"] == event).unwrap();
        assert_eq!(line["trace_id"], root["trace_id"], "{line}");
        assert_eq!(line["session_id"], root["attributes"]["usher.session.id"]);
    }
    assert_eq!(logged["trace_id"], root["trace_id"], "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_session_names_its_trace_if_that_is_recorded() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    let usher = start(&echo, &receiver, "sample_ratio = 0").await;
    let short = json!({ "exp": token::now() + 4 });
    let bearers = ["ada", "bob"]
        .map(|user| format!("Authorization: Bearer {}\r\n", usher.token_with(user, short.clone())));
    let mut sockets = Vec::new();
    for (headers, traceparent) in bearers.iter().zip([CALLER, &CALLER.replace("b7-01", "b7-00")]) {
        let mut raw = Raw::connect(usher.listeners[2]).await;
        let headers = format!("{headers}traceparent: {traceparent}\r\n");
        raw.send(upgrade_request("/rooms/1", &headers)).await;
        assert_eq!(Answer::parse(raw.read_head().await.as_bytes()).status, 101);
        sockets.push(raw);
    }
    eventually("both are asked for a credential", async || {
        usher.log().matches("\"event\":\"reauth_asked\"").count() == 2
    })
    .await;
    drop(sockets);
    let audit = usher.finish().await;
    let of = |user: &str| {
        let lines = audit.iter().filter(|line| line["user"] == user);
        let lines = lines.map(|line| (line["event"].clone(), line["trace_id"].clone()));
        lines.collect::<Vec<_>>()
    };
    let events = ["session_started", "reauth_asked", "session_ended"];
    assert_eq!(of("ada"), events.map(|event| (json!(event), json!(CALLER_TRACE))));
    assert_eq!(of("bob"), events.map(|event| (json!(event), Value::Null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_trusted_peer_goes_on_as_it_decided() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    let usher = start(&echo, &receiver, "sample_ratio = 0").await;
    let traced = bearer(&usher, "ada") + &traced();
    // A stranger cannot force a record, and the upstream is told so.
    assert_eq!(upgrade(&usher, 1, "/rooms/1", &traced).await, 101);
    let (trace_id, _, flags) = upstream_context(&echo);
    assert!(trace_id != CALLER_TRACE && flags == "00", "{trace_id} {flags}");
    // A trusted peer decides either way.
    let untraced = traced.replace("b7-01", "b7-00");
    assert_eq!(upgrade(&usher, 2, "/rooms/1", &untraced).await, 101);
    let (trace_id, _, flags) = upstream_context(&echo);
    assert!(trace_id == CALLER_TRACE && flags == "00", "{trace_id} {flags}");
    assert_eq!(upgrade(&usher, 2, "/rooms/1", &traced).await, 101);

    let (root, phases) = receiver.request("GET /rooms/{room}", 0).await;
    assert_eq!((&root["trace_id"], &root["parent"]), (&json!(CALLER_TRACE), &json!(CALLER_SPAN)));
    assert_eq!((&root["links"], &root["state"]), (&json!([]), &json!("vendor=1")));
    // Sampled; the parent is of another program.
    assert_eq!(root["flags"], 0x301);
    let upstream = upstream_context(&echo);
    let expected = (CALLER_TRACE, phases[2]["span_id"].as_str().unwrap(), "01");
    assert_eq!((&*upstream.0, &*upstream.1, &*upstream.2), expected);
    assert_eq!(echo.visits().last().unwrap().all("tracestate"), ["vendor=1"]);
    assert_eq!(receiver.spans_of("accept").len(), 4, "{}", receiver.text());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redemption_of_a_ticket_links_its_issue() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    let usher = start(&echo, &receiver, "sample_ratio = 0").await;
    let ask = |headers: &str| {
        format!(
            "POST /websocket/ticket HTTP/1.1\r\nHost: chat.example.com\r\n{}{headers}\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
            bearer(&usher, "ada")
        )
    };
    let redeem = async |listener: usize, headers: &str| {
        let answer = client::http(usher.listeners[listener], ask(headers).as_bytes()).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        let ticket = answer["ticket_id"].as_str().unwrap();
        usher.keep_secret(ticket);
        let origin = "Origin: https://app.example.com\r\n";
        assert_eq!(upgrade(&usher, 1, &format!("/rooms/1?ticket={ticket}"), origin).await, 101);
        ticket.to_owned()
    };
    let traceparent = format!("traceparent: {CALLER}\r\n");
    // Neither a stranger's ticket nor its redemption is recorded.
    redeem(1, &traceparent).await;
    // The issue is recorded because a trusted peer says so; then the redemption is recorded too.
    let ticket = redeem(2, &traceparent).await;

    let (issue, phases) = receiver.request("POST /websocket/ticket", 0).await;
    assert_eq!((&issue["trace_id"], &issue["parent"]), (&json!(CALLER_TRACE), &json!(CALLER_SPAN)));
    assert_eq!(
        (names(&phases), &issue["attributes"]["http.response.status_code"]),
        (vec!["authenticate"], &json!(201),)
    );
    let (redemption, phases) = receiver.request("GET /rooms/{room}", 0).await;
    assert_eq!(names(&phases), ["authenticate", "dial", "upgrade"]);
    assert_ne!(redemption["trace_id"], issue["trace_id"]);
    let link = json!([{
        "trace_id": issue["trace_id"],
        "span_id": issue["span_id"],
        "attributes": { "usher.link": "ticket" },
    }]);
    assert_eq!(redemption["links"], link);
    assert_eq!(upstream_context(&echo).2, "01");
    assert_eq!(receiver.spans_of("accept").len(), 6, "{}", receiver.text());
    assert!(!receiver.text().contains(&ticket));
    let audit = usher.finish().await;
    let issued = audit.iter().filter(|line| line["event"] == "ticket_issued");
    let traces: Vec<&Value> = issued.map(|line| &line["trace_id"]).collect();
    assert_eq!(traces, [&Value::Null, &json!(CALLER_TRACE)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_the_headers_of_the_client_go_on() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTES).start().await;
    let headers = bearer(&usher, "ada") + &traced();
    assert_eq!(upgrade(&usher, 1, "/rooms/1", &headers).await, 101);
    let visits = echo.visits();
    assert_eq!(visits[0].all("traceparent"), [CALLER]);
    assert_eq!(visits[0].all("tracestate"), ["vendor=1"]);
    assert!(!usher.log().contains("trace_id"));
    let audit = usher.finish().await;
    assert!(audit.iter().all(|line| line["trace_id"].is_null()), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_errors_only_if_a_server_is_at_fault() {
    let receiver = SpanReceiver::start().await;
    let echo = Echo::start().await;
    let usher = start(&echo, &receiver, "client_address = true").await;
    let good = bearer(&usher, "ada");
    drop(echo);
    for (headers, status, code, fault) in [
        ("Authorization: Bearer x.y.z\r\n", 401, 0, "invalid_token"),
        (&*good, 502, 2, "upstream_unavailable"),
    ] {
        assert_eq!(upgrade(&usher, 1, "/rooms/1", headers).await, status);
        let (root, phases) = receiver.request("GET /rooms/{room}", (code / 2) as usize).await;
        let found = &root["attributes"];
        assert_eq!((&root["code"], &found["usher.rejection"]), (&json!(code), &json!(fault)));
        assert_eq!(found["http.response.status_code"], status);
        assert_eq!(found["client.address"], "127.0.0.1");
        assert_eq!(found["error.type"].is_null(), code == 0, "{found}");
        let failed = phases.last().unwrap();
        assert_eq!(
            (&failed["code"], &failed["attributes"]["usher.rejection"]),
            (&json!(code), &json!(fault),)
        );
        let line = format!("\"trace_id\":{}", root["trace_id"]);
        eventually("the refusal names its trace", async || usher.log().contains(&line)).await;
    }
    // No route: no pattern, and none of what the client wrote.
    assert_eq!(upgrade(&usher, 1, "/the-secret-path?the-secret-query", &good).await, 404);
    let (root, _) = receiver.request("GET", 0).await;
    assert!(root["attributes"]["http.route"].is_null(), "{root}");
    assert!(!receiver.text().contains("the-secret"), "{}", receiver.text());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_messages_streams_and_plain_requests_have_spans() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    let usher = start(&echo, &receiver, "").await;
    let page = [("origin", "https://app.example.com")];
    let mut socket = usher.open("/rooms/1", &page).await.unwrap();
    socket.send(auth(&usher.token("ada"))).await.unwrap();
    let (root, phases) = receiver.request("GET /rooms/{room}", 0).await;
    assert_eq!(names(&phases), ["first_message", "authenticate", "dial", "upgrade"]);
    assert_eq!(root["attributes"]["usher.auth.method"], "message");
    assert_eq!(root["attributes"]["url.scheme"], "https");

    let mut http2 = Http2::connect(&usher).await;
    let authorization = format!("Bearer {}", usher.token("ada"));
    let headers = [("authorization", authorization.as_str()), ("traceparent", CALLER)];
    let _stream = http2.open("/rooms/1", &headers).await;
    let (root, phases) = receiver.request("CONNECT /rooms/{room}", 0).await;
    assert_eq!(names(&phases), ["authenticate", "dial", "upgrade"]);
    assert_eq!(root["attributes"]["network.protocol.version"], "2");
    assert_eq!(root["attributes"]["http.response.status_code"], 200);

    // The echo server speaks only WebSocket, so it refuses a plain request.
    let plain = format!(
        "DELETE /api/messages/the-secret HTTP/1.1\r\nHost: chat.example.com\r\n{}\
         Connection: close\r\n\r\n",
        bearer(&usher, "ada")
    );
    let status = client::http(usher.plain, plain.as_bytes()).await.status;
    let (root, phases) = receiver.request("DELETE /api/*", 0).await;
    assert_eq!(names(&phases), ["authenticate", "forward"]);
    assert_eq!(root["attributes"]["http.response.status_code"], status);
    assert!(root["attributes"]["usher.upgrade"].is_null());
    drop(socket);
    usher.finish().await;
}

/// Every kind of credential, in every place: none reaches the receiver.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_in_a_span() {
    let (echo, receiver) = (Echo::start().await, SpanReceiver::start().await);
    let extra = format!("{TRUSTING}{}", receiver.table("headers_file = \"key\""));
    let setup = Setup::new(echo.url()).routes(ROUTES).extra(&extra);
    let usher = setup.file("key", "api-key=receiver%20canary".to_owned()).start().await;
    usher.keep_secret("receiver canary");
    let good = usher.token("ada");
    let bad = format!("{good}-canary");
    let ticket = usher.issue_ticket(&good).await;
    let page = "Origin: https://app.example.com\r\n";
    let mut count = 1;
    for (target, headers) in [
        (format!("/rooms/path-canary?ticket={ticket}"), String::new()),
        (format!("/rooms/path-canary?ticket={ticket}"), String::new()),
        ("/rooms/path-canary?ticket=ticket-canary".to_owned(), String::new()),
        (format!("/rooms/path-canary?access_token={good}&more=query-canary"), String::new()),
        (format!("/rooms/path-canary?access_token={bad}"), String::new()),
        (
            "/rooms/path-canary".to_owned(),
            format!("Cookie: access_token={good}; a=cookie-canary\r\n"),
        ),
        ("/rooms/path-canary".to_owned(), format!("Authorization: Bearer {bad}\r\n")),
        ("/nowhere/path-canary?query-canary".to_owned(), String::new()),
        (
            "/rooms/path-canary".to_owned(),
            format!("Authorization: Bearer {good}\r\nUser-Agent: agent-canary\r\n"),
        ),
    ] {
        upgrade(&usher, 1, &target, &format!("{page}{headers}")).await;
        count += 1;
    }
    let validate = format!(
        "GET /websocket/ticket/{ticket}/validate HTTP/1.1\r\nHost: chat.example.com\r\n\
         Authorization: Bearer {good}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(client::http(usher.plain, validate.as_bytes()).await.status, 200);
    count += 1;
    receiver.request("GET /websocket/ticket/{ticket}/validate", 0).await;
    let roots = async || {
        receiver.spans_of("accept").iter().filter(|span| span["kind"] == 2).count() == count
    };
    eventually("all spans arrive", roots).await;

    let requests = receiver.requests();
    assert_eq!(requests[0]["headers"]["api-key"], "receiver canary");
    let spans: String = requests.iter().map(|request| request["spans"].to_string()).collect();
    for secret in [&good, &bad, &ticket, token::SECRET] {
        assert!(!spans.contains(secret), "{secret}");
    }
    assert!(!spans.contains("canary"), "{spans}");
    usher.finish().await;
}
