//! Dialling a server: TCP, TLS or a unix socket.
//!
//! [`Tries::dial`] takes a `&Grant`. It is the only way to an upstream, and only `auth` makes a
//! `Grant`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::events::DialFailed;
use super::{Server, ServerPlace, Upstream};
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::config;
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::telemetry::Event;

/// The time for which the resolved addresses of a server's name are used.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// The servers of an upstream for one client, each once, the least busy first. All tries share
/// `reach_timeout`.
#[derive(Debug)]
pub struct Tries<'a> {
    upstream: &'a Arc<Upstream>,
    order: std::vec::IntoIter<usize>,
    deadline: Instant,
    /// The failure of the last server.
    rejection: Rejection,
}

impl<'a> Tries<'a> {
    pub fn new(upstream: &'a Arc<Upstream>) -> Self {
        let deadline = Now::read().mono + upstream.config.reach_timeout;
        Self {
            upstream,
            order: upstream.order().into_iter(),
            deadline,
            rejection: Rejection::UpstreamUnavailable,
        }
    }

    /// Opens a connection to the next server that can be dialled.
    pub async fn dial(&mut self, _proof: &Grant) -> Result<(Stream, ServerPlace), Rejection> {
        while Now::read().mono < self.deadline
            && let Some(index) = self.order.next()
        {
            let Some(server) = self.upstream.servers.get(index) else { continue };
            // The place is taken before the dial, so that a burst spreads over the servers.
            let place = self.upstream.place(index);
            match timeout_at(
                self.ends(self.upstream.config.dial_timeout),
                open(server, self.upstream),
            )
            .await
            {
                Ok(Ok(stream)) => return Ok((stream, place)),
                Ok(Err(error)) => {
                    self.failed(&place, Rejection::UpstreamUnavailable, &error.to_string());
                }
                Err(_) => self.failed(
                    &place,
                    Rejection::UpstreamTimeout,
                    "no connection within dial_timeout",
                ),
            }
        }
        Err(self.rejection.clone())
    }

    /// Waits for a server's answer to an upgrade. Returns `None` if it is late: the next server may
    /// be tried.
    pub async fn answer<T>(
        &mut self,
        place: &ServerPlace,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let answered = timeout_at(self.ends(self.upstream.config.upgrade_timeout), answer).await;
        if answered.is_err() {
            self.failed(
                place,
                Rejection::UpstreamTimeout,
                "no answer to the upgrade within upgrade_timeout",
            );
        }
        answered.ok()
    }

    fn ends(&self, limit: Duration) -> Instant {
        self.deadline.min(Now::read().mono + limit)
    }

    fn failed(&mut self, place: &ServerPlace, rejection: Rejection, error: &str) {
        self.rejection = rejection;
        DialFailed { upstream: self.upstream.name(), server: &place.server(), error }.emit();
    }
}

async fn open(server: &Server, upstream: &Upstream) -> io::Result<Stream> {
    match &server.server {
        config::Server::Unix { path } => UnixStream::connect(path).await.map(Stream::Unix),
        config::Server::Plain { host, port } => tcp(server, host, *port).await.map(Stream::Tcp),
        config::Server::Tls { host, port } => {
            let tcp = tcp(server, host, *port).await?;
            let (Some(config), Some(name)) = (&upstream.tls, &server.tls_name) else {
                return Err(io::Error::other("this upstream has no TLS"));
            };
            let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await?;
            Ok(Stream::DialledTls(Box::new(stream)))
        }
    }
}

async fn tcp(server: &Server, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses(server, host, port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(Duration::from_secs(60))
                    .with_interval(Duration::from_secs(15));
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    if let Ok(mut resolved) = server.resolved.lock() {
        *resolved = None;
    }
    Err(last)
}

/// Returns the addresses of a name. It is not resolved for every connection: the resolver blocks a
/// thread.
async fn addresses(server: &Server, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let now = Now::read().mono;
    if let Ok(resolved) = server.resolved.lock()
        && let Some((at, addresses)) = &*resolved
        && now.duration_since(*at) < RESOLVED_FOR
    {
        return Ok(addresses.clone());
    }
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    if let Ok(mut resolved) = server.resolved.lock() {
        *resolved = Some((now, addresses.clone()));
    }
    Ok(addresses)
}
