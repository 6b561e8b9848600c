//! `usher run`: serve.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::app::{App, RunError};
use crate::cli;
use crate::config::{LogFormat, resolve};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration folder.
    #[arg(short, long, value_name = "FILE", env = "USHER_CONFIG")]
    config: Option<PathBuf>,
    /// How log lines are written, whatever the file says.
    #[arg(long, value_enum, env = "USHER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = cli::find_config(arguments.config)?;
    let mut loaded = resolve::load(&path)?;
    if let Some(format) = arguments.log_format {
        loaded.config.log.format = format;
    }
    let app = App::build(loaded.config)?;
    for warning in &loaded.warnings {
        tracing::warn!(target: "usher", event = "config_warning", "{warning}");
    }
    match app.run() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Forced) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}
