//! The servers behind Usher.
//!
//! `entry.rs` makes the servers of the configuration, one for each address of a name, which
//! `resolve.rs` looks up. `pick.rs` picks the next server. `connect.rs` dials it, and takes a
//! `&Grant` to do so.
//! `upgrade.rs` opens the WebSocket on it. `pool.rs` keeps connections for plain HTTP, and
//! `answer_guard.rs` reads their answers strictly. `health.rs` decides when a server is ejected and
//! when it returns, and `checks.rs` asks servers for their health. `signed_context.rs` writes the
//! header that identifies the client.

pub mod answer_guard;
pub mod bodies;
mod checks;
pub mod connect;
mod entry;
pub mod events;
pub mod health;
pub mod keyring;
pub mod pick;
pub mod pool;
pub mod reserved_names;
mod resolve;
mod server;
pub mod signed_context;
pub mod upgrade;
mod upload;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::{self, Balance};
use crate::net::proxy_protocol::{self, ProxyHeader};
use crate::net::tls::trust::tls_config;
use crate::telemetry::Event;
use crate::telemetry::family::Word;
use entry::ServerEntry;
use events::{EjectionWithheld, ServerEjected, ServerReturned, ServersCounted, TrialFailed};
use health::{DialPurpose, HealthEffect, HealthRules, ServerFault, ServerState, TryOutcome};
use pick::{Candidate, ClientKey};
use server::Server;
pub use server::{ServerFigures, ServerPlace};

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// All upstreams. All threads share them, so that the load of a server counts for each thread.
#[derive(Debug)]
pub struct Upstreams(Vec<Arc<Upstream>>);

#[derive(Debug)]
pub struct Upstream {
    config: Arc<config::Upstream>,
    /// The entries of `servers` in the configuration.
    entries: Vec<ServerEntry>,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// A new number for each upstream that verifies servers.
    generation: u64,
    /// Moves on with each pick, so that equally busy servers take turns.
    turn: AtomicUsize,
    /// Held while a server is ejected, so that two threads never eject too many together.
    ejecting: Mutex<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamBuildError {
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
    ) -> Result<Self, UpstreamBuildError> {
        let build = |config: &Arc<config::Upstream>| {
            let before = before.and_then(|before| before.of(config));
            let before = before.map_or(&[][..], |before| &before.entries);
            Upstream::build(config, before, now.mono).map(Arc::new)
        };
        configs.iter().map(build).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the running state of a configured upstream.
    pub fn of(&self, config: &config::Upstream) -> Option<&Arc<Upstream>> {
        self.0.iter().find(|upstream| upstream.config.name == config.name)
    }

    /// Looks names up again and checks the health of servers, as long as the future runs. Ends at
    /// once if the configuration asks for neither.
    pub async fn follow(&self) {
        let mut tasks = JoinSet::new();
        for upstream in &self.0 {
            for index in 0..upstream.entries.len() {
                tasks.spawn(entry::follow(Arc::clone(upstream), index));
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
        before: &[ServerEntry],
        now: Instant,
    ) -> Result<Self, UpstreamBuildError> {
        let wrong = |problem: String| UpstreamBuildError::Upstream {
            upstream: config.name.to_string(),
            problem,
        };
        let mut entries = Vec::new();
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
            let same = before.iter().find(|one| one.config == *server);
            let entry = ServerEntry::new(server, tls_name, same, !before.is_empty(), now);
            entry.update(config);
            entries.push(entry);
        }
        let tls = if entries.iter().any(|entry| entry.tls_name.is_some()) {
            Some(tls_config(config.ca_file.as_deref()).map_err(wrong)?)
        } else {
            None
        };
        let generation = if tls.is_some() { GENERATION.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Ok(Self {
            config: Arc::clone(config),
            entries,
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
        let host = self.config.servers.first().map_or("localhost".to_owned(), entry::host);
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

    /// Returns the servers of all entries.
    fn servers(&self) -> Vec<Arc<Server>> {
        self.entries.iter().flat_map(|entry| entry.servers().to_vec()).collect()
    }

    /// Waits for the first lookup of each name. Later ones keep no client waiting.
    async fn know_names(&self) {
        for entry in self.entries.iter().filter(|entry| entry.is_new()) {
            entry.resolve(self).await;
        }
    }

    /// Returns every server once, in the order in which this client tries them, and the ejected
    /// server that this client may try before all others.
    fn order(
        &self,
        client: &ClientKey<'_>,
        now: Instant,
    ) -> (Vec<Arc<Server>>, Option<Arc<Server>>) {
        let rules = self.rules();
        let servers = self.servers();
        let standing = |server: &Arc<Server>| {
            let health = lock(&server.health);
            (health.standing(now, &rules), health.is_trial_due(now, &rules))
        };
        let standings: Vec<_> = servers.iter().map(standing).collect();
        let candidates: Vec<_> = servers
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
        let server = |index: usize| servers.get(index).cloned();
        (order.into_iter().filter_map(server).collect(), due.and_then(server))
    }

    /// Takes a place on an ejected server for the client of its trial. Of the clients that come
    /// together, one gets it.
    fn begin_trial(self: &Arc<Self>, server: Arc<Server>, now: Instant) -> Option<ServerPlace> {
        let errand = lock(&server.health).begin_trial(now, &self.rules())?;
        Some(ServerPlace::new(self, server, errand))
    }

    /// Notes the outcome of a try of a server.
    fn note(&self, server: &Arc<Server>, outcome: TryOutcome, errand: DialPurpose) {
        let now = Now::read().mono;
        let effect = lock(&server.health).note(outcome, errand, now, &self.rules());
        self.apply(server, effect, now);
    }

    fn apply(&self, server: &Arc<Server>, effect: HealthEffect, now: Instant) {
        let (upstream, label) = (self.name(), &*server.label);
        match effect {
            HealthEffect::Nothing => return,
            HealthEffect::Eject(fault) => self.eject(server, fault, now),
            HealthEffect::TrialFailed { pause } => {
                TrialFailed { upstream, server: label, pause }.emit();
            }
            HealthEffect::Returned { away } => {
                ServerReturned { upstream, server: label, away }.emit();
            }
        }
        self.publish_states(now);
    }

    /// Ejects a server, unless too many others are ejected.
    fn eject(&self, server: &Arc<Server>, fault: ServerFault, now: Instant) {
        let _ejecting = lock(&self.ejecting);
        let servers = self.servers();
        // An address that left gets no more clients.
        if !servers.iter().any(|one| Arc::ptr_eq(one, server)) {
            return;
        }
        let away = servers.iter().filter(|one| lock(&one.health).is_ejected()).count();
        let (upstream, label) = (self.name(), &*server.label);
        let mut health = lock(&server.health);
        if health.is_ejected() {
            return;
        }
        if (away + 1) * 100 > servers.len() * usize::from(self.config.max_ejected_percent) {
            health.spare();
            drop(health);
            // The only server of an upstream can never be ejected.
            if servers.len() == 1 {
                return;
            }
            EjectionWithheld { upstream, server: label, fault, away }.emit();
        } else if let Some(pause) = health.eject(fault, now, &self.rules()) {
            drop(health);
            ServerEjected { upstream, server: label, fault, pause }.emit();
        }
    }

    fn publish_states(&self, now: Instant) {
        let states: Vec<_> = self.figures(now).into_iter().map(|one| one.state).collect();
        for state in ServerState::all() {
            let count = states.iter().filter(|one| **one == state).count();
            ServersCounted { upstream: self.name(), state, count }.emit();
        }
    }

    /// Returns the figures of each server, and of each name without an address.
    fn figures(&self, now: Instant) -> Vec<ServerFigures> {
        let rules = self.rules();
        let mut figures = Vec::new();
        for entry in &self.entries {
            let servers = entry.servers();
            figures.extend(servers.iter().map(|one| one.figures(self.name(), now, &rules)));
            if servers.is_empty() {
                figures.push(ServerFigures::unresolved(self.name(), &entry.config));
            }
        }
        figures
    }
}
