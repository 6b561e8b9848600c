//! The demo's development issuer: whoever names themselves gets a token.
//!
//! It stands for the login service that a real chat already has. It asks for no password, which is why the demo listens on
//! loopback alone and why its secret is made afresh on every start.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{hex, random};
use crate::auth::algorithm::Algorithm;
use crate::auth::jwt::sign_for_development;
use crate::clock::Now;
use crate::config::secret::Secret;

pub const ISSUER: &str = "usher-demo";
pub const AUDIENCE: &str = "chat";
const TOKEN_SECONDS: u64 = 15 * 60;
const NAME_CHARACTERS: usize = 40;

pub struct DevelopmentIssuer {
    secret: Secret,
}

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginRefused {
    #[error("the body must be {{\"name\": \"...\"}}")]
    Body,
    #[error("a name has 1 to {NAME_CHARACTERS} printable characters")]
    Name,
    #[error("the token could not be made")]
    Token,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    name: String,
}

impl DevelopmentIssuer {
    pub fn new(secret: Secret) -> Self {
        Self { secret }
    }

    /// The answer to `POST /login`: a bearer token for the name in `body`.
    pub fn login(&self, body: &[u8], now: Now) -> Result<Value, LoginRefused> {
        let login: Login = serde_json::from_slice(body).map_err(|_| LoginRefused::Body)?;
        let name = login.name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARACTERS || name.chars().any(char::is_control) {
            return Err(LoginRefused::Name);
        }
        let issued_at = now.wall.as_secs();
        let claims = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": name,
            "iat": issued_at,
            "exp": issued_at + TOKEN_SECONDS,
            "jti": hex(&random::<16>().map_err(|_| LoginRefused::Token)?),
            "permissions": ["chat:read", "chat:write"],
        });
        let token = sign_for_development(Algorithm::HS256, &self.secret, None, &claims).map_err(|_| LoginRefused::Token)?;
        Ok(json!({ "token": token, "expires_in": TOKEN_SECONDS }))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn a_name_becomes_a_token_for_a_quarter_of_an_hour() {
        let issuer = DevelopmentIssuer::new(Secret::new([7u8; 32]));
        let now = Now::read();
        let answer = issuer.login(br#"{"name":" ada "}"#, now).unwrap();
        let token = answer["token"].as_str().unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["iss"], &claims["aud"], &claims["sub"]), (&json!("usher-demo"), &json!("chat"), &json!("ada")));
        assert_eq!(claims["exp"], json!(now.wall.as_secs() + 900));
        assert_eq!(answer["expires_in"], json!(900));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let issuer = DevelopmentIssuer::new(Secret::new([7u8; 32]));
        let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(41));
        for body in ["", "[]", r#"{"name":"  "}"#, r#"{"name":"a\u0007b"}"#, r#"{"name":"a","admin":true}"#, &long] {
            assert!(issuer.login(body.as_bytes(), Now::read()).is_err(), "{body}");
        }
    }
}
