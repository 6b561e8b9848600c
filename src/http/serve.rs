//! A client's connection, from its first byte to its end or its upgrade.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::guard::{Guard, Next, Stop};
use super::{forward, response, upgrade};
use crate::app::Worker;
use crate::auth::certificate::ClientCertificate;
use crate::config;
use crate::edge::Edge;
use crate::listener::Permit;
use crate::listener::waiting_room::Waiting;
use crate::rejection::Rejection;
use crate::stream::Stream;
use crate::telemetry::event::{Attempt, Event};
use crate::telemetry::request_id::RequestId;

/// Who is at the other end, and under which conditions.
#[derive(Debug)]
pub struct Client {
    pub peer: SocketAddr,
    pub listener: Arc<config::Listener>,
    pub permit: Permit,
    /// Until it has shown who it is, or asked for something in plain HTTP.
    pub waiting: Option<Waiting>,
    /// By when it must have shown who it is.
    pub deadline: Instant,
    /// What it has shown in the handshake.
    pub certificate: Option<ClientCertificate>,
    /// Which of the edge's doors it came in by, and who verified certificates there.
    pub door: usize,
    pub authorities: Option<Arc<RootCertStore>>,
}

impl Client {
    pub fn is_secure(&self) -> bool {
        self.listener.tls.is_some()
    }

    /// Puts the certificate where the methods look for credentials. That of a trusted peer is its own, not its clients'.
    pub fn show_certificate(&self, edge: &Edge, parts: &mut Parts) {
        if let Some(certificate) = self.certificate.clone().filter(|_| !self.is_trusted_proxy()) {
            let shown = if self.is_still_believed(edge) { certificate } else { certificate.no_longer_believed() };
            parts.extensions.insert(shown);
        }
    }

    /// A connection may live on while an authority is taken out. One that was added changes nothing for it.
    fn is_still_believed(&self, edge: &Edge) -> bool {
        let Some(then) = &self.authorities else { return true };
        let now = edge.doors.get(self.door).and_then(|door| door.authorities.as_ref());
        now.is_some_and(|now| Arc::ptr_eq(then, now) || then.roots.iter().all(|root| now.roots.contains(root)))
    }

    pub fn is_trusted_proxy(&self) -> bool {
        self.listener.trusts(self.peer.ip())
    }
}

/// Serves one connection. Whatever happens, it ends here or in the session that it becomes.
pub async fn serve(stream: Stream, client: Client, worker: Worker) {
    let limits = Arc::clone(&worker.edge.limits);
    let mut guard = Guard::new(stream, Arc::clone(&limits));
    let deadline = client.deadline.min(Instant::now() + limits.head_timeout);
    match timeout_at(deadline, guard.next_head()).await {
        Ok(Ok(Next::Plain)) => Box::pin(plain(guard, client, worker)).await,
        Ok(Ok(Next::Upgrade(head))) => Box::pin(upgrade::run(guard, *head, client, worker)).await,
        Ok(Ok(Next::Refused(rejection))) => refuse(guard, &client, &rejection).await,
        Ok(Ok(Next::Closed) | Err(_)) => {}
        Err(_) if guard.holds_part_of_a_head() => refuse(guard, &client, &Rejection::HeadTimeout).await,
        // A silent connection is closed in silence.
        Err(_) => {}
    }
}

/// Plain HTTP, until the client leaves, the time is up, or a head comes that is not for hyper.
#[allow(clippy::large_futures, reason = "what answers a request is boxed as a whole")]
async fn plain(guard: Guard, mut client: Client, worker: Worker) {
    client.waiting = None;
    let stopped = guard.stopped_flag();
    let limits = Arc::clone(&worker.edge.limits);
    let client = Arc::new(client);
    let under_way = Arc::new(AtomicUsize::new(0));
    let service = {
        let (client, worker, under_way) = (Arc::clone(&client), worker.clone(), Arc::clone(&under_way));
        service_fn(move |request: http::Request<Incoming>| {
            // Each request is served by what is in force when it comes.
            let (client, worker, under_way) = (Arc::clone(&client), worker.renewed(), Arc::clone(&under_way));
            Box::pin(async move {
                under_way.fetch_add(1, Ordering::AcqRel);
                let _count = Count(under_way);
                Ok::<_, Infallible>(forward::answer(request, &client, &worker).await)
            })
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_idle_timeout)
        .max_headers(limits.head_fields.min(super::head::MAX_FIELDS))
        .max_buf_size(limits.head_bytes.max(8 * 1024) * 2)
        .serve_connection(guard, service);
    // What was being answered when the guard stopped; an upgrade that was sent before its turn is not carried out.
    let mut busy_at_stop = None;
    let edge = Arc::clone(&worker.edge);
    let mut drain = std::pin::pin!(edge.drain.begun());
    let mut draining = false;
    let served = std::future::poll_fn(|cx| {
        loop {
            if !draining && drain.as_mut().poll(cx).is_ready() {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            let polled = connection.poll_without_shutdown(cx);
            if polled.is_pending() && stopped.load(Ordering::Acquire) && busy_at_stop.is_none() {
                busy_at_stop = Some(under_way.load(Ordering::Acquire) > 0);
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
            return polled;
        }
    })
    .await;
    let mut guard = connection.into_parts().io;
    let Ok(client) = Arc::try_unwrap(client) else { return };
    match guard.take_stop() {
        Some(Stop::Refused(rejection)) => refuse(guard, &client, &rejection).await,
        Some(Stop::Upgrade(_)) if busy_at_stop == Some(true) => {
            refuse(guard, &client, &Rejection::UpgradeMalformed("an upgrade waits for the answers before it")).await;
        }
        Some(Stop::Upgrade(head)) => {
            let worker = worker.renewed();
            // It asked for plain HTTP before, and is a stranger again.
            let Ok(waiting) = worker.edge.waiting_room.admit(client.peer.ip(), &client.listener) else {
                return refuse(guard, &client, &Rejection::TooManyConnections).await;
            };
            let client = Client { deadline: Instant::now() + limits.handshake_timeout, waiting: Some(waiting), ..client };
            Box::pin(upgrade::run(guard, *head, client, worker)).await;
        }
        None => {
            if served.is_ok() {
                let _ = timeout(Duration::from_secs(5), guard.stream_mut().shutdown()).await;
            }
        }
    }
}

struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Refuses what could not even be read as a request.
async fn refuse(guard: Guard, client: &Client, rejection: &Rejection) {
    let request_id = RequestId::random();
    let about = Attempt { request_id: request_id.as_str(), peer: client.peer.ip(), host: "", path: "", route: "", method: None };
    Event::RequestRejected { about, rejection }.emit();
    let answer = response::problem(rejection, request_id.as_str());
    let (stream, _) = guard.into_parts();
    answer_and_close(stream, &answer).await;
}

/// Writes the last answer of a connection and closes it so that the client can read it: what the client still sends is
/// taken in for a moment, because closing over unread bytes resets the connection and with it the answer.
pub async fn answer_and_close(stream: Stream, answer: &http::Response<bytes::Bytes>) {
    write_and_linger(stream, &response::closing(answer)).await;
}

/// The same for bytes of any kind.
pub async fn write_and_linger(mut stream: Stream, last: &[u8]) {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST: usize = 256 * 1024;
    let _ = timeout(PATIENCE, async {
        stream.write_all(last).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let (mut scratch, mut taken) = (vec![0; 1024], 0);
        while taken < MOST {
            match stream.read(&mut scratch).await? {
                0 => break,
                count => taken += count,
            }
        }
        std::io::Result::Ok(())
    })
    .await;
}
