//! `usher metrics`: prints the metrics of a running Usher.
#![allow(clippy::print_stderr, reason = "a command's product is what it prints")]

use std::io::{self, Write};
use std::process::ExitCode;

use crate::admin_client;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    admin: admin_client::AdminArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let answer = arguments.admin.find()?.get_text("/metrics")?;
    let exit = answer.exit();
    if exit != Exit::Ok {
        eprintln!("usher: {}", answer.message());
        return Ok(exit.into());
    }
    match io::stdout().write_all(answer.text.as_bytes()) {
        // The reader has seen enough, such as `grep -q`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit.into()),
        written => Ok(written.map(|()| exit.into())?),
    }
}
