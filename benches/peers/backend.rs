//! The backend of every proxy in the comparison: a WebSocket echo, and the endpoint of forward
//! authentication.
//!
//! A request with a `Sec-WebSocket-Key` becomes an echo. A request for `/auth` gets 200 if its
//! `Authorization` is the expected one, and 401 otherwise. The backend has one thread. Its CPU time
//! is not counted for any proxy.
//!
//! ```text
//! peers-backend LISTEN [TOKEN_FILE]
//! ```
#![allow(
    clippy::print_stderr,
    reason = "the program has no other way to report why it did not start"
)]
#![allow(
    clippy::indexing_slicing,
    reason = "offsets come from the frame header that was just read"
)]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::{runtime, task};

const BACKLOG: i32 = 4096;
const HEAD_FIELDS: usize = 64;
const HEAD_BYTES: usize = 32 * 1024;
/// The path of forward authentication.
const AUTH_PATH: &str = "/auth";
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

fn main() -> ExitCode {
    match start(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers-backend: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[String]) -> io::Result<()> {
    let (listen, token) = match arguments {
        [listen] => (listen, None),
        [listen, token] => {
            (listen, Some(format!("Bearer {}", std::fs::read_to_string(token)?.trim())))
        }
        _ => return Err(invalid("peers-backend LISTEN [TOKEN_FILE]")),
    };
    let listen: SocketAddr = listen.parse().map_err(io::Error::other)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    task::LocalSet::new().block_on(&runtime, async {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let token: Option<Rc<str>> = token.map(Into::into);
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            task::spawn_local(serve(stream, token.clone()));
        }
    })
}

enum Request {
    Upgrade { accept: String },
    Plain { allowed: bool },
}

async fn serve(mut stream: TcpStream, token: Option<Rc<str>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    while let Some(request) = next_request(&mut stream, &mut buffer, token.as_deref()).await? {
        match request {
            Request::Upgrade { accept } => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                            Connection: Upgrade\r\nSec-WebSocket-Accept: ";
                stream.write_all(format!("{head}{accept}\r\n\r\n").as_bytes()).await?;
                return echo(stream, buffer).await;
            }
            Request::Plain { allowed: true } => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            }
            Request::Plain { allowed: false } => {
                stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await?;
            }
        }
    }
    Ok(())
}

/// Takes the head of a request without a body. `None`: the peer has closed the connection.
async fn next_request(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    token: Option<&str>,
) -> io::Result<Option<Request>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(length) = head.parse(buffer).map_err(io::Error::other)? {
            let field = |name: &str| {
                head.headers
                    .iter()
                    .find(|field| field.name.eq_ignore_ascii_case(name))
                    .map(|field| field.value)
            };
            let request = match field("sec-websocket-key") {
                // A request of forward authentication is a copy of the client's request, so it also
                // has the key.
                Some(key) if head.path != Some(AUTH_PATH) => {
                    Request::Upgrade { accept: accept(key) }
                }
                _ => Request::Plain {
                    allowed: token
                        .is_some_and(|token| field("authorization") == Some(token.as_bytes())),
                },
            };
            buffer.advance(length);
            return Ok(Some(request));
        }
        if buffer.len() > HEAD_BYTES {
            return Err(invalid("the head is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Returns the value of `Sec-WebSocket-Accept` (RFC 6455 section 4.2.2).
fn accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

struct Frame {
    first_byte: u8,
    mask: [u8; 4],
    /// The length of the header, including the mask.
    header: usize,
    payload: usize,
}

/// Sends each frame back in one write. Frames are unmasked in place.
async fn echo(mut stream: TcpStream, mut buffer: BytesMut) -> io::Result<()> {
    loop {
        while let Some(frame) =
            Frame::read(&buffer).filter(|frame| buffer.len() >= frame.header + frame.payload)
        {
            let (opcode, end) = (frame.first_byte & 0xf, frame.header + frame.payload);
            unmask(&mut buffer[frame.header..end], frame.mask);
            let answer = frame.answer(if opcode == PING {
                frame.first_byte & 0xf0 | PONG
            } else {
                frame.first_byte
            });
            let start = frame.header - answer.len();
            buffer[start..frame.header].copy_from_slice(&answer);
            stream.write_all(&buffer[start..end]).await?;
            if opcode == CLOSE {
                return stream.shutdown().await;
            }
            buffer.advance(end);
        }
        // An empty buffer is freed, so that idle connections use no memory for it.
        if buffer.is_empty() {
            buffer = BytesMut::new();
            stream.readable().await?;
        }
        let room = Frame::read(&buffer)
            .map_or(4096, |frame| frame.header + frame.payload)
            .saturating_sub(buffer.len())
            .max(4096);
        buffer.reserve(room);
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

impl Frame {
    /// Parses a frame header. `None`: the header is not complete yet.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (first_byte, second) = (*bytes.first()?, *bytes.get(1)?);
        let (payload, at) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => {
                (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10)
            }
            short => (usize::from(short), 2),
        };
        // RFC 6455 section 5.1: "a client MUST mask all frames".
        let mask = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(Self { first_byte, mask, header: at + 4, payload })
    }

    fn answer(&self, first_byte: u8) -> Vec<u8> {
        match self.payload {
            short @ ..126 => vec![first_byte, short as u8],
            middle @ ..65536 => [&[first_byte, 126][..], &(middle as u16).to_be_bytes()].concat(),
            long => [&[first_byte, 127][..], &(long as u64).to_be_bytes()].concat(),
        }
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}
