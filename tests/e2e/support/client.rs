//! Clients that send any bytes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::handshake::client::Request;

use super::upgrade_ends::{self, Peer};

const PATIENCE: Duration = Duration::from_secs(30);

/// A socket whose reads have a time limit.
pub struct Raw<S = TcpStream>(pub S);

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Connects from another address of this machine.
    pub async fn connect_from(source: [u8; 4], to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self(socket.connect(to).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Peer + Unpin> Raw<S> {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Returns all bytes until the other side closes. A reset counts as a close.
    pub async fn read_to_close(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = async {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = self.0.read(&mut buffer).await {
                bytes.extend_from_slice(&buffer[..count]);
            }
        };
        timeout(PATIENCE, read).await.expect("the connection stays open");
        bytes
    }

    pub async fn read_head(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8()).await.expect("no answer");
            bytes.push(
                byte.unwrap_or_else(|_| {
                    panic!("closed after {:?}", String::from_utf8_lossy(&bytes))
                }),
            );
        }
        let head = String::from_utf8(bytes).unwrap();
        upgrade_ends::note_switch(self.0.peer(), &head);
        head
    }

    pub async fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(PATIENCE, self.0.read_exact(&mut bytes)).await.expect("no bytes came").unwrap();
        bytes
    }
}

/// Sends one request on a new connection. The request must ask to close it.
pub async fn http(address: SocketAddr, request: &[u8]) -> Answer {
    let mut raw = Raw::connect(address).await;
    raw.send(request).await;
    Answer::parse(&raw.read_to_close().await)
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    http(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )
    .await
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Returns the value of a header, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Asks for an upgrade. Returns the head of a 101, or the whole of a refusal.
pub async fn attempt(address: SocketAddr, target: &str, headers: &str) -> Answer {
    let mut raw = Raw::connect(address).await;
    raw.send(upgrade_request(target, headers)).await;
    let head = raw.read_head().await;
    if head.starts_with("HTTP/1.1 101 ") {
        return Answer::parse(head.as_bytes());
    }
    upgrade_ends::note(Some(address), upgrade_ends::request_id_of(&head));
    let mut bytes = head.into_bytes();
    bytes.extend(raw.read_to_close().await);
    Answer::parse(&bytes)
}

/// Opens a WebSocket over an open stream.
pub async fn websocket<S: AsyncRead + AsyncWrite + Peer + Unpin>(
    request: Request,
    stream: S,
) -> Result<WebSocketStream<S>, tungstenite::Error> {
    let server = stream.peer();
    let opened = tokio_tungstenite::client_async(request, stream).await;
    let headers = match &opened {
        Ok((_, response)) => Some(response.headers()),
        Err(tungstenite::Error::Http(response)) => Some(response.headers()),
        Err(_) => None,
    };
    let request_id = headers.and_then(|headers| headers.get("x-request-id"));
    upgrade_ends::note(server, request_id.and_then(|value| value.to_str().ok()));
    opened.map(|(socket, _)| socket)
}

/// Returns a correct upgrade, which tests may change.
pub fn upgrade_request(target: &str, headers: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: chat.example.com\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}
