//! Dialling a server: TCP, TLS or a unix socket.
//!
//! [`dial`] takes a `&Grant`. There is no other way to an upstream, and no way to a `Grant` but through `auth`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::{Place, Server, Upstream};
use crate::auth::grant::Grant;
use crate::config;
use crate::rejection::Rejection;
use crate::stream::Stream;
use crate::telemetry::event::Event;

/// How long the addresses of a server's name are used before they are asked for again.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// Opens a connection to the least busy server, or to the next one where that fails.
pub async fn dial(_proof: &Grant, upstream: &Arc<Upstream>) -> Result<(Stream, Place), Rejection> {
    let mut rejection = Rejection::UpstreamUnavailable;
    for index in upstream.order() {
        let Some(server) = upstream.servers.get(index) else { continue };
        // The place is taken before the dial, so that a burst spreads over the servers.
        let place = upstream.place(index);
        let failure = match timeout(upstream.config.dial_timeout, open(server, upstream)).await {
            Ok(Ok(stream)) => return Ok((stream, place)),
            Ok(Err(error)) => {
                rejection = Rejection::UpstreamUnavailable;
                error.to_string()
            }
            Err(_) => {
                rejection = Rejection::UpstreamTimeout;
                "no connection within dial_timeout".to_owned()
            }
        };
        Event::DialFailed { upstream: upstream.name(), server: &server.label, error: &failure }.emit();
    }
    Err(rejection)
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
                let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
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

/// A name is asked for once in a while, not once in a connection: the resolver blocks a thread.
async fn addresses(server: &Server, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let now = Instant::now();
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

/// `ca_file`: these roots alone. Without it: the system's.
pub fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let shown = path.display();
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| format!("{shown}: {error}"))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
                roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
            }
            if roots.is_empty() {
                return Err(format!("{shown} holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("the system has no root certificates; name some with ca_file".to_owned());
            }
        }
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
