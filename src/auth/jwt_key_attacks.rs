//! Attacks on tokens of an issuer with public keys: public information must not be enough to sign.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::PublicKeyData as _;
use serde_json::json;
use x509_parser::prelude::FromDer as _;

use super::tests::{KeySet, claims, ec_key, raw, verify};
use super::*;

/// The order of the curve P-256.
const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

struct Rsa {
    pem: String,
    der: Vec<u8>,
    modulus: Vec<u8>,
    jwk: Value,
    signs: EncodingKey,
}

fn rsa() -> Rsa {
    let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let der = pair.subject_public_key_info();
    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&der).unwrap();
    let x509_parser::public_key::PublicKey::RSA(public) = spki.parsed().unwrap() else {
        panic!("not RSA")
    };
    let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus).to_vec();
    let jwk =
        json!({ "kty": "RSA", "kid": "one", "n": URL_SAFE_NO_PAD.encode(&modulus), "e": "AQAB" });
    let signs = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
    Rsa { pem: pair.public_key_pem(), der: der.clone(), modulus, jwk, signs }
}

fn plain() -> String {
    claims(&json!({})).to_string()
}

#[test]
fn a_public_key_is_no_secret_in_any_of_its_forms() {
    let rsa = rsa();
    let (_, ec) = ec_key("two");
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let x = URL_SAFE_NO_PAD.encode(ed.public_key_raw());
    let ed_jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "three", "x": x });
    let set = KeySet::write("confusion", json!([rsa.jwk, ec, ed_jwk]));
    let file = std::fs::read(set.path()).unwrap();
    let point = [
        [4].to_vec(),
        ["x", "y"].map(|name| URL_SAFE_NO_PAD.decode(ec[name].as_str().unwrap()).unwrap()).concat(),
    ]
    .concat();
    let forms: Vec<Vec<u8>> = vec![
        rsa.pem.clone().into_bytes(),
        rsa.pem.trim_end().as_bytes().to_vec(),
        rsa.pem.replace("\r\n", "\n").into_bytes(),
        rsa.der.clone(),
        rsa.modulus.clone(),
        rsa.jwk["n"].as_str().unwrap().as_bytes().to_vec(),
        rsa.jwk.to_string().into_bytes(),
        point,
        ec["x"].as_str().unwrap().as_bytes().to_vec(),
        ed.public_key_raw().to_vec(),
        ed.public_key_pem().into_bytes(),
        file,
        b"one".to_vec(),
        Vec::new(),
    ];
    for pinned in [Algorithm::RS256, Algorithm::PS512, Algorithm::ES256, Algorithm::EdDSA] {
        let issuers = Issuers::load(&[set.issuer("main", pinned)], &[]).unwrap();
        for (index, form) in forms.iter().enumerate() {
            let key = EncodingKey::from_secret(form);
            for (name, algorithm) in [
                ("HS256", jsonwebtoken::Algorithm::HS256),
                ("HS512", jsonwebtoken::Algorithm::HS512),
            ] {
                let honest =
                    raw(&format!(r#"{{"alg":"{name}","kid":"one"}}"#), &plain(), &key, algorithm);
                assert_eq!(
                    verify(&issuers, &honest),
                    Err(InvalidToken::Algorithm),
                    "{pinned:?} {index} {name}"
                );
                // The header names the expected algorithm, but another one signed the token.
                let header = format!(r#"{{"alg":"{}"}}"#, pinned.name());
                assert_eq!(
                    verify(&issuers, &raw(&header, &plain(), &key, algorithm)),
                    Err(InvalidToken::Signature),
                    "{pinned:?} {index}"
                );
            }
        }
    }
}

#[test]
fn one_padding_is_not_taken_for_the_other() {
    let rsa = rsa();
    let both = |set: &KeySet| {
        let mut config = Arc::into_inner(set.issuer("main", Algorithm::RS256)).unwrap();
        config.algorithms = vec![Algorithm::RS256, Algorithm::PS256];
        Issuers::load(&[Arc::new(config)], &[]).unwrap()
    };
    let any = KeySet::write("paddings", json!([rsa.jwk]));
    for (says, made) in [
        (Algorithm::RS256, Algorithm::PS256),
        (Algorithm::PS256, Algorithm::RS256),
        (Algorithm::RS256, Algorithm::RS384),
    ] {
        let token =
            raw(&format!(r#"{{"alg":"{}"}}"#, says.name()), &plain(), &rsa.signs, library(made));
        assert_eq!(
            verify(&both(&any), &token),
            Err(InvalidToken::Signature),
            "{says:?} made as {made:?}"
        );
    }
    let mut jwk = rsa.jwk.clone();
    jwk["alg"] = json!("RS256");
    let one = KeySet::write("padding", json!([jwk]));
    let token = raw(r#"{"alg":"PS256"}"#, &plain(), &rsa.signs, library(Algorithm::PS256));
    assert!(verify(&both(&any), &token).is_ok());
    assert_eq!(
        verify(&both(&one), &token),
        Err(InvalidToken::UnknownKey),
        "the key names its algorithm"
    );
}

#[test]
fn a_signature_on_a_curve_is_two_numbers_within_the_order_and_nothing_else() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let signs = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    let point = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().to_vec();
    let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    let set = KeySet::write("curve", json!([jwk]));
    let issuers = Issuers::load(&[set.issuer("main", Algorithm::ES256)], &[]).unwrap();
    let good = raw(r#"{"alg":"ES256"}"#, &plain(), &signs, jsonwebtoken::Algorithm::ES256);
    assert!(verify(&issuers, &good).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = signature.split_at(32);
    let order = hex(ORDER);
    let less = hex(&(ORDER[..63].to_owned() + "0"));
    let (zero, one, most) =
        ([0; 32].to_vec(), [[0; 31].to_vec(), vec![1]].concat(), [0xff; 32].to_vec());
    let asn1 = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let mut forged = vec![
        ("as ASN.1", asn1.as_ref().to_vec()),
        ("empty", Vec::new()),
        ("r alone", r.to_vec()),
        ("one byte more", [signature.as_slice(), &[0]].concat()),
        ("one byte less", signature[..63].to_vec()),
        ("zeros between", [r, &[0], s].concat()),
        ("the halves swapped", [s, r].concat()),
        ("with room for P-384", [&[0; 16], r, &[0; 16], s].concat()),
        ("negative s", [r, &minus(&order, s)].concat()),
    ];
    for (left, name) in
        [(&zero, "0"), (&one, "1"), (&less, "n - 1"), (&order, "n"), (&most, "the most")]
    {
        for right in [&zero, &one, &less, &order, &most] {
            forged.push((name, [left.as_slice(), right].concat()));
        }
        forged.push(("r", [r, left].concat()));
        forged.push(("s", [left.as_slice(), s].concat()));
    }
    for (what, bytes) in forged {
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
        // Every ECDSA signature has a second valid form, which anyone can compute. It is accepted:
        // the signed text is the same.
        let expected = if what == "negative s" { Ok(()) } else { Err(InvalidToken::Signature) };
        assert_eq!(verify(&issuers, &token).map(drop), expected, "{what}");
    }
}

#[test]
fn a_key_that_the_token_names_or_brings_is_never_fetched_or_used() {
    let ((_, mine), (theirs, their_jwk)) = (ec_key("one"), ec_key("evil"));
    let set = KeySet::write("brought", json!([mine]));
    let issuers = Issuers::load(&[set.issuer("main", Algorithm::ES256)], &[]).unwrap();
    let bring = |more: &str| {
        raw(
            &format!(r#"{{"alg":"ES256",{more}}}"#),
            &plain(),
            &theirs,
            jsonwebtoken::Algorithm::ES256,
        )
    };
    for (more, reason) in [
        (format!(r#""kid":"one","jwk":{their_jwk}"#), InvalidToken::Signature),
        (format!(r#""kid":"evil","jwk":{their_jwk}"#), InvalidToken::UnknownKey),
        (
            r#""kid":"evil","jku":"https://evil.example.com/jwks.json""#.to_owned(),
            InvalidToken::UnknownKey,
        ),
        (
            r#""kid":"one","jku":"https://main.example.com@evil.example.com/jwks.json""#.to_owned(),
            InvalidToken::Signature,
        ),
        (
            r#""kid":"one","x5u":"https://evil.example.com/cert.pem""#.to_owned(),
            InvalidToken::Signature,
        ),
        (r#""kid":"one","x5c":["MIIB"]"#.to_owned(), InvalidToken::Signature),
        (r#""kid":"../../etc/passwd""#.to_owned(), InvalidToken::UnknownKey),
        (r#""kid":"one\u0000""#.to_owned(), InvalidToken::UnknownKey),
        (r#""kid":"ONE""#.to_owned(), InvalidToken::UnknownKey),
        (r#""kid":"""#.to_owned(), InvalidToken::UnknownKey),
        (r#""kid":1"#.to_owned(), InvalidToken::UnknownKey),
        (r#""kid":null"#.to_owned(), InvalidToken::UnknownKey),
    ] {
        assert_eq!(verify(&issuers, &bring(&more)), Err(reason), "{more}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Returns `order - number` in 32 bytes.
fn minus(order: &[u8], number: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut digits: Vec<u8> = order
        .iter()
        .zip(number)
        .rev()
        .map(|(a, b)| {
            let difference = i16::from(*a) - i16::from(*b) - borrow;
            borrow = i16::from(difference < 0);
            u8::try_from(difference.rem_euclid(256)).unwrap()
        })
        .collect();
    digits.reverse();
    digits
}

/// Uses one issuer whose key set has RSA, EC and Ed25519 keys, all with the same key id.
#[test]
fn families_stand_together_and_the_algorithm_belongs_to_the_key() {
    let rsa = rsa();
    let (ec_signs, ec) = ec_key("one");
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed_signs = EncodingKey::from_ed_der(&ed.serialize_der());
    let x = URL_SAFE_NO_PAD.encode(ed.public_key_raw());
    let ed_jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x });
    let set = KeySet::write("families", json!([rsa.jwk, ec, ed_jwk]));
    let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let of = |set: &KeySet, pinned: &[Algorithm]| {
        let issuer =
            super::tests::issuer("main", pinned, IssuerKeySource::JwksFile(set.path().to_owned()));
        Issuers::load(&[Arc::new(issuer)], &[]).unwrap()
    };
    let issuers = of(&set, &all);
    let keys = [
        (Algorithm::RS256, &rsa.signs),
        (Algorithm::ES256, &ec_signs),
        (Algorithm::EdDSA, &ed_signs),
    ];
    for (algorithm, key) in keys {
        for kid in [r#","kid":"one""#, ""] {
            let header = format!(r#"{{"alg":"{}"{kid}}}"#, algorithm.name());
            assert!(
                verify(&issuers, &raw(&header, &plain(), key, library(algorithm))).is_ok(),
                "{header}"
            );
        }
        // The header names an algorithm of another family: the key of that family checks the
        // signature.
        for named in all.into_iter().filter(|named| *named != algorithm) {
            let header = format!(r#"{{"alg":"{}","kid":"one"}}"#, named.name());
            let token = raw(&header, &plain(), key, library(algorithm));
            assert_eq!(
                verify(&issuers, &token),
                Err(InvalidToken::Signature),
                "{algorithm:?} named {named:?}"
            );
        }
    }
    // A listed algorithm does not allow other algorithms of its family. A secret is never allowed.
    let ps =
        raw(r#"{"alg":"PS256","kid":"one"}"#, &plain(), &rsa.signs, jsonwebtoken::Algorithm::PS256);
    assert_eq!(verify(&issuers, &ps), Err(InvalidToken::Algorithm));
    for form in [
        rsa.pem.as_bytes(),
        &rsa.der,
        &rsa.modulus,
        ed.public_key_raw(),
        ec["x"].as_str().unwrap().as_bytes(),
    ] {
        let token = raw(
            r#"{"alg":"HS256","kid":"one"}"#,
            &plain(),
            &EncodingKey::from_secret(form),
            jsonwebtoken::Algorithm::HS256,
        );
        assert_eq!(verify(&issuers, &token), Err(InvalidToken::Algorithm));
    }

    // A key whose `alg` belongs to another family is not used.
    let marked = |jwk: &Value, kid: &str, alg: &str| {
        let mut jwk = jwk.clone();
        (jwk["kid"], jwk["alg"]) = (json!(kid), json!(alg));
        jwk
    };
    let set = KeySet::write(
        "families-marked",
        json!([
            marked(&rsa.jwk, "rsa", "ES256"),
            marked(&ec, "ec", "EdDSA"),
            marked(&ed_jwk, "ed", "RS256"),
            marked(&ec, "good", "ES256")
        ]),
    );
    let issuers = of(&set, &all);
    for ((algorithm, key), kid) in keys.into_iter().zip(["rsa", "ec", "ed"]) {
        for named in all {
            let header = format!(r#"{{"alg":"{}","kid":"{kid}"}}"#, named.name());
            let token = raw(&header, &plain(), key, library(algorithm));
            assert_eq!(
                verify(&issuers, &token),
                Err(InvalidToken::UnknownKey),
                "{kid} named {named:?}"
            );
        }
    }
    let good =
        raw(r#"{"alg":"ES256","kid":"good"}"#, &plain(), &ec_signs, jsonwebtoken::Algorithm::ES256);
    assert!(verify(&issuers, &good).is_ok());
}
