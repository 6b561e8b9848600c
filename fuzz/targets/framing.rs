//! The end of a body: it is the same wherever the bytes are cut, and the same as for other readers.

use super::cuts;
use usher::net::http1::framing::{BodyFraming, Chunks};

pub fn run(bytes: &[u8]) {
    let chunked = check(bytes, || BodyFraming::Chunked(Chunks::default()));
    if let Outcome { used, payload, is_done: true, is_wrong: false } = chunked {
        let forgiving = forgiving_reading(bytes).expect("a strict reader found an end");
        assert_eq!(forgiving, (payload, used), "two readings of the chunks");
    }
    let length = bytes.len();
    for announced in [0, length / 2, length, length + 1, usize::MAX] {
        let outcome = check(bytes, || BodyFraming::Length(announced as u64));
        let taken = announced.min(length);
        assert_eq!(outcome.payload, bytes[..taken]);
        assert_eq!((outcome.used, outcome.is_done), (taken, announced <= length));
    }
    assert_eq!(check(bytes, || BodyFraming::Done).used, 0);
    assert_eq!(check(bytes, || BodyFraming::UntilClose).used, length);
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    used: usize,
    payload: Vec<u8>,
    is_done: bool,
    is_wrong: bool,
}

/// Reads the bytes at once and in pieces, checks that the outcomes are equal, and returns the
/// outcome.
fn check(bytes: &[u8], framing: impl Fn() -> BodyFraming) -> Outcome {
    let whole = read(framing(), &[bytes]);
    for pieces in cuts::of(bytes) {
        assert_eq!(read(framing(), &pieces), whole, "the body's end depends on where it is cut");
    }
    whole
}

fn read(mut framing: BodyFraming, pieces: &[&[u8]]) -> Outcome {
    let mut outcome = Outcome::default();
    for piece in pieces {
        let advanced = framing.advance(piece, |part| outcome.payload.extend_from_slice(part));
        let Ok(used) = advanced else {
            // After an error, the number of used bytes has no meaning.
            return Outcome { used: 0, is_wrong: true, ..outcome };
        };
        assert!(used <= piece.len());
        outcome.used += used;
        if used < piece.len() {
            assert!(framing.is_done(), "bytes were left, and the body has not ended");
        }
        if framing.is_done() {
            break;
        }
    }
    Outcome { is_done: framing.is_done(), ..outcome }
}

/// Returns the payload and the end of the body by a lenient reader. That reader ends a line at its
/// line feed, and uses only the leading digits of a size.
fn forgiving_reading(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut payload = Vec::new();
    let mut rest = bytes;
    loop {
        let line = line(&mut rest)?;
        let digits: String =
            line.iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_hexdigit).collect();
        let size = usize::from_str_radix(&digits, 16).ok()?;
        if size == 0 {
            while !self::line(&mut rest)?.is_empty() {}
            return Some((payload, bytes.len() - rest.len()));
        }
        payload.extend(rest.get(..size)?);
        rest = &rest[size..];
        assert!(self::line(&mut rest)?.is_empty(), "bytes between a chunk and its line end");
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}
