//! `usher check`: tests whether Usher can start with a configuration and reach its servers.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::admin_client::RunningUsher;
use crate::config::Config;
use crate::config::diagnostic::Diagnostic;
use crate::edge::inspect::{Finding, FindingVerdict, reach};
use crate::edge::judge::{JudgeOptions, Judgement, judge};
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; by default `usher.toml` here or in /etc/usher
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The configuration file, as for the other commands [env: USHER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check only the file, not the certificates, keys, folders, ports and servers
    #[arg(long)]
    offline: bool,
    /// Fail if there are warnings
    #[arg(long)]
    strict: bool,
    /// Check for `usher run --allow-bypass`
    #[arg(long)]
    allow_bypass: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// The old form of --json
    #[arg(long, value_enum, default_value = "text", hide = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = crate::admin_client::find_config(arguments.file.or(arguments.config))?;
    let is_json = arguments.json || matches!(arguments.format, Format::Json);
    // A port that the running Usher uses counts as free, because the next Usher gets it.
    let found = OnceCell::new();
    let running =
        |config: &Config| found.get_or_init(|| RunningUsher::at_admin_of(config)).as_ref();
    let terms = JudgeOptions {
        allow_bypass: arguments.allow_bypass,
        takeover: None,
        looks_around: !arguments.offline,
        held: &|config| {
            let own = running(config).filter(|running| running.is_of(config));
            own.map(|own| own.addresses.clone()).unwrap_or_default()
        },
        find_other: &|config| running(config)?.other_than(config),
    };
    let Judgement { outcome, mut findings } = judge(&path, &terms);
    let (mut warnings, errors) = match outcome {
        Ok(loaded) => {
            let mut warnings = loaded.warnings;
            if !arguments.offline {
                let reached = reach::servers(&loaded.config);
                warnings.extend(reached.iter().filter_map(Finding::diagnostic));
                findings.extend(reached);
            }
            (warnings, None)
        }
        Err(errors) => (Vec::new(), Some(errors)),
    };
    warnings.sort_by_key(|warning| warning.place.as_ref().map(|place| (place.line, place.column)));
    let exit = match &errors {
        Some(errors) => errors.fault().into(),
        None if arguments.strict && !warnings.is_empty() => Exit::Failed,
        None => Exit::Ok,
    };
    if is_json {
        let list = |found: &[Diagnostic]| found.iter().map(Diagnostic::json).collect::<Vec<_>>();
        let errors = errors.as_ref().map_or(&[][..], |errors| &errors.0);
        println!(
            "{}",
            serde_json::json!({
                "ok": exit == Exit::Ok,
                "errors": list(errors),
                "warnings": list(&warnings),
                "findings": findings,
            })
        );
        return Ok(exit.into());
    }
    if errors.is_none() {
        println!("ok    {}: the configuration is valid", path.display());
    }
    for finding in findings.iter().filter(|finding| finding.verdict == FindingVerdict::Ok) {
        println!("ok    {}: {}", finding.subject, finding.detail);
    }
    super::print_warnings(&warnings);
    match errors {
        Some(errors) => Err(errors.into()),
        None => Ok(exit.into()),
    }
}
