//! A client certificate that the TLS handshake has verified.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

/// A certificate that the client sent in its handshake, with proof that it holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    leaf: Arc<CertificateDer<'static>>,
    /// The authority that verified the certificate is still configured.
    is_trusted: bool,
}

impl ClientCertificate {
    pub fn new(leaf: CertificateDer<'static>) -> Self {
        Self { leaf: Arc::new(leaf), is_trusted: true }
    }

    /// Marks the certificate as no longer trusted: its authority was removed while the connection
    /// was open.
    pub fn without_trust(self) -> Self {
        Self { is_trusted: false, ..self }
    }

    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }
}
