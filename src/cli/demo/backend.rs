//! The demo's backend: one small HTTP server with the page, the login, a greeting and the chat room.
//!
//! It listens on a loopback port of the kernel's choice and is reached through Usher alone. It runs on a thread of its own,
//! so that the proxy beside it behaves as it would in front of a stranger; it ends when its value is dropped.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use fastwebsockets::upgrade;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::chat::{Room, Visitor};
use super::issuer::{DevelopmentIssuer, LoginRefused};
use crate::clock::Now;

const CONNECTIONS: usize = 256;
const LOGIN_BYTES: usize = 4 * 1024;
/// Longer than a proxy keeps an idle connection, so that the proxy is the one that lets go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self' ws: wss:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A backend that serves until it is dropped.
pub struct Backend {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    issuer: DevelopmentIssuer,
    room: Room,
}

impl Backend {
    pub fn start(issuer: DevelopmentIssuer) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("the demo's backend cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _within = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("demo-backend".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, Arc::new(Shared { issuer, room: Room::new() })) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&shared), permit));
            }
            // Out of descriptors, most likely: wait for some to come back instead of spinning.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>, _permit: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, shared).await) }
    });
    // A connection that breaks is its peer's business; the next one is accepted all the same.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn answer(mut request: Request<Incoming>, shared: Arc<Shared>) -> Response<Full<Bytes>> {
    if upgrade::is_upgrade_request(&request) {
        return open_chat(&mut request, shared);
    }
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/") => content("text/html; charset=utf-8", PAGE),
        (&Method::GET | &Method::HEAD, "/assets/page.css") => content("text/css; charset=utf-8", STYLE),
        (&Method::GET | &Method::HEAD, "/assets/page.js") => content("text/javascript; charset=utf-8", SCRIPT),
        (&Method::GET, "/api/hello") => {
            let visitor = Visitor::of(&request);
            json_answer(
                StatusCode::OK,
                &json!({ "message": format!("Hello, {}", visitor.name), "user": visitor.name, "context": visitor.context }),
            )
        }
        (&Method::POST, "/login") => log_in(request, &shared.issuer).await,
        (_, "/login") => json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({ "message": "log in with POST" })),
        (_, "/ws") => json_answer(StatusCode::UPGRADE_REQUIRED, &json!({ "message": "this is a WebSocket; ask for an upgrade" })),
        _ => json_answer(StatusCode::NOT_FOUND, &json!({ "message": "there is nothing at this path" })),
    }
}

fn open_chat(request: &mut Request<Incoming>, shared: Arc<Shared>) -> Response<Full<Bytes>> {
    let Some(seat) = shared.room.seat() else {
        return json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "message": "every seat in the room is taken" }));
    };
    let visitor = Visitor::of(request);
    match upgrade::upgrade(request) {
        Ok((response, socket)) => {
            tokio::spawn(async move { shared.room.host(socket, visitor, seat).await });
            response.map(|_| Full::default())
        }
        Err(error) => json_answer(StatusCode::BAD_REQUEST, &json!({ "message": error.to_string() })),
    }
}

/// A page of another origin can post a form here, but not JSON without asking first; so only JSON is heard.
async fn log_in(request: Request<Incoming>, issuer: &DevelopmentIssuer) -> Response<Full<Bytes>> {
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")));
    if !is_json {
        return json_answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!({ "message": "send application/json" }));
    }
    let Ok(body) = Limited::new(request.into_body(), LOGIN_BYTES).collect().await else {
        return json_answer(StatusCode::BAD_REQUEST, &json!({ "message": "the body is too long or ended early" }));
    };
    match issuer.login(&body.to_bytes(), Now::read()) {
        Ok(login) => json_answer(StatusCode::OK, &login),
        Err(refused @ LoginRefused::Token) => json_answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "message": refused.to_string() })),
        Err(refused) => json_answer(StatusCode::BAD_REQUEST, &json!({ "message": refused.to_string() })),
    }
}

fn content(kind: &'static str, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

    use super::*;
    use crate::config::secret::Secret;

    type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

    fn started() -> Backend {
        Backend::start(DevelopmentIssuer::new(Secret::new([7u8; 32]))).unwrap()
    }

    async fn visit(backend: &Backend, name: &str) -> Client {
        let claims = URL_SAFE_NO_PAD.encode(json!({ "iss": "usher", "sub": name }).to_string());
        let mut request = format!("ws://{}/any/path", backend.address).into_client_request().unwrap();
        request.headers_mut().insert("X-User-Context", format!("e30.{claims}.AA").parse().unwrap());
        Box::pin(connect_async(request)).await.unwrap().0
    }

    /// The next message of this type; others, such as people coming and going, are passed over.
    async fn next(client: &mut Client, kind: &str) -> Value {
        loop {
            let message = client.next().await.unwrap().unwrap();
            let value: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if value["type"] == kind {
                return value;
            }
        }
    }

    #[tokio::test]
    async fn two_clients_chat_under_the_names_of_their_signed_contexts() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        let mut bob = visit(&backend, "bob").await;
        next(&mut ada, "welcome").await;
        next(&mut bob, "welcome").await;
        ada.send(Message::text(r#"{"type":"chat","from":"mallory","text":"hello"}"#)).await.unwrap();
        for client in [&mut ada, &mut bob] {
            assert_eq!(next(client, "chat").await, json!({ "type": "chat", "from": "ada", "text": "hello" }));
        }
    }

    #[tokio::test]
    async fn the_welcome_carries_the_context_and_every_header() {
        let backend = started();
        let welcome = next(&mut visit(&backend, "ada").await, "welcome").await;
        assert_eq!(welcome["you"], "ada");
        assert_eq!(welcome["target"], "/any/path");
        assert_eq!(welcome["context"], json!({ "iss": "usher", "sub": "ada" }));
        let names: Vec<&str> = welcome["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
        assert!(names.contains(&"x-user-context") && names.contains(&"sec-websocket-key"), "{names:?}");
    }

    #[tokio::test]
    async fn hostile_frames_end_their_own_connection_only() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        next(&mut ada, "welcome").await;
        let frames: [&[u8]; 7] = [
            b"\xf1\x80\0\0\0\0",                                 // reserved bits
            b"\x83\x80\0\0\0\0",                                 // an unknown opcode
            b"\x80\x80\0\0\0\0",                                 // a continuation of nothing
            b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", // a length that nobody has
            b"\x88\x81\0\0\0\0\0",                               // a close with half a code
            b"\x81\x82\0\0\0\0\xff\xfe",                         // text that is no text
            b"\x82\x80\0\0\0\0",                                 // binary
        ];
        for frame in frames {
            let mut stream = TcpStream::connect(backend.address).await.unwrap();
            let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(frame).await.unwrap();
            let mut all = Vec::new();
            // Ended or reset, but not left hanging.
            let _ = stream.read_to_end(&mut all).await;
            assert!(all.starts_with(b"HTTP/1.1 101"), "{frame:?}");
        }
        ada.send(Message::text(r#"{"type":"chat","text":"still here"}"#)).await.unwrap();
        assert_eq!(next(&mut ada, "chat").await["text"], "still here");
    }

    #[tokio::test]
    async fn a_message_of_many_fragments_is_held_to_the_limit() {
        let backend = started();
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut fragments = vec![0x01, 0x80, 0, 0, 0, 0];
        for _ in 0..5 {
            fragments.extend_from_slice(&[0x00, 0xfe, 0x40, 0x00, 0, 0, 0, 0]);
            fragments.resize(fragments.len() + 0x4000, b'a');
        }
        let _ = stream.write_all(&fragments).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        assert!(all.windows(15).any(|bytes| bytes == b"Message too big"));
    }

    #[tokio::test]
    async fn what_is_not_chat_is_answered_and_goes_no_further() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        ada.send(Message::text("hello")).await.unwrap();
        assert!(next(&mut ada, "error").await["text"].as_str().unwrap().contains("chat"));
    }
}
