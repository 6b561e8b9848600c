//! Checks of the things that a valid configuration names: certificates, keys, authorities, folders
//! and addresses.
//!
//! They are read with the functions of the start. Nothing stays open, and nothing is created or
//! contacted. `reach.rs` contacts the servers; only `usher check` does that, because Usher starts
//! without them.

mod certificates;
mod files;
mod folders;
pub mod reach;
mod sockets;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use serde::Serialize;

pub use self::sockets::{Holders, OtherUsher};

use crate::base::clock::Now;
use crate::config::Config;
use crate::config::diagnostic::{Diagnostic, FaultKind, Location};
use crate::config::locate::Locator;

const MISSING_HINT: &str = "relative paths start at the configuration's folder";

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub verdict: FindingVerdict,
    pub subject: String,
    pub detail: String,
    pub hint: Option<String>,
    #[serde(skip)]
    pub place: Option<Location>,
    #[serde(skip)]
    pub fault: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingVerdict {
    Ok,
    Warn,
    Fail,
}

/// The findings so far, each with the location of the key that it is about.
pub(super) struct Inspector<'a> {
    pub(super) config: &'a Config,
    pub(super) now: Now,
    locator: Locator<'a>,
    findings: Vec<Finding>,
}

/// Checks everything that the start would open.
pub fn inspect(config: &Config, now: Now, holders: &Holders<'_>) -> Vec<Finding> {
    let mut inspector = Inspector::new(config, now);
    certificates::inspect(&mut inspector);
    files::inspect(&mut inspector);
    folders::inspect(&mut inspector);
    sockets::inspect(&mut inspector, holders);
    inspector.findings
}

impl<'a> Inspector<'a> {
    fn new(config: &'a Config, now: Now) -> Self {
        let locator = Locator::new(config.source.as_deref(), config.written.text());
        Self { config, now, locator, findings: Vec::new() }
    }

    fn add(&mut self, key: &str, finding: Finding) {
        self.findings.push(Finding { place: self.locator.location(key), ..finding });
    }

    /// Reports a file that cannot be read, and returns whether it can.
    fn is_readable(&mut self, key: &str, subject: &str, path: &Path) -> bool {
        self.is_readable_or(key, subject, path, MISSING_HINT)
    }

    /// Does the same as `is_readable`, with another remedy for a missing file.
    fn is_readable_or(&mut self, key: &str, subject: &str, path: &Path, missing: &str) -> bool {
        let Err(error) = read_a_byte(path) else { return true };
        let hint = match error.kind() {
            io::ErrorKind::NotFound => missing,
            io::ErrorKind::PermissionDenied => {
                "the user that runs Usher must be able to read the file"
            }
            _ => "name a readable file",
        };
        let detail = format!("{} cannot be read: {error}", path.display());
        self.add(key, Finding::fail(subject, detail, hint).because(&error));
        false
    }
}

fn read_a_byte(path: &Path) -> io::Result<()> {
    use io::Read as _;
    std::fs::File::open(path)?.read(&mut [0]).map(drop)
}

impl Finding {
    fn ok(subject: impl Into<String>, detail: impl Into<String>) -> Self {
        let (subject, detail) = (subject.into(), detail.into());
        Self {
            verdict: FindingVerdict::Ok,
            subject,
            detail,
            hint: None,
            place: None,
            fault: FaultKind::Config,
        }
    }

    fn warn(subject: impl Into<String>, detail: impl Into<String>, hint: &str) -> Self {
        Self {
            verdict: FindingVerdict::Warn,
            hint: Some(hint.to_owned()),
            ..Self::ok(subject, detail)
        }
    }

    fn fail(subject: impl Into<String>, detail: impl Into<String>, hint: &str) -> Self {
        Self { verdict: FindingVerdict::Fail, ..Self::warn(subject, detail, hint) }
    }

    fn because(self, error: &io::Error) -> Self {
        Self { fault: FaultKind::of(error), ..self }
    }

    /// Returns `None` for a good verdict.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        let message = format!("{}: {}", self.subject, self.detail);
        let diagnostic = match self.verdict {
            FindingVerdict::Ok => return None,
            FindingVerdict::Warn => Diagnostic::warning(message),
            FindingVerdict::Fail => Diagnostic::error(message),
        };
        Some(Diagnostic {
            place: self.place.clone(),
            help: self.hint.clone(),
            fault: self.fault,
            ..diagnostic
        })
    }
}

impl FindingVerdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}
