//! Maps failed requests to the faults of a verifier.

use crate::model::verifier_fault::VerifierFault;
use crate::net::fetch::FetchError;

impl From<FetchError> for VerifierFault {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Timeout(_) => Self::Timeout,
            FetchError::Unreachable(_) => Self::Unreachable,
            FetchError::Tls(_) => Self::Tls,
            FetchError::Status(status) => Self::Status(status.as_u16()),
            FetchError::Redirect(_) => Self::Redirect,
            FetchError::TooLarge(_) => Self::TooLarge,
            FetchError::Malformed(_) => Self::Malformed,
        }
    }
}
