//! Tests of tokens that differ from a valid one in one point, and of the reason why each is
//! refused.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"a secret of more than thirty-two bytes";
pub(super) const NOW: u64 = 1_700_000_000;

pub(super) fn now() -> Now {
    Now { wall: UnixMillis::from_secs(NOW), ..Now::read() }
}

pub(super) fn issuer(
    name: &str,
    algorithms: &[Algorithm],
    keys: IssuerKeySource,
) -> config::Issuer {
    config::Issuer {
        name: name.into(),
        issuer: format!("https://{name}.example.com"),
        audience: vec!["chat".to_owned()],
        algorithms: algorithms.to_vec(),
        keys,
        leeway: Duration::from_secs(30),
        required_claims: Vec::new(),
        user_claim: "sub".to_owned(),
        permissions_claim: "permissions".to_owned(),
        session_claim: "sid".to_owned(),
        max_token_bytes: 8192,
        max_lifetime: Duration::from_secs(30 * 86_400),
    }
}

fn hmac_issuers() -> Issuers {
    let main = issuer("main", &[Algorithm::HS256], IssuerKeySource::Secret(Secret::new(SECRET)));
    Issuers::load(&[Arc::new(main)], &["tenant".to_owned()]).unwrap()
}

pub(super) fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://main.example.com", "aud": ["other", "chat"], "sub": "ada",
        "exp": NOW + 600, "iat": NOW, "jti": "t1",
        "permissions": "chat:read chat:write", "sid": "s1", "tenant": "blue",
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// Signs any header and payload.
pub(super) fn raw(
    header: &str,
    payload: &str,
    key: &EncodingKey,
    algorithm: jsonwebtoken::Algorithm,
) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

pub(super) fn hs256(header: &str, payload: &str) -> String {
    raw(header, payload, &EncodingKey::from_secret(SECRET), jsonwebtoken::Algorithm::HS256)
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn with(changes: Value) -> String {
    hs256(HEADER, &claims(&changes).to_string())
}

fn header(header: &str) -> String {
    hs256(header, &claims(&json!({})).to_string())
}

pub(super) fn verify(issuers: &Issuers, token: &str) -> Result<Principal, InvalidToken> {
    let token = Secret::from(token);
    let verdict = issuers.verify(&token, now());
    // The check by check result has the same verdict: its first failure, if any.
    let told = issuers.inspect(&token, now());
    let first = told.checks.iter().find_map(|seen| seen.outcome.err());
    assert_eq!(
        (told.verdict.map(drop), first),
        (verdict.as_ref().map(drop).map_err(|why| *why), verdict.as_ref().err().copied())
    );
    verdict
}

#[test]
fn a_good_token_becomes_its_principal() {
    let principal = verify(&hmac_issuers(), &with(json!({}))).unwrap();
    let expected = Principal {
        subject: "ada".to_owned(),
        issuer: "main".into(),
        token_id: Some("t1".to_owned()),
        issuer_session: Some("s1".to_owned()),
        permissions: vec!["chat:read".to_owned(), "chat:write".to_owned()],
        issued_at: UnixMillis::from_secs(NOW),
        expires_at: UnixMillis::from_secs(NOW + 600),
        in_leeway: false,
        claims: json!({ "tenant": "blue" }).as_object().unwrap().clone(),
    };
    assert_eq!(principal, expected);
}

#[test]
fn each_attack_is_refused_for_its_own_reason() {
    use InvalidToken::{
        Algorithm, Audience, Claim, CriticalHeader, Expired, Lifetime, Malformed, NotYetValid,
        Signature, TooLong, Type, UnknownIssuer, UnknownKey,
    };
    let good = with(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let flipped = format!("{other}{}", &signature[1..]);
    let plain = claims(&json!({})).to_string();
    let twice = plain.replacen('{', r#"{"sub":"eve","#, 1);
    let attackers = EncodingKey::from_secret(b"the attacker's own secret, long enough");
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let cases = [
        ("nothing", String::new(), Malformed),
        ("two parts", message.to_owned(), Malformed),
        ("four parts", format!("{good}.x"), Malformed),
        ("padding", format!("{good}="), Malformed),
        ("a line feed", format!("{good}\n"), Malformed),
        ("a header that is a list", header("[]"), Malformed),
        ("a subject that stands twice", hs256(HEADER, &twice), Malformed),
        ("very deep claims", hs256(HEADER, &deep), Malformed),
        ("a megabyte", format!("{good}{}", "A".repeat(1 << 20)), TooLong),
        ("alg none", header(r#"{"alg":"none"}"#), Algorithm),
        (
            "alg none, no signature",
            format!("{}.", header(r#"{"alg":"none"}"#).rsplit_once('.').unwrap().0),
            Algorithm,
        ),
        ("alg None", header(r#"{"alg":"None"}"#), Algorithm),
        ("alg NONE", header(r#"{"alg":"NONE"}"#), Algorithm),
        ("alg nOnE", header(r#"{"alg":"nOnE"}"#), Algorithm),
        ("alg none in escapes", header(r#"{"alg":"\u006eone"}"#), Algorithm),
        ("alg none with a space", header(r#"{"alg":"none "}"#), Algorithm),
        ("alg none with a NUL", header(r#"{"alg":"none\u0000"}"#), Algorithm),
        ("alg that is empty", header(r#"{"alg":""}"#), Algorithm),
        ("alg that is null", header(r#"{"alg":null}"#), Algorithm),
        ("alg that is a list", header(r#"{"alg":["HS256"]}"#), Algorithm),
        ("alg that stands twice", header(r#"{"alg":"HS256","alg":"none"}"#), Malformed),
        ("alg in lower case", header(r#"{"alg":"hs256"}"#), Algorithm),
        ("alg that is not pinned", header(r#"{"alg":"HS512"}"#), Algorithm),
        ("no alg", header("{}"), Algorithm),
        ("crit", header(r#"{"alg":"HS256","crit":["exp"]}"#), CriticalHeader),
        ("an empty crit", header(r#"{"alg":"HS256","crit":[]}"#), CriticalHeader),
        ("a crit that is text", header(r#"{"alg":"HS256","crit":"exp"}"#), CriticalHeader),
        ("a crit that is null", header(r#"{"alg":"HS256","crit":null}"#), CriticalHeader),
        (
            "a crit that names what is not there",
            header(r#"{"alg":"HS256","crit":["b65"]}"#),
            CriticalHeader,
        ),
        ("crit and b64", header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#), CriticalHeader),
        (
            "a payload that is not encoded",
            unencoded(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, &plain),
            Malformed,
        ),
        ("a token inside, as it says", header(r#"{"alg":"HS256","cty":"JWT"}"#), Type),
        (
            "a token inside, in other letters",
            header(r#"{"alg":"HS256","cty":"application/jwt"}"#),
            Type,
        ),
        ("a content type that is a number", header(r#"{"alg":"HS256","cty":1}"#), Type),
        ("a token inside", hs256(r#"{"alg":"HS256","cty":"JWT"}"#, &good), Malformed),
        ("a token inside, in quotes", hs256(HEADER, &format!("\"{good}\"")), Malformed),
        (
            "an encrypted token",
            "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA".to_owned(),
            Malformed,
        ),
        ("b64", header(r#"{"alg":"HS256","b64":false}"#), CriticalHeader),
        ("another type", header(r#"{"alg":"HS256","typ":"JWE"}"#), Type),
        ("a type that is a number", header(r#"{"alg":"HS256","typ":1}"#), Type),
        ("a key id that is a list", header(r#"{"alg":"HS256","kid":[]}"#), UnknownKey),
        (
            "another secret",
            raw(HEADER, &plain, &attackers, jsonwebtoken::Algorithm::HS256),
            Signature,
        ),
        (
            "a key that it brings itself",
            raw(
                r#"{"alg":"HS256","jwk":{"kty":"oct"},"jku":"http://x","x5u":"http://x"}"#,
                &plain,
                &attackers,
                jsonwebtoken::Algorithm::HS256,
            ),
            Signature,
        ),
        (
            "a file of zeros for a key",
            forged(r#""kid":"../../../../dev/zero""#, &[0; 32]),
            Signature,
        ),
        ("an empty file for a key", forged(r#""kid":"../../../../dev/null""#, b""), Signature),
        (
            "a key from a question to a database",
            forged(r#""kid":"x' UNION SELECT 'secret' -- ""#, b"secret"),
            Signature,
        ),
        ("a key from a command", forged(r#""kid":"key|/bin/echo secret""#, b"secret\n"), Signature),
        (
            "a key from a URL",
            forged(r#""kid":"https://evil.example.com/key""#, b"secret"),
            Signature,
        ),
        (
            "a key that is in the header",
            forged(r#""jwk":{"kty":"oct","k":"c2VjcmV0"}"#, b"secret"),
            Signature,
        ),
        (
            "a key set of the attacker's",
            forged(r#""jku":"https://evil.example.com/jwks.json","kid":"1""#, b"secret"),
            Signature,
        ),
        (
            "a certificate of the attacker's",
            forged(r#""x5c":["c2VjcmV0"],"x5t":"AAAA""#, b"secret"),
            Signature,
        ),
        (
            "a certificate's address",
            forged(r#""x5u":"https://evil.example.com/c.pem""#, b"secret"),
            Signature,
        ),
        ("a changed signature", format!("{message}.{flipped}"), Signature),
        ("no signature", format!("{message}."), Signature),
        ("a signature with spaces", format!("{message}. {signature}"), Malformed),
        (
            "a line feed inside",
            format!("{message}.{}\n{}", &signature[..9], &signature[9..]),
            Malformed,
        ),
        (
            "bits behind the signature's end",
            format!("{message}.{}", with_spare_bits(signature)),
            Malformed,
        ),
        ("the other alphabet", hs256(HEADER, &plain).replace(['-', '_'], "+") + "+", Malformed),
        ("bits behind the header's end", spare_bits_in_header(&plain), Malformed),
        ("half a signature", format!("{message}.{}", &signature[..20]), Signature),
        ("two signatures", format!("{message}.{signature}{signature}"), Malformed),
        ("only dots", "..".to_owned(), Malformed),
        ("many parts", ".".repeat(4000), Malformed),
        (
            "a name that stands twice, deep down",
            numbers(r#""realm_access":{"roles":[],"roles":["admin"]}"#),
            Malformed,
        ),
        ("a name that stands twice, in escapes", numbers(r#""s\u0075b":"eve""#), Malformed),
        ("an expiry of infinity", exp("1e400"), Malformed),
        ("an expiry that is no number", exp("NaN"), Malformed),
        ("an expiry of more than all digits", exp(&"9".repeat(400)), Malformed),
        ("an expiry of 1e308", exp("1e308"), Claim("exp")),
        ("an expiry of 2^63", exp("9223372036854775808"), Claim("exp")),
        ("an expiry of 2^64", exp("18446744073709551616"), Claim("exp")),
        ("an expiry of -2^63", exp("-9223372036854775808"), Claim("exp")),
        ("an expiry just below zero", exp("-0.001"), Claim("exp")),
        ("an expiry that is true", exp("true"), Claim("exp")),
        ("an expiry that is a list", exp("[1700000600]"), Claim("exp")),
        ("an expiry that is an object", exp(r#"{"$numberLong":"1700000600"}"#), Claim("exp")),
        ("an expiry in milliseconds", exp("1700000600000"), Claim("exp")),
        ("a fraction at the leeway's edge", exp("1699999970.0"), Expired),
        ("a fraction of a second before it", exp("1699999969.999"), Expired),
        ("an expiry of zero", exp("0"), Expired),
        ("nbf of infinity", numbers(r#""nbf":1e400"#), Malformed),
        ("nbf of 2^63", numbers(r#""nbf":9223372036854775808"#), Claim("nbf")),
        ("nbf that is negative", numbers(r#""nbf":-5"#), Claim("nbf")),
        ("nbf a moment beyond the leeway", numbers(r#""nbf":1700000030.001"#), NotYetValid),
        ("no issuer", with(json!({ "iss": null })), Claim("iss")),
        ("an issuer that is a number", with(json!({ "iss": 1 })), Claim("iss")),
        ("another issuer", with(json!({ "iss": "https://evil.example.com" })), UnknownIssuer),
        ("no audience", with(json!({ "aud": null })), Claim("aud")),
        ("an audience that is a number", with(json!({ "aud": 5 })), Claim("aud")),
        ("an audience with a number in it", with(json!({ "aud": ["chat", 5] })), Claim("aud")),
        ("another audience", with(json!({ "aud": "other" })), Audience),
        ("an empty audience", with(json!({ "aud": [] })), Audience),
        ("no expiry", with(json!({ "exp": null })), Claim("exp")),
        ("an expiry as text", with(json!({ "exp": "1700000600" })), Claim("exp")),
        ("a negative expiry", with(json!({ "exp": -1 })), Claim("exp")),
        ("an expiry beyond all time", with(json!({ "exp": u64::MAX })), Claim("exp")),
        ("expired at the leeway's edge", with(json!({ "exp": NOW - 30 })), Expired),
        ("good for too long", with(json!({ "exp": NOW + 30 * 86_400 + 1 })), Lifetime),
        ("not yet", with(json!({ "nbf": NOW + 31 })), NotYetValid),
        ("issued in the future", with(json!({ "iat": NOW + 31 })), NotYetValid),
        ("nbf as text", with(json!({ "nbf": "0" })), Claim("nbf")),
        ("no subject", with(json!({ "sub": null })), Claim("sub")),
        ("an empty subject", with(json!({ "sub": "" })), Claim("sub")),
        ("a subject that is a number", with(json!({ "sub": 1 })), Claim("sub")),
        (
            "permissions that are a number",
            with(json!({ "permissions": 7 })),
            Claim("the permissions claim"),
        ),
        (
            "permissions with a number",
            with(json!({ "permissions": ["a", 7] })),
            Claim("the permissions claim"),
        ),
        ("a token id that is a list", with(json!({ "jti": [] })), Claim("jti")),
    ];
    let issuers = hmac_issuers();
    for (what, token, reason) in cases {
        assert_eq!(verify(&issuers, &token), Err(reason), "{what}");
    }
}

/// Returns a token that is signed with an attacker's secret. Its header names the place of that
/// secret.
fn forged(where_from: &str, secret: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    raw(
        &format!(r#"{{"alg":"HS256",{where_from}}}"#),
        &claims(&json!({})).to_string(),
        &key,
        jsonwebtoken::Algorithm::HS256,
    )
}

/// Returns a valid token with this text before its claims.
fn numbers(text: &str) -> String {
    hs256(HEADER, &claims(&json!({})).to_string().replacen('{', &format!("{{{text},"), 1))
}

fn exp(text: &str) -> String {
    hs256(
        HEADER,
        &claims(&json!({ "exp": null })).to_string().replacen(
            '{',
            &format!(r#"{{"exp":{text},"#),
            1,
        ),
    )
}

/// Returns a token with an unencoded payload, signed in that form (RFC 7797).
fn unencoded(header: &str, payload: &str) -> String {
    let message = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header));
    let signature = crypto::sign(
        message.as_bytes(),
        &EncodingKey::from_secret(SECRET),
        jsonwebtoken::Algorithm::HS256,
    )
    .unwrap();
    format!("{message}.{signature}")
}

/// Returns a text that decodes to the same bytes in a decoder that ignores the unused last bits.
fn with_spare_bits(text: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = text.split_at(text.len() - 1);
    let at = ALPHABET.find(last).unwrap();
    format!("{rest}{}", &ALPHABET[at + 1..at + 2])
}

fn spare_bits_in_header(payload: &str) -> String {
    let header = with_spare_bits(&URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256" }"#));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    let signature = crypto::sign(
        message.as_bytes(),
        &EncodingKey::from_secret(SECRET),
        jsonwebtoken::Algorithm::HS256,
    )
    .unwrap();
    format!("{message}.{signature}")
}

#[test]
fn permissions_are_text_a_list_or_at_the_end_of_a_path() {
    let found = |name: &str, claim: Value| {
        let mut main =
            issuer("main", &[Algorithm::HS256], IssuerKeySource::Secret(Secret::new(SECRET)));
        main.permissions_claim = name.to_owned();
        let issuers = Issuers::load(&[Arc::new(main)], &[]).unwrap();
        verify(&issuers, &with(claim)).map(|principal| principal.permissions)
    };
    let both = Ok(vec!["chat:read".to_owned(), "chat:write".to_owned()]);
    for (name, claim) in [
        ("scope", json!({ "scope": "chat:read chat:write" })),
        ("scope", json!({ "scope": " chat:read  chat:write " })),
        ("roles", json!({ "roles": ["chat:read", "chat:write"] })),
        ("realm_access.roles", json!({ "realm_access": { "roles": ["chat:read", "chat:write"] } })),
        (
            "resource_access.chat.roles",
            json!({ "resource_access": { "chat": { "roles": "chat:read chat:write" } } }),
        ),
        (
            "https://example.com/roles",
            json!({ "https://example.com/roles": ["chat:read", "chat:write"] }),
        ),
        ("a.b", json!({ "a.b": ["chat:read", "chat:write"], "a": { "b": ["admin"] } })),
    ] {
        assert_eq!(found(name, claim), both, "{name}");
    }
    assert_eq!(
        found("scope", json!({ "scope": "room:a\u{a0}admin" })),
        Ok(vec!["room:a\u{a0}admin".to_owned()]),
        "one space parts"
    );
    for claim in [
        json!({}),
        json!({ "realm_access": "roles" }),
        json!({ "realm_access": [] }),
        json!({ "realm_access": { "roles": null } }),
    ] {
        assert_eq!(found("realm_access.roles", claim), Ok(Vec::new()));
    }
    assert_eq!(
        found("realm_access.roles", json!({ "realm_access": { "roles": { "admin": true } } })),
        Err(InvalidToken::Claim("the permissions claim"))
    );
}

#[test]
fn what_is_unusual_and_right_is_accepted() {
    let issuers = hmac_issuers();
    let inside = verify(&issuers, &with(json!({ "exp": NOW - 29 }))).unwrap();
    assert_eq!(inside.expires_at, UnixMillis::from_secs(NOW + 1), "the rest of the leeway");
    for token in [
        with(json!({ "exp": (NOW + 60) as f64 + 0.5, "nbf": 0, "iat": 0 })),
        with(json!({ "aud": "chat", "permissions": null, "jti": null })),
        with(json!({ "nbf": NOW + 30, "iat": NOW + 30 })),
        exp("1699999970.001"),
        exp("1.7000006e9"),
        header(r#"{"alg":"HS256","jku":"https://evil.example.com","jwk":{},"x5c":[]}"#),
        header(r#"{"alg":"HS256","cty":"json"}"#),
        header(r#"{"alg":"HS256","typ":"at+JWT","kid":"any"}"#),
        header(r#"{"alg":"HS256"}"#),
    ] {
        assert!(verify(&issuers, &token).is_ok());
    }
}

#[test]
fn a_required_claim_is_required() {
    let mut main =
        issuer("main", &[Algorithm::HS256], IssuerKeySource::Secret(Secret::new(SECRET)));
    main.required_claims = vec!["tenant".to_owned()];
    let issuers = Issuers::load(&[Arc::new(main)], &[]).unwrap();
    assert!(verify(&issuers, &with(json!({}))).is_ok());
    assert_eq!(
        verify(&issuers, &with(json!({ "tenant": null }))),
        Err(InvalidToken::Claim("a required claim"))
    );
}

/// A key set in its own file, which is removed at the end.
pub(super) struct KeySet(std::path::PathBuf);

impl KeySet {
    pub(super) fn write(name: &str, keys: Value) -> Self {
        let path =
            std::env::temp_dir().join(format!("usher-jwks-{}-{name}.json", std::process::id()));
        std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub(super) fn issuer(&self, name: &str, algorithm: Algorithm) -> Arc<config::Issuer> {
        Arc::new(issuer(name, &[algorithm], IssuerKeySource::JwksFile(self.0.clone())))
    }
}

impl Drop for KeySet {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Returns a P-256 key: the private key, and the public key as a JWK.
pub(super) fn ec_key(kid: &str) -> (EncodingKey, Value) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y });
    (EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()), jwk)
}

#[test]
fn a_public_key_verifies_its_own_issuer_s_tokens_and_nothing_else() {
    let (mine, my_jwk) = ec_key("one");
    let (theirs, their_jwk) = ec_key("one");
    let oct =
        json!({ "kty": "oct", "kid": "one", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256" });
    let (my_set, their_set) =
        (KeySet::write("mine", json!([my_jwk, oct])), KeySet::write("theirs", json!([their_jwk])));
    let issuers = Issuers::load(
        &[my_set.issuer("main", Algorithm::ES256), their_set.issuer("other", Algorithm::ES256)],
        &[],
    )
    .unwrap();
    let plain = claims(&json!({})).to_string();
    let es256 = |kid: &str, key: &EncodingKey| {
        raw(&format!(r#"{{"alg":"ES256"{kid}}}"#), &plain, key, jsonwebtoken::Algorithm::ES256)
    };
    assert!(verify(&issuers, &es256(r#","kid":"one""#, &mine)).is_ok());
    assert!(verify(&issuers, &es256("", &mine)).is_ok(), "the only key that fits");
    assert_eq!(verify(&issuers, &es256(r#","kid":"two""#, &mine)), Err(InvalidToken::UnknownKey));
    assert_eq!(
        verify(&issuers, &es256(r#","kid":"one""#, &theirs)),
        Err(InvalidToken::Signature),
        "the other issuer's key of the same id"
    );
    assert_eq!(
        verify(&issuers, &hs256(r#"{"alg":"HS256","kid":"one"}"#, &plain)),
        Err(InvalidToken::Algorithm),
        "a published secret is not used"
    );
    let zeros = format!(
        "{}.{}",
        es256("", &mine).rsplit_once('.').unwrap().0,
        URL_SAFE_NO_PAD.encode([0; 64])
    );
    assert_eq!(verify(&issuers, &zeros), Err(InvalidToken::Signature));
}

#[test]
fn a_token_without_key_id_must_leave_no_choice() {
    let ((one, one_jwk), (_, two_jwk)) = (ec_key("one"), ec_key("two"));
    let set = KeySet::write("choice", json!([one_jwk, two_jwk]));
    let issuers = Issuers::load(&[set.issuer("main", Algorithm::ES256)], &[]).unwrap();
    let token = raw(
        r#"{"alg":"ES256"}"#,
        &claims(&json!({})).to_string(),
        &one,
        jsonwebtoken::Algorithm::ES256,
    );
    assert_eq!(verify(&issuers, &token), Err(InvalidToken::UnknownKey));
}

#[test]
fn a_set_without_a_usable_key_does_not_load() {
    let set = KeySet::write("oct", json!([{ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) }]));
    let error = Issuers::load(&[set.issuer("main", Algorithm::EdDSA)], &[]).unwrap_err();
    assert!(error.to_string().contains("no key of the set can verify EdDSA"), "{error}");
}

#[test]
fn every_algorithm_verifies_its_own_signatures_alone() {
    use rcgen::PublicKeyData as _;
    use x509_parser::prelude::FromDer as _;
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let spki = rsa.subject_public_key_info();
    let (_, public) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let x509_parser::public_key::PublicKey::RSA(public) = public.parsed().unwrap() else {
        panic!("not RSA")
    };
    let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
    let [n, e] = [modulus, public.exponent].map(|part| URL_SAFE_NO_PAD.encode(part));
    let rsa_jwk = json!({ "kty": "RSA", "n": n, "e": e });
    let p384 =
        EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let point = p384.public_key().as_ref();
    let [x, y] = [&point[1..49], &point[49..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let p384_jwk = json!({ "kty": "EC", "crv": "P-384", "x": x, "y": y });
    let (p256, p256_jwk) = ec_key("p256");
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed_jwk =
        json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(ed.public_key_raw()) });
    let set = KeySet::write("all", json!([rsa_jwk, p384_jwk, p256_jwk, ed_jwk]));
    let signing = |algorithm: Algorithm| match algorithm {
        Algorithm::ES256 => p256.clone(),
        Algorithm::ES384 => EncodingKey::from_ec_der(p384.to_pkcs8v1().unwrap().as_ref()),
        Algorithm::EdDSA => EncodingKey::from_ed_der(&ed.serialize_der()),
        other if other.family() == KeyFamily::Rsa => {
            EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap()
        }
        _ => EncodingKey::from_secret(SECRET),
    };
    let plain = claims(&json!({})).to_string();
    let tokens: Vec<_> = Algorithm::ALL
        .iter()
        .map(|&one| {
            (
                one,
                raw(&format!(r#"{{"alg":"{}"}}"#, one.name()), &plain, &signing(one), library(one)),
            )
        })
        .collect();
    for pinned in Algorithm::ALL {
        let issuer = match pinned.family() {
            KeyFamily::Hmac => {
                Arc::new(issuer("main", &[pinned], IssuerKeySource::Secret(Secret::new(SECRET))))
            }
            _ => set.issuer("main", pinned),
        };
        let issuers = Issuers::load(&[issuer], &[]).unwrap();
        for (algorithm, token) in &tokens {
            let expected = if *algorithm == pinned { Ok(()) } else { Err(InvalidToken::Algorithm) };
            assert_eq!(
                verify(&issuers, token).map(drop),
                expected,
                "{algorithm:?} where {pinned:?} is pinned"
            );
        }
    }
}

#[test]
fn a_token_that_is_bound_to_a_key_is_no_bearer_token() {
    let issuers = hmac_issuers();
    for cnf in [
        json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
        json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}),
        json!({"kid": "k1"}),
        json!({"jwk": {}}),
        json!({"unheard-of": true}),
        json!({}),
        json!([]),
        json!("text"),
        json!(false),
    ] {
        let token = with(json!({ "cnf": cnf }));
        assert_eq!(verify(&issuers, &token), Err(InvalidToken::Bound), "{cnf}");
    }
    let null = claims(&json!({})).to_string().replace("\"tenant\"", "\"cnf\":null,\"tenant\"");
    assert_eq!(verify(&issuers, &hs256(HEADER, &null)), Err(InvalidToken::Bound));
    assert!(
        verify(&issuers, &with(json!({"Cnf": {"jkt": "x"}}))).is_ok(),
        "names of claims are case-sensitive"
    );
}

#[test]
fn a_token_is_as_long_as_the_limit_at_most() {
    assert_eq!(fits(&"a".repeat(8).as_str().into(), 8), Ok(()));
    assert_eq!(fits(&"a".repeat(9).as_str().into(), 8), Err(InvalidToken::TooLong));
}

#[test]
fn only_three_parts_with_a_readable_header_and_claims_look_like_a_jwt() {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let header = part(r#"{"alg":"HS256"}"#);
    for (token, is_jwt) in [
        (format!("{header}.{}.c2ln", part(r#"{"sub":"ada"}"#)), true),
        (format!("{header}.{}", part(r#"{"sub":"ada"}"#)), false),
        (format!("{header}.{}.c2ln.c2ln", part(r#"{"sub":"ada"}"#)), false),
        (format!("{header}.{}.c2ln", part("[]")), false),
        (format!("{}.{}.c2ln", part("text"), part("{}")), false),
        ("opaque".to_owned(), false),
    ] {
        assert_eq!(has_the_shape_of_a_jwt(&token.as_str().into()), is_jwt, "{token}");
    }
}
