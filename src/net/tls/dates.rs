//! The dates of certificates.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::read_certificates;
use crate::base::clock::UnixMillis;

/// A certificate's own name, and the time in which it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    pub subject: String,
    pub begins: UnixMillis,
    pub ends: UnixMillis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DateState {
    Valid,
    NotYetValid,
    /// It ends so soon that the operator is warned.
    EndsSoon,
    Expired,
}

impl DateState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NotYetValid => "not_yet_valid",
            Self::EndsSoon => "ends_soon",
            Self::Expired => "expired",
        }
    }
}

/// Returns the certificate of a file that ends first.
pub fn first_to_end(file: &Path) -> Result<Dates, String> {
    let certificates = read_certificates(file)?;
    let dates = certificates.iter().map(Dates::of).collect::<Result<Vec<_>, _>>()?;
    let first = dates.into_iter().min_by_key(|dates| dates.ends);
    first.ok_or_else(|| super::pem::NO_CERTIFICATE.to_owned())
}

impl Dates {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let validity = certificate.validity();
        Ok(Self {
            subject: certificate.subject().to_string(),
            begins: time_of(validity.not_before.timestamp()),
            ends: time_of(validity.not_after.timestamp()),
        })
    }

    /// `warn_before` is the time before the end in which the operator is warned. A short life
    /// shortens it to a quarter of the life.
    pub fn state(&self, warn_before: Duration, now: UnixMillis) -> DateState {
        if now >= self.ends {
            DateState::Expired
        } else if now < self.begins {
            DateState::NotYetValid
        } else if self.ends.since(now) < warn_before.min(self.ends.since(self.begins) / 4) {
            DateState::EndsSoon
        } else {
            DateState::Valid
        }
    }

    /// Returns the whole days that are left.
    pub fn days_left(&self, now: UnixMillis) -> u64 {
        self.ends.since(now).as_secs() / 86_400
    }
}

/// Returns a time of a certificate. Times before 1970 become 1970.
pub(super) fn time_of(seconds: i64) -> UnixMillis {
    UnixMillis::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn dates(days: u64) -> Dates {
        Dates {
            subject: "CN=a".to_owned(),
            begins: UnixMillis::from_secs(1000),
            ends: UnixMillis::from_secs(1000 + days * DAY),
        }
    }

    #[test]
    fn a_warning_begins_at_its_time_and_not_before_the_last_quarter() {
        let warn = Duration::from_secs(14 * DAY);
        let at = |seconds| UnixMillis::from_secs(1000 + seconds);
        let year = dates(365);
        assert_eq!(year.state(warn, UnixMillis::from_secs(999)), DateState::NotYetValid);
        assert_eq!(year.state(warn, at(351 * DAY)), DateState::Valid);
        assert_eq!(year.state(warn, at(351 * DAY + 1)), DateState::EndsSoon);
        assert_eq!(year.state(warn, at(365 * DAY - 1)), DateState::EndsSoon);
        assert_eq!(year.state(warn, at(365 * DAY)), DateState::Expired);
        let week = dates(8);
        assert_eq!(week.state(warn, at(6 * DAY)), DateState::Valid);
        assert_eq!(week.state(warn, at(6 * DAY + 1)), DateState::EndsSoon);
        assert_eq!(week.state(Duration::ZERO, at(8 * DAY - 1)), DateState::Valid);
        assert_eq!(week.state(Duration::ZERO, at(8 * DAY)), DateState::Expired);
        assert_eq!((year.days_left(at(0)), year.days_left(at(364 * DAY + 1))), (365, 0));
    }
}
