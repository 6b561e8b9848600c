//! Streams between Usher's side and a client of rustls, over real sockets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, HandshakeKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::test_ends::{
    TestRandom, client_config, localhost, pair, provider, server_config, sockets, suite, suites,
};
use super::{Established, HandshakeError, accept};

async fn write_in_pieces(
    writer: &mut (impl AsyncWrite + Unpin),
    data: &[u8],
    mut dice: TestRandom,
) {
    let mut rest = data;
    while !rest.is_empty() {
        let most = [10, 1000, 100_000][dice.below(3)];
        let (piece, after) = rest.split_at((1 + dice.below(most)).min(rest.len()));
        writer.write_all(piece).await.unwrap();
        if dice.below(2) == 0 {
            writer.flush().await.unwrap();
        }
        rest = after;
    }
    writer.shutdown().await.unwrap();
}

async fn read_in_pieces(reader: &mut (impl AsyncRead + Unpin), mut dice: TestRandom) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let most = [10, 1000, 100_000][dice.below(3)];
        let mut piece = vec![0; 1 + dice.below(most)];
        match reader.read(&mut piece).await.unwrap() {
            0 => return data,
            count => data.extend_from_slice(&piece[..count]),
        }
    }
}

#[tokio::test]
async fn data_in_random_pieces_is_the_same_at_both_ends_under_each_suite() {
    for (seed, suite) in (1..).zip(suites()) {
        let (server, client) = pair(suite).await;
        let mut dice = TestRandom::new(seed);
        let (up, down) = (dice.bytes(400_000), dice.bytes(400_000));
        let (mut server_reads, mut server_writes) = tokio::io::split(server);
        let (mut client_reads, mut client_writes) = tokio::io::split(client);
        let (_, _, came_up, came_down) = tokio::join!(
            write_in_pieces(&mut client_writes, &up, TestRandom::new(seed + 10)),
            write_in_pieces(&mut server_writes, &down, TestRandom::new(seed + 20)),
            read_in_pieces(&mut server_reads, TestRandom::new(seed + 30)),
            read_in_pieces(&mut client_reads, TestRandom::new(seed + 40)),
        );
        assert!(came_up == up && came_down == down, "{suite:?}");
        server_reads.unsplit(server_writes).assert_owns_nothing();
    }
}

#[tokio::test]
async fn for_a_slow_reader_one_write_is_kept_and_no_more() {
    let (mut server, mut client) = pair(suite(CipherSuite::TLS13_AES_128_GCM_SHA256)).await;
    let data = TestRandom::new(7).bytes(100_000);
    let mut sent = Vec::new();
    // Until the sockets are full.
    while let Poll::Ready(taken) = poll_once(|cx| Pin::new(&mut server).poll_write(cx, &data)) {
        sent.extend_from_slice(&data[..taken.unwrap()]);
        assert!(server.keeps() <= 80 * 1024);
    }
    assert!(poll_once(|cx| Pin::new(&mut server).poll_flush(cx)).is_pending());
    let end = async {
        server.write_all(b"the end").await.unwrap();
        server.shutdown().await.unwrap();
        server.assert_owns_nothing();
    };
    let mut came = Vec::new();
    let (_, count) = tokio::join!(end, client.read_to_end(&mut came));
    count.unwrap();
    sent.extend_from_slice(b"the end");
    assert!(came == sent);
}

#[tokio::test]
async fn an_alert_waits_its_turn_behind_data_that_is_blocked() {
    let (mut server, mut client) = pair(suite(CipherSuite::TLS13_AES_128_GCM_SHA256)).await;
    let data = TestRandom::new(8).bytes(100_000);
    let mut sent = Vec::new();
    while let Poll::Ready(taken) = poll_once(|cx| Pin::new(&mut server).poll_write(cx, &data)) {
        sent.extend_from_slice(&data[..taken.unwrap()]);
    }
    client.get_mut().0.write_all(&[&[23, 3, 3, 0, 20][..], &[0; 20]].concat()).await.unwrap();
    assert!(server.read(&mut [0; 64]).await.is_err());
    let mut came = Vec::new();
    let (ended, read) = tokio::join!(server.shutdown(), client.read_to_end(&mut came));
    ended.unwrap();
    let error = read.unwrap_err().to_string();
    assert!(error.contains("BadRecordMac"), "{error}");
    // The data that came with the alert is still in the client.
    let _ = io::Read::read_to_end(&mut client.get_mut().1.reader(), &mut came);
    assert!(came == sent);
}

fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(std::task::Waker::noop()))
}

/// A stream that sends each byte by itself.
struct OneByOne(TcpStream);

impl AsyncRead for OneByOne {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for OneByOne {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_client_may_send_byte_by_byte() {
    for suite in suites() {
        let (server, client) = sockets().await;
        let data = TestRandom::new(3).bytes(3000);
        let talk = async {
            let mut client = TlsConnector::from(client_config(suite))
                .connect(localhost(), OneByOne(client))
                .await
                .unwrap();
            client.write_all(&data).await.unwrap();
            client.shutdown().await.unwrap();
            client
        };
        let hear = async {
            let mut stream =
                accept(server, server_config(provider(suites()))).await.unwrap().stream;
            let mut came = Vec::new();
            stream.read_to_end(&mut came).await.unwrap();
            came
        };
        let (_client, came) = tokio::join!(talk, hear);
        assert!(came == data, "{suite:?}");
    }
}

#[tokio::test]
async fn keys_are_updated_a_thousand_times_in_mid_stream() {
    let (mut server, mut client) = pair(suite(CipherSuite::TLS13_AES_256_GCM_SHA384)).await;
    let mut buffer = [0; 64];
    for round in 0..1000_u32 {
        let said = round.to_be_bytes();
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&said).await.unwrap();
        let count = server.read(&mut buffer).await.unwrap();
        assert_eq!(buffer[..count], said);
        server.write_all(&said).await.unwrap();
        let count = client.read(&mut buffer).await.unwrap();
        assert_eq!(buffer[..count], said);
    }
    server.assert_owns_nothing();
}

#[tokio::test]
async fn a_flood_of_key_updates_ends_the_connection() {
    let (mut server, mut client) = pair(suite(CipherSuite::TLS13_AES_128_GCM_SHA256)).await;
    client.write_all(b"hello").await.unwrap();
    for _ in 0..40 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
    }
    client.flush().await.unwrap();
    let mut buffer = [0; 64];
    assert_eq!(server.read(&mut buffer).await.unwrap(), 5);
    assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(server);
    let error = client.read(&mut buffer).await.unwrap_err();
    assert!(error.to_string().contains("UnexpectedMessage"), "{error}");
}

#[tokio::test]
async fn a_spent_key_of_tls13_is_renewed_and_the_stream_goes_on() {
    for wanted in
        [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256]
    {
        let (mut server, mut client) = pair(suite(wanted)).await;
        let mut buffer = [0; 64];
        for round in 0..300_u32 {
            if round % 30 == 0 {
                server.seals_at_most(20);
            }
            server.write_all(&round.to_be_bytes()).await.unwrap();
            let count = client.read(&mut buffer).await.unwrap();
            assert_eq!(buffer[..count], round.to_be_bytes());
        }
        // The same in the middle of one big write.
        server.seals_at_most(20);
        let data = TestRandom::new(9).bytes(2_000_000);
        let written = async {
            server.write_all(&data).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let ((), count) = tokio::join!(written, client.read_to_end(&mut came));
        count.unwrap();
        assert!(came == data);
    }
}

#[tokio::test]
async fn a_spent_key_of_tls12_ends_the_stream_in_good_order() {
    let (mut server, mut client) =
        pair(suite(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)).await;
    server.seals_at_most(20);
    let mut sent = 0;
    while server.write_all(b"x").await.is_ok() {
        sent += 1;
    }
    server.shutdown().await.unwrap();
    let mut came = Vec::new();
    client.read_to_end(&mut came).await.unwrap();
    assert_eq!((came.len(), sent), (12, 12), "eight are for the goodbye");
}

#[tokio::test]
async fn a_goodbye_is_an_end_and_a_cut_is_none() {
    for suite in suites() {
        let (mut server, mut client) = pair(suite).await;
        server.write_all(b"last").await.unwrap();
        server.shutdown().await.unwrap();
        assert!(server.write_all(b"more").await.is_err());
        let mut came = Vec::new();
        client.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"last", "{suite:?}");
        // The other half stays open.
        client.write_all(b"still here").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 10);
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(server.read(&mut buffer).await.unwrap(), 0, "and it stays one");

        let (mut server, client) = pair(suite).await;
        drop(client);
        assert_eq!(
            server.read(&mut buffer).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}

#[tokio::test]
async fn the_second_session_is_resumed() {
    for suite in suites() {
        let (ours, theirs) =
            (server_config(provider(suites())), TlsConnector::from(client_config(suite)));
        for turn in 0..3 {
            let (server, client) = sockets().await;
            let (accepted, connected) = tokio::join!(
                accept(server, Arc::clone(&ours)),
                theirs.connect(localhost(), client)
            );
            let (Established { mut stream, resumed, .. }, mut client) =
                (accepted.unwrap(), connected.unwrap());
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            client.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(resumed, turn > 0, "{suite:?}");
            assert_eq!(
                client.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed),
                turn > 0
            );
        }
    }
}

#[tokio::test]
async fn a_client_that_is_asked_for_another_key_share_shakes_hands_in_two_turns() {
    let (server, client) = sockets().await;
    let suite = suite(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let ours = server_config(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::SECP384R1],
        ..provider(suites())
    });
    let connector = TlsConnector::from(client_config(suite));
    let (accepted, connected) =
        tokio::join!(accept(server, ours), connector.connect(localhost(), client));
    let (mut stream, mut client) = (accepted.unwrap().stream, connected.unwrap());
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(client.read(&mut [0; 64]).await.unwrap(), 5);
}

#[tokio::test]
async fn a_refused_client_is_told_why() {
    let (server, client) = sockets().await;
    let ours = server_config(provider(vec![suite(CipherSuite::TLS13_AES_256_GCM_SHA384)]));
    let connector = TlsConnector::from(client_config(suite(CipherSuite::TLS13_AES_128_GCM_SHA256)));
    let (accepted, connected) =
        tokio::join!(accept(server, ours), connector.connect(localhost(), client));
    assert!(matches!(accepted, Err(HandshakeError::Protocol(_))));
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("HandshakeFailure"), "{error}");
}
