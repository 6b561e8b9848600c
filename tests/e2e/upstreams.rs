//! The connections to an upstream, and the faults of an upstream.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::Answer;
use crate::support::redis::free_port;
use crate::support::usher::{acceptor, is_alive};
use crate::support::{Echo, Raw, Recorder, Script, Setup, Usher, upgrade_request};

async fn status(usher: &Usher) -> Answer {
    let token = usher.token("ada");
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    Answer::parse(&raw.read_to_close().await)
}

async fn speaks(usher: &Usher) {
    let mut socket = usher.connect("ada").await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

/// Returns the URL of a server that does not exist.
fn dead() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_upstream_is_verified_against_its_own_roots() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let echo = Echo::start_tls(acceptor(&certified)).await;
    let usher = Setup::new(echo.url())
        .upstream_lines("ca_file = \"ca.pem\"")
        .file("ca.pem", certified.cert.pem())
        .start()
        .await;
    speaks(&usher).await;
    usher.finish().await;

    let wrong = "ca_file = \"ca.pem\"\nserver_name = \"other.example.com\"";
    let usher = Setup::new(echo.url())
        .upstream_lines(wrong)
        .file("ca.pem", certified.cert.pem())
        .start()
        .await;
    assert_eq!(status(&usher).await.status, 502);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_an_upstream_too() {
    let path = std::env::temp_dir().join(format!("usher-e2e-{}.sock", std::process::id()));
    let _echo = Echo::start_unix(&path).await;
    let usher = Setup::new(format!("unix:{}", path.display())).start().await;
    speaks(&usher).await;
    usher.finish().await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_passed_over() {
    let echo = Echo::start().await;
    let usher = Setup::new("").servers(&[dead(), echo.url()]).start().await;
    for _ in 0..4 {
        speaks(&usher).await;
    }
    assert_eq!(echo.visits().len(), 4);
    usher.finish().await;
    let usher = Setup::new("").servers(&[dead(), dead()]).start().await;
    assert_eq!(status(&usher).await.status, 502);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_to_the_server_that_has_fewest() {
    let (one, two) = (Echo::start().await, Echo::start().await);
    let usher = Setup::new("").servers(&[one.url(), two.url()]).start().await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(usher.connect("ada").await);
    }
    assert_eq!((one.visits().len(), two.visits().len()), (5, 5));
    drop(sockets);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_late_or_nonsense_is_a_gateway_error() {
    for (script, expected) in [
        (Script::Silent, 504),
        (Script::AnswerAndClose(Vec::new()), 502),
        (Script::Answer(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()), 502),
        (Script::AnswerAndClose(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec()), 502),
        (
            Script::AnswerAndClose(
                [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 100_000]].concat(),
            ),
            502,
        ),
    ] {
        let recorder = Recorder::start(script).await;
        let usher =
            Setup::new(recorder.url()).upstream_lines("upgrade_timeout = \"2s\"").start().await;
        assert_eq!(status(&usher).await.status, expected);
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_an_upgrade_costs_its_own_timeout_and_the_next_one_is_asked()
{
    let (silent, echo) = (Recorder::start(Script::Silent).await, Echo::start().await);
    let lines = "upgrade_timeout = \"2s\"\nanswer_timeout = \"1h\"";
    let usher =
        Setup::new("").servers(&[silent.url(), echo.url()]).upstream_lines(lines).start().await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut socket = usher.connect("ada").await;
        is_alive(&mut socket).await;
        sockets.push(socket);
    }
    assert_eq!(echo.visits().len(), 4);
    usher.logged(&["dial_failed", "no answer to the upgrade within upgrade_timeout"]).await;
    // Each try has a signed context of its own.
    let asked = silent.connections();
    assert!(
        !asked.is_empty()
            && asked
                .iter()
                .all(|request| request.to_ascii_lowercase().contains("x-user-context: "))
    );
    let sent: Vec<_> =
        echo.visits().iter().map(|visit| visit.all("x-user-context")[0].to_owned()).collect();
    assert!(asked.iter().all(|request| sent.iter().all(|context| !request.contains(context))));
    drop(sockets);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tries_together_share_reach_timeout() {
    let silent = [Recorder::start(Script::Silent).await, Recorder::start(Script::Silent).await];
    let lines = "upgrade_timeout = \"1h\"\nreach_timeout = \"2s\"";
    let servers = silent.each_ref().map(Recorder::url);
    let usher = Setup::new("").servers(&servers).upstream_lines(lines).start().await;
    assert_eq!(status(&usher).await.status, 504);
    assert_eq!(
        silent.iter().map(|one| one.connections().len()).sum::<usize>(),
        1,
        "the second server was asked"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_101_stays_http() {
    let refusal =
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nX-Why: because\r\nConnection: X-Hop\r\n\
         X-Hop: 1\r\n\r\nnot today"
            .to_vec();
    let chunked =
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlater\r\n0\r\n\r\n".to_vec();
    let large =
        [b"HTTP/1.1 404 No\r\nContent-Length: 1048576\r\n\r\n".to_vec(), vec![b'x'; 1_048_576]]
            .concat();
    for (bytes, expected, body) in [
        (refusal, 403, "not today".to_owned()),
        (chunked, 503, "later".to_owned()),
        (large, 404, "x".repeat(65_536)),
    ] {
        let recorder = Recorder::start(Script::Answer(bytes)).await;
        let usher = Setup::new(recorder.url()).start().await;
        let answer = status(&usher).await;
        assert_eq!((answer.status, answer.body.len()), (expected, body.len()));
        assert_eq!(answer.body, body);
        assert!(!answer.head.contains("x-hop"));
        let audit = usher.finish().await;
        assert!(audit.iter().any(|line| line["event"] == "upgrade_rejected"
            && line["user"] == "ada"
            && line.to_string().contains("upstream_declined")));
    }
}
