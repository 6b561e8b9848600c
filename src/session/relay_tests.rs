//! Whole sessions over real sockets, in paused time.

use std::net::Ipv4Addr;

use arc_swap::ArcSwap;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::auth::Authenticator;
use crate::auth::first_message::Dialect;
use crate::auth::grant::Grant;
use crate::auth::jwt::{Issuers, sign_for_development};
use crate::auth::renewal::Renewal;
use crate::auth::revocation::Revocations;
use crate::auth::ticket::Tickets;
use crate::base::clock::{Now, UnixMillis};
use crate::config::Keepalive;
use crate::config::{Config, TEST_SECRET};
use crate::model::method::Method;
use crate::model::request_id::RequestId;
use crate::rejection::close::CloseCodes;
use crate::session::registry::Registry;
use crate::session::state::tests::rules;
use crate::ws::deflate;

struct Session {
    client: UnixStream,
    upstream: UnixStream,
    relay: JoinHandle<SessionEnd>,
    config: Arc<Config>,
    wall: UnixMillis,
}

fn config(reauth: &str) -> Arc<Config> {
    Arc::new(crate::config::for_test(&format!("auth = [\"header\"]\n[route.reauth]\n{reauth}")))
}

/// Returns a token that ends `seconds` after the wall clock, which paused time does not move.
fn token(config: &Config, wall: UnixMillis, subject: &str, seconds: u64) -> String {
    let exp = wall.as_secs() + seconds;
    let claims =
        json!({"iss": "https://id.example.com", "aud": "chat", "sub": subject, "exp": exp});
    sign_for_development(config.issuers[0].algorithms[0], &TEST_SECRET.into(), None, &claims)
        .unwrap()
}

fn auth(token: &str) -> String {
    json!({"type": "auth", "payload": {"token": token}}).to_string()
}

fn open(reauth: &str, seconds: u64) -> Session {
    open_with(reauth, seconds, None)
}

fn open_with(reauth: &str, seconds: u64, inflated_bytes: Option<u64>) -> Session {
    let config = config(reauth);
    let now = Now::read();
    let issuers = Arc::new(Issuers::load(&config.issuers, &[]).unwrap());
    let revocations = Arc::new(Revocations::new(10));
    let tickets = Arc::new(Tickets::new(&config).unwrap());
    let principal =
        issuers.verify(&token(&config, now.wall, "ada", seconds).as_str().into(), now).unwrap();
    let route = Arc::clone(&config.routes[0]);
    let grant = Grant::for_test(Arc::clone(&route), Some(principal), Method::Header);
    let rules = SessionRules {
        keepalive: Arc::new(Keepalive {
            ping: Duration::from_secs(86_400 * 9),
            idle_timeout: Duration::from_secs(86_400 * 10),
            close_timeout: Duration::from_secs(5),
        }),
        expires: grant.expires_at().map(|at| now.instant_of(at)),
        renewing: Some(Arc::clone(&route.reauth)),
        began_by_message: false,
        close_codes: CloseCodes::Rfc,
    };
    let renewal = Renewal {
        authenticator: Arc::new(ArcSwap::from_pointee(Authenticator::new(
            issuers,
            tickets,
            revocations,
            config.mtls.clone(),
        ))),
        grant,
        request_id: RequestId::random(),
        origin: None,
        peer: Ipv4Addr::LOCALHOST.into(),
    };
    let (client, client_end) = UnixStream::pair().unwrap();
    let (upstream, upstream_end) = UnixStream::pair().unwrap();
    let opening = Opening {
        client: Stream::Unix(client_end),
        upstream: Stream::Unix(upstream_end),
        ahead: Vec::new(),
        early_in: Vec::new(),
        early_out: Vec::new(),
        welcome: None,
        conversation: Some(Conversation::new(Dialect::new(&route.first_message), Some(renewal))),
        revalidation: None,
        limits: RelayLimits {
            buffered_bytes: 64 * 1024,
            message_bytes: 1 << 24,
            messages_per_second: None,
            inflated_bytes,
        },
    };
    let registry = Registry::new();
    let guard = registry.open(crate::session::registry::tests::handle("ada", now.wall.0));
    let relay = tokio::spawn(async move {
        let session = Arc::clone(&guard);
        let _guard = guard;
        Relay::new(opening, rules, session).await
    });
    Session { client, upstream, relay, config, wall: now.wall }
}

/// Opens a session of a client that has logged in by its first message. The upstream gets `login`.
fn open_behind_login(
    preset: &str,
    login: &[u8],
) -> (UnixStream, UnixStream, JoinHandle<SessionEnd>) {
    let config = Arc::new(crate::config::for_test(&format!(
        "auth = [\"message\"]\nfirst_message = {{ preset = \"{preset}\" }}"
    )));
    let (client, client_end) = UnixStream::pair().unwrap();
    let (upstream, upstream_end) = UnixStream::pair().unwrap();
    let opening = Opening {
        client: Stream::Unix(client_end),
        upstream: Stream::Unix(upstream_end),
        ahead: login.to_vec(),
        early_in: Vec::new(),
        early_out: Vec::new(),
        welcome: None,
        conversation: Some(
            Conversation::new(Dialect::new(&config.routes[0].first_message), None)
                .begun_by_message(),
        ),
        revalidation: None,
        limits: RelayLimits {
            buffered_bytes: 64 * 1024,
            message_bytes: 1 << 24,
            messages_per_second: None,
            inflated_bytes: None,
        },
    };
    let rules = SessionRules { began_by_message: true, ..rules() };
    let guard = Registry::new().open(crate::session::registry::tests::handle("ada", 0));
    let relay = tokio::spawn(async move {
        let session = Arc::clone(&guard);
        let _guard = guard;
        Relay::new(opening, rules, session).await
    });
    (client, upstream, relay)
}

async fn words(socket: &mut WebSocketStream<UnixStream>) -> Value {
    match socket.next().await {
        Some(Ok(Frame::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_of_hours_is_asked_answers_wrongly_and_rightly_and_ends_when_it_is_silent() {
    let Session { client, upstream, relay, config, wall } = open("", 900);
    let began = Now::read().mono;
    let at = || began.elapsed().as_secs();
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let upstream = tokio::spawn(async move {
        let mut upstream = WebSocketStream::from_raw_socket(upstream, Role::Server, None).await;
        let mut seen = Vec::new();
        while let Some(Ok(frame)) = upstream.next().await {
            if let Frame::Text(_) = &frame {
                upstream.send(frame.clone()).await.unwrap();
            }
            seen.push(frame);
        }
        seen
    });

    assert_eq!((words(&mut client).await["type"].as_str(), at()), (Some("auth_required"), 839));
    client.send(Frame::text(auth(&token(&config, wall, "ada", 1800)))).await.unwrap();
    let ok = words(&mut client).await;
    assert_eq!(
        (&ok["type"], &ok["payload"]["expires_at"]),
        (&json!("auth_ok"), &json!((wall.as_secs() + 1800) * 1000))
    );
    client.send(Frame::text("\"hello\"")).await.unwrap();
    assert_eq!(words(&mut client).await, json!("hello"));

    // The wall clock stands still, so the token is valid for its whole half hour from now.
    assert_eq!(words(&mut client).await["type"], "auth_required");
    assert!((2575..2580).contains(&at()), "{}", at());
    for wrong in ["x.y.z", &token(&config, wall, "ada", 1800)] {
        client.send(Frame::text(auth(wrong))).await.unwrap();
        assert_eq!(words(&mut client).await["type"], "error");
    }
    client.send(Frame::text(auth(&token(&config, wall, "ada", 7200)))).await.unwrap();
    assert_eq!(words(&mut client).await["type"], "auth_ok");

    assert_eq!(words(&mut client).await["type"], "auth_required");
    let asked = at();
    assert_eq!(words(&mut client).await["payload"]["code"], "REAUTHENTICATION_TIMEOUT");
    assert_eq!(at(), asked + 30);
    match client.next().await {
        Some(Ok(Frame::Close(Some(frame)))) => {
            assert_eq!(
                (u16::from(frame.code), frame.reason.as_str()),
                (1008, "Re-authentication timeout")
            );
        }
        other => panic!("{other:?}"),
    }
    while let Some(Ok(_)) = client.next().await {}
    let end = relay.await.unwrap();
    assert_eq!(end.reason, CloseReason::ReauthTimeout);
    let seen = upstream.await.unwrap();
    assert_eq!(seen[0], Frame::text("\"hello\""));
    assert!(seen.len() == 2 && seen[1].is_close(), "{seen:?}");
}

/// Returns a client's frame, masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = vec![first];
    match payload.len() {
        short if short < 126 => wire.push(0x80 | short as u8),
        long => {
            wire.push(0x80 | 126);
            wire.extend((long as u16).to_be_bytes());
        }
    }
    [&wire[..], &[0; 4], payload].concat()
}

async fn read_until(stream: &mut UnixStream, filter: usize) -> Vec<u8> {
    let mut bytes = vec![0; filter];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// The auth message stands between two others: whole, in fragments, or compressed. Wherever the
/// bytes are cut, the upstream and the client get the same.
#[tokio::test]
async fn an_auth_message_is_taken_out_wherever_the_bytes_are_cut() {
    let config = config("");
    let wall = Now::read().wall;
    let later = auth(&token(&config, wall, "ada", 5000));
    let (half, rest) = later.as_bytes().split_at(later.len() / 2);
    let shapes = [
        masked(0x81, later.as_bytes()),
        [masked(0x01, half), masked(0x89, b"ping"), masked(0x80, rest)].concat(),
        masked(0xc1, &deflate::tests::deflate(later.as_bytes())),
    ];
    for (shape, auth_wire) in shapes.iter().enumerate() {
        let before = [
            masked(0x81, b"{\"type\":\"chat\"}"),
            masked(0xc1, &deflate::tests::deflate(b"\"auth\" or not")),
        ]
        .concat();
        let after = [masked(0x82, &[7; 200]), masked(0x81, b"end")].concat();
        let ping = if shape == 1 { masked(0x89, b"ping") } else { Vec::new() };
        let wire = [&before[..], auth_wire, &after].concat();
        let expected = [&before[..], &ping, &after].concat();
        for cut in 0..wire.len() {
            let mut session = open("proactive = true", 900);
            let (first, second) = wire.split_at(cut);
            session.client.write_all(first).await.unwrap();
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            session.client.write_all(second).await.unwrap();
            assert_eq!(
                read_until(&mut session.upstream, expected.len()).await,
                expected,
                "shape {shape}, cut at {cut}"
            );
            let head = read_until(&mut session.client, 4).await;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let said: Value =
                serde_json::from_slice(&read_until(&mut session.client, length).await).unwrap();
            assert_eq!(said["type"], "auth_ok", "shape {shape}, cut at {cut}");
            session.relay.abort();
        }
    }
}

/// Leeway counts only for a new session. An expired token renews nothing, although it would still
/// open a session.
#[tokio::test(start_paused = true)]
async fn a_token_inside_its_leeway_renews_nothing() {
    let Session { client, upstream: _upstream, relay, config, wall } = open("proactive = true", 8);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let exp = wall.as_secs() - 2;
    let claims = json!({"iss": "https://id.example.com", "aud": "chat", "sub": "ada", "exp": exp});
    let ended =
        sign_for_development(config.issuers[0].algorithms[0], &TEST_SECRET.into(), None, &claims)
            .unwrap();
    client.send(Frame::text(auth(&ended))).await.unwrap();
    assert_eq!(words(&mut client).await["payload"]["code"], "INVALID_TOKEN");
    relay.abort();
}

/// A compressed message in fragments is held until it grows too large. The upstream takes no
/// compression and reads plain text.
#[tokio::test]
async fn a_compressed_message_that_was_held_first_is_inflated_all_the_same() {
    let mut random = 1u32;
    let mut letter = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'0' + (random >> 26) as u8)
    };
    let plain: String = (0..40_000).map(|_| letter()).collect();
    let packed = deflate::tests::deflate(plain.as_bytes());
    assert!(packed.len() > 17_000);
    let mut session = open_with("proactive = true", 900, Some(1 << 20));
    let (first, rest) = packed.split_at(1000);
    let wire = [
        masked(0x41, first),
        masked(0x89, b"ping"),
        masked(0x80, rest),
        masked(0xc1, &deflate::tests::deflate(b"short")),
    ]
    .concat();
    let mut upstream = WebSocketStream::from_raw_socket(session.upstream, Role::Server, None).await;
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let frame = upstream.next().await.unwrap().unwrap();
            if frame.is_text() {
                seen.push(frame.into_text().unwrap().to_string());
            }
        }
        seen
    });
    session.client.write_all(&wire).await.unwrap();
    assert!(reading.await.unwrap() == [plain, "short".to_owned()]);
    session.relay.abort();
}

/// If the upstream takes no compression, everything is inflated, wherever the bytes are cut.
#[tokio::test]
async fn compressed_messages_are_inflated_wherever_the_bytes_are_cut() {
    let packed = deflate::tests::deflate(b"compressed");
    let (half, rest) = packed.split_at(packed.len() / 2);
    let wire = [
        masked(0x81, b"plain"),
        masked(0x41, half),
        masked(0x89, b"ping"),
        masked(0x80, rest),
        masked(0x82, b"end"),
    ]
    .concat();
    for proactive in ["", "proactive = true"] {
        for cut in 0..wire.len() {
            let mut session = open_with(proactive, 900, Some(1 << 20));
            let (first, second) = wire.split_at(cut);
            session.client.write_all(first).await.unwrap();
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            session.client.write_all(second).await.unwrap();
            let mut upstream =
                WebSocketStream::from_raw_socket(session.upstream, Role::Server, None).await;
            let mut seen = Vec::new();
            while seen.last() != Some(&Frame::binary(&b"end"[..])) {
                let frame = upstream.next().await.unwrap().unwrap();
                if !frame.is_ping() {
                    seen.push(frame);
                }
            }
            assert_eq!(
                seen,
                [Frame::text("plain"), Frame::text("compressed"), Frame::binary(&b"end"[..])],
                "cut at {cut}"
            );
            session.relay.abort();
        }
    }
}

/// The question is due between two pieces of the upstream's stream, cut at every byte. It stands
/// between two messages.
#[tokio::test(start_paused = true)]
async fn the_question_stands_between_two_messages_wherever_the_upstream_stops() {
    let stream: Vec<u8> = [
        &b"\x81\x05first"[..],
        b"\x01\x04part",
        b"\x89\x00",
        b"\x00\x03mid",
        b"\x80\x03end",
        b"\x82\x04last",
    ]
    .concat();
    let message_ends = [0, 7, 25, 31];
    for cut in 0..=stream.len() {
        let mut session = open("", 900);
        let (first, second) = stream.split_at(cut);
        session.upstream.write_all(first).await.unwrap();
        // After the moment of the question.
        tokio::time::sleep(Duration::from_secs(845)).await;
        session.upstream.write_all(second).await.unwrap();
        let mut seen = Vec::new();
        let question = loop {
            let byte = read_until(&mut session.client, 1).await[0];
            seen.push(byte);
            // The header of the question: a text of more than 125 bytes, which the upstream never
            // sends.
            if seen.ends_with(&[0x81, 126]) {
                seen.truncate(seen.len() - 2);
                break seen.len();
            }
        };
        let earliest =
            message_ends.iter().filter(|end| **end >= cut.min(stream.len())).min().unwrap();
        assert!(message_ends.contains(&question), "cut at {cut}: inside a message, at {question}");
        assert!(question <= *earliest, "cut at {cut}: as soon as there is a place, {question}");
        let length = read_until(&mut session.client, 2).await;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let asked: Value =
            serde_json::from_slice(&read_until(&mut session.client, length).await).unwrap();
        assert_eq!(asked["type"], "auth_required");
        seen.extend(read_until(&mut session.client, stream.len() - question).await);
        assert_eq!(seen, stream, "cut at {cut}");
        session.relay.abort();
    }
}

/// Returns an unmasked frame, as the upstream sends it.
fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let head = if length < 126 {
        vec![first, length as u8]
    } else {
        [&[first, 126][..], &length.to_be_bytes()].concat()
    };
    [&head[..], payload].concat()
}

/// A broker whose answer to the first login is a refusal may take a second one on the same
/// connection: that of the client.
#[tokio::test(start_paused = true)]
async fn nothing_of_the_client_follows_a_login_that_the_broker_refuses() {
    let hidden = masked(0x82, b"\0CONNECT\nlogin:guest\npasscode:guest\n\n\0");
    let long = vec![b'x'; 20_000];
    for (preset, answers) in [
        ("stomp", vec![plain(0x81, b"ERROR\nmessage:Bad CONNECT\n\n\0")]),
        ("stomp", vec![plain(0x81, b"\n"), plain(0xc2, &deflate::tests::deflate(b"ERROR\n\n\0"))]),
        ("stomp", vec![plain(0x81, &long)]),
        ("mqtt", vec![plain(0x82, b"\x20\x02"), plain(0x82, b"\0\x05")]),
    ] {
        let (mut client, mut upstream, relay) = open_behind_login(preset, b"the login");
        client.write_all(&hidden).await.unwrap();
        assert_eq!(read_until(&mut upstream, 9).await, b"the login");
        for answer in &answers {
            // The pauses of the broker before its answer is whole, and further bytes of the client,
            // change nothing.
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(&hidden).await.unwrap();
            upstream.write_all(answer).await.unwrap();
        }
        let answer = answers.concat();
        assert_eq!(
            read_until(&mut client, answer.len()).await,
            answer,
            "the client gets the broker's own words"
        );
        let mut end = Vec::new();
        client.read_to_end(&mut end).await.unwrap();
        assert_eq!(end, plain(0x88, b"\x03\xf6Upstream refused the login"));
        let mut upstream = WebSocketStream::from_raw_socket(upstream, Role::Server, None).await;
        match upstream.next().await {
            Some(Ok(Frame::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
            other => panic!("{preset}: {other:?}"),
        }
        assert_eq!(relay.await.unwrap().reason, CloseReason::LoginRefused);
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_login_waits_for_the_broker_to_accept_it() {
    for (preset, answers) in [
        ("stomp", vec![plain(0x81, b"\n"), plain(0x82, b"CONNECTED\nversion:1.2\n\n\0")]),
        ("stomp", vec![plain(0xc1, &deflate::tests::deflate(b"CONNECTED\n\n\0"))]),
        ("mqtt", [b"\x20", b"\x02", b"\0", b"\0"].map(|byte| plain(0x82, byte)).to_vec()),
    ] {
        let (mut client, mut upstream, relay) = open_behind_login(preset, b"the login");
        let behind =
            [masked(0x82, b"first"), masked(0x89, b"ping"), masked(0x82, &[7; 30_000])].concat();
        let writing = behind.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&writing).await.unwrap();
            client
        });
        assert_eq!(read_until(&mut upstream, 9).await, b"the login");
        for answer in answers {
            let early = tokio::time::timeout(Duration::from_secs(1), upstream.read(&mut [0])).await;
            assert!(early.is_err(), "{preset}: something came before the answer");
            upstream.write_all(&answer).await.unwrap();
        }
        assert_eq!(read_until(&mut upstream, behind.len()).await, behind, "{preset}");
        // From then on the upstream's messages are not checked.
        upstream.write_all(&plain(0x81, b"ERROR\n\n\0")).await.unwrap();
        drop(writer.await.unwrap());
        assert_eq!(relay.await.unwrap().reason, CloseReason::ClientGone, "{preset}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_a_login_ends_the_session() {
    let (mut client, _upstream, relay) = open_behind_login("mqtt", b"the login");
    client.write_all(&masked(0x82, b"waits")).await.unwrap();
    let began = Now::read().mono;
    assert_eq!(relay.await.unwrap().reason, CloseReason::IdleTimeout);
    assert_eq!(began.elapsed().as_secs(), 80, "the idle timeout, and the time for a close");
}

/// The session ends between the login and its answer. The client may be able to choose that moment.
#[tokio::test(start_paused = true)]
async fn nothing_of_the_client_follows_a_login_when_the_session_ends_before_its_answer() {
    let hidden = masked(0x81, b"CONNECT\nlogin:guest\npasscode:guest\n\n\0");
    let goodbye = plain(0x88, b"\x03\xe8");
    for (from_broker, reason) in
        [(&b""[..], CloseReason::IdleTimeout), (&goodbye, CloseReason::UpstreamClosed)]
    {
        let (mut client, mut upstream, relay) = open_behind_login("stomp", b"the login");
        client.write_all(&[&hidden[..], &masked(0x88, b"\x03\xe8")].concat()).await.unwrap();
        assert_eq!(read_until(&mut upstream, 9).await, b"the login");
        upstream.write_all(from_broker).await.unwrap();
        let mut upstream = WebSocketStream::from_raw_socket(upstream, Role::Server, None).await;
        match upstream.next().await {
            Some(Ok(Frame::Close(Some(_)))) => {}
            other => panic!("{reason:?}: {other:?}"),
        }
        drop((client, upstream));
        assert_eq!(relay.await.unwrap().reason, reason);
    }
}
