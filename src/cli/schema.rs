//! `usher schema`: the JSON schema of the configuration, for editors.

use std::io::Write;
use std::process::ExitCode;

use crate::config::schema::schema;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&schema())?)?;
    Ok(Exit::Ok.into())
}
