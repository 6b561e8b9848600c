//! The servers behind Usher.
//!
//! `pick.rs` picks the next server. `connect.rs` dials it, and takes a `&Grant` to do so.
//! `upgrade.rs` opens the WebSocket on it. `pool.rs` keeps connections for plain HTTP, and
//! `answer_guard.rs` reads their answers strictly. `signed_context.rs` writes the header that
//! identifies the client.

pub mod answer_guard;
pub mod connect;
pub mod events;
pub mod keyring;
pub mod pick;
pub mod pool;
pub mod request_body;
pub mod reserved_names;
pub mod signed_context;
pub mod upgrade;
mod upload;

use crate::net::tls::trust::tls_config;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::ServerName;
use tokio::time::Instant;

use crate::config;

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
}

#[derive(Debug)]
struct Server {
    server: config::Server,
    label: Arc<str>,
    tls_name: Option<ServerName<'static>>,
    /// Sessions and HTTP exchanges under way.
    busy: AtomicUsize,
    resolved: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

/// A place on a server. Dropping it gives it back.
#[derive(Debug)]
pub struct ServerPlace {
    upstream: Arc<Upstream>,
    index: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("upstream '{upstream}': {problem}")]
    Upstream { upstream: String, problem: String },
}

impl Upstreams {
    /// Builds the upstreams. `before` are those of the last configuration: a server that stays
    /// keeps its count of sessions.
    pub fn build(
        configs: &[Arc<config::Upstream>],
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let build = |config: &Arc<config::Upstream>| {
            let before = before.and_then(|before| before.of(config));
            Upstream::build(config, before.map_or(&[], |before| &before.servers)).map(Arc::new)
        };
        configs.iter().map(build).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the running state of a configured upstream.
    pub fn of(&self, config: &config::Upstream) -> Option<&Arc<Upstream>> {
        self.0.iter().find(|upstream| upstream.config.name == config.name)
    }
}

impl Upstream {
    fn build(config: &Arc<config::Upstream>, before: &[Arc<Server>]) -> Result<Self, BuildError> {
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
            servers.push(same.cloned().unwrap_or_else(|| Arc::new(Server::new(server, tls_name))));
        }
        let tls = if servers.iter().any(|server| server.tls_name.is_some()) {
            Some(tls_config(config.ca_file.as_deref()).map_err(wrong)?)
        } else {
            None
        };
        let generation = if tls.is_some() { GENERATION.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Ok(Self { config: Arc::clone(config), servers, tls, generation, turn: AtomicUsize::new(0) })
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// Names the server as the host of a request without one, which HTTP/1.0 allows and HTTP/1.1
    /// does not.
    pub fn name_host(&self, headers: &mut HeaderMap) {
        if headers.contains_key(HOST) {
            return;
        }
        let host = match self.config.servers.first() {
            Some(config::Server::Plain { host, port } | config::Server::Tls { host, port }) => {
                format!("{host}:{port}")
            }
            Some(config::Server::Unix { .. }) | None => "localhost".to_owned(),
        };
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(HOST, host);
        }
    }

    /// Returns every server once, the least busy first.
    fn order(&self) -> Vec<usize> {
        let busy: Vec<_> =
            self.servers.iter().map(|server| server.busy.load(Ordering::Relaxed)).collect();
        pick::least_busy_first(&busy, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    fn key(&self, index: usize) -> Option<pool::ServerKey> {
        self.servers.get(index).map(|server| {
            (Arc::clone(&self.config.name), Arc::clone(&server.label), self.generation)
        })
    }

    fn place(self: &Arc<Self>, index: usize) -> ServerPlace {
        if let Some(server) = self.servers.get(index) {
            server.busy.fetch_add(1, Ordering::Relaxed);
        }
        ServerPlace { upstream: Arc::clone(self), index }
    }
}

impl Server {
    fn new(server: &config::Server, tls_name: Option<ServerName<'static>>) -> Self {
        Self {
            server: server.clone(),
            label: server.to_string().into(),
            tls_name,
            busy: AtomicUsize::new(0),
            resolved: Mutex::new(None),
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
}

impl Drop for ServerPlace {
    fn drop(&mut self) {
        if let Some(server) = self.upstream.servers.get(self.index) {
            server.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
