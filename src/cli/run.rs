//! `usher run`: serve.

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
    /// Load the configuration anew whenever it, or a file that it names, changes
    #[arg(long)]
    watch: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = cli::find_config(arguments.config)?;
    let loaded = load(&path)?;
    cli::print_warnings(&loaded);
    let app = App::build(loaded.config)?;
    let reloading = Reloading { load: Some(Box::new(move || load(&path))), watch: arguments.watch };
    match app.run(reloading) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Forced) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}

/// At the start and at each reload.
fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    let mut loaded = crate::config::load(path)?;
    if let Some(format) = cli::log_format() {
        loaded.config.log.format = format;
    }
    Ok(loaded)
}
