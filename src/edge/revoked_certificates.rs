//! The lists of revoked client certificates that are in force, of all listeners.
//!
//! They outlive the edge that read them. A process that another one has replaced takes over the
//! lists of that one, until its last session has ended.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::base::clock::Now;
use crate::net::tls::crl::{CrlFiles, RevocationLists, RevocationStatus};
use crate::net::tls::server::TlsError;

#[derive(Debug)]
pub struct RevokedCertificates {
    lists: ArcSwap<Vec<Arc<RevocationLists>>>,
    changes: watch::Sender<()>,
}

impl Default for RevokedCertificates {
    fn default() -> Self {
        Self { lists: ArcSwap::default(), changes: watch::Sender::new(()) }
    }
}

impl RevokedCertificates {
    pub(super) fn publish(&self, lists: Vec<Arc<RevocationLists>>) {
        self.lists.store(Arc::new(lists));
        self.changes.send_replace(());
    }

    /// Reads the lists of another process, and puts them into force.
    pub(super) fn read(&self, files: Vec<CrlFiles>) -> Result<(), TlsError> {
        let lists = files.into_iter().map(|files| RevocationLists::read(files).map(Arc::new));
        self.publish(lists.collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Returns the files of the lists.
    pub fn files(&self) -> Vec<CrlFiles> {
        self.lists.load().iter().map(|lists| lists.files().clone()).collect()
    }

    /// Returns a receiver that notices each change of the lists, and the present ones too.
    pub fn watch(&self) -> watch::Receiver<()> {
        let mut changes = self.changes.subscribe();
        changes.mark_changed();
        changes
    }

    /// Returns true if a list, of any listener, revokes the certificate.
    pub fn is_revoked(&self, certificate: &CertificateDer<'_>, now: Now) -> bool {
        let lists = self.lists.load();
        lists.iter().any(|lists| lists.standing(certificate, now.wall) == RevocationStatus::Revoked)
    }
}
