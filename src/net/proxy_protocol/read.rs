//! Reads a header from the first bytes of a connection.
//!
//! The bytes behind a header belong to TLS or HTTP. [`read`] therefore says how many bytes are
//! certainly missing, and the caller reads at most that many.

use super::{ProxyFault, ProxyHeader, v1, v2};

/// The length of the shortest header: `PROXY UNKNOWN` and its line end.
pub(super) const SHORTEST: usize = 15;

/// The state of a header after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderProgress {
    /// At least this many bytes of the header are missing. Never 0.
    Needs(usize),
    Whole {
        header: ProxyHeader,
        /// The number of bytes that the header takes.
        length: usize,
    },
}

/// Reads the header at the start of `bytes`.
pub fn read(bytes: &[u8]) -> Result<HeaderProgress, ProxyFault> {
    match bytes.first() {
        None => Ok(HeaderProgress::Needs(SHORTEST)),
        Some(first) if v1::PREFIX.first() == Some(first) => v1::read(bytes),
        Some(first) if v2::SIGNATURE.first() == Some(first) => v2::read(bytes),
        Some(_) => Err(ProxyFault::NotProxy),
    }
}

/// Returns the number of bytes that are missing until `whole`, or `None` if all are there.
pub(super) fn missing(bytes: &[u8], whole: usize) -> Option<HeaderProgress> {
    let missing = whole.checked_sub(bytes.len()).filter(|missing| *missing > 0)?;
    Some(HeaderProgress::Needs(missing))
}

/// Checks that one of `bytes` and `start` begins with the other.
pub(super) fn check_start(bytes: &[u8], start: &[u8]) -> Result<(), ProxyFault> {
    let is_equal = bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if is_equal { Ok(()) } else { Err(ProxyFault::NotProxy) }
}
