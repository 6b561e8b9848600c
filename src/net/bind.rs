//! Binding addresses, so that a port of another process is an error and is never shared by
//! accident.
//!
//! Each thread has a socket of its own on each address (`SO_REUSEPORT`). With that option the
//! kernel would let any other process of the same user join. So the first socket is bound and
//! listens without it, which fails if another socket already listens. Then the option is set, and
//! the sockets of the other threads join.

use crate::model::listening_address::PortSharing;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

const BACKLOG: i32 = 4096;

/// An address that cannot be bound. The message names the remedy.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", describe(.error))]
pub struct BindError {
    pub address: SocketAddr,
    pub error: io::Error,
}

/// Binds one address once for each thread. Port 0 becomes one free port, the same on all threads.
pub fn bind(
    address: SocketAddr,
    threads: usize,
    sharing: PortSharing,
) -> Result<Vec<std::net::TcpListener>, BindError> {
    let mut sockets = Vec::new();
    let mut bound = address;
    for index in 0..threads.max(1) {
        let is_joining = index > 0 || sharing == PortSharing::Allowed;
        let socket = listen(bound, is_joining, threads > 1)
            .map_err(|error| BindError { address: bound, error })?;
        bound = socket.local_addr().map_err(|error| BindError { address: bound, error })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Returns the error that [`bind`] would return. The probe does not listen, so no client can
/// connect to it.
pub fn check(address: SocketAddr, sharing: PortSharing) -> Result<(), BindError> {
    let probe = || socket(address, sharing == PortSharing::Allowed)?.bind(&address.into());
    probe().map_err(|error| BindError { address, error })
}

fn listen(address: SocketAddr, joins: bool, is_joined: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, joins)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    if is_joined && !joins {
        socket.set_reuse_port(true)?;
    }
    Ok(socket.into())
}

fn socket(address: SocketAddr, joins: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(joins)?;
    if address.is_ipv6() {
        // `[::]` means every address, IPv4 ones too.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use by another process\n  \
             help: stop that process or choose another port; processes share the port of a \
             listener only where each has `share_port = true`"
            .to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied\n  \
             help: choose a port of 1024 or above, or give the process CAP_NET_BIND_SERVICE"
            .to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address\n  \
             help: choose an address of one of its interfaces, or 0.0.0.0 for all addresses"
            .to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: &str = "127.0.0.1:0";

    fn bind_any(threads: usize, sharing: PortSharing) -> (Vec<std::net::TcpListener>, SocketAddr) {
        let sockets = bind(ANY.parse().unwrap(), threads, sharing).unwrap();
        let address = sockets[0].local_addr().unwrap();
        (sockets, address)
    }

    #[test]
    fn all_threads_listen_at_one_port_and_a_second_process_does_not() {
        use PortSharing::{Allowed, Refused};
        let (sockets, address) = bind_any(3, Refused);
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        let wildcard = SocketAddr::from(([0, 0, 0, 0], address.port()));
        for address in [address, wildcard] {
            let error = bind(address, 2, Refused).unwrap_err();
            assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains("in use by another process"), "{error}");
            assert!(check(address, Refused).is_err());
        }
        drop(sockets);
        check(address, Refused).unwrap();
        bind(address, 2, Refused).unwrap();

        let (_one, address) = bind_any(1, Refused);
        assert!(bind(address, 1, Allowed).is_err(), "one thread shares with no socket at all");
    }

    #[test]
    fn a_port_is_shared_where_both_ask_for_it() {
        use PortSharing::{Allowed, Refused};
        let (_sockets, address) = bind_any(2, Allowed);
        check(address, Allowed).unwrap();
        let others = bind(address, 2, Allowed).unwrap();
        assert_eq!(others.len(), 2);
        assert!(bind(address, 2, Refused).is_err());
    }

    #[test]
    fn every_thread_gets_its_share_of_connections() {
        let (sockets, address) = bind_any(2, PortSharing::Refused);
        let _clients: Vec<_> =
            (0..100).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        // A connection is in a queue of the kernel by the time that connect returns.
        let accepted =
            |socket: &std::net::TcpListener| std::iter::from_fn(|| socket.accept().ok()).count();
        let counts: Vec<_> = sockets.iter().map(accepted).collect();
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}
