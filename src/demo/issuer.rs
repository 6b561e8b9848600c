//! The development issuer of the demo, which issues a token for any name.
//!
//! It takes the place of the login service that a real chat already has. A login can be refreshed
//! and ended. It does not ask for a password. So the demo listens only on loopback, and makes a new
//! secret at every start.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{hex, random};
use crate::auth::jwt::sign_for_development;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::base::strict_json;
use crate::model::algorithm::Algorithm;
use crate::model::secret::Secret;

pub const ISSUER: &str = "usher-demo";
pub const AUDIENCE: &str = "chat";
const TOKEN_SECONDS: u64 = 15 * 60;
const SHORTEST_TOKEN_SECONDS: u64 = 4;
const NAME_CHARACTERS: usize = 40;
/// The most logins. Above that, the oldest login ends.
const LOGINS: usize = 1000;

pub struct DevelopmentIssuer {
    secret: Secret,
    logins: Mutex<Logins>,
}

#[derive(Default)]
struct Logins {
    open: VecDeque<OpenLogin>,
    /// The second after the last revocation. `iat` is in seconds, so a new token in the second of
    /// the revocation would count as older than the revocation.
    not_before: u64,
}

struct OpenLogin {
    refresh: String,
    user: String,
}

/// The reason why the issuer refuses a token.
#[derive(Debug, thiserror::Error)]
pub enum LoginRefused {
    #[error("the body must be {{\"name\": \"...\"}}")]
    LoginBody,
    #[error("the body must be {{\"refresh\": \"...\"}}")]
    RefreshBody,
    #[error("a name has 1 to {NAME_CHARACTERS} printable characters")]
    Name,
    #[error("this login has ended; log in again")]
    Ended,
    #[error("cannot make a token")]
    Token,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    refresh: String,
    lifetime_seconds: Option<u64>,
}

impl LoginRefused {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::LoginBody | Self::RefreshBody | Self::Name => StatusCode::BAD_REQUEST,
            Self::Ended => StatusCode::UNAUTHORIZED,
            Self::Token => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl DevelopmentIssuer {
    pub fn new(secret: Secret) -> Self {
        Self { secret, logins: Mutex::default() }
    }

    /// Answers `POST /login` with a bearer token for the name in `body`, and a refresh token.
    pub fn log_in(&self, body: &[u8], now: Now) -> Result<Value, LoginRefused> {
        let login: LoginBody = strict_json::record(body).map_err(|_| LoginRefused::LoginBody)?;
        let user = login.name.trim().to_owned();
        let characters = user.chars().count();
        if characters == 0 || characters > NAME_CHARACTERS || user.chars().any(char::is_control) {
            return Err(LoginRefused::Name);
        }
        let refresh = hex(&random::<16>().map_err(|_| LoginRefused::Token)?);
        let token = self.token(&user, TOKEN_SECONDS, now)?;
        let mut logins = lock(&self.logins);
        if logins.open.len() >= LOGINS {
            logins.open.pop_front();
        }
        logins.open.push_back(OpenLogin { refresh: refresh.clone(), user });
        Ok(json!({ "token": token, "expires_in": TOKEN_SECONDS, "refresh": refresh }))
    }

    /// Answers `POST /refresh` with another token for the same login, as long as the login is open.
    pub fn refresh(&self, body: &[u8], now: Now) -> Result<Value, LoginRefused> {
        let RefreshBody { refresh, lifetime_seconds } =
            strict_json::record(body).map_err(|_| LoginRefused::RefreshBody)?;
        let seconds =
            lifetime_seconds.unwrap_or(TOKEN_SECONDS).clamp(SHORTEST_TOKEN_SECONDS, TOKEN_SECONDS);
        let user = lock(&self.logins)
            .open
            .iter()
            .find(|login| login.refresh == refresh)
            .map(|login| login.user.clone())
            .ok_or(LoginRefused::Ended)?;
        let token = self.token(&user, seconds, now)?;
        Ok(json!({ "token": token, "expires_in": seconds }))
    }

    /// Ends every login of this user. Tokens that are already issued remain valid until they
    /// expire.
    pub fn end_logins(&self, user: &str, now: Now) {
        let mut logins = lock(&self.logins);
        logins.open.retain(|login| login.user != user);
        logins.not_before = now.wall.as_secs() + 1;
    }

    fn token(&self, user: &str, seconds: u64, now: Now) -> Result<String, LoginRefused> {
        let issued_at = now.wall.as_secs().max(lock(&self.logins).not_before);
        let claims = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user,
            "iat": issued_at,
            "exp": (now.wall + Duration::from_secs(seconds)).as_secs(),
            "jti": hex(&random::<16>().map_err(|_| LoginRefused::Token)?),
            "permissions": ["chat:read", "chat:write"],
        });
        sign_for_development(Algorithm::HS256, &self.secret, None, &claims)
            .map_err(|_| LoginRefused::Token)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn issuer() -> DevelopmentIssuer {
        DevelopmentIssuer::new(Secret::new([7u8; 32]))
    }

    fn claims(answer: &Value) -> Value {
        let token = answer["token"].as_str().unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice(&claims).unwrap()
    }

    fn refresh_body(login: &Value, seconds: Option<u64>) -> Vec<u8> {
        json!({ "refresh": login["refresh"], "lifetime_seconds": seconds }).to_string().into_bytes()
    }

    #[test]
    fn a_name_becomes_a_token_for_a_quarter_of_an_hour() {
        let now = Now::read();
        let answer = issuer().log_in(br#"{"name":" ada "}"#, now).unwrap();
        let claims = claims(&answer);
        let named = (&claims["iss"], &claims["aud"], &claims["sub"]);
        assert_eq!(named, (&json!("usher-demo"), &json!("chat"), &json!("ada")));
        assert_eq!(claims["exp"], json!(now.wall.as_secs() + 900));
        assert_eq!(answer["expires_in"], json!(900));
    }

    #[test]
    fn a_login_is_refreshed_for_as_long_as_was_asked_within_bounds() {
        let issuer = issuer();
        let now = Now::read();
        let login = issuer.log_in(br#"{"name":"ada"}"#, now).unwrap();
        for (asked, given) in [(None, 900), (Some(12), 12), (Some(0), 4), (Some(9999), 900)] {
            let answer = issuer.refresh(&refresh_body(&login, asked), now).unwrap();
            assert_eq!(answer["expires_in"], json!(given));
            assert_eq!(claims(&answer)["exp"], json!(now.wall.as_secs() + given));
            assert_eq!(claims(&answer)["sub"], "ada");
        }
    }

    #[test]
    fn an_ended_login_is_not_refreshed_and_a_new_one_is_later_than_its_end() {
        let issuer = issuer();
        let now = Now::read();
        let ada = issuer.log_in(br#"{"name":"ada"}"#, now).unwrap();
        let bob = issuer.log_in(br#"{"name":"bob"}"#, now).unwrap();
        issuer.end_logins("ada", now);
        let refused = issuer.refresh(&refresh_body(&ada, None), now).unwrap_err();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(issuer.refresh(&refresh_body(&bob, None), now).is_ok());
        let again = issuer.log_in(br#"{"name":"ada"}"#, now).unwrap();
        assert_eq!(claims(&again)["iat"], json!(now.wall.as_secs() + 1));
    }

    #[test]
    fn the_oldest_login_makes_room_for_one_too_many() {
        let issuer = issuer();
        let now = Now::read();
        let first = issuer.log_in(br#"{"name":"ada"}"#, now).unwrap();
        for _ in 0..LOGINS {
            issuer.log_in(br#"{"name":"bob"}"#, now).unwrap();
        }
        assert_eq!(lock(&issuer.logins).open.len(), LOGINS);
        assert!(issuer.refresh(&refresh_body(&first, None), now).is_err());
    }

    #[test]
    fn a_body_that_is_not_a_name_is_refused() {
        let issuer = issuer();
        let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(41));
        let control = r#"{"name":"a\u0007b"}"#;
        for body in ["", "[]", r#"{"name":"  "}"#, control, r#"{"name":"a","admin":true}"#, &long] {
            assert!(issuer.log_in(body.as_bytes(), Now::read()).is_err(), "{body}");
        }
    }
}
