//! A client certificate that the TLS handshake has verified.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::faults::InvalidCertificate;

/// A certificate that the client sent in its handshake, with proof that it holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    leaf: Arc<CertificateDer<'static>>,
    /// The reason why the certificate counts no longer, although the handshake verified it.
    distrust: Option<InvalidCertificate>,
}

impl ClientCertificate {
    pub fn new(leaf: CertificateDer<'static>) -> Self {
        Self { leaf: Arc::new(leaf), distrust: None }
    }

    /// Marks the certificate as no longer trusted: its authority was removed, or it was revoked,
    /// while the connection was open.
    pub fn without_trust(self, why: InvalidCertificate) -> Self {
        Self { distrust: Some(why), ..self }
    }

    pub fn into_leaf(self) -> Arc<CertificateDer<'static>> {
        self.leaf
    }

    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    pub fn distrust(&self) -> Option<InvalidCertificate> {
        self.distrust
    }
}
