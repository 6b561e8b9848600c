//! Messages to the service manager that started this process: the `NOTIFY_SOCKET` of systemd.
//!
//! A unit with `Type=notify` counts as started when it has read [`ServiceState::Ready`]. Without
//! the variable, nothing is sent.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

const VARIABLE: &str = "NOTIFY_SOCKET";

/// One fact about this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    Ready,
    /// The process exits within this time, even if the unit allows less.
    Stopping {
        within: Duration,
    },
    /// This process of the service is the main one from now on.
    MainProcess {
        pid: i32,
    },
}

impl ServiceState {
    /// Sends the fact, if a service manager waits for it. Never blocks.
    pub fn send(self) -> io::Result<()> {
        match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            Some(place) => self.send_to(&place),
            None => Ok(()),
        }
    }

    fn send_to(self, place: &OsStr) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(self.message().as_bytes(), &address(place)?)?;
        Ok(())
    }

    fn message(self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Stopping { within } => {
                format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros())
            }
            Self::MainProcess { pid } => format!("MAINPID={pid}"),
        }
    }
}

/// Returns the address of a path, or of a name in the abstract space, which begins with `@`.
fn address(place: &OsStr) -> io::Result<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(OsString::from(place)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 128];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_reads_each_fact_at_a_path_or_at_an_abstract_name() {
        let name = format!("usher-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        ServiceState::Ready.send_to(path.as_os_str()).unwrap();
        assert_eq!(received(&by_path), "READY=1");
        std::fs::remove_file(&path).unwrap();
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        let place = OsString::from(format!("@{name}"));
        ServiceState::MainProcess { pid: 7 }.send_to(&place).unwrap();
        assert_eq!(received(&by_name), "MAINPID=7");
        ServiceState::Stopping { within: Duration::from_secs(2) }.send_to(&place).unwrap();
        assert_eq!(received(&by_name), "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000");
    }

    #[test]
    fn a_manager_that_is_away_is_an_error_and_not_a_wait() {
        for place in ["/nowhere/notify", "notify", "vsock:1:2"] {
            assert!(ServiceState::Ready.send_to(OsStr::new(place)).is_err(), "{place}");
        }
    }
}
