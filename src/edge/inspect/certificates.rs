//! Certificates of listeners, and the authorities of clients.

use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Finding, Inspector};
use crate::base::clock::Now;
use crate::config::CertificateFiles;
use crate::net::tls::pem::read_certificates;
use crate::net::tls::server::{self, TlsError};
use crate::net::tls::trust;

const EXPIRES_SOON_DAYS: i64 = 14;
const MISSING_HINT: &str = "`usher cert` makes a pair for this machine; relative paths \
    start at the configuration's folder";
const AUTHORITIES_HINT: &str = "name a PEM file with the certificates of the authorities";
const PAIR_HINT: &str = "`cert` is a PEM file with the certificate and its chain behind it, \
    `key` one with its private key";

pub(super) fn inspect(inspector: &mut Inspector<'_>) {
    let config = inspector.config;
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        for (number, files) in tls.certificates.iter().enumerate() {
            let key = format!("listener.{index}.certificates.{number}");
            let subject = format!("certificate {}", files.cert.display());
            let is_there = inspector.is_readable_or(
                &format!("{key}.cert"),
                &subject,
                &files.cert,
                MISSING_HINT,
            );
            if inspector.is_readable_or(&format!("{key}.key"), &subject, &files.key, MISSING_HINT)
                && is_there
            {
                let (part, finding) = pair(&subject, files, inspector.now);
                inspector.add(&format!("{key}.{part}"), finding);
            }
        }
        if let Some(clients) = &tls.clients {
            let key = format!("listener.{index}.client_ca");
            let subject = format!("client authorities {}", clients.ca_file.display());
            if inspector.is_readable(&key, &subject, &clients.ca_file) {
                inspector.add(&key, client_authorities(&subject, &clients.ca_file));
            }
        }
    }
}

/// Reads the certificates that verify a server, as the start does.
pub(super) fn trusted(inspector: &mut Inspector<'_>, key: &str, what: &str, path: &Path) {
    let subject = format!("{what} {}", path.display());
    if !inspector.is_readable(key, &subject, path) {
        return;
    }
    let finding = match trust::count(path) {
        Ok(count) => Finding::ok(subject, certificates(count)),
        Err(problem) => Finding::fail(subject, problem, AUTHORITIES_HINT),
    };
    inspector.add(key, finding);
}

/// Reads the authorities of clients as the start does.
pub(super) fn client_authorities(subject: &str, path: &Path) -> Finding {
    let read = read_certificates(path).and_then(|read| server::trust_all(&read).map(|_| read));
    let read = match read {
        Ok(read) => read,
        Err(problem) => return Finding::fail(subject, problem, AUTHORITIES_HINT),
    };
    let count = certificates(read.len());
    match read.iter().filter(|certificate| trust::is_authority(certificate) == Ok(false)).count() {
        0 => Finding::ok(subject, count),
        others => {
            let detail = format!(
                "{count}, {others} of them without CA:TRUE; the owner of such a certificate's \
                 key can sign a certificate for any client name"
            );
            Finding::warn(
                subject,
                detail,
                "list the authority that signed the clients, not a client's own certificate",
            )
        }
    }
}

fn certificates(count: usize) -> String {
    if count == 1 { "one certificate".to_owned() } else { format!("{count} certificates") }
}

/// Loads the pair as the start does. Returns the configuration key that the finding is about.
pub(super) fn pair(subject: &str, files: &CertificateFiles, now: Now) -> (&'static str, Finding) {
    let fail = |detail: String| Finding::fail(subject, detail, PAIR_HINT);
    let (names, certified) = match server::load(files) {
        Ok(loaded) => loaded,
        // The finding already names the certificate file. A key file is named in the detail.
        Err(TlsError { file, problem }) if file == files.cert.display().to_string() => {
            return ("cert", fail(problem));
        }
        Err(error) => return ("key", fail(error.to_string())),
    };
    let parsed = certified.end_entity_cert().map_err(|error| error.to_string());
    let parsed =
        parsed.and_then(|leaf| X509Certificate::from_der(leaf).map_err(|error| error.to_string()));
    let finding = match parsed {
        Ok((_, leaf)) => judge_dates(subject, &leaf, &names, now),
        Err(problem) => fail(problem),
    };
    ("cert", finding)
}

/// Judges the dates of a certificate. An expired one is only a warning: the listener still serves
/// clients that do not check it.
fn judge_dates(subject: &str, leaf: &X509Certificate<'_>, names: &[String], now: Now) -> Finding {
    let names = if names.is_empty() { "no host names".to_owned() } else { names.join(", ") };
    let validity = leaf.validity();
    let seconds = i64::try_from(now.wall.as_secs()).unwrap_or(i64::MAX);
    let left = validity.not_after.timestamp() - seconds;
    if left <= 0 {
        let detail = format!("{names}, expired on {}; clients refuse it", validity.not_after);
        return Finding::warn(subject, detail, "renew the certificate, then run `usher reload`");
    }
    if validity.not_before.timestamp() > seconds {
        let detail =
            format!("{names}, not valid before {}; clients refuse it", validity.not_before);
        return Finding::warn(
            subject,
            detail,
            "check the clock of this machine, or use the certificate later",
        );
    }
    match left / 86_400 {
        days if days < EXPIRES_SOON_DAYS => Finding::warn(
            subject,
            format!("{names}, expires in {days} days"),
            "renew the certificate",
        ),
        days => {
            Finding::ok(subject, format!("{names}, valid for {days} more days, matches its key"))
        }
    }
}
