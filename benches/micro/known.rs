//! The configuration and the grant that several benches use.

use std::sync::Arc;

use serde_json::json;
use usher::auth::credential::{Credential, Proof};
use usher::auth::grant::Grant;
use usher::auth::jwt::{Issuers, sign_for_development};
use usher::auth::prover::Redeeming;
use usher::auth::revocation::Revocations;
use usher::auth::ticket::Tickets;
use usher::auth::{Authenticator, Presented};
use usher::base::clock::Now;
use usher::config::{self, Config};
use usher::edge::router::Router;
use usher::model::algorithm::Algorithm;
use usher::model::method::Method;
use usher::model::secret::Secret;

pub const SECRET: &str = "0123456789012345678901234567890123456789";

pub fn config(more: &str) -> Arc<Config> {
    let text = format!(
        r#"
        [[listener]]
        address = "127.0.0.1:0"
        plain = true
        [[issuer]]
        name = "main"
        issuer = "https://id.example.com"
        audience = ["chat"]
        algorithms = ["HS256"]
        secret_env = "KEY"
        [[upstream]]
        name = "chat"
        servers = ["http://127.0.0.1:9000"]
        [[route]]
        path = "/ws"
        upstream = "chat"
        auth = ["ticket", "header"]
        [route.identity_headers]
        X-User-Id = "sub"
        [tickets]
        rate_per_user = "1000000000/1s"
        rate_per_address = "1000000000/1s"
        {more}
        "#
    );
    match config::parse(&text, None, &|_| Some(SECRET.to_owned())) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(problems) => panic!("{problems:?}"),
    }
}

pub fn claims(now: Now) -> serde_json::Value {
    json!({
        "iss": "https://id.example.com", "aud": "chat", "sub": "user-4711", "sid": "s-1",
        "jti": "0d5b6d2c4f7a", "iat": now.wall.as_secs(), "exp": now.wall.as_secs() + 7200,
        "permissions": ["chat:read", "chat:write"],
    })
}

/// Returns a grant. The only way to one is a verified token.
pub fn grant(config: &Arc<Config>, now: Now) -> Grant {
    let issuers = Arc::new(Issuers::load(&config.issuers, &[]).unwrap());
    let revocations = Arc::new(Revocations::new(1));
    let tickets = Arc::new(Tickets::new(config).unwrap());
    let token =
        sign_for_development(Algorithm::HS256, &Secret::from(SECRET), None, &claims(now)).unwrap();
    let authenticator = Authenticator::new(issuers, tickets, revocations, config.mtls.clone());
    let matched = Router::new(&config.routes).find("chat.example.com", "/ws").unwrap().unwrap();
    let deadline = now.mono + std::time::Duration::from_secs(60);
    let peer = [192, 0, 2, 7].into();
    let presented = Presented { request_id: "request", origin: None, peer, now };
    let credential = Some(Credential {
        method: Method::Header,
        proof: Proof::Token(Secret::from(token.as_str())),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime
        .block_on(authenticator.authenticate(
            &mut Redeeming,
            &matched,
            credential,
            presented,
            deadline,
        ))
        .unwrap()
}
