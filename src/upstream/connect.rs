//! Dialling a server: TCP, TLS or a unix socket.
//!
//! [`DialAttempts`] dials with a `&Grant`. It is the only way of a client to an upstream, and only
//! `auth` makes a `Grant`. The health checks of `checks.rs` carry nothing of a client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::entry::ServerEntry;
use super::events::DialFailed;
use super::health::{DialPurpose, TryOutcome};
use super::pick::ClientKey;
use super::server::Server;
use super::upgrade::UpgradeAnswer;
use super::{ServerPlace, Upstream};
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config;
use crate::net::stream::Stream;
use crate::rejection::Rejection;
use crate::telemetry::Event;

/// The largest number of parts into which the addresses of a name divide `dial_timeout`.
const MOST_PARTS: usize = 3;

/// The servers of an upstream for one client, each once, in the order of `balance`. All tries share
/// `reach_timeout`.
#[derive(Debug)]
pub struct DialAttempts<'a> {
    upstream: &'a Arc<Upstream>,
    client: ClientKey<'a>,
    order: std::vec::IntoIter<Arc<Server>>,
    /// The server that this client tries first, if no other client does, although it is ejected.
    due: Option<Arc<Server>>,
    on_trial: Option<Arc<Server>>,
    deadline: Instant,
    /// Whether a server was tried before the current one.
    is_retry: bool,
    /// The PROXY header that each connection begins with.
    proxy_header: Option<Bytes>,
    /// The failure of the last server.
    rejection: Rejection,
    /// The answer of a server that cannot serve. Another server was asked for a better one.
    unwanted: Option<Box<UpgradeAnswer>>,
}

/// The end of the tries without a server that serves.
#[derive(Debug)]
pub enum TriesFailed {
    /// A server has answered with 502, 503 or 504, and no other one has answered.
    Answered(Box<UpgradeAnswer>),
    Rejected(Rejection),
}

/// A client that waits for the answer of a server. If it leaves after half of the time limit, its
/// wait counts as a timeout: otherwise impatient clients would hide a hung server.
struct Wait<'a> {
    place: &'a ServerPlace,
    client: ClientKey<'a>,
    counts_at: Instant,
    is_over: bool,
}

impl<'a> DialAttempts<'a> {
    /// Begins the tries of a client that has its grant since `granted`.
    pub async fn begin(
        upstream: &'a Arc<Upstream>,
        client: ClientKey<'a>,
        granted: Instant,
    ) -> Self {
        if upstream.entries.iter().any(ServerEntry::is_new) {
            let _ = timeout(upstream.config.dial_timeout, Box::pin(upstream.know_names())).await;
        }
        let (order, due) = upstream.order(&client, Now::read().mono);
        if order.is_empty() {
            let error = "the names of the upstream have no address";
            let server = upstream.config.servers.first().map(ToString::to_string);
            let server = &server.unwrap_or_default();
            DialFailed { upstream: upstream.name(), server, error }.emit();
        }
        Self {
            upstream,
            client,
            order: order.into_iter(),
            due,
            on_trial: None,
            deadline: granted + upstream.config.reach_timeout,
            is_retry: false,
            proxy_header: None,
            rejection: Rejection::UpstreamUnavailable,
            unwanted: None,
        }
    }

    #[must_use]
    pub fn with_proxy_header(self, proxy_header: Option<Bytes>) -> Self {
        Self { proxy_header, ..self }
    }

    /// Takes a place on the next server. It is taken before the dial, so that a burst spreads over
    /// the servers. Returns `None` if no server or no time is left.
    pub fn next_server(&mut self) -> Option<ServerPlace> {
        let now = Now::read().mono;
        if now >= self.deadline {
            return None;
        }
        if let Some(server) = self.due.take()
            && let Some(place) = self.upstream.begin_trial(Arc::clone(&server), now)
        {
            self.on_trial = Some(server);
            return Some(place);
        }
        let on_trial = self.on_trial.as_ref();
        let server = self.order.find(|one| !is_same(on_trial, one))?;
        let errand = errand(&server);
        Some(ServerPlace::new(self.upstream, server, errand))
    }

    /// Returns the failure of the last server.
    pub fn rejection(&self) -> &Rejection {
        &self.rejection
    }

    /// Returns the answer of a server that cannot serve, or else the failure of the last server.
    pub fn into_failure(self) -> TriesFailed {
        match self.unwanted {
            Some(answer) => TriesFailed::Answered(answer),
            None => TriesFailed::Rejected(self.rejection),
        }
    }

    /// Returns the failure of the last server.
    pub fn into_rejection(self) -> Rejection {
        self.rejection
    }

    /// Opens a connection to a server. Returns `None` if it fails, and notes why.
    pub async fn dial_server(&mut self, place: &ServerPlace, _proof: &Grant) -> Option<Stream> {
        let limit = self.upstream.config.dial_timeout;
        let (ends, is_cut) = self.ends(limit);
        let opening = open(&place.server, self.upstream, self.proxy_header.as_deref());
        match timeout_at(ends, opening).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                place.note(TryOutcome::DialFailed);
                let rejection = match error.kind() {
                    io::ErrorKind::TimedOut => Rejection::UpstreamTimeout,
                    _ => Rejection::UpstreamUnavailable,
                };
                self.failed(place, rejection, &error.to_string());
            }
            Err(_) => {
                // The dropped future has not come to this.
                place.server.doubt_name();
                // The client has no part in a dial, so this timeout counts like a refusal.
                if !is_cut {
                    place.note(TryOutcome::DialFailed);
                }
                let error = "no connection within dial_timeout";
                self.failed(place, Rejection::UpstreamTimeout, error);
            }
        }
        None
    }

    /// Waits for a server's answer to an upgrade, and notes it. Returns `None` if the server is
    /// late, sends no correct answer, or cannot serve: the next server may be tried.
    pub async fn answer(
        &mut self,
        place: &ServerPlace,
        answer: impl Future<Output = Result<UpgradeAnswer, Rejection>>,
    ) -> Option<UpgradeAnswer> {
        let (ends, is_cut) = self.ends(self.upstream.config.upgrade_timeout);
        let begun = Now::read().mono;
        let mut wait = Wait {
            place,
            client: self.client,
            counts_at: begun + ends.saturating_duration_since(begun) / 2,
            is_over: false,
        };
        let answered = timeout_at(ends, answer).await;
        wait.is_over = true;
        match answered {
            Ok(Ok(answer)) => {
                let outcome = outcome_of(&answer);
                place.note(outcome);
                if outcome == TryOutcome::Good || !self.can_ask_again() {
                    return Some(answer);
                }
                let error = "the server refused the upgrade with 502, 503 or 504";
                self.failed(place, Rejection::UpstreamUnavailable, error);
                self.unwanted = Some(Box::new(answer));
            }
            Ok(Err(rejection)) => {
                place.note(TryOutcome::BadAnswer);
                let error = rejection.detail();
                self.failed(place, rejection, &error);
            }
            Err(_) => {
                if !is_cut {
                    place.note(TryOutcome::TimedOut(self.client.number()));
                }
                let error = "no answer to the upgrade within upgrade_timeout";
                self.failed(place, Rejection::UpstreamTimeout, error);
            }
        }
        None
    }

    /// Returns true if the answer of a server that cannot serve may be followed by another try. One
    /// such answer is, and only by a server that is not ejected: if all servers are too busy, they
    /// must not get a multiple of the upgrades.
    fn can_ask_again(&self) -> bool {
        let is_good = |server: &Arc<Server>| {
            !is_same(self.on_trial.as_ref(), server) && errand(server) == DialPurpose::Regular
        };
        self.unwanted.is_none()
            && Now::read().mono < self.deadline
            && self.order.as_slice().iter().any(is_good)
    }

    /// Returns the end of a wait, and whether earlier servers have cut it short. A server is not
    /// judged by the rest of the time.
    fn ends(&self, limit: Duration) -> (Instant, bool) {
        let end = Now::read().mono + limit;
        (self.deadline.min(end), self.is_retry && self.deadline < end)
    }

    /// Notes the failure of a server, before the next one is tried.
    pub fn failed(&mut self, place: &ServerPlace, rejection: Rejection, error: &str) {
        self.rejection = rejection;
        self.is_retry = true;
        DialFailed { upstream: self.upstream.name(), server: &place.server(), error }.emit();
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.is_over && Now::read().mono >= self.counts_at {
            self.place.note(TryOutcome::TimedOut(self.client.number()));
        }
    }
}

/// Returns why a client that does not try the server's return is sent to it.
fn errand(server: &Server) -> DialPurpose {
    if lock(&server.health).is_ejected() { DialPurpose::LastResort } else { DialPurpose::Regular }
}

fn is_same(one: Option<&Arc<Server>>, other: &Arc<Server>) -> bool {
    one.is_some_and(|one| Arc::ptr_eq(one, other))
}

fn outcome_of(answer: &UpgradeAnswer) -> TryOutcome {
    match answer {
        UpgradeAnswer::Declined { status, .. } => TryOutcome::of_status(*status),
        UpgradeAnswer::Switched { .. } => TryOutcome::Good,
    }
}

/// Opens a connection to one server. A PROXY header goes in front of everything, also of TLS.
pub(super) async fn open(
    server: &Server,
    upstream: &Upstream,
    proxy_header: Option<&[u8]>,
) -> io::Result<Stream> {
    let proxy_header = proxy_header.unwrap_or_default();
    match &server.config {
        config::Server::Unix { path } => {
            let mut unix = UnixStream::connect(path).await?;
            unix.write_all(proxy_header).await?;
            Ok(Stream::Unix(unix))
        }
        config::Server::Plain { .. } => {
            let mut tcp = tcp(server, upstream).await?;
            tcp.write_all(proxy_header).await?;
            Ok(Stream::Tcp(tcp))
        }
        config::Server::Tls { .. } => {
            let mut tcp = tcp(server, upstream).await?;
            tcp.write_all(proxy_header).await?;
            let (Some(config), Some(name)) = (&upstream.tls, &server.tls_name) else {
                return Err(io::Error::other("this upstream has no TLS"));
            };
            let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await?;
            Ok(Stream::DialledTls(Box::new(stream)))
        }
    }
}

/// Dials one address after the other. Each gets its part of the time, so that a silent address
/// leaves time for the next. The one that answers is the first for the next client.
async fn tcp(server: &Server, upstream: &Upstream) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses = server.addresses();
    let part = match u32::try_from(addresses.len().min(MOST_PARTS)) {
        // The whole dial has this limit already.
        Ok(0 | 1) | Err(_) => Duration::MAX,
        Ok(parts) => upstream.config.dial_timeout / parts,
    };
    for (number, address) in addresses.iter().enumerate() {
        match timeout(part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if number > 0 {
                    server.prefer_address(*address);
                }
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(Duration::from_secs(60))
                    .with_interval(Duration::from_secs(15));
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => {
                let message = "no connection within the part of dial_timeout for each address";
                last = io::Error::new(io::ErrorKind::TimedOut, message);
            }
        }
    }
    server.doubt_name();
    Err(last)
}
