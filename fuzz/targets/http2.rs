//! HTTP/2 frames and heads.
//!
//! The bytes are those of a client behind its preface. The frame guard counts the same frames
//! wherever they are cut, and stops at the same byte as a plain count. The HTTP/2 library decodes
//! the same bytes: a head that Usher accepts from it means the same to the strict reader of
//! HTTP/1.1.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use http::request::Parts;
use http::{HeaderMap, Method};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{cuts, settings};
use usher::base::rate::Rate;
use usher::config::Config;
use usher::net::http1::head::parse_request;
use usher::net::http2::frames::{Excess, FrameWatch};
use usher::net::http2::head::{StreamHead, read_head};

static CONFIG: LazyLock<Config> = LazyLock::new(|| settings::with_route("auth = []"));

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MOST_HEAD: usize = 600;
const RESETS: u32 = 5;
const CONTROLS: u32 = 20;
/// The window updates that a client may send although it got no bytes.
const UPDATES: usize = 1024;
const SMALL_AT_ONCE: usize = 128;
const CONTINUATIONS: usize = 16;
/// Polls of the library without progress, until it is given up.
const MOST_POLLS: usize = 1000;

pub fn run(bytes: &[u8]) {
    let wire = [PREFACE, bytes].concat();
    let plain = PlainCount::of(bytes);
    for pieces in cuts::of(&wire).into_iter().chain([vec![&wire[..]]]) {
        check_guard(&wire, &pieces, &plain);
    }
    let heads = decode(wire);
    assert!(heads.len() <= plain.heads || plain.fault.is_some(), "a head that was not counted");
    for parts in heads {
        check_head(parts);
    }
}

/// The frames of a client, counted in another way: all of them at hand, and without the time.
#[derive(Default)]
struct PlainCount {
    /// The end of the frame header that exceeds a bound, and the bound.
    fault: Option<(usize, Excess)>,
    /// The ends of the headers of small frames.
    small: Vec<usize>,
    heads: usize,
    is_in_head: bool,
}

impl PlainCount {
    fn of(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let (mut resets, mut controls, mut updates) = (0, 0, 0);
        // Each head: frames and bytes.
        let mut open: Option<(usize, usize)> = None;
        let mut at = 0;
        while let Some([high, middle, low, kind, flags, ..]) = bytes.get(at..at + 9) {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            let end = PREFACE.len() + at + 9;
            let is_last = flags & 1 != 0;
            let is_whole = flags & 4 != 0;
            match kind {
                0 if length == 0 && is_last => {}
                0 if length < 256 => found.small.push(end),
                0 => {}
                1 => open = Some((0, length)),
                9 => open = open.map(|(frames, before)| (frames + 1, before + length)),
                3 => resets += 1,
                8 if updates < UPDATES => updates += 1,
                _ => controls += 1,
            }
            found.fault = match open {
                _ if resets > RESETS => Some((end, Excess::Resets)),
                _ if controls > CONTROLS => Some((end, Excess::ControlFrames)),
                Some((frames, bytes)) if frames > CONTINUATIONS || bytes > MOST_HEAD => {
                    Some((end, Excess::Head))
                }
                _ => None,
            };
            if found.fault.is_some() {
                return found;
            }
            if is_whole && [1, 9].contains(kind) {
                found.heads += usize::from(open.is_some());
                open = None;
            }
            at += 9 + length;
            let is_cut = at > bytes.len();
            found.is_in_head = open.is_some() || (is_cut && [1, 9].contains(kind));
        }
        found
    }
}

/// Follows the bytes as the guard of a connection does.
fn check_guard(wire: &[u8], pieces: &[&[u8]], plain: &PlainCount) {
    let long = Duration::from_secs(3600 * 24 * 365);
    let rate = |count| Rate { count, per: long };
    let mut watch = FrameWatch::new(MOST_HEAD, rate(RESETS), rate(CONTROLS));
    let mut passed = 0;
    let mut turn_began = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let before = passed;
            match watch.advance(rest) {
                Ok(count) => {
                    passed += count;
                    rest = &rest[count..];
                }
                Err(excess) => {
                    let (end, expected) = plain.fault.expect("frames within the bounds pass");
                    assert_eq!(excess, expected);
                    assert!(before < end && end <= before + rest.len(), "not at this frame");
                    return;
                }
            }
            let in_turn = |end: &&usize| **end > turn_began && **end <= passed;
            let small = plain.small.iter().filter(in_turn).count();
            assert!(small <= SMALL_AT_ONCE, "{small} small frames in one turn");
            assert_eq!(watch.is_turn_over(), small == SMALL_AT_ONCE);
            if watch.is_turn_over() {
                turn_began = passed;
                watch.begin_turn();
            } else {
                assert!(rest.is_empty(), "bytes are held back without need");
            }
        }
    }
    assert_eq!(passed, wire.len());
    assert_eq!(plain.fault, None, "frames over a bound pass");
    assert_eq!(watch.is_in_head(), plain.is_in_head);
}

/// Returns the heads that the library reads.
fn decode(wire: Vec<u8>) -> Vec<Parts> {
    let mut builder = Builder::new();
    builder.enable_connect_protocol().max_concurrent_streams(100);
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = Box::pin(builder.handshake::<_, Bytes>(Wire { bytes: wire, at: 0 }));
    let mut heads = Vec::new();
    let Some(Ok(mut connection)) = until_ready(|| handshake.as_mut().poll(&mut cx)) else {
        return heads;
    };
    let mut accept = |connection: &mut Connection<Wire, Bytes>| {
        until_ready(|| connection.poll_accept(&mut cx)).flatten()
    };
    while let Some(Ok((request, _))) = accept(&mut connection) {
        heads.push(request.into_parts().0);
    }
    heads
}

fn until_ready<T>(mut poll: impl FnMut() -> Poll<T>) -> Option<T> {
    (0..MOST_POLLS).find_map(|_| match poll() {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// Checks that an accepted head is the same to the reader of HTTP/1.1: Usher writes it so to the
/// upstream.
fn check_head(parts: Parts) {
    let is_connect = parts.method == Method::CONNECT;
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    let Ok(StreamHead { parts, host, is_upgrade }) = read_head(parts, &CONFIG.limits) else {
        return;
    };
    assert_eq!(is_connect, is_upgrade, "a tunnel that is no upgrade");
    let authority = authority.expect("an accepted head has an authority");
    assert!(authority.eq_ignore_ascii_case(host.as_str()), "another host than the authority");
    let method = if is_upgrade { Method::GET } else { parts.method };
    let mut head = format!("{method} {} HTTP/1.1\r\n", parts.uri).into_bytes();
    write_fields(&mut head, &parts.headers);
    let mut limits = (*CONFIG.limits).clone();
    limits.head_bytes *= 2;
    let again = parse_request(&head, &limits);
    let again = again.unwrap_or_else(|fault| panic!("HTTP/1.1 refuses it: {fault:?}: {head:?}"));
    assert_eq!(again.parts.method, method);
    assert_eq!(again.parts.uri, parts.uri);
    assert_eq!(again.parts.headers, parts.headers);
    assert_eq!(again.host.expect("there is a Host").as_str(), host.as_str());
}

fn write_fields(head: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
}

/// A socket with all bytes of a client. The library's own writes are lost.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let count = buf.remaining().min(this.bytes.len() - this.at);
        buf.put_slice(&this.bytes[this.at..this.at + count]);
        this.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
