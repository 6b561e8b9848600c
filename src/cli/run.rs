//! `usher run`: serve.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::app::{App, RunError};
use crate::cli;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration folder.
    #[arg(short, long, value_name = "FILE", env = "USHER_CONFIG")]
    config: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut loaded = cli::load_config(arguments.config)?;
    if let Some(format) = cli::log_format() {
        loaded.config.log.format = format;
    }
    let app = App::build(loaded.config)?;
    match app.run() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Forced) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}
