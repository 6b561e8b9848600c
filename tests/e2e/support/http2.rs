//! Clients of HTTP/2: one on the library `h2`, and one that writes its frames itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Usher, upgrade_ends};

const PATIENCE: Duration = Duration::from_secs(30);

/// A WebSocket in a stream.
pub type Tunnel = WebSocketStream<DuplexStream>;

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

/// A connection of the library `h2`.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    server: SocketAddr,
}

/// Returns a TLS client that offers these protocols.
pub fn offering(certificate: CertificateDer<'static>, protocols: &[&str]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub async fn connect(usher: &Usher) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(usher.tls).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let connector = offering(usher.certificate(), &["h2", "http/1.1"]);
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

impl Http2 {
    pub async fn connect(usher: &Usher) -> Self {
        Self::over(connect(usher).await, usher.tls).await
    }

    /// Begins HTTP/2 on a connection to this address of Usher.
    pub async fn over(stream: TlsStream<TcpStream>, server: SocketAddr) -> Self {
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut this = Self { sender, server };
        // The answer comes after Usher's settings.
        this.get("/none", &[]).await;
        assert!(this.sender.is_extended_connect_protocol_enabled());
        this
    }

    /// Returns a request to Usher.
    pub fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let uri = format!("https://chat.example.com{path}");
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// Sends the head of a request, or of an upgrade.
    pub async fn send(
        &mut self,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.clone().ready().await?.send_request(request, is_whole)
    }

    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let (response, _) =
            self.send(Self::request(Method::GET, path, headers), true).await.unwrap();
        read(response).await.unwrap()
    }

    pub async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let (response, mut sending) =
            self.send(Self::request(Method::POST, path, headers), false).await.unwrap();
        let body = Bytes::copy_from_slice(body);
        tokio::spawn(async move { write(&mut sending, body, true).await });
        read(response).await.unwrap()
    }

    /// Asks for a WebSocket with these headers. The error is the answer that refuses it.
    pub async fn open(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Tunnel, HeaderMap), Answer> {
        let headers = [&[("sec-websocket-version", "13")], headers].concat();
        let mut request = Self::request(Method::CONNECT, path, &headers);
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, sending) = self.send(request, false).await.unwrap();
        let response = timeout(PATIENCE, response).await.expect("no answer").unwrap();
        let request_id = response.headers().get("x-request-id");
        let request_id = request_id.and_then(|value| value.to_str().ok());
        upgrade_ends::note(Some(self.server), request_id);
        if response.status() != 200 {
            return Err(whole(response).await.unwrap());
        }
        let (parts, receiving) = response.into_parts();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(carry(theirs, sending, receiving));
        let tunnel = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        Ok((tunnel, parts.headers))
    }
}

/// Reads an answer to its end.
pub async fn read(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    whole(timeout(PATIENCE, response).await.expect("no answer")?).await
}

async fn whole(response: http::Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut receiving) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = timeout(PATIENCE, receiving.data()).await.expect("no data") {
        let data = data?;
        body.extend_from_slice(&data);
        let _ = receiving.flow_control().release_capacity(data.len());
    }
    let mut headers = parts.headers;
    if let Some(trailers) = receiving.trailers().await? {
        headers.extend(trailers);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status: parts.status.as_u16(), headers, body })
}

/// Sends bytes as the windows allow. Returns false if the stream has ended.
pub async fn write(sending: &mut SendStream<Bytes>, mut bytes: Bytes, is_last: bool) -> bool {
    if bytes.is_empty() {
        return sending.send_data(bytes, is_last).is_ok();
    }
    while !bytes.is_empty() {
        sending.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else { return false };
        let piece = bytes.split_to(room.min(bytes.len()));
        if sending.send_data(piece, is_last && bytes.is_empty()).is_err() {
            return false;
        }
    }
    true
}

/// Carries bytes between a stream and the WebSocket on it.
async fn carry(socket: DuplexStream, mut sending: SendStream<Bytes>, mut receiving: RecvStream) {
    let (mut reader, mut writer) = tokio::io::split(socket);
    tokio::spawn(async move {
        while let Some(Ok(data)) = receiving.data().await {
            if writer.write_all(&data).await.is_err() {
                return;
            }
            let _ = receiving.flow_control().release_capacity(data.len());
        }
        let _ = writer.shutdown().await;
    });
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while reader.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
        if !write(&mut sending, buffer.split().freeze(), false).await {
            return;
        }
    }
    let _ = sending.send_data(Bytes::new(), true);
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection whose frames the test writes, good or bad.
pub struct RawHttp2(pub TlsStream<TcpStream>);

impl RawHttp2 {
    /// Sends the preface and these settings.
    pub async fn connect(usher: &Usher, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self(connect(usher).await);
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        raw.send(&frame(SETTINGS, 0, 0, &payload)).await.unwrap();
        raw
    }

    /// Sends bytes. Fails once Usher has closed.
    pub async fn send(&mut self, wire: &[u8]) -> std::io::Result<()> {
        timeout(PATIENCE, self.0.write_all(wire)).await.expect("Usher does not read")?;
        self.0.flush().await
    }

    /// Reads the next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = timeout(PATIENCE, self.0.read_exact(&mut head)).await;
        read.expect("no frame came").ok()?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Reads to the next frame of this kind.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection has ended");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end. Returns the code of the last GOAWAY, if there was one.
    pub async fn goodbye(mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if let (GOAWAY, [_, _, _, _, a, b, c, d, ..]) = (frame.kind, &frame.payload[..]) {
                code = Some(u32::from_be_bytes([*a, *b, *c, *d]));
            }
        }
        code
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut wire = vec![high, middle, low, kind, flags];
    wire.extend(stream.to_be_bytes());
    wire.extend_from_slice(payload);
    wire
}

/// Encodes fields as literals without an index (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Encodes a length with a prefix of 7 bits.
fn integer(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The pseudo fields of a GET.
pub fn get_fields(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "chat.example.com"), (":path", path)]
}

/// A GET in one frame.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get_fields(path)))
}

/// An upgrade in one frame.
pub fn connect_request(stream: u32, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "chat.example.com"),
        (":path", path),
        ("sec-websocket-version", "13"),
    ];
    frame(HEADERS, END_HEADERS, stream, &block(&[&pseudo[..], headers].concat()))
}
