//! The way of one request, from the listener to what its upstream would get.
//!
//! The stations are those of `http/upgrade.rs`, in the same order and by the same functions. The first refusal is the verdict;
//! what can be looked at behind it is looked at all the same, because the second mistake is easier to mend today than tomorrow.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use rustls::pki_types::UnixTime;
use serde::Serialize;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::advice::{About, advice};
use super::request::Asked;
use super::token::{Words, clock, list};
use crate::auth::certificate::ClientCertificate;
use crate::auth::credential::{Credential, Method, Proof};
use crate::auth::explain::{Look, Outcome, Shown, TicketLook, TokenLook};
use crate::auth::grant::Grant;
use crate::auth::jwt::Issuers;
use crate::auth::permission::Required;
use crate::auth::principal::Principal;
use crate::auth::revocation::Revocations;
use crate::auth::{self, Authenticator, Presented, check_origin, check_page};
use crate::cli::words::{distance, shown};
use crate::clock::{Now, UnixMillis};
use crate::config::{Config, Listener, RejectMode, Route};
use crate::edge::EdgeError;
use crate::http::head::RequestHead;
use crate::http::headers::{self, ReservedNames, Seen};
use crate::http::route::{RouteMatch, Router};
use crate::http::upgrade;
use crate::migration::shadow::Shadow;
use crate::migration::{self, endpoint, ledger::Ledger, share};
use crate::rejection::Rejection;
use crate::store::TicketFault;
use crate::ticket::Tickets;
use crate::tls::server;
use crate::upstream::signed_context::{self, ContextRequest, identity_headers};

/// What serving is made of, as far as explaining needs it.
pub struct World {
    config: Arc<Config>,
    router: Router,
    reserved: ReservedNames,
    issuers: Arc<Issuers>,
    tickets: Arc<Tickets>,
    authenticator: Authenticator,
}

/// Everything that is told. Its JSON is for programs: what is there stays.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    /// Without its query.
    pub url: String,
    pub at: String,
    pub warnings: Vec<String>,
    pub steps: Vec<Step>,
    pub route: Option<String>,
    pub parameters: serde_json::Map<String, Value>,
    pub method: Option<&'static str>,
    /// What `GET` of the config path would tell this client.
    pub told: Option<Value>,
    pub verdict: Verdict,
    pub upstream: Option<Forwarded>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub result: Mark,
    pub detail: String,
    /// Of interest to programs only.
    #[serde(skip)]
    pub is_quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    Fail,
    Skipped,
    Note,
}

/// What the client would get.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// `None`: only a running process, or what the client sends next, can say.
    pub let_in: Option<bool>,
    /// Of the answer; 101 where a close frame follows it. `None`: the upstream's own.
    pub status: Option<u16>,
    pub code: Option<&'static str>,
    /// The outcome in metrics, logs and audit lines.
    pub label: Option<&'static str>,
    pub close_code: Option<u16>,
    pub close_reason: Option<String>,
    /// What the client is told.
    pub message: String,
    /// What the operator is told, in log and audit.
    pub detail: Option<String>,
    /// What to change.
    pub advice: Option<String>,
    pub user: Option<String>,
    pub issuer: Option<String>,
    pub expires_at: Option<String>,
}

/// What the upstream would get.
#[derive(Debug, Serialize)]
pub struct Forwarded {
    pub name: String,
    pub servers: Vec<String>,
    /// Names of headers, without those of the connection itself.
    pub headers: Vec<String>,
    /// Of the client's headers, those that do not get there.
    pub removed: Vec<String>,
    /// The claims of the signed context. `null` on a public route.
    pub context: Option<Value>,
}

impl Step {
    pub fn new(name: &'static str, result: Mark, detail: impl Into<String>) -> Self {
        Self { name, result, detail: detail.into(), is_quiet: false }
    }
}

/// An explanation in the making.
struct Walk<'a> {
    told: Explanation,
    /// The first one: the client's answer.
    rejection: Option<Rejection>,
    asked: &'a Asked,
    now: Now,
    /// The handshake was answered with a 101 before the credential.
    is_early: bool,
    /// It was an upgrade on a route of ours when it was refused: the route says how.
    is_routed: bool,
}

impl World {
    pub fn open(config: Config) -> Result<Self, EdgeError> {
        let config = Arc::new(config);
        let issuers = Arc::new(auth::explain::issuers(&config, &config.state_dir)?);
        let revocations = Arc::new(Revocations::new(1));
        let tickets = Arc::new(Tickets::new(&config, Arc::clone(&issuers), Arc::clone(&revocations))?);
        let authenticator =
            Authenticator::new(Arc::clone(&issuers), Arc::clone(&tickets), revocations, config.mtls.clone()).with_bypass(&config.bypass);
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
        let look = Box::pin(self.authenticator.look_at(&matched, credential, presented, now)).await;
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
        if matches!(look.outcome, Outcome::OnlyThere) && walk.rejection.is_none() {
            walk.told.verdict.message = "Usher's own process has to say: it holds its tickets in its memory".to_owned();
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

    /// The listener, and the head as it would be read there.
    fn begin(&self, walk: &mut Walk<'_>) -> Option<(Arc<Listener>, RequestHead)> {
        let asked = walk.asked;
        walk.told.url = format!("{}://{}", asked.scheme.name, shown(&asked.authority));
        let by_port = |one: &&Arc<Listener>| one.address.port() == asked.port && one.tls.is_some() == asked.scheme.is_tls;
        let by_kind = |one: &&Arc<Listener>| one.tls.is_some() == asked.scheme.is_tls;
        let listeners = &self.config.listeners;
        let named = asked.listener.map(|address| listeners.iter().find(|one| one.address == address));
        let listener = match named {
            Some(Some(listener)) => Some((listener, String::new())),
            Some(None) => None,
            None => listeners.iter().find(by_port).map(|one| (one, String::new())).or_else(|| {
                let other = listeners.iter().find(by_kind).or_else(|| listeners.first())?;
                Some((other, format!("; none has port {}, so this one stands for it", asked.port)))
            }),
        };
        let Some((listener, aside)) = listener else {
            let addresses: Vec<_> = listeners.iter().map(|one| one.address.to_string()).collect();
            walk.told.steps.push(Step::new("listener", Mark::Fail, format!("there is none of this address; {}", addresses.join(", "))));
            return None;
        };
        let host = asked.authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(&*asked.authority, |(host, _)| host);
        let (mark, how) = match &listener.tls {
            None => (Mark::Ok, "plain".to_owned()),
            Some(tls) => match server::certificate_for(tls, &host.to_ascii_lowercase()) {
                Ok(certificate) => certificate_words(certificate.cert.first(), host, walk.now.wall),
                Err(error) => (Mark::Note, format!("TLS; {error}")),
            },
        };
        walk.told.steps.push(Step::new("listener", mark, format!("{}, {how}{aside}", listener.address)));
        match asked.head(&self.config.limits) {
            Ok(head) => Some((Arc::clone(listener), head)),
            Err(rejection) => {
                walk.station("request", Err(rejection), "");
                None
            }
        }
    }

    /// Without the certificate that a listener requires, or with a wrong one, there is no request.
    fn shakes_hands(&self, walk: &mut Walk<'_>, listener: &Listener) -> bool {
        let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let is_shown = !walk.asked.certificate.is_empty();
        let Some(clients) = clients else {
            if is_shown {
                walk.note("handshake", "this listener asks for no certificate, so the client shows none");
            }
            return true;
        };
        let at = UnixTime::since_unix_epoch(Duration::from_millis(walk.now.wall.0));
        match server::check_client(clients, &walk.asked.certificate, at) {
            Ok(()) if is_shown => {
                walk.told.steps.push(Step::new("handshake", Mark::Ok, "the certificate is of the listener's authorities"))
            }
            Ok(()) => walk.note("handshake", "a certificate may be shown, and none is"),
            Err(error) => {
                walk.told.steps.push(Step::new("handshake", Mark::Fail, error.to_string()));
                walk.told.verdict = Verdict {
                    let_in: Some(false),
                    message: "the TLS handshake ends with an alert, before any request".to_owned(),
                    advice: Some("Give the client a certificate that these authorities have signed, with its chain, good now.".to_owned()),
                    ..Verdict::default()
                };
                return false;
            }
        }
        true
    }

    fn is_own(&self, path: &str) -> bool {
        self.tickets.owns(path) || path == self.config.config_path || path == self.config.context.jwks_path
    }

    fn find(&self, walk: &mut Walk<'_>, host: &str, path: &str) -> Option<RouteMatch> {
        let found = self.router.find(host, path).map_err(|ambiguous| Rejection::AmbiguousRequest(ambiguous.0));
        let matched = match found.and_then(|found| found.ok_or(Rejection::NoRoute)) {
            Ok(matched) => matched,
            Err(rejection) => {
                let is_absent = rejection == Rejection::NoRoute;
                walk.station("route", Err(rejection), "");
                let near = self.router.near_misses(host, path);
                for (route, why) in near.iter().take(5).filter(|_| is_absent) {
                    walk.note("near", format!("{}: {why}", route.name));
                }
                if is_absent && near.is_empty() {
                    let names: Vec<_> = self.config.routes.iter().take(10).map(|route| route.name.to_string()).collect();
                    walk.note("routes", names.join(", "));
                }
                return None;
            }
        };
        let route = &matched.route;
        let parameters: Vec<_> = matched.parameters.iter().map(|(name, value)| format!("{name} = {}", shown(value))).collect();
        let parameters = if parameters.is_empty() { String::new() } else { format!(" with {}", parameters.join(", ")) };
        let others = self.router.others(host, path);
        let others: Vec<_> = others.iter().map(|other| &*other.name).collect();
        let why =
            if others.is_empty() { "the only one that matches".to_owned() } else { format!("more specific than {}", others.join(", ")) };
        walk.told.steps.push(Step::new("route", Mark::Ok, format!("{}{parameters}, {why}", route.name)));
        let servers: Vec<_> = route.upstream.servers.iter().map(ToString::to_string).collect();
        walk.note("upstream", format!("{}: {}", route.upstream.name, servers.join(", ")));
        walk.told.route = Some(route.name.to_string());
        walk.told.parameters = matched.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        Some(matched)
    }

    fn origin(&self, walk: &mut Walk<'_>, route: &Route, parts: &Parts) -> Option<String> {
        let origin = match upgrade::origin_of(&parts.headers) {
            Ok(origin) => origin,
            Err(rejection) => {
                walk.station("origin", Err(rejection), "");
                return None;
            }
        };
        let named = origin.as_deref().map_or_else(|| "none in the request".to_owned(), shown);
        let rule = match &route.origins {
            None => "the route looks at no Origin",
            Some(origins) if origins.allows_any() => "the route takes every page",
            Some(_) => "the route lists its pages",
        };
        walk.station("origin", check_origin(route, origin.as_deref()), format!("{named}; {rule}"));
        origin
    }

    fn credential(
        &self,
        walk: &mut Walk<'_>,
        route: &Route,
        parts: &mut Parts,
        origin: Option<&str>,
        is_upgrade: bool,
    ) -> Option<Credential> {
        if route.auth.is_empty() {
            walk.note("credential", "the route is public: nothing is asked for, and nothing is signed");
            return None;
        }
        let mut found = Vec::new();
        let taken = auth::extract::take_and_tell(route, parts, |method| found.push(method.name()));
        let listed: Vec<_> = route.auth.iter().map(|method| method.name()).collect();
        let listed = listed.join(", ");
        let credential = match taken {
            Ok(credential) => credential,
            Err(rejection) => {
                walk.station("credential", Err(rejection), format!("the route takes {listed}"));
                return None;
            }
        };
        let Some(chosen) = &credential else {
            walk.note("credential", format!("none in the request; the route takes {listed}"));
            return None;
        };
        let others: Vec<_> = found.into_iter().filter(|name| *name != chosen.method.name()).collect();
        let others = if others.is_empty() { String::new() } else { format!("; found beside it and removed: {}", others.join(", ")) };
        let is_safe = !is_upgrade && parts.method.is_safe();
        let outcome = check_page(route, credential.as_ref(), origin, is_safe);
        walk.station("credential", outcome, format!("by {}; the route takes {listed}{others}", chosen.method.name()));
        credential
    }

    async fn fetch(&self, credential: Option<&Credential>, shadow: &Shadow) {
        let shadows = shadow.found().filter_map(|(_, found)| found.as_ref().ok()?.as_ref());
        for credential in credential.into_iter().chain(shadows) {
            if let Proof::Token(token) = &credential.proof {
                self.issuers.fetch_for(token).await;
            }
        }
    }

    /// What was found of the credential, and what it opens.
    fn judge(&self, walk: &mut Walk<'_>, matched: &RouteMatch, look: &Look) {
        if matched.route.auth.is_empty() {
            return;
        }
        let rejection = match &look.outcome {
            Outcome::Known(Err(rejection)) => Some(rejection.clone()),
            _ => None,
        };
        let mut granted = None;
        match &look.shown {
            Shown::Nothing => {
                if !walk.told.steps.iter().any(|step| step.name == "credential" && step.result == Mark::Fail) {
                    walk.told.steps.retain(|step| step.name != "credential");
                    let listed: Vec<_> = matched.route.auth.iter().map(|method| method.name()).collect();
                    walk.station("credential", Err(Rejection::MissingCredential), format!("the route takes {}", listed.join(", ")));
                }
                return;
            }
            Shown::Token(token) => {
                let words = Words { look: token, issuers: &self.config.issuers, now: walk.now.wall, all_claims: walk.asked.claims };
                walk.told.steps.extend(words.steps());
                granted = token.verdict.as_ref().ok().map(|principal| principal.permissions.clone());
            }
            Shown::Ticket(ticket) => {
                walk.told.steps.extend(self.ticket(ticket, look, walk.now.wall));
                granted = ticket.record.as_ref().map(|record| record.principal.permissions.clone());
            }
            Shown::Name(name) => {
                let outcome = if name.is_some() { Ok(()) } else { Err(rejection.clone().unwrap_or(Rejection::Internal)) };
                walk.station("user", outcome, name.as_deref().map(shown).unwrap_or_default());
                if let Outcome::Known(Ok(grant)) = &look.outcome {
                    granted = grant.principal().map(|principal| principal.permissions.clone());
                }
            }
        }
        if let Some(required) = Required::of(&matched.route.require, &matched.parameters) {
            let names = list(required.names());
            let step = match &granted {
                None => Step::new("permissions", Mark::Skipped, format!("required {names}; nobody is known to have them")),
                Some(granted) => match required.check(granted) {
                    Ok(()) => Step::new("permissions", Mark::Ok, format!("required {names}; all are granted")),
                    Err(missing) => {
                        let detail = format!("required {names}; missing {}; granted {}", shown(&missing.name), list(granted));
                        Step::new("permissions", Mark::Fail, detail)
                    }
                },
            };
            walk.told.steps.push(step);
        }
        walk.told.steps.push(Step::new("revocation", Mark::Skipped, "not looked at here: only a running node knows, and its limits too"));
        walk.refuse(rejection);
    }

    /// By what the look ended with: the checks are made in the order in which they stand here.
    fn ticket(&self, ticket: &TicketLook, look: &Look, now: UnixMillis) -> Vec<Step> {
        let region = ticket.region.as_deref().map_or_else(|| "names no region".to_owned(), |region| format!("of region {region}"));
        let kind = self.tickets.stores().holding(ticket.region.as_deref()).map_or("none", crate::store::Store::kind);
        let fault = match &look.outcome {
            Outcome::Known(Err(rejection)) => Some(rejection),
            _ => None,
        };
        let step = |name, mark, detail: String| Step::new(name, mark, detail);
        let skipped = |name| step(name, Mark::Skipped, "not looked at: something before it is missing".to_owned());
        let failed = |name, rejection: &Rejection| step(name, Mark::Fail, rejection.detail());
        let shape = || step("shape", Mark::Ok, "that of a ticket".to_owned());
        let in_region = || step("region", Mark::Ok, format!("{region}; kept in {kind}"));
        match fault {
            Some(rejection @ Rejection::InvalidTicket(TicketFault::Malformed)) => {
                vec![failed("shape", rejection), skipped("store"), skipped("binding")]
            }
            Some(rejection @ Rejection::InvalidTicket(TicketFault::UnknownRegion)) => {
                vec![shape(), step("region", Mark::Fail, format!("{region}; {}", rejection.detail())), skipped("store"), skipped("binding")]
            }
            Some(rejection @ (Rejection::InvalidTicket(_) | Rejection::StoreUnavailable)) => {
                vec![shape(), in_region(), failed("store", rejection), skipped("binding")]
            }
            Some(rejection @ Rejection::TicketBinding(_)) => {
                vec![shape(), in_region(), step("store", Mark::Ok, "it is there".to_owned()), failed("binding", rejection)]
            }
            _ => match &ticket.record {
                None => vec![
                    shape(),
                    in_region(),
                    step("store", Mark::Skipped, "not looked at: the running process holds its tickets in its memory".to_owned()),
                ],
                Some(record) => {
                    let ends =
                        format!("good until {} ({}), and looked at only", clock(record.expires_at), distance(record.expires_at, now));
                    vec![
                        shape(),
                        in_region(),
                        step("store", Mark::Ok, ends),
                        step("binding", Mark::Ok, "made for this use".to_owned()),
                        step("user", Mark::Ok, format!("{} of {}", shown(&record.principal.subject), record.principal.issuer)),
                    ]
                }
            },
        }
    }

    async fn shadows(&self, walk: &mut Walk<'_>, matched: &RouteMatch, shadow: &Shadow, presented: Presented<'_>) {
        for (method, found) in shadow.found() {
            let verdict = match found {
                Ok(None) => "nothing is shown by it".to_owned(),
                Err(rejection) => format!("would be refused: {}", rejection.detail()),
                Ok(Some(credential)) => match check_page(&matched.route, Some(credential), presented.origin, false) {
                    Err(rejection) => format!("would be refused: {}", rejection.detail()),
                    Ok(()) => self.shadow_verdict(credential, &matched.route, presented, walk.now).await,
                },
            };
            walk.note("shadow", format!("{}: {verdict}; it is counted, and changes nothing", method.name()));
        }
    }

    async fn shadow_verdict(&self, credential: &Credential, route: &Route, presented: Presented<'_>, now: Now) -> String {
        let outcome = match &credential.proof {
            Proof::Token(token) => {
                let verified = self.issuers.verify(token, now);
                verified.map(Some).map_err(|why| self.issuers.rejection(why, token, now))
            }
            Proof::Ticket(ticket) => {
                let found = self.tickets.look_at(ticket, route, presented.origin, presented.peer, now).await;
                found.map(|record| record.map(|record| record.principal))
            }
            _ => Ok(None),
        };
        match outcome {
            Ok(Some(principal)) => format!("would be accepted as {}", shown(&principal.subject)),
            Ok(None) => "not looked at here".to_owned(),
            Err(rejection) => format!("would be refused: {}", rejection.detail()),
        }
    }

    fn migration(&self, walk: &mut Walk<'_>, route: &Route, method: Option<Method>, grant: Option<&Grant>, address: IpAddr) {
        let migration = &route.migration;
        let principal = grant.and_then(Grant::principal);
        if !route.auth.is_empty() {
            walk.told.told = endpoint::told(&self.config, route, principal, address).ok();
        }
        if migration.legacy.is_empty() && migration.rollout.shares.is_empty() {
            return;
        }
        if let Some(method) = method.filter(|method| migration.is_legacy(*method)) {
            let day = |at: Option<UnixMillis>| at.map_or_else(|| "no day".to_owned(), |at| clock(at).chars().take(10).collect());
            let (since, until) = (day(migration.deprecated), day(migration.sunset));
            walk.note("legacy", format!("{} is to go: deprecated since {since}, sunset {until}; the answer says so", method.name()));
        }
        if let Some(principal) = principal.filter(|_| !migration.rollout.shares.is_empty()) {
            walk.note("rollout", rollout(route, principal, address));
        }
        if let Some(grant) = grant {
            let outcome = migration::admit(grant, address, &Ledger::default(), walk.now.wall);
            let how = if migration.rollout.enforce { "enforced" } else { "nothing is enforced" };
            walk.station("migration", outcome, how);
        }
        let told = walk.told.told.as_ref().and_then(|told| told.get("method")).and_then(Value::as_str).map(str::to_owned);
        if let Some(method) = told {
            walk.note("config", format!("GET {} tells this client to log in by {method}", self.config.config_path));
        }
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

impl Walk<'_> {
    fn note(&mut self, name: &'static str, detail: impl Into<String>) {
        self.told.steps.push(Step::new(name, Mark::Note, detail));
    }

    /// One of the questions to which no is an answer.
    fn station(&mut self, name: &'static str, outcome: Result<(), Rejection>, detail: impl Into<String>) {
        let detail = detail.into();
        match outcome {
            Ok(()) => self.told.steps.push(Step::new(name, Mark::Ok, detail)),
            Err(rejection) => {
                let why = rejection.detail();
                let detail = if detail.is_empty() { why } else { format!("{detail}; {why}") };
                self.told.steps.push(Step::new(name, Mark::Fail, detail));
                self.refuse(Some(rejection));
            }
        }
    }

    fn refuse(&mut self, rejection: Option<Rejection>) {
        if self.rejection.is_none() && rejection.is_some() {
            self.is_routed &= self.told.route.is_some();
            self.rejection = rejection;
        }
    }

    /// What stands in the arguments is in the shell's history and in the list of processes.
    fn warn_of_secrets(&mut self, route: &Route, parts: &Parts) {
        let secrets = ["authorization", "cookie", "sec-websocket-protocol", route.bypass_header.as_str()];
        for name in self.asked.on_command_line.iter().filter(|name| secrets.contains(&name.as_str())) {
            self.told
                .warnings
                .push(format!("--header {name} stands where others can read it; take --headers-file, --token-file or --cookie-file"));
        }
        let given = self.asked.credential.as_ref().and_then(|_| self.asked.method_for(route));
        for (method, parameter) in [(Method::Ticket, &route.ticket_parameter), (Method::Query, &route.token_parameter)] {
            let query = parts.uri.query().unwrap_or_default();
            let is_there = query.split('&').any(|pair| pair.split('=').next().and_then(auth::decoded).as_deref() == Some(parameter));
            if is_there && given != Some(method) {
                self.told
                    .warnings
                    .push(format!("?{parameter}= in the URL stands where others can read it; take --token-file or --ticket-file"));
            }
        }
    }

    /// Everything depends on what the client says next.
    fn waits(mut self) -> Explanation {
        self.told.verdict.status = Some(101);
        self.told.verdict.message = "the first message decides: give what it would carry with --token-file or --ticket-file".to_owned();
        self.told
    }

    fn let_in(mut self, grant: &Grant, is_upgrade: bool) -> Explanation {
        let verdict = &mut self.told.verdict;
        verdict.let_in = Some(true);
        verdict.status = is_upgrade.then_some(101);
        let principal = grant.principal();
        verdict.user = principal.map(|principal| principal.subject.clone());
        verdict.issuer = principal.map(|principal| principal.issuer.to_string());
        verdict.expires_at = grant.expires_at().map(clock);
        let who = principal.map_or_else(|| "as nobody in particular".to_owned(), |principal| format!("as {}", shown(&principal.subject)));
        let ends = match grant.expires_at() {
            Some(at) if is_upgrade => {
                let then = if grant.is_renewed_by_message() { "; asked for a new credential before that" } else { "" };
                format!(", until {} ({}){then}", clock(at), distance(at, self.now.wall))
            }
            _ => String::new(),
        };
        verdict.message = format!("{who}{ends}");
        self.told
    }

    fn end(self, route: Option<&Route>) -> Explanation {
        self.end_with(route, None, None)
    }

    fn end_with(mut self, route: Option<&Route>, token: Option<&TokenLook>, origin: Option<&str>) -> Explanation {
        let Some(rejection) = self.rejection.take() else {
            self.told.verdict.message = "nothing can be said".to_owned();
            return self.told;
        };
        let facts = rejection.facts();
        let is_close = self.is_early || self.is_routed && route.is_some_and(|route| route.reject_mode == RejectMode::Close);
        let close = route.filter(|_| is_close).map(|route| rejection.close(route.close_codes));
        let about = About { route, token, origin, now: self.now.wall };
        self.told.verdict = Verdict {
            let_in: Some(false),
            status: Some(if close.is_some() { 101 } else { facts.status.as_u16() }),
            code: Some(facts.code),
            label: Some(facts.label),
            close_code: close.as_ref().map(|(code, _)| code.0),
            close_reason: close.map(|(_, reason)| reason),
            message: rejection.message(),
            detail: Some(rejection.detail()),
            advice: Some(advice(&rejection, about)),
            ..Verdict::default()
        };
        self.told
    }
}

fn asks_for_certificates(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
}

fn token_of(look: &Look) -> Option<&TokenLook> {
    match &look.shown {
        Shown::Token(token) => Some(token),
        _ => None,
    }
}

fn rollout(route: &Route, principal: &Principal, address: IpAddr) -> String {
    let rollout = &route.migration.rollout;
    let client = share::Client::of(rollout.sticky, principal, address);
    let place = share::place(&route.name, &client);
    let shares: Vec<_> = rollout.shares.iter().map(|(method, percent)| format!("{} {percent} %", method.name())).collect();
    let share = match route.migration.assigned(&route.name, &client) {
        Some(method) => format!("in the share of {}", method.name()),
        None => "in no share".to_owned(),
    };
    format!("{}; this client is at {place} of 100, {share}", shares.join(", "))
}

fn certificate_words(leaf: Option<&rustls::pki_types::CertificateDer<'_>>, host: &str, now: UnixMillis) -> (Mark, String) {
    let Some((leaf, (_, parsed))) = leaf.and_then(|leaf| Some((leaf, X509Certificate::from_der(leaf).ok()?))) else {
        return (Mark::Note, "TLS; its certificate cannot be read".to_owned());
    };
    let names = server::names_of(leaf).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    let parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let covers = names.iter().any(|name| *name == host || Some(name) == parent.as_ref());
    let ends = UnixMillis::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0));
    let aside = if covers { "" } else { "; not made for this host" };
    let mark = if ends <= now {
        Mark::Fail
    } else if covers {
        Mark::Ok
    } else {
        Mark::Note
    };
    let names = if names.is_empty() { "without a host name".to_owned() } else { names.join(", ") };
    (
        mark,
        format!(
            "TLS with the certificate {names}, until {} ({}){aside}",
            clock(ends).chars().take(10).collect::<String>(),
            distance(ends, now)
        ),
    )
}
