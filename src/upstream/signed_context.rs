//! The signed header that identifies the client to an upstream.
//!
//! A compact JWS, valid for a short time and for one upstream. Its fixed part is encoded once.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::auth::grant::Grant;
use crate::auth::identity_header;
use crate::base::clock::Now;
use crate::config::{self, Route};
use crate::upstream::keyring::SigningKeys;

#[derive(Debug)]
pub struct SignedContext {
    keys: Arc<SigningKeys>,
    /// The claim `iss` of every context.
    issuer: String,
    ttl: Duration,
}

/// The request that the context describes.
#[derive(Clone, Copy, Debug)]
pub struct ContextRequest<'a> {
    pub session_id: &'a str,
    pub upstream: &'a str,
    pub client: IpAddr,
    pub host: &'a str,
    pub path: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    sid: &'a str,
    session_exp: u64,
    auth: AuthClaims<'a>,
    permissions: &'a [String],
    /// Chosen claims of the token, in a place of their own: none of them can stand in for a claim
    /// of Usher.
    #[serde(skip_serializing_if = "Map::is_empty")]
    claims: &'a Map<String, Value>,
    client: IpAddr,
    req: RequestClaims<'a>,
}

#[derive(Serialize)]
struct AuthClaims<'a> {
    method: &'a str,
    issuer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
}

#[derive(Serialize)]
struct RequestClaims<'a> {
    host: &'a str,
    path: &'a str,
}

impl SignedContext {
    pub fn new(context: &config::Context, keys: Arc<SigningKeys>) -> Self {
        Self { keys, issuer: context.issuer.clone(), ttl: context.ttl }
    }

    /// Returns the signed header; `None` for a public grant, which has no user.
    pub fn header_value(
        &self,
        grant: &Grant,
        about: ContextRequest<'_>,
        now: Now,
    ) -> Option<HeaderValue> {
        let id = random_id()?;
        let claims = Claims::of(&self.issuer, self.ttl, grant, about, &id, now)?;
        let signing = self.keys.load();
        let mut token = signing.prefix.clone();
        token.push_str(&URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).ok()?));
        let signature = signing.keyring.sign(token.as_bytes())?;
        write!(token, ".{}", URL_SAFE_NO_PAD.encode(signature)).ok()?;
        HeaderValue::try_from(token).ok()
    }
}

/// Returns the claims without a signature, for display. `None` for a public grant.
pub fn claims(
    context: &config::Context,
    grant: &Grant,
    about: ContextRequest<'_>,
    id: &str,
    now: Now,
) -> Option<Value> {
    serde_json::to_value(Claims::of(&context.issuer, context.ttl, grant, about, id, now)?).ok()
}

impl<'a> Claims<'a> {
    fn of(
        issuer: &'a str,
        ttl: Duration,
        grant: &'a Grant,
        about: ContextRequest<'a>,
        id: &'a str,
        now: Now,
    ) -> Option<Self> {
        let principal = grant.principal()?;
        Some(Self {
            iss: issuer,
            aud: about.upstream,
            sub: &principal.subject,
            iat: now.wall.as_secs(),
            exp: (now.wall + ttl).as_secs(),
            jti: id,
            sid: about.session_id,
            session_exp: grant.expires_at()?.as_secs(),
            auth: AuthClaims {
                method: grant.method()?.name(),
                issuer: &principal.issuer,
                token_id: principal.token_id.as_deref(),
            },
            permissions: &principal.permissions,
            claims: &principal.claims,
            client: about.client,
            req: RequestClaims { host: about.host, path: about.path },
        })
    }
}

/// Returns the unsigned convenience headers that the route names. A grant is given only if all of
/// them can be written.
pub fn identity_headers(route: &Route, grant: &Grant) -> Vec<(HeaderName, HeaderValue)> {
    grant
        .principal()
        .and_then(|principal| identity_header::values(route, principal).ok())
        .unwrap_or_default()
}

fn random_id() -> Option<String> {
    let mut bits = [0; 16];
    rand::fill(&mut bits).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bits))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::{Path, PathBuf};

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use serde_json::json;

    use super::*;
    use crate::base::clock::UnixMillis;
    use crate::config::{Config, ContextAlgorithm, ContextSigning};
    use crate::model::method::Method;
    use crate::model::principal::Principal;
    use crate::model::secret::Secret;
    use crate::upstream::keyring::Keyring;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const ABOUT: ContextRequest<'static> = ContextRequest {
        session_id: "session-1",
        upstream: "chat",
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        host: "chat.example.com",
        path: "/ws",
    };

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("usher-signed-context-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn config() -> Config {
        crate::config::for_test(
            r#"
            auth = ["header"]
            [route.identity_headers]
            X-User-Id = "sub"
            X-Tier = "tier"
            X-Level = "level"
            X-Staff = "staff"
            X-Groups = "groups"
            X-Absent = "absent"
            [context]
            claims = ["tier", "level", "staff", "groups"]
            "#,
        )
    }

    fn principal() -> Principal {
        let Value::Object(claims) = json!({
            "tier": "gold", "level": 3, "staff": true, "groups": ["a"],
            "sub": "mallory", "aud": "other",
        }) else {
            unreachable!()
        };
        Principal {
            subject: "alice".to_owned(),
            issuer: "main".into(),
            token_id: Some("token-1".to_owned()),
            issuer_session: None,
            permissions: vec!["chat:read".to_owned()],
            issued_at: UnixMillis(0),
            expires_at: UnixMillis::from_secs(4_000_000_000),
            in_leeway: false,
            claims,
        }
    }

    fn grant(config: &Config, principal: Option<Principal>) -> Grant {
        Grant::for_test(Arc::clone(&config.routes[0]), principal, Method::Header)
    }

    /// Returns the claims, and the header's value. The published keys have verified it.
    fn round(
        name: &str,
        algorithm: ContextAlgorithm,
        principal: Principal,
        about: ContextRequest<'_>,
    ) -> (Value, HeaderValue) {
        let scratch = Scratch::new(name);
        let mut config = config();
        config.context.signing = ContextSigning::Generated { algorithm };
        let now = Now::read();
        let keyring = SigningKeys::new(Keyring::open(&config.context, &scratch.0, now).unwrap());
        let jwks: JwkSet = serde_json::from_slice(&keyring.load().jwks).unwrap();
        let value = SignedContext::new(&config.context, keyring)
            .header_value(&grant(&config, Some(principal)), about, now)
            .unwrap();
        let kid = decode_header(value.as_bytes()).unwrap().kid.unwrap();
        let mut validation = Validation::new(match algorithm {
            ContextAlgorithm::EdDSA => Algorithm::EdDSA,
            ContextAlgorithm::ES256 => Algorithm::ES256,
        });
        validation.set_audience(&["chat"]);
        validation.set_issuer(&["usher"]);
        let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
        let claims = decode::<Value>(value.as_bytes(), &key, &validation).unwrap().claims;
        assert_eq!(claims["iat"], now.wall.as_secs());
        assert_eq!(claims["exp"], now.wall.as_secs() + 60);
        (claims, value)
    }

    #[test]
    fn a_published_key_verifies_every_claim_of_the_contract() {
        for (name, algorithm) in
            [("eddsa", ContextAlgorithm::EdDSA), ("es256", ContextAlgorithm::ES256)]
        {
            let (mut claims, _) = round(name, algorithm, principal(), ABOUT);
            let members = claims.as_object_mut().unwrap();
            let jti = members.remove("jti").unwrap();
            assert_eq!(URL_SAFE_NO_PAD.decode(jti.as_str().unwrap()).unwrap().len(), 16);
            members.remove("iat");
            members.remove("exp");
            let expected = json!({
                "iss": "usher", "aud": "chat", "sub": "alice",
                "sid": "session-1", "session_exp": 4_000_000_000_u64,
                "auth": { "method": "header", "issuer": "main", "token_id": "token-1" },
                "permissions": ["chat:read"],
                "claims": {
                    "tier": "gold", "level": 3, "staff": true, "groups": ["a"],
                    "sub": "mallory", "aud": "other",
                },
                "client": "192.0.2.7",
                "req": { "host": "chat.example.com", "path": "/ws" },
            });
            assert_eq!(claims, expected, "a token's claim never stands in for one of Usher's");
        }
    }

    #[test]
    fn a_session_ends_with_its_grant_also_where_the_token_lives_longer() {
        let config =
            crate::config::for_test("auth = [\"header\"]\n[route.reauth]\nmax_age = \"10m\"");
        let grant = grant(&config, Some(principal()));
        let now = Now::read();
        let signed = claims(&config.context, &grant, ABOUT, "1", now).unwrap();
        let end = signed["session_exp"].as_u64().unwrap();
        assert_eq!(Some(end), grant.expires_at().map(UnixMillis::as_secs));
        assert!(end <= now.wall.as_secs() + 600, "{end}");
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "\",\"sub\":\"root\u{0}\r\nX-Evil: 1\\ é";
        let about = ContextRequest { host: hostile, path: hostile, ..ABOUT };
        let (claims, value) = round(
            "hostile",
            ContextAlgorithm::EdDSA,
            Principal { subject: hostile.to_owned(), ..principal() },
            about,
        );
        assert_eq!(
            (&claims["sub"], &claims["req"]),
            (&json!(hostile), &json!({ "host": hostile, "path": hostile }))
        );
        assert!(
            value
                .as_bytes()
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        );
    }

    #[test]
    fn no_two_contexts_have_the_same_id() {
        assert_ne!(random_id(), random_id());
    }

    #[test]
    fn a_shared_secret_signs_with_hs256() {
        let mut config = config();
        config.context.signing = ContextSigning::Shared { secret: Secret::from(SECRET) };
        let now = Now::read();
        let keyring =
            SigningKeys::new(Keyring::open(&config.context, Path::new("/nowhere"), now).unwrap());
        let value = SignedContext::new(&config.context, keyring)
            .header_value(&grant(&config, Some(principal())), ABOUT, now)
            .unwrap();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["chat"]);
        let claims = decode::<Value>(
            value.as_bytes(),
            &DecodingKey::from_secret(SECRET.as_bytes()),
            &validation,
        )
        .unwrap()
        .claims;
        assert_eq!(claims["sub"], "alice");
    }

    #[test]
    fn nobody_is_spoken_of_on_a_public_route() {
        let mut config = config();
        config.context.signing = ContextSigning::Shared { secret: Secret::from(SECRET) };
        let keyring = SigningKeys::new(
            Keyring::open(&config.context, Path::new("/nowhere"), Now::read()).unwrap(),
        );
        let public = grant(&config, None);
        assert!(
            SignedContext::new(&config.context, keyring)
                .header_value(&public, ABOUT, Now::read())
                .is_none()
        );
        assert!(identity_headers(public.route(), &public).is_empty());
    }

    #[test]
    fn identity_headers_carry_plain_values_and_nothing_else() {
        let config = config();
        let known = grant(&config, Some(principal()));
        let mut headers: Vec<_> = identity_headers(known.route(), &known)
            .into_iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        assert_eq!(headers, ["x-level: 3", "x-staff: true", "x-tier: gold", "x-user-id: alice"]);
    }
}
