//! Checks of the addresses that the start will bind.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::{Finding, Inspector};
use crate::config::AdminAddress;
use crate::model::listening_address::{PortSharing, overlap};
use crate::net::admin_socket::{SocketPathState, occupant};
use crate::net::bind;

pub(super) fn inspect(inspector: &mut Inspector<'_>, held: &[SocketAddr]) {
    let config = inspector.config;
    for (index, listener) in config.listeners.iter().enumerate() {
        let key = format!("listener.{index}.address");
        inspector.add(&key, address("listener", (listener.address, listener.sharing), held));
    }
    if let Some(admin) = &config.admin {
        let finding = match &admin.address {
            AdminAddress::Tcp(tcp) => address("admin listener", (*tcp, PortSharing::Refused), held),
            AdminAddress::Unix(path) => file(path, !held.is_empty()),
        };
        inspector.add("admin.address", finding);
    }
}

/// Judges the path of the admin socket. `is_ours`: a process that listens there is the Usher that
/// runs with this configuration.
fn file(path: &Path, is_ours: bool) -> Finding {
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
        Ok(SocketPathState::Listening) => (
            io::ErrorKind::AddrInUse.into(),
            "another process listens there".to_owned(),
            "stop that process, or choose another path",
        ),
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
) -> Finding {
    let subject = format!("{what} {address}");
    if held.iter().any(|held| overlap(*held, address)) {
        return Finding::ok(subject, "bound by the running Usher");
    }
    let Err(bind::BindError { error, .. }) = bind::check(address, sharing) else {
        return Finding::ok(subject, "free");
    };
    let (detail, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "the port is in use by another process".to_owned(),
            "stop that process (`ss -ltnp` names it), or choose another port; processes share \
             the port of a listener only where each has `share_port = true`",
        ),
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
