//! Connections for plain HTTP: opened with a grant, kept for a while, used again.
//!
//! Each thread has one pool, so an exchange never leaves its core.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use tokio::time::Instant;

use super::answer_guard::{AnswerGuard, ExchangeWatch};
use super::connect::DialAttempts;
use super::health::TryOutcome;
use super::pick::ClientKey;
use super::upload::{Upload, server_is_late};
use super::{ServerPlace, Upstream};
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::net::http1::head::MAX_FIELDS;
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::upstream::bodies::{BodyError, RequestBody};

/// The names of an upstream and of its server, because another configuration may list them in
/// another order. The number is the upstream's generation: a connection that was verified under one
/// configuration is not used under another.
pub(super) type ServerKey = (Arc<str>, Arc<str>, u64);

/// The most bytes of an answer that are read ahead of its client.
const MOST_READ: usize = 32 * 1024;

const CLOSED: &str = "the server closed the connection without an answer";

#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<HashMap<ServerKey, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    until: Instant,
}

/// One connection to a server, and the guard that reads it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Upload>,
    watch: Arc<ExchangeWatch>,
    /// Whether it has served a request before.
    is_kept: bool,
    /// The PROXY header that the connection began with. The server takes every request on it for
    /// one of that client.
    proxy_header: Option<Bytes>,
    /// The server's address; `None` for a unix socket.
    peer: Option<IpAddr>,
}

impl Pool {
    /// Sends one request; `ServerPlace` lives as long as the answer's body does.
    pub async fn exchange(
        self: &Arc<Self>,
        grant: &Grant,
        client: ClientKey<'_>,
        upstream: &Arc<Upstream>,
        proxy_header: Option<Bytes>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, ServerPlace), Rejection> {
        let mut request = request.map(Upload::new);
        let mut tries = DialAttempts::begin(upstream, client, Now::read().mono)
            .await
            .with_proxy_header(proxy_header.clone());
        while let Some(place) = tries.next_server() {
            // The server may have closed a kept connection a moment ago. A request that was not
            // sent yet, or that changes nothing, is sent on the next one.
            let mut kept = self.take(&place, proxy_header.as_ref());
            loop {
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => match tries.dial_server(&place, grant).await {
                        Some(stream) => begin(stream, proxy_header.clone()).await?,
                        None => break,
                    },
                };
                let is_kept = connection.is_kept;
                let again = if is_kept { repeatable(&request) } else { None };
                let sent = self.send(&mut connection, upstream, &place, &client, request).await;
                request = match sent {
                    Ok(Ok(response)) => {
                        self.keep_when_ready(connection, upstream, &place);
                        return Ok((response, place));
                    }
                    Ok(Err(unsent)) => unsent,
                    Err(Rejection::UpstreamProtocol(CLOSED)) if again.is_some() => {
                        again.ok_or(Rejection::Internal)?
                    }
                    Err(why) => return Err(why),
                };
                if !is_kept {
                    place.note(TryOutcome::DialFailed);
                    let error = "the server closed a new connection";
                    tries.failed(&place, Rejection::UpstreamUnavailable, error);
                    break;
                }
                kept = self.take(&place, proxy_header.as_ref());
            }
        }
        Err(tries.into_rejection())
    }

    /// Sends a request on one connection, and notes the outcome. The inner error is the request, if
    /// nothing of it was sent.
    async fn send(
        &self,
        connection: &mut Connection,
        upstream: &Upstream,
        place: &ServerPlace,
        client: &ClientKey<'_>,
        request: Request<Upload>,
    ) -> Result<Result<Response<Incoming>, Request<Upload>>, Rejection> {
        connection.watch.begin(request.method());
        request.body().begin();
        let late = server_is_late(request.body().turns(), upstream.config.answer_timeout);
        let answered = tokio::select! {
            biased;
            answered = connection.sender.try_send_request(request) => answered,
            () = late => {
                place.note(TryOutcome::TimedOut(client.number()));
                return Err(Rejection::UpstreamTimeout);
            }
        };
        match answered {
            Ok(response) => {
                place.note(TryOutcome::of_status(response.status()));
                Ok(Ok(response))
            }
            Err(mut failed) => match failed.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None if has_stalled(failed.error()) => Err(Rejection::BodyTimeout),
                None if failed.error().is_user() || is_body_error(failed.error()) => {
                    Err(Rejection::AmbiguousRequest("the request's body did not arrive whole"))
                }
                None => {
                    let fault = connection.watch.fault();
                    // A server may close a kept connection at any time.
                    if fault.is_some() || !connection.is_kept {
                        place.note(TryOutcome::BadAnswer);
                    }
                    Err(Rejection::UpstreamProtocol(fault.unwrap_or(CLOSED)))
                }
            },
        }
    }

    /// Takes a kept connection to the server, if one began with the same PROXY header, or with
    /// none. Drops those to addresses that the server's name has no more.
    fn take(&self, place: &ServerPlace, proxy_header: Option<&Bytes>) -> Option<Connection> {
        let is_same = |one: &Idle| one.connection.proxy_header.as_ref() == proxy_header;
        let now = Now::read().mono;
        let mut idle = lock(&self.idle);
        let kept = idle.get_mut(&place.key())?;
        while let Some(last) = kept.iter().rposition(is_same) {
            let Idle { connection, until } = kept.remove(last);
            let is_usable = now < until && connection.sender.is_ready();
            if is_usable && place.server.is_at(connection.peer) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection when the answer's body has passed, and it is free again.
    fn keep_when_ready(
        self: &Arc<Self>,
        mut connection: Connection,
        upstream: &Arc<Upstream>,
        place: &ServerPlace,
    ) {
        let key = place.key();
        let (pool, max_idle) = (Arc::clone(self), upstream.config.max_idle);
        let idle_timeout = upstream.config.idle_timeout;
        tokio::spawn(async move {
            if connection.sender.ready().await.is_err() {
                return;
            }
            let now = Now::read().mono;
            let mut idle = lock(&pool.idle);
            // No request asks for connections to servers that a reload removed: they are dropped
            // here too.
            idle.retain(|_, kept| {
                kept.retain(|one| now < one.until && one.connection.sender.is_ready());
                !kept.is_empty()
            });
            let kept = idle.entry(key).or_default();
            // Other clients cannot use a connection that names its client: the one that is idle
            // for the longest time makes room.
            if kept.len() >= max_idle && connection.proxy_header.is_some() && !kept.is_empty() {
                kept.remove(0);
            }
            if kept.len() < max_idle {
                connection.is_kept = true;
                kept.push(Idle { connection, until: now + idle_timeout });
            }
        });
    }
}

/// Returns a copy of a request that may be sent twice: the method is safe, and there is no body
/// (RFC 9110 section 9.2.2).
fn repeatable(request: &Request<Upload>) -> Option<Request<Upload>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Upload::new(RequestBody::empty()));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// Begins HTTP on a new connection.
async fn begin(stream: Stream, proxy_header: Option<Bytes>) -> Result<Connection, Rejection> {
    let peer = stream.peer();
    let (guard, watch) = AnswerGuard::new(stream);
    let (sender, driver) = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .max_buf_size(MOST_READ)
        .handshake(guard)
        .await
        .map_err(|_| Rejection::UpstreamUnavailable)?;
    tokio::spawn(driver);
    Ok(Connection { sender, watch, is_kept: false, proxy_header, peer })
}

/// Returns true if the client has stalled in the middle of its body.
fn has_stalled(error: &hyper::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let mut io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.any(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn is_body_error(error: &hyper::Error) -> bool {
    // A failure to read the client's body comes back as the cause of the failure to write it.
    std::error::Error::source(error)
        .is_some_and(|cause| cause.downcast_ref::<BodyError>().is_some())
}
