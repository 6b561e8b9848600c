//! Requests that get no answer, because the client leaves or the process stops: each has its one
//! end in the logs, and its span.

use std::fmt::Display;

use futures_util::SinkExt;
use http::Method;
use serde_json::{Value, json};

use crate::first_message::auth;
use crate::support::client::Raw;
use crate::support::http2::{self, RawHttp2};
use crate::support::span_receiver::names;
use crate::support::verifier_server::{Mood, VerifierServer};
use crate::support::{
    Http2, Recorder, Script, Setup, SpanReceiver, Usher, eventually, upgrade_request,
};

const OPAQUE: &str = "opaque-canary-1234567890";
/// Another one: the verifier is asked once about requests with the same credential.
const OTHER: &str = "opaque-canary-0987654321";
const PAGE: &str = "https://app.example.com";

/// An Usher whose upstreams take connections and never answer. A verifier answers as a test sets
/// it.
struct Stage {
    usher: Usher,
    receiver: SpanReceiver,
    upstream: Recorder,
    /// An upstream with TLS that does not shake hands.
    far: Recorder,
    verifier: VerifierServer,
}

impl Stage {
    async fn start() -> Self {
        let upstream = Recorder::start(Script::Silent).await;
        let far = Recorder::start(Script::Silent).await;
        let (verifier, receiver) = (VerifierServer::start().await, SpanReceiver::start().await);
        verifier.knows(OPAQUE, "ada");
        let routes = format!(
            r#"
            [[route]]
            path = "/ws"
            upstream = "chat"
            auth = ["ticket", "header", "message"]
            origins = ["{PAGE}"]
            [[route]]
            path = "/far"
            upstream = "far"
            auth = ["header"]
            [[route]]
            path = "/asked"
            upstream = "chat"
            auth = ["header"]
            verifier = "login"
            [[route]]
            path = "/api/*"
            upstream = "chat"
            auth = ["header"]
            [[upstream]]
            name = "far"
            servers = ["https://{}"]
            "#,
            far.address
        );
        let extra = verifier.table("login", "http", "timeout = \"12s\"\ncache_ttl = \"0s\"")
            + "[tickets]\nverifier = \"login\"\n"
            + &receiver.table("");
        let usher = Setup::new(upstream.url()).routes(&routes).extra(&extra).start().await;
        usher.keep_secret(OPAQUE);
        usher.keep_secret(OTHER);
        Self { usher, receiver, upstream, far, verifier }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.usher.token("ada"))
    }

    /// Sends a request on a new connection.
    async fn send(&self, request: impl AsRef<[u8]>) -> Raw {
        let mut raw = Raw::connect(self.usher.plain).await;
        raw.send(request).await;
        raw
    }

    async fn upstream_has(&self, requests: usize) {
        let has = async || self.upstream.requests() == requests;
        eventually(format!("request {requests} is at the upstream"), has).await;
    }

    /// Waits for the end of a request whose client has left: the span of this name, and its line.
    /// Returns the names of the phases.
    async fn left(&self, span: &str, index: usize, event: &str) -> Vec<String> {
        let (root, phases) = self.receiver.request(span, index).await;
        let found = &root["attributes"];
        for key in ["usher.rejection", "error.type"] {
            assert_eq!(found[key], "client_gone", "{root}");
        }
        assert_eq!(root["code"], 2, "the status is error: {root}");
        assert!(found["http.response.status_code"].is_null(), "nothing was sent: {root}");
        let line = self.line(&root["trace_id"]).await;
        assert_eq!((&line["event"], &line["outcome"]), (&json!(event), &json!("client_gone")));
        assert_eq!(line["request_id"], found["usher.request.id"], "{line}");
        names(&phases).into_iter().map(str::to_owned).collect()
    }

    /// Waits for the line of the log about this trace.
    async fn line(&self, trace_id: &impl Display) -> Value {
        let wanted = format!("\"trace_id\":{trace_id}");
        let find = async || {
            let log = self.usher.log();
            let line = log.lines().find(|line| line.contains(&wanted))?;
            serde_json::from_str(line).ok()
        };
        eventually(format!("a line with {wanted}"), find).await
    }
}

fn plain_request(bearer: &str) -> String {
    format!(
        "DELETE /api/messages HTTP/1.1\r\nHost: chat.example.com\r\nAuthorization: {bearer}\r\n\r\n"
    )
}

fn ticket_request(method: &str, path: &str, credential: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: chat.example.com\r\n\
         Authorization: Bearer {credential}\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_whose_client_leaves_has_its_end() {
    let stage = Stage::start().await;
    let bearer = stage.bearer();
    let span = "DELETE /api/*";
    let raw = stage.send(plain_request(&bearer)).await;
    stage.upstream_has(1).await;
    drop(raw);
    let phases = stage.left(span, 0, "request_rejected").await;
    assert_eq!(phases, ["authenticate", "forward"]);

    // A stream that is reset.
    let mut client = Http2::connect(&stage.usher).await;
    let request =
        Http2::request(Method::DELETE, "/api/messages", &[("authorization", bearer.as_str())]);
    let (answer, sending) = client.send(request, true).await.unwrap();
    stage.upstream_has(2).await;
    drop((answer, sending));
    assert_eq!(stage.left(span, 1, "request_rejected").await, phases);

    // A connection that ends with its streams.
    let mut raw = RawHttp2::connect(&stage.usher, &[]).await;
    let fields = [
        (":method", "DELETE"),
        (":scheme", "https"),
        (":authority", "chat.example.com"),
        (":path", "/api/messages"),
        ("authorization", bearer.as_str()),
    ];
    let flags = http2::END_HEADERS | http2::END_STREAM;
    let head = http2::frame(http2::HEADERS, flags, 1, &http2::block(&fields));
    raw.send(&head).await.unwrap();
    stage.upstream_has(3).await;
    drop(raw);
    assert_eq!(stage.left(span, 2, "request_rejected").await, phases);
    let connections = async || stage.upstream.open() == 0;
    eventually("the connections to the upstream are closed", connections).await;
    let audit = stage.usher.finish().await;
    let ends = audit.iter().filter(|line| line["event"] == "request_rejected");
    let outcomes: Vec<&Value> = ends.map(|line| &line["outcome"]).collect();
    // The clients of HTTP/2 begin with a path that no route has.
    assert_eq!(outcomes, ["client_gone", "no_route", "client_gone", "client_gone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_request_whose_client_leaves_has_its_end() {
    let stage = Stage::start().await;
    stage.verifier.is(Mood::Hangs);
    let ticket = "the-ticket-canary-0123456789";
    stage.usher.keep_secret(ticket);
    let validate = format!("/websocket/ticket/{ticket}/validate");
    let requests = [
        ("POST", "/websocket/ticket", OPAQUE, "POST /websocket/ticket"),
        ("GET", &*validate, OTHER, "GET /websocket/ticket/{ticket}/validate"),
    ];
    for (times, (method, path, credential, span)) in (1..).zip(requests) {
        let raw = stage.send(ticket_request(method, path, credential)).await;
        stage.verifier.asked_times(times).await;
        drop(raw);
        assert_eq!(stage.left(span, 0, "ticket_refused").await, ["authenticate"]);
    }
    stage.usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_whose_client_leaves_has_its_end_in_every_phase() {
    let stage = Stage::start().await;
    let bearer = stage.bearer();
    let headers = format!("Authorization: {bearer}\r\n");
    let event = "upgrade_rejected";

    // In the dial.
    let raw = stage.send(upgrade_request("/far", &headers)).await;
    eventually("the dial has begun", async || !stage.far.connections().is_empty()).await;
    drop(raw);
    assert_eq!(stage.left("GET /far", 0, event).await, ["authenticate", "dial"]);

    // In the upgrade at the upstream.
    let raw = stage.send(upgrade_request("/ws", &headers)).await;
    stage.upstream_has(1).await;
    drop(raw);
    let granted = ["authenticate", "dial", "upgrade"];
    assert_eq!(stage.left("GET /ws", 0, event).await, granted);

    // In a stream of HTTP/2.
    let mut client = RawHttp2::connect(&stage.usher, &[]).await;
    let request = http2::connect_request(1, "/ws", &[("authorization", bearer.as_str())]);
    client.send(&request).await.unwrap();
    stage.upstream_has(2).await;
    drop(client);
    assert_eq!(stage.left("CONNECT /ws", 0, event).await, granted);

    // Before the first message, and behind it.
    let socket = stage.usher.open("/ws", &[("origin", PAGE)]).await.unwrap();
    drop(socket);
    assert_eq!(stage.left("GET /ws", 1, event).await, ["first_message"]);
    let mut socket = stage.usher.open("/ws", &[("origin", PAGE)]).await.unwrap();
    socket.send(auth(&stage.usher.token("ada"))).await.unwrap();
    stage.upstream_has(3).await;
    drop(socket);
    let with_message = ["first_message", "authenticate", "dial", "upgrade"];
    assert_eq!(stage.left("GET /ws", 2, event).await, with_message);

    // While the verifier is asked: the end comes after its answer.
    stage.verifier.is(Mood::Hangs);
    let raw =
        stage.send(upgrade_request("/asked", &format!("Authorization: Bearer {OPAQUE}\r\n"))).await;
    stage.verifier.asked_times(1).await;
    drop(raw);
    stage.verifier.is(Mood::Answers);
    let phases = stage.left("GET /asked", 0, event).await;
    assert_eq!(phases.first().map(String::as_str), Some("authenticate"), "{phases:?}");
    stage.usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_a_stop_cuts_off_have_their_ends() {
    let stage = Stage::start().await;
    stage.verifier.is(Mood::Hangs);
    let headers = format!("Authorization: Bearer {OPAQUE}\r\n");
    let _upgrade = stage.send(upgrade_request("/asked", &headers)).await;
    stage.verifier.asked_times(1).await;
    let _ticket = stage.send(ticket_request("POST", "/websocket/ticket", OTHER)).await;
    stage.verifier.asked_times(2).await;
    let _plain = stage.send(plain_request(&stage.bearer())).await;
    stage.upstream_has(1).await;
    let audit = stage.usher.finish().await;
    for (span, event) in [
        ("GET /asked", "upgrade_rejected"),
        ("POST /websocket/ticket", "ticket_refused"),
        ("DELETE /api/*", "request_rejected"),
    ] {
        let ends: Vec<&Value> = audit.iter().filter(|line| line["event"] == event).collect();
        let [end] = ends[..] else { panic!("one end: {ends:?}") };
        assert_eq!(end["outcome"], "draining", "{end}");
        let (root, _) = stage.receiver.request(span, 0).await;
        assert_eq!((&root["code"], &root["trace_id"]), (&json!(2), &end["trace_id"]), "{root}");
        assert_eq!(root["attributes"]["usher.rejection"], "draining", "{root}");
    }
}
