//! `usher demo`: starts a whole example on this machine.
//!
//! It starts a chat backend and a site with a development issuer. It writes a configuration, runs
//! the real proxy with it, and prints the addresses. Everything listens on loopback. There is no
//! flag for another address, because the issuer does not ask for a password.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

mod answers;
mod backend;
mod chat;
mod configuration;
mod files;
mod introduction;
mod issuer;
mod server;
mod site;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

use self::backend::Backend;
use self::chat::Room;
use self::configuration::{DemoServers, Ports, configuration};
use self::files::{TemporaryFolder, write_files};
use self::introduction::{Colours, introduction};
use self::issuer::DevelopmentIssuer;
use self::server::DemoServer;
use self::site::Site;
use crate::app::{App, Reloading};
use crate::net::passed::PassedSockets;

/// Try Usher with a chat, a login and the proxy, on loopback only.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The port of the plain listener, which browsers open without a certificate warning; if it is
    /// in use, another one
    #[arg(long, default_value_t = 7080)]
    pub port: u16,
    /// The port of the TLS listener; if it is in use, another one
    #[arg(long, default_value_t = 7443)]
    pub tls_port: u16,
    /// The port of the admin listener; if it is in use, another one
    #[arg(long, default_value_t = 7090)]
    pub admin_port: u16,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let folder = TemporaryFolder::create()?;
    let issuer = DevelopmentIssuer::new(write_files(&folder.path)?);
    let ports = Ports::choose(&arguments)?;
    let room = Arc::new(Room::new());
    let chat = DemoServer::start("demo-chat", Arc::new(Backend { room: Arc::clone(&room) }))?;
    let admin = SocketAddr::from(([127, 0, 0, 1], ports.admin));
    let site = Site { issuer, room, backend: chat.restart(), admin };
    let site = DemoServer::start("demo-site", Arc::new(site))?;
    let servers = DemoServers { site: site.address, chat: chat.address };
    let text = configuration(&folder.path, ports, servers);
    let proxy = start_proxy(&text)?;
    let introduction = introduction(&folder.path, ports, &text, Colours::of_stdout());
    // If the reader has closed the pipe, the demo continues.
    let _ = std::io::stdout().write_all(introduction.as_bytes());
    proxy.run(Reloading::default()).context("the proxy failed")?;
    // The proxy ends first, so that it does not send clients to a server that has ended.
    drop((site, chat));
    drop(folder);
    Ok(ExitCode::SUCCESS)
}

/// Builds a proxy with bound listeners from the text of its configuration.
fn start_proxy(text: &str) -> anyhow::Result<App> {
    let loaded = crate::config::parse(text, None, &|_| None).map_err(|diagnostics| {
        anyhow::anyhow!("the demo's own configuration is not valid:\n{diagnostics}")
    })?;
    App::build(loaded.config, PassedSockets::default(), None).context("the proxy cannot start")
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
