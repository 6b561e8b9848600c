//! Listening sockets that a service manager has bound and passed to this process.
//!
//! systemd names them in `LISTEN_FDS` and `LISTEN_PID`: the descriptors from 3 on. The manager
//! keeps its own copy, so clients wait in the queue of the kernel while no process runs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use socket2::Socket;

const FIRST: RawFd = 3;
/// More than a configuration has listeners.
const MOST: RawFd = 256;

/// The sockets that were passed, and not used yet.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<(SocketAddr, TcpListener)>);

/// A socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    #[error("LISTEN_FDS is {0:?}, which is not a number of sockets from 1 to {MOST}")]
    Count(String),
    #[error(
        "the socket that the service manager passes as descriptor {number} is not a listening TCP \
         socket ({error})\n  \
         help: the socket unit needs ListenStream= with an address and a port, and Accept=no"
    )]
    Kind { number: RawFd, error: io::Error },
    #[error(
        "the service manager passes a socket at {0}, but no listener has this address\n  \
         help: write the same address in [[listener]]; systemd's `ListenStream=8443` is \
         \"[::]:8443\""
    )]
    Unknown(SocketAddr),
}

impl PassedSockets {
    /// Takes the sockets from the environment. Call it once, before the process opens anything.
    pub fn take() -> Result<Self, PassedError> {
        let variable = |name| std::env::var(name).ok();
        let Some(count) = count(variable("LISTEN_PID"), variable("LISTEN_FDS"))? else {
            return Ok(Self::default());
        };
        (FIRST..FIRST + count).map(listener).collect::<Result<_, _>>().map(Self)
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(address, _)| *address).collect()
    }

    /// Removes the socket of an address.
    pub fn remove(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let place = self.0.iter().position(|(own, _)| *own == address)?;
        Some(self.0.swap_remove(place).1)
    }

    /// Fails if a socket was not used: its clients would wait forever.
    pub fn check_all_used(&self) -> Result<(), PassedError> {
        self.0.first().map_or(Ok(()), |(address, _)| Err(PassedError::Unknown(*address)))
    }
}

/// Returns the number of sockets. `None`: they are for another process, or there are none.
fn count(pid: Option<String>, fds: Option<String>) -> Result<Option<RawFd>, PassedError> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(None) };
    if pid.trim().parse() != Ok(std::process::id()) {
        return Ok(None);
    }
    match fds.trim().parse::<RawFd>() {
        Ok(count) if (1..=MOST).contains(&count) => Ok(Some(count)),
        _ => Err(PassedError::Count(fds)),
    }
}

fn listener(number: RawFd) -> Result<(SocketAddr, TcpListener), PassedError> {
    let unusable = |error| PassedError::Kind { number, error };
    let socket = Socket::from(inherited(number).map_err(unusable)?);
    adopt(&socket).map_err(unusable)?;
    let listener = TcpListener::from(socket);
    Ok((listener.local_addr().map_err(unusable)?, listener))
}

/// Prepares a socket that another process has bound.
pub fn adopt(socket: &Socket) -> io::Result<()> {
    if !socket.is_listener()? {
        return Err(io::Error::other("it does not listen"));
    }
    if socket.local_addr()?.as_socket().is_none() {
        return Err(io::Error::other("it is not a TCP socket"));
    }
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)
}

#[allow(unsafe_code, reason = "the service manager passes bare numbers")]
fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
        return Err(io::Error::other("the descriptor is not open"));
    }
    // SAFETY: the descriptor is open. The protocol of `LISTEN_FDS` gives it to this process alone,
    // and `PassedSockets::take` turns each number into an owner once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_of_another_process_are_not_taken() {
        let own = std::process::id().to_string();
        let count = |pid: &str, fds: &str| count(Some(pid.to_owned()), Some(fds.to_owned()));
        assert_eq!(count(&own, "2").unwrap(), Some(2));
        assert_eq!(count("1", "2").unwrap(), None);
        assert_eq!(count("", "2").unwrap(), None);
        assert_eq!(super::count(None, Some("2".to_owned())).unwrap(), None);
        for wrong in ["0", "-1", "many", "257", ""] {
            assert!(matches!(count(&own, wrong), Err(PassedError::Count(_))), "{wrong}");
        }
    }

    #[test]
    fn a_socket_is_taken_by_its_own_address_and_must_listen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        adopt(&Socket::from(listener.try_clone().unwrap())).unwrap();
        let mut passed = PassedSockets(vec![(address, listener)]);
        let error = passed.check_all_used().unwrap_err().to_string();
        assert!(error.contains(&format!("a socket at {address}, but no listener")), "{error}");
        assert!(passed.remove(SocketAddr::from(([127, 0, 0, 1], 1))).is_none());
        assert!(passed.remove(address).is_some() && passed.check_all_used().is_ok());
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(adopt(&Socket::from(client)).is_err());
    }
}
