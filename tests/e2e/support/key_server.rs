//! An issuer that publishes its keys. A test can change its answer, and it counts the requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::eventually::eventually_or;
use super::token;

pub struct KeyServer {
    pub issuer: String,
    /// A whole answer. Without one, the server closes the connection at once.
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

/// A key of the issuer.
pub struct Signer {
    id: String,
    pair: KeyPair,
}

impl KeyServer {
    /// Starts a server that answers nothing until it gets an answer.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let (answer, asked) =
            (Arc::<Mutex<Option<String>>>::default(), Arc::<AtomicUsize>::default());
        let (said, counter) = (Arc::clone(&answer), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (said, counter) = (Arc::clone(&said), Arc::clone(&counter));
                tokio::spawn(async move {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n")
                        && matches!(stream.read(&mut byte).await, Ok(1))
                    {
                        head.push(byte[0]);
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    let answer = said.lock().unwrap().clone();
                    let _ = stream.write_all(answer.unwrap_or_default().as_bytes()).await;
                });
            }
        });
        Self { issuer, answer, asked, serving }
    }

    pub async fn publishing(signers: &[&Signer]) -> Self {
        let server = Self::start().await;
        server.publish(signers);
        server
    }

    pub fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        self.say("200 OK", &json!({ "keys": keys }).to_string());
    }

    pub fn say(&self, status: &str, body: &str) {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        *self.answer.lock().unwrap() = Some(answer);
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until it has got this many requests.
    pub async fn asked_times(&self, times: usize) {
        let complaint = async || format!("{times} requests; there are {}", self.asked());
        eventually_or(async || self.asked() >= times, complaint).await;
    }

    /// Stops listening.
    pub fn die(&self) {
        self.serving.abort();
    }

    /// Returns the configuration table of this issuer.
    pub fn table(&self, name: &str, lines: &str) -> String {
        let issuer = &self.issuer;
        format!(
            "[[issuer]]\nname = \"{name}\"\nissuer = \"{issuer}\"\naudience = [\"chat\"]\n\
             algorithms = [\"EdDSA\"]\njwks_url = \"{issuer}/keys\"\n{lines}\n"
        )
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Signer {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
    }

    fn jwk(&self) -> Value {
        json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "kid": self.id,
            "use": "sig",
            "alg": "EdDSA",
            "x": URL_SAFE_NO_PAD.encode(self.pair.public_key_raw()),
        })
    }

    pub fn token(&self, server: &KeyServer, subject: &str, changes: Value) -> String {
        self.token_named(&self.id, server, subject, changes)
    }

    /// Returns a token with another key id than that of the key.
    pub fn token_named(
        &self,
        id: &str,
        server: &KeyServer,
        subject: &str,
        changes: Value,
    ) -> String {
        let mut claims = token::claims(subject, changes);
        claims["iss"] = json!(server.issuer);
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(
            &header,
            &claims,
            &EncodingKey::from_ed_der(&self.pair.serialize_der()),
        )
        .unwrap()
    }
}
