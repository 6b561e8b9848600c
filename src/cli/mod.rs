//! The command line, with one file for each command.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

pub mod audit;
pub mod cert;
pub mod check;
pub mod completions;
pub mod drain;
pub mod examples;
pub mod explain;
mod help;
pub mod init;
pub mod keys;
pub mod man;
mod metrics;
pub mod reload;
pub mod revoke;
pub mod run;
pub mod schema;
pub mod sessions;
pub mod status;
pub mod token;
mod version;

use std::process::ExitCode;

use clap::{FromArgMatches as _, Parser, Subcommand};

use crate::app::{BuildError, RunError};
use crate::base::terminal::is_coloured;
use crate::config::LogFormat;
use crate::config::diagnostic::{Diagnostic, Diagnostics, FaultKind};
use crate::exit::Exit;
use crate::takeover::TakeoverError;
use crate::telemetry::InstallError;
use crate::{admin_client, bench, demo};

#[derive(Debug, Parser)]
#[command(name = "usher", about = "An edge reverse proxy that terminates WebSocket authentication")]
struct CommandLine {
    /// The format of log lines, instead of `log.format`
    #[arg(long, global = true, value_enum, env = "USHER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the proxy
    Run(run::Arguments),
    /// Check a configuration and what it needs
    Check(check::Arguments),
    /// Try Usher on this machine, without a configuration
    Demo(demo::Arguments),
    /// Write a first configuration with comments
    Init(init::Arguments),
    /// Make a certificate for this machine
    Cert(cert::Arguments),
    /// Make and show keys
    Keys(keys::Arguments),
    /// Make and read tokens
    Token(token::Arguments),
    /// Show how a request would be decided, check by check
    Explain(Box<explain::Arguments>),
    /// Close sessions by user, session, token or age, and reject their credentials
    Revoke(revoke::Arguments),
    /// Make a running Usher reload its configuration
    Reload(reload::Arguments),
    /// Stop a running Usher in good order, or close a share of its sessions
    Drain(drain::Arguments),
    /// List the open sessions of a running Usher
    Sessions(sessions::Arguments),
    /// Show the state of a running Usher
    Status(status::Arguments),
    /// Print the metrics of a running Usher
    Metrics(metrics::Arguments),
    /// Read and filter an audit log, and follow it
    Audit(audit::Arguments),
    /// Load-test the handshake of an endpoint on this machine
    Bench(Box<bench::Arguments>),
    /// Print the JSON schema of the configuration
    Schema(schema::Arguments),
    /// Print the script that completes commands in a shell
    Completions(completions::Arguments),
    /// Print the manual page, or write those of all commands
    Man(man::Arguments),
}

static LOG_FORMAT: std::sync::OnceLock<LogFormat> = std::sync::OnceLock::new();

pub fn main() -> ExitCode {
    let matches = help::command().get_matches();
    let command_line = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::Bench(arguments) = &command_line.command {
        arguments.install_key_exchange();
    }
    // All TLS uses this provider, unless the load tester has installed its own.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(format) = command_line.log_format {
        let _ = LOG_FORMAT.set(format);
    }
    let result = match command_line.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Cert(arguments) => cert::run(arguments),
        Command::Keys(arguments) => keys::run(arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::Explain(arguments) => explain::run(*arguments),
        Command::Revoke(arguments) => revoke::run(arguments),
        Command::Reload(arguments) => reload::run(arguments),
        Command::Drain(arguments) => drain::run(arguments),
        Command::Sessions(arguments) => sessions::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Metrics(arguments) => metrics::run(arguments),
        Command::Audit(arguments) => audit::run(arguments),
        Command::Bench(arguments) => bench::run(*arguments),
        Command::Schema(arguments) => schema::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Man(arguments) => man::run(arguments),
    };
    result.unwrap_or_else(|error| {
        if let Some(diagnostics) = error.downcast_ref::<Diagnostics>() {
            eprint!("{}", diagnostics.render(is_coloured(&std::io::stderr())));
            return Exit::from(diagnostics.fault()).into();
        }
        eprintln!("usher: {error:#}");
        exit_of(&error).into()
    })
}

/// Returns the value of `--log-format`, if it was given.
pub fn log_format() -> Option<LogFormat> {
    LOG_FORMAT.get().copied()
}

pub fn print_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        eprint!("{}", warning.render(is_coloured(&std::io::stderr())));
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<admin_client::NoConfig>() {
        return Exit::Config;
    }
    if error.is::<bench::BenchUsage>() || error.is::<explain::ExplainUsage>() {
        return Exit::Usage;
    }
    let failed_to_take_over =
        matches!(error.downcast_ref::<RunError>(), Some(RunError::Takeover(_)));
    if failed_to_take_over || error.is::<admin_client::Unavailable>() {
        return Exit::Unavailable;
    }
    // Errors that the check of the configuration did not find, because something changed since.
    match error.downcast_ref::<BuildError>() {
        Some(BuildError::Bind(failed)) => return FaultKind::of(&failed.error).into(),
        Some(BuildError::Admin(failed)) => return FaultKind::of(failed.io()).into(),
        Some(BuildError::Takeover(TakeoverError::Folder(_))) => return Exit::Permission,
        Some(BuildError::Takeover(_)) => return Exit::Unavailable,
        Some(BuildError::Telemetry(InstallError::LogFile { why, .. })) => {
            return FaultKind::of(why).into();
        }
        Some(
            BuildError::Edge(_)
            | BuildError::Passed(_)
            | BuildError::Telemetry(InstallError::LogFilter { .. }),
        ) => {
            return Exit::Config;
        }
        _ => {}
    }
    match error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
    {
        Some(std::io::ErrorKind::PermissionDenied) => Exit::Permission,
        Some(std::io::ErrorKind::AddrInUse | std::io::ErrorKind::ConnectionRefused) => {
            Exit::Unavailable
        }
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::take;
    use std::path::Path;

    use super::examples::{EXAMPLES, examples_of};
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        help::command().debug_assert();
    }

    /// Returns the commands that have no commands below them, each with its full name.
    fn leaves(command: &clap::Command, path: &str) -> Vec<String> {
        let below: Vec<_> = command.get_subcommands().collect();
        let leaves = below
            .iter()
            .flat_map(|one| leaves(one, format!("{path} {}", one.get_name()).trim_start()));
        if below.is_empty() { vec![path.to_owned()] } else { leaves.collect() }
    }

    #[test]
    fn each_command_has_examples_that_are_commands() {
        for leaf in leaves(&help::command(), "") {
            let has_example = EXAMPLES.iter().any(|example| example.command == leaf);
            assert!(has_example, "add an example of `usher {leaf}` to src/cli/examples.rs");
        }
        for example in EXAMPLES {
            let page = format!("```sh\n{}\n```\n", example.line);
            let (faults, count) = faults_of(&page);
            assert!(faults.is_empty() && count >= 1, "{}: {faults:?}", example.line);
            let start = format!("usher {}", example.command);
            assert!(example.line.starts_with(&start), "{} is not of {start}", example.line);
        }
        assert_eq!(examples_of("").len(), 4, "the first steps are examples of commands");
    }

    #[test]
    fn the_page_for_supervisors_has_the_exit_codes() {
        let page = include_str!("../../docs/deploy.md");
        let codes = Exit::MEANINGS.map(|(exit, _)| (exit as u8).to_string());
        let (_, line) = page.split_once("Exit codes, for supervisors: ").unwrap();
        let numbers: Vec<_> = line
            .split(['.', '\n'])
            .next()
            .unwrap()
            .split(|c: char| !c.is_ascii_digit())
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(numbers, codes);
    }

    /// Returns the commands of a shell script, each as its words. Supports what documents need. The
    /// output of a command in `$(...)` counts as `1`.
    fn commands(script: &str) -> Vec<Vec<String>> {
        let (mut all, mut command, mut word) = (Vec::new(), Vec::new(), None::<String>);
        let (mut quote, mut is_target) = (None, false);
        let mut chars = script.chars().peekable();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (None | Some('"'), '$') if chars.next_if_eq(&'(').is_some() => {
                    let mut depth = 1;
                    let inner = chars.by_ref().take_while(|c| {
                        depth += i32::from(*c == '(') - i32::from(*c == ')');
                        depth > 0
                    });
                    all.extend(commands(&(inner.collect::<String>() + "\n")));
                    word.get_or_insert_default().push('1');
                }
                (Some(end), c) if c == end => quote = None,
                (Some(_), c) => word.get_or_insert_default().push(c),
                (None, '"' | '\'') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, '\\') => drop(chars.next_if_eq(&'\n')),
                (None, '#') if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
                (None, ' ') => command.extend(word.take().filter(|_| !take(&mut is_target))),
                (None, '<' | '>') => {
                    command.extend(word.take());
                    is_target = true;
                }
                (None, '\n' | ';' | '|' | '&' | '(' | ')') => {
                    command.extend(word.take().filter(|_| !take(&mut is_target)));
                    is_target = false;
                    all.push(take(&mut command));
                }
                (None, c) => word.get_or_insert_default().push(c),
            }
        }
        all
    }

    /// Returns the faults in the commands of this program in the scripts of a page, and the number
    /// of commands.
    fn faults_of(page: &str) -> (Vec<String>, usize) {
        let (mut faults, mut count) = (Vec::new(), 0);
        let scripts = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        for command in scripts.flat_map(commands) {
            let words = command.iter().skip_while(|word| word.contains('='));
            if words.clone().next().is_some_and(|word| word == "usher" || word.ends_with("/usher"))
            {
                count += 1;
                let parsed = CommandLine::try_parse_from(words);
                faults.extend(
                    parsed
                        .err()
                        .filter(clap::Error::use_stderr)
                        .map(|error| format!("{command:?}: {error}")),
                );
            }
        }
        (faults, count)
    }

    #[test]
    fn every_command_of_the_documents_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = |folder: &str| {
            let entries = std::fs::read_dir(root.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        };
        let mut total = 0;
        let pages = pages("docs").chain(pages("docs/runbooks")).chain([root.join("README.md")]);
        for path in pages {
            let (faults, count) = faults_of(&std::fs::read_to_string(&path).unwrap());
            assert!(faults.is_empty(), "{}: {}", path.display(), faults.join("\n"));
            total += count;
        }
        assert!(total >= 30, "{total}");
    }

    #[test]
    fn readme_has_a_line_for_each_command_with_options_that_there_are() {
        let readme = include_str!("../../README.md");
        let (_, table) = readme.split_once("| command | does |").unwrap();
        let lines: Vec<_> =
            table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
        let program = <CommandLine as clap::CommandFactory>::command();
        let names: Vec<_> = program.get_subcommands().map(clap::Command::get_name).collect();
        for name in &names {
            assert!(
                lines.iter().any(|line| line.starts_with(&format!("| `usher {name}"))),
                "{name}"
            );
        }
        for line in lines {
            let mut words = line
                .split(|c: char| !(c.is_alphanumeric() || "-_".contains(c)))
                .skip_while(|word| *word != "usher")
                .skip(1);
            let command = words
                .next()
                .and_then(|name| program.find_subcommand(name))
                .unwrap_or_else(|| panic!("{line}"));
            let below = command.get_subcommands().flat_map(clap::Command::get_arguments);
            let options: Vec<_> =
                command.get_arguments().chain(below).filter_map(clap::Arg::get_long).collect();
            for option in words.filter_map(|word| word.strip_prefix("--")) {
                assert!(options.contains(&option), "--{option} of {line}");
            }
        }
    }

    #[test]
    fn a_command_that_is_none_is_found_wherever_it_stands() {
        let faults = |script: &str| faults_of(&format!("```sh\n{script}\n```\n")).0.len();
        for good in [
            "usher check --offline   # usher chekc",
            "echo 'usher chekc'",
            "TOKEN=$(usher token inspect)",
            "x \"$(usher check)\"",
            "usher \\\n  check",
            "usher schema > folder/usher",
        ] {
            assert_eq!(faults(good), 0, "{good}");
        }
        for bad in [
            "usher chekc",
            "usher schema > file --nope",
            "A=b usher check --nope",
            "true | ./target/debug/usher check --nope",
            "TOKEN=$(usher token mint)",
            "x \"$(usher chekc)\"",
        ] {
            assert_eq!(faults(bad), 1, "{bad}");
        }
    }
}
