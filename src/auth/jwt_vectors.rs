//! Compares the verifier with the public Wycheproof vectors for signed tokens and their keys.
//!
//! Their payloads are not claims, so only the checks of header, key and signature run.

use std::time::Duration;

use serde_json::json;

use super::*;

const SIGNATURES: &str =
    include_str!("../../tests/vectors/wycheproof/json_web_signature_test.json");
const KEYS: &str = include_str!("../../tests/vectors/wycheproof/json_web_key_test.json");

/// Valid by the vectors, and refused here on purpose.
const STRICTER: [(u64, InvalidToken); 6] = [
    // The key is for PS256, and the token is signed with PS384.
    (346, InvalidToken::Algorithm),
    (350, InvalidToken::Algorithm),
    // ES512 is not supported.
    (347, InvalidToken::Algorithm),
    (351, InvalidToken::Algorithm),
    // The token has a character outside of base64url.
    (372, InvalidToken::Malformed),
    (373, InvalidToken::Malformed),
];

/// Invalid by the vectors, but identical to 357, which is valid: their padding was lost.
const SAME_AS_A_GOOD_ONE: [u64; 2] = [367, 370];

/// Sets of secrets are refused here: an issuer has one secret, and it is not in a set.
const SETS_OF_SECRETS: [(u64, InvalidToken); 1] = [(2, InvalidToken::UnknownKey)];

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    accepted: usize,
    refused: usize,
    stricter: usize,
}

/// Returns the verdict of an issuer that allows the algorithm of the key, or of the token if the
/// key names none. A single secret belongs to the operator; every other key is in a published set.
fn verdict(key: &Value, token: &str) -> Result<(), InvalidToken> {
    let (parts, _) = Parts::cut(token)?;
    let keys: Vec<_> = key["keys"].as_array().cloned().unwrap_or_else(|| vec![key.clone()]);
    let named =
        keys[0]["alg"].as_str().or_else(|| parts.header.get("alg")?.as_str()).unwrap_or_default();
    let pinned = Algorithm::ALL
        .into_iter()
        .find(|one| one.name() == named)
        .ok_or(InvalidToken::Algorithm)?;
    let keys = if pinned.family() == KeyFamily::Hmac && keys.len() == 1 {
        let secrets = keys.iter().filter(|key| key["kty"] == "oct");
        let secrets = secrets.filter_map(|key| URL_SAFE_NO_PAD.decode(key["k"].as_str()?).ok());
        let fit: Vec<_> = secrets.filter(|secret| secret.len() >= pinned.least_secret()).collect();
        let [secret, ..] = fit.as_slice() else { return Err(InvalidToken::UnknownKey) };
        vec![Key { id: None, algorithms: vec![pinned], decoding: DecodingKey::from_secret(secret) }]
    } else {
        let set = json!({ "keys": keys }).to_string();
        let set =
            issuer_keys::parse(set.as_bytes(), &[pinned]).map_err(|_| InvalidToken::UnknownKey)?;
        set.iter()
            .map(Key::from_jwk)
            .collect::<Result<_, _>>()
            .map_err(|_| InvalidToken::UnknownKey)?
    };
    let config = config::Issuer {
        name: "main".into(),
        issuer: String::new(),
        audience: Vec::new(),
        algorithms: vec![pinned],
        keys: IssuerKeySource::Secret(Secret::new(b"")),
        leeway: Duration::ZERO,
        required_claims: Vec::new(),
        user_claim: String::new(),
        permissions_claim: String::new(),
        session_claim: String::new(),
        max_token_bytes: 0,
        max_lifetime: Duration::ZERO,
    };
    Issuer { config: Arc::new(config), keys: Keys::Fixed(KeySet(keys)) }
        .check_signature(&parts, &mut UnwatchedChecks)
}

fn hold(vectors: &str, stricter: &[(u64, InvalidToken)], looser: &[u64]) -> Count {
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let (mut count, mut wrong) = (Count::default(), Vec::new());
    for group in vectors["testGroups"].as_array().unwrap() {
        let key = group.get("public").unwrap_or(&group["private"]);
        for test in group["tests"].as_array().unwrap() {
            let id = test["tcId"].as_u64().unwrap();
            // Some tests use the JSON serialisation, which is an object.
            let token = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
            let said = verdict(key, &token);
            let is_valid = test["result"] == "valid";
            match (&said, stricter.iter().find(|(one, _)| *one == id)) {
                (Err(reason), Some((_, expected))) if is_valid && reason == expected => {
                    count.stricter += 1;
                }
                (Ok(()), None) if is_valid || looser.contains(&id) => count.accepted += 1,
                (Err(_), None) if !is_valid => count.refused += 1,
                _ => wrong.push(format!("{id} {} {}: {said:?}", group["comment"], test["comment"])),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(
        Some((count.accepted + count.refused + count.stricter) as u64),
        vectors["numberOfTests"].as_u64()
    );
    count
}

#[test]
fn every_signature_vector_is_judged_as_it_should_be() {
    assert_eq!(
        hold(SIGNATURES, &STRICTER, &SAME_AS_A_GOOD_ONE),
        Count { accepted: 42, refused: 353, stricter: 6 }
    );
}

#[test]
fn every_key_vector_is_judged_as_it_should_be() {
    assert_eq!(hold(KEYS, &SETS_OF_SECRETS, &[]), Count { accepted: 4, refused: 21, stricter: 1 });
}
