//! `usher init`: a commented starting configuration. A file that is there is never overwritten.
#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::exit::Exit;

pub const STARTING_CONFIG: &str = include_str!("../../config/usher.toml");

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to write it
    #[arg(default_value = "usher.toml")]
    path: PathBuf,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let shown = arguments.path.display();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&arguments.path)
        .with_context(|| format!("{shown} was not written (a file that is there is never overwritten)"))?;
    file.write_all(STARTING_CONFIG.as_bytes()).with_context(|| format!("writing {shown}"))?;
    println!("wrote {shown}; edit it, then: usher check {shown}");
    Ok(Exit::Ok.into())
}
