//! TLS records: a sealed record opens to its plaintext, and no other record opens.
//!
//! The first bytes choose the cipher, the content type, the length, and the place of a change. The
//! rest is the plaintext, repeated up to the length. Records are also made without `record.rs`, by
//! RFC 8446 section 5.2, with padding and types that an honest peer does not send.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ProtocolVersion;
use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};

use usher::net::tls::record::{
    Content, MOST_ADDED, MOST_PLAINTEXT, RecordError, RecordKey, length_of_first, split_first,
};

const CIPHERS: [(ProtocolVersion, &Algorithm); 6] = [
    (TLSv1_3, &AES_128_GCM),
    (TLSv1_3, &AES_256_GCM),
    (TLSv1_3, &CHACHA20_POLY1305),
    (TLSv1_2, &AES_128_GCM),
    (TLSv1_2, &AES_256_GCM),
    (TLSv1_2, &CHACHA20_POLY1305),
];
const CONTENTS: [Content; 3] = [Content::Alert, Content::Handshake, Content::ApplicationData];
const SECRET: [u8; 32] = [7; 32];
const IV: [u8; 12] = [9; 12];

type Opened = Result<(Content, Vec<u8>), RecordError>;

pub fn run(bytes: &[u8]) {
    check_splits(bytes);
    let Some(([cipher, content, high, low, place, change, sequence], plaintext)) =
        bytes.split_first_chunk()
    else {
        return;
    };
    let cipher = CIPHERS[usize::from(*cipher) % CIPHERS.len()];
    let content = CONTENTS[usize::from(*content) % CONTENTS.len()];
    let sequence = u64::from(*sequence);
    let length = usize::from(u16::from_be_bytes([*high, *low])) % (MOST_PLAINTEXT + 3);
    let plaintext: Vec<u8> = plaintext.iter().copied().cycle().take(length).collect();

    let sealed = check_round_trip(cipher, content, sequence, &plaintext);
    check_tampered(cipher, sequence, &sealed, usize::from(*place), *change);
    // The bytes themselves are not a sealed record.
    assert!(open(&mut key(cipher, sequence), bytes).is_err(), "a record that was not sealed opens");
    if cipher.0 == TLSv1_3 {
        check_inner(cipher, sequence, &plaintext);
    }
}

/// Checks that the length of the first record does not change when more bytes arrive.
fn check_splits(bytes: &[u8]) {
    let mut rest = bytes;
    let first = split_first(&mut rest).map(|record| record.is_some());
    let length = length_of_first(bytes);
    match (&first, &length) {
        (Ok(true), Ok(Some(length))) => assert_eq!(bytes.len() - rest.len(), *length),
        (Ok(false), Ok(length)) => assert!(length.is_none_or(|length| length > bytes.len())),
        (Err(one), Err(other)) => assert_eq!(one, other),
        other => panic!("two readings of a record's length: {other:?}"),
    }
    for end in 0..bytes.len().min(16) {
        let early = length_of_first(&bytes[..end]);
        assert!(early == Ok(None) || early == length, "the length changes with more bytes");
    }
}

fn check_round_trip(
    cipher: Cipher,
    content: Content,
    sequence: u64,
    plaintext: &[u8],
) -> [Vec<u8>; 2] {
    let (mut sealing, mut opening) = (key(cipher, sequence), key(cipher, sequence));
    // The second record has the next number.
    [(); 2].map(|()| {
        let mut sealed = vec![0; plaintext.len() + MOST_ADDED];
        let length = sealing.seal(content, plaintext, &mut sealed);
        sealed.truncate(length.expect("there is room for the record"));
        let opened = open(&mut opening, &sealed);
        if plaintext.len() > MOST_PLAINTEXT {
            assert_eq!(opened, Err(RecordError::TooLarge));
        } else {
            assert_eq!(opened, Ok((content, plaintext.to_vec())), "not what was sealed");
        }
        sealed
    })
}

fn check_tampered(
    cipher: Cipher,
    sequence: u64,
    [first, second]: &[Vec<u8>; 2],
    place: usize,
    change: u8,
) {
    let refused = |what: &str, record: &[u8]| {
        assert!(open(&mut key(cipher, sequence), record).is_err(), "{what} opens");
    };
    refused("the second record in place of the first", second);
    let mut again = key(cipher, sequence);
    let _ = open(&mut again, first);
    assert!(open(&mut again, first).is_err(), "a record opens twice");
    let other = (cipher.0, cipher.1, sequence);
    assert!(open(&mut key_of(other, [8; 32]), first).is_err(), "another key opens it");
    if change != 0 {
        // Changes are made from both ends, so that they hit the header and the tag.
        for at in [place % first.len(), first.len() - 1 - place % first.len()] {
            let mut tampered = first.clone();
            tampered[at] ^= change;
            refused("a changed record", &tampered);
        }
    }
    for cut in [1, place + 1] {
        let Some(body) = (first.len() - 5).checked_sub(cut) else { continue };
        let mut shorter = first[..5 + body].to_vec();
        shorter[3..5].copy_from_slice(&(body as u16).to_be_bytes());
        refused("a record without its end", &shorter);
    }
}

/// Checks the inner plaintext of TLS 1.3: content, a type that is not zero, then zeros (RFC 8446
/// section 5.4).
fn check_inner(cipher: Cipher, sequence: u64, inner: &[u8]) {
    let record = seal_13(cipher.1, sequence, inner);
    let opened = open(&mut key(cipher, sequence), &record);
    let end = inner.iter().rposition(|byte| *byte != 0);
    let expected = match end.map(|end| (inner[end], &inner[..end])) {
        _ if inner.len() > MOST_PLAINTEXT + 1 => Err(RecordError::TooLarge),
        Some((21, text)) => Ok((Content::Alert, text.to_vec())),
        Some((22, text)) => Ok((Content::Handshake, text.to_vec())),
        Some((23, text)) => Ok((Content::ApplicationData, text.to_vec())),
        _ => Err(RecordError::Unexpected),
    };
    assert_eq!(opened, expected, "two readings of what a record carries");
}

fn seal_13(algorithm: &'static Algorithm, sequence: u64, inner: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(
        UnboundKey::new(algorithm, &SECRET[..algorithm.key_len()]).expect("the key has its length"),
    );
    let number = (u128::from(sequence) ^ u128::from_be_bytes(padded(IV))).to_be_bytes();
    let nonce = Nonce::try_assume_unique_for_key(&number[4..]).expect("the nonce has its length");
    let [high, low] = (inner.len() as u16 + 16).to_be_bytes();
    let header = [23, 3, 3, high, low];
    let mut body = inner.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).expect("it can be sealed");
    [&header[..], &body].concat()
}

fn padded(iv: [u8; 12]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[4..].copy_from_slice(&iv);
    padded
}

type Cipher = (ProtocolVersion, &'static Algorithm);

fn key(cipher: Cipher, sequence: u64) -> RecordKey {
    key_of((cipher.0, cipher.1, sequence), SECRET)
}

fn key_of(
    (version, algorithm, sequence): (ProtocolVersion, &'static Algorithm, u64),
    secret: [u8; 32],
) -> RecordKey {
    let secret = &secret[..algorithm.key_len()];
    RecordKey::of(version, algorithm, sequence, secret, IV).expect("the key has its length")
}

fn open(key: &mut RecordKey, bytes: &[u8]) -> Opened {
    let mut rest = bytes;
    let record = split_first(&mut rest)?.ok_or(RecordError::Malformed)?;
    let mut out = vec![0; record.room()];
    let (content, length) = key.open(record, &mut out)?;
    out.truncate(length);
    Ok((content, out))
}
