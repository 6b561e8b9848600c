//! Stopping in an orderly way.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client;
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
    let mut usher = Setup::new(echo.url()).drain("10m").start().await;
    let _sockets = (usher.connect("ada").await, usher.connect("bob").await);
    usher.signal("TERM");
    is_unready(&usher).await;
    usher.signal("TERM");
    assert_eq!(usher.exit().await.code(), Some(1));
    usher.finish_killed().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_under_way_has_the_window_to_end() {
    let backend = Backend::start().await;
    let usher = Setup::new(backend.url()).drain("20s").start().await;
    let mut raw = Raw::connect(usher.plain).await;
    raw.send("POST /public/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nbod").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    usher.signal("TERM");
    usher.logged(&["drain_finished"]).await;
    // The drain window counts, not the shorter time for the close handshake of a session.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    raw.send("y!!").await;
    assert!(String::from_utf8(raw.read_to_close().await).unwrap().ends_with("0\r\n\r\n"));
    usher.finish_stopped().await;
}
