//! The id of one request, the same for the client, the log, the audit log and the upstream.
//!
//! An id is not a secret: it gives no access. It only has to be unique.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Now;

/// An id of 128 bits as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HexId([u8; 32]);

/// A request id, made by Usher or sent by a trusted peer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Origin);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Origin {
    Made(HexId),
    Given(Arc<str>),
}

impl RequestId {
    const MOST_GIVEN: usize = 128;

    pub fn random() -> Self {
        Self(Origin::Made(HexId::random()))
    }

    /// Accepts an id of 1 to 128 letters, digits, dots, underscores and hyphens. `None`: the text
    /// is not an id.
    pub fn given(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_good = (1..=Self::MOST_GIVEN).contains(&text.len()) && text.bytes().all(is_allowed);
        is_good.then(|| Self(Origin::Given(text.into())))
    }

    pub fn as_str(&self) -> &str {
        match &self.0 {
            Origin::Made(id) => id.as_str(),
            Origin::Given(id) => id,
        }
    }
}

impl HexId {
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        if aws_lc_rs::rand::fill(&mut bytes).is_err() {
            bytes = counted();
        }
        Self::from_bytes(bytes)
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Returns a number from 0 to 15, evenly distributed.
    pub fn first_digit(&self) -> usize {
        let [first, ..] = self.0;
        usize::from(if first <= b'9' { first - b'0' } else { first - b'a' + 10 })
    }
}

fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Returns bytes that are unique but not random, for a system that has no randomness.
fn counted() -> [u8; 16] {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 16];
    let (count, time) = bytes.split_at_mut(8);
    count.copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).reverse_bits().to_be_bytes());
    time.copy_from_slice(&Now::read().wall.0.to_be_bytes());
    bytes
}

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_bytes_in_hexadecimal() {
        let id = HexId::from_bytes([0xf0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        assert_eq!(id.as_str(), "f00102030405060708090a0b0c0d0eff");
        assert_eq!(id.first_digit(), 15);
        assert_ne!(counted(), counted());
        assert_ne!(RequestId::random(), RequestId::random());
    }

    #[test]
    fn a_given_id_is_short_and_plain() {
        let longest = "a".repeat(128);
        for good in ["a", "0123-abc_DEF.9", &longest] {
            assert_eq!(RequestId::given(good).unwrap().as_str(), good);
        }
        let longer = "a".repeat(129);
        for bad in ["", " a", "a b", "a,b", "a\"", "a/b", "a\r\nb", "\u{fc}", &longer] {
            assert!(RequestId::given(bad).is_none(), "{bad:?}");
        }
    }
}
