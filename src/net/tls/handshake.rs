//! The server's side of a TLS handshake.
//!
//! rustls makes all decisions. This module moves its bytes, and takes over its keys at the end.
//! From then on nothing of the handshake is held in memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::acme;
use super::record::{HEADER, MOST_BODY};
use super::server::{HTTP2, MissingCertificate, take_missing_certificate, take_named_host};
use super::stream::{Beginning, TlsStream};
use crate::config::TlsVersion;
use crate::model::client_certificate::ClientCertificate;
use crate::net::stream::{read_behind, with_scratch};

/// The most bytes that a client may send in a handshake. Some of them are held twice, as received
/// and in rustls, within the published 64 KiB of a stranger. Certificate chains are half as long,
/// also those with post-quantum signatures.
const MOST_INCOMING: usize = 32 * 1024;
const READ_SIZE: usize = 4 * 1024;
/// From `change_cipher_spec` to `application_data`.
const RECORD_KINDS: std::ops::RangeInclusive<u8> = 20..=23;
/// Alerts of RFC 8446 section 6.2.
const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const DECODE_ERROR: u8 = 50;
/// For how long, and for how many bytes, Usher reads from a refused client after the alert.
const LINGER: Duration = Duration::from_secs(1);
const MOST_LINGERED: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    #[error("no certificate was issued for this name yet")]
    NotIssued,
    #[error("no challenge is pending for this name")]
    NoChallenge,
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// An established connection, whether it resumes an earlier one, and the client's certificate.
#[derive(Debug)]
pub struct Established {
    pub stream: TlsStream,
    pub resumed: bool,
    /// Verified. A resumed connection has the certificate of the full handshake, which its ticket
    /// carries.
    pub certificate: Option<ClientCertificate>,
    pub version: Option<TlsVersion>,
    /// The client and Usher have agreed on HTTP/2.
    pub is_http2: bool,
    /// The host that the client named.
    pub server_name: Option<Box<str>>,
    /// The handshake checked a challenge, and its connection carries nothing.
    pub is_challenge: bool,
}

enum Step {
    Again,
    Read,
    Done,
}

pub async fn accept(
    mut tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Established, HandshakeError> {
    let mut connection = UnbufferedServerConnection::new(config)?;
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    // rustls gets one more record at a time, so that it never opens a record behind the handshake.
    // It would answer a key update there with its next key, and the hand-over would lose that
    // answer.
    let mut shown = 0;
    let mut server_name = None;
    let mut has_spoken = false;
    let mut received = 0;
    loop {
        let UnbufferedStatus { discard, state } =
            connection.process_tls_records(incoming.split_at_mut(shown).0);
        server_name = take_named_host().or(server_name);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut outgoing);
                Step::Again
            }
            // The bytes gather in `outgoing`, and are sent before the next read.
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Step::Again
            }
            Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
            Ok(ConnectionState::BlockedHandshake) => Step::Read,
            Ok(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) => {
                drop(incoming);
                let missing = take_missing_certificate();
                let unsaid = match error {
                    rustls::Error::PeerMisbehaved(_) => UNEXPECTED_MESSAGE,
                    _ => DECODE_ERROR,
                };
                refuse(tcp, connection, outgoing, alert_without_keys(has_spoken, unsaid)).await;
                return Err(match missing {
                    Some(MissingCertificate::NotIssued) => HandshakeError::NotIssued,
                    Some(MissingCertificate::NoChallenge) => HandshakeError::NoChallenge,
                    None => error.into(),
                });
            }
        };
        let discard = discard.min(shown);
        incoming.drain(..discard);
        shown -= discard;
        if incoming.is_empty() {
            incoming = Vec::new();
        }
        match step {
            Step::Again => {}
            Step::Done => break,
            Step::Read => {
                if let Some(length) = incoming.get(shown..).and_then(first_record) {
                    shown += length;
                    continue;
                }
                has_spoken |= !outgoing.is_empty();
                send(&mut tcp, &mut outgoing).await?;
                if received >= MOST_INCOMING {
                    drop((incoming, connection));
                    send_and_linger(tcp, alert_without_keys(has_spoken, RECORD_OVERFLOW)).await;
                    return Err(rustls::Error::PeerSentOversizedRecord.into());
                }
                // A vector that grows by itself would hold up to twice as much.
                let mut bytes = Vec::new();
                let count = read_behind(&mut tcp, &mut bytes, READ_SIZE).await?;
                if count == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                received += count;
                incoming.reserve_exact(count);
                incoming.append(&mut bytes);
            }
        }
    }
    let is_challenge = connection.alpn_protocol() == Some(acme::ALPN);
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.map(|leaf| ClientCertificate::new(leaf.clone().into_owned()));
    let is_http2 = connection.alpn_protocol() == Some(HTTP2);
    let (secrets, connection) = connection.dangerous_into_kernel_connection()?;
    let version = match connection.protocol_version() {
        rustls::ProtocolVersion::TLSv1_2 => Some(TlsVersion::Tls12),
        rustls::ProtocolVersion::TLSv1_3 => Some(TlsVersion::Tls13),
        _ => None,
    };
    if version != Some(TlsVersion::Tls13) {
        // In TLS 1.2 the client waits for the end of the handshake. In TLS 1.3 only the session
        // ticket is left, and it goes out with the first answer.
        send(&mut tcp, &mut outgoing).await?;
    }
    let beginning = Beginning { sealed: incoming, outgoing };
    let stream = TlsStream::new(tcp, secrets, connection, &beginning)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Established { stream, resumed, certificate, version, is_http2, server_name, is_challenge })
}

/// Returns the length of the record at the start, once it is whole. Bytes that cannot be a record
/// are passed on as they are: rustls reports the fault.
fn first_record(bytes: &[u8]) -> Option<usize> {
    let &[kind, major, _, high, low] = bytes.first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !RECORD_KINDS.contains(&kind) || major != 3 || length > MOST_BODY {
        return Some(bytes.len());
    }
    (HEADER + length <= bytes.len()).then_some(HEADER + length)
}

fn encode(
    mut data: EncodeTlsData<'_, rustls::server::ServerConnectionData>,
    outgoing: &mut Vec<u8>,
) {
    let start = outgoing.len();
    // The error says how much room is needed.
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        data.encode(&mut [])
    {
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

/// Returns an alert in plain text that rustls does not send itself. After the server's first answer
/// it would have to be encrypted, and rustls does not encrypt alerts of its caller.
fn alert_without_keys(has_spoken: bool, alert: u8) -> Vec<u8> {
    if has_spoken { Vec::new() } else { vec![21, 3, 3, 0, 2, 2, alert] }
}

/// Sends the alert that rustls has ready, or `unsaid` if it has none, and closes so that the client
/// can read it.
async fn refuse(
    tcp: TcpStream,
    mut connection: UnbufferedServerConnection,
    mut outgoing: Vec<u8>,
    unsaid: Vec<u8>,
) {
    // Takes only rustls' output and shows no input: rustls may hold positions in bytes that it does
    // not get again.
    while connection.wants_write()
        && let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
            connection.process_tls_records(&mut [])
    {
        encode(data, &mut outgoing);
    }
    if outgoing.is_empty() {
        outgoing = unsaid;
    }
    // The client may go on sending for a second. The handshake's memory is freed before that.
    drop(connection);
    send_and_linger(tcp, outgoing).await;
}

async fn send_and_linger(mut tcp: TcpStream, mut last: Vec<u8>) {
    if send(&mut tcp, &mut last).await.is_ok() && tcp.shutdown().await.is_ok() {
        let _ = timeout(LINGER, discard(&tcp)).await;
    }
}

/// Reads until the client closes. Closing over unread bytes would reset the connection, and the
/// alert would be lost.
async fn discard(tcp: &TcpStream) -> io::Result<()> {
    let mut discarded = 0;
    while discarded < MOST_LINGERED {
        tcp.readable().await?;
        match with_scratch(|scratch| tcp.try_read(scratch)) {
            Ok(0) => break,
            Ok(count) => discarded += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
