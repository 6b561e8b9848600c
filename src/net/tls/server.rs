//! The TLS side of a listener: certificates by name, versions, session resumption.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::acme::{self, AcmeCertificates};
use super::crl::RevocationLists;
use super::pem::{NO_CERTIFICATE, read_certificates};
use super::stapling::{Staples, Stapling};
use crate::config::{CertificateFiles, ClientCertificates, Tls, TlsVersion};

/// The accepted cipher suites, in order. The first one that the client offers is used.
const SUITES: [SupportedCipherSuite; 9] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// The name of HTTP/2 in ALPN (RFC 9113 section 3.1).
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP: &[u8] = b"http/1.1";

#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct TlsError {
    pub file: String,
    pub problem: String,
}

thread_local! {
    /// The host of the last client hello on this thread.
    static NAMED_HOST: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
    /// The reason why the last client hello on this thread got no certificate.
    static MISSING: Cell<Option<MissingCertificate>> = const { Cell::new(None) };
}

/// The reason why a client hello gets no certificate. rustls answers it with the alert
/// `access_denied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingCertificate {
    /// The authority has not issued one yet.
    NotIssued,
    /// The client offers `acme-tls/1`, and no challenge for the name is pending.
    NoChallenge,
}

/// Takes the reason for the last client hello without a certificate, right after rustls has
/// processed it.
pub(super) fn take_missing_certificate() -> Option<MissingCertificate> {
    MISSING.take()
}

/// Takes the host that the client hello named, right after rustls has processed it: rustls shows it
/// to the choice of a certificate alone.
pub(super) fn take_named_host() -> Option<Box<str>> {
    NAMED_HOST.take()
}

/// Certificates by the names they are made for.
#[derive(Debug)]
struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the part after `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// The first certificate: for clients that name no host, or a host without a certificate.
    /// `None` only with `acme`.
    first: Option<Arc<CertifiedKey>>,
    acme: Option<ListenerAcme>,
    offers_http2: bool,
}

/// The certificate of `[acme]`, as a listener serves it.
#[derive(Clone, Debug)]
pub struct ListenerAcme {
    pub certificates: Arc<AcmeCertificates>,
    /// The names that are never served with the certificate of another name.
    pub domains: Arc<[String]>,
    /// Whether handshakes answer challenges.
    pub answers_challenges: bool,
}

/// Builds the TLS configuration of a listener. `authorities` and `revoked` are those of
/// [`Tls::clients`], `acme` is the certificate of [`Tls::has_acme`].
pub fn config(
    tls: &Tls,
    authorities: Option<&Arc<RootCertStore>>,
    revoked: Option<&RevocationLists>,
    staples: &Arc<Staples>,
    acme: Option<&ListenerAcme>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let certificates = Certificates::load(tls, acme.filter(|_| tls.has_acme))?;
    let answers_challenges = certificates.acme.as_ref().is_some_and(|acme| acme.answers_challenges);
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = Arc::new(CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        ..aws_lc_rs::default_provider()
    });
    let verifier = match (&tls.clients, authorities) {
        (None, _) => WebPkiClientVerifier::no_client_auth(),
        (Some(clients), Some(authorities)) => verifier(clients, authorities, revoked, &provider)?,
        (Some(clients), None) => {
            return Err(TlsError {
                file: clients.ca_file.display().to_string(),
                problem: NO_CERTIFICATE.to_owned(),
            });
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| TlsError { file: "tls".to_owned(), problem: error.to_string() })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Stapling { certificates, staples: Arc::clone(staples) }));
    config.alpn_protocols = match tls.http2 {
        true => vec![HTTP2.to_vec(), HTTP.to_vec()],
        false => vec![HTTP.to_vec()],
    };
    if answers_challenges {
        // rustls takes the first of these that the client offers.
        config.alpn_protocols.push(acme::ALPN.to_vec());
    }
    // The client keeps its session in a ticket, under keys that change every six hours. A store
    // here would grow, and each handshake would lock and search it. A ticket carries the client's
    // certificate, and is valid for this configuration only. So the clients of a removed authority
    // cannot return with an earlier ticket.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()
        .map_err(|error| TlsError { file: "tls".to_owned(), problem: error.to_string() })?;
    // One is enough for a browser that opens one socket; the second costs time on every handshake.
    config.send_tls13_tickets = 1;
    // Many clients offer AES-256 first and take AES-128 as well. With AES-128 and SHA-256 the
    // handshake costs a tenth less, and each byte a fifth.
    config.ignore_client_order = true;
    // rustls does the handshake, and Usher's own stream uses the keys.
    config.enable_secret_extraction = true;
    // Early data can be replayed; a ticket must not ride in it.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Builds the verifier of client certificates. A client without a certificate passes if the
/// listener allows it; a client with a wrong one does not.
fn verifier(
    clients: &ClientCertificates,
    authorities: &Arc<RootCertStore>,
    revoked: Option<&RevocationLists>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider));
    let builder = if clients.is_required { builder } else { builder.allow_unauthenticated() };
    // The whole chain is checked. An expired list says nothing about the certificates that were
    // revoked since, so it refuses all of its authority.
    let builder = match revoked {
        Some(lists) => builder.with_crls(lists.ders()).enforce_revocation_expiration(),
        None => builder,
    };
    let builder = if clients.accepts_without_crl {
        builder.allow_unknown_revocation_status()
    } else {
        builder
    };
    builder.build().map_err(|error| TlsError {
        file: clients.ca_file.display().to_string(),
        problem: error.to_string(),
    })
}

/// Checks a client's certificate chain as the handshake does. The leaf comes first.
pub fn check_client(
    clients: &ClientCertificates,
    chain: &[CertificateDer<'_>],
    at: UnixTime,
) -> Result<(), TlsError> {
    let file = || clients.ca_file.display().to_string();
    let Some((leaf, others)) = chain.split_first() else {
        let problem =
            "the client must show a certificate of these authorities, and showed none".to_owned();
        return if clients.is_required { Err(TlsError { file: file(), problem }) } else { Ok(()) };
    };
    let authorities = Arc::new(authorities(&clients.ca_file)?);
    let revoked = RevocationLists::of(clients)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    verifier(clients, &authorities, revoked.as_ref(), &provider)?
        .verify_client_cert(leaf, others, at)
        .map_err(|error| TlsError { file: file(), problem: error.to_string() })?;
    Ok(())
}

/// Returns an error if rustls cannot apply a list of revoked certificates.
pub(super) fn accept_list(
    authorities: &Arc<RootCertStore>,
    list: &CertificateRevocationListDer<'static>,
) -> Result<(), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider);
    builder.with_crls([list.clone()]).build().map(drop).map_err(|error| error.to_string())
}

/// Returns the authorities of clients in a PEM file.
pub fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let roots = read_certificates(file).and_then(|certificates| trust_all(&certificates));
    roots.map_err(|problem| TlsError { file: file.display().to_string(), problem })
}

/// Returns a store in which each of these certificates may sign those of clients.
pub fn trust_all(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// Loads a certificate chain with its key, and its host names in lower case.
pub fn load(files: &CertificateFiles) -> Result<(Vec<String>, Arc<CertifiedKey>), TlsError> {
    let at = |path: &Path, problem: String| TlsError { file: path.display().to_string(), problem };
    let chain = read_certificates(&files.cert).map_err(|problem| at(&files.cert, problem))?;
    let Some(leaf) = chain.first() else {
        return Err(at(&files.cert, NO_CERTIFICATE.to_owned()));
    };
    let names = names_of(leaf).map_err(|problem| at(&files.cert, problem))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| at(&files.key, error.to_string()))?;
    let key = aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| at(&files.key, error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| {
        at(&files.key, format!("this key does not belong to {}", files.cert.display()))
    })?;
    Ok((names, Arc::new(certified)))
}

pub fn names_of(leaf: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let extension = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names =
        extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAMED_HOST.set(hello.server_name().map(Box::from));
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let challenged =
            self.acme.as_ref().filter(|acme| acme.answers_challenges && self.is_challenge(&hello));
        let (found, missing) = match challenged {
            Some(acme) => (
                name.and_then(|name| acme.certificates.challenge(&name)),
                MissingCertificate::NoChallenge,
            ),
            None => (self.find(name.as_deref()), MissingCertificate::NotIssued),
        };
        MISSING.set(found.is_none().then_some(missing));
        found
    }
}

/// Returns the certificate for a client that names this host. `None`: none was issued yet.
pub fn certificate_for(
    tls: &Tls,
    acme: Option<&ListenerAcme>,
    host: &str,
) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    Ok(Certificates::load(tls, acme.filter(|_| tls.has_acme))?.find(Some(host)))
}

impl Certificates {
    fn load(tls: &Tls, acme: Option<&ListenerAcme>) -> Result<Self, TlsError> {
        let loaded = tls.certificates.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let mut certificates = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            first: loaded.first().map(|(_, first)| Arc::clone(first)),
            acme: acme.cloned(),
            offers_http2: tls.http2,
        };
        if certificates.first.is_none() && certificates.acme.is_none() {
            return Err(TlsError {
                file: "certificates".to_owned(),
                problem: "none is configured".to_owned(),
            });
        }
        for (names, key) in loaded {
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut certificates.wildcard, parent.to_owned()),
                    None => (&mut certificates.exact, name),
                };
                map.entry(name).or_insert_with(|| Arc::clone(&key));
            }
        }
        Ok(certificates)
    }

    /// Returns true if rustls answers this client with `acme-tls/1`.
    fn is_challenge(&self, hello: &ClientHello<'_>) -> bool {
        let offers =
            |protocol: &[u8]| hello.alpn().into_iter().flatten().any(|offered| offered == protocol);
        offers(acme::ALPN) && !offers(HTTP) && !(self.offers_http2 && offers(HTTP2))
    }

    /// Returns the certificate of `[acme]` or of a file for this name. For an unknown name, returns
    /// the first one. A name of `[acme]` is never served with the certificate of another name:
    /// clients would learn to ignore the warning.
    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let acme = self.acme.as_ref();
        let named = name.and_then(|name| {
            let issued = acme.and_then(|acme| acme.certificates.find(name));
            issued.or_else(|| self.find_file(name).cloned())
        });
        if named.is_some() {
            return named;
        }
        let is_ours =
            |acme: &&ListenerAcme| acme.domains.iter().any(|domain| Some(domain.as_str()) == name);
        if acme.is_some_and(|acme| is_ours(&acme)) {
            return None;
        }
        self.first.clone().or_else(|| acme.and_then(|acme| acme.certificates.any()))
    }

    fn find_file(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.exact
            .get(name)
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent)))
    }
}
