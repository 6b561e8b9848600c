//! A WebSocket echo server of another project, behind Usher. It records its visits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// The target of an upgrade, and its headers in lower case.
#[derive(Clone, Debug)]
pub struct Visit {
    pub target: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Default)]
struct Book {
    visits: Arc<Mutex<Vec<Visit>>>,
    messages: Arc<Mutex<Vec<Message>>>,
}

pub struct Echo {
    pub address: SocketAddr,
    scheme: &'static str,
    book: Book,
    task: JoinHandle<()>,
}

impl Echo {
    pub async fn start() -> Self {
        Self::serve("http", None).await
    }

    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::serve("https", Some(acceptor)).await
    }

    /// Starts it at this address.
    pub async fn start_at(address: SocketAddr) -> Self {
        Self::serve_at(address, "http", None).await
    }

    pub async fn start_tls_at(address: SocketAddr, acceptor: TlsAcceptor) -> Self {
        Self::serve_at(address, "https", Some(acceptor)).await
    }

    async fn serve(scheme: &'static str, tls: Option<TlsAcceptor>) -> Self {
        Self::serve_at(([127, 0, 0, 1], 0).into(), scheme, tls).await
    }

    async fn serve_at(address: SocketAddr, scheme: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let book = Book::default();
        let task = tokio::spawn({
            let book = book.clone();
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let (book, tls) = (book.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => echo(socket, book).await,
                            Some(tls) => {
                                if let Ok(socket) = tls.accept(socket).await {
                                    echo(socket, book).await;
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { address, scheme, book, task }
    }

    /// Echoes on a unix socket. The address of the result has no meaning.
    pub async fn start_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let book = Book::default();
        let task = tokio::spawn({
            let book = book.clone();
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(echo(socket, book.clone()));
                }
            }
        });
        Self { address: ([127, 0, 0, 1], 0).into(), scheme: "unix", book, task }
    }

    pub fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    pub fn visits(&self) -> Vec<Visit> {
        self.book.visits.lock().unwrap().clone()
    }

    /// Returns every message and close frame that came, in order.
    pub fn messages(&self) -> Vec<Message> {
        self.book.messages.lock().unwrap().clone()
    }
}

impl Visit {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[allow(clippy::result_large_err, reason = "the library's callback has this type")]
async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin, book: Book) {
    // The server chooses the subprotocol `echo.v1` if it is offered.
    let note = |request: &Request, mut response: Response| {
        let headers = request.headers().iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        book.visits
            .lock()
            .unwrap()
            .push(Visit { target: request.uri().to_string(), headers: headers.collect() });
        let offered = request
            .headers()
            .get_all("sec-websocket-protocol")
            .iter()
            .filter_map(|line| line.to_str().ok());
        if offered.flat_map(|line| line.split(',')).any(|offer| offer.trim() == "echo.v1") {
            response.headers_mut().insert("sec-websocket-protocol", "echo.v1".parse().unwrap());
        }
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, note).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        book.messages.lock().unwrap().push(message.clone());
        let answered = match &message {
            // "close:4321:why" closes with that code and reason. "push:1000" sends a thousand
            // numbered messages. "vanish" leaves without a close frame.
            Message::Text(text) if text.starts_with("close:") => {
                let mut parts = text.splitn(3, ':').skip(1);
                let code: u16 = parts.next().unwrap().parse().unwrap();
                let reason = parts.next().unwrap().to_owned().into();
                socket.close(Some(CloseFrame { code: code.into(), reason })).await
            }
            Message::Text(text) if text.starts_with("push:") => {
                let count: usize = text.split_once(':').unwrap().1.parse().unwrap();
                for number in 0..count {
                    if socket.feed(Message::text(number.to_string())).await.is_err() {
                        break;
                    }
                }
                socket.flush().await
            }
            Message::Text(text) if *text == "vanish" => return,
            Message::Text(text) if *text == "ping" => {
                socket.send(Message::Ping("are you there".into())).await
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            _ => Ok(()),
        };
        if answered.is_err() {
            break;
        }
    }
}
