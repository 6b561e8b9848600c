//! `usher explain`: what would become of a request, check by check, and what to change.
//!
//! It builds from the configuration what serving is built from and asks the functions that serve: `walk.rs` goes the way of an
//! upgrade (`door.rs`, `credential.rs`, `rollout.rs` are its stations, `told.rs` gathers what they say), `request.rs` makes the bytes that a client would send, `token.rs` puts a token's checks into words, `advice.rs` says
//! what to do about a refusal, `page.rs` writes it all down. Nothing is spent, dialled or written.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's product is what it prints")]

mod advice;
mod credential;
mod door;
mod page;
mod request;
mod rollout;
#[cfg(test)]
mod tests;
mod token;
mod told;
mod walk;

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::exit::Exit;
use crate::auth::credential::Method;
use crate::clock::{Now, UnixMillis};
use request::Asked;
use walk::World;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What the client asks for: wss:// or ws:// for an upgrade, https:// or http:// for a plain request
    url: String,
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration folder
    #[arg(short, long, value_name = "FILE", env = "USHER_CONFIG")]
    config: Option<PathBuf>,
    /// A header of the request; for secrets take a file
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A file with headers, one a line, or `-` for standard input; a whole request head will do
    #[arg(long, value_name = "FILE")]
    headers_file: Option<PathBuf>,
    /// A file with a token, or `-`; it is shown as the route's clients do
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with a ticket, or `-`; it is looked at and not redeemed
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    ticket_file: Option<PathBuf>,
    /// A file with the value of a Cookie header, or `-`
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,
    /// A file with the client's certificate and its chain, in PEM
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// By which method the token or ticket is shown, where it is not the first of the route that can carry it
    #[arg(long = "as", value_name = "METHOD", value_parser = method)]
    method_wanted: Option<Method>,
    /// The Origin of the page that asks
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// The address that the connection comes from
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    peer: IpAddr,
    /// The listener that takes it, where the URL's port does not say
    #[arg(long, value_name = "ADDRESS")]
    listener: Option<SocketAddr>,
    /// The method of the request
    #[arg(long, value_name = "NAME", default_value = "GET")]
    method: String,
    /// Judge as of this time (RFC 3339, such as 2026-11-21T14:05:00Z) and not of now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixMillis>,
    /// Fetch no keys; those that a running Usher has kept are used
    #[arg(long)]
    offline: bool,
    /// Take test identities, as `usher run --allow-bypass` does
    #[arg(long)]
    allow_bypass: bool,
    /// Show the values of all claims, not only of those that decide
    #[arg(long)]
    claims: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// The command line asks for what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = super::find_config(arguments.config.clone())?;
    let mut config = crate::config::load(&path)?.config;
    // A route with test identities keeps a process without the flag from starting; here it is only refused.
    config.bypass.is_allowed = arguments.allow_bypass;
    let now = Now::read();
    let now = Now { wall: arguments.at.unwrap_or(now.wall), ..now };
    let asked = Asked::read(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let within = runtime.enter();
    let world = match World::open(config) {
        Ok(world) => world,
        Err(error) => {
            eprintln!("usher: {error}");
            return Ok(Exit::Config.into());
        }
    };
    drop(within);
    let explanation = runtime.block_on(Box::pin(world.explain(&asked, now)));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print!("{}", page::page(&explanation, is_coloured));
    }
    let exit = match explanation.verdict.let_in {
        Some(true) => Exit::Ok,
        Some(false) => Exit::Failed,
        None => Exit::Unavailable,
    };
    Ok(exit.into())
}

fn method(text: &str) -> Result<Method, String> {
    let names: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
    Method::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn time(text: &str) -> Result<UnixMillis, String> {
    UnixMillis::from_rfc3339(text).ok_or_else(|| "write it as 2026-11-21T14:05:00Z".to_owned())
}
