//! One file per command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's product is what it prints")]

pub mod admin_client;
pub mod bench;
pub mod check;
pub mod demo;
pub mod exit;
pub mod explain;
pub mod init;
pub mod keys;
pub mod reload;
pub mod revoke;
pub mod run;
pub mod schema;
pub mod sessions;
pub mod status;
pub mod token;
pub mod words;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::diagnostic::Diagnostics;
use crate::config::{Loaded, LogFormat};
use exit::Exit;

#[derive(Debug, Parser)]
#[command(name = "usher", version, about = "An edge reverse proxy that terminates WebSocket authentication")]
struct CommandLine {
    /// How log lines are written, whatever the file says
    #[arg(long, global = true, value_enum, env = "USHER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    Run(run::Arguments),
    /// Check a configuration and what it needs
    Check(check::Arguments),
    /// Try everything on this machine, without a configuration
    Demo(demo::Arguments),
    /// Write a commented starting configuration
    Init(init::Arguments),
    /// Make and show keys
    Keys(keys::Arguments),
    /// Make and read tokens
    Token(token::Arguments),
    /// Say what would become of a request, check by check, and why
    Explain(Box<explain::Arguments>),
    /// End sessions by user, session, token or age, and refuse their credentials
    Revoke(revoke::Arguments),
    /// Have a running Usher load its configuration anew
    Reload(reload::Arguments),
    /// List the open sessions of a running Usher
    Sessions(sessions::Arguments),
    /// Show how a running Usher stands
    Status(status::Arguments),
    /// Load-test the handshake of an endpoint on this machine
    Bench(Box<bench::Arguments>),
    /// Print the JSON schema of the configuration
    Schema(schema::Arguments),
}

static LOG_FORMAT: std::sync::OnceLock<LogFormat> = std::sync::OnceLock::new();

pub fn main() -> ExitCode {
    // Everything that speaks TLS uses this one provider; an error only means that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let command_line = CommandLine::parse();
    if let Some(format) = command_line.log_format {
        let _ = LOG_FORMAT.set(format);
    }
    let result = match command_line.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Keys(arguments) => keys::run(arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::Explain(arguments) => explain::run(*arguments),
        Command::Revoke(arguments) => revoke::run(arguments),
        Command::Reload(arguments) => reload::run(arguments),
        Command::Sessions(arguments) => sessions::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Bench(arguments) => bench::run(*arguments),
        Command::Schema(arguments) => schema::run(arguments),
    };
    result.unwrap_or_else(|error| {
        if let Some(diagnostics) = error.downcast_ref::<Diagnostics>() {
            eprint!("{}", diagnostics.render(std::io::stderr().is_terminal()));
            return Exit::Config.into();
        }
        eprintln!("usher: {error:#}");
        exit_of(&error).into()
    })
}

/// What `--log-format` says, if it was given.
pub fn log_format() -> Option<LogFormat> {
    LOG_FORMAT.get().copied()
}

#[derive(Debug, thiserror::Error)]
#[error(
    "no configuration: neither ./usher.toml nor /etc/usher/usher.toml is there\n  try it without one:   usher demo\n  write a first one:    usher init"
)]
pub struct NoConfig;

/// The path given, or `usher.toml` here, or the one of the system.
pub fn find_config(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path);
    }
    let usual = ["usher.toml", "/etc/usher/usher.toml"].into_iter().map(Path::new).find(|path| path.is_file());
    Ok(usual.ok_or(NoConfig)?.to_path_buf())
}

pub fn print_warnings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        eprint!("{}", warning.render(std::io::stderr().is_terminal()));
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<NoConfig>() {
        return Exit::Config;
    }
    if error.is::<bench::Usage>() || error.is::<explain::Usage>() {
        return Exit::Usage;
    }
    if error.is::<admin_client::Unavailable>() {
        return Exit::Unavailable;
    }
    match error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind) {
        Some(std::io::ErrorKind::PermissionDenied) => Exit::Permission,
        Some(std::io::ErrorKind::AddrInUse | std::io::ErrorKind::ConnectionRefused) => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
    }
}
