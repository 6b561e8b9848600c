//! `usher run`: starts the proxy.
#![allow(clippy::print_stderr, reason = "a banner is for the user at the terminal")]

use std::cell::OnceCell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::admin_client::RunningUsher;
use crate::app::{App, BuildError, Reloading, RunError};
use crate::base::signal::RotationSignal;
use crate::cli;
use crate::config::diagnostic::Diagnostics;
use crate::config::{Config, Loaded};
use crate::edge::events::ConfigWarning;
use crate::edge::judge::{JudgeOptions, judge};
use crate::net::passed::PassedSockets;
use crate::takeover::Predecessor;
use crate::telemetry::Event;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; by default `usher.toml` here or in /etc/usher [env: USHER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accept the test identities of `[bypass]`; never use this with real users
    #[arg(long)]
    allow_bypass: bool,
    /// Reload the configuration when it, or a file that it names, has changed
    #[arg(long)]
    watch: bool,
    /// Take over from the process at this socket without a gap, and listen there for the next one,
    /// instead of `takeover`
    #[arg(long, value_name = "PATH")]
    takeover: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    RotationSignal::survive()?;
    let allow_bypass = arguments.allow_bypass;
    let path = crate::admin_client::find_config(arguments.config)?;
    let passed = PassedSockets::take().map_err(BuildError::Passed)?;
    let takeover = arguments.takeover;
    // The running process is found by the path in the configuration, while that is judged.
    let found = OnceCell::new();
    let held = |config: &Config| {
        let find = || config.takeover.as_deref().map(Predecessor::find).transpose();
        let predecessor = found.get_or_init(|| find().map(Option::flatten));
        let theirs = predecessor.as_ref().ok().and_then(Option::as_ref);
        [passed.addresses(), theirs.map(Predecessor::addresses).unwrap_or_default()].concat()
    };
    let find_other = |config: &Config| RunningUsher::at_admin_of(config)?.other_than(config);
    let options = JudgeOptions {
        allow_bypass,
        takeover: takeover.as_deref(),
        looks_around: true,
        held: &held,
        find_other: &find_other,
    };
    let loaded = load(&path, &options);
    let predecessor = found.into_inner().unwrap_or(Ok(None)).map_err(BuildError::Takeover)?;
    let loaded = loaded?;
    let warnings = loaded.warnings;
    if std::io::stderr().is_terminal() {
        cli::print_warnings(&warnings);
    }
    if allow_bypass {
        eprintln!("{}", banner(&loaded.config.bypass_routes()));
    }
    let app = App::build(loaded.config, passed, predecessor)?;
    warnings.iter().for_each(|warning| ConfigWarning(warning).emit());
    let reloading = Reloading {
        load: Some(Box::new(move |bound| {
            let options = JudgeOptions {
                allow_bypass,
                takeover: takeover.as_deref(),
                looks_around: true,
                held: &|_| bound.to_vec(),
                // This process has the admin address, and cannot answer itself meanwhile.
                find_other: &|_| None,
            };
            load(&path, &options)
        })),
        watch: arguments.watch,
    };
    match app.run(reloading) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Forced) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}

fn banner(routes: &[&str]) -> String {
    match routes {
        [] => "usher: --allow-bypass is given, but no route accepts `bypass`".to_owned(),
        routes => format!(
            "usher: bypass enabled: its secret impersonates any user on {}",
            routes.join(", ")
        ),
    }
}

/// Checks the file, at the start and at each reload.
fn load(path: &Path, options: &JudgeOptions<'_>) -> Result<Loaded, Diagnostics> {
    let mut loaded = judge(path, options).outcome?;
    if let Some(format) = cli::log_format() {
        loaded.config.log.format = format;
    }
    Ok(loaded)
}
