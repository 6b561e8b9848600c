//! Brokers with a login of their own behind Usher, set up as `docs/brokers.md` says. Their clients
//! send Usher a token.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::documents::Page;
use crate::presets::{client, refusal};
use crate::reload::usher_reload;
use crate::support::broker::{ANONYMOUS, Login, Mosquitto, RabbitMq};
use crate::support::{Setup, Usher};

const SECRET: &str = "broker:canary s3cret";
const SERVICE: Login<'static> = Login { user: "usher", password: SECRET };

/// The index of a broker among those of the page.
const RABBITMQ: usize = 0;
const MOSQUITTO: usize = 1;

/// Returns the block that the page shows for a broker.
fn block(broker: usize, language: &str) -> String {
    Page::named("docs/brokers.md").blocks(language).swap_remove(broker).text
}

/// Starts Usher with the upstreams and routes of the page and other addresses.
async fn start(broker: usize, secret: &str, addresses: &[(&str, u16)]) -> Usher {
    let config = block(broker, "toml");
    let mut routes = config.split_at(config.find("[[upstream]]").unwrap()).1.to_owned();
    for (from, port) in addresses {
        assert!(routes.contains(from), "{routes}");
        routes = routes.replace(from, &format!("127.0.0.1:{port}"));
    }
    let usher = Setup::new("http://127.0.0.1:9")
        .routes(&routes)
        .file("broker-secret", secret.to_owned())
        .start()
        .await;
    usher.keep_secret(SECRET);
    usher
}

fn is_done((code, lines): &(i32, Vec<Value>)) -> bool {
    *code == 0 && lines.last() == Some(&json!({"done": true}))
}

/// Returns the output of paho-mqtt, a second MQTT client beside MQTT.js.
async fn paho(usher: &Usher, path: &'static str, token: &str, version: &'static str) -> String {
    let (port, certificate, token) =
        (usher.tls.port().to_string(), usher.certificate_path(), token.to_owned());
    let mut command = tokio::process::Command::new("target/e2e-tools/venv/bin/python");
    command
        .arg("tests/e2e/clients/python/mqtt_client.py")
        .args([&port, path])
        .arg(certificate)
        .args([&token, version]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn version(version: &str) -> [(&'static str, String); 1] {
    [("MQTT_VERSION", version.to_owned())]
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_gets_the_login_of_the_service() {
    let broker = Mosquitto::start(&block(MOSQUITTO, "ini"), &[SERVICE]).await;
    let usher = start(MOSQUITTO, SECRET, &[("127.0.0.1:9001", broker.port)]).await;
    let token = usher.token("ada");
    for mqtt in ["4", "5"] {
        let lines = client("mqtt", &usher, "/mqtt", &token, &version(mqtt)).await;
        assert!(is_done(&lines), "{lines:?}");
        let (code, lines) = client("mqtt", &usher, "/mqtt", "x.y.z", &version(mqtt)).await;
        assert_eq!(code, 3, "a client without a good token: {lines:?}");
        assert_eq!(
            paho(&usher, "/mqtt", &token, if mqtt == "5" { "5" } else { "4" }).await,
            "rooms/paho hello\n"
        );
    }
    let connected = broker.connected();
    assert!(
        connected.len() == 4 && connected.iter().all(|line| line.contains("u'usher'")),
        "{connected:?}"
    );
    usher.finish().await;
}

/// A reload reads the file of the secret again. A login that the broker refuses has a log line of
/// its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_is_told_and_mended_by_a_reload() {
    let broker = Mosquitto::start(&block(MOSQUITTO, "ini"), &[SERVICE]).await;
    let usher = start(MOSQUITTO, "the-old-canary", &[("127.0.0.1:9001", broker.port)]).await;
    usher.keep_secret("the-old-canary");
    let token = usher.token("ada");
    for (mqtt, broker_s_code) in [("4", 5), ("5", 0x87)] {
        let (code, lines) = client("mqtt", &usher, "/mqtt", &token, &version(mqtt)).await;
        let refused = refusal(&lines);
        assert_eq!(
            (code, &refused["error"]["code"]),
            (3, &json!(broker_s_code)),
            "the broker's own words: {refused}"
        );
    }
    usher
        .logged(&[
            "\"level\":\"WARN\"",
            "\"event\":\"session_ended\"",
            "\"reason\":\"login_refused\"",
        ])
        .await;
    assert!(
        usher
            .metrics()
            .await
            .contains("usher_session_closes_total{code=\"1014\",reason=\"login_refused\"} 2")
    );

    std::fs::write(usher.folder().join("broker-secret"), format!("{SECRET}\n")).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert!(
        code == 0 && said.starts_with("applied: ") && said.ends_with("/broker-secret\n"),
        "{code} {said}"
    );
    let lines = client("mqtt", &usher, "/mqtt", &token, &version("5")).await;
    assert!(is_done(&lines), "{lines:?}");
    let audit = usher.finish().await;
    assert_eq!(audit.iter().filter(|line| line["outcome"] == "login_refused").count(), 2);
}

/// Mosquitto with `allow_anonymous` and a file of passwords refuses a user name with an empty
/// password.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_the_broker_sees_no_login_at_all() {
    let broker = Mosquitto::start(
        &format!("{ANONYMOUS}\npassword_file /etc/mosquitto/passwords"),
        &[SERVICE],
    )
    .await;
    let routes = |more: &str| {
        format!(
            "[[route]]\npath = \"/mqtt\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
             first_message = {{ preset = \"mqtt\"{more} }}"
        )
    };
    let upstream = format!("http://127.0.0.1:{}", broker.port);
    for (more, gets_in) in [("", true), (", forward = \"redact\"", false)] {
        let usher = Setup::new(&*upstream).routes(&routes(more)).start().await;
        for mqtt in ["4", "5"] {
            let lines = client("mqtt", &usher, "/mqtt", &usher.token("ada"), &version(mqtt)).await;
            assert_eq!(is_done(&lines), gets_in, "{more} {lines:?}");
        }
        usher.finish().await;
    }
    let connected = broker.connected();
    assert!(
        connected.len() == 2 && connected.iter().all(|line| !line.contains("u'")),
        "{connected:?}"
    );
}

const GUEST: &str = "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0";

fn stomp_login(host: &str, token: &str) -> String {
    format!("CONNECT\naccept-version:1.2\nhost:{host}\nlogin:guest\npasscode:{token}\n\n\0")
}

/// Sends these messages at once. Returns the answers until the end, or until no more come for ten
/// seconds.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    messages: &[String],
) -> (Vec<String>, Option<u16>) {
    for message in messages {
        socket.feed(Message::text(message.as_str())).await.unwrap();
    }
    socket.flush().await.unwrap();
    let mut heard = Vec::new();
    while let Ok(Some(Ok(message))) = timeout(Duration::from_secs(10), socket.next()).await {
        match message {
            Message::Text(text) => heard.push(text.to_string()),
            Message::Close(frame) => return (heard, frame.map(|frame| frame.code.into())),
            _ => {}
        }
    }
    (heard, None)
}

async fn through(usher: &Usher, messages: &[String]) -> (Vec<String>, Option<u16>) {
    let socket = usher.open("/stomp", &[("sec-websocket-protocol", "v12.stomp")]).await.unwrap();
    converse(socket, messages).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_gets_the_login_of_the_service() {
    let guest = Login { user: "guest", password: "guest" };
    let broker = RabbitMq::start(&block(RABBITMQ, "ini"), &[SERVICE, guest]).await;
    let usher = start(
        RABBITMQ,
        SECRET,
        &[("127.0.0.1:15674", broker.stomp), ("127.0.0.1:15675", broker.mqtt)],
    )
    .await;
    let token = usher.token("ada");
    let topic = ("STOMP_TOPIC", "/topic/greetings".to_owned());
    let named = [topic.clone(), ("STOMP_LOGIN", "ada".to_owned())];
    for env in [std::slice::from_ref(&topic), &named] {
        let lines = client("stomp", &usher, "/stomp", &token, env).await;
        assert!(is_done(&lines), "{lines:?}\n{}", broker.log());
        let (code, lines) = client("stomp", &usher, "/stomp", "x.y.z", env).await;
        assert_eq!(
            (code, &refusal(&lines)["error"]["headers"]["code"]),
            (3, &json!("INVALID_TOKEN")),
            "{lines:?}"
        );
    }
    let lines = client("mqtt", &usher, "/mqtt", &token, &version("4")).await;
    assert!(is_done(&lines), "{lines:?}\n{}", broker.log());
    assert_eq!(paho(&usher, "/mqtt", &token, "4").await, "rooms/paho hello\n");
    let (code, lines) = client("mqtt", &usher, "/mqtt", "x.y.z", &version("4")).await;
    assert_eq!((code, &refusal(&lines)["error"]["code"]), (3, &json!(4)), "{lines:?}");

    no_client_logs_in_as_another(&broker, &usher, &token).await;
    let audit = usher.finish().await;
    let refused: Vec<_> = audit
        .iter()
        .filter(|line| line["outcome"] == "login_refused")
        .map(|line| &line["close_code"])
        .collect();
    assert_eq!(refused, [1014; 5]);

    what_the_page_says_of_other_logins(&broker).await;
}

/// Checks that a client cannot log in as `guest`, who may do everything from this machine. For the
/// broker, all clients of Usher are on this machine.
async fn no_client_logs_in_as_another(broker: &RabbitMq, usher: &Usher, token: &str) {
    let is_in = |heard: &[String]| heard.iter().any(|frame| frame.contains("CONNECTED"));
    let refused = stomp_login("nowhere", SECRET);
    // Without Usher, the broker accepts a second login, even behind a byte that belongs to no
    // frame.
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", broker.stomp)).await.unwrap();
    let (direct, _) =
        tokio_tungstenite::client_async(format!("ws://127.0.0.1:{}/ws", broker.stomp), tcp)
            .await
            .unwrap();
    let (heard, _) = converse(direct, &[refused, format!("\0{GUEST}")]).await;
    assert!(heard[0].starts_with("ERROR") && is_in(&heard), "{heard:?}");

    let first = stomp_login("nowhere", token);
    let send = "SEND\ndestination:/topic/x\n\nhello\0";
    let (begin, end) = GUEST.split_at(20);
    for messages in [
        vec![first.clone(), GUEST.to_owned()],
        vec![first.clone(), format!("\0{GUEST}")],
        vec![first.clone(), format!("{send}{GUEST}")],
        vec![first.clone(), begin.to_owned(), end.to_owned()],
        vec![format!("{first}{send}{GUEST}")],
    ] {
        let (heard, code) = through(usher, &messages).await;
        assert!(
            heard.len() == 1 && heard[0].contains("Virtual host 'nowhere' access denied"),
            "{messages:?} {heard:?}"
        );
        assert!(code.is_some(), "{messages:?}");
    }
    // After a login that it accepted, the broker itself accepts no other.
    for behind in [format!("\0{GUEST}"), format!("{send}{GUEST}")] {
        let (heard, code) = through(usher, &[stomp_login("/", token), behind]).await;
        assert!(heard.len() == 1 && is_in(&heard) && code.is_some(), "{heard:?} {code:?}");
    }
    // Two logins in one message count as two credentials.
    let (heard, code) = through(usher, &[format!("{}\0{GUEST}", stomp_login("/", token))]).await;
    assert!(heard[0].contains("TWO_CREDENTIALS") && code == Some(1008), "{heard:?} {code:?}");
}

async fn what_the_page_says_of_other_logins(broker: &RabbitMq) {
    let named = [("STOMP_TOPIC", "/topic/greetings".to_owned()), ("STOMP_LOGIN", "ada".to_owned())];
    for (more, gets_in) in
        [("", true), (", forward = \"redact\"", false), (", forward = \"forward\"", false)]
    {
        let routes = format!(
            "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"message\"]\n\
             first_message = {{ preset = \"stomp\"{more} }}"
        );
        let usher =
            Setup::new(format!("http://127.0.0.1:{}", broker.stomp)).routes(&routes).start().await;
        let lines = client("stomp", &usher, "/ws", &usher.token("ada"), &named).await;
        assert_eq!(is_done(&lines), gets_in, "{more} {lines:?}");
        usher.finish().await;
    }
}
