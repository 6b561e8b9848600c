//! The files with certificates that a configuration names.

use std::path::{Path, PathBuf};

use super::{Config, IssuerKeySource, Store, VerifierKind};
use crate::telemetry::family::words;

words! {
    /// The purpose of a file with certificates.
    #[derive(PartialOrd, Ord, Hash)]
    pub enum CertificatePurpose {
        /// The certificate of a listener, with its chain.
        Listener = "listener",
        /// The authorities of clients.
        ClientCa = "client_ca",
        /// The revoked certificates of clients.
        ClientCrl = "client_crl",
        /// The authorities of upstream servers.
        Upstream = "upstream",
        /// The authorities of an issuer's server.
        Issuer = "issuer",
        /// The authorities of a verifier's server.
        Verifier = "verifier",
        /// The authorities of the ACME directory.
        Acme = "acme",
        /// The authorities of the store's servers.
        Store = "store",
    }
}

impl Config {
    /// Returns each file with certificates, once for each of its purposes.
    pub fn certificate_files<'c>(&'c self) -> Vec<(CertificatePurpose, &'c Path)> {
        let mut files = Vec::new();
        let mut add = |purpose, file: Option<&'c PathBuf>| {
            files.extend(file.map(|file| (purpose, file.as_path())));
        };
        for tls in self.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            for pair in &tls.certificates {
                add(CertificatePurpose::Listener, Some(&pair.cert));
            }
            let Some(clients) = &tls.clients else { continue };
            add(CertificatePurpose::ClientCa, Some(&clients.ca_file));
            for file in &clients.crl_files {
                add(CertificatePurpose::ClientCrl, Some(file));
            }
        }
        add(CertificatePurpose::Acme, self.acme.as_ref().and_then(|acme| acme.ca_file.as_ref()));
        for upstream in &self.upstreams {
            add(CertificatePurpose::Upstream, upstream.ca_file.as_ref());
        }
        for issuer in &self.issuers {
            if let IssuerKeySource::Remote(from) = &issuer.keys {
                add(CertificatePurpose::Issuer, from.ca_file.as_ref());
            }
        }
        for verifier in &self.verifiers {
            let ca_file = match &verifier.kind {
                VerifierKind::Http(asked) | VerifierKind::Introspection { asked, .. } => {
                    asked.ca_file.as_ref()
                }
                VerifierKind::Redis(keys) => keys.redis.ca_file.as_ref(),
            };
            add(CertificatePurpose::Verifier, ca_file);
        }
        let own = match &self.store {
            Store::Memory { .. } => None,
            Store::Redis(redis) => Some(redis.as_ref()),
        };
        for redis in own.into_iter().chain(&self.regions) {
            add(CertificatePurpose::Store, redis.ca_file.as_ref());
        }
        files.sort();
        files.dedup();
        files
    }
}
