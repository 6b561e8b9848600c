//! The end of a listening socket: connections in the kernel's queue are accepted before it closes.
//!
//! A client in the queue is already connected, and closing the socket would reset it. New
//! connections are turned away first, so that none enters the queue between the last accept and the
//! close.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::time::sleep;

use super::is_peer_error;

/// The wait for clients whose handshake with the kernel is half done.
const SETTLE: Duration = Duration::from_millis(200);
/// The most connections that one pass over the queue accepts; there are two passes. This bounds a
/// pass even if new connections cannot be turned away.
const MOST: usize = 8192;

/// Drops packets that open a connection (SYN) and lets all others pass. The client's kernel sends
/// its SYN again after a second, and finds a closed port, or the process that has taken over.
fn no_syn() -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        // A listening socket gets no SYN with an ACK.
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// Accepts the queued connections, and then closes the socket.
pub async fn empty(listener: TcpListener, mut admit: impl FnMut(TcpStream, SocketAddr)) {
    // If the kernel takes no filter, a client that connects in the last moment is reset.
    let _ = SockRef::from(&listener).attach_filter(&no_syn());
    accept_all(&listener, &mut admit);
    sleep(SETTLE).await;
    accept_all(&listener, &mut admit);
}

fn accept_all(listener: &TcpListener, admit: &mut impl FnMut(TcpStream, SocketAddr)) {
    for _ in 0..MOST {
        match listener.accept() {
            Ok((stream, peer)) => admit(stream, peer),
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_peer_error(&error) => {}
            // The queue is empty, or there are no descriptors for what is in it.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_queued_is_accepted_and_nothing_comes_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut accepted = Vec::new();
        let emptied = empty(listener, |stream, _| accepted.push(stream));
        let (late, ()) =
            tokio::join!(tokio::task::spawn_blocking(move || TcpStream::connect(address)), emptied);
        assert!(
            late.unwrap().is_err() || accepted.len() == clients.len() + 1,
            "it got in before the filter, or not at all"
        );
        assert!(accepted.len() >= clients.len());
    }
}
