//! Tokens as an issuer makes them.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use usher::base::clock::Now;

pub const SECRET: &str = "canary-0123456789-0123456789-0123456789";

pub fn now() -> u64 {
    Now::read().wall.as_secs()
}

/// Returns the usual claims with these changes. `null` removes a claim.
pub fn claims(subject: &str, changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example.com",
        "aud": "chat",
        "sub": subject,
        "iat": now(),
        "exp": now() + 600,
        "jti": format!("jti-{subject}"),
        "permissions": ["chat:read", "chat:write"],
    });
    let map = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.clone(), value.clone());
        }
    }
    claims
}

pub fn mint(subject: &str, changes: Value) -> String {
    jsonwebtoken::encode(
        &Header::default(),
        &claims(subject, changes),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}
