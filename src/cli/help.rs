//! The command line as clap needs it: the definition, with the examples, the exit codes and the
//! environment below each help text.

use clap::CommandFactory as _;

use super::{CommandLine, version};
use crate::cli::examples::examples_of;
use crate::exit::Exit;

/// Each variable of the environment that the commands read, and its effect.
pub(super) const ENVIRONMENT: [(&str, &str); 6] = [
    ("USHER_CONFIG", "the configuration file, where `-c` is not given"),
    ("USHER_LOG_FORMAT", "the format of log lines, where `--log-format` is not given"),
    ("NO_COLOR", "no colours, not on a terminal either"),
    ("CLICOLOR_FORCE", "colours everywhere, unless NO_COLOR is set"),
    ("NOTIFY_SOCKET", "where a service manager waits for the start and the end"),
    ("LISTEN_FDS", "the sockets that a service manager passes"),
];

/// Returns the definition of the whole command line.
pub(super) fn command() -> clap::Command {
    let command = CommandLine::command()
        .version(version::SHORT.as_str())
        .long_version(version::LONG.as_str());
    with_examples(command, "")
}

fn with_examples(command: clap::Command, path: &str) -> clap::Command {
    let names: Vec<_> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let command = names.iter().fold(command, |command, name| {
        let below = format!("{path} {name}");
        command.mut_subcommand(name, |one| with_examples(one, below.trim_start()))
    });
    let mut text = heading("Examples", command.get_styles());
    for example in examples_of(path) {
        text.push_str(&format!("\n  # {}\n  {}\n", example.effect, example.line));
    }
    if path.is_empty() {
        text.push_str(&format!("\n{}\n", heading("Exit codes", command.get_styles())));
        for (exit, meaning) in Exit::MEANINGS {
            text.push_str(&format!("  {:<3} {meaning}\n", exit as u8));
        }
        text.push_str(&format!("\n{}\n", heading("Environment", command.get_styles())));
        for (name, meaning) in ENVIRONMENT {
            text.push_str(&format!("  {name:<17}{meaning}\n"));
        }
    }
    command.after_long_help(text)
}

fn heading(text: &str, styles: &clap::builder::Styles) -> String {
    let style = styles.get_header();
    format!("{style}{text}:{style:#}")
}
