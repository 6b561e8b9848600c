//! Measures the verification of a bearer token, with every algorithm.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use usher::auth::jwt::{Issuers, sign_for_development};
use usher::base::clock::Now;
use usher::config::{Issuer, IssuerKeySource};
use usher::model::algorithm::{Algorithm, KeyFamily};
use usher::model::secret::Secret;

use crate::known;
use crate::support::Runner;

/// A private key as PEM, and its public key.
struct Key {
    private: Secret,
    public: Value,
}

pub fn run(runner: &mut Runner) {
    let now = Now::read();
    let file = std::env::temp_dir().join(format!("usher-bench-{}.jwks", std::process::id()));
    let rsa = rsa_key();
    for algorithm in Algorithm::ALL {
        let key = match algorithm.family() {
            KeyFamily::Hmac => None,
            KeyFamily::Rsa => Some(&rsa),
            KeyFamily::Ecdsa | KeyFamily::Eddsa => Some(&curve_key(algorithm)),
        };
        let keys = match key {
            None => IssuerKeySource::Secret(Secret::from(known::SECRET)),
            Some(key) => {
                std::fs::write(&file, json!({ "keys": [key.public] }).to_string()).unwrap();
                IssuerKeySource::JwksFile(file.clone())
            }
        };
        let issuers = Issuers::load(&[Arc::new(issuer(algorithm, keys))], &[]).unwrap();
        let private = key.map_or(Secret::from(known::SECRET), |key| key.private.clone());
        let token = Secret::from(
            sign_for_development(algorithm, &private, Some("bench"), &known::claims(now))
                .unwrap()
                .as_str(),
        );
        runner.measure(&format!("token: verify, {}", algorithm.name()), || {
            issuers.verify(&token, now).unwrap()
        });
    }
    remove(&file);
}

fn issuer(algorithm: Algorithm, keys: IssuerKeySource) -> Issuer {
    Issuer {
        name: "main".into(),
        issuer: "https://id.example.com".to_owned(),
        audience: vec!["chat".to_owned()],
        algorithms: vec![algorithm],
        keys,
        leeway: Duration::from_secs(30),
        required_claims: Vec::new(),
        user_claim: "sub".to_owned(),
        permissions_claim: "permissions".to_owned(),
        session_claim: "sid".to_owned(),
        max_token_bytes: 8192,
        max_lifetime: Duration::from_secs(86_400),
    }
}

fn rsa_key() -> Key {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let der = pair.as_der().unwrap();
    let private = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(der.as_ref())
    );
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (modulus, exponent) = (pair.public_key().modulus(), pair.public_key().exponent());
    let modulus = encode(modulus.big_endian_without_leading_zero());
    let exponent = encode(exponent.big_endian_without_leading_zero());
    let public = json!({ "kty": "RSA", "kid": "bench", "n": modulus, "e": exponent });
    Key { private: Secret::from(private.as_str()), public }
}

fn curve_key(algorithm: Algorithm) -> Key {
    let kind = match algorithm {
        Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        _ => &rcgen::PKCS_ED25519,
    };
    let pair = rcgen::KeyPair::generate_for(kind).unwrap();
    let point = rcgen::PublicKeyData::der_bytes(&pair);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = match algorithm {
        Algorithm::EdDSA => {
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "bench", "x": encode(point) })
        }
        _ => {
            // An uncompressed point: 4, x, y.
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            let curve = if algorithm == Algorithm::ES256 { "P-256" } else { "P-384" };
            json!({ "kty": "EC", "crv": curve, "kid": "bench", "x": encode(x), "y": encode(y) })
        }
    };
    Key { private: Secret::from(pair.serialize_pem().as_str()), public }
}

fn remove(file: &PathBuf) {
    let _ = std::fs::remove_file(file);
}
