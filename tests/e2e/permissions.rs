//! The permissions that a route requires, on every way in: upgrade, ticket, first message, renewal,
//! plain HTTP.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::{auth, close_frame, json as json_of, text};
use crate::support::client::{self, Answer};
use crate::support::usher::Socket;
use crate::support::{Echo, Raw, Setup, Usher, token, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/v1/chat/{room}"
    upstream = "chat"
    auth = ["ticket", "header", "message"]
    require = ["chat:read", "room:{room}"]
    [route.reauth]
    proactive = true
    [[route]]
    path = "/close/{room}"
    upstream = "chat"
    auth = ["header", "message"]
    require = ["room:{room}"]
    reject_mode = "close"
    close_codes = "http"
    [[route]]
    path = "/twice"
    hosts = ["one.example.com"]
    upstream = "chat"
    auth = ["ticket"]
    require = ["chat:admin"]
    [[route]]
    path = "/twice"
    hosts = ["two.example.com"]
    upstream = "chat"
    auth = ["ticket"]
    require = ["chat:read"]
    [[route]]
    path = "/plain"
    upstream = "chat"
    auth = ["ticket"]
    require = ["chat:admin"]
"#;

async fn start(echo: &Echo) -> Usher {
    Setup::new(echo.url()).routes(ROUTES).start().await
}

fn holder(usher: &Usher, permissions: Value) -> String {
    usher.token_with("ada", json!({ "permissions": permissions }))
}

async fn attempt(usher: &Usher, target: &str, token: &str) -> Answer {
    client::attempt(usher.plain, target, &format!("Authorization: Bearer {token}\r\n")).await
}

async fn get(usher: &Usher, target: &str, token: &str) -> Answer {
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         \r\n"
    );
    client::http(usher.plain, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_needs_its_permission_and_a_refusal_names_it() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let blue = holder(&usher, json!("chat:read room:blue room:*"));
    for target in ["/v1/chat/blue", "/v1/chat/%62lue"] {
        assert_eq!(attempt(&usher, target, &blue).await.status, 101, "{target}");
    }
    let refused = attempt(&usher, "/v1/chat/red", &blue).await;
    let body: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(
        (refused.status, &body["code"], &body["recoverable"]),
        (403, &json!("MISSING_PERMISSION"), &json!(false))
    );
    assert_eq!(body["detail"], "the credential does not give the permission `room:red`");
    assert_eq!(
        refused.header("www-authenticate"),
        Some("bearer error=\"insufficient_scope\", scope=\"chat:read room:red\"")
    );

    let sly = holder(
        &usher,
        json!([
            "chat:read",
            "room:blue:admin",
            "room:*",
            "room:",
            "room:a b",
            "room:a\"b",
            "room:ü"
        ]),
    );
    for (target, named) in [
        ("/v1/chat/blue", "room:blue`"),
        ("/v1/chat/blue:admin", "room:blue:admin`"),
        ("/v1/chat/blue%3Aadmin", "room:blue:admin`"),
        ("/v1/chat/*", "room:*`"),
        ("/v1/chat/%2a", "room:*`"),
        ("/v1/chat/a%20b", "room:a b`"),
        ("/v1/chat/%257Broom%257D", "room:%7Broom%7D`"),
    ] {
        let answer = attempt(&usher, target, &sly).await;
        assert!(
            answer.status == 403 && answer.body.contains(named),
            "{target}: {} {}",
            answer.status,
            answer.body
        );
    }
    assert_eq!(attempt(&usher, "/v1/chat/", &sly).await.status, 404, "the room is empty");
    assert_eq!(attempt(&usher, "/v1/chat/%C3%BC", &sly).await.status, 101);
    // A permission that is not a valid scope is left out of the header.
    let quoted = attempt(&usher, "/v1/chat/x%22y", &sly).await;
    assert!(quoted.status == 403 && quoted.header("www-authenticate").is_none(), "{}", quoted.head);

    let plain = get(&usher, "/v1/chat/red", &blue).await;
    assert!(plain.status == 403 && plain.body.contains("room:red"), "{}", plain.body);
    assert_eq!(get(&usher, "/v1/chat/blue", &blue).await.header("www-authenticate"), None);
    let permitted = ["/v1/chat/blue", "/v1/chat/%62lue", "/v1/chat/%C3%BC"];
    for visit in echo.visits() {
        assert!(permitted.contains(&visit.target.as_str()), "{}", visit.target);
    }
    let audit = usher.finish().await;
    let line = audit.iter().find(|line| line["event"] == "upgrade_rejected").unwrap();
    assert!(
        line.to_string().contains("missing_permission") && line.to_string().contains("room:red"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_what_its_own_permissions_open() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let all = holder(&usher, json!(["chat:read", "room:blue"]));
    let open = |ticket: String, room: &'static str| {
        let usher = &usher;
        async move {
            let mut raw = Raw::connect(usher.plain).await;
            raw.send(upgrade_request(
                &format!("/v1/chat/{room}?ticket={ticket}"),
                "Connection: close\r\n",
            ))
            .await;
            let head = raw.read_head().await;
            assert!(
                !head.to_ascii_lowercase().contains("www-authenticate"),
                "a ticket is no bearer token: {head}"
            );
            client::Answer::parse(head.as_bytes()).status
        }
    };
    let ticket = |body: &'static str| {
        let (usher, all) = (&usher, &all);
        async move {
            let (status, answer) = usher.ask_ticket(all, body, "").await;
            assert_eq!(status, 201, "{answer}");
            answer["ticket_id"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(open(ticket("").await, "blue").await, 101);
    assert_eq!(open(ticket(r#"{"route": "/v1/chat/{room}"}"#).await, "blue").await, 101);
    assert_eq!(open(ticket("").await, "red").await, 403);
    assert_eq!(
        open(ticket(r#"{"permissions": ["chat:read"]}"#).await, "blue").await,
        403,
        "the token has the permission, and the ticket does not"
    );
    // Two hosts have this path. The ticket is issued because it can open the route of one of them.
    ticket(r#"{"route": "/twice"}"#).await;
    // A ticket that could never open its route is refused.
    for (body, named) in [
        (r#"{"route": "/v1/chat/{room}", "permissions": ["room:blue"]}"#, "chat:read"),
        (r#"{"route": "/plain"}"#, "chat:admin"),
    ] {
        let (status, answer) = usher.ask_ticket(&all, body, "").await;
        assert_eq!((status, &answer["code"]), (403, &json!("MISSING_PERMISSION")));
        assert!(answer["message"].as_str().unwrap().contains(named), "{answer}");
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_101_a_missing_permission_is_an_error_frame_and_a_close_frame() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let blue = holder(&usher, json!(["chat:read", "room:blue"]));
    let mut socket = usher.open("/v1/chat/red", &[]).await.unwrap();
    socket.send(auth(&blue)).await.unwrap();
    let error = json_of(&mut socket).await;
    assert_eq!(
        (&error["type"], &error["payload"]["code"]),
        (&json!("error"), &json!("MISSING_PERMISSION"))
    );
    assert!(error["payload"]["message"].as_str().unwrap().contains("room:red"), "{error}");
    assert_eq!(close_frame(&mut socket).await, (1008, "Missing permission".to_owned()));

    let mut socket = usher.open("/close/red", &[]).await.unwrap();
    socket.send(auth(&blue)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["payload"]["code"], "MISSING_PERMISSION");
    assert_eq!(close_frame(&mut socket).await, (4403, "Missing permission".to_owned()));

    let mut socket =
        usher.open("/close/red", &[("authorization", &format!("Bearer {blue}"))]).await.unwrap();
    let (code, reason) = close_frame(&mut socket).await;
    assert!(code == 4403 && reason.starts_with("Missing permission ("), "{code} {reason}");
    assert!(echo.visits().is_empty());
    usher.finish().await;
}

async fn said(socket: &mut Socket) -> Value {
    json_of(socket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_with_less_than_the_room_takes_is_a_wrong_answer() {
    let echo = Echo::start().await;
    let usher = start(&echo).await;
    let with = |permissions: Value, seconds: u64| {
        usher
            .token_with("ada", json!({ "permissions": permissions, "exp": token::now() + seconds }))
    };
    let first = with(json!(["chat:read", "room:blue"]), 300);
    let mut socket = usher
        .open("/v1/chat/blue", &[("authorization", &format!("Bearer {first}"))])
        .await
        .unwrap();
    for less in [json!(["chat:read"]), json!(["chat:read", "room:red"]), json!([])] {
        socket.send(auth(&with(less, 900))).await.unwrap();
        let error = said(&mut socket).await;
        assert_eq!(
            (&error["type"], &error["payload"]["code"]),
            (&json!("error"), &json!("MISSING_PERMISSION")),
            "{error}"
        );
        if error["payload"]["recoverable"] == false {
            break;
        }
    }
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut socket).await, "still here");
    let enough = with(json!(["room:blue", "chat:read"]), 901);
    socket.send(auth(&enough)).await.unwrap();
    assert_eq!(said(&mut socket).await["type"], "auth_ok");
    drop(socket);
    let audit = usher.finish().await;
    let refused: Vec<_> = audit.iter().filter(|line| line["event"] == "reauth_refused").collect();
    assert!(
        !refused.is_empty()
            && refused[0].to_string().contains("chat:read")
                | refused[0].to_string().contains("room:blue"),
        "{refused:?}"
    );
}
