//! Two ends of a connection for tests: Usher's, and a client of rustls.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client};

use super::{TlsStream, accept};

static CERTIFICATE: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.der().clone(), made.signing_key.serialize_der())
});

/// Returns the suites that an ECDSA certificate works with.
pub(super) fn suites() -> Vec<SupportedCipherSuite> {
    let all = aws_lc_rs::ALL_CIPHER_SUITES.iter().copied();
    let suites: Vec<_> = all.filter(|suite| !format!("{suite:?}").contains("RSA_WITH")).collect();
    assert_eq!(suites.len(), 6);
    suites
}

pub(super) fn suite(wanted: CipherSuite) -> SupportedCipherSuite {
    suites().into_iter().find(|suite| suite.suite() == wanted).unwrap()
}

pub(super) fn provider(suites: Vec<SupportedCipherSuite>) -> CryptoProvider {
    CryptoProvider { cipher_suites: suites, ..aws_lc_rs::default_provider() }
}

pub(super) fn server_config(provider: CryptoProvider) -> Arc<ServerConfig> {
    let (certificate, key) = &*CERTIFICATE;
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(key.clone().into());
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

pub(super) fn client_config(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CERTIFICATE.0.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider(vec![suite])));
    let builder = builder.with_protocol_versions(&[suite.version()]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

pub(super) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Returns the two ends of a socket, the server's first.
pub(super) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (accepted, dialled) =
        tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
    let (server, client) = (accepted.unwrap().0, dialled.unwrap());
    server.set_nodelay(true).unwrap();
    client.set_nodelay(true).unwrap();
    (server, client)
}

pub(super) async fn pair(suite: SupportedCipherSuite) -> (TlsStream, client::TlsStream<TcpStream>) {
    let (server, client) = sockets().await;
    let connector = TlsConnector::from(client_config(suite));
    let (accepted, connected) = tokio::join!(
        accept(server, server_config(provider(suites()))),
        connector.connect(localhost(), client)
    );
    (accepted.unwrap().stream, connected.unwrap())
}

/// A sequence of numbers that look random and are the same each time.
pub(super) struct TestRandom(u64);

impl TestRandom {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}
