//! The configuration of the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    Memory { max_tickets: usize },
    Redis(Box<Redis>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Which region it serves; `None` where the file names no regions.
    pub region: Option<Arc<str>>,
    pub layout: RedisLayout,
    pub tls: bool,
    /// The authorities that sign the servers, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub sentinel_password: Option<Secret>,
    /// What every key begins with.
    pub prefix: String,
    /// For one operation, whatever stands in its way.
    pub timeout: Duration,
    /// So many replicas must have heard that a ticket is redeemed before anybody is let in with it.
    pub acknowledge: Option<usize>,
    /// Operations on their way at once, on each thread.
    pub max_in_flight: usize,
    /// Tickets that work more than once may be in it.
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

/// May a region be called this? Its name is the beginning of its tickets.
pub fn is_region_name(name: &str) -> bool {
    (1..=16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl RedisLayout {
    /// Where the first connection goes.
    pub fn addresses(&self) -> &[HostPort] {
        match self {
            Self::Single { server, .. } => std::slice::from_ref(server),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster { nodes } => nodes,
        }
    }
}
