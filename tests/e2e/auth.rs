//! Who gets in with a token, and what the others are told.

use aws_lc_rs::signature::KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::client::{self, Answer};
use crate::support::{DoorBook, Echo, Setup, Usher, token};

const ROUTE: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["header"]
    origins = ["https://app.example.com"]
    identity_headers = { "X-User-Id" = "sub" }
"#;

async fn attempt(usher: &Usher, headers: &str) -> Answer {
    client::attempt(usher.plain, "/ws", &format!("{headers}Connection: close\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_token_opens_the_upstream() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTE).start().await;
    let mut book = DoorBook::default();
    let bad = [
        (
            "another secret",
            jsonwebtoken::encode(&Header::default(), &token::claims("eve", json!({})), &EncodingKey::from_secret(&[7; 40])).unwrap(),
        ),
        ("expired", usher.token_with("eve", json!({ "exp": token::now() - 1 }))),
        ("no expiry", usher.token_with("eve", json!({ "exp": null }))),
        ("expiry as text", usher.token_with("eve", json!({ "exp": "9999999999" }))),
        ("another audience", usher.token_with("eve", json!({ "aud": "other" }))),
        ("no audience", usher.token_with("eve", json!({ "aud": null }))),
        ("another issuer", usher.token_with("eve", json!({ "iss": "https://evil.example.com" }))),
        ("no subject", usher.token_with("eve", json!({ "sub": null }))),
        ("not yet", usher.token_with("eve", json!({ "nbf": token::now() + 60 }))),
        ("no algorithm", none_token()),
        ("no token", "x".to_owned()),
    ];
    for (what, token) in &bad {
        usher.keep_secret(token.as_str().get(..).filter(|text| text.len() > 10).unwrap_or("a token that is none"));
        let answer = attempt(&usher, &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.header("www-authenticate"), Some("bearer error=\"invalid_token\""), "{what}");
    }
    let missing = attempt(&usher, "").await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("bearer")));
    assert!(echo.visits().is_empty());

    book.admit("ada");
    let token = usher.token("ada");
    let socket = usher.open("/ws", &[("authorization", &format!("Bearer {token}")), ("origin", "https://APP.example.com:443")]).await;
    drop(socket.unwrap());
    assert_eq!(book.verdict(&echo.visits()), Vec::<String>::new());
    let audit = usher.finish().await;
    let rejected = audit.iter().filter(|line| line["event"] == "upgrade_rejected").count();
    assert_eq!(rejected, bad.len() + 1);
}

fn none_token() -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    format!("{header}.{}.", URL_SAFE_NO_PAD.encode(token::claims("eve", json!({})).to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_refused_whatever_its_token() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).routes(ROUTE).start().await;
    let auth = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    for origin in ["https://evil.example.com", "null", "https://app.example.com.evil.test", "http://app.example.com"] {
        let answer = attempt(&usher, &format!("{auth}Origin: {origin}\r\n")).await;
        assert_eq!(answer.status, 403, "{origin}");
        assert!(answer.body.contains("FORBIDDEN_ORIGIN"), "{}", answer.body);
    }
    assert!(echo.visits().is_empty());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_has_one_request_id_everywhere() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let answer = attempt(&usher, "").await;
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let id = body["request_id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("x-request-id"), Some(id.as_str()));
    assert_eq!((body["status"].as_u64(), body["code"].as_str()), (Some(401), Some("MISSING_CREDENTIAL")));
    usher.logged(&[&id, "upgrade_rejected"]).await;
    let audit = usher.finish().await;
    assert!(audit.iter().any(|line| line["request_id"] == id.as_str() && line["event"] == "upgrade_rejected"));
}

#[tokio::test(flavor = "multi_thread")]
async fn public_keys_verify_and_cannot_be_mixed_up() {
    let echo = Echo::start().await;
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ec = aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = ec.public_key().as_ref();
    let jwks = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": URL_SAFE_NO_PAD.encode(ed.public_key_raw()) },
        { "kty": "EC", "crv": "P-256", "kid": "two", "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) },
    ]});
    let issuers = |name: &str, algorithm: &str| {
        format!(
            r#"
            [[issuer]]
            name = "{name}"
            issuer = "https://{name}.example.com"
            audience = ["chat"]
            algorithms = ["{algorithm}"]
            jwks_file = "jwks.json"
            "#
        )
    };
    let usher = Setup::new(echo.url())
        .issuer(&issuers("ed", "EdDSA"))
        .issuer(&issuers("ec", "ES256"))
        .file("jwks.json", jwks.to_string())
        .start()
        .await;
    let ed_key = EncodingKey::from_ed_der(&ed.serialize_der());
    let ec_key = EncodingKey::from_ec_der(ec.to_pkcs8v1().unwrap().as_ref());
    let sign = |issuer: &str, algorithm, kid: &str, key: &EncodingKey| {
        let claims = token::claims("ada", json!({ "iss": format!("https://{issuer}.example.com") }));
        jsonwebtoken::encode(&Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) }, &claims, key).unwrap()
    };
    let as_secret = EncodingKey::from_secret(ed.public_key_pem().as_bytes());
    for (token, status) in [
        (sign("ed", Algorithm::EdDSA, "one", &ed_key), 101),
        (sign("ec", Algorithm::ES256, "two", &ec_key), 101),
        (sign("ed", Algorithm::EdDSA, "other", &ed_key), 401),
        (sign("ec", Algorithm::EdDSA, "one", &ed_key), 401),
        (sign("ed", Algorithm::HS256, "one", &as_secret), 401),
    ] {
        assert_eq!(attempt(&usher, &format!("Authorization: Bearer {token}\r\n")).await.status, status);
    }
    usher.finish().await;
}
