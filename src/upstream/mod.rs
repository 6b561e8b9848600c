//! The servers behind Usher.
//!
//! `pick.rs` picks the next server. `connect.rs` dials it, and takes a `&Grant` to do so;
//! `resolve.rs` keeps the addresses of its name.
//! `upgrade.rs` opens the WebSocket on it. `pool.rs` keeps connections for plain HTTP, and
//! `answer_guard.rs` reads their answers strictly. `health.rs` decides when a server is ejected and
//! when it returns, and `checks.rs` asks servers for their health. `signed_context.rs` writes the
//! header that identifies the client.

pub mod answer_guard;
mod checks;
pub mod connect;
pub mod events;
pub mod health;
pub mod keyring;
pub mod pick;
pub mod pool;
pub mod request_body;
pub mod reserved_names;
mod resolve;
pub mod signed_context;
pub mod upgrade;
mod upload;

use crate::net::tls::trust::tls_config;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::{self, Balance};
use crate::net::proxy_protocol::{self, ProxyHeader};
use crate::telemetry::Event;
use crate::telemetry::family::Word;
use events::{EjectionWithheld, ServerEjected, ServerReturned, ServersCounted, TrialFailed};
use health::{Effect, Errand, Fault, Health, HealthRules, Outcome, ServerState};
use pick::{Candidate, ClientKey};
use resolve::Resolved;

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// All upstreams. All threads share them, so that the load of a server counts for each thread.
#[derive(Debug)]
pub struct Upstreams(Vec<Arc<Upstream>>);

#[derive(Debug)]
pub struct Upstream {
    config: Arc<config::Upstream>,
    servers: Vec<Arc<Server>>,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// A new number for each upstream that verifies servers.
    generation: u64,
    /// Moves on with each pick, so that equally busy servers take turns.
    turn: AtomicUsize,
    /// Held while a server is ejected, so that two threads never eject too many together.
    ejecting: Mutex<()>,
}

#[derive(Debug)]
struct Server {
    server: config::Server,
    label: Arc<str>,
    tls_name: Option<ServerName<'static>>,
    /// Sessions and HTTP exchanges under way.
    busy: AtomicUsize,
    resolved: Resolved,
    health: Mutex<Health>,
}

/// A place on a server. Dropping it gives it back.
#[derive(Debug)]
pub struct ServerPlace {
    upstream: Arc<Upstream>,
    index: usize,
    errand: Errand,
}

/// One server on the status page.
#[derive(Clone, Debug, Serialize)]
pub struct ServerFigures {
    pub upstream: String,
    pub server: String,
    pub state: ServerState,
    /// Sessions and HTTP exchanges under way.
    pub busy: usize,
    /// The fault of an ejected server.
    pub fault: Option<Fault>,
    /// The time since the ejection.
    pub away_seconds: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("upstream '{upstream}': {problem}")]
    Upstream { upstream: String, problem: String },
}

impl Upstreams {
    /// Builds the upstreams. `before` are those of the last configuration: a server that stays
    /// keeps its count of sessions and its health, and one that joins others begins slowly.
    pub fn build(
        configs: &[Arc<config::Upstream>],
        before: Option<&Self>,
        now: Now,
    ) -> Result<Self, BuildError> {
        let build = |config: &Arc<config::Upstream>| {
            let before = before.and_then(|before| before.of(config));
            let before = before.map_or(&[][..], |before| &before.servers);
            Upstream::build(config, before, now.mono).map(Arc::new)
        };
        configs.iter().map(build).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the running state of a configured upstream.
    pub fn of(&self, config: &config::Upstream) -> Option<&Arc<Upstream>> {
        self.0.iter().find(|upstream| upstream.config.name == config.name)
    }

    /// Asks the servers for their health, as long as the future runs. Ends at once if the
    /// configuration asks for no checks.
    pub async fn follow_checks(&self) {
        let mut tasks = JoinSet::new();
        for upstream in &self.0 {
            let Some(check) = &upstream.config.health else { continue };
            for index in 0..upstream.servers.len() {
                tasks.spawn(checks::follow(Arc::clone(upstream), index, check.clone()));
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Publishes the number of servers in each state.
    pub fn publish_states(&self, now: Now) {
        self.0.iter().for_each(|upstream| upstream.publish_states(now.mono));
    }

    pub fn figures(&self, now: Now) -> Vec<ServerFigures> {
        self.0.iter().flat_map(|upstream| upstream.figures(now.mono)).collect()
    }
}

impl Upstream {
    fn build(
        config: &Arc<config::Upstream>,
        before: &[Arc<Server>],
        now: Instant,
    ) -> Result<Self, BuildError> {
        let joins = (!before.is_empty()).then_some(now);
        let wrong =
            |problem: String| BuildError::Upstream { upstream: config.name.to_string(), problem };
        let mut servers = Vec::new();
        for server in &config.servers {
            let tls_name = match server {
                config::Server::Tls { host, .. } => {
                    let name = config.server_name.as_ref().unwrap_or(host);
                    Some(
                        ServerName::try_from(name.clone())
                            .map_err(|_| wrong(format!("'{name}' is not a server name")))?,
                    )
                }
                _ => None,
            };
            let same = before.iter().find(|one| one.server == *server && one.tls_name == tls_name);
            let new = || Arc::new(Server::new(server, tls_name, joins));
            servers.push(same.cloned().unwrap_or_else(new));
        }
        let tls = if servers.iter().any(|server| server.tls_name.is_some()) {
            Some(tls_config(config.ca_file.as_deref()).map_err(wrong)?)
        } else {
            None
        };
        let generation = if tls.is_some() { GENERATION.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Ok(Self {
            config: Arc::clone(config),
            servers,
            tls,
            generation,
            turn: AtomicUsize::new(0),
            ejecting: Mutex::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// Returns the bytes that a connection for this client begins with, if the upstream wants a
    /// PROXY header.
    pub fn proxy_header(&self, client: impl FnOnce() -> ProxyHeader) -> Option<Bytes> {
        let version = self.config.proxy_protocol?;
        Some(proxy_protocol::write(version, &client()).into())
    }

    /// Names the server as the host of a request without one, which HTTP/1.0 allows and HTTP/1.1
    /// does not.
    pub fn name_host(&self, headers: &mut HeaderMap) {
        if headers.contains_key(HOST) {
            return;
        }
        let host = self.servers.first().map_or("localhost".to_owned(), |server| server.host());
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(HOST, host);
        }
    }

    fn rules(&self) -> HealthRules {
        HealthRules {
            eject_after: self.config.eject_after,
            pause: self.config.eject_for,
            longest_pause: self.config.eject_for_at_most,
            slow_start: self.config.slow_start,
            has_checks: self.config.health.is_some(),
        }
    }

    /// Returns every server once, in the order in which this client tries them, and the ejected
    /// server that this client may try before all others.
    fn order(&self, client: &ClientKey<'_>, now: Instant) -> (Vec<usize>, Option<usize>) {
        let rules = self.rules();
        let standing = |server: &Arc<Server>| {
            let health = lock(&server.health);
            (health.standing(now, &rules), health.is_trial_due(now, &rules))
        };
        let standings: Vec<_> = self.servers.iter().map(standing).collect();
        let candidates: Vec<_> = self
            .servers
            .iter()
            .zip(&standings)
            .map(|(server, (standing, _))| Candidate {
                label: &server.label,
                busy: server.busy.load(Ordering::Relaxed),
                standing: *standing,
            })
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = pick::order(self.config.balance, &candidates, client, turn);
        let due = order.iter().copied().find(|index| {
            standings.get(*index).is_some_and(|(_, is_due)| *is_due)
                && (self.config.balance != Balance::Sticky
                    || pick::is_home(&candidates, client, *index))
        });
        (order, due)
    }

    /// Takes a place on an ejected server for the client of its trial. Of the clients that come
    /// together, one gets it.
    fn begin_trial(self: &Arc<Self>, index: usize, now: Instant) -> Option<ServerPlace> {
        let server = self.servers.get(index)?;
        let errand = lock(&server.health).begin_trial(now, &self.rules())?;
        Some(self.place(index, errand))
    }

    fn errand(&self, index: usize) -> Errand {
        match self.servers.get(index) {
            Some(server) if lock(&server.health).is_ejected() => Errand::LastResort,
            _ => Errand::Regular,
        }
    }

    /// Notes the outcome of a try of a server.
    fn note(&self, index: usize, outcome: Outcome, errand: Errand) {
        let Some(server) = self.servers.get(index) else { return };
        let now = Now::read().mono;
        let effect = lock(&server.health).note(outcome, errand, now, &self.rules());
        self.apply(index, effect, now);
    }

    fn apply(&self, index: usize, effect: Effect, now: Instant) {
        let Some(server) = self.servers.get(index) else { return };
        let (upstream, server) = (self.name(), &*server.label);
        match effect {
            Effect::Nothing => return,
            Effect::Eject(fault) => self.eject(index, fault, now),
            Effect::TrialFailed { pause } => TrialFailed { upstream, server, pause }.emit(),
            Effect::Returned { away } => ServerReturned { upstream, server, away }.emit(),
        }
        self.publish_states(now);
    }

    /// Ejects a server, unless too many others are ejected.
    fn eject(&self, index: usize, fault: Fault, now: Instant) {
        let Some(server) = self.servers.get(index) else { return };
        let _ejecting = lock(&self.ejecting);
        let away = self.servers.iter().filter(|one| lock(&one.health).is_ejected()).count();
        let (upstream, label) = (self.name(), &*server.label);
        let mut health = lock(&server.health);
        if health.is_ejected() {
            return;
        }
        if (away + 1) * 100 > self.servers.len() * usize::from(self.config.max_ejected_percent) {
            health.spare();
            drop(health);
            // The only server of an upstream can never be ejected.
            if self.servers.len() == 1 {
                return;
            }
            EjectionWithheld { upstream, server: label, fault, away }.emit();
        } else if let Some(pause) = health.eject(fault, now, &self.rules()) {
            drop(health);
            ServerEjected { upstream, server: label, fault, pause }.emit();
        }
    }

    fn publish_states(&self, now: Instant) {
        let rules = self.rules();
        let states: Vec<_> =
            self.servers.iter().map(|one| lock(&one.health).state(now, &rules)).collect();
        for state in ServerState::all() {
            let count = states.iter().filter(|one| **one == state).count();
            ServersCounted { upstream: self.name(), state, count }.emit();
        }
    }

    fn figures(&self, now: Instant) -> impl Iterator<Item = ServerFigures> {
        let rules = self.rules();
        self.servers.iter().map(move |server| {
            let health = lock(&server.health);
            let absence = health.absence(now);
            ServerFigures {
                upstream: self.config.name.to_string(),
                server: server.label.to_string(),
                state: health.state(now, &rules),
                busy: server.busy.load(Ordering::Relaxed),
                fault: absence.map(|(fault, _)| fault),
                away_seconds: absence.map(|(_, away)| away.as_secs()),
            }
        })
    }

    fn key(&self, index: usize) -> Option<pool::ServerKey> {
        self.servers.get(index).map(|server| {
            (Arc::clone(&self.config.name), Arc::clone(&server.label), self.generation)
        })
    }

    fn place(self: &Arc<Self>, index: usize, errand: Errand) -> ServerPlace {
        if let Some(server) = self.servers.get(index) {
            server.busy.fetch_add(1, Ordering::Relaxed);
        }
        ServerPlace { upstream: Arc::clone(self), index, errand }
    }
}

impl Server {
    fn new(
        server: &config::Server,
        tls_name: Option<ServerName<'static>>,
        joins: Option<Instant>,
    ) -> Self {
        Self {
            server: server.clone(),
            label: server.to_string().into(),
            tls_name,
            busy: AtomicUsize::new(0),
            resolved: Resolved::default(),
            health: Mutex::new(Health::new(joins)),
        }
    }

    /// Returns the value of the `Host` header for Usher's own requests.
    fn host(&self) -> String {
        match &self.server {
            config::Server::Plain { host, port } | config::Server::Tls { host, port } => {
                format!("{host}:{port}")
            }
            config::Server::Unix { .. } => "localhost".to_owned(),
        }
    }
}

impl ServerPlace {
    pub fn server(&self) -> Arc<str> {
        self.upstream
            .servers
            .get(self.index)
            .map(|server| Arc::clone(&server.label))
            .unwrap_or_default()
    }

    /// Notes the outcome of the try for which the place was taken.
    fn note(&self, outcome: Outcome) {
        self.upstream.note(self.index, outcome, self.errand);
    }
}

impl Drop for ServerPlace {
    fn drop(&mut self) {
        if let Some(server) = self.upstream.servers.get(self.index) {
            server.busy.fetch_sub(1, Ordering::Relaxed);
            // A client that leaves before its server has answered makes way for the next trial.
            if let Errand::Trial(number) = self.errand {
                lock(&server.health).abandon_trial(number);
            }
        }
    }
}
