//! `usher bench`: measures how fast an endpoint accepts clients, how fast it echoes, and how much
//! memory an idle connection costs.
//!
//! It works with any WebSocket endpoint, so that Usher can be compared with others. Tokens come
//! from the environment or a file, never from arguments.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

pub mod client;
mod connection;
mod idle;
mod load;
mod report;
pub mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use http::HeaderValue;
use serde_json::{Map, Value};

use super::exit::Exit;
use crate::config::value;
use crate::model::secret::Secret;
use crate::ws::frame::Message;
use client::{BenchClient, Credential, Preset};
use load::{Load, Pace};
use report::{Progress, Tally};
use target::{Target, TargetError, Trust};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Open connections, wait for a first echo, and close them (the default)
    Connect(Connect),
    /// Send messages on open connections and wait for their echoes
    Messages(Messages),
    /// Hold idle connections and read the memory of the server
    Idle(Idle),
}

#[derive(Debug, Args)]
struct Connect {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The number of connections; each begins when an earlier one has ended
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    connections: u64,
    /// The most connections at the same time; by default 50, or 10000 with --rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// The number of connections that begin per second, even if earlier ones have not ended
    #[arg(
        long,
        value_name = "N",
        requires = "duration",
        conflicts_with = "connections",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    rate: Option<u32>,
    /// How long new connections begin
    #[arg(long, requires = "rate", value_parser = value::duration)]
    duration: Option<Duration>,
    /// The message to send when the connection is open, and whose echo is measured
    #[arg(long, value_name = "TEXT", default_value = "usher bench")]
    message: String,
    /// Send no message, because the endpoint does not echo
    #[arg(long)]
    no_echo: bool,
}

#[derive(Debug, Args)]
struct Messages {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The number of connections
    #[arg(
        long,
        value_name = "N",
        default_value = "50",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    connections: u32,
    /// The size of each message
    #[arg(long, default_value = "64B", value_parser = value::size)]
    size: usize,
    /// How long messages are sent
    #[arg(long, default_value = "10s", value_parser = value::duration)]
    duration: Duration,
}

#[derive(Debug, Args)]
struct Idle {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The process of the server, on this machine; may be given more than once
    #[arg(long = "pid", value_name = "PID", required = true)]
    pids: Vec<u32>,
    /// The number of connections
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    connections: u32,
    /// The number of connections between two readings
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    step: u32,
    /// How long all connections stay open
    #[arg(long, default_value = "5s", value_parser = value::duration)]
    hold: Duration,
}

#[derive(Debug, Args)]
struct Endpoint {
    /// ws://HOST[:PORT]/PATH or wss://HOST[:PORT]/PATH
    // `Option`, because clap does not set the argument before a mode.
    #[arg(required = true)]
    url: Option<String>,
    /// How the connections authenticate
    #[arg(long, value_enum, default_value = "none")]
    auth: Auth,
    /// The environment variable with the bearer token
    #[arg(long, value_name = "NAME", conflicts_with = "token_file")]
    token_env: Option<String>,
    /// The file with the bearer token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The path of the ticket endpoint
    #[arg(long, value_name = "PATH", default_value = "/websocket/ticket")]
    ticket_path: String,
    /// The query parameter that carries the ticket
    #[arg(long, value_name = "NAME", default_value = "ticket")]
    ticket_parameter: String,
    /// The format of the first message for `--auth message`
    #[arg(long, value_enum, default_value = "json")]
    preset: Preset,
    /// Do not wait for an answer to the first message
    #[arg(long)]
    no_ack: bool,
    /// The Origin header to send
    #[arg(long)]
    origin: Option<HeaderValue>,
    /// Trust the certificates in this file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Resume TLS sessions; without it, every handshake is a full one
    #[arg(long)]
    tls_resume: bool,
    /// The only key exchange to offer; by default all
    #[arg(long, value_enum)]
    key_exchange: Option<KeyExchange>,
    /// The timeout of each connection until its first echo, and of each message
    #[arg(long, default_value = "10s", value_parser = value::duration)]
    timeout: Duration,
    /// How many connections may fail before the exit code is 1
    #[arg(long, value_name = "N", default_value = "0")]
    tolerate: u64,
    /// Print a JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Allow a host that is not this machine
    #[arg(long)]
    yes_i_may_load_this_host: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    /// A ticket in the query, requested with the token before each connection
    Ticket,
    /// The token in the first message, in the format of --preset
    Message,
    /// The token in the Authorization header
    Header,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyExchange {
    X25519,
    P256,
    P384,
    X25519mlkem768,
}

/// Mistakes in the command line that are found only when it runs.
#[derive(Debug, thiserror::Error)]
pub enum Usage {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("--auth {0} needs --token-env or --token-file")]
    NoToken(&'static str),
    #[error("a token needs --auth ticket, --auth message or --auth header")]
    NoAuth,
    #[error(
        "{need} connections need more than the {have} file descriptors of this process; raise the \
         limit with `ulimit -n {}`",
        need + 100
    )]
    Descriptors { need: u64, have: u64 },
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.mode {
        None => arguments.connect.run(),
        Some(Mode::Connect(connect)) => connect.run(),
        Some(Mode::Messages(messages)) => messages.run(),
        Some(Mode::Idle(idle)) => idle.run(),
    }
}

impl Connect {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut client = self.endpoint.client()?;
        client.first_echo = (!self.no_echo).then(|| Message::text(self.message));
        let (connections, pace) = match (self.rate, self.duration) {
            (Some(rate), Some(duration)) => {
                let per_second = f64::from(rate);
                ((per_second * duration.as_secs_f64()).ceil() as u64, Pace::Open { per_second })
            }
            _ => (self.connections, Pace::Closed),
        };
        let usual = if matches!(pace, Pace::Closed) { 50 } else { 10_000 };
        let concurrency = u64::from(self.concurrency.unwrap_or(usual)).min(connections);
        // Without --concurrency, the limit of an open loop comes from the file descriptors.
        let concurrency = match (self.concurrency, pace) {
            (None, Pace::Open { .. }) => concurrency.min(descriptors().saturating_sub(100)),
            _ => enough_descriptors(concurrency)?,
        };
        let load = Load { connections, concurrency: usize::try_from(concurrency)?, pace };
        let tally = load::connect(&Arc::new(client), &load, &Arc::default())?;
        Ok(self.endpoint.report(&tally, &tally.table(), tally.json(), 0))
    }
}

impl Messages {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut client = self.endpoint.client()?;
        client.message_bytes = self.size;
        enough_descriptors(u64::from(self.connections))?;
        let message = Message::text("x".repeat(self.size));
        let tally = load::messages(
            &Arc::new(client),
            usize::try_from(self.connections)?,
            &message,
            self.duration,
            &Arc::default(),
        )?;
        Ok(self.endpoint.report(&tally, &tally.table(), tally.json(), 0))
    }
}

impl Idle {
    fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.endpoint.client()?;
        enough_descriptors(u64::from(self.connections))?;
        let idle = idle::Idle {
            pids: self.pids.clone(),
            connections: u64::from(self.connections),
            step: u64::from(self.step),
            hold: self.hold,
        };
        let outcome = idle::run(&Arc::new(client), &idle, &Progress::default())?;
        Ok(self.endpoint.report(&outcome.tally, &outcome.table(), outcome.json(), outcome.lost))
    }
}

impl Endpoint {
    fn client(&self) -> anyhow::Result<BenchClient> {
        if let Some(key_exchange) = self.key_exchange {
            target::offer_only(key_exchange.group());
        }
        let trust =
            Trust { ca: self.ca.as_deref(), insecure: self.insecure, resume: self.tls_resume };
        let target = Target::find(
            self.url.as_deref().unwrap_or_default(),
            trust,
            self.yes_i_may_load_this_host,
        )
        .map_err(Usage::from)?;
        let token = || -> anyhow::Result<Secret> {
            self.token()?.ok_or_else(|| Usage::NoToken(self.auth.word()).into())
        };
        let credential = match self.auth {
            Auth::Ticket => Credential::Ticket {
                token: token()?,
                path: self.ticket_path.clone(),
                parameter: self.ticket_parameter.clone(),
            },
            Auth::Message => Credential::Message {
                token: token()?,
                preset: self.preset,
                awaits_answer: !self.no_ack,
            },
            Auth::Header => Credential::Header { token: token()? },
            Auth::None if self.token_env.is_some() || self.token_file.is_some() => {
                return Err(Usage::NoAuth.into());
            }
            Auth::None => Credential::None,
        };
        Ok(BenchClient {
            target,
            credential,
            origin: self.origin.clone(),
            timeout: self.timeout,
            first_echo: None,
            message_bytes: 0,
        })
    }

    fn token(&self) -> anyhow::Result<Option<Secret>> {
        let text = match (&self.token_env, &self.token_file) {
            (Some(name), _) => std::env::var(name)
                .with_context(|| format!("the environment variable {name} is not set"))?,
            (None, Some(file)) => crate::base::input::read_file(file)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(Secret::from(text.trim())))
    }

    fn report(&self, tally: &Tally, table: &str, json: Map<String, Value>, lost: u64) -> ExitCode {
        if self.json {
            println!("{}", Value::Object(json));
        } else {
            print!("{table}");
        }
        // A run that was stopped early is not a success.
        if tally.is_partial || tally.failed() + lost > self.tolerate {
            Exit::Failed.into()
        } else {
            Exit::Ok.into()
        }
    }
}

impl KeyExchange {
    fn group(self) -> rustls::NamedGroup {
        match self {
            Self::X25519 => rustls::NamedGroup::X25519,
            Self::P256 => rustls::NamedGroup::secp256r1,
            Self::P384 => rustls::NamedGroup::secp384r1,
            Self::X25519mlkem768 => rustls::NamedGroup::X25519MLKEM768,
        }
    }
}

impl Auth {
    fn word(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Message => "message",
            Self::Header => "header",
            Self::None => "none",
        }
    }
}

fn enough_descriptors(need: u64) -> Result<u64, Usage> {
    let have = descriptors();
    // The runtimes and the standard streams also need descriptors.
    if need + 50 > have { Err(Usage::Descriptors { need, have }) } else { Ok(need) }
}

/// Returns the limit of file descriptors of this process. If it is unknown, there is no limit.
fn descriptors() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(u64::MAX)
}
