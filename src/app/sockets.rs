//! The sockets of the program: those of the listeners, of the admin listener and of the takeover,
//! bound before the program runs. Those that another process hands over are missing until then.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::config::{AdminAddress, Config};
use crate::listener::{Bound, SocketOwner};
use crate::net::admin_socket::{
    AdminBindError, AdminSocket, PreparedSocket, SocketFile, bind_file,
};
use crate::net::bind::{BindError, bind};
use crate::net::passed::PassedSockets;
use crate::takeover::{Predecessor, TakeoverError};

/// Binds a socket for each listener on each thread. The threads share a passed socket.
pub(super) fn bind_all(
    config: &Config,
    passed: &mut PassedSockets,
    predecessor: Option<&Predecessor>,
) -> Result<(Vec<Vec<Bound>>, Vec<SocketAddr>), BindError> {
    let count = config.threads.max(1);
    let mut threads: Vec<Vec<Bound>> = (0..count).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for (listener_index, listener) in config.listeners.iter().enumerate() {
        let (bound, owner) = match passed.remove(listener.address) {
            Some(socket) => (copies(&socket, count), SocketOwner::ServiceManager),
            None if predecessor.is_some_and(|old| old.has_listener(listener.address)) => {
                // Its sockets come when the program runs.
                addresses.push(listener.address);
                continue;
            }
            None => {
                let bound = bind(listener.address, count, listener.sharing)?;
                (Ok(bound), SocketOwner::ThisProcess)
            }
        };
        let bound = bound.map_err(|error| BindError { address: listener.address, error })?;
        let address = bound.first().and_then(|socket| socket.local_addr().ok());
        addresses.push(address.unwrap_or(listener.address));
        for (sockets, socket) in threads.iter_mut().zip(bound) {
            sockets.push(Bound { socket, listener_index, owner });
        }
    }
    Ok((threads, addresses))
}

fn copies(socket: &TcpListener, count: usize) -> std::io::Result<Vec<TcpListener>> {
    (0..count).map(|_| socket.try_clone()).collect()
}
/// Gives each socket to a thread, and each thread a socket: some threads get several, or several
/// threads share one.
pub(super) fn spread(
    threads: &mut [Vec<Bound>],
    listener_index: usize,
    sockets: Vec<(SocketOwner, TcpListener)>,
) -> std::io::Result<()> {
    let count = threads.len().max(sockets.len());
    let turns = threads.len().max(1);
    for (place, (owner, socket)) in sockets.iter().cycle().take(count).enumerate() {
        if let Some(thread) = threads.get_mut(place % turns) {
            let socket = socket.try_clone()?;
            thread.push(Bound { socket, listener_index, owner: *owner });
        }
    }
    Ok(())
}

/// The admin listener's socket before the program runs.
#[derive(Debug)]
pub(super) enum PendingAdmin {
    Bound(AdminSocket),
    /// Takes the place of the predecessor's file.
    Prepared(PreparedSocket, AdminAddress),
    /// The predecessor has the socket of this address.
    Deferred(SocketAddr),
}

impl PendingAdmin {
    pub(super) fn bind(
        address: &AdminAddress,
        passed: &mut PassedSockets,
        predecessor: Option<&Predecessor>,
    ) -> Result<Self, AdminBindError> {
        match address {
            AdminAddress::Tcp(tcp) => {
                if let Some(socket) = passed.remove(*tcp) {
                    return Ok(Self::Bound(AdminSocket::Tcp(socket)));
                }
                if predecessor.is_some_and(|predecessor| predecessor.has_admin(*tcp)) {
                    return Ok(Self::Deferred(*tcp));
                }
            }
            AdminAddress::Unix(path) => {
                if predecessor.is_some() {
                    let prepared = PreparedSocket::new(path)
                        .map_err(|error| AdminBindError::File { path: path.clone(), error })?;
                    return Ok(Self::Prepared(prepared, address.clone()));
                }
            }
        }
        AdminSocket::bind(address).map(Self::Bound)
    }

    pub(super) fn address(&self) -> Option<AdminAddress> {
        match self {
            Self::Bound(socket) => socket.address().ok(),
            Self::Prepared(_, address) => Some(address.clone()),
            Self::Deferred(address) => Some(AdminAddress::Tcp(*address)),
        }
    }

    pub(super) fn ready(self) -> std::io::Result<AdminSocket> {
        match self {
            Self::Bound(socket) => Ok(socket),
            Self::Prepared(prepared, _) => {
                prepared.place().map(|(socket, file)| AdminSocket::Unix(socket, file))
            }
            Self::Deferred(_) => Err(std::io::Error::other("the admin socket was not handed over")),
        }
    }
}

/// The takeover socket before the program runs.
#[derive(Debug)]
pub(super) enum TakeoverSocket {
    Placed(UnixListener, SocketFile),
    /// Takes the place of the predecessor's file.
    Prepared(PreparedSocket),
}

impl TakeoverSocket {
    pub(super) fn bind(path: &Path, has_predecessor: bool) -> Result<Self, TakeoverError> {
        let bound = match has_predecessor {
            true => PreparedSocket::new(path).map(Self::Prepared),
            false => bind_file(path).map(|(socket, file)| Self::Placed(socket, file)),
        };
        bound.map_err(|error| TakeoverError::Listen {
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    pub(super) fn place(self) -> std::io::Result<(UnixListener, SocketFile)> {
        match self {
            Self::Placed(socket, file) => Ok((socket, file)),
            Self::Prepared(prepared) => prepared.place(),
        }
    }
}
