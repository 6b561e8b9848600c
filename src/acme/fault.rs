//! Why an order failed, and when the next attempt may begin.

use std::time::Duration;

use http::StatusCode;

use super::events::OrderOutcome;
use crate::net::fetch::FetchError;

/// The longest text of an authority that logs and `/status` repeat, in bytes.
const MOST_DETAIL: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcmeFault {
    #[error("the authority cannot be asked: {0}")]
    Fetch(#[from] FetchError),
    #[error("the answer of the authority cannot be used: {0}")]
    Malformed(String),
    /// An answer with an error of RFC 8555 section 6.7.
    #[error("the authority refused with {status}: {kind}: {detail}")]
    Refused { status: StatusCode, kind: String, detail: String, retry_after: Option<Duration> },
    #[error("the authority could not validate {domain}: {detail}")]
    Validation { domain: String, detail: String },
    #[error("the certificate order was not complete within {0:?}")]
    Timeout(Duration),
    #[error("the issued certificate cannot be used: {0}")]
    Certificate(String),
    #[error("the account or the certificate cannot be read or written: {0}")]
    State(String),
    #[error("another node has taken over the order")]
    LockLost,
}

impl AcmeFault {
    /// Returns true for an authority that is away or overloaded. It is asked again soon. After any
    /// other failure the order may count against the limits of the authority, and is repeated
    /// later.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Fetch(_) | Self::LockLost => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Malformed(_)
            | Self::Validation { .. }
            | Self::Timeout(_)
            | Self::Certificate(_)
            | Self::State(_) => false,
        }
    }

    /// Returns the pause that the authority asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub fn outcome(&self) -> OrderOutcome {
        match self {
            Self::Fetch(FetchError::Timeout(_)) | Self::Timeout(_) => OrderOutcome::Timeout,
            Self::Fetch(FetchError::Unreachable(_) | FetchError::Tls(_)) => {
                OrderOutcome::Unreachable
            }
            Self::Fetch(_) | Self::Malformed(_) => OrderOutcome::Malformed,
            Self::Refused { kind, .. } if kind == "rateLimited" => OrderOutcome::RateLimited,
            Self::Refused { .. } => OrderOutcome::Refused,
            Self::Validation { .. } => OrderOutcome::Validation,
            Self::Certificate(_) => OrderOutcome::Certificate,
            Self::State(_) => OrderOutcome::State,
            Self::LockLost => OrderOutcome::LockLost,
        }
    }
}

/// Cuts a text of the authority, and replaces what would change a terminal.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars() {
        if shown.len() >= MOST_DETAIL {
            shown.push_str("...");
            break;
        }
        shown.push(if letter.is_control() { ' ' } else { letter });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_authority_that_is_away_is_asked_again_soon() {
        let timeout = Duration::from_secs(1);
        assert!(AcmeFault::Fetch(FetchError::Timeout(timeout)).is_outage());
        assert!(AcmeFault::LockLost.is_outage());
        assert!(!AcmeFault::Timeout(timeout).is_outage());
        assert!(!AcmeFault::State("no space".to_owned()).is_outage());
    }

    #[test]
    fn a_text_of_the_authority_is_cut_and_cannot_change_a_terminal() {
        assert_eq!(shown("a\n\u{1b}[31mb"), "a  [31mb");
        let long = shown(&"é".repeat(100_000));
        assert!(long.len() <= MOST_DETAIL + 5 && long.ends_with("..."), "{}", long.len());
    }
}
