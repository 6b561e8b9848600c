//! Certificates of listeners, and the authorities of clients.

use std::path::Path;
use std::time::Duration;

use super::{Finding, FindingVerdict, Inspector};
use crate::base::clock::Now;
use crate::config::{CertificateFiles, ClientCertificates, OcspSource};
use crate::net::tls::crl::{self, RevocationLists};
use crate::net::tls::dates::{self, DateState, Dates};
use crate::net::tls::ocsp;
use crate::net::tls::pem::{NO_CERTIFICATE, read_certificates};
use crate::net::tls::server::{self, TlsError};
use crate::net::tls::stapling::StapledCertificate;
use crate::net::tls::trust;

const MISSING_HINT: &str = "`usher cert` makes a pair for this machine; relative paths \
    start at the configuration's folder";
const AUTHORITIES_HINT: &str = "name a PEM file with the certificates of the authorities";
const PAIR_HINT: &str = "`cert` is a PEM file with the certificate and its chain behind it, \
    `key` one with its private key";

pub(super) fn inspect(inspector: &mut Inspector<'_>) {
    let config = inspector.config;
    issued(inspector);
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
                let warn_before = config.certificates.warn_before;
                let (part, finding) = pair(&subject, files, warn_before, inspector.now);
                let is_good = finding.verdict != FindingVerdict::Fail;
                inspector.add(&format!("{key}.{part}"), finding);
                if is_good {
                    ocsp_answer(inspector, &key, files);
                }
            }
        }
        if let Some(clients) = &tls.clients {
            let key = format!("listener.{index}.client_ca");
            let subject = format!("client authorities {}", clients.ca_file.display());
            if inspector.is_readable(&key, &subject, &clients.ca_file) {
                inspector.add(&key, client_authorities(&subject, &clients.ca_file));
                add_date_warning(inspector, &key, &subject, dates::first_to_end(&clients.ca_file));
                revocation_lists(inspector, index, clients);
            }
        }
    }
}

/// Judges the certificate of `[acme]`. The authority is not asked.
fn issued(inspector: &mut Inspector<'_>) {
    let config = inspector.config;
    let Some(acme) = &config.acme else { return };
    if let Some(path) = &acme.ca_file {
        trusted(inspector, "acme.ca_file", "authorities of [acme]", path);
    }
    let subject = format!("certificate of [acme], {}", acme.domains.join(", "));
    let stored = crate::acme::stored(acme, &config.store, &config.state_dir);
    let issued = stored.and_then(|stored| stored.certificates.issued());
    let finding = match issued {
        Some(issued) if issued.not_after <= inspector.now.wall => {
            let hint = "Usher orders another one; `usher status` shows why that fails";
            let detail = format!("expired on {}", issued.not_after.to_rfc3339());
            Finding::warn(subject, detail, hint)
        }
        Some(issued) if issued.is_for_all(&acme.domains) => {
            Finding::ok(subject, format!("stored, expires {}", issued.not_after.to_rfc3339()))
        }
        Some(_) => Finding::ok(subject, "the stored one has other names; ordered at the start"),
        None => Finding::ok(subject, "ordered at the first start"),
    };
    inspector.add("acme.domains", finding);
}

/// Reads the certificates that verify a server, as the start does.
pub(super) fn trusted(inspector: &mut Inspector<'_>, key: &str, what: &str, path: &Path) {
    let subject = format!("{what} {}", path.display());
    if !inspector.is_readable(key, &subject, path) {
        return;
    }
    let finding = match trust::count(path) {
        Ok(count) => Finding::ok(subject.as_str(), certificates(count)),
        Err(problem) => Finding::fail(subject.as_str(), problem, AUTHORITIES_HINT),
    };
    inspector.add(key, finding);
    add_date_warning(inspector, key, &subject, dates::first_to_end(path));
}

/// Judges the OCSP answer of a certificate as the start does. No responder is asked.
fn ocsp_answer(inspector: &mut Inspector<'_>, key: &str, files: &CertificateFiles) {
    let subject = format!("OCSP answer for {}", files.cert.display());
    let part = match &files.ocsp {
        Some(OcspSource::File(file)) => {
            if !inspector.is_readable(&format!("{key}.ocsp_file"), &subject, file) {
                return;
            }
            "ocsp_file"
        }
        Some(OcspSource::Fetch) => "ocsp",
        None => "cert",
    };
    let now = inspector.now;
    let opened = match StapledCertificate::open(files, &inspector.config.state_dir, now.wall) {
        Ok(opened) => opened,
        Err(error) => {
            let hint = "use the answer of the certificate's own authority, or none";
            let finding = Finding::fail(subject, error.to_string(), hint);
            return inspector.add(&format!("{key}.{part}"), finding);
        }
    };
    let finding = match (opened, &files.ocsp) {
        (Some(opened), Some(OcspSource::File(_))) => match opened.dates() {
            Some(dates) => {
                Finding::ok(subject, format!("stapled until {}", dates.ends.to_http_date()))
            }
            None => Finding::warn(
                subject,
                "the answer has expired or is not valid yet, and is not stapled",
                "replace the file with the next answer, or write `ocsp = \"fetch\"`",
            ),
        },
        (Some(_), _) => Finding::ok(subject, "fetched while Usher runs"),
        (None, _) => {
            let leaf = read_certificates(&files.cert).unwrap_or_default();
            if !leaf.first().is_some_and(|leaf| ocsp::must_staple(leaf)) {
                return;
            }
            Finding::warn(
                subject,
                "clients must refuse this certificate without one (must-staple)",
                "write `ocsp = \"fetch\"` beside the certificate",
            )
        }
    };
    inspector.add(&format!("{key}.{part}"), finding);
}

/// Reads the lists of revoked client certificates as the start does.
fn revocation_lists(inspector: &mut Inspector<'_>, index: usize, clients: &ClientCertificates) {
    let key = format!("listener.{index}.client_crls");
    for (number, file) in clients.crl_files.iter().enumerate() {
        let subject = format!("client CRL {}", file.display());
        if !inspector.is_readable(&format!("{key}.{number}"), &subject, file) {
            return;
        }
    }
    let subject = "client CRLs";
    let lists = match RevocationLists::of(clients) {
        Ok(None) => return,
        Ok(Some(lists)) => lists,
        Err(error) => {
            let hint = "each file holds whole CRLs, in PEM or one in DER, that authorities in \
                        `client_ca` have signed";
            return inspector.add(&key, Finding::fail(subject, error.to_string(), hint));
        }
    };
    let count =
        if lists.len() == 1 { "one CRL".to_owned() } else { format!("{} CRLs", lists.len()) };
    inspector.add(&key, Finding::ok(subject, count));
    let (without, unknown) = lists.unmatched(&clients.ca_file);
    for authority in without {
        let (effect, hint) = if clients.accepts_without_crl {
            ("its revoked certificates are accepted", "add the CRL of this authority")
        } else {
            (
                "all of its certificates are refused",
                "add the CRL of this authority, or write `client_without_crl = \"accept\"`",
            )
        };
        let detail = format!("no CRL of {authority}: {effect}");
        inspector.add(&key, Finding::warn(subject, detail, hint));
    }
    for authority in unknown {
        let detail = format!(
            "`client_ca` has no authority {authority}: its CRL counts only for certificates of an \
             intermediate authority that clients send"
        );
        let hint = "add the certificate of this authority to `client_ca`, so that the signature \
                    of its CRL can be verified";
        inspector.add(&key, Finding::warn(subject, detail, hint));
    }
    for (number, file) in clients.crl_files.iter().enumerate() {
        let subject = format!("client CRL {}", file.display());
        add_date_warning(inspector, &format!("{key}.{number}"), &subject, crl::first_to_end(file));
    }
}

/// Warns of the certificate or CRL of a file that ends first, if it has expired or ends soon.
fn add_date_warning(
    inspector: &mut Inspector<'_>,
    key: &str,
    subject: &str,
    dates: Result<Dates, String>,
) {
    // A file that cannot be read has a finding already.
    let Ok(dates) = dates else { return };
    let hint = match dates.state(inspector.config.certificates.warn_before, inspector.now.wall) {
        DateState::Valid => return,
        DateState::NotYetValid => "check the clock of this machine",
        _ if key.contains("client_crls") => {
            "publish the next CRL; all certificates of the authority are refused without it"
        }
        DateState::EndsSoon | DateState::Expired => {
            "add the authority's next certificate, and remove this one when it has expired"
        }
    };
    let detail = format!("{}, {}", dates.subject, described(&dates, inspector.now));
    inspector.add(key, Finding::warn(subject, detail, hint));
}

/// Describes the dates of a certificate that has expired, ends soon or is not valid yet.
fn described(dates: &Dates, now: Now) -> String {
    if now.wall >= dates.ends {
        format!("expired on {}", dates.ends.to_http_date())
    } else if now.wall < dates.begins {
        format!("not valid before {}", dates.begins.to_http_date())
    } else {
        format!("expires in {} days", dates.days_left(now.wall))
    }
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
pub(super) fn pair(
    subject: &str,
    files: &CertificateFiles,
    warn_before: Duration,
    now: Now,
) -> (&'static str, Finding) {
    let fail = |detail: String| Finding::fail(subject, detail, PAIR_HINT);
    let (names, certified) = match server::load(files) {
        Ok(loaded) => loaded,
        // The finding already names the certificate file. A key file is named in the detail.
        Err(TlsError { file, problem }) if file == files.cert.display().to_string() => {
            return ("cert", fail(problem));
        }
        Err(error) => return ("key", fail(error.to_string())),
    };
    let dates = certified.cert.iter().map(Dates::of).collect::<Result<Vec<_>, _>>();
    let finding = match dates {
        Ok(dates) => judge_dates(subject, &dates, &names, warn_before, now),
        Err(problem) => fail(problem),
    };
    ("cert", finding)
}

/// Judges the dates of a chain, by the certificate in it that ends first. An expired one is only a
/// warning: the listener still serves clients that do not check it.
fn judge_dates(
    subject: &str,
    chain: &[Dates],
    names: &[String],
    warn_before: Duration,
    now: Now,
) -> Finding {
    let names = if names.is_empty() { "no host names".to_owned() } else { names.join(", ") };
    let states = chain.iter().map(|dates| (dates.state(warn_before, now.wall), dates));
    let Some((state, dates)) =
        states.max_by_key(|(state, dates)| (*state, std::cmp::Reverse(dates.ends)))
    else {
        return Finding::fail(subject, NO_CERTIFICATE, PAIR_HINT);
    };
    let is_own = chain.first() == Some(dates);
    let whose = if is_own { String::new() } else { format!("{} in its chain ", dates.subject) };
    let text = described(dates, now);
    let (refused, hint) = match state {
        DateState::Valid => {
            let days = dates.days_left(now.wall);
            let detail = format!("{names}, valid for {days} more days, matches its key");
            return Finding::ok(subject, detail);
        }
        DateState::Expired => {
            ("; clients refuse it", "renew the certificate, then run `usher reload`")
        }
        DateState::NotYetValid => {
            ("; clients refuse it", "check the clock of this machine, or use the certificate later")
        }
        DateState::EndsSoon => ("", "renew the certificate"),
    };
    Finding::warn(subject, format!("{names}, {whose}{text}{refused}"), hint)
}
