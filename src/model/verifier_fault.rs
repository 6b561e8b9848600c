//! The faults of a verifier: a closed set, so that logs and metrics can name them.

use super::store_fault::StoreFault;

/// The reason why a verifier gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierFault {
    #[error("too many requests in progress")]
    Busy,
    #[error("circuit breaker open")]
    BreakerOpen,
    #[error("no response in time")]
    Timeout,
    #[error("connection failed")]
    Unreachable,
    #[error("TLS failed")]
    Tls,
    #[error("unexpected status {0}")]
    Status(u16),
    #[error("redirect received")]
    Redirect,
    #[error("response too large")]
    TooLarge,
    #[error("response malformed")]
    Malformed,
    #[error("Redis failed: {}", .0.label())]
    Store(StoreFault),
    #[error("request lost")]
    Lost,
}

impl VerifierFault {
    /// All labels of [`VerifierFault::label`].
    pub const LABELS: [&'static str; 11] = [
        "busy",
        "breaker_open",
        "timeout",
        "unreachable",
        "tls",
        "status",
        "redirect",
        "too_large",
        "malformed",
        "store",
        "lost",
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::BreakerOpen => "breaker_open",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Status(_) => "status",
            Self::Redirect => "redirect",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Store(_) => "store",
            Self::Lost => "lost",
        }
    }

    /// Returns true if the fault counts as an outage of the verifier. Faults that a client can
    /// cause with its credential do not count.
    pub fn counts_against_the_verifier(self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable | Self::Tls => true,
            Self::Status(status) => status >= 500 || status == 429,
            // The Redis client has its own circuit breaker.
            Self::Store(_) => false,
            Self::Busy
            | Self::BreakerOpen
            | Self::Redirect
            | Self::TooLarge
            | Self::Malformed
            | Self::Lost => false,
        }
    }
}
