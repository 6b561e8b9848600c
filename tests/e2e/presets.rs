//! Clients of other protocols, through Usher to their own servers: login, refusal and renewal.

use std::process::Command;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::close_frame;
use crate::support::broker::{ANONYMOUS, Mosquitto};
use crate::support::{Program, Setup, Usher, token};

const PROGRAMS: &str = "tests/e2e/clients/presets";

/// A server of a protocol, and the lines that it prints.
struct Server {
    program: Program,
    port: u64,
}

impl Server {
    async fn start(program: &str, mode: &str) -> Self {
        let program = Program::node(&[&format!("{PROGRAMS}/{program}.mjs"), mode]).await;
        let first: Value = serde_json::from_str(&program.lines()[0]).unwrap();
        Self { program, port: first["port"].as_u64().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn all(&self, event: &str) -> Vec<Value> {
        let lines = self
            .program
            .lines()
            .into_iter()
            .map(|line| serde_json::from_str::<Value>(&line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// Returns the logins that the server got.
    fn logins(&self) -> Vec<Value> {
        self.all("connect").into_iter().map(|line| line["payload"].clone()).collect()
    }
}

async fn start(url: String, path: &str, preset: &str, more: &str, reauth: &str) -> Usher {
    let routes = format!(
        "[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
         [route.first_message]\npreset = \"{preset}\"\n{more}\n{reauth}\n"
    );
    Setup::new(url).routes(&routes).start().await
}

/// Runs the client of the protocol through Usher over TLS. Returns its exit code and the lines that
/// it prints.
pub async fn client(
    program: &'static str,
    usher: &Usher,
    path: &str,
    token: &str,
    env: &[(&'static str, String)],
) -> (i32, Vec<Value>) {
    let url = format!("wss://localhost:{}{path}", usher.tls.port());
    let (certificate, token, env) = (usher.certificate_path(), token.to_owned(), env.to_vec());
    let output = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .args([&format!("{PROGRAMS}/{program}.mjs"), "client", &url, &token])
            .env("NODE_EXTRA_CA_CERTS", certificate)
            .envs(env)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
    })
    .await
    .unwrap()
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        output.status.code().is_some_and(|code| [0, 3].contains(&code)),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().unwrap(), lines)
}

pub fn refusal(lines: &[Value]) -> Value {
    lines
        .iter()
        .find_map(|line| line.get("refused"))
        .unwrap_or_else(|| panic!("not refused: {lines:?}"))
        .clone()
}

/// Checks the reason of a close frame that is the whole refusal.
async fn the_reason_names_the_request(usher: &Usher, reason: &str, begins: &str) {
    let (said, id) = reason.split_once(" (").unwrap_or_else(|| panic!("{reason}"));
    assert_eq!(said, begins);
    usher.logged(&["upgrade_rejected", id.trim_end_matches(')')]).await;
}

fn short(usher: &Usher) -> String {
    usher.token_with("ada", json!({ "exp": token::now() + 10 }))
}

#[tokio::test(flavor = "multi_thread")]
async fn graphql_transport_ws() {
    let server = Server::start("graphql", "server").await;
    let usher = start(server.url(), "/", "graphql-transport-ws", "", "").await;
    let (code, lines) = client("graphql", &usher, "/", &usher.token("ada"), &[]).await;
    assert_eq!((code, lines.last()), (0, Some(&json!({"done": true}))), "{lines:?}");
    assert_eq!(server.logins(), [json!({"token": ""})], "the server got the token");
    let headers = &server.all("headers")[0]["headers"];
    assert_eq!(headers["sec-websocket-protocol"], "graphql-transport-ws");
    assert!(headers["x-user-context"].is_string());

    let (code, lines) = client("graphql", &usher, "/", "x.y.z", &[]).await;
    let close = &refusal(&lines)["close"];
    assert_eq!((code, &close["code"], &close["wasClean"]), (3, &json!(4401), &json!(true)));
    the_reason_names_the_request(&usher, close["reason"].as_str().unwrap(), "Invalid token").await;
    // The protocol has a code for an operation without a login.
    let mut early = usher.open("/", &[]).await.unwrap();
    let operation = json!({"id": "1", "type": "subscribe", "payload": {"query": "{ hello }"}});
    early.send(Message::text(operation.to_string())).await.unwrap();
    let (code, reason) = close_frame(&mut early).await;
    assert_eq!(code, 4401, "{reason}");
    the_reason_names_the_request(&usher, &reason, "Missing auth token").await;

    let renewed = usher.token("ada");
    let (code, lines) =
        client("graphql", &usher, "/", &short(&usher), &[("RENEW_TOKEN", renewed)]).await;
    assert!(code == 0 && lines.contains(&json!({"renewed": true})), "{lines:?}");
    // The server sees no message of the exchange between the client and Usher.
    assert!(!server.all("message").is_empty());
    assert!(
        server.all("message").iter().all(|line| !line.to_string().contains("auth_")),
        "{:?}",
        server.all("message")
    );
    // A client that does not know the question answers it with an echo, as the protocol requires.
    // Its session ends with its token.
    let (code, lines) = client("graphql", &usher, "/", &short(&usher), &[]).await;
    assert_eq!(code, 0, "{lines:?}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_io() {
    let server = Server::start("socketio", "server").await;
    let usher = start(server.url(), "/socket.io/", "socketio", "", "").await;
    let (code, lines) = client("socketio", &usher, "/socket.io/", &usher.token("ada"), &[]).await;
    assert_eq!((code, lines.last()), (0, Some(&json!({"done": true}))), "{lines:?}");
    assert_eq!(
        server.logins(),
        [json!({"token": ""}), json!({"token": ""})],
        "one login for each namespace"
    );

    let (code, lines) = client("socketio", &usher, "/socket.io/", "x.y.z", &[]).await;
    let error = &refusal(&lines)["connectError"];
    assert_eq!(
        (code, &error["message"], &error["data"]["code"]),
        (3, &json!("the token is not valid"), &json!("INVALID_TOKEN"))
    );

    let renewed = usher.token("ada");
    let (code, lines) =
        client("socketio", &usher, "/socket.io/", &short(&usher), &[("RENEW_TOKEN", renewed)])
            .await;
    assert!(code == 0 && lines.contains(&json!({"renewed": true})), "{lines:?}");
    assert!(!server.all("message").is_empty());
    assert!(
        server.all("message").iter().all(|line| line["name"] != "auth"),
        "{:?}",
        server.all("message")
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn home_assistant() {
    // One server leaves the authentication to Usher, and the other also asks for a login.
    for (mode, forward) in [("server-noauth", "consume"), ("server", "redact")] {
        let server = Server::start("homeassistant", mode).await;
        let more = format!("forward = \"{forward}\"");
        let usher = start(server.url(), "/api/websocket", "home-assistant", &more, "").await;
        let (code, lines) =
            client("homeassistant", &usher, "/api/websocket", &usher.token("ada"), &[]).await;
        assert_eq!((code, lines.last()), (0, Some(&json!({"done": true}))), "{lines:?}");
        let expected = if mode == "server" {
            vec![json!({"type": "auth", "access_token": ""})]
        } else {
            Vec::new()
        };
        assert_eq!(server.logins(), expected);

        let (code, lines) = client("homeassistant", &usher, "/api/websocket", "x.y.z", &[]).await;
        assert_eq!((code, &refusal(&lines)["authInvalid"]), (3, &json!("the token is not valid")));

        let renewed = usher.token("ada");
        let (code, lines) = client(
            "homeassistant",
            &usher,
            "/api/websocket",
            &short(&usher),
            &[("RENEW_TOKEN", renewed)],
        )
        .await;
        assert!(code == 0 && lines.contains(&json!({"renewed": true})), "{lines:?}");
        assert!(!server.all("message").is_empty());
        assert!(
            server.all("message").iter().all(|line| line["message"]["type"] != "auth"),
            "{:?}",
            server.all("message")
        );
        usher.finish().await;
    }
}

/// A server with a login of its own gets the login of the service, not that of the client.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_logs_in_for_every_client() {
    const SERVICE: &str = "the-canary-of-the-service";
    for (program, path, preset, logins) in [
        ("graphql", "/", "graphql-transport-ws", vec![json!({"token": SERVICE})]),
        // One login for each namespace.
        ("socketio", "/socket.io/", "socketio", vec![json!({"token": SERVICE}); 2]),
        (
            "homeassistant",
            "/api/websocket",
            "home-assistant",
            vec![json!({"type": "auth", "access_token": SERVICE})],
        ),
    ] {
        let server = Server::start(program, "server").await;
        let routes = format!(
            "[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
             [route.first_message]\npreset = \"{preset}\"\nforward = \"replace\"\n\
             secret_file = \"service\"\n"
        );
        let usher = Setup::new(server.url())
            .routes(&routes)
            .file("service", SERVICE.to_owned())
            .start()
            .await;
        usher.keep_secret(SERVICE);
        let (code, lines) = client(program, &usher, path, &usher.token("ada"), &[]).await;
        assert_eq!((code, lines.last()), (0, Some(&json!({"done": true}))), "{lines:?}");
        assert_eq!(server.logins(), logins, "{program}");
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stomp() {
    let server = Server::start("stomp", "server").await;
    let usher = start(server.url(), "/stomp", "stomp", "", "").await;
    let (code, lines) = client("stomp", &usher, "/stomp", &usher.token("ada"), &[]).await;
    assert_eq!((code, lines.last()), (0, Some(&json!({"done": true}))), "{lines:?}");
    assert_eq!(server.logins()[0].get("Authorization"), None, "{:?}", server.logins());

    let (code, lines) = client("stomp", &usher, "/stomp", "x.y.z", &[]).await;
    let refused = refusal(&lines);
    assert_eq!(
        (code, &refused["error"]["headers"]["message"]),
        (3, &json!("the token is not valid")),
        "{refused}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3() {
    let server = Server::start("mqtt", "server").await;
    let usher = start(server.url(), "/mqtt", "mqtt", "", "").await;
    let (code, lines) = client("mqtt", &usher, "/mqtt", &usher.token("ada"), &[]).await;
    assert_eq!((code, lines.last()), (0, Some(&json!({"done": true}))), "{lines:?}");
    let login = &server.logins()[0];
    assert_eq!(
        (login.get("username"), login.get("password"), &login["protocolVersion"]),
        (None, None, &json!(4))
    );

    let (code, lines) = client("mqtt", &usher, "/mqtt", "x.y.z", &[]).await;
    assert_eq!(
        (code, &refusal(&lines)["error"]["code"]),
        (3, &json!(4)),
        "bad user name or password"
    );
    usher.finish().await;
}

/// MQTT 5 with mosquitto.
#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5() {
    let broker = Mosquitto::start(ANONYMOUS, &[]).await;
    let usher = start(format!("http://127.0.0.1:{}", broker.port), "/mqtt", "mqtt", "", "").await;
    let version = ("MQTT_VERSION", "5".to_owned());
    let accepted =
        client("mqtt", &usher, "/mqtt", &usher.token("ada"), std::slice::from_ref(&version)).await;
    let refused = client("mqtt", &usher, "/mqtt", "x.y.z", &[version]).await;
    assert_eq!((accepted.0, accepted.1.last()), (0, Some(&json!({"done": true}))), "{accepted:?}");
    assert_eq!(
        (refused.0, &refusal(&refused.1)["error"]["code"]),
        (3, &json!(0x86)),
        "{refused:?}"
    );
    usher.finish().await;
}
