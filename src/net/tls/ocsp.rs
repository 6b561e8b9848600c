//! OCSP (RFC 6960): the question to a responder, and the check of its answer, without I/O.
//!
//! Handshakes carry the answer, so it is checked as a strict client does. The issuer signed it, or
//! a responder that the issuer names. It is for this certificate, and its dates hold now.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::pki_types::CertificateDer;
use time::{Date, Month, PrimitiveDateTime, Time};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::dates::Dates;
use super::der::{
    self, Der, ENUMERATED, GENERALIZED_TIME, INTEGER, OBJECT_ID, OCTET_STRING, SEQUENCE,
};
use super::signed::Signed;
use crate::base::clock::UnixMillis;

/// The most certificates of an answer that are looked at, to find that of the responder.
const MOST_CERTIFICATES: usize = 8;
/// The most entries of an answer that are looked at.
const MOST_ENTRIES: usize = 64;
/// How far the clock of a responder may be ahead.
const SKEW: std::time::Duration = std::time::Duration::from_secs(300);

/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// `id-ad-ocsp`, 1.3.6.1.5.5.7.48.1.
const OCSP_ACCESS: &str = "1.3.6.1.5.5.7.48.1";
/// `id-pe-tlsfeature`, 1.3.6.1.5.5.7.1.24, and its value `status_request`.
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
const STATUS_REQUEST: &[u8] = &[5];
/// The algorithm SHA-1 in DER. Responders look certificates up by SHA-1 (RFC 5019); it secures
/// nothing.
const SHA1: &[u8] = &[SEQUENCE, 9, OBJECT_ID, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];

const CONTEXT_0: u8 = 0xa0;
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;

/// A certificate and its issuer, as a responder knows them.
#[derive(Clone, Debug)]
pub struct Subject {
    name: String,
    name_hash: Vec<u8>,
    key_hash: Vec<u8>,
    serial: Vec<u8>,
    /// The issuer's name and public key in DER.
    issuer: Vec<u8>,
    issuer_key: Vec<u8>,
}

/// An answer that is good for this certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    pub der: Vec<u8>,
    pub dates: Dates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcspFault {
    #[error("the answer is not an OCSP answer")]
    Malformed,
    #[error("the responder refused the question (status {0})")]
    Refused(u8),
    #[error("the answer is not signed by the issuer of the certificate or its responder")]
    Signature,
    #[error("the answer is about another certificate")]
    OtherCertificate,
    #[error("the answer does not say when the next one comes")]
    NoEnd,
    #[error("the answer is not valid yet")]
    NotYetValid,
    #[error("the answer has expired")]
    Expired,
    #[error("the responder does not know the certificate")]
    Unknown,
    #[error("THE CERTIFICATE IS REVOKED")]
    Revoked,
}

impl Subject {
    /// Reads a chain, which has the certificate first and its issuer second.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let [leaf, issuer, ..] = chain else {
            return Err("the file has only the certificate; add that of its issuer".to_owned());
        };
        let read = |der| X509Certificate::from_der(der).map_err(|error| error.to_string());
        let ((_, certificate), (_, authority)) = (read(leaf)?, read(issuer)?);
        let issuer_key = authority.public_key();
        let is_signed = Signed::read(leaf).is_some_and(|leaf| leaf.is_signed_by(issuer_key.raw));
        if authority.subject().as_raw() != certificate.issuer().as_raw() || !is_signed {
            return Err(
                "the second certificate of the file is not the issuer of the first".to_owned()
            );
        }
        let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
        Ok(Self {
            name: certificate.subject().to_string(),
            name_hash: sha1(certificate.issuer().as_raw()),
            key_hash: sha1(&issuer_key.subject_public_key.data),
            serial: certificate.raw_serial().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            issuer_key: issuer_key.raw.to_vec(),
        })
    }

    /// Returns the question about this certificate.
    pub fn request(&self) -> Vec<u8> {
        let id = wrap(
            SEQUENCE,
            &[
                SHA1,
                &wrap(OCTET_STRING, &[&self.name_hash]),
                &wrap(OCTET_STRING, &[&self.key_hash]),
                &wrap(INTEGER, &[&self.serial]),
            ],
        );
        let list = wrap(SEQUENCE, &[&wrap(SEQUENCE, &[&id])]);
        wrap(SEQUENCE, &[&wrap(SEQUENCE, &[&list])])
    }

    /// Checks an answer.
    pub fn check(&self, answer: &[u8], now: UnixMillis) -> Result<Staple, OcspFault> {
        let basic = basic_answer(answer)?;
        let signed = Signed::read(basic).ok_or(OcspFault::Malformed)?;
        if !self.is_authentic(&signed, now) {
            return Err(OcspFault::Signature);
        }
        let entries = entries(&signed).ok_or(OcspFault::Malformed)?;
        let own = || entries.iter().filter(|entry| self.is_named_by(entry));
        // A revocation holds whatever its dates are, and beside another entry.
        if own().any(|entry| entry.status == REVOKED) {
            return Err(OcspFault::Revoked);
        }
        let mut fault = OcspFault::OtherCertificate;
        for entry in own() {
            let begins = entry.begins;
            let Some(ends) = entry.ends else {
                fault = OcspFault::NoEnd;
                continue;
            };
            if now + SKEW < begins {
                fault = OcspFault::NotYetValid;
            } else if now >= ends {
                fault = OcspFault::Expired;
            } else if entry.status != GOOD {
                fault = OcspFault::Unknown;
            } else {
                let subject = format!("OCSP answer for {}", self.name);
                let dates = Dates { subject, begins, ends };
                return Ok(Staple { der: answer.to_vec(), dates });
            }
        }
        Err(fault)
    }

    fn is_named_by(&self, entry: &Entry<'_>) -> bool {
        entry.algorithm == SHA1
            && entry.name_hash == self.name_hash
            && entry.key_hash == self.key_hash
            && entry.serial == self.serial
    }

    /// Returns true if the issuer signed the answer, or a responder with a certificate of the
    /// issuer for this purpose (RFC 6960 section 4.2.2.2).
    fn is_authentic(&self, answer: &Signed<'_>, now: UnixMillis) -> bool {
        if answer.is_signed_by(&self.issuer_key) {
            return true;
        }
        let mut rest = answer.rest;
        let certificates = rest
            .take_optional(CONTEXT_0)
            .and_then(|list| der::only(list.content, SEQUENCE))
            .map(|list| list.inside());
        let mut certificates = certificates.unwrap_or(Der::new(&[]));
        for _ in 0..MOST_CERTIFICATES {
            let Some(certificate) = certificates.take(SEQUENCE) else { return false };
            if self.is_responder(certificate.whole, now)
                && X509Certificate::from_der(certificate.whole)
                    .is_ok_and(|(_, one)| answer.is_signed_by(one.public_key().raw))
            {
                return true;
            }
        }
        false
    }

    fn is_responder(&self, der: &[u8], now: UnixMillis) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        let purposes = certificate.extended_key_usage().ok().flatten();
        let Ok(dates) = Dates::of(&CertificateDer::from(der)) else { return false };
        certificate.issuer().as_raw() == self.issuer
            && purposes.is_some_and(|purposes| purposes.value.ocsp_signing)
            && dates.begins <= now
            && now < dates.ends
            && Signed::read(der).is_some_and(|one| one.is_signed_by(&self.issuer_key))
    }
}

/// Returns the URL of the responder that a certificate names.
pub fn responder(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let access = certificate.extensions().iter().find_map(|one| match one.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(access),
        _ => None,
    })?;
    access.accessdescs.iter().find_map(|one| match &one.access_location {
        GeneralName::URI(url) if one.access_method.to_id_string() == OCSP_ACCESS => {
            Some((*url).to_owned())
        }
        _ => None,
    })
}

/// Returns true if clients must refuse the certificate without a staple (RFC 7633).
pub fn must_staple(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
    let feature = certificate.extensions().iter().find(|one| one.oid.to_id_string() == TLS_FEATURE);
    let Some(mut features) = feature
        .and_then(|feature| der::only(feature.value, SEQUENCE))
        .map(|features| features.inside())
    else {
        return false;
    };
    std::iter::from_fn(|| features.take(INTEGER)).any(|one| one.content == STATUS_REQUEST)
}

/// The part of an answer about one certificate.
struct Entry<'a> {
    algorithm: &'a [u8],
    name_hash: &'a [u8],
    key_hash: &'a [u8],
    serial: &'a [u8],
    /// The tag of the status.
    status: u8,
    begins: UnixMillis,
    ends: Option<UnixMillis>,
}

/// Returns the `BasicOCSPResponse` of an answer.
fn basic_answer(answer: &[u8]) -> Result<&[u8], OcspFault> {
    let mut outer = der::only(answer, SEQUENCE).ok_or(OcspFault::Malformed)?.inside();
    match outer.take(ENUMERATED).map(|status| status.content) {
        Some([0]) => {}
        Some([status]) => return Err(OcspFault::Refused(*status)),
        _ => return Err(OcspFault::Malformed),
    }
    let basic = || {
        let mut inner = der::only(outer.take(CONTEXT_0)?.content, SEQUENCE)?.inside();
        let kind = inner.take(OBJECT_ID)?;
        (kind.content == BASIC).then_some(inner.take(OCTET_STRING)?.content)
    };
    let mut basic = basic;
    basic().ok_or(OcspFault::Malformed)
}

fn entries<'a>(answer: &Signed<'a>) -> Option<Vec<Entry<'a>>> {
    let mut data = answer.body.inside();
    data.take_optional(CONTEXT_0);
    // The name of the responder: its key decides, not its name.
    data.next()?;
    data.take(GENERALIZED_TIME)?;
    let mut list = data.take(SEQUENCE)?.inside();
    let mut entries = Vec::new();
    while !list.is_empty() && entries.len() < MOST_ENTRIES {
        entries.push(entry(list.take(SEQUENCE)?.inside())?);
    }
    Some(entries)
}

fn entry(mut der: Der<'_>) -> Option<Entry<'_>> {
    let mut id = der.take(SEQUENCE)?.inside();
    let entry = Entry {
        algorithm: id.take(SEQUENCE)?.whole,
        name_hash: id.take(OCTET_STRING)?.content,
        key_hash: id.take(OCTET_STRING)?.content,
        serial: id.take(INTEGER)?.content,
        status: der.next()?.tag,
        begins: time_of(der.take(GENERALIZED_TIME)?.content)?,
        ends: None,
    };
    let ends = match der.take_optional(CONTEXT_0) {
        Some(ends) => Some(time_of(der::only(ends.content, GENERALIZED_TIME)?.content)?),
        None => None,
    };
    Some(Entry { ends, ..entry })
}

/// Reads `YYYYMMDDHHMMSSZ`.
fn time_of(text: &[u8]) -> Option<UnixMillis> {
    let (digits, zone) = text.split_at_checked(14)?;
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        digits
            .get(range)?
            .iter()
            .try_fold(0u16, |sum, digit| Some(sum * 10 + u16::from(digit - b'0')))
    };
    let small = |at: usize| u8::try_from(number(at..at + 2)?).ok();
    let month = Month::try_from(small(4)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0..4)?), month, small(6)?).ok()?;
    let time = Time::from_hms(small(8)?, small(10)?, small(12)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    Some(UnixMillis::from_secs(u64::try_from(seconds).ok()?))
}

/// Returns a value of DER with this tag and these parts. All parts together are short.
fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut value = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => value.push(short),
        Ok(long) => value.extend([0x81, long]),
        Err(_) => value.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    value.extend(content);
    value
}
