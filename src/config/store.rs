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
    /// The region that it serves; `None` if the file names no regions.
    pub region: Option<Arc<str>>,
    pub layout: RedisLayout,
    pub tls: bool,
    /// The authorities that sign the servers, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub sentinel_password: Option<Secret>,
    /// The prefix of every key.
    pub prefix: String,
    /// How long one operation may take, waiting for a connection included.
    pub timeout: Duration,
    /// Replicas that must have recorded that a ticket is redeemed before its client gets in.
    pub acknowledge: Option<usize>,
    /// Operations at once, on each thread.
    pub max_in_flight: usize,
    /// Tickets of this node whose end is watched; `None` for the store of another region, which is
    /// read-only.
    pub watched: Option<usize>,
    /// Whether it may hold tickets that work more than once.
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

/// Returns true for the name of a region, which its tickets begin with.
pub fn is_region_name(name: &str) -> bool {
    (1..=16).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl RedisLayout {
    /// Returns the servers of the first connection.
    pub fn addresses(&self) -> &[HostPort] {
        match self {
            Self::Single { server, .. } => std::slice::from_ref(server),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster { nodes } => nodes,
        }
    }
}
