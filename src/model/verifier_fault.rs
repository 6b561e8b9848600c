//! What can be wrong with a verifier: a closed set, so that logs and metrics can name it.

use super::store_fault::StoreFault;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierFault {
    #[error("too many questions are on their way")]
    Busy,
    #[error("it was away a moment ago")]
    BreakerOpen,
    #[error("no answer in time")]
    Timeout,
    #[error("it cannot be reached")]
    Unreachable,
    #[error("TLS failed")]
    Tls,
    #[error("it answered a status that is neither yes nor no")]
    Status(u16),
    #[error("it answered with a redirect")]
    Redirect,
    #[error("its answer is too large")]
    TooLarge,
    #[error("its answer cannot be read")]
    Malformed,
    #[error("Redis does not answer as it should")]
    Store(StoreFault),
    #[error("the question was lost")]
    Lost,
}

impl VerifierFault {
    /// The closed set of [`VerifierFault::label`]s.
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

    /// Does it say that the verifier is away? Not what a client can bring about by what it shows.
    pub fn counts_against_the_verifier(self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable | Self::Tls => true,
            Self::Status(status) => status >= 500 || status == 429,
            // It has a breaker of its own.
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
