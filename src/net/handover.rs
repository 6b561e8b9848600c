//! A channel between two processes of one user on this machine, which also carries sockets.
//!
//! Each end checks that the other process has the same user. A frame is its length in four bytes
//! and the bytes.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use rustix::process::geteuid;

/// The most sockets beside one frame.
pub const MOST_SOCKETS: usize = 64;
/// The longest frame, in bytes.
pub const LONGEST_FRAME: usize = 1 << 20;

#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    /// Bytes that were read and not used.
    read: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

/// A folder in which another user could put a socket of their own.
#[derive(Debug, thiserror::Error)]
#[error(
    "the folder {} of the takeover socket {fault}\n  \
     help: create a folder for it, owned by the user that runs Usher, with mode 0700",
    folder.display()
)]
pub struct FolderError {
    folder: PathBuf,
    fault: String,
}

impl FolderError {
    pub fn fault(&self) -> String {
        format!("the folder {} {}", self.folder.display(), self.fault)
    }
}

/// Checks that no other user can put a socket at this path.
pub fn check_folder(path: &Path) -> Result<(), FolderError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let fail = |fault: String| FolderError { folder: folder.to_owned(), fault };
    let found = fs::metadata(folder).map_err(|error| fail(format!("cannot be used: {error}")))?;
    let user = geteuid().as_raw();
    if !found.is_dir() {
        return Err(fail("is not a folder".to_owned()));
    }
    if found.uid() != user {
        return Err(fail(format!("belongs to user {}, not to user {user}", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(fail("can be written by other users".to_owned()));
    }
    Ok(())
}

impl Channel {
    /// Refuses a peer of another user.
    pub fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        let peer = sockopt::socket_peercred(&stream)?.uid;
        if peer != geteuid() {
            let message = format!("the other process belongs to user {}", peer.as_raw());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        stream.set_nonblocking(false)?;
        let mut channel = Self { stream, read: Vec::new(), sockets: VecDeque::new() };
        channel.set_patience(patience)?;
        Ok(channel)
    }

    /// Returns the process at the other end.
    pub fn peer_pid(&self) -> io::Result<i32> {
        Ok(sockopt::socket_peercred(&self.stream)?.pid.as_raw_pid())
    }

    /// Sets how long each wait for the other process may take.
    pub fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))
    }

    /// Sends a frame, and at most [`MOST_SOCKETS`] sockets with it.
    pub fn send(&mut self, frame: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes(), frame].concat();
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let is_first = sent == 0 && !sockets.is_empty();
            if is_first && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::Error::other("too many sockets for one frame"));
            }
            match sendmsg(&self.stream, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(timely(error)),
            }
        }
        Ok(())
    }

    /// Receives a frame. Its sockets are in [`Channel::take_sockets`].
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(frame) = take_frame(&mut self.read)? {
                return Ok(frame);
            }
            let mut bytes = [0; 16 * 1024];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let got = match recvmsg(&self.stream, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => got.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(timely(error)),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(sockets) = message {
                    self.sockets.extend(sockets);
                }
            }
            if got == 0 {
                return Err(io::Error::other("the other process has closed the connection"));
            }
            self.read.extend(bytes.get(..got).unwrap_or_default());
        }
    }

    /// Returns the sockets that came with the frames so far.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        self.sockets.drain(..).collect()
    }

    /// Returns the stream, and the bytes that were read from it and not used.
    pub fn into_parts(self) -> io::Result<(UnixStream, Vec<u8>)> {
        self.stream.set_nonblocking(true)?;
        Ok((self.stream, self.read))
    }
}

/// Removes the first frame. `None`: it is not complete.
pub fn take_frame(bytes: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > LONGEST_FRAME {
        return Err(io::Error::other("the other process is not an Usher"));
    }
    let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
    bytes.drain(..4 + length);
    Ok(Some(frame))
}

/// Names the end of a wait.
fn timely(error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::AGAIN => {
            io::Error::new(io::ErrorKind::TimedOut, "the other process does not answer")
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt as _;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one, PATIENCE).unwrap(), Channel::new(other, PATIENCE).unwrap())
    }

    #[test]
    fn frames_and_sockets_arrive_whole_and_in_order() {
        let (mut one, mut other) = pair();
        let listeners: Vec<_> =
            (0..70).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sender = std::thread::spawn(move || {
            one.send(b"first", &[]).unwrap();
            for some in listeners.chunks(MOST_SOCKETS) {
                let sockets: Vec<_> = some.iter().map(|one| one.as_fd()).collect();
                one.send(b"sockets", &sockets).unwrap();
            }
            one.send(&vec![7; 300_000], &[]).unwrap();
            listeners.iter().map(|one| one.local_addr().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(other.receive().unwrap(), b"first");
        assert_eq!(other.receive().unwrap(), b"sockets");
        assert_eq!(other.receive().unwrap(), b"sockets");
        assert_eq!(other.receive().unwrap(), vec![7; 300_000]);
        let sockets = other.take_sockets().into_iter().map(TcpListener::from);
        let addresses: Vec<_> = sockets.map(|one| one.local_addr().unwrap()).collect();
        assert_eq!(addresses, sender.join().unwrap());
        assert!(other.receive().unwrap_err().to_string().contains("closed the connection"));
    }

    #[test]
    fn a_peer_that_is_no_usher_or_silent_is_an_error() {
        let (mut one, mut other) = pair();
        one.send(b"x", &[]).unwrap();
        other.read = b"GET / HTTP/1.1\r\n".to_vec();
        assert!(other.receive().unwrap_err().to_string().contains("not an Usher"));
        let (_one, mut other) = pair();
        other.set_patience(Duration::from_millis(10)).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = std::env::temp_dir().join(format!("usher-takeover-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let check = |mode: u32| {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            check_folder(&folder.join("s")).map_err(|error| error.to_string())
        };
        assert_eq!(check(0o700), Ok(()));
        assert_eq!(check(0o755), Ok(()));
        for mode in [0o777, 0o770, 0o702, 0o1777] {
            assert!(check(mode).unwrap_err().contains("can be written by other users"), "{mode:o}");
        }
        assert!(check_folder(&folder.join("none/s")).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
