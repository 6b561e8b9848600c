//! Answers that `openssl ocsp` made, with their certificates.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use rustls::pki_types::CertificateDer;

use super::ocsp::{OcspFault, Subject, must_staple, responder};
use crate::base::clock::UnixMillis;

/// The time of the answers, and their end two days later.
const MADE: u64 = 1_795_974_036;
const ENDS: u64 = MADE + 2 * 86_400;

const LEAF: &str = "\
    MIIBmTCCAT6gAwIBAgICEAAwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjkxNzQwMzFaGA8yMTI2MTEw\
    NTE3NDAzMVowDDEKMAgGA1UEAwwBczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJgYwjh1RRTIKgL1edZHE7DRa7GD\
    7Wgt8O8L5kGU02rRfcqeNNGSsb5NvxRpw8V+MUMmBmKwpmPTzIdmiG9Gtc+jgY0wgYowEQYIKwYBBQUHARgEBTADAgEF\
    MDUGCCsGAQUFBwEBBCkwJzAlBggrBgEFBQcwAYYZaHR0cDovL29jc3AuZXhhbXBsZS5jb20vYTAdBgNVHQ4EFgQUNgcI\
    NFUNIB/YnJEQe/kC051ZAIEwHwYDVR0jBBgwFoAUiW2nkpu1NkB198winblwIBpnZtgwCgYIKoZIzj0EAwIDSQAwRgIh\
    AIDnUV+8sAlg9WedTnj5nQIsx+5HjsN9LtyNtlS+UmpBAiEAyIVPu6wW5Qch7J/x8oqnP6hezKcIi3/Ahv0uLaM7Erc=";
const ISSUER: &str = "\
    MIIBXjCCAQSgAwIBAgIUW4jPnEsxdRglbFyyqSKbiNf1jdUwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYTAgFw0yNjEx\
    MjkxNzQwMzFaGA8yMTI2MTEwNTE3NDAzMVowDDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBJS\
    eJEOJ+++vqEj/CCffRj1E6WDoZU702J/i3zjadRyhcLFYZjEXN/CSBxjHVXyVuB4K1Gaauj6EOa6dRMGoeyjQjBAMA8G\
    A1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMB0GA1UdDgQWBBSJbaeSm7U2QHX3zCKduXAgGmdm2DAKBggqhkjO\
    PQQDAgNIADBFAiA2H2YFIGBWv1ulsm/AnMdF78Ra166It3YxQBiOO3iFvgIhAJGZGHlAZ/RyB291PGNf4tvX6aAGHjxI\
    tDFp5TxOuKI4";
const QUESTION: &str = "\
    MEMwQTA/MD0wOzAJBgUrDgMCGgUABBSPEm0Dnl6Oh2D6oi7g6gQElilppQQUiW2nkpu1NkB198winblwIBpnZtgCAhAA";
const OWN: &str = "\
    MIICaAoBAKCCAmEwggJdBgkrBgEFBQcwAQEEggJOMIICSjCBiKEOMAwxCjAIBgNVBAMMAWEYDzIwMjYxMTI5MTc0MDM2\
    WjBlMGMwOzAJBgUrDgMCGgUABBSPEm0Dnl6Oh2D6oi7g6gQElilppQQUiW2nkpu1NkB198winblwIBpnZtgCAhAAgAAY\
    DzIwMjYxMTI5MTc0MDM2WqARGA8yMDI2MTIwMTE3NDAzNlowCgYIKoZIzj0EAwIDRwAwRAIgcZnH32vPM6YAJsv7VVjI\
    ykZuYd3gKwwd1nOFH3t0dmICICLsxSVFDlBZqSNQzifdV7KDVwZT0mac86xEzDx9ntDeoIIBZjCCAWIwggFeMIIBBKAD\
    AgECAhRbiM+cSzF1GCVsXLKpIpuI1/WN1TAKBggqhkjOPQQDAjAMMQowCAYDVQQDDAFhMCAXDTI2MTEyOTE3NDAzMVoY\
    DzIxMjYxMTA1MTc0MDMxWjAMMQowCAYDVQQDDAFhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEElJ4kQ4n776+oSP8\
    IJ99GPUTpYOhlTvTYn+LfONp1HKFwsVhmMRc38JIHGMdVfJW4HgrUZpq6PoQ5rp1Ewah7KNCMEAwDwYDVR0TAQH/BAUw\
    AwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFIltp5KbtTZAdffMIp25cCAaZ2bYMAoGCCqGSM49BAMCA0gAMEUC\
    IDYfZgUgYFa/W6Wyb8Ccx0XvxFrXroi3djFAGI47eIW+AiEAkZkYeUBn9HIHb3U8Y1/i29fpoAYePEi0MWnlPE64ojg=";
const DELEGATED: &str = "\
    MIICbQoBAKCCAmYwggJiBgkrBgEFBQcwAQEEggJTMIICTzCBiKEOMAwxCjAIBgNVBAMMAWQYDzIwMjYxMTI5MTc0MDM2\
    WjBlMGMwOzAJBgUrDgMCGgUABBSPEm0Dnl6Oh2D6oi7g6gQElilppQQUiW2nkpu1NkB198winblwIBpnZtgCAhAAgAAY\
    DzIwMjYxMTI5MTc0MDM2WqARGA8yMDI2MTIwMTE3NDAzNlowCgYIKoZIzj0EAwIDSAAwRQIhALtb1BdWSi00V0qp4pWx\
    3RsweC75hEp8uhtjuWFjnx/qAiBNNIssjJhKGS2FUFONelG4Q9d2CKkk9NH8oECWljvK6KCCAWowggFmMIIBYjCCAQeg\
    AwIBAgICEAEwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjkxNzQwMzFaGA8yMTI2MTEwNTE3NDAzMVow\
    DDEKMAgGA1UEAwwBZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPeFbvyqLSeGeZG/dc71/JgoST7zpCFJ8FpfsnIV\
    M/qBKSgLYD/VoGb9ORJaRwplb2qPjdOxWSfFxZIg1gRGk2mjVzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMJMB0GA1UdDgQW\
    BBSEsAHrDqVgCPOufLKDCa7FoiehXzAfBgNVHSMEGDAWgBSJbaeSm7U2QHX3zCKduXAgGmdm2DAKBggqhkjOPQQDAgNJ\
    ADBGAiEA4ik8gOD3vs+rUEkNDJdJTSUT9goLOikqEPG4qV5Xr1YCIQDh9l8S+9xipnE3PfUZLdm4CcxtvFf5PBW0iw9p\
    9rE36Q==";
const IMPOSTOR: &str = "\
    MIICawoBAKCCAmQwggJgBgkrBgEFBQcwAQEEggJRMIICTTCBiKEOMAwxCjAIBgNVBAMMAWMYDzIwMjYxMTI5MTc0MDM2\
    WjBlMGMwOzAJBgUrDgMCGgUABBSPEm0Dnl6Oh2D6oi7g6gQElilppQQUiW2nkpu1NkB198winblwIBpnZtgCAhAAgAAY\
    DzIwMjYxMTI5MTc0MDM2WqARGA8yMDI2MTIwMTE3NDAzNlowCgYIKoZIzj0EAwIDRwAwRAIgXIf8rPp5XSH7oOD+xktu\
    XhEzo0x+iQyXbF95L0eZc68CIGBL5knkFYjQgs4sDABkzOh/vJNOapXkRlYRyMhE6S0MoIIBaTCCAWUwggFhMIIBB6AD\
    AgECAgIQAjAKBggqhkjOPQQDAjAMMQowCAYDVQQDDAFhMCAXDTI2MTEyOTE3NDAzMVoYDzIxMjYxMTA1MTc0MDMxWjAM\
    MQowCAYDVQQDDAFjMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEdI6Yyom/tnu+ouGO8O/A1fjTEpOVLoNJRLgaKxrx\
    LISPL1ZGb36pDwuLvKGMf71tqMJQifUHRZg94hICmQUNsKNXMFUwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0OBBYE\
    FE5WR+2KPHOLQ10c4O5QeWssCIVZMB8GA1UdIwQYMBaAFIltp5KbtTZAdffMIp25cCAaZ2bYMAoGCCqGSM49BAMCA0gA\
    MEUCIAb0A8nk6E49H4guB4kSDGcdxfyWAlvIG2wF27FiBh4JAiEAmTXfvC1byUHBquCVh2CPVleUuY+04PnKGm+J8BQg\
    loQ=";

fn bytes(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text).unwrap()
}

fn chain() -> [CertificateDer<'static>; 2] {
    [LEAF, ISSUER].map(|text| CertificateDer::from(bytes(text)))
}

fn at(seconds: u64) -> UnixMillis {
    UnixMillis::from_secs(seconds)
}

#[test]
fn a_question_is_that_of_openssl_and_the_certificate_says_where_to_ask() {
    let subject = Subject::of(&chain()).unwrap();
    assert_eq!(subject.request(), bytes(QUESTION));
    let [leaf, issuer] = chain();
    assert_eq!(responder(&leaf).as_deref(), Some("http://ocsp.example.com/a"));
    assert!(must_staple(&leaf) && !must_staple(&issuer) && responder(&issuer).is_none());
    assert!(Subject::of(std::slice::from_ref(&leaf)).unwrap_err().contains("only the certificate"));
    assert!(Subject::of(&[leaf.clone(), leaf]).unwrap_err().contains("not the issuer"));
}

#[test]
fn an_answer_holds_from_its_beginning_to_its_end() {
    let subject = Subject::of(&chain()).unwrap();
    for answer in [OWN, DELEGATED] {
        let check =
            |seconds| subject.check(&bytes(answer), at(seconds)).map(|staple| staple.dates.ends);
        assert_eq!(check(MADE + 60), Ok(at(ENDS)));
        assert_eq!(check(ENDS - 1), Ok(at(ENDS)));
        assert_eq!(check(ENDS), Err(OcspFault::Expired));
    }
    let early = |seconds| subject.check(&bytes(OWN), at(MADE - seconds)).map(drop);
    assert_eq!(early(200), Ok(()), "the responder's clock may be ahead");
    assert_eq!(early(400), Err(OcspFault::NotYetValid));
    // A certificate of the issuer for another purpose is not a responder.
    assert_eq!(subject.check(&bytes(IMPOSTOR), at(MADE + 60)), Err(OcspFault::Signature));
}

#[test]
fn no_changed_byte_makes_an_answer_good() {
    let subject = Subject::of(&chain()).unwrap();
    for answer in [OWN, DELEGATED] {
        let good = bytes(answer);
        let signed = subject.check(&good, at(MADE + 60)).unwrap();
        for index in 0..good.len() {
            for change in [1, 0x80] {
                let mut changed = good.clone();
                changed[index] ^= change;
                // The certificates that come with it are not signed: their change may not matter.
                if let Ok(staple) = subject.check(&changed, at(MADE + 60)) {
                    assert_eq!(staple.dates, signed.dates, "byte {index}");
                    assert!(index > 150, "byte {index}");
                }
            }
            assert!(subject.check(&good[..index], at(MADE + 60)).is_err(), "{index} bytes");
        }
        assert!(subject.check(&[&good[..], &[0]].concat(), at(MADE + 60)).is_err());
    }
    assert_eq!(subject.check(&[0x30, 3, 0x0a, 1, 6], at(MADE)), Err(OcspFault::Refused(6)));
}
