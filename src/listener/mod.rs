//! Accepting connections.
//!
//! Each thread has its own socket on each address (`bind.rs`), so the kernel spreads connections
//! and a session lives and dies on one core. The loop never ends by itself: a shortage of
//! descriptors slows it down.

pub mod events;
mod queue;

use crate::base::clock::Now;
use crate::edge::ListenerTerms;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{timeout, timeout_at};

use self::events::{AcceptFailed, TlsEstablished, TlsFailed, TlsOutcome};
use crate::edge::drain::Accepting;
use crate::edge::worker::Worker;
use crate::http::connection::ClientConnection;
use crate::http::serve;
use crate::model::client_certificate::ClientCertificate;
use crate::net::stream::Stream;
use crate::net::tls::{self, Established, HandshakeError};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

/// The pause after a failed accept. Each further failure doubles it, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
pub async fn accept(bound: Bound, worker: Worker, _accepting: Accepting) -> io::Result<()> {
    let listener = TcpListener::from_std(bound.socket)?;
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.edge.drain.begun() => break,
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
                let _ = timeout(pause, worker.edge.drain.begun()).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    if bound.owner == SocketOwner::ServiceManager {
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

fn admit(stream: TcpStream, peer: SocketAddr, listener_index: usize, worker: Worker) {
    let Some(ListenerTerms { config, tls, authorities }) =
        worker.edge.listeners.get(listener_index).cloned()
    else {
        return;
    };
    let Some(permit) = worker.edge.ceiling.enter() else {
        LimitReached { limit: Limit::Connections, peer: Some(peer.ip()) }.emit();
        return;
    };
    // An IPv4 client of an IPv6 socket is an IPv4 client.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Ok(standing) = worker.edge.waiting_room.admit(peer.ip(), &config) else { return };
    let deadline = Now::read().mono + worker.edge.config.limits.handshake_timeout;
    let mut client = ClientConnection {
        peer,
        listener: config,
        permit,
        standing: Arc::new(standing),
        deadline,
        certificate: None,
        listener_index,
        authorities,
    };
    tokio::spawn(async move {
        match tls {
            None => serve::serve(Stream::Tcp(stream), client, worker).await,
            Some(tls) => {
                if let Some((stream, certificate)) = handshake(stream, tls, &client, &worker).await
                {
                    client.certificate = certificate;
                    serve::serve(stream, client, worker).await;
                }
            }
        }
    });
}

/// Completes the TLS handshake. Returns `None` if it failed or took too long, which is reported
/// here.
async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    client: &ClientConnection,
    worker: &Worker,
) -> Option<(Stream, Option<ClientCertificate>)> {
    let peer = client.peer.ip();
    let started = Now::read().mono;
    let deadline = client.deadline.min(started + worker.edge.config.limits.tls_timeout);
    match timeout_at(deadline, Box::pin(tls::accept(stream, config))).await {
        Ok(Ok(Established { stream, resumed, certificate })) => {
            TlsEstablished { resumed, duration: started.elapsed() }.emit();
            Some((Stream::Tls(Box::new(stream)), certificate))
        }
        Ok(Err(error)) => {
            let reason = match error {
                HandshakeError::Protocol(
                    rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented,
                ) => TlsOutcome::Certificate,
                HandshakeError::Protocol(_) => TlsOutcome::Protocol,
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
    let HandshakeError::Protocol(rustls::Error::InvalidCertificate(
        rustls::CertificateError::Other(fault),
    )) = error
    else {
        return error.to_string();
    };
    let fault = fault.to_string();
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
