//! A client's connection, from its first byte to its end or its upgrade.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncWriteExt;
use tokio::time::{timeout, timeout_at};

use super::client_end::ClientEnd;
use super::connection::ClientConnection;
use super::events::ConnectionSilent;
use super::guard::{GuardStop, Http1Guard, NextHead};
use super::last_answer::answer_and_close;
use super::{forward, upgrade};
use crate::base::clock::Now;
use crate::edge::worker::Worker;
use crate::net::http1::head::MAX_FIELDS;
use crate::net::http1::response;
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use crate::upstream::bodies::RequestBody;

/// The most bytes of an answer that the kernel holds unsent. The rest waits at the upstream until
/// the client reads.
const MOST_UNSENT: u32 = 32 * 1024;

/// Serves one connection. It ends here, or in the session that it becomes.
pub async fn serve(stream: Stream, connection: ClientConnection, worker: Worker) {
    let limits = Arc::clone(&worker.edge.limits);
    let mut guard =
        Http1Guard::new(stream, Arc::clone(&limits), connection.standing.stranger_flag());
    let deadline = connection.deadline.min(Now::read().mono + limits.head_timeout);
    match timeout_at(deadline, guard.next_head()).await {
        Ok(Ok(NextHead::Plain)) => Box::pin(serve_plain(guard, connection, worker)).await,
        Ok(Ok(NextHead::Upgrade(head))) => {
            let end = ClientEnd::Http1(Box::new(guard));
            Box::pin(upgrade::run(end, *head, connection, worker)).await;
        }
        Ok(Ok(NextHead::Refused(rejection))) => refuse(guard, &connection, &rejection).await,
        Ok(Ok(NextHead::Closed) | Err(_)) => {}
        Err(_) if guard.holds_part_of_a_head() => {
            refuse(guard, &connection, &Rejection::HeadTimeout).await;
        }
        // A client that has sent nothing gets no answer.
        Err(_) => ConnectionSilent { limit: Limit::HeadTimeout }.emit(),
    }
}

/// Serves plain HTTP until the client leaves, the time is up, or a head arrives that hyper must not
/// read.
#[allow(clippy::large_futures, reason = "the future of an answer is boxed as a whole")]
async fn serve_plain(mut guard: Http1Guard, connection: ClientConnection, worker: Worker) {
    guard.stream_mut().limit_unsent(Some(MOST_UNSENT));
    let signals = guard.signals();
    let limits = Arc::clone(&worker.edge.limits);
    let connection = Arc::new(connection);
    let under_way = Arc::new(AtomicUsize::new(0));
    let service = {
        let connection = Arc::clone(&connection);
        let worker = worker.clone();
        let under_way = Arc::clone(&under_way);
        service_fn(move |request: http::Request<Incoming>| {
            let connection = Arc::clone(&connection);
            // Each request is served by the configuration in force when it arrives.
            let worker = worker.renewed();
            let count = RequestCount::begin(&under_way);
            Box::pin(async move {
                let _count = count;
                let request = request.map(RequestBody::new);
                Ok::<_, Infallible>(forward::answer(request, &connection, &worker).await)
            })
        })
    };
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_idle_timeout)
        .max_headers(limits.head_fields.min(MAX_FIELDS))
        .max_buf_size(limits.head_bytes.max(8 * 1024) * 2)
        .serve_connection(guard, service);
    // Whether a request was being answered when the guard stopped: an upgrade that was sent before
    // its turn is refused.
    let mut was_busy_at_stop = None;
    // A stranger that rests, or is slow, makes room for a newcomer.
    let standing = Arc::clone(&connection.standing);
    let mut is_displaced = false;
    let edge = Arc::clone(&worker.edge);
    let mut drain = std::pin::pin!(edge.drain.begun());
    let mut is_draining = false;
    let served = std::future::poll_fn(|cx| {
        loop {
            let polled = http.poll_without_shutdown(cx);
            // Checked after the poll: otherwise hyper would not answer a first request that it has
            // not read yet.
            if polled.is_pending() && !is_draining && drain.as_mut().poll(cx).is_ready() {
                is_draining = true;
                Pin::new(&mut http).graceful_shutdown();
                continue;
            }
            if polled.is_pending()
                && signals.has_stopped.load(Ordering::Acquire)
                && was_busy_at_stop.is_none()
            {
                was_busy_at_stop = Some(under_way.load(Ordering::Acquire) > 0);
                Pin::new(&mut http).graceful_shutdown();
                continue;
            }
            if polled.is_pending() && !is_displaced {
                let is_at_rest = under_way.load(Ordering::Acquire) == 0
                    && signals.is_at_rest.load(Ordering::Acquire);
                let is_slow = signals.is_slow.load(Ordering::Acquire);
                is_displaced = if is_at_rest || is_slow {
                    standing.poll_rest(cx).is_ready()
                } else {
                    !standing.leave_rest()
                };
                if is_displaced && is_slow {
                    // A client that does not read or send would not end by itself.
                    return Poll::Ready(Ok(()));
                }
                if is_displaced {
                    Pin::new(&mut http).graceful_shutdown();
                    continue;
                }
            }
            return polled;
        }
    })
    .await;
    let mut guard = http.into_parts().io;
    if is_displaced && signals.is_slow.load(Ordering::Acquire) {
        return;
    }
    if signals.has_stalled.load(Ordering::Acquire) {
        LimitReached { limit: Limit::StallTimeout, peer: Some(connection.peer.ip()) }.emit();
        return;
    }
    let Ok(connection) = Arc::try_unwrap(connection) else { return };
    match guard.take_stop() {
        Some(GuardStop::Refused(rejection)) => refuse(guard, &connection, &rejection).await,
        Some(GuardStop::Upgrade(_)) if was_busy_at_stop == Some(true) => {
            let why = "an upgrade must wait for the answers to earlier requests";
            refuse(guard, &connection, &Rejection::UpgradeMalformed(why)).await;
        }
        Some(GuardStop::Upgrade(head)) => {
            let worker = worker.renewed();
            // A client that asked for plain HTTP before is a stranger again.
            if let Err(rejection) = connection.note_credential(false) {
                return refuse(guard, &connection, &rejection).await;
            }
            guard.stream_mut().limit_unsent(None);
            let deadline = Now::read().mono + limits.handshake_timeout;
            let connection = ClientConnection { deadline, ..connection };
            let end = ClientEnd::Http1(Box::new(guard));
            Box::pin(upgrade::run(end, *head, connection, worker)).await;
        }
        None => match served {
            Ok(()) => {
                let _ = timeout(Duration::from_secs(5), guard.stream_mut().shutdown()).await;
            }
            Err(error) if error.is_timeout() => {
                ConnectionSilent { limit: Limit::HttpIdleTimeout }.emit();
            }
            Err(_) => {}
        },
    }
}

/// Counts a request while it is answered.
struct RequestCount(Arc<AtomicUsize>);

impl RequestCount {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for RequestCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Refuses bytes that cannot be read as a request, or a request that is not for hyper.
async fn refuse(guard: Http1Guard, connection: &ClientConnection, rejection: &Rejection) {
    let request_id = connection.report_unreadable(rejection);
    let answer = response::problem(rejection, request_id.as_str());
    let (stream, _) = guard.into_parts();
    answer_and_close(stream, &answer).await;
}
