//! The strict reader of HTTP/1 heads, for both sides.
//!
//! A head is checked as bytes first, because parsers accept the tricks of request smuggling: bare
//! line feeds, two lengths, two hosts. A head that could be read in two ways is refused here,
//! before any decision.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use super::framing::{BodyFraming, Chunks};
use super::host::Authority;
use crate::config::Limits;
use crate::rejection::Rejection;

/// The most fields of a head. The parser's table is on the stack; a higher `head_fields` has no
/// effect.
pub const MAX_FIELDS: usize = 256;

/// The largest answer head that is read.
pub const MAX_ANSWER_HEAD: usize = 32 * 1024;

/// The most interim answers, such as 100 and 103, before the final one.
pub const MAX_INTERIM_ANSWERS: usize = 16;

/// A client's request head that has one reading only.
#[derive(Debug)]
pub struct RequestHead {
    pub parts: Parts,
    pub framing: BodyFraming,
    /// The Host header, or the host of an absolute target. `None` in HTTP/1.0 alone.
    pub host: Option<Authority>,
}

/// An upstream's answer head.
#[derive(Debug)]
pub struct AnswerHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: BodyFraming,
}

/// Returns the length of the head at the start of `buffer`, with its empty line; `None` while it is
/// not whole.
pub fn length_of_head(buffer: &[u8]) -> Option<usize> {
    memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4)
}

/// Rejects bytes that no head may hold. Unfinished heads are checked too, so that a head of bare
/// line feeds is answered at once. `previous` is the byte before these, or 0 at the start.
pub fn check_bytes(head: &[u8], mut previous: u8) -> Result<(), Rejection> {
    if is_of_whole_lines(head, previous) {
        return Ok(());
    }
    for &byte in head {
        match byte {
            b'\n' if previous != b'\r' => {
                return Err(Rejection::AmbiguousRequest("a line ends without a carriage return"));
            }
            b'\n' | b'\t' => {}
            _ if previous == b'\r' => {
                return Err(Rejection::AmbiguousRequest(
                    "a line has a carriage return before its end",
                ));
            }
            b'\r' => {}
            0..0x20 | 0x7f => {
                return Err(Rejection::AmbiguousRequest("the head has a control character"));
            }
            _ => {}
        }
        previous = byte;
    }
    Ok(())
}

/// Returns true if each line feed stands behind a carriage return, no carriage return stands before
/// anything else, and no other control character but a tab is there. There is no branch for a byte,
/// so the compiler checks many bytes at once.
fn is_of_whole_lines(bytes: &[u8], before: u8) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return true };
    let is_wrong = |previous: u8, byte: u8| {
        let splits_a_line = (byte == b'\n') != (previous == b'\r');
        let is_control = (byte < 0x20) & (byte != b'\t') & (byte != b'\r') & (byte != b'\n');
        splits_a_line | is_control | (byte == 0x7f)
    };
    let pairs = bytes.iter().zip(rest);
    !pairs.fold(is_wrong(before, *first), |wrong, (previous, byte)| {
        wrong | is_wrong(*previous, *byte)
    })
}

/// Parses a request head, which ends with its empty line.
pub fn parse_request(head: &[u8], limits: &Limits) -> Result<RequestHead, Rejection> {
    check_bytes(head, 0)?;
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let allowed = fields.split_at_mut(limits.head_fields.min(MAX_FIELDS)).0;
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, allowed) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Rejection::HeadTooLarge),
        Err(httparse::Error::Version) => {
            return Err(Rejection::AmbiguousRequest(
                "the version is neither HTTP/1.1 nor HTTP/1.0",
            ));
        }
        _ => return Err(Rejection::AmbiguousRequest("the request head is not well formed")),
    }
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let malformed = || Rejection::AmbiguousRequest("the request line is not well formed");
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|_| malformed())?;
    let target = request.path.unwrap_or_default();
    if target.len() > limits.target_bytes {
        return Err(Rejection::HeadTooLarge);
    }
    let headers = header_map(head, request.headers)
        .ok_or(Rejection::AmbiguousRequest("a header is not well formed"))?;
    let (uri, named) = origin_form(&method, target)?;
    let host = match (host_of(&headers, version)?, named) {
        (Some(host), Some(named)) if !named.eq_ignore_ascii_case(host.as_str()) => {
            return Err(Rejection::AmbiguousRequest("the request target and Host name two hosts"));
        }
        (None, Some(named)) => Some(authority(named)?),
        (host, _) => host,
    };
    let framing = request_framing(&headers, version)?;

    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = version;
    parts.headers = headers;
    Ok(RequestHead { parts, framing, host })
}

/// Parses an answer head, which ends with its empty line. `to_head`: the request was a HEAD. The
/// error names the upstream's fault.
pub fn parse_answer(head: &[u8], to_head: bool) -> Result<AnswerHead, &'static str> {
    check_bytes(head, 0).map_err(|_| "the answer head holds forbidden bytes")?;
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut response, head, &mut fields) {
        Ok(httparse::Status::Complete(length))
            if length == head.len() && head.starts_with(b"HTTP/") => {}
        _ => return Err("the answer head is not HTTP/1"),
    }
    let is_http_10 = response.version == Some(0);
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.as_u16() < 600);
    let status = status.ok_or("the status is not a number from 100 to 599")?;
    let headers =
        header_map(head, response.headers).ok_or("a header of the answer is not well formed")?;
    let two_ways = "the length of the answer can be read in two ways";
    let length = body_length(&headers).map_err(|_| two_ways)?;
    let chunked = is_chunked(&headers).map_err(|_| two_ways)?;
    if chunked && (length.is_some() || is_http_10) {
        return Err(two_ways);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS && is_http_10 {
        return Err("the server switches protocols in HTTP/1.0");
    }
    let framing = if status.is_informational() || status == StatusCode::NO_CONTENT {
        // RFC 9112 section 6.1 and RFC 9110 section 8.6: neither field may stand here. A length of
        // 0 does no harm.
        if chunked || length.is_some_and(|length| length > 0) {
            return Err(two_ways);
        }
        BodyFraming::Done
    } else if to_head || status == StatusCode::NOT_MODIFIED {
        BodyFraming::Done
    } else if chunked {
        BodyFraming::Chunked(Chunks::default())
    } else {
        length.map_or(BodyFraming::UntilClose, BodyFraming::Length)
    };
    Ok(AnswerHead { status, headers, framing })
}

/// Returns the fields of a head. Their values share one copy of it.
fn header_map(head: &[u8], fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let copy = Bytes::copy_from_slice(head);
    let mut headers = HeaderMap::with_capacity(fields.len() + 8);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let start = field.value.as_ptr().addr().checked_sub(head.as_ptr().addr())?;
        let value = copy.slice(start..start + field.value.len());
        let value = HeaderValue::from_maybe_shared(value).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

/// Returns the host. RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status
/// code to any HTTP/1.1 request message that lacks a Host header field and to any request message
/// that contains more than one Host header field line".
fn host_of(headers: &HeaderMap, version: Version) -> Result<Option<Authority>, Rejection> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(None),
        (Some(host), None) => Ok(Some(authority(host.to_str().unwrap_or_default())?)),
        _ => Err(Rejection::AmbiguousRequest("a request has exactly one Host")),
    }
}

fn authority(text: &str) -> Result<Authority, Rejection> {
    Authority::parse(text).ok_or(Rejection::AmbiguousRequest("the Host header is not a valid host"))
}

/// Returns the target as path and query, and the host of an absolute target.
fn origin_form<'a>(method: &Method, target: &'a str) -> Result<(Uri, Option<&'a str>), Rejection> {
    if *method == Method::CONNECT {
        return Err(Rejection::AmbiguousRequest("this server does not open tunnels"));
    }
    let (named, path) = if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS)
    {
        (None, target)
    } else {
        let rest = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://"));
        let rest = rest.ok_or(Rejection::AmbiguousRequest("the request target is not a path"))?;
        let (named, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !path.starts_with('/') {
            return Err(Rejection::AmbiguousRequest("the request target has no path"));
        }
        (Some(named), path)
    };
    if path.contains('#') {
        return Err(Rejection::AmbiguousRequest("the request target has a fragment"));
    }
    let uri = path
        .parse()
        .map_err(|_| Rejection::AmbiguousRequest("the request target is not well formed"))?;
    Ok((uri, named))
}

fn request_framing(headers: &HeaderMap, version: Version) -> Result<BodyFraming, Rejection> {
    let length = body_length(headers)?;
    let chunked = is_chunked(headers)?;
    match (length, chunked) {
        (Some(_), true) => {
            Err(Rejection::AmbiguousRequest("the body has both a length and chunks"))
        }
        (None, true) if version != Version::HTTP_11 => {
            Err(Rejection::AmbiguousRequest("a chunked body needs HTTP/1.1"))
        }
        (None, true) => Ok(BodyFraming::Chunked(Chunks::default())),
        (Some(length), false) => Ok(BodyFraming::Length(length)),
        (None, false) => Ok(BodyFraming::Done),
    }
}

pub(crate) fn body_length(headers: &HeaderMap) -> Result<Option<u64>, Rejection> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value
        .to_str()
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|digits| digits.parse().ok()), values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Rejection::AmbiguousRequest("Content-Length is not one number")),
    }
}

fn is_chunked(headers: &HeaderMap) -> Result<bool, Rejection> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Rejection::AmbiguousRequest("Transfer-Encoding has another value than chunked")),
    }
}

impl RequestHead {
    /// Returns the host that selects the route; empty if the request has none.
    pub fn host_name(&self) -> &str {
        self.host.as_ref().map_or("", Authority::name)
    }
}

/// Returns true if the request asks for a WebSocket upgrade, well formed or not. RFC 9110 section
/// 7.8: a server "MAY ignore a received Upgrade header field", and Usher ignores one to anything
/// else.
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let is_websocket = |token: &[u8]| {
        let name = token.split(|byte| *byte == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"websocket")
    };
    headers
        .get_all(UPGRADE)
        .iter()
        .any(|line| line.as_bytes().split(|byte| *byte == b',').any(is_websocket))
}

/// Returns the comma-separated tokens of all lines of one header, as the peer wrote them.
pub fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Returns true if a header has the token, in any case.
pub fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// Returns true if a header has this one token and no other, in any case.
pub fn has_only_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let mut tokens = tokens(headers, name);
    tokens.next().is_some_and(|token| token.eq_ignore_ascii_case(wanted)) && tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str, fields: &str) -> Option<BodyFraming> {
        let limits = crate::config::for_test("auth = [\"header\"]").limits;
        let head = format!("{line}\r\nHost: a\r\n{fields}\r\n");
        parse_request(head.as_bytes(), &limits).ok().map(|head| head.framing)
    }

    fn answer(line: &str, fields: &str, to_head: bool) -> Option<BodyFraming> {
        let head = format!("{line}\r\n{fields}\r\n");
        parse_answer(head.as_bytes(), to_head).ok().map(|head| head.framing)
    }

    fn chunked() -> Option<BodyFraming> {
        Some(BodyFraming::Chunked(Chunks::default()))
    }

    #[test]
    fn a_request_body_has_one_framing_or_is_refused() {
        const POST: &str = "POST / HTTP/1.1";
        for (fields, expected) in [
            ("", Some(BodyFraming::Done)),
            ("Content-Length: 0\r\n", Some(BodyFraming::Length(0))),
            ("Content-Length: 12\r\n", Some(BodyFraming::Length(12))),
            ("Transfer-Encoding: chunked\r\n", chunked()),
            ("Transfer-Encoding: CHUNKED\r\n", chunked()),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", None),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", None),
            ("Content-Length: 1, 1\r\n", None),
            ("Content-Length: +1\r\n", None),
            ("Content-Length: 99999999999999999999\r\n", None),
            ("Content-Length:\r\n", None),
            ("Transfer-Encoding: gzip, chunked\r\n", None),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: identity\r\n", None),
            ("Transfer-Encoding:\r\n", None),
        ] {
            assert_eq!(request(POST, fields), expected, "{fields:?}");
        }
        assert_eq!(request("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"), None);
    }

    #[test]
    fn the_body_of_an_answer_has_one_framing_or_the_server_is_at_fault() {
        const OK: &str = "HTTP/1.1 200 OK";
        for (line, fields, to_head, expected) in [
            (OK, "", false, Some(BodyFraming::UntilClose)),
            (OK, "Content-Length: 2\r\n", false, Some(BodyFraming::Length(2))),
            (OK, "Transfer-Encoding: chunked\r\n", false, chunked()),
            (OK, "Content-Length: 2\r\n", true, Some(BodyFraming::Done)),
            (OK, "Transfer-Encoding: chunked\r\n", true, Some(BodyFraming::Done)),
            ("HTTP/1.1 304 X", "Content-Length: 2\r\n", false, Some(BodyFraming::Done)),
            ("HTTP/1.1 204 X", "Content-Length: 0\r\n", false, Some(BodyFraming::Done)),
            ("HTTP/1.1 103 X", "Link: a\r\n", false, Some(BodyFraming::Done)),
            ("HTTP/1.1 204 X", "Content-Length: 2\r\n", false, None),
            ("HTTP/1.1 204 X", "Transfer-Encoding: chunked\r\n", false, None),
            (OK, "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", false, None),
            (OK, "Content-Length: 2\r\nContent-Length: 2\r\n", false, None),
            (OK, "Transfer-Encoding: gzip\r\n", false, None),
            ("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n", false, None),
            ("HTTP/1.0 101 X", "", false, None),
            ("HTTP/1.1 600 X", "", false, None),
            ("HTTP/1.1 099 X", "", false, None),
        ] {
            assert_eq!(answer(line, fields, to_head), expected, "{line} {fields:?}");
        }
    }

    #[test]
    fn an_upgrade_to_a_websocket_is_seen_in_every_spelling() {
        let asks = |value: &'static str| {
            asks_for_websocket(&HeaderMap::from_iter([(
                UPGRADE,
                http::HeaderValue::from_static(value),
            )]))
        };
        for value in ["websocket", "WebSocket", "h2c, websocket", "websocket/13", " websocket "] {
            assert!(asks(value), "{value}");
        }
        for value in ["", "h2c", "websockets", "xwebsocket", "TLS/1.0, HTTP/1.1"] {
            assert!(!asks(value), "{value}");
        }
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        for (bytes, length) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Some(18)),
            (b"GET / HTTP/1.1\r\n\r\nbody\r\n\r\n", Some(18)),
            (b"GET / HTTP/1.1\r\n\r", None),
            (b"GET / HTTP/1.1\n\n", None),
            (b"", None),
        ] {
            assert_eq!(length_of_head(bytes), length, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_that_two_readers_split_differently_are_refused() {
        for (head, previous, is_good) in [
            (&b"A: b\tc\xff\r\n"[..], 0, true),
            (b"A: b\n", 0, false),
            (b"A: b\rC: d\r\n", 0, false),
            (b"A: b\r\r\n", 0, false),
            (b"A: \0\r\n", 0, false),
            (b"A: \x7f\r\n", 0, false),
            (b"A: \x1f\r\n", 0, false),
            (b"\n", b'\r', true),
            (b"\n", b'b', false),
            (b"A", b'\r', false),
        ] {
            assert_eq!(check_bytes(head, previous).is_ok(), is_good, "{head:?} {previous}");
        }
    }

    #[test]
    fn a_head_has_at_most_the_allowed_fields_and_the_longest_target() {
        let mut limits = crate::config::for_test("auth = [\"header\"]").limits.as_ref().clone();
        limits.head_fields = 3;
        limits.target_bytes = 10;
        let parsed = |target: &str, more: usize| {
            let fields: String = (0..more).map(|at| format!("X-{at}: a\r\n")).collect();
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            parse_request(head.as_bytes(), &limits).map(drop)
        };
        assert_eq!(parsed("/23456789a", 2), Ok(()));
        assert_eq!(parsed("/23456789ab", 2), Err(Rejection::HeadTooLarge));
        assert_eq!(parsed("/", 3), Err(Rejection::HeadTooLarge));
    }

    #[test]
    fn a_target_is_a_path_or_names_the_host_of_the_host_header() {
        let host = |line: &str, host: &str| {
            let limits = crate::config::for_test("auth = [\"header\"]").limits;
            let head = format!("{line}\r\n{host}\r\n");
            let parsed = parse_request(head.as_bytes(), &limits).ok()?;
            Some((parsed.parts.uri.to_string(), parsed.host_name().to_owned()))
        };
        let seen = |uri: &str, host: &str| Some((uri.to_owned(), host.to_owned()));
        const A: &str = "Host: a\r\n";
        for (line, field, expected) in [
            ("GET /x?y HTTP/1.1", A, seen("/x?y", "a")),
            ("GET http://a/x HTTP/1.1", A, seen("/x", "a")),
            ("GET https://A/x HTTP/1.1", A, seen("/x", "a")),
            ("GET http://b/x HTTP/1.1", A, None),
            ("GET http://a HTTP/1.1", A, None),
            ("GET http://a?x HTTP/1.1", A, None),
            ("GET http://b/x HTTP/1.0", "", seen("/x", "b")),
            ("GET /x HTTP/1.0", "", seen("/x", "")),
            ("GET /x HTTP/1.1", "", None),
            ("OPTIONS * HTTP/1.1", A, seen("*", "a")),
            ("GET * HTTP/1.1", A, None),
            ("GET x HTTP/1.1", A, None),
            ("GET /x#y HTTP/1.1", A, None),
            ("CONNECT a:443 HTTP/1.1", A, None),
        ] {
            assert_eq!(host(line, field), expected, "{line}");
        }
    }
}
