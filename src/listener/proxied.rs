//! Reads the PROXY header at the start of a connection.

use std::io;
use std::net::IpAddr;

use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout_at};

use super::events::{ProxyHeaderRead, ProxyHeaderRefused, ProxyOutcome};
use crate::net::proxy_protocol::{self, HeaderProgress, ProxyFault, ProxyHeader};
use crate::net::stream::read_behind;
use crate::telemetry::Event;

/// Reads the header, and no byte behind it. Returns `None` if the connection must close, which is
/// reported here. A refused peer gets no answer: it does not speak the protocol, or has no right
/// to.
pub async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    socket: IpAddr,
    deadline: Instant,
) -> Option<ProxyHeader> {
    let (reason, detail) = match timeout_at(deadline, read(stream)).await {
        Ok(Ok(header)) => {
            let client = header.addresses.map(|ends| ends.source.ip().to_canonical());
            ProxyHeaderRead { peer: socket, client }.emit();
            return Some(header);
        }
        Ok(Err(HeaderError::Fault(fault))) => (outcome(fault), fault.to_string()),
        Ok(Err(HeaderError::Gone(error))) => (ProxyOutcome::Gone, error.to_string()),
        Err(_) => (ProxyOutcome::Timeout, "no whole header within head_timeout".to_owned()),
    };
    ProxyHeaderRefused { peer: socket, reason, detail: &detail }.emit();
    None
}

#[derive(Debug, thiserror::Error)]
enum HeaderError {
    #[error(transparent)]
    Fault(#[from] ProxyFault),
    #[error(transparent)]
    Gone(#[from] io::Error),
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<ProxyHeader, HeaderError> {
    let mut bytes = Vec::new();
    loop {
        match proxy_protocol::read(&bytes)? {
            HeaderProgress::Whole { header, .. } => return Ok(header),
            HeaderProgress::Needs(missing) => {
                if read_behind(stream, &mut bytes, missing).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
}

fn outcome(fault: ProxyFault) -> ProxyOutcome {
    match fault {
        ProxyFault::NotProxy | ProxyFault::Malformed(_) => ProxyOutcome::Malformed,
        ProxyFault::TooLarge => ProxyOutcome::TooLarge,
        ProxyFault::Checksum => ProxyOutcome::Checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SOCKET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const LINE: &[u8] = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";

    fn in_a_second() -> Instant {
        Now::read().mono + Duration::from_secs(1)
    }

    #[tokio::test]
    async fn no_byte_behind_the_header_is_read() {
        for header in [LINE, b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
            let (mut client, mut server) = duplex(1024);
            client.write_all(&[header, b"GET / HTTP/1.1"].concat()).await.unwrap();
            drop(client);
            assert!(read_header(&mut server, SOCKET, in_a_second()).await.is_some());
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"GET / HTTP/1.1");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_never_ends_ends_at_the_deadline() {
        let (mut client, mut server) = duplex(1024);
        let started = Now::read().mono;
        let trickle = tokio::spawn(async move {
            for byte in LINE.iter().take(30) {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(read_header(&mut server, SOCKET, in_a_second()).await.is_none());
        let took = Now::read().mono - started;
        assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1_100), "{took:?}");
        trickle.abort();
    }

    #[tokio::test]
    async fn a_peer_that_leaves_or_speaks_something_else_is_refused_at_once() {
        for sent in [&b""[..], b"P", b"PROXY TCP4 1", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"] {
            let (mut client, mut server) = duplex(1024);
            client.write_all(sent).await.unwrap();
            client.shutdown().await.unwrap();
            assert!(read_header(&mut server, SOCKET, in_a_second()).await.is_none(), "{sent:?}");
        }
    }
}
