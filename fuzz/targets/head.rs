//! HTTP/1 heads: a head that is accepted has one reading.
//!
//! A second reader, which is as lenient as the most lenient servers (bare line ends, spaces around
//! names), reads the bytes again. It must find the same method, target and fields. Otherwise two
//! servers could disagree about a head that Usher accepted. A head that is written out and read
//! again is the same.

use std::sync::LazyLock;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use super::{cuts, settings};
use usher::config::Config;
use usher::net::http1::framing::{BodyFraming, Chunks};
use usher::net::http1::head::{
    AnswerHead, RequestHead, check_bytes, length_of_head, parse_answer, parse_request,
};
use usher::net::http1::host::Authority;

static CONFIG: LazyLock<Config> = LazyLock::new(|| settings::with_route("auth = []"));

pub fn run(bytes: &[u8]) {
    let mut head = bytes.to_vec();
    match length_of_head(bytes) {
        Some(length) => head.truncate(length),
        None => head.extend(b"\r\n\r\n"),
    }
    head.truncate(length_of_head(&head).expect("an empty line ends it"));
    check_pieces(&head);
    if let Ok(request) = parse_request(&head, &CONFIG.limits) {
        check_request(&head, &request);
    }
    for to_head in [false, true] {
        if let Ok(answer) = parse_answer(&head, to_head) {
            check_answer(&head, &answer, to_head);
        }
    }
}

/// Checks that unfinished heads are rejected for the same bytes as whole heads.
fn check_pieces(head: &[u8]) {
    let whole = check_bytes(head, 0).is_ok();
    for pieces in cuts::of(head) {
        let mut previous = 0;
        let in_pieces = pieces.iter().all(|piece| {
            let is_good = check_bytes(piece, previous).is_ok();
            previous = piece.last().copied().unwrap_or(previous);
            is_good
        });
        assert_eq!(in_pieces, whole, "the verdict on bytes depends on where they are cut");
    }
}

fn check_request(head: &[u8], request: &RequestHead) {
    let RequestHead { parts, framing, host } = request;
    let (line, fields) = forgiving_reading(head);
    assert_eq!(fields, fields_of(&parts.headers), "two readings of the fields");
    let [method, target, version] = line.as_slice() else {
        panic!("a request line of {} words", line.len())
    };
    assert_eq!(method, parts.method.as_str().as_bytes(), "two readings of the method");
    assert_eq!(version, format!("{:?}", parts.version).as_bytes(), "two readings of the version");
    let path = parts.uri.to_string();
    let named = target.strip_suffix(path.as_bytes()).expect("the path ends the target");
    assert!(path.starts_with('/') || path == "*", "a target that is not a path: {path}");
    assert!(!path.contains('#'), "a fragment");
    let mut hosts = parts.headers.get_all(HOST).iter();
    let written = hosts.next().map(|host| host.to_str().expect("a host is text"));
    assert!(hosts.next().is_none(), "two hosts");
    let name = host.as_ref().map(Authority::as_str);
    if let Some(written) = written {
        assert_eq!(name, Some(written), "the host is not the Host header");
    } else {
        assert_eq!(parts.version, Version::HTTP_10, "no host");
    }
    if let Some(named) = std::str::from_utf8(named).expect("a target is text").split_once("://") {
        assert!(named.1.eq_ignore_ascii_case(name.expect("a target names the host")));
    } else {
        assert!(named.is_empty(), "the target has a part before the path");
    }
    match framing {
        BodyFraming::Done => assert_eq!(sizes(&parts.headers), (0, 0)),
        BodyFraming::Length(_) => assert_eq!(sizes(&parts.headers), (1, 0)),
        BodyFraming::Chunked(_) => assert_eq!(sizes(&parts.headers), (0, 1)),
        BodyFraming::UntilClose => panic!("a request has an end"),
    }

    let mut again = format!("{} {path} {:?}\r\n", parts.method, parts.version).into_bytes();
    write_fields(&mut again, &parts.headers);
    let again = parse_request(&again, &CONFIG.limits).expect("what was read can be read again");
    assert_eq!(again.parts.method, parts.method);
    assert_eq!(again.parts.uri, parts.uri);
    assert_eq!(again.parts.version, parts.version);
    assert_eq!(again.parts.headers, parts.headers);
    assert_eq!(&again.framing, framing);
    assert_eq!(again.host.as_ref().map(Authority::as_str), written);
}

fn check_answer(head: &[u8], answer: &AnswerHead, to_head: bool) {
    let AnswerHead { status, headers, framing } = answer;
    let (line, fields) = forgiving_reading(head);
    assert_eq!(fields, fields_of(headers), "two readings of the fields");
    let [version, code, ..] = line.as_slice() else { panic!("a status line without a status") };
    assert_eq!(code, status.as_str().as_bytes(), "two readings of the status");
    assert!((100..600).contains(&status.as_u16()));
    let (lengths, codings) = sizes(headers);
    assert!(lengths + codings <= 1, "two lengths");
    let has_no_body = status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(status)
        || to_head;
    let expected = match (has_no_body, lengths, codings) {
        (true, ..) => BodyFraming::Done,
        (_, 1, _) => {
            let digits = headers[CONTENT_LENGTH].to_str().expect("a length is text");
            BodyFraming::Length(digits.parse().expect("a length is a number"))
        }
        (_, _, 1) => BodyFraming::Chunked(Chunks::default()),
        _ => BodyFraming::UntilClose,
    };
    assert_eq!(framing, &expected);

    let mut again = [&version[..], b" ", code, b" \r\n"].concat();
    write_fields(&mut again, headers);
    let again = parse_answer(&again, to_head).expect("what was read can be read again");
    assert_eq!((&again.status, &again.headers, &again.framing), (status, headers, framing));
}

/// The words of the first line, and the fields in the order of their names, by a lenient reader.
/// That reader accepts any line end, and trims all values.
type Reading = (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

fn forgiving_reading(head: &[u8]) -> Reading {
    let mut lines = head.split(|byte| b"\r\n\x0b\x0c\x00".contains(byte)).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default();
    let words = first.split(|byte| b" \t".contains(byte)).map(<[u8]>::to_vec).collect();
    let fields = lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        let (name, value) = line.split_at(colon);
        (name.trim_ascii().to_ascii_lowercase(), value[1..].trim_ascii().to_vec())
    });
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    (words, fields)
}

fn fields_of(headers: &HeaderMap) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())
    };
    let mut fields: Vec<_> = headers.iter().map(pair).collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

fn sizes(headers: &HeaderMap) -> (usize, usize) {
    let count = |name| headers.get_all(name).iter().count();
    (count(CONTENT_LENGTH), count(TRANSFER_ENCODING))
}

fn write_fields(head: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
}
