//! `usher run`: serve.
#![allow(clippy::print_stderr, reason = "a banner is for whoever looks at the terminal")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::{App, Reloading, RunError};
use crate::cli;
use crate::config::Loaded;
use crate::config::diagnostic::Diagnostics;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration folder.
    #[arg(short, long, value_name = "FILE", env = "USHER_CONFIG")]
    config: Option<PathBuf>,
    /// Take the test identities of `[bypass]`; never where real users are
    #[arg(long)]
    allow_bypass: bool,
    /// Load the configuration anew whenever it, or a file that it names, changes
    #[arg(long)]
    watch: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let allow_bypass = arguments.allow_bypass;
    let path = cli::find_config(arguments.config)?;
    let loaded = load(&path, allow_bypass)?;
    cli::print_warnings(&loaded);
    if allow_bypass {
        eprintln!("{}", banner(&loaded.config.bypass_routes()));
    }
    let app = App::build(loaded.config)?;
    let reloading = Reloading { load: Some(Box::new(move || load(&path, allow_bypass))), watch: arguments.watch };
    match app.run(reloading) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Forced) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}

fn banner(routes: &[&str]) -> String {
    match routes {
        [] => "usher: --allow-bypass is given, and no route takes `bypass`".to_owned(),
        routes => format!("usher: BYPASS IS ON: whoever knows its secret is anybody, on {}", routes.join(", ")),
    }
}

/// At the start and at each reload.
fn load(path: &Path, allow_bypass: bool) -> Result<Loaded, Diagnostics> {
    let mut loaded = crate::config::load(path)?;
    if let Some(format) = cli::log_format() {
        loaded.config.log.format = format;
    }
    loaded.config.allow_bypass(allow_bypass)?;
    Ok(loaded)
}
