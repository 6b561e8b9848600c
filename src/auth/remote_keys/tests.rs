use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::jwt::sign_for_development;
use crate::model::algorithm::Algorithm;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// An issuer's server. Its response can be changed, and it counts the requests for its set.
struct Published {
    base: String,
    answer: Mutex<Answers>,
    asked: AtomicUsize,
    changed: Notify,
}

#[derive(Clone)]
enum Answers {
    Set(Value),
    /// A complete response, including the head.
    Raw(String),
    /// A head, and then single bytes from time to time.
    Drip,
    /// Waits until the response is changed.
    Later,
    Nothing,
}

impl Published {
    async fn start(answer: Answers) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let published = Arc::new(Self {
            base,
            answer: Mutex::new(answer),
            asked: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let server = Arc::clone(&published);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&server).answer(stream));
            }
        });
        published
    }

    async fn answer(self: Arc<Self>, mut stream: TcpStream) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte).await, Ok(1)) {
            head.push(byte[0]);
        }
        let ok = |body: &Value| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.to_string().len()
            )
        };
        if head.starts_with(b"GET /.well-known/openid-configuration ") {
            let jwks_uri = format!("{}/keys", self.base);
            let document = json!({ "issuer": self.base, "jwks_uri": jwks_uri, "other": [1] });
            stream.write_all(ok(&document).as_bytes()).await.unwrap();
            return;
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        loop {
            let changed = self.changed.notified();
            let answer = self.answer.lock().unwrap().clone();
            match answer {
                Answers::Set(set) => return drop(stream.write_all(ok(&set).as_bytes()).await),
                Answers::Raw(raw) => return drop(stream.write_all(raw.as_bytes()).await),
                Answers::Nothing => return,
                Answers::Later => changed.await,
                Answers::Drip => {
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
                    while stream.write_all(b" ").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    return;
                }
            }
        }
    }

    fn say(&self, answer: Answers) {
        *self.answer.lock().unwrap() = answer;
        self.changed.notify_waiters();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Returns issuers, of which this is the first.
    fn issuers(&self, keys: &str, more: &str) -> Issuers {
        let base = &self.base;
        load(&format!(
            "[[issuer]]\nname = \"main\"\nissuer = \"{base}\"\naudience = [\"chat\"]\n\
             algorithms = [\"EdDSA\"]\njwks_timeout = \"10s\"\n{keys}\n{more}"
        ))
    }

    fn by_url(&self) -> Arc<Issuers> {
        Arc::new(self.issuers(&format!("jwks_url = \"{}/keys\"", self.base), ""))
    }
}

fn load(issuers: &str) -> Issuers {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n{issuers}\n\
         [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:1\"]\n\
         [[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"header\"]\n"
    );
    let config = config::parse(&text, None, &|_| None).unwrap().config;
    Issuers::load(&config.issuers, &[]).unwrap()
}

struct Signer {
    id: String,
    pair: KeyPair,
}

impl Signer {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x })
    }

    fn token(&self, issuer: &str, seconds: i64) -> Secret {
        let expires = Now::read().wall.as_secs() as i64 + seconds;
        let claims = json!({ "iss": issuer, "aud": "chat", "sub": "ada", "exp": expires });
        let pem = Secret::from(self.pair.serialize_pem().as_str());
        Secret::from(
            sign_for_development(Algorithm::EdDSA, &pem, Some(&self.id), &claims).unwrap().as_str(),
        )
    }
}

fn set(signers: &[&Signer]) -> Answers {
    Answers::Set(json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }))
}

fn only(issuers: &Issuers) -> Arc<RemoteKeys> {
    Arc::clone(issuers.remote().next().unwrap())
}

const UNKNOWN: Rejection = Rejection::InvalidToken(InvalidToken::UnknownKey);

#[tokio::test]
async fn a_rotated_key_is_fetched_once_for_all_who_need_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let published = Published::start(set(&[&old])).await;
    let issuers = published.by_url();
    issuers.prefetch().await;
    let following = tokio::spawn(Arc::clone(&issuers).follow());
    assert!(issuers.prove(&old.token(&published.base, 60), Now::read()).await.is_ok());
    assert_eq!(published.asked(), 1);

    published.say(set(&[&new]));
    let token = new.token(&published.base, 60);
    let mut all: JoinSet<_> =
        (0..64)
            .map(|_| {
                let (issuers, token) = (Arc::clone(&issuers), token.clone());
                async move {
                    issuers.prove(&token, Now::read()).await.map(|principal| principal.subject)
                }
            })
            .collect();
    while let Some(outcome) = all.join_next().await {
        assert_eq!(outcome.unwrap(), Ok("ada".to_owned()));
    }
    assert_eq!(published.asked(), 2);
    assert_eq!(
        issuers.prove(&old.token(&published.base, 60), Now::read()).await,
        Err(UNKNOWN),
        "its key is gone"
    );
    following.abort();
}

#[tokio::test]
async fn a_flood_of_unknown_key_ids_costs_one_fetch() {
    let (good, made_up) = (Signer::new("good"), Signer::new("made up"));
    let published = Published::start(set(&[&good])).await;
    let issuers = published.by_url();
    issuers.prefetch().await;
    let following = tokio::spawn(Arc::clone(&issuers).follow());
    for ended in [-3600, -31] {
        assert_eq!(
            issuers.prove(&made_up.token(&published.base, ended), Now::read()).await,
            Err(UNKNOWN)
        );
    }
    assert_eq!(published.asked(), 1, "a token that no key could make valid causes no request");
    for number in 0..200 {
        let signer = Signer {
            id: format!("kid {number}"),
            pair: KeyPair::try_from(made_up.pair.serialize_der()).unwrap(),
        };
        assert_eq!(
            issuers.prove(&signer.token(&published.base, 60), Now::read()).await,
            Err(UNKNOWN)
        );
    }
    assert_eq!(published.asked(), 2);
    following.abort();
}

#[tokio::test]
async fn nothing_bad_replaces_a_good_set() {
    let good = Signer::new("good");
    let published = Published::start(set(&[&good])).await;
    let issuers = load(&format!(
        "[[issuer]]\nname = \"main\"\nissuer = \"{0}\"\naudience = [\"chat\"]\n\
         algorithms = [\"EdDSA\"]\njwks_timeout = \"150ms\"\njwks_url = \"{0}/keys\"",
        published.base
    ));
    let remote = only(&issuers);
    // On a busy machine, the valid response may take longer than the invalid ones get.
    while remote.current().is_none() {
        remote.refresh().await;
    }
    assert!(remote.pause() >= remote.refresh.mul_f64(0.9), "the set was fetched a moment ago");
    let raw = |head: &str, body: &str| {
        Answers::Raw(format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    };
    let bytes = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    let secret = json!({ "keys": [{ "kty": "oct", "kid": "good", "k": bytes, "alg": "HS256" }] });
    let many = json!({ "keys": vec![good.jwk(); 101] });
    let cases = [
        ("an error", raw("500 Internal Server Error", "{}"), &["status"][..]),
        ("a redirect", raw("302 Found\r\nlocation: http://127.0.0.1:1/", ""), &["redirect"]),
        ("garbage", raw("200 OK", "<html>"), &["malformed"]),
        ("no HTTP", Answers::Raw("what?\r\n\r\n".into()), &["malformed"]),
        ("an empty set", Answers::Set(json!({ "keys": [] })), &["no_usable_key"]),
        ("no set", Answers::Set(json!({})), &["malformed"]),
        ("a shared secret", Answers::Set(secret), &["no_usable_key"]),
        (
            "another family",
            Answers::Set(json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] })),
            &["no_usable_key"],
        ),
        (
            "a key that is none",
            Answers::Set(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "!" }] })),
            &["no_usable_key"],
        ),
        ("too many keys", Answers::Set(many), &["too_large"]),
        ("ten megabytes", raw("200 OK", &" ".repeat(10 << 20)), &["too_large"]),
        ("a slow drip", Answers::Drip, &["timeout"]),
        ("silence", Answers::Later, &["timeout"]),
        ("a closed door", Answers::Nothing, &["unreachable"]),
    ];
    for (failures, (what, answer, labels)) in cases.into_iter().enumerate() {
        published.say(answer);
        remote.refresh().await;
        let figures = issuers.figures(Now::read().wall).remove(0);
        // On a busy machine, every response may be late.
        assert!(
            figures.fault.is_some_and(|fault| labels.contains(&fault) || fault == "timeout"),
            "{what}: {figures:?}"
        );
        assert_eq!((figures.state, figures.keys), ("stale", 1), "{what}");
        let pause = remote.pause().as_secs_f64() / f64::from((1 << failures).min(60));
        assert!((0.9..=1.1).contains(&pause), "{what}: {pause} of the expected pause");
        assert!(issuers.verify(&good.token(&published.base, 60), Now::read()).is_ok(), "{what}");
    }
}

#[tokio::test]
async fn without_keys_tokens_are_refused_with_their_own_reason_until_there_are_some() {
    let good = Signer::new("good");
    let published = Published::start(Answers::Nothing).await;
    let issuers = published.by_url();
    issuers.prefetch().await;
    let remote = only(&issuers);
    let following = tokio::spawn(Arc::clone(&issuers).follow());
    let token = good.token(&published.base, 60);
    assert_eq!(issuers.verify(&token, Now::read()), Err(InvalidToken::NoKeys));
    assert_eq!(issuers.prove(&token, Now::read()).await, Err(Rejection::IssuerKeysUnavailable));
    assert_eq!(issuers.figures(Now::read().wall)[0].state, "none");
    published.say(set(&[&good]));
    let mut finished = remote.finished.subscribe();
    while remote.current().is_none() {
        finished.changed().await.unwrap();
    }
    assert!(issuers.prove(&token, Now::read()).await.is_ok());
    following.abort();
}

#[tokio::test]
async fn a_key_that_is_unknown_while_the_issuer_is_away_may_be_good() {
    let (good, other) = (Signer::new("good"), Signer::new("other"));
    let published = Published::start(set(&[&good])).await;
    let issuers = published.by_url();
    issuers.prefetch().await;
    let following = tokio::spawn(Arc::clone(&issuers).follow());
    published.say(Answers::Nothing);
    assert_eq!(
        issuers.prove(&other.token(&published.base, 60), Now::read()).await,
        Err(Rejection::IssuerKeysUnavailable)
    );
    assert!(issuers.prove(&good.token(&published.base, 60), Now::read()).await.is_ok());
    following.abort();
}

#[tokio::test]
async fn two_issuers_with_the_same_key_id_do_not_mix() {
    let (mine, theirs) = (Signer::new("one"), Signer::new("one"));
    let (first, second) =
        (Published::start(set(&[&mine])).await, Published::start(set(&[&theirs])).await);
    let more = format!(
        "[[issuer]]\nname = \"other\"\nissuer = \"{0}\"\naudience = [\"chat\"]\n\
         algorithms = [\"EdDSA\"]\ndiscovery = true",
        second.base
    );
    let issuers = first.issuers("discovery = true", &more);
    issuers.prefetch().await;
    let verify = |signer: &Signer, of: &Published| {
        issuers.verify(&signer.token(&of.base, 60), Now::read()).map(drop)
    };
    assert_eq!((verify(&mine, &first), verify(&theirs, &second)), (Ok(()), Ok(())));
    assert_eq!(verify(&mine, &second), Err(InvalidToken::Signature));
    assert_eq!(verify(&theirs, &first), Err(InvalidToken::Signature));
}

#[tokio::test]
async fn a_discovery_document_speaks_for_its_own_issuer_alone() {
    let published = Published::start(set(&[&Signer::new("one")])).await;
    // The same server under another name: its document does not match the config.
    let base = published.base.replace("127.0.0.1", "localhost");
    let issuers = load(&format!(
        "[[issuer]]\nname = \"main\"\nissuer = \"{base}\"\naudience = [\"chat\"]\n\
         algorithms = [\"EdDSA\"]\ndiscovery = true"
    ));
    issuers.prefetch().await;
    assert_eq!(issuers.figures(Now::read().wall)[0].fault, Some("other_issuer"));
    assert_eq!(published.asked(), 0);
}

#[tokio::test]
async fn the_last_good_set_outlives_the_process_and_a_fetched_one_replaces_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let published = Published::start(set(&[&old])).await;
    let folder = std::env::temp_dir().join(format!("usher-remote-keys-{}", std::process::id()));
    let start = || published.issuers("discovery = true", "").kept_in(&folder);
    start().prefetch().await;

    published.say(Answers::Nothing);
    let later = start();
    later.prefetch().await;
    assert_eq!(later.figures(Now::read().wall)[0].state, "stale");
    assert!(later.verify(&old.token(&published.base, 60), Now::read()).is_ok());

    published.say(set(&[&new]));
    let later = start();
    assert!(later.verify(&old.token(&published.base, 60), Now::read()).is_ok());
    later.prefetch().await;
    assert_eq!(
        later.verify(&old.token(&published.base, 60), Now::read()),
        Err(InvalidToken::UnknownKey)
    );
    assert!(later.verify(&new.token(&published.base, 60), Now::read()).is_ok());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_reload_while_the_issuer_is_away_and_the_disk_is_full_loses_no_key() {
    let (good, other) = (Signer::new("good"), Signer::new("other"));
    let published = Published::start(set(&[&good])).await;
    let before = published.by_url();
    before.prefetch().await;
    published.say(Answers::Nothing);
    let after = published.by_url();
    after.go_on_from(&before);
    after.prefetch().await;
    assert_eq!(after.figures(Now::read().wall)[0].state, "stale");
    assert!(after.verify(&good.token(&published.base, 60), Now::read()).is_ok());
    assert_eq!(
        after.verify(&other.token(&published.base, 60), Now::read()),
        Err(InvalidToken::UnknownKey)
    );
    // An older set does not replace a newer one, and a set from another URL belongs to another
    // issuer.
    published.say(set(&[&other]));
    after.prefetch().await;
    after.go_on_from(&before);
    assert!(after.verify(&other.token(&published.base, 60), Now::read()).is_ok());
    let elsewhere = published.issuers(&format!("jwks_url = \"{}/others\"", published.base), "");
    elsewhere.go_on_from(&before);
    assert_eq!(
        elsewhere.verify(&good.token(&published.base, 60), Now::read()),
        Err(InvalidToken::NoKeys)
    );
}
