//! A client certificate, as the handshake has verified it.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

/// What a client has shown in its handshake, and proved to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    leaf: Arc<CertificateDer<'static>>,
    /// Those who verified it are among the authorities of now.
    is_believed: bool,
}

impl ClientCertificate {
    pub fn new(leaf: CertificateDer<'static>) -> Self {
        Self { leaf: Arc::new(leaf), is_believed: true }
    }

    /// The connection has outlived the authorities by which it was verified.
    pub fn no_longer_believed(self) -> Self {
        Self { is_believed: false, ..self }
    }

    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    pub fn is_believed(&self) -> bool {
        self.is_believed
    }
}
