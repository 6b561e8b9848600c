//! Close codes of RFC 6455 section 7.4, that Usher sends or counts.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    pub const POLICY: Self = Self(1008);
    pub const TOO_BIG: Self = Self(1009);
    pub const INTERNAL: Self = Self(1011);
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Returns the code as it may be sent back. A code that must not stand in a frame becomes a
    /// protocol error (RFC 6455 section 7.4).
    pub fn or_protocol_error(self) -> Self {
        match self.0 {
            1000..=1003 | 1005 | 1007..=1014 | 3000..=4999 => self,
            _ => Self::PROTOCOL_ERROR,
        }
    }

    /// Returns the code as a metric label, which is one of a closed set.
    pub fn label(self) -> &'static str {
        match self.0 {
            1000 => "1000",
            1001 => "1001",
            1002 => "1002",
            1003 => "1003",
            1005 => "1005",
            1007 => "1007",
            1008 => "1008",
            1009 => "1009",
            1010 => "1010",
            1011 => "1011",
            1012 => "1012",
            1013 => "1013",
            1014 => "1014",
            3000..=3999 => "3xxx",
            4000..=4999 => "4xxx",
            _ => "other",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
