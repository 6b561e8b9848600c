//! Opening a WebSocket on a dialled server.
//!
//! The request is written without an HTTP library, and the strict reader reads the answer. An
//! answer that is not a correct 101 for this key stays HTTP, and can never become a tunnel.

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::http1::framing::BodyFraming;
use crate::net::http1::head::{
    self, AnswerHead, MAX_ANSWER_HEAD, MAX_INTERIM_ANSWERS, has_only_token, has_token, tokens,
};
use crate::net::http1::response;
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::ws::accept::accept_for;

const READ_SIZE: usize = 4 * 1024;

#[derive(Debug)]
pub enum UpgradeAnswer {
    /// A correct 101. `early` holds the bytes that came behind it.
    Switched { stream: Stream, early: BytesMut, headers: HeaderMap },
    /// Any other answer, cut at the limit.
    Declined { status: StatusCode, headers: HeaderMap, body: Bytes },
}

/// Asks a server for an upgrade. `headers` are the client's, prepared; the upgrade's own are set
/// here. They can be used again for another server. `body_limit` bounds the bytes that are kept of
/// a refusal.
pub async fn open(
    mut stream: Stream,
    uri: &Uri,
    headers: &mut HeaderMap,
    body_limit: usize,
) -> Result<UpgradeAnswer, Rejection> {
    let wire = request(uri, headers);
    let gone =
        |_| Rejection::UpstreamProtocol("the server closed the connection without an answer");
    stream.write_all(&wire).await.map_err(gone)?;
    stream.flush().await.map_err(gone)?;

    let mut buffer = BytesMut::with_capacity(READ_SIZE);
    let mut interim = 0;
    let answer = loop {
        let answer = read_head(&mut stream, &mut buffer).await?;
        // RFC 9110 section 15.2: "A client MUST be able to parse one or more 1xx responses received
        // prior to a final response". Here the 101 is final.
        if !answer.status.is_informational() || answer.status == StatusCode::SWITCHING_PROTOCOLS {
            break answer;
        }
        interim += 1;
        if interim > MAX_INTERIM_ANSWERS {
            return Err(Rejection::UpstreamProtocol("the server sent too many interim answers"));
        }
    };
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        check_switch(&answer.headers, headers)?;
        return Ok(UpgradeAnswer::Switched { stream, early: buffer, headers: answer.headers });
    }
    let body = read_body(&mut stream, &buffer, answer.framing, body_limit).await?;
    Ok(UpgradeAnswer::Declined { status: answer.status, headers: answer.headers, body })
}

/// Returns the request's bytes, and sets the upgrade's own headers.
pub fn request(uri: &Uri, headers: &mut HeaderMap) -> Vec<u8> {
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let mut wire = Vec::with_capacity(1024);
    wire.extend_from_slice(b"GET ");
    wire.extend_from_slice(uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    wire.extend_from_slice(b" HTTP/1.1\r\n");
    response::write_fields(&mut wire, headers);
    wire
}

pub async fn read_head(
    stream: &mut Stream,
    buffer: &mut BytesMut,
) -> Result<AnswerHead, Rejection> {
    loop {
        let length = head::length_of_head(buffer);
        if length.unwrap_or(buffer.len()) > MAX_ANSWER_HEAD {
            return Err(Rejection::UpstreamProtocol("the answer head is larger than 32 KiB"));
        }
        if let Some(length) = length {
            let answer = head::parse_answer(buffer.split_at(length).0, false)
                .map_err(Rejection::UpstreamProtocol)?;
            let _ = buffer.split_to(length);
            return Ok(answer);
        }
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => {
                return Err(Rejection::UpstreamProtocol(
                    "the server closed the connection without an answer",
                ));
            }
            Ok(_) => {}
        }
    }
}

/// Checks a 101 by the rules of RFC 6455 section 4.1 for a client. A wrong one fails the
/// connection.
fn check_switch(answer: &HeaderMap, asked: &HeaderMap) -> Result<(), Rejection> {
    let wrong = |why| Err(Rejection::UpstreamProtocol(why));
    if !has_only_token(answer, UPGRADE, "websocket") {
        return wrong("the 101 does not switch to websocket");
    }
    if !has_token(answer, CONNECTION, "upgrade") {
        return wrong("the 101 has no 'Connection: Upgrade'");
    }
    let key = asked.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut accepts = answer.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    match (accepts.next(), accepts.next()) {
        (Some(accept), None) if accept.as_bytes() == accept_for(key).as_bytes() => {}
        _ => return wrong("Sec-WebSocket-Accept does not belong to this key"),
    }
    let mut chosen = answer.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    match (chosen.next(), chosen.next()) {
        (None, _) => {}
        (Some(protocol), None)
            if offered_protocols(asked)
                .any(|offered| offered.as_bytes() == protocol.as_bytes()) => {}
        _ => return wrong("the server chose a subprotocol that was not offered"),
    }
    let is_offered =
        |name: &str| extension_names(asked).any(|offered| offered.eq_ignore_ascii_case(name));
    if !extension_names(answer).all(is_offered) {
        return wrong("the server chose an extension that was not offered");
    }
    Ok(())
}

fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn extension_names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    tokens(headers, SEC_WEBSOCKET_EXTENSIONS)
        .map(|extension| extension.split(';').next().unwrap_or_default().trim())
}

pub async fn read_body(
    stream: &mut Stream,
    first: &[u8],
    mut framing: BodyFraming,
    limit: usize,
) -> Result<Bytes, Rejection> {
    let mut body = Vec::new();
    // On the heap: this future is part of every upgrade's.
    let mut scratch = vec![0; READ_SIZE];
    let mut bytes = first;
    loop {
        let misframed = framing.advance(bytes, |payload| body.extend_from_slice(payload));
        if misframed.is_err() {
            return Err(Rejection::UpstreamProtocol(
                "the body of the answer is not framed correctly",
            ));
        }
        if framing.is_done() || body.len() >= limit {
            break;
        }
        match stream.read(&mut scratch).await {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes = scratch.split_at(count).0,
        }
    }
    body.truncate(limit);
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::tests::headers;

    #[test]
    fn only_the_answer_to_this_key_and_offer_switches() {
        let asked = headers(&[
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ]);
        let good = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let with = |extra: &[(&'static str, &'static str)]| headers(&[&good[..], extra].concat());
        assert!(check_switch(&with(&[]), &asked).is_ok());
        assert!(
            check_switch(
                &with(&[
                    ("sec-websocket-protocol", "superchat"),
                    ("sec-websocket-extensions", "permessage-deflate")
                ]),
                &asked
            )
            .is_ok()
        );
        for bad in [
            headers(&good[1..]),
            headers(&[good[0], good[2]]),
            headers(&good[..2]),
            headers(&[good[0], good[1], ("sec-websocket-accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=")]),
            with(&[("sec-websocket-accept", "x")]),
            with(&[("sec-websocket-protocol", "other")]),
            with(&[("sec-websocket-extensions", "x-mine")]),
        ] {
            assert!(check_switch(&bad, &asked).is_err(), "{bad:?}");
        }
    }
}
