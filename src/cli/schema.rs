//! `usher schema`: the JSON schema of the configuration, for editors.
#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use std::process::ExitCode;

use super::exit::Exit;
use crate::config::file::File;

#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&schemars::schema_for!(File))?);
    Ok(Exit::Ok.into())
}
