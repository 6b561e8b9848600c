//! One server of an upstream: its addresses, its load and its health.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::time::Instant;

use super::health::{DialPurpose, Health, HealthRules, ServerFault, ServerState, TryOutcome};
use super::resolve::ResolvedName;
use super::{Upstream, pool};
use crate::base::lock::lock;
use crate::config;

#[derive(Debug)]
pub(super) struct Server {
    /// The entry of the configuration.
    pub(super) config: config::Server,
    /// The name in logs and on the status page, which is the same on every node.
    pub(super) label: Arc<str>,
    pub(super) tls_name: Option<ServerName<'static>>,
    /// Sessions and HTTP exchanges under way.
    pub(super) busy: AtomicUsize,
    pub(super) health: Mutex<Health>,
    /// The name that the addresses come from.
    pub(super) name: Option<Arc<ResolvedName>>,
    /// The addresses in the order in which they are dialled; none for a unix socket.
    addresses: Mutex<Arc<[SocketAddr]>>,
}

/// A place on a server. Dropping it gives it back.
#[derive(Debug)]
pub struct ServerPlace {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Server>,
    errand: DialPurpose,
}

/// One server on the status page.
#[derive(Clone, Debug, Serialize)]
pub struct ServerFigures {
    pub upstream: String,
    pub server: String,
    /// The addresses in the order in which they are dialled.
    pub addresses: Vec<IpAddr>,
    pub state: ServerState,
    /// Sessions and HTTP exchanges under way.
    pub busy: usize,
    /// The fault of an ejected server.
    pub fault: Option<ServerFault>,
    /// The time since the ejection.
    pub away_seconds: Option<u64>,
}

impl Server {
    /// Makes a server. `joins` is the time at which it joins others, and begins slowly.
    pub(super) fn new(
        config: &config::Server,
        label: Arc<str>,
        tls_name: Option<ServerName<'static>>,
        name: Option<Arc<ResolvedName>>,
        joins: Option<Instant>,
    ) -> Self {
        Self {
            config: config.clone(),
            label,
            tls_name,
            busy: AtomicUsize::new(0),
            health: Mutex::new(Health::new(joins)),
            name,
            addresses: Mutex::default(),
        }
    }

    pub(super) fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&lock(&self.addresses))
    }

    pub(super) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        *lock(&self.addresses) = addresses.into();
    }

    /// Returns true if a connection to `peer` leads to an address of the server. DNS may have
    /// removed it since the dial.
    pub(super) fn is_at(&self, peer: Option<IpAddr>) -> bool {
        self.name.is_none() || self.addresses().iter().any(|one| Some(one.ip()) == peer)
    }

    /// Brings the next lookup of the server's name forward: an address could not be dialled.
    pub(super) fn doubt_name(&self) {
        if let Some(name) = &self.name {
            name.doubt();
        }
    }

    /// Puts the address that could be dialled in front of those that could not.
    pub(super) fn prefer_address(&self, address: SocketAddr) {
        let mut addresses = lock(&self.addresses);
        let mut sorted = addresses.to_vec();
        sorted.sort_by_key(|one| *one != address);
        *addresses = sorted.into();
    }

    /// Returns the figures of the server on the status page.
    pub(super) fn figures(
        &self,
        upstream: &str,
        now: Instant,
        rules: &HealthRules,
    ) -> ServerFigures {
        let health = lock(&self.health);
        let absence = health.absence(now);
        ServerFigures {
            upstream: upstream.to_owned(),
            server: self.label.to_string(),
            addresses: self.addresses().iter().map(SocketAddr::ip).collect(),
            state: health.state(now, rules),
            busy: self.busy.load(Ordering::Relaxed),
            fault: absence.map(|(fault, _)| fault),
            away_seconds: absence.map(|(_, away)| away.as_secs()),
        }
    }
}

impl ServerFigures {
    /// Returns the figures of a name without an address.
    pub(super) fn unresolved(upstream: &str, server: &config::Server) -> Self {
        Self {
            upstream: upstream.to_owned(),
            server: server.to_string(),
            addresses: Vec::new(),
            state: ServerState::Unresolved,
            busy: 0,
            fault: None,
            away_seconds: None,
        }
    }
}

impl ServerPlace {
    pub(super) fn new(upstream: &Arc<Upstream>, server: Arc<Server>, errand: DialPurpose) -> Self {
        server.busy.fetch_add(1, Ordering::Relaxed);
        Self { upstream: Arc::clone(upstream), server, errand }
    }

    pub fn server(&self) -> Arc<str> {
        Arc::clone(&self.server.label)
    }

    /// Returns the key of the server's kept connections.
    pub(super) fn key(&self) -> pool::ServerKey {
        let Upstream { config, generation, .. } = &*self.upstream;
        (Arc::clone(&config.name), self.server(), *generation)
    }

    /// Notes the outcome of the try for which the place was taken.
    pub(super) fn note(&self, outcome: TryOutcome) {
        self.upstream.note(&self.server, outcome, self.errand);
    }
}

impl Drop for ServerPlace {
    fn drop(&mut self) {
        self.server.busy.fetch_sub(1, Ordering::Relaxed);
        // A client that leaves before its server has answered makes way for the next trial.
        if let DialPurpose::Trial(number) = self.errand {
            lock(&self.server.health).abandon_trial(number);
        }
    }
}
