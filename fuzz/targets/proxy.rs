//! A PROXY header: it ends at the same byte wherever it is cut, the reader never asks for a byte
//! behind it, and what Usher writes means what it read.

use super::cuts;
use usher::config::ProxyVersion;
use usher::net::proxy_protocol::{self, HeaderProgress, MOST_BYTES, ProxyFault, ProxyHeader};

/// The longest line of version 1.
const LONGEST_LINE: usize = 107;

pub fn run(bytes: &[u8]) {
    let at_once = outcome(bytes);
    for pieces in cuts::of(bytes) {
        assert_eq!(in_pieces(&pieces), at_once, "the header depends on where it is cut");
    }
    let Outcome::Whole(header, length) = at_once else { return };
    assert!(length <= bytes.len() && length <= MOST_BYTES);
    assert_eq!(outcome(&bytes[..length]), Outcome::Whole(header.clone(), length));
    match bytes[0] {
        b'P' => check_line(&bytes[..length], &header),
        _ => assert_eq!(length, 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))),
    }
    let written = proxy_protocol::write(ProxyVersion::V2, &header);
    let again = match outcome(&written) {
        Outcome::Whole(again, length) if length == written.len() => again,
        other => panic!("{written:?} is written and read as {other:?}"),
    };
    let addresses = header.addresses.is_some();
    assert_eq!(again.addresses.is_some(), addresses);
    if addresses {
        assert_eq!(again, header);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Unfinished,
    Whole(ProxyHeader, usize),
    Fault,
}

fn outcome(bytes: &[u8]) -> Outcome {
    match proxy_protocol::read(bytes) {
        Ok(HeaderProgress::Needs(missing)) => {
            assert!(missing > 0 && bytes.len() + missing <= MOST_BYTES);
            Outcome::Unfinished
        }
        Ok(HeaderProgress::Whole { header, length }) => Outcome::Whole(header, length),
        Err(fault) => {
            assert!(fault != ProxyFault::TooLarge || bytes[0] == b'\r');
            Outcome::Fault
        }
    }
}

/// Reads as the listener does: each time at most as many bytes as are certainly missing.
fn in_pieces(pieces: &[&[u8]]) -> Outcome {
    let mut held: Vec<u8> = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let missing = match proxy_protocol::read(&held) {
                Ok(HeaderProgress::Needs(missing)) => missing,
                Ok(HeaderProgress::Whole { header, length }) => {
                    assert_eq!(length, held.len(), "a byte behind the header was asked for");
                    return Outcome::Whole(header, length);
                }
                Err(_) => return Outcome::Fault,
            };
            if rest.is_empty() {
                break;
            }
            let (taken, left) = rest.split_at(missing.min(rest.len()));
            held.extend_from_slice(taken);
            rest = left;
        }
    }
    outcome(&held)
}

/// Reads a line in another way: by its fields.
fn check_line(line: &[u8], header: &ProxyHeader) {
    assert!(line.len() <= LONGEST_LINE && line.ends_with(b"\r\n"));
    let text = std::str::from_utf8(line).expect("a line is text").trim_end();
    let fields: Vec<&str> = text.split_whitespace().collect();
    let Some(addresses) = header.addresses else {
        assert_eq!(fields[..2], ["PROXY", "UNKNOWN"]);
        return;
    };
    assert_eq!(fields.len(), 6);
    assert_eq!(fields.join(" "), text, "other spaces than one between two fields");
    assert_eq!(fields[1] == "TCP4", addresses.source.is_ipv4());
    assert_eq!(addresses.source.is_ipv4(), addresses.destination.is_ipv4());
    for (end, at) in [(addresses.source, 2), (addresses.destination, 3)] {
        assert_eq!(fields[at].parse(), Ok(end.ip()));
        assert_eq!(fields[at + 2], end.port().to_string());
    }
}
