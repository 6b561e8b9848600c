//! The admin listener's socket: an address, or a file.
//!
//! A unix socket is created in a folder that only its owner may enter, gets its mode there, and is
//! moved to its path. So no other user can connect before the mode is set. The socket of a dead
//! process is removed. A socket at which a process listens is an error, and so is a file that is
//! not a socket.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::{TcpListener, UnixListener};

use crate::config::AdminAddress;
use crate::model::listening_address::PortSharing;
use crate::net::bind::{self, BindError};
use crate::net::stream::Stream;

#[derive(Debug)]
pub enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener, SocketFile),
}

/// An [`AdminSocket`] in a runtime.
#[derive(Debug)]
pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a socket. Dropping it removes the file, unless another file has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AdminBindError {
    #[error(transparent)]
    Address(#[from] BindError),
    #[error("cannot listen on {}: {}", path.display(), describe(.error))]
    File { path: PathBuf, error: io::Error },
}

impl AdminBindError {
    pub fn io(&self) -> &io::Error {
        match self {
            Self::Address(failed) => &failed.error,
            Self::File { error, .. } => error,
        }
    }
}

impl AdminSocket {
    pub fn bind(address: &AdminAddress) -> Result<Self, AdminBindError> {
        match address {
            AdminAddress::Tcp(address) => {
                Ok(Self::Tcp(bind::bind(*address, 1, PortSharing::Refused)?.remove(0)))
            }
            AdminAddress::Unix(path) => {
                let (socket, file) = bind_file(path)
                    .map_err(|error| AdminBindError::File { path: path.clone(), error })?;
                Ok(Self::Unix(socket, file))
            }
        }
    }

    /// Returns the bound address: port 0 has become a real port.
    pub fn address(&self) -> io::Result<AdminAddress> {
        Ok(match self {
            Self::Tcp(socket) => AdminAddress::Tcp(socket.local_addr()?),
            Self::Unix(_, file) => AdminAddress::Unix(file.path.clone()),
        })
    }

    pub fn listen(self) -> io::Result<Listening> {
        Ok(match self {
            Self::Tcp(socket) => Listening::Tcp(TcpListener::from_std(socket)?),
            Self::Unix(socket, file) => Listening::Unix(UnixListener::from_std(socket)?, file),
        })
    }
}

impl Listening {
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(socket) => socket.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(socket, _) => socket.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// The state of a socket's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketPathState {
    Nothing,
    /// A socket at which no process listens.
    Stale,
    Listening,
    /// A file of another kind, which Usher must not remove.
    NotASocket,
}

pub fn occupant(path: &Path) -> io::Result<SocketPathState> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(SocketPathState::Nothing),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Ok(SocketPathState::NotASocket),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Ok(SocketPathState::Listening),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Ok(SocketPathState::Stale)
            }
            // A full queue means that a process listens.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(SocketPathState::Listening)
            }
            Err(error) => Err(error),
        },
    }
}

pub fn bind_file(path: &Path) -> io::Result<(StdUnixListener, SocketFile)> {
    match occupant(path)? {
        SocketPathState::Nothing => {}
        SocketPathState::Stale => fs::remove_file(path)?,
        SocketPathState::Listening => return Err(io::ErrorKind::AddrInUse.into()),
        SocketPathState::NotASocket => return Err(io::ErrorKind::AlreadyExists.into()),
    }
    PreparedSocket::new(path)?.place()
}

/// A socket that listens beside its path, ready to take the place of another process's socket.
#[derive(Debug)]
pub struct PreparedSocket {
    socket: StdUnixListener,
    folder: PrivateFolder,
    path: PathBuf,
    inode: u64,
}

/// A folder that only its owner may enter, removed with its socket when it is dropped.
#[derive(Debug)]
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_dir(&self.0);
    }
}

impl PreparedSocket {
    pub fn new(path: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = path.with_file_name(format!(".usher{}.{number}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let folder = PrivateFolder(folder);
        let inside = folder.socket();
        let socket = StdUnixListener::bind(&inside)?;
        socket.set_nonblocking(true)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&inside)?.ino();
        Ok(Self { socket, folder, path: path.to_owned(), inode })
    }

    /// Moves the socket to its path. A socket that is there is replaced.
    pub fn place(self) -> io::Result<(StdUnixListener, SocketFile)> {
        let Self { socket, folder, path, inode } = self;
        fs::rename(folder.socket(), &path)?;
        Ok((socket, SocketFile { path, inode }))
    }
}

impl SocketFile {
    /// Leaves the path to another process, whose socket takes the place of this one.
    pub fn leave(self) {
        // Without the drop: between its look at the file and its removal, the other process may
        // put its own socket there.
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there\n  \
             help: stop that process, or choose another path"
            .to_owned(),
        io::ErrorKind::AlreadyExists => "the file exists and is not a socket\n  \
             help: choose another path, or move the file away"
            .to_owned(),
        io::ErrorKind::NotFound => "the folder does not exist\n  \
             help: create the folder, owned by the user that runs Usher"
            .to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied\n  \
             help: the folder must be writable by the user that runs Usher"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Returns true if the peer connected over the socket file: it is on this machine, and not a page
/// in a browser.
pub fn is_file(stream: &Stream) -> bool {
    matches!(stream, Stream::Unix(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("usher-adm-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_file_is_its_owner_s_alone_and_goes_with_the_process() {
        let scratch = Scratch::new("mode");
        let path = scratch.0.join("admin.sock");
        let (socket, file) = bind_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing else is left");
        assert_eq!(bind_file(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(occupant(&path).unwrap(), SocketPathState::Listening);
        drop((socket, file));
        assert_eq!(occupant(&path).unwrap(), SocketPathState::Nothing);
    }

    #[test]
    fn a_file_that_is_left_to_another_process_stays() {
        let folder = Scratch::new("left");
        let path = folder.0.join("s");
        let (socket, file) = bind_file(&path).unwrap();
        file.leave();
        drop(socket);
        assert_eq!(occupant(&path).unwrap(), SocketPathState::Stale);
        let (_socket, file) = bind_file(&path).unwrap();
        drop(file);
        assert_eq!(occupant(&path).unwrap(), SocketPathState::Nothing);
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_another_file_is_not() {
        let scratch = Scratch::new("stale");
        let path = scratch.0.join("admin.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert_eq!(occupant(&path).unwrap(), SocketPathState::Stale);
        let (_socket, file) = bind_file(&path).unwrap();
        // Another process has taken the place: its file stays.
        fs::remove_file(&path).unwrap();
        let _other = StdUnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
        let other = scratch.0.join("notes.txt");
        fs::write(&other, "mine").unwrap();
        assert_eq!(bind_file(&other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&other).unwrap(), b"mine");
        assert_eq!(
            bind_file(&scratch.0.join("none/a.sock")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
