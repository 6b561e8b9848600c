//! The way of one request, from the listener to what its upstream would get.
//!
//! The stations are those of `http/upgrade.rs`, in the same order and by the same functions. The first refusal is the verdict;
//! what can be looked at behind it is looked at all the same, because the second mistake is easier to mend today than tomorrow.

use std::sync::Arc;

use serde_json::{Value, json};

use super::door::asks_for_certificates;
use super::request::Asked;
use super::token::clock;
use super::told::{Explanation, Forwarded, Walk};
use crate::auth::certificate::ClientCertificate;
use crate::auth::credential::Method;
use crate::auth::explain::{self, Look, Outcome, Shown, TokenLook};
use crate::auth::grant::Grant;
use crate::auth::jwt::Issuers;
use crate::auth::revocation::Revocations;
use crate::auth::verifier::Verifiers;
use crate::auth::{Authenticator, Presented};
use crate::cli::words::shown;
use crate::clock::Now;
use crate::config::Config;
use crate::edge::EdgeError;
use crate::http::headers::{self, ReservedNames, Seen};
use crate::http::route::Router;
use crate::http::upgrade;
use crate::migration::shadow::Shadow;
use crate::rejection::Rejection;
use crate::ticket::Tickets;
use crate::upstream::signed_context::{self, ContextRequest, identity_headers};

/// What serving is made of, as far as explaining needs it.
pub struct World {
    pub(super) config: Arc<Config>,
    pub(super) router: Router,
    pub(super) reserved: ReservedNames,
    pub(super) issuers: Arc<Issuers>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) authenticator: Authenticator,
}

impl World {
    pub fn open(config: Config) -> Result<Self, EdgeError> {
        let config = Arc::new(config);
        let issuers = Arc::new(explain::issuers(&config, &config.state_dir)?);
        let revocations = Arc::new(Revocations::new(1));
        let tickets = Arc::new(Tickets::new(&config, Arc::clone(&issuers), Arc::clone(&revocations))?);
        let verifiers = Arc::new(Verifiers::open(&config, None)?);
        let authenticator = Authenticator::new(Arc::clone(&issuers), Arc::clone(&tickets), revocations, config.mtls.clone())
            .with_bypass(&config.bypass)
            .with_verifiers(verifiers);
        Ok(Self { router: Router::new(&config.routes), reserved: ReservedNames::of(&config), issuers, tickets, authenticator, config })
    }

    pub async fn explain(&self, asked: &Asked, now: Now) -> Explanation {
        let mut walk = Walk { told: Explanation::default(), rejection: None, asked, now, is_early: false, is_routed: false };
        walk.told.at = clock(now.wall);
        let Some((listener, head)) = self.begin(&mut walk) else { return walk.end(None) };
        if !self.shakes_hands(&mut walk, &listener) {
            return walk.told;
        }
        let path = head.parts.uri.path().to_owned();
        let is_upgrade = head.parts.headers.contains_key(http::header::UPGRADE);
        walk.told.url = format!("{}://{}{}", asked.scheme.name, shown(&asked.authority), shown(self.tickets.shown_path(&path)));
        walk.is_routed = is_upgrade;
        if is_upgrade {
            let outcome = upgrade::check(&head.parts);
            let detail = if outcome.is_ok() { "well formed" } else { "" };
            walk.station("upgrade", outcome, detail);
        } else if self.is_own(&path) {
            walk.note("request", "plain HTTP, answered by Usher itself");
            walk.told.verdict.message = "Usher answers this path itself, and its own endpoints are not explained".to_owned();
            return walk.told;
        } else {
            walk.note("request", format!("{} in plain HTTP, passed on where it is let in", head.parts.method));
        }
        let Some(matched) = self.find(&mut walk, &head.host, &path) else { return walk.end(None) };
        let route = Arc::clone(&matched.route);
        let (mut parts, message) = match asked.head_for(&route, &self.config.limits) {
            Ok((head, message)) => (head.parts, message),
            Err(rejection) => {
                walk.station("request", Err(rejection), "");
                return walk.end(None);
            }
        };
        let address = headers::client_address(&parts.headers, asked.peer, &listener.trusted_peers);
        if address != asked.peer {
            walk.note("client", format!("{address}, as the trusted peer {} says", asked.peer));
        }
        let sent = parts.headers.clone();
        if let Some(leaf) = asked.certificate.first().filter(|_| asks_for_certificates(&listener) && !listener.trusts(asked.peer)) {
            parts.extensions.insert(ClientCertificate::new(leaf.clone()));
        }
        walk.warn_of_secrets(&route, &parts);
        let origin = self.origin(&mut walk, &route, &parts);
        let credential = self.credential(&mut walk, &route, &mut parts, origin.as_deref(), is_upgrade);
        let shadow = Shadow::look(&route, &mut parts);
        let is_message = credential.is_none() && is_upgrade && route.auth.contains(&Method::Message);
        if is_message && walk.rejection.is_none() {
            walk.is_early = true;
            let seconds = route.first_message.timeout.as_secs();
            let preset = route.first_message.preset.name();
            walk.note("message", format!("101 at once, then {seconds} s for a first message ({preset})"));
        }
        let credential = credential.or(message.filter(|_| is_message));
        if is_message && credential.is_none() {
            return if walk.is_early { walk.waits() } else { walk.end_with(Some(&route), None, origin.as_deref()) };
        }
        if !asked.offline {
            self.fetch(credential.as_ref(), &shadow).await;
        }
        let presented = Presented { request_id: "", origin: origin.as_deref(), peer: address };
        let method = credential.as_ref().map(|credential| credential.method);
        walk.told.method = method.map(Method::name);
        let look = Box::pin(self.authenticator.look_at(&matched, credential, presented, !asked.offline, now)).await;
        self.judge(&mut walk, &matched, &look);
        if asked.offline && walk.rejection == Some(Rejection::IssuerKeysUnavailable) {
            walk.told.warnings.push("--offline: nothing was fetched, and state_dir keeps no keys of this issuer".to_owned());
        }
        self.shadows(&mut walk, &matched, &shadow, presented).await;
        let grant = match &look.outcome {
            Outcome::Known(Ok(grant)) => Some(grant),
            _ => None,
        };
        self.migration(&mut walk, &route, method, grant, address);
        let undecided = match look.outcome {
            Outcome::OnlyThere => Some("Usher's own process has to say: it holds its tickets in its memory"),
            Outcome::NotAsked => Some("the verifier has to say, and with --offline it is not asked"),
            Outcome::Known(_) => None,
        };
        if let Some(undecided) = undecided.filter(|_| walk.rejection.is_none()) {
            walk.told.verdict.message = undecided.to_owned();
            return walk.told;
        }
        match grant.filter(|_| walk.rejection.is_none()) {
            Some(grant) => {
                let seen =
                    Seen { peer: asked.peer, trusted: listener.trusts(asked.peer), secure: listener.tls.is_some(), host: &asked.authority };
                let about = ContextRequest {
                    session_id: "made for each session",
                    upstream: &route.upstream.name,
                    client: address,
                    host: &head.host,
                    path: parts.uri.path(),
                };
                let mut passed = parts.headers.clone();
                headers::prepare(&mut passed, &self.reserved, seen);
                walk.told.upstream = Some(self.forwarded(grant, &sent, passed, about, &walk));
                walk.let_in(grant, is_upgrade)
            }
            None => walk.end_with(Some(&route), token_of(&look), origin.as_deref()),
        }
    }

    fn is_own(&self, path: &str) -> bool {
        self.tickets.owns(path) || path == self.config.config_path || path == self.config.context.jwks_path
    }

    fn forwarded(
        &self,
        grant: &Grant,
        sent: &http::HeaderMap,
        passed: http::HeaderMap,
        about: ContextRequest<'_>,
        walk: &Walk<'_>,
    ) -> Forwarded {
        // What belongs to the connection goes nowhere, and is written anew.
        let mut sent = sent.clone();
        headers::strip_hop_by_hop(&mut sent);
        let removed = sent.keys().filter(|name| !passed.contains_key(*name)).map(|name| shown(name.as_str())).collect();
        let mut names: Vec<String> = passed.keys().map(|name| shown(name.as_str())).collect();
        let mut context = signed_context::claims(&self.config.context, grant, about, "made for each request", walk.now);
        if context.is_some() {
            names.push(self.config.context.header.to_string());
        }
        names.extend(identity_headers(grant.route(), grant).into_iter().map(|(name, _)| name.to_string()));
        names.sort_unstable();
        names.dedup();
        // They are the token's, and may be personal.
        if let Some(Value::Object(claims)) = context.as_mut().and_then(|context| context.get_mut("claims")).filter(|_| !walk.asked.claims) {
            claims.values_mut().for_each(|value| *value = json!("not shown"));
        }
        let upstream = &grant.route().upstream;
        Forwarded {
            name: upstream.name.to_string(),
            servers: upstream.servers.iter().map(ToString::to_string).collect(),
            headers: names,
            removed,
            context,
        }
    }
}

fn token_of(look: &Look) -> Option<&TokenLook> {
    match &look.shown {
        Shown::Token(token) => Some(token),
        _ => None,
    }
}
