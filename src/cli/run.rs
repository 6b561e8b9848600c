//! `usher run`: starts the proxy.
#![allow(clippy::print_stderr, reason = "a banner is for the user at the terminal")]

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::{App, BuildError, Reloading, RunError};
use crate::cli;
use crate::config::Loaded;
use crate::config::diagnostic::Diagnostics;
use crate::edge::events::ConfigWarning;
use crate::edge::judge::{JudgeOptions, judge};
use crate::net::passed::PassedSockets;
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
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let allow_bypass = arguments.allow_bypass;
    let path = crate::admin_client::find_config(arguments.config)?;
    let passed = PassedSockets::take().map_err(BuildError::Passed)?;
    let loaded = load(&path, allow_bypass, &passed.addresses())?;
    let warnings = loaded.warnings;
    if std::io::stderr().is_terminal() {
        cli::print_warnings(&warnings);
    }
    if allow_bypass {
        eprintln!("{}", banner(&loaded.config.bypass_routes()));
    }
    let app = App::build(loaded.config, passed)?;
    warnings.iter().for_each(|warning| ConfigWarning(warning).emit());
    let reloading = Reloading {
        load: Some(Box::new(move |bound| load(&path, allow_bypass, bound))),
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

/// Checks the file, at the start and at each reload. `bound` has the addresses of this process.
fn load(path: &Path, allow_bypass: bool, bound: &[SocketAddr]) -> Result<Loaded, Diagnostics> {
    let terms = JudgeOptions { allow_bypass, looks_around: true, held: &|_| bound.to_vec() };
    let mut loaded = judge(path, &terms).outcome?;
    if let Some(format) = cli::log_format() {
        loaded.config.log.format = format;
    }
    Ok(loaded)
}
