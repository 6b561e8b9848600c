//! The TLS side of ACME: the certificate in force, the answers to tls-alpn-01 (RFC 8737), and the
//! request for a certificate.
//!
//! Listeners read [`AcmeCertificates`] at each handshake, so a new certificate needs no reload.
//! Connections that are open keep theirs.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::server::names_of;
use crate::base::clock::UnixMillis;
use crate::model::secret::Secret;

/// The protocol of a handshake that checks a challenge.
pub const ALPN: &[u8] = b"acme-tls/1";
/// The most certificates in a chain.
const MOST_CHAIN: usize = 10;

/// The certificate of `[acme]`, and the certificates that answer pending challenges.
#[derive(Debug, Default)]
pub struct AcmeCertificates {
    issued: ArcSwapOption<IssuedCertificate>,
    /// By host name. Empty unless an order is under way.
    challenges: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

/// A certificate from the authority, with its key.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// In lower case.
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
    pub not_before: UnixMillis,
    pub not_after: UnixMillis,
    /// The serial number in hexadecimal, as authorities log it.
    pub serial: String,
}

impl AcmeCertificates {
    pub fn issued(&self) -> Option<Arc<IssuedCertificate>> {
        self.issued.load_full()
    }

    pub fn set_issued(&self, issued: Option<Arc<IssuedCertificate>>) {
        self.issued.store(issued);
    }

    /// Replaces the answers to challenges. Each has a host name and the key authorization.
    pub fn set_challenges<'a>(
        &self,
        pending: impl Iterator<Item = (&'a str, &'a [u8; 32])>,
    ) -> Result<(), String> {
        let answer =
            |(name, digest)| Ok((String::from(name), challenge_certificate(name, digest)?));
        let challenges = pending.map(answer).collect::<Result<HashMap<_, _>, String>>()?;
        self.challenges.store(Arc::new(challenges));
        Ok(())
    }

    /// Returns the issued certificate, if it is for this name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let issued = self.issued.load();
        let issued = issued.as_ref().filter(|issued| issued.is_for(name))?;
        Some(Arc::clone(&issued.certified))
    }

    /// Returns the issued certificate, for a client that names no known host.
    pub(super) fn any(&self) -> Option<Arc<CertifiedKey>> {
        self.issued.load().as_ref().map(|issued| Arc::clone(&issued.certified))
    }

    pub(super) fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.load().get(name).map(Arc::clone)
    }
}

impl IssuedCertificate {
    /// Reads a chain and its key. Rejects a key of another certificate.
    pub fn from_pem(chain: &str, key: &Secret) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .take(MOST_CHAIN + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        if chain.len() > MOST_CHAIN {
            return Err(format!("the chain has more than {MOST_CHAIN} certificates"));
        }
        let leaf = chain.first().ok_or("the chain is empty")?;
        let names = names_of(leaf)?;
        let (_, read) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let millis = |time: x509_parser::time::ASN1Time| {
            UnixMillis::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        let (not_before, not_after) =
            (millis(read.validity().not_before), millis(read.validity().not_after));
        let serial = read.tbs_certificate.raw_serial().iter().map(|byte| format!("{byte:02x}"));
        let serial = serial.collect();
        let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|error| error.to_string())?;
        let key = any_supported_type(&key).map_err(|error| error.to_string())?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| "the key is not that of the certificate".to_owned())?;
        Ok(Self { names, certified: Arc::new(certified), not_before, not_after, serial })
    }

    pub fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|one| one == name)
    }

    /// Returns true if the certificate has all of these names. The authority may add others.
    pub fn is_for_all(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.is_for(name))
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

/// Makes a key, and the request for a certificate with these names. Returns the key as PEM, and the
/// request as DER.
pub fn signing_request(names: &[String]) -> Result<(Secret, Vec<u8>), String> {
    let wrong = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(wrong)?;
    let mut parameters = CertificateParams::new(names).map_err(wrong)?;
    parameters.distinguished_name = DistinguishedName::new();
    let request = parameters.serialize_request(&key).map_err(wrong)?;
    Ok((Secret::new(key.serialize_pem()), request.der().to_vec()))
}

/// RFC 8737 section 3: the self-signed certificate has the name, and the digest of the key
/// authorization in a critical extension.
fn challenge_certificate(name: &str, digest: &[u8; 32]) -> Result<Arc<CertifiedKey>, String> {
    let wrong = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(wrong)?;
    let mut parameters = CertificateParams::new([name.to_owned()]).map_err(wrong)?;
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = parameters.self_signed(&key).map_err(wrong)?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let key = any_supported_type(&der).map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}
