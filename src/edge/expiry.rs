//! The dates of all certificates that the configuration names: for metrics, status and the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Edge;
use super::events::{CertificateDated, CertificateExpires, CertificateForgotten};
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::config::Config;
use crate::config::certificate_files::CertificatePurpose;
use crate::net::tls::crl;
use crate::net::tls::dates::{self, DateState, Dates};
use crate::telemetry::Event;
use crate::telemetry::family::Word;

/// The time between two log lines about the same certificate.
const REPEAT: Duration = Duration::from_secs(86_400);

/// A file with certificates, and the one in it that ends first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedFile {
    pub purpose: CertificatePurpose,
    pub file: String,
    pub dates: Dates,
}

/// One file on the status page.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateFigures {
    pub purpose: &'static str,
    pub file: String,
    /// The certificate of the file that ends first.
    pub subject: String,
    pub expires: String,
    pub days_left: u64,
    pub state: &'static str,
    /// When the OCSP answer for the certificate of a listener expires. `None`: it has none.
    pub ocsp_expires: Option<String>,
}

/// Reads the dates of every file. A file that cannot be read is left out: the start and every
/// reload refuse it.
pub fn read(config: &Config) -> Vec<DatedFile> {
    let dated = |(purpose, file): (CertificatePurpose, &Path)| {
        let dates = match purpose {
            CertificatePurpose::ClientCrl => crl::first_to_end(file),
            _ => dates::first_to_end(file),
        }
        .ok()?;
        Some(DatedFile { purpose, file: file.display().to_string(), dates })
    };
    config.certificate_files().into_iter().filter_map(dated).collect()
}

impl Edge {
    pub fn certificate_figures(&self, now: Now) -> Vec<CertificateFigures> {
        let warn_before = self.config.certificates.warn_before;
        let figures = |dated: &DatedFile| CertificateFigures {
            purpose: dated.purpose.word(),
            file: dated.file.clone(),
            subject: dated.dates.subject.clone(),
            expires: dated.dates.ends.to_rfc3339(),
            days_left: dated.dates.days_left(now.wall),
            state: dated.dates.state(warn_before, now.wall).name(),
            ocsp_expires: self.staple_expiry(dated).map(UnixMillis::to_rfc3339),
        };
        self.certificates.iter().map(figures).collect()
    }

    fn staple_expiry(&self, dated: &DatedFile) -> Option<UnixMillis> {
        if dated.purpose != CertificatePurpose::Listener {
            return None;
        }
        Some(self.staples.of(Path::new(&dated.file))?.dates()?.ends)
    }

    /// Brings the metric up to date, and logs certificates that end soon. This edge must be in
    /// force.
    pub fn watch_expiry(&self, now: Now) {
        let warn_before = self.config.certificates.warn_before;
        lock(&self.expiry_watch).look(&self.certificates, warn_before, now);
    }
}

/// Follows the dates over time and over reloads.
#[derive(Debug, Default)]
pub struct CertificateExpiryWatch {
    /// The files in the metric, each with the end of its first certificate and its last warning.
    seen: BTreeMap<(CertificatePurpose, String), Seen>,
}

#[derive(Debug)]
struct Seen {
    ends: UnixMillis,
    warned: Option<(DateState, Now)>,
}

impl CertificateExpiryWatch {
    /// Brings the metric up to date after a reload, and logs a certificate that ends soon: when
    /// this begins, when it has expired, and once a day.
    fn look(&mut self, files: &[DatedFile], warn_before: Duration, now: Now) {
        self.publish(files);
        self.warn(files, warn_before, now);
    }

    fn publish(&mut self, files: &[DatedFile]) {
        let is_gone = |(purpose, file): &(CertificatePurpose, String)| {
            !files.iter().any(|dated| dated.purpose == *purpose && dated.file == *file)
        };
        self.seen.retain(|key, _| {
            let is_gone = is_gone(key);
            if is_gone {
                CertificateForgotten { purpose: key.0, file: &key.1 }.emit();
            }
            !is_gone
        });
        for DatedFile { purpose, file, dates } in files {
            CertificateDated { purpose: *purpose, file, ends: dates.ends }.emit();
            let seen = self.seen.entry((*purpose, file.clone()));
            let seen = seen.or_insert(Seen { ends: dates.ends, warned: None });
            if seen.ends != dates.ends {
                *seen = Seen { ends: dates.ends, warned: None };
            }
        }
    }

    fn warn(&mut self, files: &[DatedFile], warn_before: Duration, now: Now) {
        for DatedFile { purpose, file, dates } in files {
            let Some(seen) = self.seen.get_mut(&(*purpose, file.clone())) else { continue };
            let state = dates.state(warn_before, now.wall);
            let is_due = match seen.warned {
                _ if state < DateState::EndsSoon => false,
                None => true,
                Some((before, at)) => {
                    before != state || now.mono.saturating_duration_since(at.mono) >= REPEAT
                }
            };
            if is_due {
                seen.warned = Some((state, now));
                CertificateExpires { purpose: *purpose, file, dates, state, now }.emit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn file(name: &str, ends: u64) -> DatedFile {
        DatedFile {
            purpose: CertificatePurpose::Listener,
            file: name.to_owned(),
            dates: Dates {
                subject: String::new(),
                begins: UnixMillis(0),
                ends: UnixMillis::from_secs(ends),
            },
        }
    }

    fn warned(watch: &CertificateExpiryWatch, name: &str) -> Option<(DateState, UnixMillis)> {
        let seen = &watch.seen[&(CertificatePurpose::Listener, name.to_owned())];
        seen.warned.map(|(state, now)| (state, now.wall))
    }

    #[test]
    fn a_warning_comes_at_each_step_and_once_a_day() {
        let start = Now::read();
        let at = |seconds: u64| Now {
            wall: UnixMillis::from_secs(seconds),
            mono: start.mono + Duration::from_secs(seconds),
        };
        let mut watch = CertificateExpiryWatch::default();
        let files = [file("a", 100 * DAY), file("b", 300 * DAY)];
        watch.publish(&files);
        let fortnight = Duration::from_secs(14 * DAY);
        let look = |watch: &mut CertificateExpiryWatch, seconds| {
            watch.warn(&files, fortnight, at(seconds));
            assert_eq!(warned(watch, "b"), None);
            warned(watch, "a").map(|(state, wall)| (state, wall.as_secs()))
        };
        assert_eq!(look(&mut watch, 86 * DAY), None);
        let soon = Some((DateState::EndsSoon, 86 * DAY + 1));
        assert_eq!(look(&mut watch, 86 * DAY + 1), soon);
        assert_eq!(look(&mut watch, 86 * DAY + 6), soon, "not a line each second");
        assert_eq!(look(&mut watch, 87 * DAY), soon);
        let again = Some((DateState::EndsSoon, 87 * DAY + 1));
        assert_eq!(look(&mut watch, 87 * DAY + 1), again);
        let over = Some((DateState::Expired, 100 * DAY));
        assert_eq!(look(&mut watch, 100 * DAY), over, "at once, not a day after the last line");

        // Renewed, and the other file is gone.
        let renewed = [file("a", 200 * DAY)];
        watch.publish(&renewed);
        assert_eq!((warned(&watch, "a"), watch.seen.len()), (None, 1));
    }
}
