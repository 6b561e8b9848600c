//! Accepting connections.
//!
//! Each thread has its own socket on each address (`SO_REUSEPORT`), so the kernel spreads connections and a session lives
//! and dies on one core. The loop never ends by itself: a shortage of descriptors slows it down.

pub mod waiting_room;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{RootCertStore, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::app::Worker;
use crate::auth::certificate::ClientCertificate;
use crate::config;
use crate::http::serve::{self, Client};
use crate::stream::Stream;
use crate::telemetry::event::Event;
use crate::tls::{self, Established, HandshakeError};

const BACKLOG: i32 = 4096;
/// After a failed accept: first this long, then twice as long each time, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A listener's address on one thread.
#[derive(Debug)]
pub struct Bound {
    pub socket: std::net::TcpListener,
    /// Which of the [`Door`]s of the edge it is.
    pub door: usize,
}

/// What a listener's address asks of those who come in, at one time.
#[derive(Clone, Debug)]
pub struct Door {
    pub config: Arc<config::Listener>,
    pub tls: Option<Arc<ServerConfig>>,
    /// Who may sign clients' certificates, where these are asked for.
    pub authorities: Option<Arc<RootCertStore>>,
}

/// How many client connections there are, and may be.
#[derive(Debug)]
pub struct Ceiling {
    open: AtomicUsize,
    limit: AtomicUsize,
}

/// A connection's place under the ceiling. It tells its end, also when that is a panic.
#[derive(Debug)]
pub struct Permit(Arc<Ceiling>);

impl Ceiling {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), limit: AtomicUsize::new(limit) })
    }

    /// From now on. Who is there stays.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn enter(self: &Arc<Self>) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        let entered = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < limit).then_some(open + 1));
        entered.is_ok().then(|| {
            Event::ConnectionOpened.emit();
            Permit(Arc::clone(self))
        })
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        Event::ConnectionClosed.emit();
        if std::thread::panicking() {
            Event::ConnectionPanicked.emit();
        }
    }
}

/// Binds one address for one thread. Port 0 is bound once and given to the other threads as the port that it became.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // `[::]` means every address, IPv4 ones too.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // What is accepted here inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the drain begins.
pub async fn accept(bound: Bound, worker: Worker) -> io::Result<()> {
    let listener = TcpListener::from_std(bound.socket)?;
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.edge.drain.begun() => return Ok(()),
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                admit(stream, peer, bound.door, worker.renewed());
            }
            Err(error) if is_the_peer_s(&error) => {}
            Err(error) => {
                Event::AcceptFailed { error: &error }.emit();
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The connection ended before we took it: no reason to wait with the next.
fn is_the_peer_s(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

fn admit(stream: TcpStream, peer: SocketAddr, door: usize, worker: Worker) {
    let Some(Door { config, tls, authorities }) = worker.edge.doors.get(door).cloned() else { return };
    let Some(permit) = worker.edge.ceiling.enter() else {
        Event::LimitReached { limit: "connections", peer: Some(peer.ip()) }.emit();
        return;
    };
    // An IPv4 client of an IPv6 socket is an IPv4 client.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Ok(waiting) = worker.edge.waiting_room.admit(peer.ip(), &config) else { return };
    let deadline = Instant::now() + worker.edge.config.limits.handshake_timeout;
    let mut client = Client { peer, listener: config, permit, waiting: Some(waiting), deadline, certificate: None, door, authorities };
    tokio::spawn(async move {
        match tls {
            None => serve::serve(Stream::Tcp(stream), client, worker).await,
            Some(tls) => {
                if let Some((stream, certificate)) = handshake(stream, tls, &client, &worker).await {
                    client.certificate = certificate;
                    serve::serve(stream, client, worker).await;
                }
            }
        }
    });
}

/// `None`: the client did not manage a handshake in time; that is told here.
async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    client: &Client,
    worker: &Worker,
) -> Option<(Stream, Option<ClientCertificate>)> {
    let peer = client.peer.ip();
    let started = Instant::now();
    let deadline = client.deadline.min(started + worker.edge.config.limits.tls_timeout);
    match timeout_at(deadline, Box::pin(tls::accept(stream, config))).await {
        Ok(Ok(Established { stream, resumed, certificate })) => {
            Event::TlsEstablished { resumed, duration: started.elapsed() }.emit();
            Some((Stream::Tls(Box::new(stream)), certificate))
        }
        Ok(Err(error)) => {
            let reason = match error {
                HandshakeError::Protocol(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "certificate",
                HandshakeError::Protocol(_) => "protocol",
                HandshakeError::Gone(_) => "gone",
            };
            Event::TlsFailed { peer, reason, detail: &detail(&error) }.emit();
            None
        }
        Err(_) => {
            Event::TlsFailed { peer, reason: "timeout", detail: "no handshake within tls_timeout" }.emit();
            None
        }
    }
}

/// What the certificate library says about a client's certificate, in words.
fn detail(error: &HandshakeError) -> String {
    let HandshakeError::Protocol(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(fault))) = error else {
        return error.to_string();
    };
    let fault = fault.to_string();
    let words = match fault.as_str() {
        "UnsupportedCertVersion" => "it is no X.509 certificate of version 3: it was made without extensions",
        "CaUsedAsEndEntity" => "it is the certificate of an authority",
        other => other,
    };
    format!("invalid peer certificate: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_certificate_is_told_in_words() {
        let openssl_without_extensions = rustls::OtherError(Arc::new(io::Error::other("UnsupportedCertVersion")));
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::Other(openssl_without_extensions));
        assert!(detail(&HandshakeError::Protocol(error)).ends_with("of version 3: it was made without extensions"));
        let other = HandshakeError::Protocol(rustls::Error::DecryptError);
        assert_eq!(detail(&other), other.to_string());
    }

    #[test]
    fn the_ceiling_holds_and_a_place_is_given_back() {
        let ceiling = Ceiling::new(2);
        let (first, second) = (ceiling.enter(), ceiling.enter());
        assert!(first.is_some() && second.is_some() && ceiling.enter().is_none());
        drop(first);
        assert!(ceiling.enter().is_some());
        ceiling.set_limit(1);
        assert!(ceiling.enter().is_none() && ceiling.open() == 1, "who is there stays");
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_gives_its_place_back() {
        let ceiling = Ceiling::new(2);
        let other = ceiling.enter().unwrap();
        let permit = ceiling.enter().unwrap();
        let task = tokio::spawn(async move {
            let _permit = permit;
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(ceiling.open(), 1);
        drop(other);
    }
}
