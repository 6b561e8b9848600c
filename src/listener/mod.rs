//! Accepting connections.
//!
//! Each thread has its own socket on each address (`bind.rs`), so the kernel spreads connections
//! and a session lives and dies on one core. The loop never ends by itself: a shortage of
//! descriptors slows it down.

pub mod events;
mod proxied;
mod queue;

use crate::acme::events::ChallengeAnswered;
use crate::base::clock::Now;
use crate::config::AcmeChallenge;
use crate::edge::ListenerTerms;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use self::events::{
    AcceptFailed, ProtocolChosen, ProxyHeaderRefused, ProxyOutcome, TlsEstablished, TlsFailed,
    TlsOutcome,
};
use crate::edge::ceiling::Permit;
use crate::edge::drain::{Accepting, DrainPhase};
use crate::edge::waiting_room::{StrangerState, WaitingPlace};
use crate::edge::worker::Worker;
use crate::http::connection::ClientConnection;
use crate::http::events::Protocol;
use crate::http::{http2, serve};
use crate::net::proxy_protocol::{ClientTls, ProxiedAddresses, ProxyHeader};
use crate::net::stream::Stream;
use crate::net::tls::{self, Established, HandshakeError};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

/// The pause after a failed accept. Each further failure doubles it, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a connection that checked a challenge may take to close.
const FAREWELL: Duration = Duration::from_secs(1);

/// A listener's address on one thread.
#[derive(Debug)]
pub struct Bound {
    pub socket: std::net::TcpListener,
    /// The position of its [`ListenerTerms`] in the edge.
    pub listener_index: usize,
    pub owner: SocketOwner,
}

/// The owner of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOwner {
    ThisProcess,
    /// The service manager has a copy, and passes it to the next process.
    ServiceManager,
}

/// Accepts connections until the drain begins, and then those in the queue. The queue of a service
/// manager's socket is left to the next process.
pub async fn accept(bound: Bound, worker: Worker, accepting: Accepting) -> io::Result<()> {
    let drain = Arc::clone(&worker.edge.drain);
    let address = bound.socket.local_addr()?;
    let listener = TcpListener::from_std(bound.socket)?;
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.halted() => match accepting.wait(&drain).await {
                DrainPhase::Accepting | DrainPhase::Paused => continue,
                DrainPhase::Replaced | DrainPhase::Stopping | DrainPhase::Refusing => break,
            },
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                admit(stream, peer, bound.listener_index, worker.renewed());
            }
            Err(error) if is_peer_error(&error) => {}
            Err(error) => {
                AcceptFailed { error: &error }.emit();
                // The start of a drain ends the pause.
                let _ = timeout(pause, drain.halted()).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    if bound.owner == SocketOwner::ServiceManager || drain.is_taken(address) {
        return Ok(());
    }
    let admit = |stream: std::net::TcpStream, peer| {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            admit(stream, peer, bound.listener_index, worker.renewed());
        }
    };
    queue::empty(listener.into_std()?, admit).await;
    Ok(())
}

/// Returns true if the connection ended before it was accepted. The next accept need not wait.
fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Admits an accepted socket: under the limits of connections, and of proxies if the listener
/// requires a PROXY header.
fn admit(stream: TcpStream, peer: SocketAddr, listener_index: usize, worker: Worker) {
    let Some(terms) = worker.edge.listeners.get(listener_index).cloned() else { return };
    // An IPv4 client of an IPv6 socket is an IPv4 client.
    let peer = canonical(peer);
    if !terms.config.admits(peer.ip()) {
        let detail = "the address of the socket is not in proxy_peers";
        ProxyHeaderRefused { peer: peer.ip(), reason: ProxyOutcome::NotListed, detail }.emit();
        return;
    }
    let Some(permit) = worker.edge.ceiling.enter() else {
        LimitReached { limit: Limit::Connections, peer: Some(peer.ip()) }.emit();
        return;
    };
    let Ok(destination) = stream.local_addr() else { return };
    let ends = ProxiedAddresses { source: peer, destination: canonical(destination) };
    let deadline = Now::read().mono + worker.edge.config.limits.handshake_timeout;
    let arrival = Arrival { ends, permit, deadline, listener_index, terms };
    if arrival.terms.config.requires_proxy_header() {
        let Ok(place) = worker.edge.waiting_room.enter_behind_proxy(peer.ip()) else { return };
        tokio::spawn(serve_proxied(stream, arrival, place, worker));
        return;
    }
    let admitted = worker.edge.waiting_room.admit(peer.ip(), &arrival.terms.config);
    let Ok(standing) = admitted else { return };
    let (client, tls) = arrival.client(standing, ProxyHeader::default());
    tokio::spawn(serve_client(stream, client, tls, worker));
}

/// An accepted socket whose client is not known yet.
struct Arrival {
    ends: ProxiedAddresses,
    permit: Permit,
    deadline: Instant,
    listener_index: usize,
    terms: ListenerTerms,
}

impl Arrival {
    /// Returns the client that the header names, or the peer of the socket.
    fn client(
        self,
        standing: StrangerState,
        header: ProxyHeader,
    ) -> (ClientConnection, Option<Arc<ServerConfig>>) {
        let ends = header.addresses.unwrap_or(self.ends);
        let client = ClientConnection {
            peer: ends.source,
            destination: ends.destination,
            tls: header.tls,
            server_name: header.authority,
            listener: self.terms.config,
            permit: self.permit,
            standing: Arc::new(standing),
            deadline: self.deadline,
            certificate: None,
            listener_index: self.listener_index,
            authorities: self.terms.authorities,
        };
        (client, self.terms.tls)
    }
}

/// Reads the PROXY header, and then serves the client that it names.
async fn serve_proxied(
    mut stream: TcpStream,
    arrival: Arrival,
    place: WaitingPlace,
    worker: Worker,
) {
    let limits = &worker.edge.config.limits;
    let deadline = arrival.deadline.min(Now::read().mono + limits.head_timeout);
    let socket = arrival.ends.source.ip();
    let Some(mut header) = proxied::read_header(&mut stream, socket, deadline).await else {
        return;
    };
    if let Some(ProxiedAddresses { source, destination }) = &mut header.addresses {
        (*source, *destination) = (canonical(*source), canonical(*destination));
    }
    let client = header.addresses.map_or(socket, |ends| ends.source.ip());
    let Ok(standing) = place.admit(client, &arrival.terms.config) else { return };
    let (client, tls) = arrival.client(standing, header);
    // Boxed: only its connections hold both futures.
    Box::pin(serve_client(stream, client, tls, worker)).await;
}

/// Shakes hands, where the listener has TLS, and serves the connection.
async fn serve_client(
    stream: TcpStream,
    mut client: ClientConnection,
    tls: Option<Arc<ServerConfig>>,
    worker: Worker,
) {
    let Some(tls) = tls else {
        ProtocolChosen { protocol: Protocol::Http1 }.emit();
        return serve::serve(Stream::Tcp(stream), client, worker).await;
    };
    if let Some(mut established) = handshake(stream, tls, &client, &worker).await {
        if established.is_challenge {
            // RFC 8737 section 3: the server closes after the handshake.
            let peer = client.peer.ip();
            ChallengeAnswered { challenge: AcmeChallenge::TlsAlpn01, peer }.emit();
            let _ = timeout(FAREWELL, established.stream.shutdown()).await;
            return;
        }
        client.certificate = established.certificate;
        client.tls = Some(ClientTls { version: established.version });
        client.server_name = established.server_name;
        let stream = Stream::Tls(Box::new(established.stream));
        if established.is_http2 {
            ProtocolChosen { protocol: Protocol::Http2 }.emit();
            Box::pin(http2::serve(stream, client, worker)).await;
        } else {
            ProtocolChosen { protocol: Protocol::Http1 }.emit();
            serve::serve(stream, client, worker).await;
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Completes the TLS handshake. Returns `None` if it failed or took too long, which is reported
/// here.
async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    client: &ClientConnection,
    worker: &Worker,
) -> Option<Established> {
    let peer = client.peer.ip();
    let started = Now::read().mono;
    let deadline = client.deadline.min(started + worker.edge.config.limits.tls_timeout);
    match timeout_at(deadline, Box::pin(tls::accept(stream, config))).await {
        Ok(Ok(established)) => {
            let duration = started.elapsed();
            TlsEstablished { resumed: established.resumed, duration }.emit();
            Some(established)
        }
        Ok(Err(error)) => {
            let reason = match error {
                HandshakeError::Protocol(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::Revoked,
                )) => TlsOutcome::Revoked,
                HandshakeError::Protocol(
                    rustls::Error::InvalidCertificate(_)
                    | rustls::Error::InvalidCertRevocationList(_)
                    | rustls::Error::NoCertificatesPresented,
                ) => TlsOutcome::Certificate,
                HandshakeError::Protocol(_) => TlsOutcome::Protocol,
                HandshakeError::NotIssued => TlsOutcome::NotIssued,
                HandshakeError::NoChallenge => TlsOutcome::NoChallenge,
                HandshakeError::Gone(_) => TlsOutcome::Gone,
            };
            TlsFailed { peer, reason, detail: &detail(&error) }.emit();
            None
        }
        Err(_) => {
            TlsFailed {
                peer,
                reason: TlsOutcome::Timeout,
                detail: "no handshake within tls_timeout",
            }
            .emit();
            None
        }
    }
}

/// Describes a handshake error. Codes of the certificate library become words.
fn detail(error: &HandshakeError) -> String {
    let fault = match error {
        HandshakeError::Protocol(rustls::Error::InvalidCertificate(fault)) => match fault {
            rustls::CertificateError::Other(fault) => fault.to_string(),
            rustls::CertificateError::UnknownRevocationStatus => {
                "no CRL of the listener is of the certificate's authority".to_owned()
            }
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    let words = match fault.as_str() {
        "UnsupportedCertVersion" => {
            "the certificate is not X.509 of version 3: it was made without extensions"
        }
        "CaUsedAsEndEntity" => "the certificate is that of an authority",
        other => other,
    };
    format!("invalid peer certificate: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::ceiling::Ceiling;

    #[test]
    fn an_old_certificate_is_told_in_words() {
        let openssl_without_extensions =
            rustls::OtherError(Arc::new(io::Error::other("UnsupportedCertVersion")));
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::Other(
            openssl_without_extensions,
        ));
        assert!(
            detail(&HandshakeError::Protocol(error))
                .ends_with("of version 3: it was made without extensions")
        );
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
