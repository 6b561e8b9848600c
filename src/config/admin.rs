//! The address of the admin listener, its token, and the rules of logins to its page.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::rate::Rate;
use crate::model::secret::Secret;

#[derive(Clone, Debug)]
pub struct Admin {
    pub address: AdminAddress,
    /// Set if other machines can reach the address.
    pub token: Option<Secret>,
    pub logins: LoginRules,
}

/// The rules of logins to the admin page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRules {
    /// How long a login lasts, from the login on.
    pub ttl: Duration,
    /// How long a login lasts without a request.
    pub idle: Duration,
    /// The most logins at the same time.
    pub most: usize,
    /// How many wrong tokens an address may send.
    pub wrong_rate: Rate,
}

impl LoginRules {
    /// The rules without an admin listener.
    pub const NONE: Self = Self {
        ttl: Duration::ZERO,
        idle: Duration::ZERO,
        most: 0,
        wrong_rate: Rate { count: 1, per: Duration::from_secs(60) },
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Tcp(SocketAddr),
    /// A unix socket; only its owner can use the file.
    Unix(PathBuf),
}

impl AdminAddress {
    /// The prefix of the address of a unix socket.
    pub const UNIX: &str = "unix:";
    /// In bytes. `sun_path` has 108, and the socket is first created in a folder beside its path.
    const LONGEST_PATH: usize = 90;

    /// Parses an address. `base` is the folder of the configuration.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let Some(path) = text.strip_prefix(Self::UNIX) else {
            return text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "`{text}` is not an address; write an IP address and a port, such as \
                     \"127.0.0.1:9090\", or \"unix:/path\""
                )
            });
        };
        let path = base.join(path);
        match path.as_os_str().len() {
            _ if path.file_name().is_none() || text.ends_with('/') => {
                Err(format!("`{text}` does not name a file; write \"unix:/run/usher/admin.sock\""))
            }
            length if length > Self::LONGEST_PATH => Err(format!(
                "the path of the socket has {length} bytes; it must not be longer than {} bytes",
                Self::LONGEST_PATH
            )),
            _ => Ok(Self::Unix(path)),
        }
    }

    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().is_loopback())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}{}", Self::UNIX, path.display()),
        }
    }
}
