//! The hand-over: bytes that arrive with the end of the handshake, before it, and instead of it.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::test_ends::{
    TestRandom, client_config, localhost, provider, server_config, sockets, suites,
};
use super::{Established, HandshakeError, accept};

/// Runs the client's side up to its last handshake message. Returns the bytes of that message
/// unsent.
async fn shake_to_the_last_word(
    config: &Arc<ClientConfig>,
    tcp: &mut TcpStream,
) -> (ClientConnection, Vec<u8>) {
    let mut connection = ClientConnection::new(Arc::clone(config), localhost()).unwrap();
    loop {
        let mut wire = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut wire).unwrap();
        }
        if !connection.is_handshaking() {
            return (connection, wire);
        }
        tcp.write_all(&wire).await.unwrap();
        // A client of TLS 1.2 sends the last message only when it resumes.
        let mut came = vec![0; 16 * 1024];
        let count = tcp.read(&mut came).await.unwrap();
        assert!(count > 0);
        connection.read_tls(&mut &came[..count]).unwrap();
        connection.process_new_packets().unwrap();
    }
}

async fn read_all(connection: &mut ClientConnection, tcp: &mut TcpStream) -> Vec<u8> {
    let (mut wire, mut data) = (Vec::new(), Vec::new());
    tcp.read_to_end(&mut wire).await.unwrap();
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        connection.read_tls(&mut wire).unwrap();
        connection.process_new_packets().unwrap();
        let _ = connection.reader().read_to_end(&mut data);
    }
    data
}

#[tokio::test]
async fn what_comes_with_the_clients_last_word_is_neither_lost_nor_doubled() {
    let mut dice = TestRandom::new(5);
    for suite in suites() {
        let (ours, theirs) = (server_config(provider(suites())), client_config(suite));
        for turn in 0..12 {
            let (server, mut client) = sockets().await;
            let said = dice.bytes([0, 1, 500, 17_000, 60_000][turn % 5]);
            let (goodbye, updates) = (
                turn % 2 == 0,
                turn % 3 == 0 && suite.version().version == ProtocolVersion::TLSv1_3,
            );
            let most = [1_000_000, 1, 7, 3000][turn % 4];
            let mut pieces = TestRandom::new(turn as u64);
            let talk = async {
                let (mut connection, mut wire) = shake_to_the_last_word(&theirs, &mut client).await;
                let (first, second) = said.split_at(said.len() / 2);
                for half in [first, second] {
                    connection.writer().write_all(half).unwrap();
                    if updates {
                        connection.refresh_traffic_keys().unwrap();
                    }
                }
                if goodbye {
                    connection.send_close_notify();
                }
                while connection.wants_write() {
                    connection.write_tls(&mut wire).unwrap();
                }
                let mut rest = wire.as_slice();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at((1 + pieces.below(most)).min(rest.len()));
                    client.write_all(piece).await.unwrap();
                    rest = after;
                }
                let data = read_all(&mut connection, &mut client).await;
                (data, connection.handshake_kind())
            };
            let hear = async {
                let Established { mut stream, resumed, .. } =
                    accept(server, Arc::clone(&ours)).await.unwrap();
                let mut came = vec![0; said.len()];
                stream.read_exact(&mut came).await.unwrap();
                if goodbye {
                    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
                }
                stream.write_all(b"an answer").await.unwrap();
                stream.shutdown().await.unwrap();
                // Kept open: the client may not have sent its last key update yet.
                (came, resumed, stream)
            };
            let ((answer, kind), (came, resumed, _stream)) = tokio::join!(talk, hear);
            assert!(came == said, "{suite:?} {turn}");
            assert_eq!(answer, b"an answer", "{suite:?} {turn}");
            assert_eq!(resumed, kind == Some(rustls::HandshakeKind::Resumed));
            assert_eq!(resumed, turn > 0, "{suite:?} {turn}");
        }
    }
}

/// Returns the answer to bytes that are not a handshake, and the error of the handshake.
async fn answer_to(said: &[u8]) -> (Vec<u8>, HandshakeError) {
    let (server, mut client) = sockets().await;
    // The client closes as soon as it has read the end.
    let talk = async move {
        client.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (accepted, answer) = tokio::join!(accept(server, server_config(provider(suites()))), talk);
    (answer, accepted.unwrap_err())
}

const FATAL_UNEXPECTED: [u8; 4] = [0, 2, 2, 10];
const FATAL_DECODE_ERROR: [u8; 4] = [0, 2, 2, 50];

#[tokio::test]
async fn garbage_is_answered_with_an_alert() {
    let mut two = vec![22, 3, 1, 0, 12];
    // A hello that cannot be read, and a whole message behind it in the same record.
    two.extend_from_slice(&[1, 0, 0, 2, 3, 3, 20, 0, 0, 2, 0, 0]);
    for (said, alert) in [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], FATAL_DECODE_ERROR),
        (&[22, 3, 1, 0xff, 0xff], FATAL_DECODE_ERROR),
        (&[22, 9, 9, 0, 1, 1], FATAL_DECODE_ERROR),
        (&[22, 3, 1, 0, 0], FATAL_DECODE_ERROR),
        (&[23, 3, 3, 0, 1, 1], FATAL_UNEXPECTED),
        (&[20, 3, 3, 0, 1, 1], FATAL_UNEXPECTED),
        (&[22, 3, 1, 0, 4, 20, 0, 0, 0], FATAL_UNEXPECTED),
        (&two, FATAL_DECODE_ERROR),
    ] {
        let (answer, error) = answer_to(said).await;
        assert!(matches!(error, HandshakeError::Protocol(_)), "{said:?}: {error}");
        assert!(
            answer.starts_with(&[21, 3]) && answer.ends_with(&alert),
            "{said:?}: {answer:?}, {error}"
        );
    }
}

#[tokio::test]
async fn the_alert_comes_though_more_was_sent_than_was_read() {
    let (answer, _) = answer_to(&[b'x'; 60_000]).await;
    assert!(answer.ends_with(&FATAL_DECODE_ERROR), "{answer:?}");
}

#[tokio::test]
async fn the_alert_reaches_a_client_that_goes_on_sending() {
    let (server, mut client) = sockets().await;
    let talk = async move {
        // The length of this hello is refused at once, and the client does not know it yet.
        client.write_all(&[22, 3, 1, 0, 4, 1, 1, 0, 0]).await.unwrap();
        let mut first = [0; 7];
        client.read_exact(&mut first).await.unwrap();
        for _ in 0..8 {
            client.write_all(&[b'x'; 8 * 1024]).await.unwrap();
        }
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        first
    };
    let (accepted, alert) = tokio::join!(accept(server, server_config(provider(suites()))), talk);
    assert!(matches!(accepted, Err(HandshakeError::Protocol(_))));
    assert!(alert.starts_with(&[21, 3]) && alert.ends_with(&FATAL_DECODE_ERROR), "{alert:?}");
}

#[tokio::test]
async fn a_hello_without_an_end_is_not_gathered_for_ever() {
    let (server, mut client) = sockets().await;
    // A message of 65,535 bytes in records of one byte.
    let mut said = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    for _ in 0..60_000 {
        said.extend_from_slice(&[22, 3, 1, 0, 1, 0]);
    }
    let accepted = async {
        let error = accept(server, server_config(provider(suites()))).await.unwrap_err();
        assert!(
            matches!(error, HandshakeError::Protocol(rustls::Error::PeerSentOversizedRecord)),
            "{error}"
        );
    };
    let talk = async move {
        client.write_all(&said).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 22]);
    };
    tokio::join!(talk, accepted);
}

#[tokio::test]
async fn a_client_that_leaves_is_gone() {
    for said in [&b""[..], &[22, 3, 1, 0, 100, 1]] {
        let (server, mut client) = sockets().await;
        client.write_all(said).await.unwrap();
        drop(client);
        let accepted = accept(server, server_config(provider(suites()))).await;
        assert!(matches!(accepted, Err(HandshakeError::Gone(_))));
    }
}
