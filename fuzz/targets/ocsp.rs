//! OCSP answers: Usher shows clients an answer only if the issuer signed it for this certificate.
//!
//! The bytes are read in three ways. They are an answer: nothing that the keys of the target did
//! not sign gets beyond the signature. They are the content of an answer that the issuer signs.
//! They describe the entries of an answer, its signer and a change of one byte: the verdict is that
//! of a plain rule, and a changed answer is never good.

use std::sync::LazyLock;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use usher::base::clock::UnixMillis;
use usher::net::tls::ocsp::{self, OcspFault, Staple, Subject};

/// Certificates with Ed25519 keys: a signature has one form only. The seed of each key is its
/// number, 32 times: 1 is the issuer, 2 a responder of the issuer, 3 a client of the issuer.
const ISSUER: &str = "\
    MIH6MIGtoAMCAQICAQEwBQYDK2VwMAwxCjAIBgNVBAMMAWEwIBcNMjYxMTI5MjAzMjI5WhgPMjEyNjExMDUyMDMyMjlaMA\
    wxCjAIBgNVBAMMAWEwKjAFBgMrZXADIQCKiOPddAnxlf1S2y08ul1yymcJvx2UEhvzdIgBtA9vXKMyMDAwDwYDVR0TAQH/\
    BAUwAwEB/zAdBgNVHQ4EFgQUmtGeDxbu9xTLkMbxldvOZulFgPkwBQYDK2VwA0EARgI5bzhE6KHzp0sO6h9c9zx62pd9q4\
    qgA/rX+cZk1fIw1fB4Con7NfPtvYHXIncysCjWBFBowARe9+h6kOIxBw==";
const LEAF: &str = "\
    MIIBWzCCAQ2gAwIBAgICEAAwBQYDK2VwMAwxCjAIBgNVBAMMAWEwIBcNMjYxMTI5MjAzMjMwWhgPMjEyNjExMDUyMDMyMz\
    BaMA8xDTALBgNVBAMMBGxlYWYwKjAFBgMrZXADIQDKk6wXBRhwcdZ7g8f/Dv6BCOjsRTBXXXcmh5Mz29q+fKOBjTCBijAR\
    BggrBgEFBQcBGAQFMAMCAQUwNQYIKwYBBQUHAQEEKTAnMCUGCCsGAQUFBzABhhlodHRwOi8vb2NzcC5leGFtcGxlLmNvbS\
    9hMB0GA1UdDgQWBBQZpZfVVh97+kKAfVPJm97GI/SZnjAfBgNVHSMEGDAWgBSa0Z4PFu73FMuQxvGV285m6UWA+TAFBgMr\
    ZXADQQAXLO9LLVZzs2b1oi+auANUlqrWUaqd8BqbjGe3fILK6W0AR1GEXQGy6cIz7J9QtH61n9GwjIErpNyjbjhe450N";
const RESPONDER: &str = "\
    MIIBKDCB26ADAgECAgIQATAFBgMrZXAwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjkyMDMyMzFaGA8yMTI2MTEwNTIwMzIzMV\
    owFDESMBAGA1UEAwwJcmVzcG9uZGVyMCowBQYDK2VwAyEAgTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5SjVzBV\
    MBMGA1UdJQQMMAoGCCsGAQUFBwMJMB0GA1UdDgQWBBRpaE5R2lXxblNcqtzAxcWsF3PDpzAfBgNVHSMEGDAWgBSa0Z4PFu\
    73FMuQxvGV285m6UWA+TAFBgMrZXADQQBgdT5UAJwIOlsDPArHuOFGtBclc1FSbCzrYDQBHNRvp4x7juqWd1T4XzAwCQpS\
    2YIn/upAcllLBaqS3+9MjOIK";
const CLIENT: &str = "\
    MIIBJzCB2qADAgECAgIQAjAFBgMrZXAwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjkyMDMyMzJaGA8yMTI2MTEwNTIwMzIzMl\
    owEzERMA8GA1UEAwwIaW1wb3N0b3IwKjAFBgMrZXADIQDtSSjGKNHCxurpAziQWZVhKVknOlxj+TY2wUYUrIc30aNXMFUw\
    EwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0OBBYEFD2FND2VzTYpMIcuGZssMk3kBLVqMB8GA1UdIwQYMBaAFJrRng8W7v\
    cUy5DG8ZXbzmbpRYD5MAUGAytlcANBACbNa28fvdiDaC9e+rHV90aXemrWKiYA7FTnVLxFOA7HcAweoKzDh9/0sF58LGYd\
    1K7lgHOdA91yaDbxxO7a3Q4=";

/// A time in the life of all certificates.
const NOW: u64 = 1_800_000_000;
const MINUTE: u64 = 60;
const LONGEST_SKEW: u64 = 5 * MINUTE;

const SEQUENCE: u8 = 0x30;
const ED25519: &[u8] = &[SEQUENCE, 5, 6, 3, 0x2b, 0x65, 0x70];
const SHA256: &[u8] = &[SEQUENCE, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const BASIC: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;
const UNKNOWN: u8 = 0x82;

struct Material {
    subject: Subject,
    /// The `CertID` of the certificate, as the question names it.
    id: Vec<u8>,
    responder: Vec<u8>,
    client: Vec<u8>,
    keys: [Ed25519KeyPair; 3],
}

static MATERIAL: LazyLock<Material> = LazyLock::new(|| {
    let der = |text: &str| BASE64_STANDARD.decode(text).expect("the certificate is base64");
    let chain = [der(LEAF), der(ISSUER)].map(CertificateDer::from);
    assert!(ocsp::must_staple(&chain[0]));
    assert_eq!(ocsp::responder(&chain[0]).as_deref(), Some("http://ocsp.example.com/a"));
    let subject = Subject::of(&chain).expect("the chain is good");
    let key = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("it is a seed");
    // The question is short: five sequences, one inside the other, and the last is the CertID.
    let id = subject.request()[8..].to_vec();
    Material {
        subject,
        id,
        responder: der(RESPONDER),
        client: der(CLIENT),
        keys: [1, 2, 3].map(key),
    }
});

pub fn run(bytes: &[u8]) {
    check_unsigned(bytes);
    check_content(bytes);
    check_entries(bytes);
    let certificate = CertificateDer::from(bytes);
    let _ = (ocsp::must_staple(&certificate), ocsp::responder(&certificate));
    let _ = Subject::of(&[certificate.clone(), certificate]);
}

fn check(answer: &[u8]) -> Result<Staple, OcspFault> {
    MATERIAL.subject.check(answer, UnixMillis::from_secs(NOW))
}

/// Checks bytes that are an answer.
fn check_unsigned(bytes: &[u8]) {
    let outcome = check(bytes);
    let unsigned =
        [OcspFault::Malformed, OcspFault::Signature].map(Err).contains(&outcome.clone().map(drop))
            || matches!(outcome, Err(OcspFault::Refused(_)));
    // A file of the corpus may be signed: one of the keys makes the same signature again.
    assert!(unsigned || holds_signed_part(bytes), "{outcome:?} for an answer without signature");
}

fn holds_signed_part(bytes: &[u8]) -> bool {
    (0..bytes.len()).filter(|at| bytes[*at] == SEQUENCE).any(|at| {
        let Some(end) = end_of_value(bytes, at) else { return false };
        let signed = &bytes[at..end];
        let signatures = MATERIAL.keys[..2].iter().map(|key| key.sign(signed));
        signatures.into_iter().any(|one| contains(&bytes[end..], one.as_ref()))
    })
}

fn end_of_value(bytes: &[u8], at: usize) -> Option<usize> {
    let (length, header) = match *bytes.get(at + 1)? {
        short @ 0..=0x7f => (usize::from(short), 2),
        0x81 => (usize::from(*bytes.get(at + 2)?), 3),
        0x82 => (usize::from(*bytes.get(at + 2)?) << 8 | usize::from(*bytes.get(at + 3)?), 4),
        _ => return None,
    };
    Some(at + header + length).filter(|end| *end <= bytes.len())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Checks an answer whose signed content the bytes are.
fn check_content(bytes: &[u8]) {
    let answer = signed_answer(bytes, Signer::Issuer);
    let status = match check(&answer) {
        Ok(staple) => {
            assert_eq!(staple.der, answer);
            assert!(staple.dates.ends > UnixMillis::from_secs(NOW));
            assert!(staple.dates.begins <= UnixMillis::from_secs(NOW + LONGEST_SKEW));
            GOOD
        }
        Err(OcspFault::Revoked) => REVOKED,
        Err(fault) => {
            assert!(!matches!(fault, OcspFault::Signature | OcspFault::Refused(_)), "{fault:?}");
            return;
        }
    };
    let entry = [&MATERIAL.id[..], &[status]].concat();
    assert!(contains(bytes, &entry), "a verdict without an entry for the certificate");
}

/// Checks an answer that the bytes describe: the signer, the place and the change of a byte, and
/// four bytes for each entry.
fn check_entries(bytes: &[u8]) {
    let Some(([signer, high, low, change], rest)) = bytes.split_first_chunk() else { return };
    let signer = Signer::ALL[usize::from(*signer) % Signer::ALL.len()];
    let entries: Vec<Entry> = rest.as_chunks().0.iter().take(60).map(Entry::of).collect();
    let list: Vec<u8> = entries.iter().flat_map(Entry::write).collect();
    // The name of the responder is not checked: its key is.
    let name = wrap(0xa1, &[&wrap(SEQUENCE, &[])]);
    let content = [name, time(NOW), wrap(SEQUENCE, &[&list])].concat();
    let answer = signed_answer(&content, signer);
    let outcome = check(&answer);
    assert_eq!(
        outcome.clone().map(|staple| staple.dates.ends.as_secs()),
        verdict(signer, &entries)
    );
    if *change != 0 {
        let mut changed = answer.clone();
        let at = usize::from(u16::from_be_bytes([*high, *low])) % answer.len();
        changed[at] ^= change;
        assert!(check(&changed).is_err(), "an answer with a changed byte {at} is good");
        assert!(check(&answer[..at]).is_err(), "an answer without its end is good");
    }
    assert!(check(&[&answer[..], &[*change]].concat()).is_err(), "more bytes follow");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signer {
    Issuer,
    Responder,
    /// The certificate of the responder is missing.
    Unnamed,
    /// A certificate of the issuer for another purpose.
    Client,
    /// The certificate of the responder, and another key.
    Foreign,
}

impl Signer {
    const ALL: [Self; 5] =
        [Self::Issuer, Self::Responder, Self::Unnamed, Self::Client, Self::Foreign];
}

fn signed_answer(content: &[u8], signer: Signer) -> Vec<u8> {
    let Material { responder, client, keys, .. } = &*MATERIAL;
    let [issuer_key, responder_key, client_key] = keys;
    let (key, certificate) = match signer {
        Signer::Issuer => (issuer_key, None),
        Signer::Responder => (responder_key, Some(responder)),
        Signer::Unnamed => (responder_key, None),
        Signer::Client => (client_key, Some(client)),
        Signer::Foreign => (client_key, Some(responder)),
    };
    let body = wrap(SEQUENCE, &[content]);
    let signature = wrap(3, &[&[0], key.sign(&body).as_ref()]);
    let certificates = certificate.map(|one| wrap(0xa0, &[&wrap(SEQUENCE, &[one])]));
    let basic = [&body[..], ED25519, &signature, &certificates.unwrap_or_default()];
    let basic = wrap(4, &[&wrap(SEQUENCE, &basic)]);
    let inner = wrap(SEQUENCE, &[BASIC, &basic]);
    wrap(SEQUENCE, &[&[0x0a, 1, 0], &wrap(0xa0, &[&inner])])
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    subject: u8,
    status: u8,
    begins: u64,
    ends: Option<u64>,
}

impl Entry {
    fn of([subject, status, begins, ends]: &[u8; 4]) -> Self {
        let begins = NOW + u64::from(*begins) * MINUTE - 100 * MINUTE;
        Self {
            subject: subject % 4,
            status: [GOOD, REVOKED, UNKNOWN][usize::from(status % 3)],
            begins,
            ends: (*ends != 0).then(|| NOW + u64::from(*ends) * MINUTE - 100 * MINUTE),
        }
    }

    fn is_own(&self) -> bool {
        self.subject == 0
    }

    fn write(&self) -> Vec<u8> {
        let mut id = MATERIAL.id.clone();
        let last = id.len() - 1;
        match self.subject {
            0 => {}
            1 => id[last] ^= 1,
            // The hash of the issuer's key is in front of the serial number of two bytes.
            2 => id[last - 4] ^= 1,
            _ => id = wrap(SEQUENCE, &[SHA256, &id[13..]]),
        }
        let status = match self.status {
            REVOKED => wrap(REVOKED, &[&time(NOW - MINUTE)]),
            status => wrap(status, &[]),
        };
        let ends = self.ends.map(|ends| wrap(0xa0, &[&time(ends)])).unwrap_or_default();
        wrap(SEQUENCE, &[&id, &status, &time(self.begins), &ends])
    }
}

/// Judges entries by the plain rules. Returns the end of a good answer.
fn verdict(signer: Signer, entries: &[Entry]) -> Result<u64, OcspFault> {
    if !matches!(signer, Signer::Issuer | Signer::Responder) {
        return Err(OcspFault::Signature);
    }
    let own: Vec<&Entry> = entries.iter().filter(|entry| entry.is_own()).collect();
    if own.iter().any(|entry| entry.status == REVOKED) {
        return Err(OcspFault::Revoked);
    }
    let judged = own.iter().map(|entry| match entry.ends {
        None => Err(OcspFault::NoEnd),
        Some(_) if NOW + LONGEST_SKEW < entry.begins => Err(OcspFault::NotYetValid),
        Some(ends) if ends <= NOW => Err(OcspFault::Expired),
        Some(_) if entry.status != GOOD => Err(OcspFault::Unknown),
        Some(ends) => Ok(ends),
    });
    let judged: Vec<_> = judged.collect();
    let good = judged.iter().find(|one| one.is_ok());
    *good.or(judged.last()).unwrap_or(&Err(OcspFault::OtherCertificate))
}

fn time(seconds: u64) -> Vec<u8> {
    let date = text_of(seconds);
    wrap(0x18, &[date.as_bytes()])
}

/// Returns `YYYYMMDDHHMMSSZ`. All times of the target are within some hours of `NOW`, which is
/// 08:00:00 on 15 January 2027.
fn text_of(seconds: u64) -> String {
    let of_day = seconds + 8 * 3600 - NOW;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("20270115{hour:02}{minute:02}{second:02}Z")
}

fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).expect("it is short").to_be_bytes();
    let length: &[u8] = match content.len() {
        ..0x80 => &[low],
        0x80..0x100 => &[0x81, low],
        _ => &[0x82, high, low],
    };
    [&[tag], length, &content].concat()
}
