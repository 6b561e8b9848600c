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

mod arguments;
mod chart;
pub mod client;
mod compare;
mod connection;
mod facts;
mod html;
mod idle;
mod load;
mod plot;
mod progress;
mod report;
mod tally;
pub mod target;
mod work;

use std::fs::OpenOptions;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::exit::Exit;
use crate::model::secret::Secret;
use crate::ws::frame::Message;
pub use arguments::Arguments;
use arguments::{
    AuthKind, ConnectArguments, IdleArguments, MessagesArguments, Mode, TargetArguments,
};
use client::{BenchClient, BenchCredential};
use facts::{CpuTime, RunFacts, harmless_url};
use load::{LoadPlan, Pace};
use progress::{Goal, Progress};
use report::{Measured, MemoryReport, Report};
use target::{Target, TargetError, Trust};
use work::{BenchServer, Plan, Work};

/// Mistakes in the command line that are found only when it runs.
#[derive(Debug, thiserror::Error)]
pub enum BenchUsage {
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
    #[error(
        "{connections} connections cannot be divided into {rounds} rounds; raise --connections or \
         lower --rounds"
    )]
    Rounds { connections: u64, rounds: u64 },
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.mode {
        None => arguments.connect.run(),
        Some(Mode::Connect(connect)) => connect.run(),
        Some(Mode::Messages(messages)) => messages.run(),
        Some(Mode::Idle(idle)) => idle.run(),
    }
}

impl ConnectArguments {
    fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = &self.endpoint;
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
        let rounds = u64::from(self.comparison.rounds);
        if self.comparison.compare.is_some() && connections < rounds {
            return Err(BenchUsage::Rounds { connections, rounds }.into());
        }
        let load = LoadPlan { connections, concurrency: usize::try_from(concurrency)?, pace };
        let first_echo = (!self.no_echo).then(|| Message::text(self.message.clone()));
        let plan = Plan::of(&self.comparison, |url, pids| {
            let mut client = endpoint.client(url)?;
            client.first_echo.clone_from(&first_echo);
            Ok(BenchServer::new(url.unwrap_or(endpoint.url()), client, pids))
        })?;
        let facts = RunFacts::of_this_run("connect", Some(pace));
        endpoint.finish(plan.run(&Work::Connect(load), facts, endpoint.quiet)?)
    }
}

impl MessagesArguments {
    fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = &self.endpoint;
        enough_descriptors(u64::from(self.connections))?;
        let plan = Plan::of(&self.comparison, |url, pids| {
            let mut client = endpoint.client(url)?;
            client.message_bytes = self.size;
            Ok(BenchServer::new(url.unwrap_or(endpoint.url()), client, pids))
        })?;
        let work = Work::Messages {
            connections: usize::try_from(self.connections)?,
            message: Message::text("x".repeat(self.size)),
            duration: self.duration,
        };
        let facts = RunFacts::of_this_run("messages", None);
        endpoint.finish(plan.run(&work, facts, endpoint.quiet)?)
    }
}

impl IdleArguments {
    fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = &self.endpoint;
        let client = Arc::new(endpoint.client(None)?);
        enough_descriptors(u64::from(self.connections))?;
        let connections = u64::from(self.connections);
        let idle = idle::IdleRun {
            pids: self.pids.clone(),
            connections,
            step: u64::from(self.step),
            hold: self.hold,
        };
        let facts = RunFacts::of_this_run("idle", None);
        let before = CpuTime::read(&self.pids)?;
        let progress = Progress::new(Goal::Connections(connections), endpoint.quiet);
        let outcome = idle::run(&client, &idle, &progress)?;
        let cpu = CpuTime::read(&self.pids)?.since(before);
        let memory =
            MemoryReport { table: outcome.table(), fields: outcome.json(), lost: outcome.lost };
        let url = harmless_url(endpoint.url());
        let first = Measured { url, tally: outcome.tally, cpu };
        endpoint.finish(Report { facts, first, compared: None, memory: Some(memory) })
    }
}

impl TargetArguments {
    fn url(&self) -> &str {
        self.url.as_deref().unwrap_or_default()
    }

    /// Returns a client of this URL, or of the endpoint's own.
    fn client(&self, url: Option<&str>) -> anyhow::Result<BenchClient> {
        if let Some(path) = &self.html {
            check_writable(path)?;
        }
        let trust =
            Trust { ca: self.ca.as_deref(), insecure: self.insecure, resume: self.tls_resume };
        let url = url.unwrap_or(self.url());
        let target =
            Target::find(url, trust, self.yes_i_may_load_this_host).map_err(BenchUsage::from)?;
        let token = || -> anyhow::Result<Secret> {
            self.token()?.ok_or_else(|| BenchUsage::NoToken(self.auth.word()).into())
        };
        let credential = match self.auth {
            AuthKind::Ticket => BenchCredential::Ticket {
                token: token()?,
                path: self.ticket_path.clone(),
                parameter: self.ticket_parameter.clone(),
            },
            AuthKind::Message => BenchCredential::Message {
                token: token()?,
                preset: self.preset,
                awaits_answer: !self.no_ack,
            },
            AuthKind::Header => BenchCredential::Header { token: token()? },
            AuthKind::None if self.token_env.is_some() || self.token_file.is_some() => {
                return Err(BenchUsage::NoAuth.into());
            }
            AuthKind::None => BenchCredential::None,
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

    /// Prints the report, and writes the page.
    fn finish(&self, report: Report) -> anyhow::Result<ExitCode> {
        if self.json {
            println!("{}", report.json());
        } else {
            print!("{}", report.text());
        }
        if let Some(path) = &self.html {
            std::fs::write(path, report.html())
                .with_context(|| format!("cannot write the report {}", path.display()))?;
        }
        // A run that was stopped early is not a success.
        let is_success = !report.is_partial() && report.failed() <= self.tolerate;
        Ok(if is_success { Exit::Ok } else { Exit::Failed }.into())
    }
}

/// Fails before the load begins if the file cannot be written after it.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).with_context(|| format!("cannot write the report {}", path.display()))
}

fn enough_descriptors(need: u64) -> Result<u64, BenchUsage> {
    let have = descriptors();
    // The runtimes and the standard streams also need descriptors.
    if need + 50 > have { Err(BenchUsage::Descriptors { need, have }) } else { Ok(need) }
}

/// Returns the limit of file descriptors of this process. If it is unknown, there is no limit.
fn descriptors() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(u64::MAX)
}
