//! Judges a configuration in the same way for `usher check`, the start and every reload.

use std::net::SocketAddr;
use std::path::Path;

use super::inspect::{self, Finding, FindingVerdict, Holders, OtherUsher};
use crate::base::clock::Now;
use crate::config::diagnostic::{Diagnostics, FaultKind};
use crate::config::{BrokenFile, Config, Loaded, load_parts};

pub struct JudgeOptions<'a> {
    /// `--allow-bypass` is on the command line.
    pub allow_bypass: bool,
    /// `--takeover` on the command line, which replaces the key.
    pub takeover: Option<&'a Path>,
    /// Whether the files, folders and addresses that the configuration names are checked.
    pub looks_around: bool,
    /// Returns the addresses that a running Usher has bound for this configuration.
    pub held: &'a dyn Fn(&Config) -> Vec<SocketAddr>,
    /// Returns the running Usher of another configuration that has this one's admin address.
    pub find_other: &'a dyn Fn(&Config) -> Option<OtherUsher>,
}

/// The verdict, and a finding for each thing that was checked.
pub struct Judgement {
    pub outcome: Result<Loaded, Diagnostics>,
    pub findings: Vec<Finding>,
}

pub fn judge(path: &Path, terms: &JudgeOptions<'_>) -> Judgement {
    let mut loaded = match load_parts(path) {
        Ok(loaded) => loaded,
        Err(broken) => return judge_parts(broken, terms),
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
    let findings = if terms.looks_around { look_around(&loaded.config, terms) } else { Vec::new() };
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

/// Adds the mistakes in the files and folders that the readable parts of a file name, so that one
/// check reports all. Addresses are left out: a running Usher may have them, which only the whole
/// file tells.
fn judge_parts(broken: BrokenFile, terms: &JudgeOptions<'_>) -> Judgement {
    let BrokenFile { errors: Diagnostics(mut errors), parts } = broken;
    let mut findings = match parts {
        Some(config) if terms.looks_around => {
            let no_holders = Holders { own: &[], find_other: &|| None };
            inspect::inspect(&config, Now::read(), &no_holders)
        }
        _ => Vec::new(),
    };
    findings.retain(|finding| {
        finding.verdict != FindingVerdict::Warn && finding.fault != FaultKind::Unavailable
    });
    let failed = findings.iter().filter(|finding| finding.verdict == FindingVerdict::Fail);
    errors.extend(failed.filter_map(Finding::diagnostic));
    Judgement { outcome: Err(Diagnostics(errors)), findings }
}

fn look_around(config: &Config, terms: &JudgeOptions<'_>) -> Vec<Finding> {
    let own = (terms.held)(config);
    let holders = Holders { own: &own, find_other: &|| (terms.find_other)(config) };
    inspect::inspect(config, Now::read(), &holders)
}
