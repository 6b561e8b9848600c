//! Stand-in until the proxy is merged.

use std::net::SocketAddr;

use crate::config::Config;

pub struct App;

pub struct Addresses {
    pub listeners: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
#[error("the proxy is not built in")]
pub struct BuildError;

impl App {
    pub fn build(_config: Config) -> Result<Self, BuildError> {
        Err(BuildError)
    }

    pub fn addresses(&self) -> Addresses {
        Addresses { listeners: Vec::new(), admin: None }
    }

    pub fn run(self) -> Result<(), BuildError> {
        Err(BuildError)
    }
}
