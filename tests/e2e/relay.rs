//! Messages through a session, and the end of a session.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::usher::Socket;
use crate::support::{
    Echo, Ledger, Raw, Recorder, Script, Setup, eventually, token, upgrade_request,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    timeout(PATIENCE, socket.next()).await.expect("no message came")
}

async fn close_frame(socket: &mut Socket) -> (u16, String) {
    loop {
        match next(socket).await {
            Some(Ok(Message::Close(Some(frame)))) => {
                return (frame.code.into(), frame.reason.to_string());
            }
            Some(Ok(_)) => {}
            other => panic!("expected a close frame, got {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_doubled_reordered_or_mixed_up() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let verdicts = join_all((0..8u32).map(|client| {
        let usher = &usher;
        async move {
            let mut ledger = Ledger::new(client);
            let (mut sink, mut stream) = usher.connect(&format!("user-{client}")).await.split();
            let sizes: Vec<usize> =
                [0, 1, 113, 114, 125, 126, 1000, 65_523, 65_524, 70_000, 300_000, 1_048_576]
                    .into_iter()
                    .chain((0..200).map(|turn| turn * 7 % 500))
                    .collect();
            let messages: Vec<_> = sizes.iter().map(|&size| ledger.message(size)).collect();
            let count = messages.len();
            let send = async move {
                for message in messages {
                    sink.send(message).await.unwrap();
                }
                sink
            };
            let receive = async {
                for _ in 0..count {
                    let message = timeout(PATIENCE, stream.next())
                        .await
                        .expect("no message came")
                        .unwrap()
                        .unwrap();
                    ledger.receive(&message);
                }
            };
            let (_sink, ()) = tokio::join!(send, receive);
            ledger.verdict()
        }
    }))
    .await;
    assert_eq!(verdicts.concat(), Vec::<String>::new());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_codes_and_pings_pass_in_both_directions() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;

    let mut socket = usher.connect("ada").await;
    socket.send(Message::text("close:4321:that is all")).await.unwrap();
    assert_eq!(close_frame(&mut socket).await, (4321, "that is all".to_owned()));

    let mut socket = usher.connect("ada").await;
    socket.send(Message::Ping("hello".into())).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::Pong("hello".into()));
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::Ping("are you there".into()));
    socket.flush().await.unwrap();
    socket.close(Some(CloseFrame { code: 4000.into(), reason: "bye".into() })).await.unwrap();
    while let Some(Ok(_)) = next(&mut socket).await {}
    let is_close = |message: &Message| match message {
        Message::Close(Some(frame)) => u16::from(frame.code) == 4000,
        _ => false,
    };
    let has_close = async || echo.messages().iter().any(is_close);
    eventually("the upstream gets the close frame of the client", has_close).await;
    assert!(
        echo.messages().contains(&Message::Pong("are you there".into())),
        "the upstream did not get the pong of the client"
    );
    let audit = usher.finish().await;
    let mut reasons: Vec<_> = audit
        .iter()
        .filter(|line| line["event"] == "session_ended")
        .map(|line| line["outcome"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["client_closed", "upstream_closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_with_the_101_and_with_the_request_are_delivered_first() {
    // A text frame "hello" in the same segment as the 101.
    let recorder = Recorder::start(Script::Accept(b"\x81\x05hello".to_vec())).await;
    let usher = Setup::new(recorder.url()).start().await;
    let token = usher.token("ada");
    let mut raw = Raw::connect(usher.plain).await;
    // A text frame "early", masked with zeros, directly after the request.
    let mut request =
        upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n")).into_bytes();
    request.extend(b"\x81\x85\0\0\0\0early");
    raw.send(&request).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.read_exactly(7).await, b"\x81\x05hello");
    raw.send(b"\x81\x85\0\0\0\0later").await;
    // The mask is zero, so the payloads are readable. The frame headers are not UTF-8.
    let both = "\r\n\r\n\u{fffd}\u{fffd}\0\0\0\0early\u{fffd}\u{fffd}\0\0\0\0later";
    eventually("both messages follow the head, in order", async || {
        recorder.connections()[0].ends_with(both)
    })
    .await;
    drop(raw);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_is_waited_for_and_disturbs_nobody() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut slow = usher.connect("slow").await;
    slow.send(Message::text("push:200000")).await.unwrap();
    let mut quick = usher.connect("quick").await;
    for _ in 0..50 {
        quick.send(Message::text("hello")).await.unwrap();
        assert_eq!(next(&mut quick).await.unwrap().unwrap(), Message::text("hello"));
    }
    for number in 0..200_000 {
        assert_eq!(next(&mut slow).await.unwrap().unwrap(), Message::text(number.to_string()));
    }
    // More than the buffers of the kernel hold.
    let mut stopped = usher.connect("stopped").await;
    stopped.send(Message::text("push:5000000")).await.unwrap();
    usher.until_at_least("usher_limits_hit_total{limit=\"buffered_bytes\"}", 1).await;
    drop(stopped);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_peer_gives_the_other_side_a_close_code() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let mut socket = usher.connect("ada").await;
    socket.send(Message::text("vanish")).await.unwrap();
    assert_eq!(close_frame(&mut socket).await, (1013, "Upstream gone".to_owned()));

    let mut socket = usher.connect("bob").await;
    socket.send(Message::text("here")).await.unwrap();
    next(&mut socket).await;
    drop(socket);
    let told = |message: &Message| match message {
        Message::Close(Some(frame)) => u16::from(frame.code) == 1001,
        _ => false,
    };
    eventually("the upstream gets a close frame", async || echo.messages().iter().any(told)).await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).extra("[reauth]\nmode = \"close\"\n").start().await;
    let token = usher.token_with("ada", json!({ "exp": token::now() + 4 }));
    let mut socket =
        usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
    assert_eq!(close_frame(&mut socket).await, (1008, "Session expired".to_owned()));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_pinged_and_its_pong_is_not_forwarded() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .extra("[keepalive]\nping = \"1s\"\nidle_timeout = \"3s\"\n")
        .start()
        .await;
    let mut socket = usher.connect("ada").await;
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::Ping("usher".into()));
    socket.flush().await.unwrap();
    socket.send(Message::text("after")).await.unwrap();
    loop {
        if next(&mut socket).await.unwrap().unwrap() == Message::text("after") {
            break;
        }
    }
    assert!(
        !echo.messages().iter().any(Message::is_pong),
        "the upstream got a pong that it did not ask for"
    );
    usher.until_at_least("usher_ping_round_trip_seconds_count{route=\"/ws\"}", 1).await;

    // A client that answers nothing is disconnected.
    let token = usher.token("dead");
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    let bytes = raw.read_to_close().await;
    assert!(String::from_utf8_lossy(&bytes).contains("Idle timeout"));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cannot_be_followed_end_the_session() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    for bad in [
        &b"\x81\x05hello"[..],
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
        b"\x09\x80\0\0\0\0",
    ] {
        let token = usher.token("ada");
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
        raw.read_head().await;
        raw.send(bad).await;
        // A close frame with 1002.
        assert_eq!(raw.read_exactly(4).await[2..], 1002u16.to_be_bytes());
    }
    usher.finish().await;
}
