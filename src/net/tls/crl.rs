//! Lists of revoked client certificates (CRLs, RFC 5280 section 5).
//!
//! rustls applies the lists in each handshake: over the whole chain, with their signatures and
//! dates. This module reads the files, refuses what would fail in every handshake or be ambiguous,
//! and answers for connections that are open already.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::dates::{Dates, time_of};
use super::pem::read_certificates;
use super::server::{TlsError, accept_list, trust_all};
use super::signed::Signed;
use crate::base::clock::UnixMillis;
use crate::config::ClientCertificates;

/// The largest file, in bytes. `--watch` compares as many.
const LONGEST: usize = 4 << 20;
/// `issuingDistributionPoint`: the certificates for which a list speaks, if not for all.
const SCOPE: &str = "2.5.29.28";

/// The files of the lists of one listener, and that of the authorities whose lists they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFiles {
    pub authorities: PathBuf,
    pub lists: Vec<PathBuf>,
}

/// The lists of one listener.
#[derive(Debug)]
pub struct RevocationLists {
    files: CrlFiles,
    lists: Vec<RevocationList>,
}

/// A list of one authority.
#[derive(Debug)]
struct RevocationList {
    file: String,
    der: CertificateRevocationListDer<'static>,
    /// The name of the authority, in DER.
    issuer: Vec<u8>,
    name: String,
    /// The extension that limits the list, in DER.
    scope: Option<Vec<u8>>,
    /// The number of the list, in big-endian order without leading zeros.
    number: Option<Vec<u8>>,
    dates: Dates,
    serials: HashSet<Vec<u8>>,
    /// Whether an authority of the listener signed the list. Otherwise it may be the list of an
    /// intermediate authority, whose certificate only clients send.
    is_verified: bool,
}

/// The lists' answer about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationStatus {
    /// No list revokes it, or no list is of its authority.
    NotRevoked,
    Revoked,
    /// The list of its authority has expired.
    ListExpired,
}

impl RevocationLists {
    /// Reads the lists of a listener. `None`: it has none.
    pub fn of(clients: &ClientCertificates) -> Result<Option<Self>, TlsError> {
        let files =
            CrlFiles { authorities: clients.ca_file.clone(), lists: clients.crl_files.clone() };
        if files.lists.is_empty() { Ok(None) } else { Self::read(files).map(Some) }
    }

    pub fn read(files: CrlFiles) -> Result<Self, TlsError> {
        let fault =
            |file: &Path, problem: String| TlsError { file: file.display().to_string(), problem };
        let authorities = read_certificates(&files.authorities)
            .map_err(|problem| fault(&files.authorities, problem))?;
        let roots =
            trust_all(&authorities).map_err(|problem| fault(&files.authorities, problem))?;
        let roots = Arc::new(roots);
        let mut lists: Vec<RevocationList> = Vec::new();
        for file in &files.lists {
            let read = read_file(file, &authorities).map_err(|problem| fault(file, problem))?;
            for list in read {
                if let Some(other) = lists.iter().find(|other| other.is_about_the_same(&list)) {
                    // rustls would take the first one.
                    let problem =
                        format!("a second CRL of {}; the first is in {}", list.name, other.file);
                    return Err(fault(file, problem));
                }
                accept_list(&roots, &list.der).map_err(|problem| {
                    fault(file, format!("the CRL of {} cannot be used: {problem}", list.name))
                })?;
                lists.push(list);
            }
        }
        Ok(Self { files, lists })
    }

    pub fn files(&self) -> &CrlFiles {
        &self.files
    }

    pub(super) fn ders(&self) -> impl Iterator<Item = CertificateRevocationListDer<'static>> {
        self.lists.iter().map(|list| list.der.clone())
    }

    pub fn len(&self) -> usize {
        self.lists.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Returns an error if one of the lists is older than the same list was before: a certificate
    /// that was revoked since would be accepted again.
    pub fn check_not_older(&self, before: &Self) -> Result<(), TlsError> {
        for list in &self.lists {
            let older = before
                .lists
                .iter()
                .find(|other| other.is_about_the_same(list) && list.is_older(other));
            if older.is_some() {
                let problem = format!(
                    "the CRL of {} is older than the one in force; a restart accepts it",
                    list.name
                );
                return Err(TlsError { file: list.file.clone(), problem });
            }
        }
        Ok(())
    }

    /// Returns the standing of a certificate that the handshake verified.
    pub fn standing(&self, leaf: &CertificateDer<'_>, now: UnixMillis) -> RevocationStatus {
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return RevocationStatus::NotRevoked;
        };
        let issuer = certificate.issuer().as_raw();
        let own = || self.lists.iter().filter(|list| list.issuer == issuer);
        if own().any(|list| list.serials.contains(certificate.raw_serial())) {
            RevocationStatus::Revoked
        } else if own().any(|list| now >= list.dates.ends) {
            RevocationStatus::ListExpired
        } else {
            RevocationStatus::NotRevoked
        }
    }

    /// Returns the names of authorities without a list, and those of lists whose authority is not
    /// in `client_ca`.
    pub fn unmatched(&self, ca_file: &Path) -> (Vec<String>, Vec<String>) {
        let authorities = read_certificates(ca_file).unwrap_or_default();
        let mut without = Vec::new();
        for authority in &authorities {
            let Ok((_, authority)) = X509Certificate::from_der(authority) else { continue };
            let subject = authority.subject();
            if !self.lists.iter().any(|list| list.issuer == subject.as_raw()) {
                without.push(subject.to_string());
            }
        }
        let unknown = self.lists.iter().filter(|list| !list.is_verified);
        (without, unknown.map(|list| list.name.clone()).collect())
    }
}

impl RevocationList {
    fn read(
        file: &Path,
        der: CertificateRevocationListDer<'static>,
        authorities: &[CertificateDer<'_>],
    ) -> Result<Self, String> {
        let malformed = || "a CRL in it cannot be read".to_owned();
        let (rest, list) = CertificateRevocationList::from_der(&der).map_err(|_| malformed())?;
        let signed = Signed::read(&der).filter(|_| rest.is_empty()).ok_or_else(malformed)?;
        let name = list.issuer().to_string();
        // RFC 5280 section 5.1.2.1: version 2, and a CRL number.
        if list.version() != Some(X509Version::V2) {
            return Err(format!(
                "the CRL of {name} has version 1; version 2 with a CRL number is needed \
                 (`crlnumber` and `crl_extensions` in the file of `openssl ca`)"
            ));
        }
        let Some(next) = list.next_update() else {
            return Err(format!("the CRL of {name} does not say when the next one comes"));
        };
        let mut is_known = false;
        let mut is_verified = false;
        for authority in authorities {
            let (_, authority) =
                X509Certificate::from_der(authority).map_err(|error| error.to_string())?;
            if authority.subject().as_raw() == list.issuer().as_raw() {
                is_known = true;
                let usage = authority.key_usage().map_err(|error| error.to_string())?;
                let may_sign = usage.is_none_or(|usage| usage.value.crl_sign());
                is_verified |= may_sign && signed.is_signed_by(authority.public_key().raw);
            }
        }
        if is_known && !is_verified {
            return Err(format!(
                "the CRL of {name} is not signed by the key of that authority in client_ca, or \
                 the authority may not sign CRLs"
            ));
        }
        let scope = list.extensions().iter().find(|one| one.oid.to_id_string() == SCOPE);
        let number = list.crl_number().map(BigUint::to_bytes_be);
        let found = Self {
            file: file.display().to_string(),
            issuer: list.issuer().as_raw().to_vec(),
            scope: scope.map(|scope| scope.value.to_vec()),
            number,
            dates: Dates {
                subject: format!("CRL of {name}"),
                begins: time_of(list.last_update().timestamp()),
                ends: time_of(next.timestamp()),
            },
            serials: list
                .iter_revoked_certificates()
                .map(|revoked| revoked.raw_serial().to_vec())
                .collect(),
            is_verified,
            name,
            der: CertificateRevocationListDer::from(der.to_vec()),
        };
        Ok(found)
    }

    fn is_about_the_same(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.scope == other.scope
    }

    fn is_older(&self, other: &Self) -> bool {
        let numbers = self.number.as_ref().zip(other.number.as_ref());
        let by_number = numbers.map(|(own, other)| (own.len(), own).cmp(&(other.len(), other)));
        let by_date = self.dates.begins.cmp(&other.dates.begins);
        by_number.map_or(by_date, |order| order.then(by_date)).is_lt()
    }
}

/// Returns the dates of the list of a file that ends first.
pub fn first_to_end(file: &Path) -> Result<Dates, String> {
    let lists = read_file(file, &[])?;
    let first = lists.into_iter().map(|list| list.dates).min_by_key(|dates| dates.ends);
    first.ok_or_else(|| NO_LIST.to_owned())
}

const NO_LIST: &str = "the file holds no CRL";

/// Reads the lists of a file: one in DER, or several in PEM.
fn read_file(
    file: &Path,
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<RevocationList>, String> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
    opened.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > LONGEST {
        return Err(format!("the file is larger than {} MiB", LONGEST >> 20));
    }
    let ders = if bytes.first() == Some(&0x30) {
        vec![CertificateRevocationListDer::from(bytes)]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?
    };
    if ders.is_empty() {
        return Err(NO_LIST.to_owned());
    }
    ders.into_iter().map(|der| RevocationList::read(file, der, authorities)).collect()
}
