//! Stopping in an orderly way.

use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::revocation::{JSON, refused, revoke};
use crate::support::client;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Backend, Echo, Raw, Setup, Usher, eventually};

async fn is_unready(usher: &Usher) {
    let status = async || client::get(usher.admin, "/readyz").await.status == 503;
    eventually("/readyz says 503", status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_told_to_go_and_the_exit_is_clean() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).drain("1500ms").start().await;
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    let mut sockets = Vec::new();
    for number in 0..20 {
        sockets.push(usher.connect(&format!("user-{number}")).await);
    }
    usher.signal("TERM");
    // `/readyz` turns to 503 before the first close frame goes out, or no close frame has come yet.
    is_unready(&usher).await;
    for socket in &mut sockets {
        let message =
            timeout(Duration::from_secs(30), socket.next()).await.unwrap().unwrap().unwrap();
        let Message::Close(Some(frame)) = message else { panic!("{message:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "Server going away"));
        // The client library sends its close frame with the next poll.
        while let Some(Ok(_)) = socket.next().await {}
    }
    let audit = usher.finish_stopped().await;
    let ends: Vec<_> = audit.iter().filter(|line| line["event"] == "session_ended").collect();
    assert_eq!(ends.len(), 20);
    assert!(ends.iter().all(|line| line["outcome"] == "draining"), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_at_once() {
    let echo = Echo::start().await;
    // The clients do not answer the close frame.
    let patient = "[keepalive]\nclose_timeout = \"10m\"";
    let mut usher = Setup::new(echo.url()).drain("10m").extra(patient).start().await;
    let _sockets = (usher.connect("ada").await, usher.connect("bob").await);
    usher.signal("TERM");
    is_unready(&usher).await;
    usher.signal("TERM");
    assert_eq!(usher.exit().await.code(), Some(1));
    usher.logged(&["drain_forced", "\"remaining\":2"]).await;
    let audit = usher.finish_killed().await;
    let of = |event: &str| audit.iter().filter(|line| line["event"] == event).count();
    assert_eq!((of("drain_forced"), of("session_ended")), (1, 2), "{audit:?}");
    let mut ends = audit.iter().filter(|line| line["event"] == "session_ended");
    assert!(ends.all(|line| line["outcome"] == "draining"), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_the_queue_of_the_kernel_are_served_and_not_reset() {
    let backend = Backend::start().await;
    // The window is longer than a busy machine takes to send a hundred requests.
    let usher = Setup::new(backend.url()).drain("30s").start().await;
    // The process is stopped, so that the kernel queues connections. When it goes on, the signal
    // comes before the connections.
    usher.signal("STOP");
    let mut queued = Vec::new();
    for number in 0..200 {
        let mut raw = Raw::connect(usher.plain).await;
        if number % 2 == 0 {
            raw.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
        }
        queued.push(raw);
    }
    usher.signal("TERM");
    usher.signal("CONT");
    for (number, raw) in queued.iter_mut().enumerate() {
        if number % 2 == 1 {
            // These requests arrive after the signal.
            raw.send("GET /public/hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
        }
    }
    for (number, mut raw) in queued.into_iter().enumerate() {
        let answer = String::from_utf8(raw.read_to_close().await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"),
            "{number}: {answer:?}"
        );
    }
    let address = usher.plain;
    usher.finish_stopped().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// A close frame with 1001, and a masked one with 1000.
const GOING_AWAY: [u8; 4] = [0x88, 19, 0x03, 0xE9];
const CLIENT_CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_in_the_queue_of_the_kernel_are_let_in_and_closed_in_the_window() {
    let echo = Echo::start().await;
    // Longer than a busy machine takes for the upgrades. The test does not wait for its end.
    let usher = Setup::new(echo.url()).drain("25s").start().await;
    usher.signal("STOP");
    let upgrade = |number: usize| {
        let bearer = usher.token(&format!("user-{number}"));
        client::upgrade_request("/ws", &format!("Authorization: Bearer {bearer}\r\n"))
    };
    let mut queued = Vec::new();
    for number in 0..100 {
        let mut raw = Raw::connect(usher.plain).await;
        if number % 2 == 0 {
            raw.send(upgrade(number)).await;
        }
        queued.push(raw);
    }
    usher.signal("TERM");
    usher.signal("CONT");
    for (number, raw) in queued.iter_mut().enumerate() {
        if number % 2 == 1 {
            // These upgrades arrive after the signal.
            raw.send(upgrade(number)).await;
        }
    }
    for (number, raw) in queued.iter_mut().enumerate() {
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{number}: {head}");
    }
    // The moments are spread over the window. When the first sessions were closed, the clients
    // close the others, and the process does not wait any longer.
    let (stop, stopped) = tokio::sync::watch::channel(());
    let closes = queued.into_iter().map(|mut raw| {
        let mut stopped = stopped.clone();
        async move {
            tokio::select! {
                frame = raw.read_exactly(4) => assert_eq!(frame, GOING_AWAY),
                _ = stopped.changed() => {
                    raw.send(CLIENT_CLOSE).await;
                    return false;
                }
            }
            true
        }
    });
    let mut closes: futures_util::stream::FuturesUnordered<_> = closes.collect();
    let (mut by_drain, mut by_client) = (0, 0);
    while let Some(is_by_drain) = closes.next().await {
        by_drain += usize::from(is_by_drain);
        by_client += usize::from(!is_by_drain);
        if by_drain == 3 {
            stop.send_replace(());
        }
    }
    assert!(by_drain >= 3 && by_client > 0, "{by_drain} {by_client}");
    usher.finish_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_sessions_that_have_ended() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).drain("10m").start().await;
    let mut sockets = vec![usher.connect("ada").await];
    let (code, text) = order(&usher, &["--percent", "100"]).await;
    assert_eq!((code, &*text), (0, "closing 1 of 1 sessions over 600 s\n"));
    let _ = sockets.remove(0).close(None).await;
    usher.until_metric("usher_sessions_active{route=\"/ws\"} 0").await;
    // The share's only session has ended, so the next share may begin.
    let next = async || order(&usher, &["--percent", "100"]).await.0 == 0;
    eventually("the next share", next).await;
    for number in 0..5 {
        sockets.push(usher.connect(&format!("user-{number}")).await);
    }
    usher.signal("TERM");
    is_unready(&usher).await;
    for mut socket in sockets {
        let _ = socket.close(None).await;
        while let Some(Ok(_)) = socket.next().await {}
    }
    usher.finish_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_under_way_has_the_window_to_end() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).drain("20s").start().await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send("POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nbod").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    usher.signal("TERM");
    usher.logged(&["drain_started"]).await;
    // The drain window counts, not the shorter time for the close handshake of a session.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    raw.send("y!!").await;
    assert!(String::from_utf8(raw.read_to_close().await).unwrap().ends_with("0\r\n\r\n"));
    usher.finish_stopped().await;
}

async fn is_closed(socket: &mut Socket) {
    let message = timeout(Duration::from_secs(30), socket.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(frame)) = message else { panic!("{message:?}") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "Server going away"));
    while let Some(Ok(_)) = socket.next().await {}
}

/// Runs `usher drain` with these arguments. Returns the exit code and the output.
async fn order(usher: &Usher, arguments: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["drain", "--admin", &usher.admin.to_string()]).args(arguments);
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_delay_clients_are_accepted_and_revocations_hold() {
    let echo = Echo::start().await;
    let mut usher = Setup::new(echo.url()).drain("1s\"\ndelay = \"5m").start().await;
    let mut early = usher.connect("ada").await;
    usher.signal("TERM");
    is_unready(&usher).await;
    let mut late = usher.connect("bob").await;
    is_alive(&mut late).await;
    assert_eq!(revoke(&usher, serde_json::json!({"user": "bob"})).await, 1);
    let bob = format!("Authorization: Bearer {}\r\n", usher.token("bob"));
    assert_eq!(refused(&usher, "/ws", &bob).await.0, 401);
    is_alive(&mut early).await;
    assert!(!usher.log().contains("drain_started"), "{}", usher.log());
    usher.signal("TERM");
    assert_eq!(usher.exit().await.code(), Some(1));
    usher.finish_killed().await;
}

/// Kubernetes runs the hook first, and then sends the signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_after_an_order_leaves_the_drain_its_time() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).drain("200ms\"\ndelay = \"2s").start().await;
    assert_eq!(order(&usher, &[]).await.0, 0);
    is_unready(&usher).await;
    usher.signal("TERM");
    usher.finish_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_delay_the_drain_begins() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).drain("200ms\"\ndelay = \"300ms").start().await;
    let mut socket = usher.connect("ada").await;
    usher.signal("TERM");
    is_closed(&mut socket).await;
    let log = usher.log();
    let (announced, rest) = log.split_once("drain_announced").expect(&log);
    assert!(!announced.contains("drain_started") && rest.contains("drain_started"), "{log}");
    usher.finish_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_sessions_closes_and_the_process_goes_on() {
    let echo = Echo::start().await;
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["header"]
        [[route]]
        path = "/other"
        upstream = "chat"
        auth = ["header"]
    "#;
    let usher = Setup::new(echo.url()).routes(routes).drain("300ms").start().await;
    let open = async |target: &str, user: &str| {
        let bearer = format!("Bearer {}", usher.token(user));
        usher.open(target, &[("authorization", &bearer)]).await.unwrap()
    };
    let close = |mut socket: Socket| tokio::spawn(async move { is_closed(&mut socket).await });
    let mut sockets = Vec::new();
    for number in 0..10 {
        sockets.push(close(open("/ws", &format!("user-{number}")).await));
    }
    let other = close(open("/other", "ada").await);
    let (code, text) = order(&usher, &["--percent", "20", "--route", "/ws"]).await;
    assert_eq!((code, &*text), (0, "closing 2 of 10 sessions over 0.3 s\n"));
    usher.until_metric("usher_sessions_active{route=\"/ws\"} 8").await;
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    // The next share may begin when the window of the first one has passed.
    eventually("the next share", async || order(&usher, &["--route", "/ws"]).await.0 == 0).await;
    for socket in sockets {
        socket.await.unwrap();
    }
    usher.until_metric("usher_sessions_active{route=\"/other\"} 1").await;
    let late = close(open("/ws", "bob").await);
    let (code, text) = order(&usher, &["--route", "/none"]).await;
    assert!(code == 2 && text.contains("the routes are /ws, /other"), "{code} {text}");
    let (code, text) = order(&usher, &[]).await;
    assert_eq!((code, &*text), (0, "stopping: 2 sessions close over 0.3 s\n"));
    other.await.unwrap();
    late.await.unwrap();
    usher.finish_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_drain_is_json_and_comes_once() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).drain("1s\"\ndelay = \"5m").start().await;
    let ask = async |method: &str, headers: &str| {
        let request = format!(
            "{method} /drain HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             {headers}Content-Length: 2\r\n\r\n{{}}"
        );
        client::http(usher.admin, request.as_bytes()).await.status
    };
    assert_eq!(ask("GET", JSON).await, 405);
    assert_eq!(ask("POST", "Content-Type: text/plain\r\n").await, 415);
    assert_eq!(client::get(usher.admin, "/readyz").await.status, 200);
    assert_eq!(ask("POST", JSON).await, 200);
    is_unready(&usher).await;
    assert_eq!(ask("POST", JSON).await, 409);
    usher.signal("KILL");
    usher.finish_killed().await;
}
