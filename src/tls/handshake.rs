//! The server's side of a TLS handshake.
//!
//! rustls decides everything; here its words are carried, and what it made is taken over: from then on nothing of the
//! handshake is held in memory.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::record::{HEADER, MOST_BODY};
use super::stream::{Beginning, TlsStream};
use crate::auth::certificate::ClientCertificate;
use crate::stream::{read_behind, with_scratch};

/// No handshake is longer: rustls refuses a message of 64 KiB.
const MOST_INCOMING: usize = 96 * 1024;
const READ_SIZE: usize = 16 * 1024;
/// From `change_cipher_spec` to `application_data`.
const RECORD_KINDS: std::ops::RangeInclusive<u8> = 20..=23;
const MOST_READS_OF_REFUSED: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// An established connection, whether it goes on from an earlier one, and what the client has shown there or here.
#[derive(Debug)]
pub struct Established {
    pub stream: TlsStream,
    pub resumed: bool,
    /// Verified. A resumed connection has that of the full handshake, for its ticket carries it.
    pub certificate: Option<ClientCertificate>,
}

enum Step {
    Again,
    Read,
    Done,
}

pub async fn accept(mut tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Established, HandshakeError> {
    let mut connection = UnbufferedServerConnection::new(config)?;
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    // rustls sees one record more at a time, so that it never opens one that follows the handshake: a key update there would
    // be answered with the next key, and the answer lost at the hand-over.
    let mut shown = 0;
    loop {
        let UnbufferedStatus { discard, state } = connection.process_tls_records(incoming.split_at_mut(shown).0);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut outgoing);
                Step::Again
            }
            // It is sent before anything is waited for; until then it gathers.
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Step::Again
            }
            Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
            Ok(ConnectionState::BlockedHandshake) => Step::Read,
            Ok(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) => {
                refuse(tcp, connection, outgoing).await;
                return Err(error.into());
            }
        };
        let discard = discard.min(shown);
        incoming.drain(..discard);
        shown -= discard;
        match step {
            Step::Again => {}
            Step::Done => break,
            Step::Read => {
                if let Some(length) = incoming.get(shown..).and_then(first_record) {
                    shown += length;
                    continue;
                }
                send(&mut tcp, &mut outgoing).await?;
                if incoming.len() >= MOST_INCOMING {
                    return Err(rustls::Error::PeerSentOversizedRecord.into());
                }
                if read_behind(&mut tcp, &mut incoming, READ_SIZE).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.map(|leaf| ClientCertificate::new(leaf.clone().into_owned()));
    let (secrets, connection) = connection.dangerous_into_kernel_connection()?;
    if connection.protocol_version() != rustls::ProtocolVersion::TLSv1_3 {
        // The client waits for the end of the handshake. In TLS 1.3 nothing but the ticket for the next time is left, and that
        // goes with the first answer.
        send(&mut tcp, &mut outgoing).await?;
    }
    let beginning = Beginning { sealed: incoming, outgoing };
    let stream = TlsStream::new(tcp, secrets, connection, &beginning).map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Established { stream, resumed, certificate })
}

/// Where the record at the start ends, once it is whole. What cannot be one is shown as it is: rustls says what is wrong.
fn first_record(bytes: &[u8]) -> Option<usize> {
    let &[kind, major, _, high, low] = bytes.first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !RECORD_KINDS.contains(&kind) || major != 3 || length > MOST_BODY {
        return Some(bytes.len());
    }
    (HEADER + length <= bytes.len()).then_some(HEADER + length)
}

fn encode(mut data: EncodeTlsData<'_, rustls::server::ServerConnectionData>, outgoing: &mut Vec<u8>) {
    let start = outgoing.len();
    // It says how much it needs.
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) {
        outgoing.resize(start + required_size, 0);
        let written = data.encode(outgoing.split_at_mut(start).1).unwrap_or(0);
        outgoing.truncate(start + written);
    }
}

async fn send(tcp: &mut TcpStream, outgoing: &mut Vec<u8>) -> io::Result<()> {
    if !outgoing.is_empty() {
        tcp.write_all(outgoing).await?;
        *outgoing = Vec::new();
    }
    Ok(())
}

/// Says why not, as far as the socket takes it at once.
async fn refuse(mut tcp: TcpStream, mut connection: UnbufferedServerConnection, mut outgoing: Vec<u8>) {
    // Only what it has to say is asked for: it may hold places in bytes that it is not shown again.
    while connection.wants_write()
        && let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } = connection.process_tls_records(&mut [])
    {
        encode(data, &mut outgoing);
    }
    if send(&mut tcp, &mut outgoing).await.is_ok() && tcp.shutdown().await.is_ok() {
        // Closing over unread bytes would reset the connection, and the alert with it. Who sends for ever is not waited for.
        for _ in 0..MOST_READS_OF_REFUSED {
            if !with_scratch(|scratch| tcp.try_read(scratch)).is_ok_and(|count| count > 0) {
                break;
            }
        }
    }
}
