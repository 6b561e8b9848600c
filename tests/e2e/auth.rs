//! Which tokens let a client in, and how the others are answered.

use aws_lc_rs::signature::KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::SinkExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::PublicKeyData as _;
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
            jsonwebtoken::encode(
                &Header::default(),
                &token::claims("eve", json!({})),
                &EncodingKey::from_secret(&[7; 40]),
            )
            .unwrap(),
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
        usher.keep_secret(
            token.as_str().get(..).filter(|text| text.len() > 10).unwrap_or("a token that is none"),
        );
        let answer = attempt(&usher, &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("bearer error=\"invalid_token\""),
            "{what}"
        );
    }
    let missing = attempt(&usher, "").await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("bearer")));
    assert!(echo.visits().is_empty());

    book.admit("ada");
    let token = usher.token("ada");
    let socket = usher
        .open(
            "/ws",
            &[
                ("authorization", &format!("Bearer {token}")),
                ("origin", "https://APP.example.com:443"),
            ],
        )
        .await;
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
    for origin in [
        "https://evil.example.com",
        "null",
        "https://app.example.com.evil.test",
        "http://app.example.com",
    ] {
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
    assert_eq!(
        (body["status"].as_u64(), body["code"].as_str()),
        (Some(401), Some("MISSING_CREDENTIAL"))
    );
    usher.logged(&[&id, "upgrade_rejected"]).await;
    let audit = usher.finish().await;
    assert!(
        audit
            .iter()
            .any(|line| line["request_id"] == id.as_str() && line["event"] == "upgrade_rejected")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn public_keys_verify_and_cannot_be_mixed_up() {
    let echo = Echo::start().await;
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ec = aws_lc_rs::signature::EcdsaKeyPair::generate(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
    )
    .unwrap();
    let point = ec.public_key().as_ref();
    let jwks = json!({ "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "kid": "one",
            "x": URL_SAFE_NO_PAD.encode(ed.public_key_raw()),
        },
        {
            "kty": "EC",
            "crv": "P-256",
            "kid": "two",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        },
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
        let claims =
            token::claims("ada", json!({ "iss": format!("https://{issuer}.example.com") }));
        jsonwebtoken::encode(
            &Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) },
            &claims,
            key,
        )
        .unwrap()
    };
    let as_secret = EncodingKey::from_secret(ed.public_key_pem().as_bytes());
    for (token, status) in [
        (sign("ed", Algorithm::EdDSA, "one", &ed_key), 101),
        (sign("ec", Algorithm::ES256, "two", &ec_key), 101),
        (sign("ed", Algorithm::EdDSA, "other", &ed_key), 401),
        (sign("ec", Algorithm::EdDSA, "one", &ed_key), 401),
        (sign("ed", Algorithm::HS256, "one", &as_secret), 401),
    ] {
        assert_eq!(
            attempt(&usher, &format!("Authorization: Bearer {token}\r\n")).await.status,
            status
        );
    }
    usher.finish().await;
}

/// Refuses a user whose name a header would change: the upstream would see another user. Nothing is
/// dialled.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_name_that_a_header_would_change_is_refused() {
    let echo = Echo::start().await;
    let routes = r#"
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["header", "ticket", "message"]
        identity_headers = { "X-User-Id" = "sub", "X-Tier" = "tier" }
        [[route]]
        path = "/signed"
        upstream = "chat"
        auth = ["header"]
        [[route]]
        path = "/api/*"
        upstream = "chat"
        auth = ["header"]
        identity_headers = { "X-User-Id" = "sub" }
    "#;
    let usher = Setup::new(echo.url())
        .routes(routes)
        .extra("[context]\nclaims = [\"tier\"]\n")
        .start()
        .await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let names = [" admin ", "admin ", "\tadmin", "j\u{fc}rgen", "admin\u{0}", "a\r\nX-Tier: gold"];
    for name in names {
        let token = usher.token(name);
        let answer = attempt(&usher, &bearer(&token)).await;
        assert_eq!(answer.status, 403, "{name:?}: {}", answer.body);
        assert!(
            answer.body.contains("UNFIT_CLAIM") && !answer.body.contains("admin"),
            "{}",
            answer.body
        );
        let request = format!(
            "GET /api/x HTTP/1.1\r\nHost: x\r\n{}Connection: close\r\n\r\n",
            bearer(&token)
        );
        assert_eq!(client::http(usher.plain, request.as_bytes()).await.status, 403, "{name:?}");
        let ticket = usher.issue_ticket(&token).await;
        assert_eq!(
            client::attempt(usher.plain, &format!("/ws?ticket={ticket}"), "").await.status,
            403,
            "{name:?}"
        );
    }
    let tier = usher.token_with("ada", json!({ "tier": "gold\u{a0}" }));
    assert_eq!(attempt(&usher, &bearer(&tier)).await.status, 403);
    let mut socket = usher.open("/ws", &[]).await.unwrap();
    socket.send(crate::first_message::auth(&usher.token(" admin "))).await.unwrap();
    assert_eq!(crate::first_message::json(&mut socket).await["payload"]["code"], "UNFIT_CLAIM");
    assert!(echo.visits().is_empty(), "the upstream was dialled");

    // The signed context carries any name, a plain header only some.
    drop(
        usher
            .open(
                "/signed",
                &[("authorization", &format!("Bearer {}", usher.token(" j\u{fc}rgen ")))],
            )
            .await
            .unwrap(),
    );
    let plain = usher.token_with("a  b, c@example.com", json!({ "tier": 3 }));
    drop(usher.open("/ws", &[("authorization", &format!("Bearer {plain}"))]).await.unwrap());
    let visits = echo.visits();
    assert_eq!(
        (visits[0].all("x-user-id"), visits[1].all("x-user-id")),
        (vec![], vec!["a  b, c@example.com"])
    );
    assert_eq!(visits[1].all("x-tier"), ["3"]);
    let audit = usher.finish().await;
    let details: Vec<_> = audit
        .iter()
        .filter(|line| line["outcome"] == "unfit_claim")
        .map(|line| line["detail"].to_string())
        .collect();
    assert!(details.len() >= names.len() * 2 + 2, "{details:?}");
    assert!(
        details.iter().any(|detail| detail.contains("`tier`") && detail.contains("x-tier")),
        "{details:?}"
    );
}

/// One table serves a provider that signs with three families of algorithms under one `iss`.
#[tokio::test(flavor = "multi_thread")]
async fn one_issuer_signs_with_keys_of_several_families() {
    let echo = Echo::start().await;
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ec = aws_lc_rs::signature::EcdsaKeyPair::generate(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
    )
    .unwrap();
    let point = ec.public_key().as_ref();
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let spki = rsa.subject_public_key_info();
    let (_, parsed): (_, x509_parser::x509::SubjectPublicKeyInfo<'_>) =
        x509_parser::prelude::FromDer::from_der(&spki).unwrap();
    let x509_parser::public_key::PublicKey::RSA(public) = parsed.parsed().unwrap() else {
        panic!("not RSA")
    };
    let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
    let jwks = json!({ "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "kid": "one",
            "x": URL_SAFE_NO_PAD.encode(ed.public_key_raw()),
        },
        {
            "kty": "EC",
            "crv": "P-256",
            "kid": "one",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        },
        { "kty": "RSA", "kid": "one", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB" },
    ]});
    let issuer = |algorithms: &str| {
        format!(
            "[[issuer]]\nname = \"idp\"\nissuer = \"https://idp.example.com\"\n\
             audience = [\"chat\"]\nalgorithms = [{algorithms}]\njwks_file = \"jwks.json\"\n"
        )
    };
    let setup = Setup::new(echo.url())
        .issuer(&issuer(r#""RS256", "ES256", "EdDSA""#))
        .file("jwks.json", jwks.to_string());
    let usher = setup.start().await;
    let keys = [
        (Algorithm::EdDSA, EncodingKey::from_ed_der(&ed.serialize_der())),
        (Algorithm::ES256, EncodingKey::from_ec_der(ec.to_pkcs8v1().unwrap().as_ref())),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap()),
    ];
    let claims = token::claims("ada", json!({ "iss": "https://idp.example.com" }));
    for (algorithm, key) in &keys {
        let header = Header { kid: Some("one".to_owned()), ..Header::new(*algorithm) };
        let token = jsonwebtoken::encode(&header, &claims, key).unwrap();
        assert_eq!(
            attempt(&usher, &format!("Authorization: Bearer {token}\r\n")).await.status,
            101,
            "{algorithm:?}"
        );
    }
    let (config, good) =
        (usher.config_path(), std::fs::read_to_string(usher.config_path()).unwrap());
    // `check` refuses the same file as `run`: here two tables for one issuer.
    std::fs::write(&config, good.replace("https://idp.example.com", "https://id.example.com"))
        .unwrap();
    for command in [&["check"][..], &["run", "-c"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(command)
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(78)
                && said.contains("the `issuer` `https://id.example.com` appears twice"),
            "{command:?}: {said}"
        );
    }
    std::fs::write(&config, good).unwrap();
    usher.finish().await;
}
