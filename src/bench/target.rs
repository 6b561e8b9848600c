//! The target of the load: the URL, its addresses, and whether the load is allowed.
//!
//! Host names are resolved once, before anything is sent. A load test of another person's machine
//! is an attack, so any target but loopback needs a flag.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use http::uri::Authority;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::net::stream::Stream;
use crate::net::tls::trust::tls_config;

/// The most connections from one source address. The system has about 28,000 ports for each
/// address.
const PER_SOURCE: u64 = 20_000;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    #[error(
        "{0} is not a valid target; write ws://HOST[:PORT]/PATH or wss://HOST[:PORT]/PATH, without \
         user and fragment"
    )]
    Url(String),
    #[error("cannot resolve {host}: {problem}")]
    Unresolved { host: String, problem: String },
    #[error(
        "{host} ({address}) is not this machine, and a load test of a host that is not yours is an \
         attack\n  if it is yours, or its owner agrees, add --yes-i-may-load-this-host"
    )]
    NotLoopback { host: String, address: IpAddr },
    #[error("{0}")]
    Tls(String),
}

#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The file with the only accepted roots. `None`: the roots of the system.
    pub ca: Option<&'a Path>,
    pub insecure: bool,
    /// Whether TLS sessions are resumed, as by a client that reconnects.
    pub resume: bool,
}

#[derive(Debug)]
pub struct Target {
    pub authority: Authority,
    pub path_and_query: String,
    addresses: Vec<SocketAddr>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Target {
    pub fn find(url: &str, trust: Trust<'_>, may_load_any_host: bool) -> Result<Self, TargetError> {
        let (secure, authority, path_and_query) = parse(url)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let unresolved =
            |problem: String| TargetError::Unresolved { host: host.to_owned(), problem };
        let addresses: Vec<_> = (host, port)
            .to_socket_addrs()
            .map_err(|error| unresolved(error.to_string()))?
            .collect();
        if addresses.is_empty() {
            return Err(unresolved("the host name has no address".to_owned()));
        }
        if !may_load_any_host {
            refuse_others(host, &addresses)?;
        }
        let tls = if secure {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| TargetError::Url(url.to_owned()))?;
            Some((client_config(trust)?, name))
        } else {
            None
        };
        Ok(Self { authority, path_and_query, addresses, tls })
    }

    /// Opens the TCP connection with this number.
    pub async fn connect(&self, number: u64) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in &self.addresses {
            match connect(*address, number).await {
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Does the TLS handshake, if the target uses TLS.
    pub async fn secure(&self, tcp: TcpStream) -> io::Result<Stream> {
        let Some((config, name)) = &self.tls else { return Ok(Stream::Tcp(tcp)) };
        let stream =
            Box::pin(TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp)).await?;
        Ok(Stream::DialledTls(Box::new(stream)))
    }
}

/// Returns true if the handshake of this stream resumed an earlier session.
pub fn is_resumed(stream: &Stream) -> bool {
    let Stream::DialledTls(tls) = stream else { return false };
    tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// Makes this process offer only this key exchange, so that servers with different preferences do
/// the same work.
pub fn offer_only(key_exchange: NamedGroup) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == key_exchange);
    // This works only for the first provider of a process.
    let _ = provider.install_default();
}

fn parse(url: &str) -> Result<(bool, Authority, String), TargetError> {
    let wrong = || TargetError::Url(url.to_owned());
    // The parser drops a fragment without an error.
    let uri: Uri = url.parse().ok().filter(|_| !url.contains('#')).ok_or_else(wrong)?;
    let secure = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err(wrong()),
    };
    let authority =
        uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    Ok((
        secure,
        authority.clone(),
        uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
    ))
}

/// Rejects a host if one of its addresses is not on loopback: any of them may be dialled.
fn refuse_others(host: &str, addresses: &[SocketAddr]) -> Result<(), TargetError> {
    match addresses.iter().map(SocketAddr::ip).find(|address| !address.to_canonical().is_loopback())
    {
        Some(address) => Err(TargetError::NotLoopback { host: host.to_owned(), address }),
        None => Ok(()),
    }
}

/// Connects. On loopback, each 127.x.y.z is a source address of this machine, so the ports of one
/// source address do not limit the number of connections.
async fn connect(address: SocketAddr, number: u64) -> io::Result<TcpStream> {
    let source = number / PER_SOURCE % 250;
    if source == 0 || !matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
        return TcpStream::connect(address).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + source as u8), 0)))?;
    socket.connect(address).await
}

fn client_config(trust: Trust<'_>) -> Result<Arc<ClientConfig>, TargetError> {
    let mut config = if trust.insecure {
        let verifier = Arc::new(AnyCertificate(rustls::crypto::aws_lc_rs::default_provider()));
        let mut config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    } else {
        Arc::unwrap_or_clone(tls_config(trust.ca).map_err(TargetError::Tls)?)
    };
    if !trust.resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// Accepts any certificate. Signatures are still verified, because they are part of the cost of a
/// handshake.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Trust<'static> = Trust { ca: None, insecure: false, resume: false };

    #[test]
    fn only_loopback_is_loaded_unless_allowed_in_words() {
        for url in [
            "ws://127.0.0.1:9/ws",
            "ws://127.8.8.8/ws",
            "ws://[::1]:9/ws",
            "ws://localhost:9/ws",
            "ws://[::ffff:127.0.0.1]/",
        ] {
            assert!(Target::find(url, NOBODY, false).is_ok(), "{url}");
        }
        for url in [
            "ws://192.0.2.1/ws",
            "ws://[2001:db8::1]:9/ws",
            "ws://[::ffff:192.0.2.1]/",
            "ws://0.0.0.0:9/ws",
        ] {
            let refused = Target::find(url, NOBODY, false).unwrap_err();
            assert!(matches!(refused, TargetError::NotLoopback { .. }), "{url}: {refused}");
            assert!(refused.to_string().contains("--yes-i-may-load-this-host"));
            assert!(Target::find(url, NOBODY, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn one_address_elsewhere_is_enough_to_refuse_a_name() {
        let both = ["127.0.0.1:80".parse().unwrap(), "192.0.2.7:80".parse().unwrap()];
        assert_eq!(refuse_others("both", &both[..1]), Ok(()));
        let address = "192.0.2.7".parse().unwrap();
        assert_eq!(
            refuse_others("both", &both),
            Err(TargetError::NotLoopback { host: "both".to_owned(), address })
        );
    }

    #[test]
    fn a_url_has_one_reading() {
        for url in [
            "http://localhost/",
            "localhost",
            "ws://",
            "ws:///x",
            "ws://me@localhost/",
            "ws://localhost/#x",
            "/ws",
        ] {
            assert!(matches!(parse(url), Err(TargetError::Url(_))), "{url}");
        }
        let (secure, authority, target) = parse("wss://localhost:8443/ws?room=1").unwrap();
        assert_eq!(
            (secure, authority.as_str(), target.as_str()),
            (true, "localhost:8443", "/ws?room=1")
        );
        assert_eq!(parse("ws://localhost").unwrap().2, "/");
    }
}
