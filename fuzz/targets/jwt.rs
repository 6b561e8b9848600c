//! Tokens: a token is accepted only if its issuer signed it for this audience, and it has not
//! expired.
//!
//! The first line is a header, and the rest are claims. They are signed with the keys of two
//! issuers, with unknown keys, and with no key. The bytes themselves are also tried as a token.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::json::{colons, members};
use super::{cuts, settings};
use usher::auth::jwt::Issuers;
use usher::base::clock::{Now, UnixMillis};
use usher::config::{Issuer, IssuerKeySource};
use usher::model::algorithm::Algorithm;
use usher::model::faults::InvalidToken;
use usher::model::principal::Principal;
use usher::model::secret::Secret;

const NOW: u64 = 1_700_000_000;
const LEEWAY: f64 = 30.0;
const LONGEST_LIFE: f64 = 30.0 * 86_400.0;

struct Keys {
    issuers: Issuers,
    ed25519: Ed25519KeyPair,
    /// The public key in base64url, as in the published set.
    public: String,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed has 32 bytes");
    let public = URL_SAFE_NO_PAD.encode(ed25519.public_key());
    let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": public }] });
    let file = std::env::temp_dir().join(format!("usher-fuzz-{}.json", std::process::id()));
    std::fs::write(&file, set.to_string()).expect("the temporary folder can be written to");
    let config = settings::with_route("auth = [\"header\"]");
    let main = Arc::clone(&config.issuers[0]);
    let published = Issuer {
        name: "published".into(),
        issuer: "https://keys.example.com".to_owned(),
        algorithms: vec![Algorithm::EdDSA],
        keys: IssuerKeySource::JwksFile(file.clone()),
        audience: main.audience.clone(),
        leeway: main.leeway,
        required_claims: Vec::new(),
        user_claim: main.user_claim.clone(),
        permissions_claim: main.permissions_claim.clone(),
        session_claim: main.session_claim.clone(),
        max_token_bytes: main.max_token_bytes,
        max_lifetime: main.max_lifetime,
    };
    let issuers = Issuers::load(&[main, Arc::new(published)], &[]).expect("the keys are good");
    std::fs::remove_file(file).expect("the key set was read");
    Keys { issuers, ed25519, public }
});

pub fn run(bytes: &[u8]) {
    assert!(verify(bytes).is_err(), "unsigned bytes are accepted");
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, claims) = bytes.split_at(line);
    let claims = claims.strip_prefix(b"\n").unwrap_or_default();
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let message = format!("{}.{}", encode(header), encode(claims));

    let mac =
        |secret: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    let shared = mac(settings::SECRET.as_bytes());
    let published = KEYS.ed25519.sign(message.as_bytes());
    let signatures = [
        (shared.as_ref(), "HS256", "https://id.example.com", "main"),
        (published.as_ref(), "EdDSA", "https://keys.example.com", "published"),
    ];
    for (signature, algorithm, issuer, name) in signatures {
        let token = format!("{message}.{}", encode(signature));
        let verdict = verify(token.as_bytes());
        match &verdict {
            Ok(principal) => {
                check_signed(header, algorithm);
                check_claims(claims, issuer, principal);
                assert_eq!(&*principal.issuer, name);
                check_tampered(&token);
            }
            Err(why) => assert!(
                !is_plainly_good(header, claims, algorithm, issuer),
                "a good token is refused: {why}"
            ),
        }
    }

    // Unknown keys, the public key as a shared secret (in each form), and no key.
    let public = URL_SAFE_NO_PAD.decode(&KEYS.public).expect("it was encoded above");
    let others = [&b"another secret of thirty-two bytes"[..], KEYS.public.as_bytes(), &public, b""];
    for secret in others {
        let token = format!("{message}.{}", encode(mac(secret).as_ref()));
        assert!(verify(token.as_bytes()).is_err(), "a token signed with another key passes");
    }
    let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).expect("a seed has 32 bytes");
    for signature in [other.sign(message.as_bytes()).as_ref(), &[0; 64], &[0; 32], &[]] {
        let token = format!("{message}.{}", encode(signature));
        assert!(verify(token.as_bytes()).is_err(), "a token without a signature passes");
    }
}

fn verify(token: &[u8]) -> Result<Principal, InvalidToken> {
    let now = Now { wall: UnixMillis::from_secs(NOW), ..Now::read() };
    KEYS.issuers.verify(&Secret::new(token), now)
}

fn object(json: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(json).ok()
}

fn check_signed(header: &[u8], algorithm: &str) {
    check_names(header);
    let header = object(header).expect("the header of a token that passes is an object");
    assert_eq!(header.get("alg"), Some(&algorithm.into()), "another algorithm passes");
    for critical in ["crit", "b64"] {
        assert!(!header.contains_key(critical), "a critical header passes");
    }
    let kind = header.get("typ").map_or("jwt", |kind| kind.as_str().expect("a type is text"));
    let kind = kind.to_ascii_lowercase();
    assert!(["jwt", "at+jwt", "application/at+jwt"].contains(&kind.as_str()), "a {kind} passes");
    if algorithm == "EdDSA" {
        let id = header.get("kid");
        assert!(id.is_none_or(|id| id == "k1"), "another key's token passes");
    }
}

fn check_claims(json: &[u8], issuer: &str, principal: &Principal) {
    check_names(json);
    let claims = object(json).expect("the claims of a token that passes are an object");
    assert_eq!(claims.get("iss"), Some(&issuer.into()), "another issuer's token passes");
    let audience = match claims.get("aud").expect("a token that passes has an audience") {
        Value::Array(names) => names.clone(),
        name => vec![name.clone()],
    };
    assert!(audience.contains(&"chat".into()), "a token for {audience:?} passes");
    let now = NOW as f64;
    let date = |name: &str| claims.get(name).map(|date| date.as_f64().expect("a date is a number"));
    let expires = date("exp").expect("a token that passes ends");
    assert!(expires + LEEWAY > now && expires <= now + LONGEST_LIFE + 1.0, "it ends at {expires}");
    for name in ["nbf", "iat"] {
        assert!(date(name).is_none_or(|date| date < now + LEEWAY + 1.0), "{name} is to come");
    }
    assert!(!claims.contains_key("cnf"), "a token that is bound to a key passes");
    let subject =
        claims.get("sub").and_then(Value::as_str).expect("a token that passes has a user");
    assert!(!subject.is_empty());
    assert_eq!(principal.subject, subject);
    assert_eq!(principal.token_id.as_deref(), claims.get("jti").and_then(Value::as_str));
    assert_eq!(principal.issuer_session.as_deref(), claims.get("sid").and_then(Value::as_str));
    assert_eq!(principal.in_leeway, expires * 1000.0 < now * 1000.0 + 1.0);
    for permission in &principal.permissions {
        let text = std::str::from_utf8(json).expect("claims are UTF-8");
        assert!(text.contains(permission) || text.contains('\\'), "`{permission}` was not given");
    }
}

/// Checks that no name appears twice: two readers could use two different values.
fn check_names(json: &[u8]) {
    assert!(has_each_name_once(json), "a name appears twice");
}

fn has_each_name_once(json: &[u8]) -> bool {
    let text = std::str::from_utf8(json).expect("it was read as JSON");
    let value: Value = serde_json::from_str(text).expect("it was read as JSON");
    members(&value) == colons(text)
}

/// Checks that a changed token is rejected.
fn check_tampered(token: &str) {
    let at = (cuts::seed(token.as_bytes()) as usize) % token.len();
    let (before, rest) = token.split_at(at);
    for other in ["A", "B", "-", "_", ".", "=", "/"] {
        let tampered = format!("{before}{other}{}", &rest[1..]);
        assert!(tampered == token || verify(tampered.as_bytes()).is_err(), "changed at {at}");
    }
    let more =
        [format!("{token}="), format!("{token}."), format!(" {token}"), format!("{token}\n")];
    for other in more.iter().map(String::as_str).chain([&token[..token.len() - 1], before]) {
        assert!(verify(other.as_bytes()).is_err(), "passes: {other:?}");
    }
}

/// Returns true for a token with only the required header and claims, all valid. Such a token must
/// be accepted.
fn is_plainly_good(header: &[u8], claims: &[u8], algorithm: &str, issuer: &str) -> bool {
    let (Some(said), Some(claimed)) = (object(header), object(claims)) else { return false };
    let expires = claimed.get("exp").and_then(Value::as_u64).unwrap_or_default();
    has_each_name_once(header)
        && has_each_name_once(claims)
        && said.len() == 1
        && said.get("alg") == Some(&algorithm.into())
        && claimed.len() == 4
        && claimed.get("iss") == Some(&issuer.into())
        && claimed.get("aud") == Some(&"chat".into())
        && claimed.get("sub").and_then(Value::as_str).is_some_and(|user| !user.is_empty())
        && (NOW..NOW + LONGEST_LIFE as u64).contains(&expires)
}
