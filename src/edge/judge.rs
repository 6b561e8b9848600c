//! Judges a configuration in the same way for `usher check`, the start and every reload.

use std::net::SocketAddr;
use std::path::Path;

use super::inspect::{self, Finding, FindingVerdict};
use crate::base::clock::Now;
use crate::config::diagnostic::Diagnostics;
use crate::config::{Config, Loaded, load};

pub struct JudgeOptions<'a> {
    /// `--allow-bypass` is on the command line.
    pub allow_bypass: bool,
    /// `--takeover` on the command line, which replaces the key.
    pub takeover: Option<&'a Path>,
    /// Whether the files, folders and addresses that the configuration names are checked.
    pub looks_around: bool,
    /// Returns the addresses that a running Usher has bound for this configuration.
    pub held: &'a dyn Fn(&Config) -> Vec<SocketAddr>,
}

/// The verdict, and a finding for each thing that was checked.
pub struct Judgement {
    pub outcome: Result<Loaded, Diagnostics>,
    pub findings: Vec<Finding>,
}

pub fn judge(path: &Path, terms: &JudgeOptions<'_>) -> Judgement {
    let mut loaded = match load(path) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return Judgement { outcome: Err(diagnostics), findings: Vec::new() },
    };
    if let Some(path) = terms.takeover {
        loaded.config.takeover = Some(path.to_owned());
    }
    let mut errors = loaded
        .config
        .allow_bypass(terms.allow_bypass)
        .err()
        .map(|found| found.0)
        .unwrap_or_default();
    let findings = if terms.looks_around {
        inspect::inspect(&loaded.config, Now::read(), &(terms.held)(&loaded.config))
    } else {
        Vec::new()
    };
    for finding in &findings {
        match finding.verdict {
            FindingVerdict::Ok => {}
            FindingVerdict::Warn => loaded.warnings.extend(finding.diagnostic()),
            FindingVerdict::Fail => errors.extend(finding.diagnostic()),
        }
    }
    let outcome = if errors.is_empty() { Ok(loaded) } else { Err(Diagnostics(errors)) };
    Judgement { outcome, findings }
}
