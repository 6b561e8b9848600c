//! The path that the client sends, and the path that Usher asks the backend for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::client;
use crate::support::{Raw, Recorder, Script, Setup, Usher, upgrade_request};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// `/stomp` leads to `/ws`: RabbitMQ serves STOMP and MQTT at one path, each on its own port.
const ROUTES: &str = r#"
    [[route]]
    path = "/stomp"
    upstream = "chat"
    upstream_path = "/ws"
    auth = ["ticket", "header", "query"]
    [[route]]
    path = "/chat/*"
    upstream = "chat"
    strip_prefix = "/chat"
    auth = ["header", "query"]
    [[route]]
    path = "/site/*"
    upstream = "chat"
    strip_prefix = "/site"
    auth = []
    [[route]]
    path = "/admin/*"
    upstream = "chat"
    auth = ["header"]
"#;

async fn recorded(script: Script) -> (Recorder, Usher) {
    let recorder = Recorder::start(script).await;
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
        trusted_peers = [\"127.0.0.0/8\"]\n";
    let usher = Setup::new(recorder.url()).routes(ROUTES).extra(trusting).start().await;
    (recorder, usher)
}

fn plain(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n{headers}\r\n")
}

fn request_line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

/// Returns the values of a header, one for each line.
fn fields<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    let of_name = |line: &'h str| {
        line.split_once(": ")
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    head.lines().filter_map(of_name).collect()
}

fn path_of_context(head: &str) -> Value {
    let token = fields(head, "x-user-context")[0];
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap())
            .unwrap();
    claims["req"]["path"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_and_plain_http_ask_for_the_same_path() {
    let (recorder, usher) = recorded(Script::Answer(OK.to_vec())).await;
    let token = usher.token("ada");
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let mut turn = 0;
    for (sent, asked, prefix) in [
        ("/stomp", "/ws", None),
        ("/stomp?vhost=%2f&a", "/ws?vhost=%2f&a", None),
        ("/%73tomp", "/ws", None),
        ("/chat/rooms/b%6cue;v=1?a=%20&a=1", "/rooms/b%6cue;v=1?a=%20&a=1", Some("/chat")),
        ("/%63hat/x/?", "/x/?", Some("/chat")),
        ("/chat/", "/", Some("/chat")),
        ("/site/a/b", "/a/b", Some("/site")),
        ("http://chat.example.com/chat/x?y", "/x?y", Some("/chat")),
        ("/admin/x", "/admin/x", None),
    ] {
        for request in [upgrade_request(sent, &bearer), plain(sent, &bearer)] {
            assert_eq!(
                client::http(usher.plain, request.as_bytes()).await.status,
                200,
                "{request}"
            );
            let head = &recorder.connections()[turn];
            turn += 1;
            assert_eq!(request_line(head), format!("GET {asked} HTTP/1.1"), "{request}");
            assert_eq!(
                fields(head, "x-forwarded-prefix"),
                prefix.into_iter().collect::<Vec<_>>(),
                "{head}"
            );
            if !sent.starts_with("/site") {
                let path =
                    sent.trim_start_matches("http://chat.example.com").split('?').next().unwrap();
                assert_eq!(path_of_context(head), path, "the context has the path of the client");
            }
        }
        usher
            .logged(&[
                "\"path\":\"",
                sent.trim_start_matches("http://chat.example.com").split('?').next().unwrap(),
            ])
            .await;
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_opens_at_the_other_path_and_the_query_loses_its_credential_alone() {
    let (recorder, usher) = recorded(Script::Accept(Vec::new())).await;
    let token = usher.token("ada");
    let body = r#"{"route":"/stomp"}"#;
    let (status, ticket) =
        usher.ask_ticket(&token, body, "Content-Type: application/json\r\n").await;
    assert_eq!(status, 201, "{ticket}");
    let url = ticket["websocket_url"].as_str().unwrap().to_owned();
    let secret = ticket["ticket_id"].as_str().unwrap();
    usher.keep_secret(secret);
    assert!(url.contains("/stomp?ticket="), "a client is sent to the public path: {url}");
    for (turn, (sent, asked)) in [
        (format!("/stomp?a=%2F&ticket={secret}&b"), "/ws?a=%2F&b"),
        (format!("/stomp?access_token={token}"), "/ws"),
        (format!("/chat/ws?x=1&access_token={token}&x=2"), "/ws?x=1&x=2"),
    ]
    .iter()
    .enumerate()
    {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(sent, "")).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "), "{sent}");
        assert_eq!(request_line(&recorder.connections()[turn]), format!("GET {asked} HTTP/1.1"));
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_ambiguous_without_its_prefix_reaches_no_upstream() {
    let (recorder, usher) = recorded(Script::Answer(OK.to_vec())).await;
    let token = usher.token("ada");
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for sent in [
        "/chat//evil.example.com",
        "/chat/;/evil.example.com",
        "/chat/%3b/evil.example.com",
        "/chat//evil.example.com/..",
        "/chat/../admin/x",
        "/chat/%2e%2e/admin/x",
        "/chat/..;/admin/x",
        "/chat/%252e%252e/admin/x",
        "/chat/%2fevil.example.com",
        "/chat/%5cevil.example.com",
        "/chat/x\\y",
        "/chat%2fx",
        "/site/..%2fadmin/x",
        "/site//x",
        "http://chat.example.com/chat//evil.example.com",
    ] {
        for request in [upgrade_request(sent, &bearer), plain(sent, &bearer)] {
            let answer = client::http(usher.plain, request.as_bytes()).await;
            assert_eq!(answer.status, 400, "{request}");
            assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap()["code"], "BAD_REQUEST");
        }
    }
    for sent in ["/chatter/x", "/chat../admin/x", "/stomp/", "/stomp/x", "//evil.example.com/stomp"]
    {
        for request in [upgrade_request(sent, &bearer), plain(sent, &bearer)] {
            let status = client::http(usher.plain, request.as_bytes()).await.status;
            assert!(status == 404 || status == 400, "{sent}: {status}");
        }
    }
    assert_eq!(recorder.connections().len(), 0, "{:?}", recorder.connections());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_usher_and_trusted_peers_set_the_forwarded_prefix() {
    let (recorder, usher) = recorded(Script::Answer(OK.to_vec())).await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let mut turn = 0;
    for (listener, sent, told) in [
        (
            usher.plain,
            "X-Forwarded-Prefix: //evil.example.com\r\nx_forwarded_prefix: /evil\r\n",
            "/chat",
        ),
        (usher.plain, "Connection: X-Forwarded-Prefix\r\n", "/chat"),
        (usher.listeners[2], "X-Forwarded-Prefix: /outer\r\n", "/outer/chat"),
        (
            usher.listeners[2],
            "X-Forwarded-Prefix: //evil.example.com\r\nx_forwarded_prefix: /evil\r\n",
            "/chat",
        ),
    ] {
        for request in [
            upgrade_request("/chat/x", &format!("{bearer}{sent}")),
            plain("/chat/x", &format!("{bearer}{sent}")),
        ] {
            assert_eq!(client::http(listener, request.as_bytes()).await.status, 200);
            let head = recorder.connections()[turn].to_ascii_lowercase();
            turn += 1;
            assert_eq!(fields(&head, "x-forwarded-prefix"), [told], "{head}");
            assert!(!head.contains("evil"), "{head}");
        }
    }
    usher.finish().await;
}

/// Paths that a backend with looser rules than Usher would serve as `/ws`.
const SPELLINGS: [&str; 15] = [
    "/WS",
    "/wS",
    "/ws/",
    "/ws//",
    "//ws",
    "/ws;x",
    "/WS;x/",
    "/%57s",
    "/%2577s",
    "/ws.",
    "/ws%20",
    "/ws%3fx",
    "/ws%253f",
    "/ws%3f/x",
    "http://chat.example.com/WS",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_guarded_path_reaches_a_lax_backend_by_a_public_route() {
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["header"]
        require = ["chat:read"]
        [[route]]
        path = "/*"
        upstream = "chat"
        auth = []
    "#;
    let recorder = Recorder::start(Script::Answer(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).routes(routes).start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    for sent in SPELLINGS {
        // A credential that is good for `/ws` changes nothing: a public route does not check it.
        for headers in ["", bearer.as_str()] {
            for request in [upgrade_request(sent, headers), plain(sent, headers)] {
                let answer = client::http(usher.plain, request.as_bytes()).await;
                let body: Value = serde_json::from_str(&answer.body).unwrap();
                match body["code"].as_str() {
                    Some("PATH_SPELLING") => assert_eq!(answer.status, 404, "{request}"),
                    Some("BAD_REQUEST") => assert_eq!(answer.status, 400, "{request}"),
                    other => panic!("{other:?} to {request}"),
                }
            }
        }
    }
    for (sent, status) in [("/ws", 401), ("/%77s", 401)] {
        for request in [upgrade_request(sent, ""), plain(sent, "")] {
            assert_eq!(
                client::http(usher.plain, request.as_bytes()).await.status,
                status,
                "{request}"
            );
        }
    }
    assert_eq!(recorder.connections().len(), 0, "{:?}", recorder.connections());
    // Paths that are not spellings of `/ws` stay public.
    for sent in ["/wss", "/ws/x", "/WS.html", "/"] {
        assert_eq!(
            client::http(usher.plain, plain(sent, "").as_bytes()).await.status,
            200,
            "{sent}"
        );
    }
    usher.logged(&["\"path\":\"/WS\"", "another spelling of a path of the route `/ws`"]).await;
    let audit = usher.finish().await;
    assert!(audit.iter().any(|line| line["outcome"] == "path_spelling"), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_spelling_that_is_listed_itself_is_served() {
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["header"]
        [[route]]
        path = "/WS"
        upstream = "chat"
        auth = []
        [[route]]
        path = "/*"
        upstream = "chat"
        auth = ["header"]
    "#;
    let recorder = Recorder::start(Script::Answer(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).routes(routes).start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    for (sent, headers, status) in [
        ("/WS", "", 200),
        ("/ws", "", 401),
        ("/Ws", "", 401),
        // The guarded routes ask for the same credential, so this spelling is served.
        ("/Ws", bearer.as_str(), 200),
        ("/ws/", bearer.as_str(), 200),
    ] {
        for request in [upgrade_request(sent, headers), plain(sent, headers)] {
            assert_eq!(
                client::http(usher.plain, request.as_bytes()).await.status,
                status,
                "{request}"
            );
        }
    }
    usher.finish().await;
}
