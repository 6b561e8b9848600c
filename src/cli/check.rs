//! `usher check`: is the configuration good, and is what it names there?
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's product is what it prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use super::exit::Exit;
use crate::clock::Now;
use crate::config::check::{Finding, Verdict, environment};
use crate::config::diagnostic::Diagnostic;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration; `usher.toml` here or in /etc/usher unless given
    file: Option<PathBuf>,
    /// Look at the file alone, not at certificates, keys and upstreams
    #[arg(long)]
    offline: bool,
    /// Let warnings fail the check
    #[arg(long)]
    strict: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = super::find_config(arguments.file)?;
    let loaded = match crate::config::load(&path) {
        Ok(loaded) => loaded,
        Err(diagnostics) if matches!(arguments.format, Format::Json) => {
            let errors: Vec<_> = diagnostics.0.iter().map(Diagnostic::json).collect();
            println!("{}", serde_json::json!({ "ok": false, "errors": errors, "warnings": [], "findings": [] }));
            return Ok(Exit::Config.into());
        }
        Err(diagnostics) => return Err(diagnostics.into()),
    };
    let findings = if arguments.offline { Vec::new() } else { environment(&loaded.config, Now::read()) };
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    let warned = !loaded.warnings.is_empty() || findings.iter().any(|finding| finding.verdict == Verdict::Warn);
    let ok = !(failed || arguments.strict && warned);
    match arguments.format {
        Format::Json => {
            let warnings: Vec<_> = loaded.warnings.iter().map(Diagnostic::json).collect();
            println!("{}", serde_json::json!({ "ok": ok, "errors": [], "warnings": warnings, "findings": findings }));
        }
        Format::Text => {
            for warning in &loaded.warnings {
                print!("{warning}");
            }
            println!("ok    {}: the configuration is well formed", path.display());
            findings.iter().for_each(print_finding);
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::Failed }.into())
}

fn print_finding(finding: &Finding) {
    println!("{:<5} {}: {}", finding.verdict.word(), finding.subject, finding.detail);
    if let Some(hint) = &finding.hint {
        println!("      {hint}");
    }
}
