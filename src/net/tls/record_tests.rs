//! Records that an honest client never sends, and sealing for all forms and sizes.

use aws_lc_rs::aead::{AES_128_GCM, CHACHA20_POLY1305};
use proptest::prelude::*;
use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
};
use rustls::CipherSuite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
use rustls::ProtocolVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::TlsStream;
use super::record::{
    Content, HEADER, MOST_ADDED, MOST_PLAINTEXT, RecordError, RecordKey, split_first,
};
use super::test_ends::{pair, suite};

const FORMS: [CipherSuite; 4] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A client that sends any records after its handshake.
struct RawClient {
    tcp: TcpStream,
    seals: RecordKey,
    opens: RecordKey,
    came: Vec<u8>,
}

impl RawClient {
    async fn new(wanted: CipherSuite) -> (TlsStream, Self) {
        let suite = suite(wanted);
        let (server, client) = pair(suite).await;
        let (tcp, connection) = client.into_inner();
        let version = suite.version().version;
        let secrets = connection.dangerous_extract_secrets().unwrap();
        let key = |keys| RecordKey::new(version, keys).unwrap();
        (server, Self { tcp, seals: key(secrets.tx), opens: key(secrets.rx), came: Vec::new() })
    }

    fn sealed(&mut self, content: Content, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; data.len() + MOST_ADDED];
        let length = self.seals.seal(content, data, &mut out).unwrap();
        out.truncate(length);
        out
    }

    async fn send(&mut self, content: Content, data: &[u8]) {
        let wire = self.sealed(content, data);
        self.tcp.write_all(&wire).await.unwrap();
    }

    /// Returns the next record from the server that is not a session ticket.
    async fn receive(&mut self) -> (Content, Vec<u8>) {
        loop {
            let mut bytes = self.came.as_slice();
            if let Some(record) = split_first(&mut bytes).unwrap() {
                let mut out = vec![0; record.room()];
                let (content, length) = self.opens.open(record, &mut out).unwrap();
                out.truncate(length);
                self.came = bytes.to_vec();
                if !(content == Content::Handshake && out.first() == Some(&4)) {
                    return (content, out);
                }
            } else {
                let mut more = vec![0; 4096];
                let count = self.tcp.read(&mut more).await.unwrap();
                assert!(count > 0);
                self.came.extend_from_slice(&more[..count]);
            }
        }
    }
}

/// Asserts that data is read first, then the error follows, and the client gets its alert.
async fn assert_refused(mut server: TlsStream, mut client: RawClient, error: RecordError) {
    let mut buffer = vec![0; 32 * 1024];
    let found = loop {
        match server.read(&mut buffer).await {
            Ok(count) => assert!(count > 0, "{error}"),
            Err(found) => break found,
        }
    };
    assert_eq!(found.get_ref().and_then(|found| found.downcast_ref::<RecordError>()), Some(&error));
    assert!(server.read(&mut buffer).await.is_err(), "and it stays one");
    assert!(server.write_all(b"more").await.is_err());
    if let Some(alert) = error.alert() {
        assert_eq!(client.receive().await, (Content::Alert, vec![2, alert]));
    }
}

#[tokio::test]
async fn odd_records_are_refused_with_the_right_alert_in_tls13() {
    let whole = vec![7; MOST_PLAINTEXT];
    let over = vec![7; MOST_PLAINTEXT + 1];
    let padding = |count: usize| [&[23][..], &vec![0; count]].concat();
    let table: [(u8, &[u8], &[u8], RecordError); 21] = [
        (23, &over, &[23], RecordError::TooLarge),
        (23, &whole, &padding(1), RecordError::TooLarge),
        (23, b"", &[0; 100], RecordError::Unexpected),
        (23, b"", &[20], RecordError::Unexpected),
        (23, b"x", &[24], RecordError::Unexpected),
        (22, b"x", &[23], RecordError::Unexpected),
        (23, b"", &[21], RecordError::Unexpected),
        (23, &[1], &[21], RecordError::Malformed),
        (23, &[1, 0, 0], &[21], RecordError::Malformed),
        (23, &[2, 40], &[21], RecordError::Alert(40)),
        (23, &[1, 40], &[21], RecordError::Alert(40)),
        (23, b"", &[22], RecordError::Unexpected),
        (23, &[1, 0, 0, 0], &[22], RecordError::Unexpected),
        (23, &[24, 0, 0, 1, 2], &[22], RecordError::Illegal),
        (23, &[24, 0, 0, 0], &[22], RecordError::Malformed),
        (23, &[24, 0, 0, 2, 0, 0], &[22], RecordError::Malformed),
        (23, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], &[22], RecordError::Unexpected),
        (20, &[1], &[], RecordError::Unexpected),
        (24, &[1], &[], RecordError::Unexpected),
        (99, &[1], &[], RecordError::Unexpected),
        (23, &[7; 17_000], &[23], RecordError::TooLarge),
    ];
    for (kind, data, after, error) in table {
        let (server, mut client) = RawClient::new(TLS13_AES_128_GCM_SHA256).await;
        client.send(Content::ApplicationData, b"before").await;
        let wire = client.seals.seal_odd(kind, data, after);
        client.tcp.write_all(&wire).await.unwrap();
        assert_refused(server, client, error).await;
    }
}

#[tokio::test]
async fn odd_records_are_refused_with_the_right_alert_in_tls12() {
    let over = vec![7; MOST_PLAINTEXT + 1];
    let table: [(u8, &[u8], RecordError); 10] = [
        (23, &over, RecordError::TooLarge),
        (20, &[1], RecordError::Unexpected),
        (24, &[1], RecordError::Unexpected),
        // Only a whole hello that stands alone is answered with a warning.
        (22, &[1, 0, 0, 1], RecordError::Unexpected),
        (22, &[1, 0, 0, 0, 0], RecordError::Unexpected),
        (22, &[24, 0, 0, 1, 0], RecordError::Unexpected),
        (21, &[], RecordError::Unexpected),
        (21, &[2], RecordError::Malformed),
        (21, &[2, 80], RecordError::Alert(80)),
        (21, &[3, 80], RecordError::Alert(80)),
    ];
    for wanted in
        [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]
    {
        for (kind, data, error) in table {
            let (server, mut client) = RawClient::new(wanted).await;
            client.send(Content::ApplicationData, b"before").await;
            let wire = client.seals.seal_odd(kind, data, &[]);
            client.tcp.write_all(&wire).await.unwrap();
            assert_refused(server, client, error).await;
        }
    }
}

#[tokio::test]
async fn a_record_that_was_touched_cut_or_repeated_is_refused() {
    for wanted in FORMS {
        for damage in 0..5 {
            let (server, mut client) = RawClient::new(wanted).await;
            let mut wire = client.sealed(Content::ApplicationData, b"some data");
            match damage {
                0 => *wire.last_mut().unwrap() ^= 1,
                1 => wire[HEADER] ^= 0x80,
                2 => wire = [&wire[..], &wire].concat(),
                3 => wire = vec![23, 3, 3, 0, 5, 1, 2, 3, 4, 5],
                // The content type is authenticated too.
                _ => wire[0] = 22,
            }
            client.tcp.write_all(&wire).await.unwrap();
            assert_refused(server, client, RecordError::Undecryptable).await;
        }
    }
}

#[tokio::test]
async fn a_flood_of_records_that_carry_nothing_is_refused() {
    for wanted in FORMS {
        for (content, data) in [(Content::ApplicationData, &[][..]), (Content::Alert, &[1, 90])] {
            let (server, mut client) = RawClient::new(wanted).await;
            for _ in 0..32 {
                client.send(content, data).await;
            }
            client.send(Content::ApplicationData, b"some data").await;
            for _ in 0..33 {
                client.send(content, data).await;
            }
            assert_refused(server, client, RecordError::TooManyIdle).await;
        }
    }
}

#[tokio::test]
async fn a_warning_of_tls12_is_let_pass() {
    let (mut server, mut client) = RawClient::new(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).await;
    client.send(Content::Alert, &[1, 41]).await;
    client.send(Content::ApplicationData, b"hello").await;
    assert_eq!(server.read(&mut [0; 64]).await.unwrap(), 5);
}

#[tokio::test]
async fn another_handshake_of_tls12_is_refused_and_the_connection_goes_on() {
    let (mut server, mut client) = RawClient::new(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).await;
    client.send(Content::Handshake, &[1, 0, 0, 2, 3, 3]).await;
    client.send(Content::ApplicationData, b"hello").await;
    assert_eq!(server.read(&mut [0; 64]).await.unwrap(), 5);
    assert_eq!(client.receive().await, (Content::Alert, vec![1, 100]));
    server.write_all(b"an answer").await.unwrap();
    assert_eq!(client.receive().await, (Content::ApplicationData, b"an answer".to_vec()));
    for _ in 0..33 {
        client.send(Content::Handshake, &[1, 0, 0, 2, 3, 3]).await;
    }
    let mut buffer = [0; 64];
    let error = server.read(&mut buffer).await.unwrap_err();
    assert!(error.to_string().contains("carry no data"), "{error}");
}

#[tokio::test]
async fn nothing_is_delivered_behind_a_goodbye() {
    for wanted in FORMS {
        let (mut server, mut client) = RawClient::new(wanted).await;
        let mut wire = client.sealed(Content::ApplicationData, b"before");
        wire.extend(client.sealed(Content::Alert, &[1, 0]));
        wire.extend(client.sealed(Content::ApplicationData, b"behind"));
        client.tcp.write_all(&wire).await.unwrap();
        let mut came = Vec::new();
        server.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"before");
        server.flush().await.unwrap();
        server.assert_owns_nothing();
    }
}

#[tokio::test]
async fn a_key_update_in_pieces_is_answered_before_the_next_data() {
    let (mut server, mut client) = RawClient::new(TLS13_AES_128_GCM_SHA256).await;
    client.send(Content::ApplicationData, b"hello").await;
    for piece in [&[24][..], &[0, 0], &[1], &[1]] {
        client.send(Content::Handshake, piece).await;
    }
    let mut buffer = [0; 64];
    assert_eq!(server.read(&mut buffer).await.unwrap(), 5);
    // The pieces may not be read yet: a task that waits for data reads them.
    assert!(tokio::select! {
        biased;
        _ = server.read(&mut buffer) => false,
        () = tokio::task::yield_now() => true,
    });
    server.write_all(b"an answer").await.unwrap();
    assert_eq!(client.receive().await, (Content::Handshake, vec![24, 0, 0, 1, 0]));

    let (server, mut client) = RawClient::new(TLS13_AES_128_GCM_SHA256).await;
    client.send(Content::Handshake, &[24, 0]).await;
    client.send(Content::ApplicationData, b"in between").await;
    assert_refused(server, client, RecordError::Unexpected).await;
}

#[tokio::test]
async fn padding_is_taken_off_however_much_there_is() {
    let (mut server, mut client) = RawClient::new(TLS13_CHACHA20_POLY1305_SHA256).await;
    let mut buffer = vec![0; 32 * 1024];
    for (data, padding) in [(1, 0), (1, 1), (5, 16_379), (16_000, 384), (MOST_PLAINTEXT, 0)] {
        let wire =
            client.seals.seal_odd(23, &vec![7; data], &[&[23][..], &vec![0; padding]].concat());
        client.tcp.write_all(&wire).await.unwrap();
        server.read_exact(&mut buffer[..data]).await.unwrap();
    }
    server.flush().await.unwrap();
    server.assert_owns_nothing();
}

fn key(form: usize) -> RecordKey {
    let version = if form < 2 { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
    let algorithm = if form.is_multiple_of(2) { &AES_128_GCM } else { &CHACHA20_POLY1305 };
    RecordKey::of(version, algorithm, 0, &vec![9; algorithm.key_len()], [5; 12]).unwrap()
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened_again(
        form in 0_usize..4,
        sizes in prop::collection::vec(0..=MOST_PLAINTEXT, 1..6),
        kind in 0_usize..3,
    ) {
        let (mut seals, mut opens) = (key(form), key(form));
        let content = [Content::ApplicationData, Content::Alert, Content::Handshake][kind];
        let mut nonces = std::collections::HashSet::new();
        for size in sizes {
            let data: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut out = vec![0; size + MOST_ADDED];
            let length = seals.seal(content, &data, &mut out).unwrap();
            prop_assert!(nonces.insert(out[HEADER..(HEADER + 16).min(length)].to_vec()));
            let mut bytes = &out[..length];
            let record = split_first(&mut bytes).unwrap().unwrap();
            prop_assert!(bytes.is_empty());
            let mut opened = vec![0; record.room()];
            let (found, count) = opens.open(record, &mut opened).unwrap();
            prop_assert_eq!((found, &opened[..count]), (content, &data[..]));
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_opened_nor_do_they_panic(
        form in 0_usize..4,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        header in prop::option::of((20_u8..25, 0_u8..64)),
    ) {
        let mut key = key(form);
        let mut wire = header.map(|(kind, length)| vec![kind, 3, 3, 0, length]).unwrap_or_default();
        wire.extend(bytes);
        let mut rest = wire.as_slice();
        while let Ok(Some(record)) = split_first(&mut rest) {
            prop_assert!(key.open(record, &mut vec![0; record.room()]).is_err());
        }
    }

    #[test]
    fn sealing_needs_its_room(form in 0_usize..4, room in 0_usize..40) {
        let mut key = key(form);
        let sealed = key.seal(Content::ApplicationData, b"0123456789", &mut vec![0; room]);
        prop_assert!(sealed.is_err() || sealed.unwrap() <= room);
    }
}
