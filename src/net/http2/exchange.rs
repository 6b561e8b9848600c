//! A stream that has no answer yet.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderName, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::served_streams::StreamLease;
use super::stream::{Http2Stream, absorb};
use crate::base::clock::Now;
use crate::net::http1::response::LastOfConnection;

/// RFC 9113 section 8.2.2: fields that HTTP/2 has no use for. RFC 8441 section 5: the accepted
/// tunnel has no `Sec-WebSocket-Accept`.
const OF_HTTP1: [HeaderName; 6] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    SEC_WEBSOCKET_ACCEPT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// An extended CONNECT that waits for its answer.
#[derive(Debug)]
pub struct Http2Exchange {
    respond: SendResponse<Bytes>,
    receive: RecvStream,
    unread: BytesMut,
    has_ended: bool,
    lease: StreamLease,
}

impl Http2Exchange {
    pub fn new(respond: SendResponse<Bytes>, receive: RecvStream, lease: StreamLease) -> Self {
        Self { respond, receive, unread: BytesMut::new(), has_ended: false, lease }
    }

    /// Accepts the tunnel. Fails if the client has left.
    pub fn accept(mut self, headers: &HeaderMap) -> io::Result<Http2Stream> {
        let mut headers = headers.clone();
        headers.remove(CONTENT_LENGTH);
        let send = send_head(&mut self.respond, StatusCode::OK, headers, false)?;
        Ok(Http2Stream::new(send, self.receive, self.unread, self.lease))
    }

    /// Refuses the tunnel. Only this stream ends.
    pub async fn refuse(mut self, answer: &Response<Bytes>) {
        self.lease.note_refusal();
        if answer.extensions().get::<LastOfConnection>().is_some() {
            self.lease.note_last();
        }
        let mut headers = answer.headers().clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.body().len()));
        let mut body = answer.body().clone();
        let Ok(mut send) = send_head(&mut self.respond, answer.status(), headers, body.is_empty())
        else {
            return;
        };
        while !body.is_empty() {
            let room = poll_fn(|cx| super::stream::poll_room(&mut send, body.len(), cx)).await;
            let Ok(room) = room else { return };
            let piece = body.split_to(room);
            if send.send_data(piece, body.is_empty()).is_err() {
                return;
            }
        }
    }

    /// Completes when the client has reset or ended the stream. Bytes that arrive meanwhile are
    /// kept, up to the window.
    pub async fn client_gone(&mut self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        absorb(&mut self.receive, &mut self.unread, &mut self.has_ended, cx);
        if self.has_ended { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Sends the head of an answer, without the fields of HTTP/1.1.
pub fn send_head(
    respond: &mut SendResponse<Bytes>,
    status: StatusCode,
    mut headers: HeaderMap,
    is_last: bool,
) -> io::Result<SendStream<Bytes>> {
    for name in OF_HTTP1 {
        headers.remove(name);
    }
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_str(&Now::read().wall.to_http_date())
    {
        headers.insert(DATE, date);
    }
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    respond.send_response(head, is_last).map_err(io::Error::other)
}
