//! Tests of explanations with a fixed configuration and time: those of `docs/explain.md`, and other
//! requests.
//!
//! `USHER_WRITE_DOCS=1 cargo test --lib explain` writes the outputs in the page again.

use std::fs;
use std::path::PathBuf;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser as _;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::explain::report::{Explanation, Mark};

/// 2026-11-21T15:00:00Z.
const NOW: u64 = 1_795_273_200;
const SECRET: &str = "0123456789012345678901234567890123456789";
const URL: &str = "wss://chat.example.com/v1/rooms/blue";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// A folder with all files that the configuration names.
struct Scene {
    folder: PathBuf,
    key: EncodingKey,
    public: String,
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("usher-explain-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = |kid: &str| {
            let [x, y] = [1..33, 33..65].map(coordinate);
            json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y })
        };
        let set = json!({ "keys": [jwk("2026-10"), jwk("2026-11")] }).to_string();
        fs::write(folder.join("jwks.json"), &set).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec!["chat.example.com".to_owned()]).unwrap();
        let at = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap();
        (params.not_before, params.not_after) = (at(NOW - 86_400), at(NOW + 60 * 86_400));
        fs::write(folder.join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        Self {
            folder,
            key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
            public: set,
        }
    }

    fn token(&self, kid: &str, changes: Value) -> String {
        let header =
            Header { kid: Some(kid.to_owned()), ..Header::new(jsonwebtoken::Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims(changes), &self.key).unwrap()
    }

    fn config(&self, more: &str) -> crate::config::Config {
        let folder = self.folder.display();
        let text = format!(
            r#"
            state_dir = "{folder}/state"
            [[listener]]
            address = "0.0.0.0:443"
            certificates = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]
            [[issuer]]
            name = "main"
            issuer = "https://id.example.com"
            audience = ["chat"]
            algorithms = ["ES256"]
            jwks_file = "{folder}/jwks.json"
            [[issuer]]
            name = "tests"
            issuer = "https://tests.example.com"
            audience = ["chat"]
            algorithms = ["HS256"]
            secret_env = "KEY"
            [[upstream]]
            name = "chat"
            servers = ["http://127.0.0.1:9000"]
            [[route]]
            path = "/v1/rooms/{{room}}"
            hosts = ["chat.example.com"]
            upstream = "chat"
            auth = ["ticket", "header", "cookie"]
            origins = ["https://app.example.com"]
            require = ["chat:read", "room:{{room}}"]
            [[route]]
            path = "/v1/*"
            hosts = ["chat.example.com"]
            upstream = "chat"
            auth = ["message"]
            [[route]]
            path = "/old"
            upstream = "chat"
            auth = ["ticket", "header", "query"]
            reject_mode = "close"
            close_codes = "http"
            {more}
            [context]
            claims = ["name"]
            "#
        );
        crate::config::parse(&text, None, &|_| Some(SECRET.to_owned())).unwrap().config
    }

    /// Explains a request, with a token in a file if given.
    fn explain_with(
        &self,
        more: &str,
        url: &str,
        token: Option<&str>,
        arguments: &[&str],
    ) -> Explanation {
        let file = self.folder.join("token");
        let mut line = vec!["explain", url];
        if let Some(token) = token {
            fs::write(&file, format!("{token}\n")).unwrap();
            line.extend(["--token-file", file.to_str().unwrap()]);
        }
        line.extend(arguments);
        Self::explain_by(|| Explainer::new(self.config(more)).unwrap(), &line)
    }

    fn explain_by(explainer: impl FnOnce() -> Explainer, line: &[&str]) -> Explanation {
        let explained = request(&Line::parse_from(line).arguments).unwrap();
        let now = Now { wall: UnixMillis::from_secs(NOW), ..Now::read() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        runtime.block_on(async { Box::pin(explainer().explain(&explained, now)).await })
    }

    fn explain(&self, url: &str, token: Option<&str>, arguments: &[&str]) -> Explanation {
        self.explain_with("", url, token, arguments)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example.com", "aud": "chat", "sub": "ada", "iat": NOW - 300,
        "exp": NOW + 600, "jti": "7c2f",
        "permissions": ["chat:read", "room:blue"], "name": "Ada Lovelace",
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

/// Returns the mark of a step.
fn mark(told: &Explanation, name: &str) -> Option<Mark> {
    told.steps.iter().find(|step| step.name == name).map(|step| step.result)
}

#[test]
fn a_url_that_speaks_otherwise_than_the_listener_is_refused() {
    let scene = Scene::new("scheme");
    let plain = "[[listener]]\naddress = \"127.0.0.1:8080\"\nplain = true\n";
    let listener = |more: &str, url: &str, arguments: &[&str]| {
        let told = scene.explain_with(more, url, None, arguments);
        let step = told.steps.iter().find(|step| step.name == "listener").unwrap();
        (step.result, step.detail.clone(), told.verdict.let_in)
    };
    let refused = |more: &str, url: &str, arguments: &[&str], detail: &str| {
        let found = listener(more, url, arguments);
        assert_eq!(found, (Mark::Fail, detail.to_owned(), Some(false)), "{url}");
    };
    let tls = "0.0.0.0:443: the URL is plain, this listener speaks TLS";
    refused("", "ws://127.0.0.1:8080/old", &[], tls);
    refused("", "http://chat.example.com:443/old", &[], tls);
    refused(plain, "ws://127.0.0.1:8080/old", &["--listener", "0.0.0.0:443"], tls);
    let is_plain = "127.0.0.1:8080: the URL has TLS, this listener is plain";
    refused(plain, "https://127.0.0.1:8080/old", &[], is_plain);
    // A proxy in front may terminate TLS.
    let named = listener(plain, "wss://127.0.0.1:8080/old", &["--listener", "127.0.0.1:8080"]);
    assert_eq!(named.1, "127.0.0.1:8080, plain; a proxy in front terminates TLS");
    assert_eq!((named.0, named.2), (Mark::Ok, Some(false)));
    let (mark, detail, _) = listener(plain, "ws://chat.example.com/old", &[]);
    assert_eq!(mark, Mark::Ok);
    assert_eq!(detail, "127.0.0.1:8080, plain; no listener has port 80, so this one is used");
}

#[test]
fn a_draining_process_refuses_upgrades_and_nothing_else() {
    let scene = Scene::new("drain");
    let bearer = format!("Authorization: Bearer {}", scene.token("2026-11", json!({})));
    let explained = |arguments: &[&str]| {
        let explainer = || {
            let mut explainer = Explainer::new(scene.config("")).unwrap();
            explainer.is_draining = true;
            explainer
        };
        let line = [&["explain", URL, "--header", &bearer], arguments].concat();
        Scene::explain_by(explainer, &line)
    };
    let told = explained(&[]);
    assert_eq!((told.verdict.let_in, told.verdict.status), (Some(false), Some(503)));
    assert_eq!(told.verdict.label, Some("draining"));
    assert_eq!(mark(&told, "drain"), Some(Mark::Fail));
    assert_eq!(mark(&told, "issuer"), Some(Mark::Ok), "the other checks are shown too");
}

#[test]
fn the_page_shows_what_the_program_says() {
    let scene = Scene::new("page");
    let confused = {
        let header = Header {
            kid: Some("2026-11".to_owned()),
            ..Header::new(jsonwebtoken::Algorithm::HS256)
        };
        jsonwebtoken::encode(
            &header,
            &claims(json!({})),
            &EncodingKey::from_secret(scene.public.as_bytes()),
        )
        .unwrap()
    };
    let runs = [
        ("good", scene.token("2026-11", json!({}))),
        ("expired", scene.token("2026-11", json!({ "iat": NOW - 3600, "exp": NOW - 2700 }))),
        ("audience", scene.token("2026-11", json!({ "aud": ["billing", "reports"] }))),
        ("key", scene.token("2026-12", json!({}))),
        ("confusion", confused),
    ];
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/explain.md");
    let committed = fs::read_to_string(&path).unwrap();
    let mut wanted = committed.clone();
    for (name, token) in runs {
        let told = scene.explain(URL, Some(&token), &[]);
        let text = page::page(&told, false).replace(scene.folder.to_str().unwrap(), "/etc/usher");
        let start = wanted.find(&format!("<!-- {name} -->\n")).expect(name);
        let begins = start + wanted[start..].find("```text\n").unwrap() + "```text\n".len();
        let ends = begins + wanted[begins..].find("```").unwrap();
        wanted.replace_range(begins..ends, &text);
    }
    if std::env::var_os("USHER_WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        assert_eq!(committed, wanted);
    }
}

#[test]
fn a_second_mistake_is_found_behind_the_first() {
    let scene = Scene::new("second");
    let token = scene.token("2026-12", json!({ "aud": "billing", "exp": NOW - 60 }));
    let told = scene.explain(URL, Some(&token), &["--origin", "https://evil.example.com"]);
    assert_eq!(told.verdict.code, Some("FORBIDDEN_ORIGIN"), "the first failure decides");
    for name in ["origin", "key id", "audience", "expires"] {
        assert_eq!(mark(&told, name), Some(Mark::Fail), "{name}");
    }
    assert_eq!(mark(&told, "signature"), Some(Mark::Skipped));
}

#[test]
fn what_is_secret_or_personal_is_not_shown() {
    let scene = Scene::new("secret");
    let token = scene.token("2026-11", json!({ "sub": "a\u{1b}[2Jda\u{202e}" }));
    let all = |told: &Explanation| {
        format!("{}{}", page::page(told, true), serde_json::to_string(told).unwrap())
    };
    let told = scene.explain(
        URL,
        Some(&token),
        &["--header", "Cookie: theme=dark; access_token=hidden-in-a-cookie"],
    );
    let text = all(&told);
    let mut secrets =
        vec!["hidden-in-a-cookie", "dark", "Lovelace", SECRET, "\u{1b}[2J", "\u{202e}"];
    secrets.extend(token.split('.'));
    for secret in secrets {
        assert!(
            !page::page(&told, true).contains(secret)
                && (secret.starts_with('\u{202e}') || !text.contains(secret)),
            "{secret:?}: {text}"
        );
    }
    assert!(
        told.warnings.iter().any(|warning| warning.contains("--header cookie")),
        "{:?}",
        told.warnings
    );
    let told =
        scene.explain(&format!("wss://chat.example.com/old?access_token={token}"), None, &[]);
    assert!(
        !all(&told).contains(&token)
            && told.warnings.iter().any(|warning| warning.contains("?access_token=")),
        "{:?}",
        told.warnings
    );
    assert!(all(&scene.explain(URL, Some(&token), &["--claims"])).contains("Ada Lovelace"));
}

#[test]
fn a_required_certificate_is_asked_for_before_anything_else() {
    let scene = Scene::new("certificate");
    let signed_by = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&key).unwrap().pem();
        let mut client = rcgen::CertificateParams::new(Vec::new()).unwrap();
        client.distinguished_name.push(rcgen::DnType::CommonName, "ada");
        client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = rcgen::Issuer::new(authority, key);
        let leaf = client.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap().pem();
        let file = scene.folder.join(name);
        fs::write(&file, leaf).unwrap();
        (pem, file)
    };
    let ((ours, good), (_, bad)) = (signed_by("good.pem"), signed_by("bad.pem"));
    fs::write(scene.folder.join("ca.pem"), ours).unwrap();
    let more = format!(
        r#"
            [[route]]
            path = "/certified"
            upstream = "chat"
            auth = ["mtls"]
            [[listener]]
            address = "0.0.0.0:8443"
            certificates = [{{ cert = "{0}/cert.pem", key = "{0}/key.pem" }}]
            client_ca = "{0}/ca.pem"
            client_auth = "required"
        "#,
        scene.folder.display()
    );
    let told = |arguments: &[&str]| {
        scene.explain_with(&more, "wss://chat.example.com:8443/certified", None, arguments).verdict
    };
    assert_eq!((told(&[]).let_in, told(&[]).status), (Some(false), None));
    assert_eq!(told(&["--certificate-file", bad.to_str().unwrap()]).let_in, Some(false));
    let verdict = told(&["--certificate-file", good.to_str().unwrap()]);
    assert_eq!((verdict.let_in, verdict.user.as_deref()), (Some(true), Some("ada")), "{verdict:?}");
}

#[test]
fn near_misses_are_named_where_no_route_matches() {
    let scene = Scene::new("near");
    let near = |url: &str| {
        let told = scene.explain(url, None, &[]);
        assert_eq!(told.verdict.code, Some("NO_ROUTE"));
        told.steps
            .iter()
            .filter(|step| step.name == "near")
            .map(|step| step.detail.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        near("wss://chat.example.com/old/"),
        ["/old: the path matches with the last slash added or removed"]
    );
    assert_eq!(near("wss://chat.example.com/OLD"), ["/old: the path matches in lower case"]);
    assert_eq!(
        near("wss://other.example.com/v1/rooms/blue"),
        [
            "/v1/rooms/{room}: the route is for the host chat.example.com",
            "/v1/*: the route is for the host chat.example.com"
        ]
    );
    assert!(near("wss://chat.example.com/elsewhere").is_empty());
}

#[test]
fn a_rollout_says_where_the_client_is_and_what_it_is_told() {
    let scene = Scene::new("rollout");
    let more = r#"
        legacy = ["header", "query"]
        deprecated = "2026-11-01"
        sunset = "2027-03-01"
        shadow = ["cookie"]
        rollout = { ticket = 100, enforce = true }
    "#;
    let token = scene.token("2026-11", json!({}));
    let told = scene.explain_with(more, "wss://chat.example.com/old", Some(&token), &[]);
    let verdict = &told.verdict;
    assert_eq!(
        (verdict.code, verdict.status, verdict.close_code),
        (Some("LEGACY_METHOD"), Some(101), Some(4403))
    );
    assert!(verdict.advice.as_ref().unwrap().contains("by ticket"), "{verdict:?}");
    assert_eq!(told.told.as_ref().unwrap()["method"], "ticket");
    let detail = |name: &str| {
        told.steps.iter().find(|step| step.name == name).map(|step| step.detail.as_str())
    };
    assert!(detail("rollout").unwrap().ends_with("in the share of ticket"));
    assert_eq!(
        detail("legacy"),
        Some(
            "header is legacy: deprecated since 2026-11-01, sunset 2027-03-01; the answer says so"
        )
    );
    assert_eq!(detail("shadow"), Some("cookie: no credential; counted, without consequences"));
}

#[test]
fn a_first_message_decides_where_nothing_else_is_shown() {
    let scene = Scene::new("message");
    let url = "wss://chat.example.com/v1/other";
    let told = scene.explain(url, None, &[]);
    assert_eq!((told.verdict.let_in, told.verdict.status), (None, Some(101)));
    let told = scene.explain(url, Some(&scene.token("2026-11", json!({}))), &[]);
    assert_eq!((told.verdict.let_in, told.method), (Some(true), Some("message")));
    let told = scene.explain(url, None, &["--header", "Sec-WebSocket-Version: 8"]);
    assert_eq!(
        (told.verdict.code, mark(&told, "credential")),
        (Some("UPGRADE_VERSION"), Some(Mark::Note))
    );
    let told = scene.explain(url, Some("x"), &[]);
    assert_eq!(
        (told.verdict.let_in, told.verdict.status, told.verdict.close_code),
        (Some(false), Some(101), Some(1008))
    );
}

#[test]
fn the_way_of_a_command_leads_into_a_request_and_nowhere_else() {
    let scene = Scene::new("ways");
    let token = scene.token("2026-11", json!({}));
    for (way, method) in [("header", "header"), ("query", "query")] {
        let told = scene.explain("wss://chat.example.com/old", Some(&token), &["--as", way]);
        assert_eq!((told.verdict.let_in, told.method), (Some(true), Some(method)));
        assert!(told.warnings.is_empty(), "{:?}", told.warnings);
    }
    // A route that accepts no cookie ignores cookies.
    let told = scene.explain("wss://chat.example.com/old", Some(&token), &["--as", "cookie"]);
    assert_eq!(told.verdict.code, Some("MISSING_CREDENTIAL"));
    for url in ["chat.example.com/ws", "ftp://x/", "wss://", "wss://a@b/", "wss://b:x/"] {
        assert!(request(&Line::parse_from(["explain", url]).arguments).is_err(), "{url}");
    }
}
