//! Verifies the signed context that Usher puts into every authenticated request.
//!
//! ```text
//! verify_context JWKS_PATH_OR_URL AUDIENCE [ISSUER]     EdDSA or ES256, with the published keys
//! verify_context --secret FILE AUDIENCE [ISSUER]        HS256, with the secret shared with Usher
//! ```
//!
//! Reads the value of the header from standard input, and prints its claims. If the value is not
//! valid, prints the reason and exits with 1.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

type Error = Box<dyn std::error::Error + Send + Sync>;

const JWKS_BYTES: usize = 64 * 1024;
const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// The keys with which a backend verifies.
pub enum Keys {
    /// The key set that Usher publishes.
    Published(JwkSet),
    /// The secret that Usher shares with the backend.
    Shared(Vec<u8>),
}

/// Verifies the value of the header, and returns its claims. `audience` is the name of your
/// upstream in Usher's configuration. `issuer` is `[context] issuer` there.
pub fn verify(
    header_value: &str,
    keys: &Keys,
    audience: &str,
    issuer: &str,
) -> Result<Map<String, Value>, Error> {
    let header = decode_header(header_value)?;
    if header.crit.is_some() {
        return Err("the value has an unknown critical header".into());
    }
    let kid = header.kid.as_deref().ok_or("the value has no key id")?;
    // The key determines the algorithm, and the algorithm in the header must be the same.
    let (key, algorithm) = match keys {
        Keys::Published(set) => {
            let jwk = set.find(kid).ok_or("no published key has the key id")?;
            (
                DecodingKey::from_jwk(jwk)?,
                algorithm_of(jwk).ok_or("the key is not for EdDSA or ES256")?,
            )
        }
        Keys::Shared(_) if kid != "shared" => {
            return Err("the key id is not that of the shared secret".into());
        }
        Keys::Shared(secret) if secret.len() < 32 => {
            return Err("a shared secret needs at least 32 bytes".into());
        }
        Keys::Shared(secret) => (DecodingKey::from_secret(secret), Algorithm::HS256),
    };
    let mut validation = Validation::new(algorithm);
    validation.leeway = 0;
    validation.set_audience(&[audience]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let claims = decode::<Map<String, Value>>(header_value, &key, &validation)?.claims;

    // The library also accepts a list of audiences. Usher writes a single name, so a list is not
    // from Usher.
    if claims.get("aud").and_then(Value::as_str) != Some(audience) {
        return Err("the audience is another one".into());
    }
    if claims.get("sub").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("the value has no user".into());
    }
    Ok(claims)
}

fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Some(Algorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Some(Algorithm::ES256)
        }
        _ => None,
    }
}

/// Reads the key set from a file or a plain `http://` URL. Keep the result. Fetch it again if a key
/// id is unknown, but at most once a minute.
async fn read_jwks(place: &str) -> Result<JwkSet, Error> {
    if place.starts_with("https://") {
        return Err(
            "this example supports only plain HTTP; fetch the key set with your own HTTPS \
                    client, and give the file"
                .into(),
        );
    }
    if !place.starts_with("http://") {
        return Ok(serde_json::from_slice(&std::fs::read(place)?)?);
    }
    let client: Client<_, Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let fetch = async {
        let answer = client.get(place.parse()?).await?;
        if !answer.status().is_success() {
            return Err(format!("{place} answered {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), JWKS_BYTES).collect().await?.to_bytes();
        Ok::<_, Error>(serde_json::from_slice(&body)?)
    };
    tokio::time::timeout(JWKS_TIMEOUT, fetch)
        .await
        .map_err(|_| format!("{place} did not answer"))?
}

/// Reads the secret without the line end that editors add, in the same way as Usher.
fn read_secret(path: &str) -> Result<Vec<u8>, Error> {
    let secret = std::fs::read(path)?;
    let line = secret.strip_suffix(b"\n").unwrap_or(&secret);
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

async fn claims_of_input(
    shared: bool,
    place: &str,
    audience: &str,
    issuer: &str,
) -> Result<String, Error> {
    let keys = if shared {
        Keys::Shared(read_secret(place)?)
    } else {
        Keys::Published(read_jwks(place).await?)
    };
    let header_value = std::io::read_to_string(std::io::stdin())?;
    let claims = verify(header_value.trim(), &keys, audience, issuer)?;
    Ok(serde_json::to_string_pretty(&claims)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let shared = arguments.first().is_some_and(|first| first == "--secret");
    if shared {
        arguments.remove(0);
    }
    let (place, audience, issuer) = match arguments.as_slice() {
        [place, audience] => (place, audience, "usher"),
        [place, audience, issuer] => (place, audience, issuer.as_str()),
        _ => {
            eprintln!("usage: verify_context (JWKS_PATH_OR_URL | --secret FILE) AUDIENCE [ISSUER]");
            return ExitCode::from(2);
        }
    };
    match claims_of_input(shared, place, audience, issuer).await {
        Ok(claims) => {
            println!("{claims}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
