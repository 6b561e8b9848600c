//! Connections for plain HTTP: opened with a grant, kept for a while, used again.
//!
//! One pool for each thread, so an exchange never leaves its core.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::{Place, Upstream, connect};
use crate::auth::grant::Grant;
use crate::lock::lock;
use crate::rejection::Rejection;

/// The names of an upstream and of its server, for another configuration may have them in another order; and whom that
/// configuration believes, for what was verified by another is not used again.
pub(super) type ServerKey = (Arc<str>, Arc<str>, u64);

#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<HashMap<ServerKey, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Incoming>,
    until: Instant,
}

impl Pool {
    /// Sends one request; `Place` lives as long as the answer's body does.
    pub async fn exchange(
        self: &Arc<Self>,
        grant: &Grant,
        upstream: &Arc<Upstream>,
        mut request: Request<Incoming>,
    ) -> Result<(Response<Incoming>, Place), Rejection> {
        // A kept connection may have been closed by the server a moment ago: what was not sent yet is sent on the next.
        while let Some((mut sender, place)) = self.take(upstream) {
            match self.send(&mut sender, upstream, request).await? {
                Ok(response) => {
                    self.keep_when_ready(sender, upstream, &place);
                    return Ok((response, place));
                }
                Err(unsent) => request = unsent,
            }
        }
        let (stream, place) = connect::dial(grant, upstream).await?;
        let refused = |_| Rejection::UpstreamUnavailable;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(refused)?;
        tokio::spawn(connection);
        match self.send(&mut sender, upstream, request).await? {
            Ok(response) => {
                self.keep_when_ready(sender, upstream, &place);
                Ok((response, place))
            }
            Err(_) => Err(Rejection::UpstreamUnavailable),
        }
    }

    /// The inner error is the request, not sent at all.
    async fn send(
        &self,
        sender: &mut SendRequest<Incoming>,
        upstream: &Upstream,
        request: Request<Incoming>,
    ) -> Result<Result<Response<Incoming>, Request<Incoming>>, Rejection> {
        match timeout(upstream.config.answer_timeout, sender.try_send_request(request)).await {
            Ok(Ok(response)) => Ok(Ok(response)),
            Ok(Err(mut failed)) => match failed.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None if failed.error().is_user() || is_body_error(failed.error()) => {
                    Err(Rejection::AmbiguousRequest("the request's body did not arrive whole"))
                }
                None => Err(Rejection::UpstreamProtocol("it closed the connection or answered what is not HTTP/1")),
            },
            Err(_) => Err(Rejection::UpstreamTimeout),
        }
    }

    fn take(&self, upstream: &Arc<Upstream>) -> Option<(SendRequest<Incoming>, Place)> {
        let now = Instant::now();
        let mut idle = lock(&self.idle);
        for index in upstream.order() {
            let Some(kept) = upstream.key(index).and_then(|key| idle.get_mut(&key)) else { continue };
            while let Some(Idle { sender, until }) = kept.pop() {
                if now < until && sender.is_ready() {
                    return Some((sender, upstream.place(index)));
                }
            }
        }
        None
    }

    /// The connection is free again when the answer's body has passed.
    fn keep_when_ready(self: &Arc<Self>, mut sender: SendRequest<Incoming>, upstream: &Arc<Upstream>, place: &Place) {
        let Some(key) = upstream.key(place.index) else { return };
        let (pool, max_idle) = (Arc::clone(self), upstream.config.max_idle);
        let idle_timeout = upstream.config.idle_timeout;
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let now = Instant::now();
            let mut idle = lock(&pool.idle);
            // Those of servers that another configuration took out are asked for by nobody.
            idle.retain(|_, kept| {
                kept.retain(|one| now < one.until && one.sender.is_ready());
                !kept.is_empty()
            });
            let kept = idle.entry(key).or_default();
            if kept.len() < max_idle {
                kept.push(Idle { sender, until: now + idle_timeout });
            }
        });
    }
}

fn is_body_error(error: &hyper::Error) -> bool {
    // A failure to read the client's body comes back as the cause of the failure to write it.
    std::error::Error::source(error).is_some_and(|cause| cause.downcast_ref::<hyper::Error>().is_some())
}
