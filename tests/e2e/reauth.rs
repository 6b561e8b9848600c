//! Re-authentication in the live stream.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::{auth, close_frame, json as json_of, next, text};
use crate::support::usher::Socket;
use crate::support::{
    Echo, Raw, Recorder, Script, Setup, Usher, eventually, token, upgrade_request,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts Usher for sessions with tokens of a few seconds, so that the question comes soon.
async fn start(upstream: String, reauth: &str) -> Usher {
    let routes = format!(
        "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\n\
         auth = [\"ticket\", \"message\", \"header\"]\n[route.reauth]\n{reauth}\n"
    );
    Setup::new(upstream).routes(&routes).start().await
}

fn short(usher: &Usher, subject: &str, seconds: u64) -> String {
    usher.token_with(
        subject,
        json!({ "exp": token::now() + seconds, "jti": format!("{subject}-{seconds}") }),
    )
}

async fn bearer(usher: &Usher, token: &str) -> Socket {
    usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
}

async fn asked(socket: &mut Socket) -> Value {
    let question = json_of(socket).await;
    assert_eq!(question["type"], "auth_required", "{question}");
    question
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renewed_however_it_began() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "").await;
    for way in ["header", "ticket", "message"] {
        let first = short(&usher, "ada", 4);
        let mut socket = match way {
            "header" => bearer(&usher, &first).await,
            "ticket" => usher.connect_ticket(&usher.issue_ticket(&first).await).await.unwrap(),
            _ => {
                let mut socket = usher.open("/ws", &[]).await.unwrap();
                socket.send(auth(&first)).await.unwrap();
                assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
                socket
            }
        };
        let question = asked(&mut socket).await;
        assert_eq!(question["payload"]["reason"], "Token expiring soon");
        assert!(question["payload"]["grace_seconds"].as_u64().unwrap() <= 2);
        // A ticket renews as well as a token does.
        let later = short(&usher, "ada", 600);
        let answer = if way == "ticket" {
            let ticket = usher.issue_ticket(&later).await;
            Message::text(
                json!({"type": "auth", "id": "m2", "payload": {"ticket": ticket}}).to_string(),
            )
        } else {
            auth(&later)
        };
        socket.send(answer).await.unwrap();
        let ok = json_of(&mut socket).await;
        assert_eq!(
            (&ok["type"], &ok["payload"]["user"]),
            (&json!("auth_ok"), &json!("ada")),
            "{ok}"
        );
        assert!(ok["payload"]["expires_at"].as_u64().unwrap() / 1000 > token::now() + 500);
        // A second answer to the same question does not reach the upstream either.
        socket.send(auth(&later)).await.unwrap();
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(text(&mut socket).await, "still here");
    }
    assert!(
        echo.messages().iter().all(|message| !message.to_string().contains("auth")),
        "{:?}",
        echo.messages()
    );
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains("usher_reauth_duration_seconds_count{route=\"/ws\"} 3\n"),
        "{metrics}"
    );
    for line in ["outcome=\"asked\"} 3", "outcome=\"renewed\"} 3"] {
        assert!(
            metrics.contains(&format!("usher_reauth_total{{route=\"/ws\",{line}")),
            "{metrics}"
        );
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_messages_flow_while_the_client_answers() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "").await;
    let (mut sink, mut stream) = bearer(&usher, &short(&usher, "ada", 4)).await.split();
    let later = short(&usher, "ada", 600);
    sink.send(Message::text("push:2000")).await.unwrap();
    // The echoes, the numbers of the upstream and the messages of Usher each arrive in their order.
    let (mut pushed, mut echoed, mut said) = (0, 0, Vec::new());
    let (send_answer, mut answer_wanted) = tokio::sync::mpsc::channel::<()>(1);
    let sending = async move {
        let mut answered = false;
        for number in 0..4000 {
            if !answered && answer_wanted.try_recv().is_ok() {
                answered = true;
                sink.send(Message::text("push:2000")).await.unwrap();
                sink.send(auth(&later)).await.unwrap();
            }
            sink.send(Message::text(format!("mine {number}"))).await.unwrap();
            // At this pace the stream lasts longer than the renewal.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(answered);
        sink
    };
    let receiving = async {
        while pushed < 4000 || echoed < 4000 || said.len() < 2 {
            let message =
                timeout(PATIENCE, stream.next()).await.expect("no message came").unwrap().unwrap();
            let text = message.to_text().unwrap();
            if let Some(number) = text.strip_prefix("mine ") {
                assert_eq!(number, echoed.to_string());
                echoed += 1;
            } else if let Ok(number) = text.parse::<usize>() {
                assert_eq!(number, pushed % 2000);
                pushed += 1;
            } else {
                let spoken: Value = serde_json::from_str(text).unwrap();
                if spoken["type"] == "auth_required" {
                    send_answer.send(()).await.unwrap();
                }
                said.push(spoken["type"].as_str().unwrap().to_owned());
            }
        }
    };
    let (_sink, ()) = tokio::join!(sending, receiving);
    assert_eq!(said, ["auth_required", "auth_ok"]);
    assert!(echo.messages().iter().all(|message| !message.to_string().contains("\"auth\"")));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_may_be_mended_and_three_may_not() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "").await;
    let mut socket = bearer(&usher, &short(&usher, "ada", 4)).await;
    asked(&mut socket).await;
    for (wrong, code) in [("x.y.z", "INVALID_TOKEN"), ("", "MISSING_CREDENTIAL")] {
        socket.send(auth(wrong)).await.unwrap();
        let error = json_of(&mut socket).await;
        assert_eq!(
            (&error["payload"]["code"], &error["id"]),
            (&json!(code), &json!("m1")),
            "{error}"
        );
        assert_eq!(error["payload"]["recoverable"], true);
    }
    socket.send(auth(&short(&usher, "ada", 600))).await.unwrap();
    assert_eq!(json_of(&mut socket).await["type"], "auth_ok");

    let first = short(&usher, "ada", 4);
    let mut socket = bearer(&usher, &first).await;
    asked(&mut socket).await;
    for (turn, code) in [(0, "NOT_RENEWED"), (1, "INVALID_TOKEN"), (2, "INVALID_TOKEN")] {
        // The same token again ends no later.
        socket.send(auth(if turn == 0 { &first } else { "x.y.z" })).await.unwrap();
        let error = json_of(&mut socket).await;
        let payload = &error["payload"];
        assert_eq!(
            (&payload["code"], &payload["recoverable"], &payload["details"]["attempts_left"]),
            (&json!(code), &json!(turn < 2), &json!(2 - turn))
        );
    }
    assert_eq!(json_of(&mut socket).await["payload"]["code"], "REAUTHENTICATION_TIMEOUT");
    assert_eq!(close_frame(&mut socket).await, (1008, "Re-authentication timeout".to_owned()));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_user_or_none_closes_both_sides() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "").await;
    let mut socket = bearer(&usher, &short(&usher, "ada", 4)).await;
    asked(&mut socket).await;
    socket.send(auth(&short(&usher, "bob", 600))).await.unwrap();
    let error = json_of(&mut socket).await;
    assert_eq!(error["payload"]["code"], "OTHER_SUBJECT");
    assert_eq!(error["payload"]["details"].get("attempts_left"), None, "{error}");
    assert_eq!(close_frame(&mut socket).await, (1008, "Invalid token".to_owned()));

    let mut socket = bearer(&usher, &short(&usher, "ada", 4)).await;
    asked(&mut socket).await;
    assert_eq!(json_of(&mut socket).await["payload"]["code"], "REAUTHENTICATION_TIMEOUT");
    assert_eq!(close_frame(&mut socket).await, (1008, "Re-authentication timeout".to_owned()));
    let told = || {
        let closes = echo
            .messages()
            .into_iter()
            .filter_map(|message| if let Message::Close(frame) = message { frame } else { None });
        closes.map(|frame| (u16::from(frame.code), frame.reason.to_string())).collect::<Vec<_>>()
    };
    eventually("the upstream gets both close frames", async || told().len() >= 2).await;
    assert_eq!(
        told(),
        [(1001, "Invalid token".to_owned()), (1001, "Re-authentication timeout".to_owned())]
    );
    let audit = usher.finish().await;
    let reasons: Vec<_> = audit
        .iter()
        .filter(|line| line["event"] == "session_ended")
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(reasons, ["reauth_subject", "reauth_timeout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_question_auth_messages_are_the_application_s_unless_the_route_says_otherwise() {
    let echo = Echo::start().await;
    let plain = start(echo.url(), "").await;
    let mut socket = bearer(&plain, &short(&plain, "ada", 600)).await;
    socket.send(Message::text(r#"{"type":"auth","of":"the application"}"#)).await.unwrap();
    assert_eq!(text(&mut socket).await, r#"{"type":"auth","of":"the application"}"#);
    plain.finish().await;

    let proactive = start(echo.url(), "proactive = true").await;
    let mut socket = bearer(&proactive, &short(&proactive, "ada", 300)).await;
    socket.send(auth(&short(&proactive, "ada", 600))).await.unwrap();
    assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
    // Two renewals in a row are accepted. The same token again has no effect.
    let last = short(&proactive, "ada", 900);
    socket.send(auth(&last)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
    for _ in 0..5 {
        socket.send(auth(&last)).await.unwrap();
    }
    socket.send(Message::text("auth is only a word")).await.unwrap();
    assert_eq!(text(&mut socket).await, "auth is only a word");
    proactive.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_age_off_and_close_do_as_they_say() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "max_age = \"2s\"").await;
    let token = short(&usher, "ada", 600);
    let mut socket = bearer(&usher, &token).await;
    // The same token proves the same again.
    for _ in 0..2 {
        asked(&mut socket).await;
        socket.send(auth(&token)).await.unwrap();
        assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
    }
    usher.finish().await;

    let usher = start(echo.url(), "mode = \"off\"").await;
    let mut socket = bearer(&usher, &short(&usher, "ada", 3)).await;
    // The end of the token has to pass.
    tokio::time::sleep(Duration::from_millis(4100)).await;
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut socket).await, "still here");
    usher.finish().await;

    let usher = start(echo.url(), "mode = \"close\"").await;
    let mut socket = bearer(&usher, &short(&usher, "ada", 3)).await;
    assert_eq!(close_frame(&mut socket).await, (1008, "Session expired".to_owned()));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usher_sends_no_message_between_fragments() {
    // The first fragment of a text message. The last one never comes.
    let recorder = Recorder::start(Script::Accept(b"\x01\x05begin".to_vec())).await;
    let usher = start(recorder.url(), "").await;
    let token = short(&usher, "ada", 4);
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    assert_eq!(raw.read_exactly(7).await, b"\x01\x05begin");
    // Usher sends no question and no error frame: between fragments only a close frame may stand.
    assert_eq!(raw.read_exactly(4).await, [0x88, 27, 0x03, 0xf0]);
    assert_eq!(raw.read_exactly(25).await, b"Re-authentication timeout");
    usher.finish().await;

    // The question comes directly after the last fragment.
    let recorder = Recorder::start(Script::Accept(b"\x01\x05begin\x80\x03end".to_vec())).await;
    let usher = start(recorder.url(), "").await;
    let token = short(&usher, "ada", 3);
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    assert_eq!(raw.read_exactly(12).await, b"\x01\x05begin\x80\x03end");
    assert_eq!(raw.read_exactly(1).await, [0x81]);
    usher.finish().await;
}

/// While a session ends, Usher no longer checks an answer. It still does not pass it to the
/// upstream.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_while_the_session_ends_does_not_reach_the_upstream() {
    // The upstream sends its close frame at once.
    let recorder = Recorder::start(Script::Accept(b"\x88\x02\x03\xe8".to_vec())).await;
    let usher = start(recorder.url(), "proactive = true").await;
    let token = short(&usher, "ada", 600);
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    assert_eq!(raw.read_exactly(4).await, b"\x88\x02\x03\xe8");
    let answer = auth(&short(&usher, "ada", 900));
    let answer = answer.to_text().unwrap().as_bytes();
    let length = (answer.len() as u16).to_be_bytes();
    // The answer, a message of the application, and the close frame of the client.
    raw.send(
        [
            &[0x81, 0xfe][..],
            &length,
            &[0; 4],
            answer,
            b"\x81\x84\0\0\0\0last",
            b"\x88\x82\0\0\0\0\x03\xe8",
        ]
        .concat(),
    )
    .await;
    raw.read_to_close().await;
    let seen = || recorder.connections().pop().unwrap();
    eventually("the last message arrives", async || seen().contains("last")).await;
    assert!(!seen().contains("\"auth\""), "{}", seen());
    usher.finish().await;
}

/// A client that sends as fast as it can does not delay another client, and its session ends with
/// its token.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_outlives_no_token_and_starves_nobody() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(
            "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
            reauth = { mode = \"close\" }\n",
        )
        .start()
        .await;
    let token = short(&usher, "ada", 3);
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    let (mut read, mut write) = tokio::io::split(raw.0);
    let flood = tokio::spawn(async move {
        let wire = b"\x82\x81\0\0\0\0x".repeat(9_000);
        while tokio::io::AsyncWriteExt::write_all(&mut write, &wire).await.is_ok() {}
    });
    let drain = tokio::spawn(async move {
        let (mut buffer, mut last) = (vec![0; 64 * 1024], Vec::new());
        while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await {
            last = buffer[..count].to_vec();
        }
        last
    });
    for _ in 0..20 {
        let mut other = usher.connect("bob").await;
        other.send(Message::text("hello")).await.unwrap();
        assert_eq!(next(&mut other).await.unwrap().unwrap(), Message::text("hello"));
    }
    let last = timeout(PATIENCE, drain)
        .await
        .expect("the session goes on after the end of its token")
        .unwrap();
    assert!(
        String::from_utf8_lossy(&last).ends_with("Session expired"),
        "{}",
        String::from_utf8_lossy(&last)
    );
    flood.abort();
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_causes_answers_and_reads_none_fills_no_memory() {
    let echo = Echo::start().await;
    let usher = start(echo.url(), "proactive = true\nattempts = 1000000000").await;
    let mut raw = Raw::connect(usher.plain).await;
    let token = short(&usher, "ada", 600);
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    raw.read_head().await;
    let message = br#"{"type":"auth","payload":{"token":"x"}}"#;
    let wire = [&[0x81, 0x80 | message.len() as u8, 0, 0, 0, 0][..], message].concat();
    let before = usher.resident_kib();
    // Usher answers each of these, until it stops reading.
    for _ in 0..60_000 {
        if timeout(Duration::from_secs(2), tokio::io::AsyncWriteExt::write_all(&mut raw.0, &wire))
            .await
            .is_err()
        {
            break;
        }
    }
    let grown = usher.resident_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB");
    let mut other = usher.connect("bob").await;
    other.send(Message::text("hello")).await.unwrap();
    assert_eq!(next(&mut other).await.unwrap().unwrap(), Message::text("hello"));
    drop(raw);
    usher.finish().await;
}
