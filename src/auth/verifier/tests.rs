use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;
use crate::base::clock::UnixMillis;

const SECRET: &str = "0123456789012345678901234567890123456789";

/// Returns the verifier with these config lines, not opened.
fn verifier(lines: &str) -> Arc<config::Verifier> {
    let text = format!(
        "{}\n[[verifier]]\nname = \"login\"\n{lines}\n",
        include_str!("../../../config/usher.toml")
    );
    let loaded = config::parse(&text, None, &|_| Some(SECRET.to_owned()))
        .map_err(|diagnostics| diagnostics.to_string())
        .unwrap();
    Arc::clone(&loaded.config.verifiers[0])
}

fn http(lines: &str) -> Arc<config::Verifier> {
    verifier(&format!("kind = \"http\"\nurl = \"http://127.0.0.1:9/\"\n{lines}"))
}

fn redis(lines: &str) -> Arc<config::Verifier> {
    verifier(&format!(
        "kind = \"redis\"\nurl = \"redis://127.0.0.1:9\"\nkey = \"sess:{{id}}\"\n{lines}"
    ))
}

fn question(credential: &str, route: &str) -> Arc<VerifierQuestion> {
    Arc::new(VerifierQuestion {
        credential: credential.into(),
        method: Method::Header,
        route: route.into(),
        address: Ipv4Addr::LOCALHOST.into(),
    })
}

fn judged(config: &config::Verifier, claims: Value, kept_for: Option<Duration>) -> VerifierAnswer {
    let Value::Object(claims) = claims else { panic!("no object") };
    claims::judge(config, &["tenant".to_owned()], claims, kept_for, UnixMillis::from_secs(1000))
}

#[test]
fn claims_say_who_and_until_when_by_name_path_or_pointer() {
    let config = http(
        "user_claim = \"/user/id\"\npermissions_claim = \"access.roles\"\n\
         expiry_claim = \"/until\"\nmax_lifetime = \"100s\"",
    );
    let claims = json!({
        "user": { "id": 42 }, "access": { "roles": ["a", "b"] }, "until": 1050, "tenant": "t",
        "sid": "s", "jti": "j", "iat": 990, "other": 1,
    });
    let VerifierAnswer::Good(principal) = judged(&config, claims.clone(), None) else {
        panic!("it is refused")
    };
    let expected = Principal {
        subject: "42".to_owned(),
        issuer: "login".into(),
        token_id: Some("j".to_owned()),
        issuer_session: Some("s".to_owned()),
        permissions: vec!["a".to_owned(), "b".to_owned()],
        issued_at: UnixMillis::from_secs(990),
        expires_at: UnixMillis::from_secs(1050),
        in_leeway: false,
        claims: json!({ "tenant": "t" }).as_object().unwrap().clone(),
    };
    assert_eq!(*principal, expected);
    let until = |changes: Value, kept_for: Option<u64>| {
        let mut claims = claims.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        match judged(&config, claims, kept_for.map(Duration::from_secs)) {
            VerifierAnswer::Good(principal) => Ok(principal.expires_at.as_secs()),
            VerifierAnswer::No(why) => Err(why),
        }
    };
    assert_eq!(until(json!({ "until": null }), None), Ok(1100), "max_lifetime");
    assert_eq!(until(json!({ "until": 5000 }), None), Ok(1100));
    assert_eq!(until(json!({}), Some(20)), Ok(1020), "the earliest counts");
    assert_eq!(until(json!({ "until": "1970-01-01T00:17:00.000Z" }), None), Ok(1020));
    assert_eq!(until(json!({}), Some(0)), Err(InvalidToken::Expired));
    assert_eq!(until(json!({ "until": 1000 }), None), Err(InvalidToken::Expired));
    for until_when in [json!("soon"), json!(true), json!(-1), json!({})] {
        assert_eq!(
            until(json!({ "until": until_when }), None),
            Err(InvalidToken::Claim("the expiry claim"))
        );
    }
    for user in
        [json!({}), json!({ "id": "" }), json!({ "id": 1.5 }), json!({ "id": [1] }), json!(null)]
    {
        assert_eq!(
            until(json!({ "user": user }), None),
            Err(InvalidToken::Claim("the user claim"))
        );
    }
    assert_eq!(
        until(json!({ "access": { "roles": 5 } }), None),
        Err(InvalidToken::Claim("the permissions claim"))
    );
}

#[test]
fn an_answer_about_a_bound_token_is_a_refusal() {
    let bound = |lines: &str, claims: Value| judged(&http(lines), claims, None);
    let no = VerifierAnswer::No(InvalidToken::Bound);
    for cnf in [json!({ "jkt": "x" }), json!({}), json!(null), json!("x")] {
        assert_eq!(bound("", json!({ "sub": "ada", "cnf": cnf })), no, "{cnf}");
    }
    assert_eq!(bound("", json!({ "sub": "ada", "token_type": "DPoP" })), no);
    // The claims of the token are one level down in the session.
    for user in ["/token/sub", "token.sub"] {
        let session =
            json!({ "token": { "sub": "ada", "cnf": { "jkt": "x" } }, "other": { "cnf": 1 } });
        assert_eq!(bound(&format!("user_claim = \"{user}\""), session), no, "{user}");
    }
    let free = json!({ "sub": "ada", "token_type": "Bearer", "other": { "cnf": 1 } });
    assert!(matches!(bound("", free), VerifierAnswer::Good(_)));
}

#[test]
fn what_no_verifier_could_know_is_not_asked_about() {
    let ask = |config: &config::Verifier, shown: &str| {
        source::credential(config, Method::Session, &shown.into()).map(|id| id.expose().to_vec())
    };
    let any = http("max_token_bytes = \"20B\"");
    assert_eq!(ask(&any, "a.b+c/d=").unwrap(), b"a.b+c/d=");
    for (shown, why) in [
        ("", InvalidToken::SessionId),
        ("a b", InvalidToken::SessionId),
        ("a\n", InvalidToken::SessionId),
        ("\u{e9}", InvalidToken::SessionId),
        ("012345678901234567890", InvalidToken::TooLong),
    ] {
        assert_eq!(ask(&any, shown), Err(why), "{shown}");
    }
    let token = source::credential(&any, Method::Header, &"a b".into()).map(drop);
    assert_eq!(token, Err(InvalidToken::Malformed), "a token is not a session id");
    let sessions = redis("");
    assert!(ask(&sessions, "0123456789abcDEF-_,").is_ok());
    for shown in [
        "0123456789abcde",
        "0123456789abcde:",
        "{0123456789abcdef}",
        "0123456789abcdef*",
        "0123456789abcdef.",
        &"a".repeat(257),
    ] {
        assert_eq!(ask(&sessions, shown), Err(InvalidToken::SessionId), "{shown}");
    }
    // The signature is that of the npm package cookie-signature for this id and this secret.
    let signed = redis("cookie_secret_env = \"COOKIE\"");
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let id = "0123456789abcdef";
    let signature = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD_NO_PAD,
        aws_lc_rs::hmac::sign(&key, id.as_bytes()),
    );
    let written = signature.replace('+', "%2B").replace('/', "%2F");
    assert_eq!(ask(&signed, &format!("s%3A{id}.{written}")).unwrap(), id.as_bytes());
    assert_eq!(ask(&signed, &format!("s:{id}.{written}")).unwrap(), id.as_bytes());
    let changed = format!("s%3A{id}0.{written}");
    assert_eq!(ask(&signed, &changed), Err(InvalidToken::SessionSignature));
    assert_eq!(ask(&signed, id), Err(InvalidToken::SessionId));
}

#[test]
fn an_answer_is_remembered_for_what_the_verifier_was_told() {
    let opened = |config: Arc<config::Verifier>| Verifier::open(&config, &[]).unwrap();
    let differ = |verifier: &Verifier, one: &VerifierQuestion, other: &VerifierQuestion| {
        verifier.key_of(one) != verifier.key_of(other)
    };
    let told_all = opened(http(""));
    assert!(differ(&told_all, &question("a", "/ws"), &question("a", "/other")));
    assert!(differ(&told_all, &question("a", "/ws"), &question("a/", "ws")));
    let told_the_token = opened(redis(""));
    assert!(!differ(&told_the_token, &question("a", "/ws"), &question("a", "/other")));
    assert!(differ(&told_the_token, &question("a", "/ws"), &question("b", "/ws")));
}

#[tokio::test]
async fn a_verifier_that_is_away_is_asked_a_few_times_and_then_left_alone() {
    let verifier = Arc::new(Verifier::open(&http(""), &[]).unwrap());
    let mut faults = Vec::new();
    for number in 0..8 {
        match verifier
            .prove(&question(&format!("credential-{number}"), "/ws"), CacheUse::Used)
            .await
        {
            Err(Rejection::VerifierUnavailable(fault)) => faults.push(fault),
            other => panic!("{other:?}"),
        }
    }
    assert!(faults[..5].iter().all(|fault| *fault == VerifierFault::Unreachable), "{faults:?}");
    assert!(faults[5..].iter().all(|fault| *fault == VerifierFault::BreakerOpen), "{faults:?}");
    assert!(lock(&verifier.answers).flights.is_empty());
}

#[tokio::test]
async fn a_question_that_is_dropped_leaves_nothing_behind() {
    let verifier = Arc::new(Verifier::open(&http(""), &[]).unwrap());
    // The future is dropped, as when a client disconnects.
    {
        let question = question("credential", "/ws");
        let mut asking = Box::pin(verifier.prove(&question, CacheUse::Used));
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(asking.as_mut().poll(cx).is_pending())
        })
        .await;
        assert!(polled && lock(&verifier.answers).flights.len() == 1);
    }
    while !lock(&verifier.answers).flights.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(verifier.places.available_permits(), verifier.config.concurrency);
}
