//! The answer to a request of HTTP/2.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response};
use hyper::body::{Body, Frame};

use crate::edge::waiting_room::StrangerState;
use crate::http::connection::ClientConnection;
use crate::net::http2::exchange::send_head;
use crate::net::http2::stream::poll_room;
use crate::net::stall::Stall;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use crate::upstream::bodies::AnswerBody;

/// Sends an answer to its end. `to_head`: the request was a HEAD. Gives up a client that has left,
/// that does not read, or whose place a newcomer has taken.
pub(super) async fn send_answer(
    mut respond: SendResponse<Bytes>,
    answer: Response<AnswerBody>,
    to_head: bool,
    connection: &ClientConnection,
    stall_timeout: Duration,
) {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact()
        && matches!(body, AnswerBody::Whole(_))
    {
        parts.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    let is_last = to_head || body.is_end_stream();
    let Ok(send) = send_head(&mut respond, parts.status, parts.headers, is_last) else { return };
    if is_last {
        return;
    }
    let standing = &connection.standing;
    let mut writer = Writer { send, standing, stall: Stall::new(stall_timeout) };
    if let Err(error) = writer.send_body(body).await {
        if error.kind() == io::ErrorKind::TimedOut {
            let peer = Some(connection.peer.ip());
            LimitReached { limit: Limit::StallTimeout, peer }.emit();
        }
        writer.send.send_reset(Reason::CANCEL);
    }
}

struct Writer<'a> {
    send: SendStream<Bytes>,
    standing: &'a StrangerState,
    stall: Stall,
}

impl Writer<'_> {
    async fn send_body(&mut self, body: AnswerBody) -> io::Result<()> {
        let mut body = std::pin::pin!(body);
        loop {
            let frame = poll_fn(|cx| self.poll_frame(body.as_mut(), cx)).await?;
            let Some(frame) = frame else {
                return self.send.send_data(Bytes::new(), true).map_err(io::Error::other);
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    self.send_data(data, is_last).await?;
                    if is_last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    return self.send.send_trailers(trailers).map_err(io::Error::other);
                }
            }
        }
    }

    /// Waits for the next part of the answer. The client may leave meanwhile.
    fn poll_frame(
        &mut self,
        body: Pin<&mut AnswerBody>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let frame = ready!(body.poll_frame(cx));
        Poll::Ready(frame.transpose().map_err(io::Error::other))
    }

    async fn send_data(&mut self, mut data: Bytes, is_last: bool) -> io::Result<()> {
        if data.is_empty() && is_last {
            return self.send.send_data(data, true).map_err(io::Error::other);
        }
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_room(data.len(), cx)).await?;
            let piece = data.split_to(room);
            let is_end = is_last && data.is_empty();
            self.send.send_data(piece, is_end).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Waits until the client has room for more, as long as it takes enough.
    fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_stranger = self.standing.is_stranger();
        if let Poll::Ready(room) = poll_room(&mut self.send, wanted, cx) {
            let room = room?;
            self.stall.count_bytes(room, is_stranger);
            if !self.standing.leave_rest() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            return Poll::Ready(Ok(room));
        }
        if self.stall.poll_elapsed(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        // A slow stranger makes room for a newcomer.
        if self.stall.is_slow() && self.standing.poll_rest(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Pending
    }
}
