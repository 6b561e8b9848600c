//! Opaque credentials and their verifiers, which may answer, be slow, be away or send wrong
//! answers.

use std::process::Stdio;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_tungstenite::tungstenite::Message;

use crate::first_message::{auth, close_frame, json as json_of, text};
use crate::support::client::{self, Answer};
use crate::support::usher::acceptor;
use crate::support::verifier_server::{Mood, VerifierServer};
use crate::support::{
    Echo, Program, Raw, Recorder, Script, Setup, Usher, eventually, token, upgrade_request,
};

const OPAQUE: &str = "opaque-canary-1234567890";
const PAGE: &str = "https://app.example.com";

fn route(path: &str, auth: &[&str], lines: &str) -> String {
    format!(
        "[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = {auth:?}\n\
         origins = [\"{PAGE}\"]\n{lines}\n"
    )
}

/// Asks for an upgrade with a bearer token. Returns the status and the code of the problem.
async fn bearer(usher: &Usher, path: &str, token: &str) -> (u16, String) {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(path, &format!("Authorization: Bearer {token}\r\n"))).await;
    let head = Answer::parse(raw.read_head().await.as_bytes());
    assert_eq!(head.status == 503, head.header("retry-after").is_some(), "{}", head.head);
    if head.status == 101 {
        return (101, String::new());
    }
    let body = raw.read_to_close().await;
    (
        head.status,
        serde_json::from_slice::<Value>(&body).unwrap()["code"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_opens_by_every_method_when_its_verifier_says_so() {
    let (upstream, verifier) =
        (Recorder::start(Script::Accept(Vec::new())).await, VerifierServer::start().await);
    let routes = route(
        "/ws",
        &["header", "query", "cookie", "subprotocol", "session", "message", "ticket"],
        "verifier = \"login\"",
    );
    let extra = verifier.table("login", "http", "token_file = \"own-token\"\ncache_ttl = \"0s\"")
        + "[tickets]\nverifier = \"login\"\n[context]\nclaims = [\"tenant\"]\n";
    let usher = Setup::new(upstream.url())
        .routes(&routes)
        .extra(&extra)
        .file("own-token", "usher-own-canary".to_owned())
        .start()
        .await;
    usher.keep_secret("usher-own-canary");
    usher.keep_secret(OPAQUE);
    let claims = json!({ "sub": "ada", "exp": token::now() + 600, "permissions": "chat:read \
        chat:write", "tenant": "t1", "jti": "j1" });
    verifier.answers(OPAQUE, 200, claims);
    for (method, target, headers) in [
        ("header", "/ws", format!("Authorization: Bearer {OPAQUE}\r\n")),
        ("query", &format!("/ws?access_token={OPAQUE}"), String::new()),
        ("cookie", "/ws", format!("Cookie: access_token={OPAQUE}\r\n")),
        ("subprotocol", "/ws", format!("Sec-WebSocket-Protocol: chat, bearer.{OPAQUE}\r\n")),
        ("session", "/ws", format!("Cookie: session={OPAQUE}; theme=dark\r\n")),
    ] {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(target, &format!("Origin: {PAGE}\r\n{headers}"))).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "), "{method}");
        let seen = upstream.connections().pop().unwrap();
        assert!(!seen.contains(OPAQUE), "{seen}");
        let claims = crate::methods::context(&seen);
        assert_eq!(
            (&claims["sub"], &claims["auth"]["method"], &claims["auth"]["issuer"]),
            (&json!("ada"), &json!(method), &json!("login"))
        );
        assert_eq!(
            (&claims["permissions"], &claims["claims"]["tenant"]),
            (&json!(["chat:read", "chat:write"]), &json!("t1")),
            "{claims}"
        );
        let (head, body) = verifier.asked().pop().unwrap();
        let kind = if method == "session" { "session" } else { "token" };
        let told: Value = serde_json::from_str(&body).unwrap();
        let expected = json!({
            "credential": OPAQUE,
            "kind": kind,
            "method": method,
            "route": "/ws",
            "client_address": "127.0.0.1",
        });
        assert_eq!(told, expected);
        assert!(
            head.starts_with("POST /verify HTTP/1.1\r\n")
                && head.contains("authorization: Bearer usher-own-canary\r\n"),
            "{head}"
        );
        assert!(
            !head.to_lowercase().contains("cookie") && !head.contains("theme"),
            "only the credential is sent: {head}"
        );
    }
    let mut socket = usher.open("/ws", &[("origin", PAGE)]).await.unwrap();
    socket.send(auth(OPAQUE)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
    // For this verifier, a token of an issuer is an unknown opaque token.
    assert_eq!(bearer(&usher, "/ws", &usher.token("ada")).await, (401, "INVALID_TOKEN".to_owned()));
    assert_eq!(bearer(&usher, "/ws", "someone-else-s").await.0, 401);
    // The ticket endpoint accepts the credentials of the verifier.
    assert_eq!(usher.ask_ticket(OPAQUE, "", "").await.0, 201);
    assert_eq!(usher.ask_ticket("someone-else-s", "", "").await.0, 401);
    assert_eq!(usher.ask_ticket(&usher.token("ada"), "", "").await.0, 401);
    let audit = usher.finish().await;
    let refused: Vec<_> = audit.iter().filter(|line| line["event"] == "upgrade_rejected").collect();
    assert_eq!(refused.len(), 2);
    assert!(
        refused.iter().all(|line| line["detail"] == "the verifier refused the credential"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_route_has_both_the_shape_of_a_token_decides_alone() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let routes = route("/both", &["header"], "verifier = \"login\"\nverifier_tokens = \"opaque\"");
    let usher = Setup::new(echo.url())
        .routes(&routes)
        .extra(&verifier.table("login", "http", ""))
        .start()
        .await;
    verifier.knows(OPAQUE, "bob");
    let (good, expired) =
        (usher.token("ada"), usher.token_with("ada", json!({ "exp": token::now() - 1 })));
    // The verifier does not get a token that the issuer refuses, even if it would accept it.
    verifier.knows(&expired, "eve");
    assert_eq!(bearer(&usher, "/both", &good).await.0, 101);
    assert_eq!(bearer(&usher, "/both", &expired).await.0, 401);
    assert!(verifier.asked().is_empty());
    assert_eq!(bearer(&usher, "/both", OPAQUE).await.0, 101);
    assert_eq!(verifier.asked().len(), 1);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclear_answer_of_a_verifier_is_a_503() {
    let (echo, mut verifier) = (Echo::start().await, VerifierServer::start().await);
    let lines = "timeout = \"2s\"\nnegative_cache_ttl = \"0s\"";
    let extra = verifier.table("login", "http", lines) + "[tickets]\nverifier = \"login\"\n";
    let routes = route("/ws", &["header"], "verifier = \"login\"")
        + &route("/message", &["message", "ticket"], "verifier = \"login\"");
    let usher = Setup::new(echo.url()).routes(&routes).extra(&extra).start().await;
    let unavailable = (503, "VERIFIER_UNAVAILABLE".to_owned());
    let said = |text: &str| Mood::Says(text.as_bytes().to_vec());
    let large =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", 10 << 20, " ".repeat(10 << 20));
    for (outcome, mood) in [
        ("timeout", Mood::Hangs),
        ("timeout", Mood::Drips),
        ("unreachable", Mood::Closes),
        ("malformed", said("no HTTP at all\r\n\r\n")),
        ("malformed", said("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes")),
        (
            "malformed",
            said(
                "HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\n\
                 {\"sub\":\"ada\",\"sub\":\"mallory\"}",
            ),
        ),
        ("status", said("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")),
        ("status", said("HTTP/1.1 204 Yes\r\n\r\n")),
        (
            "redirect",
            said(
                "HTTP/1.1 302 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            ),
        ),
        ("too_large", said(&large)),
        (
            "too_large",
            said("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .also(" ".repeat(100_000).as_str()),
        ),
    ] {
        // A good answer in between keeps the breaker closed.
        verifier.is(Mood::Answers);
        assert_eq!(bearer(&usher, "/ws", "nobody-knows-it").await.0, 401);
        verifier.is(mood);
        assert_eq!(bearer(&usher, "/ws", OPAQUE).await, unavailable, "{outcome}");
        let line =
            format!("usher_verifier_questions_total{{verifier=\"login\",outcome=\"{outcome}\"}} ");
        assert!(
            usher.metrics().await.lines().any(|one| one.starts_with(&line) && !one.ends_with(" 0")),
            "{line}"
        );
    }
    verifier.is(Mood::Answers);
    // Valid answers without a user, or for a user whose time is over, are refusals.
    for answer in [
        json!({}),
        json!({ "sub": "" }),
        json!({ "sub": "ada", "exp": token::now() - 1 }),
        json!({ "sub": "ada", "exp": "soon" }),
    ] {
        verifier.answers(OPAQUE, 200, answer.clone());
        assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 401, "{answer}");
    }
    let mut socket = usher.open("/message", &[("origin", PAGE)]).await.unwrap();
    verifier.is(Mood::Closes);
    socket.send(auth(OPAQUE)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["payload"]["code"], "VERIFIER_UNAVAILABLE");
    assert_eq!(usher.ask_ticket(OPAQUE, "", "").await.0, 503);
    assert!(echo.visits().is_empty());
    verifier.die().await;
    for _ in 0..5 {
        assert_eq!(bearer(&usher, "/ws", OPAQUE).await, unavailable);
    }
    usher.until_metric("usher_verifier_breaker_state{verifier=\"login\"} 2").await;
    // The requests of clients find it again.
    let again = verifier.start_again().await;
    again.knows(OPAQUE, "ada");
    let is_let_in = async || bearer(&usher, "/ws", OPAQUE).await.0 == 101;
    eventually("the verifier is asked again", is_let_in).await;
    usher.until_metric("usher_verifier_breaker_state{verifier=\"login\"} 0").await;
    let audit = usher.finish().await;
    assert!(
        audit
            .iter()
            .any(|line| line["outcome"] == "verifier_unavailable" && line["side"] == "issuer")
    );
}

impl Mood {
    fn also(self, chunk: &str) -> Self {
        match self {
            Self::Says(mut bytes) => {
                bytes.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
                Self::Says(bytes)
            }
            other => other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_hangs_holds_up_its_own_route_alone() {
    let (echo, slow, quick) =
        (Echo::start().await, VerifierServer::start().await, VerifierServer::start().await);
    let extra = slow.table("slow", "http", "timeout = \"10s\"\nconcurrency = 4\nmax_waiting = 6")
        + &quick.table("quick", "http", "");
    let routes = route("/slow", &["header"], "verifier = \"slow\"")
        + &route("/quick", &["header"], "verifier = \"quick\"")
        + &route("/own", &["header"], "");
    let usher = Arc::new(Setup::new(echo.url()).routes(&routes).extra(&extra).start().await);
    slow.is(Mood::Hangs);
    let hung: Vec<_> = (0..10)
        .map(|number| {
            let (usher, token) = (Arc::clone(&usher), format!("slow-credential-{number}"));
            slow.knows(&token, "ada");
            tokio::spawn(async move { bearer(&usher, "/slow", &token).await })
        })
        .collect();
    slow.asked_times(4).await;
    usher.until_metric("usher_verifier_in_flight{verifier=\"slow\"} 4").await;
    usher.until_metric("usher_verifier_cache_total{verifier=\"slow\",outcome=\"miss\"} 10").await;
    // There is no room for more, so this one is refused at once. A credential that is already being
    // asked about needs no room.
    assert_eq!(
        bearer(&usher, "/slow", "one-too-many").await,
        (503, "VERIFIER_UNAVAILABLE".to_owned())
    );
    for number in 0..50 {
        let token = format!("quick-credential-{number}");
        quick.knows(&token, "ada");
        assert_eq!(bearer(&usher, "/quick", &token).await.0, 101);
        assert_eq!(bearer(&usher, "/own", &usher.token("ada")).await.0, 101);
    }
    assert_eq!(slow.asked().len(), 4);
    assert!(
        hung.iter().all(|one| !one.is_finished()),
        "a client that waits for the slow verifier was answered"
    );
    slow.is(Mood::Answers);
    for one in hung {
        assert_eq!(one.await.unwrap().0, 101);
    }
    assert_eq!(slow.asked().len(), 10);
    Arc::into_inner(usher).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_with_one_credential_are_one_question_and_a_refusal_is_remembered_too() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let extra = verifier.table(
        "login",
        "http",
        "timeout = \"10s\"\ncache_ttl = \"1h\"\nnegative_cache_ttl = \"1h\"\nmax_waiting = 1",
    );
    let routes = route("/ws", &["header"], "verifier = \"login\"")
        + &route("/other", &["header"], "verifier = \"login\"");
    let usher = Arc::new(Setup::new(echo.url()).routes(&routes).extra(&extra).start().await);
    verifier.knows(OPAQUE, "ada");
    verifier.is(Mood::Hangs);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let usher = Arc::clone(&usher);
            tokio::spawn(async move { bearer(&usher, "/ws", OPAQUE).await.0 })
        })
        .collect();
    usher
        .until_metric("usher_verifier_cache_total{verifier=\"login\",outcome=\"joined\"} 99")
        .await;
    verifier.is(Mood::Answers);
    for one in waiting {
        assert_eq!(one.await.unwrap(), 101);
    }
    for _ in 0..10 {
        assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 101);
        assert_eq!(bearer(&usher, "/ws", "nobody-knows-it").await.0, 401);
    }
    assert_eq!(verifier.asked().len(), 2);
    // Another route is another question: the verifier gets the name of the route.
    verifier.forgets(OPAQUE);
    assert_eq!(bearer(&usher, "/other", OPAQUE).await.0, 401);
    assert_eq!(
        bearer(&usher, "/ws", OPAQUE).await.0,
        101,
        "the answer is cached for as long as the file says"
    );
    Arc::into_inner(usher).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_is_not_remembered_past_its_own_end() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let extra = verifier.table("login", "http", "cache_ttl = \"1h\"\nnegative_cache_ttl = \"0s\"");
    let usher = Setup::new(echo.url())
        .routes(&route("/ws", &["header"], "verifier = \"login\""))
        .extra(&extra)
        .start()
        .await;
    let end = token::now() + 3;
    verifier.answers(OPAQUE, 200, json!({ "sub": "ada", "exp": end }));
    assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 101);
    eventually("the answer has expired", async || token::now() >= end).await;
    assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 401);
    assert_eq!(verifier.asked().len(), 2);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_shows_who_asks_and_looks_at_what_the_file_names() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let lines = "client_id = \"usher:edge\"\nclient_secret_file = \"client-secret\"\n\
        issuer = \"https://id.example.com\"\naudience = [\"chat\"]\nnegative_cache_ttl = \"0s\"\n\
        cache_ttl = \"0s\"";
    let usher = Setup::new(echo.url())
        .routes(&route("/ws", &["header"], "verifier = \"login\""))
        .extra(&verifier.table("login", "introspection", lines))
        .file("client-secret", "p&ss canary+word".to_owned())
        .start()
        .await;
    let token = "opaque~canary.with+signs/0123==";
    let sent = "opaque~canary.with%2Bsigns%2F0123%3D%3D";
    usher.keep_secret(token);
    let good = json!({
        "active": true,
        "sub": "ada",
        "iss": "https://id.example.com",
        "aud": ["other", "chat"],
        "exp": token::now() + 600,
        "scope": "chat:read",
    });
    for (change, status) in [
        (json!({}), 101),
        (json!({ "active": false }), 401),
        (json!({ "active": "true" }), 503),
        (json!({ "active": null }), 503),
        (json!({ "iss": "https://evil.example.com" }), 401),
        (json!({ "iss": null }), 401),
        (json!({ "aud": "other" }), 401),
        (json!({ "aud": null }), 401),
        (json!({ "exp": token::now() - 1 }), 401),
        (json!({ "sub": null }), 401),
        (json!({ "exp": null }), 101),
    ] {
        let mut answer = good.clone();
        for (name, value) in change.as_object().unwrap() {
            answer[name] = value.clone();
        }
        verifier.answers(sent, 200, answer);
        assert_eq!(bearer(&usher, "/ws", token).await.0, status, "{change}");
    }
    // The verifier refuses Usher itself, which says nothing about the token.
    verifier.answers(sent, 401, json!({ "error": "invalid_client" }));
    assert_eq!(bearer(&usher, "/ws", token).await.0, 503);
    let (head, body) = verifier.asked().pop().unwrap();
    assert_eq!(body, format!("token={sent}"));
    // The base64 of `usher%3Aedge:p%26ss%20canary%2Bword`.
    assert!(
        head.contains("authorization: Basic dXNoZXIlM0FlZGdlOnAlMjZzcyUyMGNhbmFyeSUyQndvcmQ=\r\n"),
        "{head}"
    );
    assert!(head.contains("content-type: application/x-www-form-urlencoded\r\n"), "{head}");
    usher.keep_secret("canary+word");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_over_tls_is_asked_under_its_own_authority_alone() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let verifier = VerifierServer::start_with(Some(acceptor(&certified)), 0).await;
    verifier.knows(OPAQUE, "ada");
    let echo = Echo::start().await;
    let extra = verifier.table("trusted", "http", "ca_file = \"ca.pem\"\ntimeout = \"10s\"")
        + &verifier.table("strange", "http", "timeout = \"10s\"");
    let routes = route("/trusted", &["header"], "verifier = \"trusted\"")
        + &route("/strange", &["header"], "verifier = \"strange\"");
    let usher = Setup::new(echo.url())
        .routes(&routes)
        .extra(&extra)
        .file("ca.pem", certified.cert.pem())
        .start()
        .await;
    assert_eq!(bearer(&usher, "/trusted", OPAQUE).await.0, 101);
    assert_eq!(bearer(&usher, "/strange", OPAQUE).await, (503, "VERIFIER_UNAVAILABLE".to_owned()));
    assert_eq!(verifier.asked().len(), 1);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_verifier_says_no_and_goes_on_while_it_is_away() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let extra = verifier.table(
        "login",
        "http",
        "revalidate = \"1s\"\ntimeout = \"5s\"\ncache_ttl = \"1h\"",
    );
    let routes =
        route("/ws", &["header"], "verifier = \"login\"") + "[route.reauth]\nproactive = true\n";
    let usher = Setup::new(echo.url()).routes(&routes).extra(&extra).start().await;
    let mut sockets = Vec::new();
    for user in ["ada", "bob", "cyd"] {
        let credential = format!("{user}-{OPAQUE}");
        usher.keep_secret(&credential);
        verifier.knows(&credential, user);
        sockets.push(
            usher.open("/ws", &[("authorization", &format!("Bearer {credential}"))]).await.unwrap(),
        );
    }
    let [mut ada, mut bob, mut cyd] = <[_; 3]>::try_from(sockets).unwrap();
    usher.until_at_least("usher_revalidations_total{verifier=\"login\",outcome=\"good\"}", 3).await;
    verifier.is(Mood::Says(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec()));
    usher.until_at_least("usher_revalidations_total{verifier=\"login\",outcome=\"away\"}", 3).await;
    for socket in [&mut ada, &mut bob, &mut cyd] {
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(text(socket).await, "still here");
    }
    // The verifier refuses the first, names another user for the second, and the third has renewed
    // with another credential in its stream.
    let fresh = format!("fresh-{OPAQUE}");
    usher.keep_secret(&fresh);
    verifier.answers(&fresh, 200, json!({ "sub": "cyd", "exp": token::now() + 1200 }));
    verifier.knows(&format!("bob-{OPAQUE}"), "eve");
    verifier.forgets(&format!("ada-{OPAQUE}"));
    verifier.is(Mood::Answers);
    cyd.send(auth(&fresh)).await.unwrap();
    assert_eq!(json_of(&mut cyd).await["type"], "auth_ok");
    for socket in [&mut ada, &mut bob] {
        assert_eq!(close_frame(socket).await, (1008, "Session revoked".to_owned()));
    }
    let before = verifier.asked().len();
    verifier.asked_times(before + 2).await;
    assert!(verifier.asked()[before..].iter().all(|(_, body)| body.contains("fresh-")));
    cyd.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut cyd).await, "still here");
    let audit = usher.finish().await;
    let revoked: Vec<_> = audit
        .iter()
        .filter(|line| line["event"] == "revalidated" && line["outcome"] == "revoked")
        .collect();
    assert_eq!(revoked.len(), 2, "{revoked:?}");
    assert_eq!(
        audit
            .iter()
            .filter(|line| line["event"] == "session_ended" && line["outcome"] == "revoked")
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_as_long_as_its_verifier_says_and_not_longer_than_its_grace() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let lines = "revalidate = \"1s\"\nrevalidate_grace = \"1s\"\ntimeout = \"5s\"";
    let routes =
        route("/ws", &["header"], "verifier = \"login\"") + "[route.reauth]\nmode = \"close\"\n";
    let usher = Setup::new(echo.url())
        .routes(&routes)
        .extra(&verifier.table("login", "http", lines))
        .start()
        .await;
    // The first answer ends in four seconds. A later answer of the verifier ends later.
    let end = token::now() + 4;
    verifier.answers(OPAQUE, 200, json!({ "sub": "ada", "exp": end }));
    let mut ada =
        usher.open("/ws", &[("authorization", &format!("Bearer {OPAQUE}"))]).await.unwrap();
    verifier.knows(OPAQUE, "ada");
    eventually("the first answer has ended", async || token::now() > end).await;
    ada.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut ada).await, "still here");
    verifier.is(Mood::Closes);
    assert_eq!(close_frame(&mut ada).await, (1008, "Session expired".to_owned()));
    assert!(ada.next().await.is_none_or(|end| end.is_err()));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_a_verifier_remembers_unless_it_is_another() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let extra = verifier.table("login", "http", "cache_ttl = \"1h\"");
    let usher = Setup::new(echo.url())
        .routes(&route("/ws", &["header"], "verifier = \"login\""))
        .extra(&extra)
        .start()
        .await;
    verifier.knows(OPAQUE, "ada");
    assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 101);
    for (from, to, asked) in [
        ("window = \"200ms\"", "window = \"201ms\"", 1),
        ("cache_ttl = \"1h\"", "cache_ttl = \"2h\"", 2),
    ] {
        let path = usher.folder().join("usher.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let request = format!(
            "POST /reload HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: 2\r\nconnection: close\r\n\r\n{{}}",
            usher.admin
        );
        assert_eq!(client::http(usher.admin, request.as_bytes()).await.status, 200);
        assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 101);
        assert_eq!(verifier.asked().len(), asked);
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_a_real_openid_provider_ends_the_socket_of_its_opaque_token() {
    let provider = Program::node(&["tests/e2e/clients/oidc/provider.mjs"]).await;
    let issuer = serde_json::from_str::<Value>(&provider.lines()[0]).unwrap()["issuer"]
        .as_str()
        .unwrap()
        .to_owned();
    let address = issuer.strip_prefix("http://").unwrap().parse().unwrap();
    let post = async |path: &str, form: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n\
             Authorization: Basic YWRhOmElMjBzZWNyZXQlMjBvZiUyMHRoZSUyMHRlc3Q=\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{form}",
            form.len()
        );
        client::http(address, request.as_bytes()).await
    };
    let answer =
        post("/token", "grant_type=client_credentials&scope=chat%3Aread&resource=urn%3Aopaque")
            .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = serde_json::from_str::<Value>(&answer.body).unwrap()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let echo = Echo::start().await;
    let extra = format!(
        "[[verifier]]\nname = \"oidc\"\nkind = \"introspection\"\n\
         url = \"{issuer}/token/introspection\"\nclient_id = \"ada\"\n\
         client_secret_file = \"client-secret\"\nissuer = \"{issuer}\"\naudience = [\"chat\"]\n\
         user_claim = \"client_id\"\nrevalidate = \"1s\"\ntimeout = \"10s\"\n"
    );
    let routes = route("/ws", &["header"], "verifier = \"oidc\"\nrequire = [\"chat:read\"]")
        + &route("/write", &["header"], "verifier = \"oidc\"\nrequire = [\"chat:write\"]");
    let usher = Setup::new(echo.url())
        .routes(&routes)
        .extra(&extra)
        .file("client-secret", "a secret of the test".to_owned())
        .start()
        .await;
    usher.keep_secret(&token);
    usher.keep_secret("a secret of the test");
    let mut socket =
        usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(text(&mut socket).await, "hello");
    assert_eq!(bearer(&usher, "/write", &token).await.0, 403);
    assert_eq!(bearer(&usher, "/ws", "made-up-token-0123456789").await.0, 401);
    assert_eq!(post("/token/revocation", &format!("token={token}")).await.status, 200);
    assert_eq!(close_frame(&mut socket).await, (1008, "Session revoked".to_owned()));
    assert_eq!(bearer(&usher, "/ws", &token).await.0, 401);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_user_may_no_longer_do_what_the_route_requires() {
    let (echo, verifier) = (Echo::start().await, VerifierServer::start().await);
    let routes = route("/ws", &["header"], "verifier = \"login\"\nrequire = [\"chat:read\"]");
    let usher = Setup::new(echo.url())
        .routes(&routes)
        .extra(&verifier.table("login", "http", "revalidate = \"1s\""))
        .start()
        .await;
    verifier.knows(OPAQUE, "ada");
    let mut ada =
        usher.open("/ws", &[("authorization", &format!("Bearer {OPAQUE}"))]).await.unwrap();
    verifier.answers(
        OPAQUE,
        200,
        json!({ "sub": "ada", "exp": token::now() + 600, "permissions": ["chat:write"] }),
    );
    assert_eq!(close_frame(&mut ada).await, (1008, "Session revoked".to_owned()));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_page_lets_its_user_in_and_nobody_else() {
    let mut python = tokio::process::Command::new("python3")
        .args(["examples/verifier/verify.py", "0"])
        .env("USERS", json!({ OPAQUE: "ada" }).to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(python.stdout.take().unwrap()).read_line(&mut url).await.unwrap();
    let echo = Echo::start().await;
    let extra = format!(
        "[[verifier]]\nname = \"login\"\nkind = \"http\"\nurl = \"{}\"\ntimeout = \"10s\"\n",
        url.trim()
    );
    let usher = Setup::new(echo.url())
        .routes(&route("/ws", &["header"], "verifier = \"login\""))
        .extra(&extra)
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(bearer(&usher, "/ws", OPAQUE).await.0, 101);
        assert_eq!(bearer(&usher, "/ws", "nobody-knows-it").await.0, 401);
    }
    usher.finish().await;
}
