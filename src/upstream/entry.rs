//! One entry of `servers` in the configuration, and the servers that it stands for.
//!
//! An address or a unix socket is one server. A name is one for each of its addresses: they come
//! and go with its lookups.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};

use rustls::pki_types::ServerName;
use tokio::net::lookup_host;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::events::{AddressesChanged, AddressesUnused};
use super::resolve::{NameLookup, ResolvedName, divide};
use super::server::Server;
use super::{Upstream, checks};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::{self, NameAddresses};
use crate::telemetry::Event;

#[derive(Debug)]
pub(super) struct ServerEntry {
    pub(super) config: config::Server,
    pub(super) tls_name: Option<ServerName<'static>>,
    /// `None`: the entry has an address or a path.
    name: Option<Arc<ResolvedName>>,
    /// Whether its first servers join others.
    joins: bool,
    servers: Mutex<Servers>,
}

#[derive(Clone, Debug, Default)]
struct Servers {
    current: Arc<[Arc<Server>]>,
    /// Servers whose addresses the name has no more. They live as long as they have sessions, and
    /// keep the count of these if the address returns.
    former: Vec<Weak<Server>>,
    /// Whether the last lookup gave more addresses than are used.
    has_unused: bool,
    /// Whether the servers are those of a lookup, good or not.
    is_looked_up: bool,
}

impl ServerEntry {
    /// Makes the entry. `before` is the same one of the last configuration.
    pub(super) fn new(
        config: &config::Server,
        tls_name: Option<ServerName<'static>>,
        before: Option<&Self>,
        joins: bool,
        now: Instant,
    ) -> Self {
        let name_of_before = || before.and_then(|before| before.name.clone());
        let new_name = || Arc::new(ResolvedName::new(now));
        let name = is_name(config).then(|| name_of_before().unwrap_or_else(new_name));
        let same = before.filter(|before| before.tls_name == tls_name);
        let servers = same.map(|before| lock(&before.servers).clone()).unwrap_or_default();
        Self { config: config.clone(), tls_name, name, joins, servers: Mutex::new(servers) }
    }

    /// Returns the servers that the entry stands for now.
    pub(super) fn servers(&self) -> Arc<[Arc<Server>]> {
        Arc::clone(&lock(&self.servers).current)
    }

    /// Returns true if a name has not been looked up yet, or its servers are not made yet.
    pub(super) fn is_new(&self) -> bool {
        self.name.is_some() && !lock(&self.servers).is_looked_up
    }

    /// Looks the name up if that is due, and changes the servers with its addresses.
    pub(super) async fn resolve(&self, upstream: &Upstream) {
        let (Some(name), Some(place)) = (&self.name, host_and_port(&self.config)) else { return };
        let about = NameLookup {
            upstream: upstream.name(),
            server: &self.config.to_string(),
            every: upstream.config.resolve_every,
        };
        name.look_up(about, async { Ok(lookup_host(place).await?.collect()) }).await;
        if self.update(&upstream.config) {
            upstream.publish_states(Now::read().mono);
        }
    }

    /// Makes the servers those of the known addresses. Returns true if one came or left.
    pub(super) fn update(&self, upstream: &config::Upstream) -> bool {
        let mut servers = lock(&self.servers);
        // Before the addresses, so that a lookup that ends between the two waits for its update.
        let is_looked_up = self.name.as_ref().is_some_and(|name| name.was_looked_up());
        let has_failed = self.name.as_ref().is_some_and(|name| name.has_failed());
        let (groups, unused) = match (&self.name, host_and_port(&self.config)) {
            (Some(name), _) => {
                divide(&name.addresses(), upstream.addresses, upstream.max_addresses)
            }
            (None, Some((host, port))) => {
                let ip = literal(host).into_iter();
                (vec![ip.map(|ip| SocketAddr::new(ip, port)).collect()], 0)
            }
            (None, None) => (vec![Vec::new()], 0),
        };
        let has_addresses = self.name.is_some() && upstream.addresses == NameAddresses::Servers;
        let before = Arc::clone(&servers.current);
        let addresses_before = addresses_of(&before);
        // The other servers serve since the start, if this name came after a failed lookup.
        let joins = (self.joins || has_failed || !before.is_empty()).then(|| Now::read().mono);
        let mut next = Vec::with_capacity(groups.len());
        for addresses in groups {
            // Two addresses of one host are named by the lower one, that of IPv4.
            let address = addresses.iter().map(SocketAddr::ip).min().filter(|_| has_addresses);
            let label = match address {
                Some(address) => format!("{} ({address})", self.config),
                None => self.config.to_string(),
            };
            let server = self.server(&servers, label, joins);
            server.set_addresses(addresses);
            next.push(server);
        }
        let lacks = |all: &[Arc<Server>], one: &Arc<Server>| {
            !all.iter().any(|other| Arc::ptr_eq(other, one))
        };
        let is_changed = before.len() != next.len() || next.iter().any(|one| lacks(&before, one));
        let left = before.iter().filter(|one| lacks(&next, one)).map(Arc::downgrade);
        servers.former.retain(|one| one.upgrade().is_some_and(|one| lacks(&next, &one)));
        servers.former.extend(left);
        let addresses = addresses_of(&next);
        servers.current = next.into();
        servers.is_looked_up = is_looked_up;
        let is_known = std::mem::replace(&mut servers.has_unused, unused > 0);
        drop(servers);
        let (upstream, server) = (&*upstream.name, &*self.config.to_string());
        if unused > 0 {
            AddressesUnused { upstream, server, unused, is_known }.emit();
        }
        if addresses != addresses_before && !addresses_before.is_empty() {
            let (added, removed) = (&addresses - &addresses_before, &addresses_before - &addresses);
            AddressesChanged { upstream, server, added, removed }.emit();
        }
        is_changed
    }

    /// Returns the server of this label: a current one, a former one that still has sessions, or a
    /// new one.
    fn server(&self, servers: &Servers, label: String, joins: Option<Instant>) -> Arc<Server> {
        if let Some(same) = servers.current.iter().find(|one| *one.label == *label) {
            return Arc::clone(same);
        }
        let mut former = servers.former.iter().filter_map(Weak::upgrade);
        if let Some(same) = former.find(|one| *one.label == *label) {
            lock(&same.health).join_again(joins);
            return same;
        }
        let (tls_name, name) = (self.tls_name.clone(), self.name.clone());
        Arc::new(Server::new(&self.config, label.into(), tls_name, name, joins))
    }
}

/// Keeps the servers of one entry: looks its name up again and again, and checks the health of each
/// server, as long as the future runs.
pub(super) async fn follow(upstream: Arc<Upstream>, index: usize) {
    let Some(entry) = upstream.entries.get(index) else { return };
    let mut checks = Checks::default();
    if let Some(name) = &entry.name {
        name.limit_wait(upstream.config.resolve_every);
    }
    loop {
        checks.adapt(&upstream, &entry.servers());
        let Some(name) = &entry.name else { break };
        name.until_due().await;
        entry.resolve(&upstream).await;
    }
    while checks.tasks.join_next().await.is_some() {}
}

/// The tasks that check the health of the servers of one entry.
#[derive(Default)]
struct Checks {
    tasks: JoinSet<()>,
    running: Vec<(Arc<Server>, AbortHandle)>,
}

impl Checks {
    /// Begins the checks of new servers, and ends those of servers that left.
    fn adapt(&mut self, upstream: &Arc<Upstream>, servers: &[Arc<Server>]) {
        let Some(check) = &upstream.config.health else { return };
        self.running.retain(|(server, task)| {
            let stays = servers.iter().any(|one| Arc::ptr_eq(one, server));
            if !stays {
                task.abort();
            }
            stays
        });
        for server in servers {
            if self.running.iter().all(|(one, _)| !Arc::ptr_eq(one, server)) {
                let following =
                    checks::follow(Arc::clone(upstream), Arc::clone(server), check.clone());
                self.running.push((Arc::clone(server), self.tasks.spawn(following)));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Returns the value of the `Host` header for Usher's own requests.
pub(super) fn host(server: &config::Server) -> String {
    match host_and_port(server) {
        Some((host, port)) => format!("{host}:{port}"),
        None => "localhost".to_owned(),
    }
}

fn host_and_port(server: &config::Server) -> Option<(&str, u16)> {
    match server {
        config::Server::Plain { host, port } | config::Server::Tls { host, port } => {
            Some((host, *port))
        }
        config::Server::Unix { .. } => None,
    }
}

fn addresses_of(servers: &[Arc<Server>]) -> BTreeSet<IpAddr> {
    let of =
        |server: &Arc<Server>| server.addresses().iter().map(SocketAddr::ip).collect::<Vec<_>>();
    servers.iter().flat_map(of).collect()
}

/// Returns the address if the host is one, not a name.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_name(server: &config::Server) -> bool {
    host_and_port(server).is_some_and(|(host, _)| literal(host).is_none())
}
