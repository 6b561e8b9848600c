//! The strict reader of HTTP/1 heads, for both sides.
//!
//! A head is looked at as bytes first, because parsers forgive what smugglers live on: bare line feeds, two lengths,
//! two hosts. What could be read in two ways is refused here, before anything is decided.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use super::framing::{BodyFraming, Chunks};
use crate::config::Limits;
use crate::rejection::Rejection;

/// The parser's table is on the stack; a higher `head_fields` than this is as good as this.
pub const MAX_FIELDS: usize = 256;

/// A client's request head that has one reading only.
#[derive(Debug)]
pub struct RequestHead {
    pub parts: Parts,
    pub framing: BodyFraming,
    /// The Host header: lower case, without port.
    pub host: String,
}

/// An upstream's answer head.
#[derive(Debug)]
pub struct AnswerHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: BodyFraming,
}

/// How long the head at the start of `buffer` is, its empty line included; `None` while it is not whole.
pub fn length_of_head(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Is something in these bytes that no head may hold? Looked for in unfinished heads too, so that a head of bare line
/// feeds is answered at once instead of waited for.
/// `previous` is the byte before these, or 0 at the start.
pub fn check_bytes(head: &[u8], mut previous: u8) -> Result<(), Rejection> {
    for &byte in head {
        match byte {
            b'\n' if previous != b'\r' => return Err(Rejection::AmbiguousRequest("a line ends without a carriage return")),
            b'\n' | b'\t' => {}
            _ if previous == b'\r' => return Err(Rejection::AmbiguousRequest("a carriage return stands inside a line")),
            b'\r' => {}
            0..0x20 | 0x7f => return Err(Rejection::AmbiguousRequest("a control character stands in the head")),
            _ => {}
        }
        previous = byte;
    }
    Ok(())
}

/// `head` ends with its empty line.
pub fn parse_request(head: &[u8], limits: &Limits) -> Result<RequestHead, Rejection> {
    check_bytes(head, 0)?;
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let allowed = fields.split_at_mut(limits.head_fields.min(MAX_FIELDS)).0;
    let mut request = httparse::Request::new(allowed);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Rejection::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Rejection::AmbiguousRequest("the version is neither HTTP/1.1 nor HTTP/1.0")),
        _ => return Err(Rejection::AmbiguousRequest("the request head is not well formed")),
    }
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let malformed = || Rejection::AmbiguousRequest("the request line is not well formed");
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).map_err(|_| malformed())?;
    let target = request.path.unwrap_or_default();
    if target.len() > limits.target_bytes {
        return Err(Rejection::HeadTooLarge);
    }
    let headers = header_map(request.headers).ok_or(Rejection::AmbiguousRequest("a header is not well formed"))?;
    let (host, authority) = host_of(&headers)?;
    let uri = origin_form(&method, target, &authority)?;
    let framing = request_framing(&headers, version)?;

    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = version;
    parts.headers = headers;
    Ok(RequestHead { parts, framing, host })
}

pub fn parse_answer(head: &[u8]) -> Result<AnswerHead, Rejection> {
    let wrong = Rejection::UpstreamProtocol;
    check_bytes(head, 0).map_err(|_| wrong("its answer head holds bytes that no head may hold"))?;
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err(wrong("its answer head is not HTTP/1")),
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(wrong("its status is not a number"))?;
    let headers = header_map(response.headers).ok_or(wrong("one of its headers is not well formed"))?;
    let framing = match (body_length(&headers), is_chunked(&headers)) {
        _ if status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED => BodyFraming::Done,
        (Ok(None), Ok(true)) => BodyFraming::Chunked(Chunks::default()),
        (Ok(Some(length)), Ok(false)) => BodyFraming::Length(length),
        (Ok(None), Ok(false)) => BodyFraming::UntilClose,
        _ => return Err(wrong("the length of its answer can be read in two ways")),
    };
    Ok(AnswerHead { status, headers, framing })
}

fn header_map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len() + 8);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

/// RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message
/// that lacks a Host header field and to any request message that contains more than one Host header field line".
fn host_of(headers: &HeaderMap) -> Result<(String, String), Rejection> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Rejection::AmbiguousRequest("a request has exactly one Host"));
    };
    let wrong = Rejection::AmbiguousRequest("the Host is not a host");
    let authority = host.to_str().map_err(|_| wrong.clone())?.to_ascii_lowercase();
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            if port.parse::<u16>().is_err() {
                return Err(wrong);
            }
            name
        }
        _ => authority.as_str(),
    };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    if name.is_empty() || !(plain || literal) {
        return Err(wrong);
    }
    Ok((name.to_owned(), authority.clone()))
}

/// The target as path and query. An absolute form is accepted where it says the same as Host.
fn origin_form(method: &Method, target: &str, authority: &str) -> Result<Uri, Rejection> {
    if *method == Method::CONNECT {
        return Err(Rejection::AmbiguousRequest("this server opens no tunnels"));
    }
    let path = if target.starts_with('/') {
        target
    } else if target == "*" && *method == Method::OPTIONS {
        "*"
    } else {
        let rest = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://"));
        let rest = rest.ok_or(Rejection::AmbiguousRequest("the request target is not a path"))?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (named, path) = rest.split_at(end);
        if !named.eq_ignore_ascii_case(authority) {
            return Err(Rejection::AmbiguousRequest("the request target and Host name two hosts"));
        }
        if path.starts_with('/') { path } else { return Err(Rejection::AmbiguousRequest("the request target has no path")) }
    };
    if path.contains('#') {
        return Err(Rejection::AmbiguousRequest("the request target has a fragment"));
    }
    path.parse().map_err(|_| Rejection::AmbiguousRequest("the request target is not well formed"))
}

fn request_framing(headers: &HeaderMap, version: Version) -> Result<BodyFraming, Rejection> {
    let length = body_length(headers)?;
    let chunked = is_chunked(headers)?;
    match (length, chunked) {
        (Some(_), true) => Err(Rejection::AmbiguousRequest("the body has both a length and chunks")),
        (None, true) if version != Version::HTTP_11 => Err(Rejection::AmbiguousRequest("chunks belong to HTTP/1.1")),
        (None, true) => Ok(BodyFraming::Chunked(Chunks::default())),
        (Some(length), false) => Ok(BodyFraming::Length(length)),
        (None, false) => Ok(BodyFraming::Done),
    }
}

fn body_length(headers: &HeaderMap) -> Result<Option<u64>, Rejection> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
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
        _ => Err(Rejection::AmbiguousRequest("Transfer-Encoding is not chunked alone")),
    }
}

/// The comma-separated tokens of all lines of one header, in lower case.
pub fn tokens(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|token| token.trim().to_ascii_lowercase()).filter(|token| !token.is_empty()).collect()
}
