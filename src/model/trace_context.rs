//! The place of a request in a trace, as the header `traceparent` has it (W3C Trace Context).

use std::fmt;

use serde::{Serialize, Serializer};

/// The id of a trace. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// A span, and whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub is_sampled: bool,
}

/// The length of a header of version 00.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

impl TraceContext {
    /// Parses a header of version 00, and the known part of a later version. `None`: the header is
    /// not valid, and counts as absent.
    pub fn parse(header: &str) -> Option<Self> {
        let (known, rest) = header.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = bytes::<1>(version)?;
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let [flags] = bytes::<1>(flags)?;
        let context = Self {
            trace_id: TraceId::from_bytes(bytes(trace)?)?,
            span_id: SpanId::from_bytes(bytes(span)?)?,
            is_sampled: flags & SAMPLED != 0,
        };
        (is_whole && parts.next().is_none()).then_some(context)
    }

    /// Returns the flags of the header.
    pub fn flags(&self) -> u8 {
        if self.is_sampled { SAMPLED } else { 0 }
    }
}

/// Writes the header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags())
    }
}

impl TraceId {
    /// Returns `None` for zero, which is not an id.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the 56 bits that are random in every id, also in those of other programs: W3C Trace
    /// Context Level 2, section 2.2.3.
    pub fn random_part(&self) -> u64 {
        let [.., a, b, c, d, e, f, g] = self.0;
        u64::from_be_bytes([0, a, b, c, d, e, f, g])
    }
}

impl SpanId {
    /// Returns `None` for zero, which is not an id.
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

/// Reads lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

fn hexadecimal(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(&self.0, f)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(&self.0, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_header_is_read_and_written() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert!(context.is_sampled);
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id.random_part(), 0x00ce_929d_0e0e_4736);
        let unsampled = GOOD.replace("-01", "-02");
        assert!(!TraceContext::parse(&unsampled).unwrap().is_sampled);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for later in [GOOD.replace("00-4b", "01-4b"), GOOD.replace("00-4b", "fe-4b") + "-more"] {
            assert_eq!(TraceContext::parse(&later), TraceContext::parse(GOOD), "{later}");
        }
    }

    #[test]
    fn everything_else_is_absent() {
        for bad in [
            String::new(),
            "00".to_owned(),
            GOOD.to_uppercase(),
            GOOD.replace("00-4b", "ff-4b"),
            format!("{GOOD}-more"),
            format!("{GOOD}x"),
            GOOD.replace("00-4b", "01-4b") + "more",
            GOOD.replace('-', "_"),
            GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            GOOD.replace("a902b7-01", "a902b-701"),
            GOOD.replace("01", "é"),
        ] {
            assert_eq!(TraceContext::parse(&bad), None, "{bad}");
        }
    }
}
