//! Checks of the addresses that the start will bind.

use std::cell::LazyCell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::{Finding, Inspector};
use crate::config::AdminAddress;
use crate::model::listening_address::{PortSharing, overlap};
use crate::net::admin_socket::{SocketPathState, occupant};
use crate::net::bind;

/// The processes that may have bound the addresses of a configuration.
pub struct Holders<'a> {
    /// The addresses that the process of this configuration has bound.
    pub own: &'a [SocketAddr],
    /// Asks for the Usher of another configuration, at the admin address of this one.
    pub find_other: &'a dyn Fn() -> Option<OtherUsher>,
}

/// A running Usher with another configuration.
#[derive(Clone, Debug)]
pub struct OtherUsher {
    /// The path of its configuration.
    pub config: String,
    /// The addresses that it has bound, with that of its admin listener.
    pub addresses: Vec<SocketAddr>,
}

pub(super) fn inspect(inspector: &mut Inspector<'_>, holders: &Holders<'_>) {
    let config = inspector.config;
    let held = holders.own;
    // Asked only if an address is in use.
    let other = LazyCell::new(holders.find_other);
    let holder = |address: SocketAddr| {
        let is_its =
            |other: &&OtherUsher| other.addresses.iter().any(|theirs| overlap(*theirs, address));
        other.as_ref().filter(is_its).map(|other| other.config.clone())
    };
    for (index, listener) in config.listeners.iter().enumerate() {
        let key = format!("listener.{index}.address");
        let place = (listener.address, listener.sharing);
        inspector.add(&key, address("listener", place, held, &holder));
    }
    if let Some(admin) = &config.admin {
        let finding = match &admin.address {
            AdminAddress::Tcp(tcp) => {
                address("admin listener", (*tcp, PortSharing::Refused), held, &holder)
            }
            AdminAddress::Unix(path) => {
                file(path, !held.is_empty(), || other.as_ref().map(|other| other.config.clone()))
            }
        };
        inspector.add("admin.address", finding);
    }
}

/// Judges the path of the admin socket. `is_ours`: a process that listens there is the Usher that
/// runs with this configuration.
fn file(path: &Path, is_ours: bool, holder: impl Fn() -> Option<String>) -> Finding {
    let subject = format!("admin listener unix:{}", path.display());
    let (error, detail, hint) = match occupant(path) {
        Ok(SocketPathState::Listening) if is_ours => {
            return Finding::ok(subject, "bound by the running Usher");
        }
        Ok(SocketPathState::Nothing) if !path.parent().is_some_and(Path::is_dir) => (
            io::ErrorKind::NotFound.into(),
            "the folder does not exist".to_owned(),
            "create the folder, owned by the user that runs Usher",
        ),
        Ok(SocketPathState::Nothing | SocketPathState::Stale) => {
            return Finding::ok(subject, "free");
        }
        Ok(SocketPathState::Listening) => {
            let detail = match holder() {
                Some(config) => format!("another Usher listens there, which runs with {config}"),
                None => "another process listens there".to_owned(),
            };
            let hint = "stop that process, or choose another path";
            (io::ErrorKind::AddrInUse.into(), detail, hint)
        }
        Ok(SocketPathState::NotASocket) => (
            io::ErrorKind::AlreadyExists.into(),
            "the file exists and is not a socket".to_owned(),
            "choose another path, or move the file away",
        ),
        Err(error) => {
            let detail = format!("the socket cannot be bound: {error}");
            (error, detail, "the folder must be open to the user that runs Usher")
        }
    };
    Finding::fail(subject, detail, hint).because(&error)
}

fn address(
    what: &str,
    (address, sharing): (SocketAddr, PortSharing),
    held: &[SocketAddr],
    holder: &dyn Fn(SocketAddr) -> Option<String>,
) -> Finding {
    let subject = format!("{what} {address}");
    if held.iter().any(|held| overlap(*held, address)) {
        return Finding::ok(subject, "bound by the running Usher");
    }
    let Err(bind::BindError { error, .. }) = bind::check(address, sharing) else {
        return Finding::ok(subject, "free");
    };
    let (detail, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => match holder(address) {
            Some(config) => (
                format!("the port is in use by another Usher, which runs with {config}"),
                "stop that one (`usher drain -c` and its file), or choose another port",
            ),
            None => (
                "the port is in use by another process".to_owned(),
                "stop that process (`ss -ltnp` names it), or choose another port; processes share \
                 the port of a listener only where each has `share_port = true`",
            ),
        },
        io::ErrorKind::AddrNotAvailable => (
            "this machine does not have the address".to_owned(),
            "choose an address of its interfaces, or write 0.0.0.0 or [::] for all of them",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("the address cannot be bound: {error}"),
            "ports below 1024 need root, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit",
        ),
        _ => (format!("the address cannot be bound: {error}"), "choose another address"),
    };
    Finding::fail(subject, detail, hint).because(&error)
}
