//! The command line of `usher bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http::HeaderValue;

use super::client::Preset;
use super::target;
use crate::config::value;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) mode: Option<Mode>,
    #[command(flatten)]
    pub(super) connect: ConnectArguments,
}

impl Arguments {
    /// Makes `--key-exchange` the only one that this process offers. Must come before any other use
    /// of TLS.
    pub fn install_key_exchange(&self) {
        let endpoint = match &self.mode {
            None => &self.connect.endpoint,
            Some(Mode::Connect(connect)) => &connect.endpoint,
            Some(Mode::Messages(messages)) => &messages.endpoint,
            Some(Mode::Idle(idle)) => &idle.endpoint,
        };
        if let Some(key_exchange) = endpoint.key_exchange {
            target::offer_only(key_exchange.group());
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Mode {
    /// Open connections, wait for a first echo, and close them (the default)
    Connect(ConnectArguments),
    /// Send messages on open connections and wait for their echoes
    Messages(MessagesArguments),
    /// Hold idle connections and read the memory of the server
    Idle(IdleArguments),
}

#[derive(Debug, Args)]
pub(super) struct ConnectArguments {
    #[command(flatten)]
    pub(super) endpoint: TargetArguments,
    /// The number of connections; each begins when an earlier one has ended
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    pub(super) connections: u64,
    /// The most connections at the same time; by default 50, or 10000 with --rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) concurrency: Option<u32>,
    /// The number of connections that begin per second, even if earlier ones have not ended
    #[arg(
        long,
        value_name = "N",
        requires = "duration",
        conflicts_with = "connections",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub(super) rate: Option<u32>,
    /// How long new connections begin
    #[arg(long, requires = "rate", value_parser = value::duration)]
    pub(super) duration: Option<Duration>,
    /// The message to send when the connection is open, and whose echo is measured
    #[arg(long, value_name = "TEXT", default_value = "usher bench")]
    pub(super) message: String,
    /// Send no message, because the endpoint does not echo
    #[arg(long)]
    pub(super) no_echo: bool,
    #[command(flatten)]
    pub(super) comparison: Comparison,
}

#[derive(Debug, Args)]
pub(super) struct MessagesArguments {
    #[command(flatten)]
    pub(super) endpoint: TargetArguments,
    /// The number of connections
    #[arg(
        long,
        value_name = "N",
        default_value = "50",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub(super) connections: u32,
    /// The size of each message
    #[arg(long, default_value = "64B", value_parser = value::size)]
    pub(super) size: usize,
    /// How long messages are sent
    #[arg(long, default_value = "10s", value_parser = value::duration)]
    pub(super) duration: Duration,
    #[command(flatten)]
    pub(super) comparison: Comparison,
}

#[derive(Debug, Args)]
pub(super) struct Comparison {
    /// Another endpoint, measured in turns with the first one: A B, B A, A B, ...
    #[arg(long, value_name = "URL")]
    pub(super) compare: Option<String>,
    /// The number of rounds; each target gets its share of the load in each round
    #[arg(
        long,
        value_name = "N",
        requires = "compare",
        default_value = "10",
        value_parser = clap::value_parser!(u32).range(6..=1000),
    )]
    pub(super) rounds: u32,
    /// The process of the server on this machine, for its CPU time; may be given more than once
    #[arg(long = "pid", value_name = "PID")]
    pub(super) pids: Vec<u32>,
    /// The process of the other server; may be given more than once
    #[arg(long = "compare-pid", value_name = "PID", requires = "compare")]
    pub(super) compare_pids: Vec<u32>,
}

#[derive(Debug, Args)]
pub(super) struct IdleArguments {
    #[command(flatten)]
    pub(super) endpoint: TargetArguments,
    /// The process of the server, on this machine; may be given more than once
    #[arg(long = "pid", value_name = "PID", required = true)]
    pub(super) pids: Vec<u32>,
    /// The number of connections
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub(super) connections: u32,
    /// The number of connections between two readings
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub(super) step: u32,
    /// How long all connections stay open
    #[arg(long, default_value = "5s", value_parser = value::duration)]
    pub(super) hold: Duration,
}

#[derive(Debug, Args)]
pub(super) struct TargetArguments {
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is the help, without Markdown")]
    /// ws://HOST[:PORT]/PATH or wss://HOST[:PORT]/PATH
    // `Option`, because clap does not set the argument before a mode.
    #[arg(required = true)]
    pub(super) url: Option<String>,
    /// How the connections authenticate
    #[arg(long, value_enum, default_value = "none")]
    pub(super) auth: AuthKind,
    /// The environment variable with the bearer token
    #[arg(long, value_name = "NAME", conflicts_with = "token_file")]
    pub(super) token_env: Option<String>,
    /// The file with the bearer token
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The path of the ticket endpoint
    #[arg(long, value_name = "PATH", default_value = "/websocket/ticket")]
    pub(super) ticket_path: String,
    /// The query parameter that carries the ticket
    #[arg(long, value_name = "NAME", default_value = "ticket")]
    pub(super) ticket_parameter: String,
    /// The format of the first message for `--auth message`
    #[arg(long, value_enum, default_value = "json")]
    pub(super) preset: Preset,
    /// Do not wait for an answer to the first message
    #[arg(long)]
    pub(super) no_ack: bool,
    /// The Origin header to send
    #[arg(long)]
    pub(super) origin: Option<HeaderValue>,
    /// Trust the certificates in this file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, conflicts_with = "ca")]
    pub(super) insecure: bool,
    /// Resume TLS sessions; without it, every handshake is a full one
    #[arg(long)]
    pub(super) tls_resume: bool,
    /// The only key exchange to offer; by default all
    #[arg(long, value_enum)]
    pub(super) key_exchange: Option<KeyExchange>,
    /// The timeout of each connection until its first echo, and of each message
    #[arg(long, default_value = "10s", value_parser = value::duration)]
    pub(super) timeout: Duration,
    /// How many connections may fail before the exit code is 1
    #[arg(long, value_name = "N", default_value = "0")]
    pub(super) tolerate: u64,
    /// Print a JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Also write the report into this file, as one HTML page without scripts
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Show no progress
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Allow a host that is not this machine
    #[arg(long)]
    pub(super) yes_i_may_load_this_host: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AuthKind {
    /// A ticket in the query, requested with the token before each connection
    Ticket,
    /// The token in the first message, in the format of --preset
    Message,
    /// The token in the Authorization header
    Header,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KeyExchange {
    X25519,
    P256,
    P384,
    X25519mlkem768,
}

impl KeyExchange {
    pub(super) fn group(self) -> rustls::NamedGroup {
        match self {
            Self::X25519 => rustls::NamedGroup::X25519,
            Self::P256 => rustls::NamedGroup::secp256r1,
            Self::P384 => rustls::NamedGroup::secp384r1,
            Self::X25519mlkem768 => rustls::NamedGroup::X25519MLKEM768,
        }
    }
}

impl AuthKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Message => "message",
            Self::Header => "header",
            Self::None => "none",
        }
    }
}
