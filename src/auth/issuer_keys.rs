//! An issuer's public keys, from a JWK set.
//!
//! A set may also hold keys for other purposes. Only keys for the issuer's configured algorithms
//! are used. A symmetric key is never used: a party that can write to a published set must not be
//! able to choose a shared secret.

use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::strict_json;
use crate::model::algorithm::{Algorithm, KeyFamily};

pub const MAX_SET_BYTES: u64 = 256 * 1024;
const MAX_KEYS: usize = 100;
const MIN_RSA_BYTES: usize = 2048 / 8;
/// The limit of the crypto library. A larger modulus would make verification too slow.
const MAX_RSA_BYTES: usize = 8192 / 8;

/// A usable key.
#[derive(Debug, PartialEq, Eq)]
pub struct Jwk {
    pub id: Option<String>,
    pub algorithms: Vec<Algorithm>,
    pub material: KeyMaterial,
}

/// The values of a key in base64url, as in the set.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyMaterial {
    Rsa { modulus: String, exponent: String },
    Ec { x: String, y: String },
    Ed { x: String },
}

#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("the set is larger than 256 KiB")]
    TooLarge,
    #[error("the text is not a JWK set: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the set has more than 100 keys")]
    TooManyKeys,
    #[error("no key of the set can verify {0}")]
    NoUsableKey(String),
}

#[derive(Deserialize)]
struct WrittenSet {
    /// Maps, because serde would read a JSON array by position.
    keys: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

pub fn read(file: &Path, pinned: &[Algorithm]) -> Result<Vec<Jwk>, KeySetError> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_SET_BYTES + 1).read_to_end(&mut bytes)?;
    parse(&bytes, pinned)
}

pub fn parse(set: &[u8], pinned: &[Algorithm]) -> Result<Vec<Jwk>, KeySetError> {
    if set.len() as u64 > MAX_SET_BYTES {
        return Err(KeySetError::TooLarge);
    }
    let written: WrittenSet = strict_json::record(set)?;
    if written.keys.len() > MAX_KEYS {
        return Err(KeySetError::TooManyKeys);
    }
    let read = |key| serde_json::from_value(Value::Object(key));
    let written: Vec<WrittenKey> = written.keys.into_iter().map(read).collect::<Result<_, _>>()?;
    let keys: Vec<_> = written.into_iter().filter_map(|key| usable(key, pinned)).collect();
    if keys.is_empty() {
        let names: Vec<_> = pinned.iter().map(|algorithm| algorithm.name()).collect();
        return Err(KeySetError::NoUsableKey(names.join(", ")));
    }
    Ok(keys)
}

fn usable(key: WrittenKey, pinned: &[Algorithm]) -> Option<Jwk> {
    if key.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if key
        .key_ops
        .as_ref()
        .is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
    {
        return None;
    }
    let (fits, material): (fn(Algorithm) -> bool, _) = match (key.kty.as_str(), key.crv.as_deref())
    {
        ("RSA", _) => {
            let (modulus, exponent) = (key.n?, key.e?);
            let number = URL_SAFE_NO_PAD.decode(&modulus).ok()?;
            if !(MIN_RSA_BYTES..=MAX_RSA_BYTES).contains(&number.len())
                || !is_good_exponent(&exponent)
                || has_guessable_primes(&number)
            {
                return None;
            }
            (|one| one.family() == KeyFamily::Rsa, KeyMaterial::Rsa { modulus, exponent })
        }
        ("EC", Some("P-256")) => {
            (|one| one == Algorithm::ES256, KeyMaterial::Ec { x: key.x?, y: key.y? })
        }
        ("EC", Some("P-384")) => {
            (|one| one == Algorithm::ES384, KeyMaterial::Ec { x: key.x?, y: key.y? })
        }
        ("OKP", Some("Ed25519")) => (|one| one == Algorithm::EdDSA, KeyMaterial::Ed { x: key.x? }),
        _ => return None,
    };
    let named = |one: Algorithm| key.alg.as_deref().is_none_or(|alg| alg == one.name());
    let algorithms: Vec<_> =
        pinned.iter().copied().filter(|&one| fits(one) && named(one)).collect();
    (!algorithms.is_empty()).then_some(Jwk { id: key.kid, algorithms, material })
}

/// Returns true if an RSA exponent is safe. With exponent 1, every text is its own signature. With
/// exponent 3, many verifiers had bugs: FIPS 186-5 requires more than 2^16. An even number is not
/// an exponent.
fn is_good_exponent(exponent: &str) -> bool {
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(exponent) else { return false };
    let digits = bytes.iter().skip_while(|byte| **byte == 0).count();
    digits >= 3 && bytes.last().is_some_and(|last| last % 2 == 1)
}

/// Returns true for a weak modulus (CVE-2017-15361): some smart cards used primes that were powers
/// of 65537 modulo small primes. The modulus shows this, and can be factored. One in several
/// hundred million good keys is refused by mistake.
fn has_guessable_primes(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89,
        97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    let is_power = |rest: u32, prime: u32| {
        let mut power = 1;
        loop {
            if power == rest {
                return true;
            }
            power = power * 65_537 % prime;
            if power == 1 {
                return false;
            }
        }
    };
    PRIMES.iter().all(|&prime| {
        is_power(
            modulus.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime),
            prime,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn parsed(keys: &str, pinned: &[Algorithm]) -> Result<Vec<Jwk>, KeySetError> {
        parse(format!("{{\"keys\":[{keys}]}}").as_bytes(), pinned)
    }

    #[test]
    fn a_key_is_taken_for_the_pinned_algorithms_that_fit_it() {
        let keys = parsed(ED, &[Algorithm::EdDSA]).unwrap();
        assert_eq!(
            (keys[0].id.as_deref(), keys[0].algorithms.as_slice()),
            (Some("ed"), &[Algorithm::EdDSA][..])
        );
        assert!(matches!(parsed(ED, &[Algorithm::ES256]), Err(KeySetError::NoUsableKey(_))));
    }

    #[test]
    fn keys_for_other_purposes_and_symmetric_keys_are_left_out() {
        for key in [
            r#"{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0","alg":"EdDSA"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","key_ops":["sign"],"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","alg":"ES256","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            r#"{"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
        ] {
            assert!(parsed(key, &[Algorithm::EdDSA, Algorithm::RS256]).is_err(), "{key}");
        }
    }

    #[test]
    fn a_set_that_is_too_large_is_refused() {
        assert!(matches!(
            parse(&vec![b' '; 300 * 1024], &[Algorithm::EdDSA]),
            Err(KeySetError::TooLarge)
        ));
        let many = vec![ED; 101].join(",");
        assert!(matches!(parsed(&many, &[Algorithm::EdDSA]), Err(KeySetError::TooManyKeys)));
    }
}
