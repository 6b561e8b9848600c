//! An upstream that records every byte and answers by a script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use usher::ws::accept::accept_for;

#[derive(Clone)]
pub enum Script {
    /// A correct 101, these bytes, and then silence.
    Accept(Vec<u8>),
    /// These bytes after the head. The connection stays open.
    Answer(Vec<u8>),
    /// These bytes after the head, and then the end.
    AnswerAndClose(Vec<u8>),
    /// A 200 once these bytes have arrived.
    AnswerTo(&'static str),
    /// A 101 with the accept value of another key.
    WrongAccept,
    Silent,
}

pub struct Recorder {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let book = Arc::clone(&connections);
        let open = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&open);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let number = {
                    let mut book = book.lock().unwrap();
                    book.push(Vec::new());
                    book.len() - 1
                };
                let (book, script) = (Arc::clone(&book), script.clone());
                count.fetch_add(1, Ordering::AcqRel);
                let held = Open(Arc::clone(&count));
                tokio::spawn(async move {
                    let _held = held;
                    let (mut buffer, mut answered) = ([0; 16 * 1024], false);
                    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                        let head = {
                            let mut book = book.lock().unwrap();
                            book[number].extend_from_slice(&buffer[..count]);
                            String::from_utf8_lossy(&book[number]).into_owned()
                        };
                        let is_whole = match script {
                            Script::AnswerTo(end) => head.contains(end),
                            _ => head.contains("\r\n\r\n"),
                        };
                        if !answered && is_whole {
                            answered = true;
                            let Some((answer, close)) = answer(&script, &head) else { continue };
                            if socket.write_all(&answer).await.is_err() || close {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, open, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the bytes of each connection so far.
    pub fn connections(&self) -> Vec<String> {
        self.connections
            .lock()
            .unwrap()
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    /// Returns the number of connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Returns the number of request heads so far, on all connections.
    pub fn requests(&self) -> usize {
        self.connections().iter().map(|bytes| bytes.matches(" HTTP/1.1\r\n").count()).sum()
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(script: &Script, head: &str) -> Option<(Vec<u8>, bool)> {
    let key = head.lines().find_map(|line| {
        line.to_ascii_lowercase().starts_with("sec-websocket-key: ").then(|| &line[19..])
    });
    let switch = |key: &str| {
        let accept = accept_for(key.trim().as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    };
    match script {
        Script::Accept(behind) => {
            Some(([switch(key.unwrap_or_default()).as_bytes(), behind].concat(), false))
        }
        Script::WrongAccept => Some((switch("AAAAAAAAAAAAAAAAAAAAAA==").into_bytes(), false)),
        Script::Answer(bytes) => Some((bytes.clone(), false)),
        Script::AnswerAndClose(bytes) => Some((bytes.clone(), true)),
        Script::AnswerTo(_) => {
            Some((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), false))
        }
        Script::Silent => None,
    }
}
