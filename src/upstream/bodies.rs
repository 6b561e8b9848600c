//! Bodies of plain HTTP: those of requests, and those of answers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::net::http1::hop_by_hop;
use crate::net::http2::body::Http2Body;
use crate::upstream::ServerPlace;

/// A request's body on its way to the upstream: the data alone.
///
/// Trailers end here. A server that merges them into the headers (RFC 9110 section 6.5.1) would
/// read a forged identity, address or credential. RFC 9110 section 6.5 lets an intermediary discard
/// them.
#[derive(Debug)]
pub struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    Empty,
    Http1(Incoming),
    Http2(Box<Http2Body>),
}

/// The client's body did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the client's body did not arrive whole")]
    Http1(#[source] hyper::Error),
    #[error("the client's body did not arrive whole")]
    Http2(#[source] std::io::Error),
}

/// An answer's body: Usher's own, or the upstream's as it arrives.
pub enum AnswerBody {
    Whole(Full<Bytes>),
    /// The place on the server is kept until the last byte.
    Streamed(Incoming, #[allow(dead_code, reason = "held for its Drop")] ServerPlace),
}

impl RequestBody {
    pub fn new(body: Incoming) -> Self {
        Self(Source::Http1(body))
    }

    pub fn of_stream(body: Http2Body) -> Self {
        Self(Source::Http2(Box::new(body)))
    }

    pub fn empty() -> Self {
        Self(Source::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Source::Empty => Poll::Ready(None),
            Source::Http1(body) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    Some(Ok(frame)) if !frame.is_data() => {}
                    other => return Poll::Ready(other.map(|one| one.map_err(BodyError::Http1))),
                }
            },
            Source::Http2(body) => {
                let polled = Pin::new(&mut **body).poll_frame(cx);
                polled.map(|frame| frame.map(|one| one.map_err(BodyError::Http2)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Http1(body) => body.is_end_stream(),
            Source::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::Http1(body) => body.size_hint(),
            Source::Http2(body) => body.size_hint(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Streamed(body, _) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(without_control_trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body, _) => body.size_hint(),
        }
    }
}

fn without_control_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hop_by_hop::strip_from_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
