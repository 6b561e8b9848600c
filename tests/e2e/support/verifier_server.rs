//! A verifier that acts as a test sets it: it knows credentials, hangs, closes connections or sends
//! wrong answers. It records its requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::eventually::eventually_or;
use super::redis::free_port;
use super::token;

#[derive(Clone)]
pub enum Mood {
    /// Answers by what it knows, and 401 otherwise.
    Answers,
    /// Does not answer until its mood changes, and then acts by the new mood.
    Hangs,
    Closes,
    Says(Vec<u8>),
    /// Sends a good head, and then a byte now and then.
    Drips,
}

pub struct VerifierServer {
    pub url: String,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    mood: watch::Sender<Mood>,
    known: Mutex<HashMap<String, (u16, Value)>>,
    asked: Mutex<Vec<(String, String)>>,
}

impl VerifierServer {
    pub async fn start() -> Self {
        Self::start_with(None, free_port()).await
    }

    /// Starts a server at the address of this one, which has ended.
    pub async fn start_again(&self) -> Self {
        let port = self.url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        Self::start_with(None, port).await
    }

    pub async fn start_with(tls: Option<TlsAcceptor>, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = if tls.is_some() {
            format!("https://localhost:{port}/verify")
        } else {
            format!("http://127.0.0.1:{port}/verify")
        };
        let inner = Arc::new(Inner {
            mood: watch::Sender::new(Mood::Answers),
            known: Mutex::default(),
            asked: Mutex::default(),
        });
        let shared = Arc::clone(&inner);
        let serving = tokio::spawn(async move {
            // The connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (inner, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => inner.serve(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => inner.serve(stream).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { url, inner, serving }
    }

    /// Sets the user of this credential, for ten minutes.
    pub fn knows(&self, credential: &str, user: &str) {
        let answer = json!({
            "sub": user,
            "exp": token::now() + 600,
            "permissions": ["chat:read"],
            "active": true,
        });
        self.answers(credential, 200, answer);
    }

    pub fn answers(&self, credential: &str, status: u16, body: Value) {
        self.inner.known.lock().unwrap().insert(credential.to_owned(), (status, body));
    }

    pub fn forgets(&self, credential: &str) {
        self.inner.known.lock().unwrap().remove(credential);
    }

    pub fn is(&self, mood: Mood) {
        self.inner.mood.send_replace(mood);
    }

    /// Returns the head and the body of each request.
    pub fn asked(&self) -> Vec<(String, String)> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// Waits until it has got this many requests.
    pub async fn asked_times(&self, times: usize) {
        let complaint = async || format!("{times} questions; there are {}", self.asked().len());
        eventually_or(async || self.asked().len() >= times, complaint).await;
    }

    pub async fn die(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// Returns the configuration table of this verifier.
    pub fn table(&self, name: &str, kind: &str, lines: &str) -> String {
        format!(
            "[[verifier]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{}\"\n{lines}\n",
            self.url
        )
    }
}

impl Drop for VerifierServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Inner {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        loop {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await.ok()?;
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).ok()?;
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            let body = String::from_utf8(body).ok()?;
            self.asked.lock().unwrap().push((head, body.clone()));
            let mut moods = self.mood.subscribe();
            let mood = moods.wait_for(|mood| !matches!(mood, Mood::Hangs)).await.ok()?.clone();
            match mood {
                Mood::Answers => stream.write_all(&self.answer(&body)).await.ok()?,
                Mood::Says(bytes) => {
                    stream.write_all(&bytes).await.ok()?;
                    return None;
                }
                Mood::Drips => {
                    stream
                        .write_all(
                            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                        content-length: 2000\r\n\r\n",
                        )
                        .await
                        .ok()?;
                    loop {
                        stream.write_all(b" ").await.ok()?;
                        // This pace is the fault.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                Mood::Closes | Mood::Hangs => return None,
            }
        }
    }

    fn answer(&self, body: &str) -> Vec<u8> {
        let json: Value = serde_json::from_str(body).unwrap_or_default();
        let shown =
            json["credential"].as_str().or_else(|| body.strip_prefix("token=")).unwrap_or_default();
        let (status, answer) = self
            .known
            .lock()
            .unwrap()
            .get(shown)
            .cloned()
            .unwrap_or((401, json!({ "error": "unknown" })));
        let answer = answer.to_string();
        format!(
            "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\n\
            content-length: {}\r\n\r\n{answer}",
            answer.len()
        )
        .into_bytes()
    }
}
