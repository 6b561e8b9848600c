//! The client's end of an upgrade: a connection of HTTP/1.1, or a stream of an HTTP/2 connection.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use tokio::time::timeout;

use super::events::Protocol;
use super::guard::Http1Guard;
use super::last_answer::answer_and_close;
use crate::net::http1::response;
use crate::net::http2::exchange::Http2Exchange;
use crate::net::stream::Stream;

/// How long a client of HTTP/2 may take for its refusal, before its stream is reset.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client that waits for the answer to its upgrade.
#[derive(Debug)]
pub enum ClientEnd {
    Http1(Box<Http1Guard>),
    Http2(Box<Http2Exchange>),
}

/// A client whose upgrade was accepted.
#[derive(Debug)]
pub(super) struct Switched {
    pub(super) stream: Stream,
    /// The 101, to be written before anything else. Empty over HTTP/2: the 200 is on its way.
    pub(super) answer: Vec<u8>,
    /// Bytes that the client sent behind its request.
    pub(super) early: BytesMut,
}

impl ClientEnd {
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(_) => Protocol::Http2,
        }
    }

    /// Completes when the client leaves. Bytes that arrive meanwhile are kept, up to a limit.
    pub(super) async fn client_gone(&mut self) {
        match self {
            Self::Http1(guard) => guard.client_gone().await,
            Self::Http2(exchange) => exchange.client_gone().await,
        }
    }

    /// Accepts the upgrade with these headers, which are those of a 101. Fails if the client has
    /// left.
    pub(super) fn switch(self, headers: &HeaderMap) -> io::Result<Switched> {
        match self {
            Self::Http1(guard) => {
                let (stream, early) = guard.into_parts();
                let answer = response::head_bytes(StatusCode::SWITCHING_PROTOCOLS, headers);
                Ok(Switched { stream, answer, early })
            }
            Self::Http2(exchange) => {
                let stream = Stream::Http2(Box::new(exchange.accept(headers)?));
                Ok(Switched { stream, answer: Vec::new(), early: BytesMut::new() })
            }
        }
    }

    /// Refuses the upgrade. Over HTTP/1.1 the connection closes, over HTTP/2 the stream ends.
    pub(super) async fn refuse(self, answer: &Response<Bytes>) {
        match self {
            Self::Http1(guard) => {
                let (stream, _) = guard.into_parts();
                answer_and_close(stream, answer).await;
            }
            Self::Http2(exchange) => {
                let _ = timeout(PATIENCE, exchange.refuse(answer)).await;
            }
        }
    }
}
