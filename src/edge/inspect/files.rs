//! Keys and authorities of issuers, verifiers, upstreams, stores and the signed context.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::certificates::trusted;
use super::{Finding, Inspector};
use crate::auth::{issuer_keys, verifier};
use crate::config::diagnostic::FaultKind;
use crate::config::store::Store;
use crate::config::{ContextSigning, Issuer, IssuerKeySource, Verifier, VerifierKind};
use crate::upstream::Upstreams;
use crate::upstream::keyring::{self, KeyringError};

pub(super) fn inspect(inspector: &mut Inspector<'_>) {
    let config = inspector.config;
    for (index, issuer) in config.issuers.iter().enumerate() {
        issuer_files(inspector, index, issuer);
    }
    for (index, verifier) in config.verifiers.iter().enumerate() {
        verifier_files(inspector, index, verifier);
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let key = format!("upstream.{index}.ca_file");
        if let Some(path) = &upstream.ca_file {
            trusted(inspector, &key, &format!("authorities of upstream {}", upstream.name), path);
        } else if let Err(error) =
            Upstreams::build(std::slice::from_ref(upstream), None, inspector.now)
        {
            let hint = "on Debian, the package ca-certificates has the root certificates";
            inspector.add(
                &format!("upstream.{index}.servers"),
                Finding::fail("upstream", error.to_string(), hint),
            );
        }
    }
    if let Store::Redis(redis) = &config.store
        && let Some(path) = &redis.ca_file
    {
        trusted(inspector, "store.ca_file", "store authorities", path);
    }
    for redis in &config.regions {
        let region = redis.region.as_deref().unwrap_or_default();
        if let Some(path) = &redis.ca_file {
            let key = format!("store.regions.{region}.ca_file");
            trusted(inspector, &key, &format!("store of region {region} authorities"), path);
        }
    }
    if let Some(path) = config.traces.as_ref().and_then(|traces| traces.ca_file.as_ref()) {
        trusted(inspector, "traces.ca_file", "authorities of the receiver of traces", path);
    }
    signing_keys(inspector);
}

fn issuer_files(inspector: &mut Inspector<'_>, index: usize, issuer: &Arc<Issuer>) {
    let subject = format!("keys of issuer {}", issuer.name);
    match &issuer.keys {
        IssuerKeySource::Secret(_) => {}
        IssuerKeySource::JwksFile(path) => {
            let key = format!("issuer.{index}.jwks_file");
            if inspector.is_readable(&key, &subject, path) {
                let hint =
                    "name a JSON Web Key Set with a public key for one of the issuer's algorithms";
                let finding = match issuer_keys::read(path, &issuer.algorithms) {
                    Ok(keys) => {
                        Finding::ok(subject, format!("{} usable in {}", keys.len(), path.display()))
                    }
                    Err(error) => {
                        Finding::fail(subject, format!("{}: {error}", path.display()), hint)
                    }
                };
                inspector.add(&key, finding);
            }
        }
        IssuerKeySource::Remote(from) => {
            if let Some(path) = &from.ca_file {
                let key = format!("issuer.{index}.ca_file");
                trusted(inspector, &key, &format!("authorities of issuer {}", issuer.name), path);
            }
        }
    }
}

fn verifier_files(inspector: &mut Inspector<'_>, index: usize, verifier: &Arc<Verifier>) {
    let key = format!("verifier.{index}.ca_file");
    let ca_file = match &verifier.kind {
        VerifierKind::Http(asked) | VerifierKind::Introspection { asked, .. } => {
            asked.ca_file.as_ref()
        }
        VerifierKind::Redis(keys) => keys.redis.ca_file.as_ref(),
    };
    if let Some(path) = ca_file {
        trusted(inspector, &key, &format!("authorities of verifier {}", verifier.name), path);
    } else if let Err(error) = verifier::Verifier::open(verifier, &[]) {
        let subject = format!("verifier {}", verifier.name);
        inspector.add(
            &format!("verifier.{index}"),
            Finding::fail(
                subject,
                error.to_string(),
                "check the keys of this verifier in the configuration",
            ),
        );
    }
}

/// Reads the signing keys as the start does, and creates none.
fn signing_keys(inspector: &mut Inspector<'_>) {
    let config = inspector.config;
    match &config.context.signing {
        ContextSigning::Shared { .. } => {}
        ContextSigning::Files { algorithm, files } => {
            for (index, path) in files.iter().enumerate() {
                let key = format!("context.key_files.{index}");
                if inspector.is_readable(&key, "signing key", path) {
                    let read = keyring::check_file(path, *algorithm);
                    inspector.add(&key, keys_finding("signing key", read, path));
                }
            }
        }
        ContextSigning::Generated { algorithm } => {
            let folder = keyring::KeyringFolder::of(&config.state_dir);
            let read = match folder.check(*algorithm) {
                Ok(true) => Ok(()),
                Ok(false) => return,
                // The state directory has a finding of its own.
                Err(KeyringError::File { error, .. })
                    if error.kind() == ErrorKind::NotADirectory =>
                {
                    return;
                }
                Err(error) => Err(error),
            };
            let finding = keys_finding("signing keys", read, folder.path());
            let key =
                if inspector.locator.is_written("state_dir") { "state_dir" } else { "context" };
            inspector.add(key, finding);
        }
    }
}

fn keys_finding(subject: &str, read: Result<(), KeyringError>, path: &Path) -> Finding {
    let Err(error) = read else {
        return Finding::ok(
            subject,
            format!("usable with the configured algorithm in {}", path.display()),
        );
    };
    let (hint, fault) = match &error {
        KeyringError::File { error, .. } => {
            ("the user that runs Usher must be able to read the file", FaultKind::of(error))
        }
        KeyringError::Exposed { .. } => (
            "run `chmod 600` on the file, and make a new key if others may have read this one",
            FaultKind::Permission,
        ),
        KeyringError::OtherAlgorithm { .. } => {
            ("change `algorithm`, or use other keys", FaultKind::Config)
        }
        _ => (
            "the file must hold a private key in PKCS#8, as `openssl genpkey` writes it",
            FaultKind::Config,
        ),
    };
    Finding { fault, ..Finding::fail(subject, error.to_string(), hint) }
}
