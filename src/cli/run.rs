//! `usher run`: serve.
#![allow(clippy::print_stderr, reason = "a banner is for whoever looks at the terminal")]

use std::path::PathBuf;
use std::process::ExitCode;

use crate::app::{App, RunError};
use crate::cli;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration folder.
    #[arg(short, long, value_name = "FILE", env = "USHER_CONFIG")]
    config: Option<PathBuf>,
    /// Take the test identities of `[bypass]`; never where real users are
    #[arg(long)]
    allow_bypass: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut loaded = cli::load_config(arguments.config)?;
    if let Some(format) = cli::log_format() {
        loaded.config.log.format = format;
    }
    loaded.config.allow_bypass(arguments.allow_bypass)?;
    if arguments.allow_bypass {
        eprintln!("{}", banner(&loaded.config.bypass_routes()));
    }
    let app = App::build(loaded.config)?;
    match app.run() {
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
