//! Attacks with tokens: the client always gets the same answer, and the audit log has the reason.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};

use futures_util::SinkExt;

use crate::first_message::{auth, close_frame, json as json_of};
use crate::support::client::Answer;
use crate::support::{Echo, Raw, Setup, Usher, token, upgrade_request};

fn raw(header: &Value, payload: &Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encoded(header), encoded(payload));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

async fn attempt(usher: &Usher, token: &str) -> Answer {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request("/ws", &format!("Authorization: Bearer {token}\r\n"))).await;
    Answer::parse(&raw.read_to_close().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_gets_the_same_answer_and_its_own_audit_reason() {
    let echo = Echo::start().await;
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let spki = rsa.subject_public_key_info();
    let (_, parsed) = x509_parser::prelude::FromDer::from_der(&spki).unwrap();
    let parsed: x509_parser::x509::SubjectPublicKeyInfo<'_> = parsed;
    let x509_parser::public_key::PublicKey::RSA(public) = parsed.parsed().unwrap() else {
        panic!("not RSA")
    };
    let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
    let modulus = URL_SAFE_NO_PAD.encode(modulus);
    let jwks = json!({ "keys": [{ "kty": "RSA", "kid": "one", "n": modulus, "e": "AQAB" }] });
    let issuer = r#"
        [[issuer]]
        name = "rsa"
        issuer = "https://rsa.example.com"
        audience = ["chat"]
        algorithms = ["RS256", "PS256"]
        jwks_file = "jwks.json"
    "#;
    let usher =
        Setup::new(echo.url()).issuer(issuer).file("jwks.json", jwks.to_string()).start().await;

    let (hmac, signs) = (
        EncodingKey::from_secret(token::SECRET.as_bytes()),
        EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap(),
    );
    let claims = |changes: Value| token::claims("eve", changes);
    let rsa_claims = claims(json!({ "iss": "https://rsa.example.com" }));
    let hs =
        |header: Value, changes: Value| raw(&header, &claims(changes), &hmac, Algorithm::HS256);
    let usual = || json!({ "alg": "HS256" });
    let pem = EncodingKey::from_secret(rsa.public_key_pem().as_bytes());
    let attackers = EncodingKey::from_secret(b"secret");
    let fine = hs(usual(), json!({}));
    let attacks = [
        (
            "alg none",
            hs(json!({ "alg": "nOnE" }), json!({})),
            "the algorithm of the token is not allowed for its issuer",
        ),
        (
            "the public key as a secret",
            raw(&json!({ "alg": "HS256", "kid": "one" }), &rsa_claims, &pem, Algorithm::HS256),
            "the algorithm of the token is not allowed for its issuer",
        ),
        (
            "the other padding",
            raw(&json!({ "alg": "RS256" }), &rsa_claims, &signs, Algorithm::PS256),
            "the signature of the token is not valid",
        ),
        (
            "a key id that is a path",
            raw(
                &json!({ "alg": "RS256", "kid": "../../dev/null" }),
                &rsa_claims,
                &signs,
                Algorithm::RS256,
            ),
            "the issuer has no key with the key id of the token",
        ),
        (
            "a key set of its own",
            raw(
                &json!({ "alg": "HS256", "jku": "https://evil.example.com" }),
                &claims(json!({})),
                &attackers,
                Algorithm::HS256,
            ),
            "the signature of the token is not valid",
        ),
        (
            "crit",
            hs(json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), json!({})),
            "the token has a critical header that is not supported",
        ),
        (
            "a token inside",
            hs(json!({ "alg": "HS256", "cty": "JWT" }), json!({})),
            "the token is not an access token, or it contains another token",
        ),
        ("five parts", "eyJhbGciOiJkaXIifQ..AAAA.AAAA.AAAA".to_owned(), "the token is malformed"),
        ("padding", format!("{fine}="), "the token is malformed"),
        (
            "no signature",
            format!("{}.", fine.rsplit_once('.').unwrap().0),
            "the signature of the token is not valid",
        ),
        ("expired", hs(usual(), json!({ "exp": token::now() - 1 })), "the credential has expired"),
        ("not yet", hs(usual(), json!({ "nbf": token::now() + 60 })), "the token is not valid yet"),
        (
            "2^63",
            hs(usual(), json!({ "exp": 1_u64 << 63 })),
            "a claim is missing or has the wrong type: exp",
        ),
        (
            "another's name",
            hs(usual(), json!({ "iss": "https://rsa.example.com" })),
            "the algorithm of the token is not allowed for its issuer",
        ),
        (
            "nobody's name",
            hs(usual(), json!({ "iss": "https://evil.example.com" })),
            "the issuer of the token is not configured",
        ),
        (
            "another audience",
            hs(usual(), json!({ "aud": "other" })),
            "the token is for another audience",
        ),
        (
            "for ever",
            hs(usual(), json!({ "exp": token::now() + 400 * 86_400 })),
            "the token is valid for longer than the issuer's max_lifetime",
        ),
        (
            "too long",
            hs(usual(), json!({ "x": "x".repeat(9000) })),
            "the credential is longer than max_token_bytes",
        ),
    ];
    for (what, token, _) in &attacks {
        let answer = attempt(&usher, token).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("bearer error=\"invalid_token\"")),
            "{what}"
        );
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (&body["code"], &body["detail"]),
            (&json!("INVALID_TOKEN"), &json!("the token is not valid")),
            "{what}"
        );
    }
    let good = raw(&json!({ "alg": "PS256" }), &rsa_claims, &signs, Algorithm::PS256);
    drop(usher.open("/ws", &[("authorization", &format!("Bearer {good}"))]).await.unwrap());
    assert_eq!(echo.visits().len(), 1);
    let audit = usher.finish().await;
    let lines: Vec<_> = audit.iter().filter(|line| line["event"] == "upgrade_rejected").collect();
    assert_eq!(lines.len(), attacks.len());
    for ((what, _, reason), line) in attacks.iter().zip(lines) {
        assert_eq!(
            (&line["outcome"], &line["detail"]),
            (&json!("invalid_token"), &json!(reason)),
            "{what}"
        );
    }
}

/// Refuses a sender-constrained token by every method, at the ticket endpoint and in a renewal: it
/// is not a bearer token.
#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_is_refused_wherever_it_is_shown() {
    let echo = Echo::start().await;
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["message", "header", "subprotocol", "query", "cookie"]
        origins = ["https://app.example.com"]
        reauth = { proactive = true }
        [[route]]
        path = "/ticket"
        upstream = "chat"
        auth = ["ticket"]
    "#;
    let usher = Setup::new(echo.url()).routes(routes).start().await;
    let bound = usher.token_with(
        "ada",
        json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }),
    );
    let requests = [
        ("/ws".to_owned(), format!("Authorization: Bearer {bound}\r\n")),
        ("/ws".to_owned(), format!("Sec-WebSocket-Protocol: bearer, {bound}\r\n")),
        (format!("/ws?access_token={bound}"), String::new()),
        (
            "/ws".to_owned(),
            format!("Cookie: access_token={bound}\r\nOrigin: https://app.example.com\r\n"),
        ),
    ];
    for (target, headers) in &requests {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(target, headers)).await;
        let answer = Answer::parse(&raw.read_to_close().await);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (answer.status, &body["code"], &body["recoverable"]),
            (401, &json!("BOUND_TOKEN"), &json!(false)),
            "{headers}"
        );
        assert_eq!(answer.header("www-authenticate"), Some("bearer error=\"invalid_token\""));
    }
    let (status, answer) = usher.ask_ticket(&bound, "", "").await;
    assert_eq!((status, &answer["code"]), (401, &json!("BOUND_TOKEN")));
    let mut socket = usher.open("/ws", &[]).await.unwrap();
    socket.send(auth(&bound)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["payload"]["code"], "BOUND_TOKEN");
    assert_eq!(close_frame(&mut socket).await, (1008, "Invalid token".to_owned()));
    assert!(echo.visits().is_empty());

    let mut socket = usher.open("/ws", &[]).await.unwrap();
    socket.send(auth(&usher.token("ada"))).await.unwrap();
    assert_eq!(json_of(&mut socket).await["type"], "auth_ok");
    socket.send(auth(&bound)).await.unwrap();
    assert_eq!(json_of(&mut socket).await["payload"]["code"], "BOUND_TOKEN");
    drop(socket);
    let audit = usher.finish().await;
    let rejected = audit.iter().filter(|line| line["outcome"] == "bound_token");
    let details: Vec<_> = rejected.map(|line| line["detail"].as_str().unwrap()).collect();
    assert!(
        details.len() == requests.len() + 2 && details.iter().all(|detail| detail.contains("cnf")),
        "{details:?}"
    );
    assert!(audit.iter().any(
        |line| line["event"] == "reauth_refused" && line["detail"].to_string().contains("cnf")
    ));
}
