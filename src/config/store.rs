//! The configuration of the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    Memory { max_tickets: usize },
    Redis(Box<Redis>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// The region of this Redis; `None` if the file names no regions.
    pub region: Option<Arc<str>>,
    pub layout: RedisLayout,
    pub tls: bool,
    /// The authorities for the servers' certificates, instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub sentinel_password: Option<Secret>,
    /// The prefix of every key.
    pub prefix: String,
    /// How long one operation may take, including the wait for a connection.
    pub timeout: Duration,
    /// The number of replicas that must record that a ticket is redeemed before its client is
    /// accepted.
    pub acknowledge: Option<usize>,
    /// Concurrent operations, for each thread.
    pub max_in_flight: usize,
    /// The most tickets of this node whose expiry is watched; `None` for the store of another
    /// region, which is read-only.
    pub watched: Option<usize>,
    /// Whether tickets may work more than once.
    pub multi_use: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisLayout {
    /// `redis://host:port/database`
    Single { server: HostPort, database: i64 },
    /// `redis+sentinel://host:port,.../master`
    Sentinel { sentinels: Vec<HostPort>, master: String },
    /// `redis+cluster://host:port,...`
    Cluster { nodes: Vec<HostPort> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Without the brackets that an IPv6 address has in a URL.
    pub host: String,
    pub port: u16,
}

/// Returns true for a valid name of a region. Tickets of the region begin with it.
pub fn is_region_name(name: &str) -> bool {
    (1..=16).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl RedisLayout {
    /// Returns the servers that Usher connects to first.
    pub fn addresses(&self) -> &[HostPort] {
        match self {
            Self::Single { server, .. } => std::slice::from_ref(server),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster { nodes } => nodes,
        }
    }
}
