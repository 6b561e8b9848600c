//! `usher completions`: completes commands and options in a shell.

use std::io::Write as _;
use std::process::ExitCode;

use clap_complete::Shell;

use super::help;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut help::command(), "usher", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Ok.into())
}
