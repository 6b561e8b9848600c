//! `usher explain`: shows what would happen to a request, check by check, and what to change.
//!
//! It judges by the configuration file, like a process that has just started. `src/explain` does
//! the work. The admin page asks a running process the same.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command prints its result")]

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustls::pki_types::CertificateDer;

use crate::base::clock::{Now, UnixMillis};
use crate::base::input::{read_file, read_stdin};
use crate::exit::Exit;
use crate::explain::page;
use crate::explain::{
    ExplainedRequest, Explainer, GivenCredential, InspectionScope, RequestFields, header_line,
};
use crate::model::method::Method;
use crate::model::secret::Secret;
use crate::net::tls::pem::read_certificates;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The URL of the request: wss:// or ws:// for an upgrade, https:// or http:// for a plain
    /// request
    url: String,
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration
    /// folder [env: USHER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A header of the request; put secrets into a file instead
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A file with headers, one per line, or `-` for standard input; a whole request head is
    /// accepted
    #[arg(long, value_name = "FILE")]
    headers_file: Option<PathBuf>,
    /// A file with a token, or `-`; sent by the first method of the route that can carry it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with a ticket, or `-`; it is not redeemed
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    ticket_file: Option<PathBuf>,
    /// A file with the value of a Cookie header, or `-`
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,
    /// A file with the client's certificate and its chain, in PEM
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// The method by which the token or ticket is sent; without it, the first method of the route
    /// that can carry it
    #[arg(long = "as", value_name = "METHOD", value_parser = method)]
    chosen_method: Option<Method>,
    /// The Origin of the page
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    peer: IpAddr,
    /// The address of the listener; without it, the listener with the URL's port
    #[arg(long, value_name = "ADDRESS")]
    listener: Option<SocketAddr>,
    /// The method of the request
    #[arg(long, value_name = "NAME", default_value = "GET")]
    method: String,
    /// Check as of this time in RFC 3339, such as 2026-11-21T14:05:00Z; without it, now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixMillis>,
    /// Do not fetch keys and do not ask verifiers; use the keys that a running Usher has saved
    #[arg(long)]
    offline: bool,
    /// Accept test identities, as `usher run --allow-bypass` does
    #[arg(long)]
    allow_bypass: bool,
    /// Show the values of all claims; without it, only of those that decide
    #[arg(long)]
    claims: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// An error in the command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExplainUsage(pub String);

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = crate::admin_client::find_config(arguments.config.clone())?;
    let mut config = crate::config::load(&path)?.config;
    // Without the flag, `usher run` does not start if a route accepts test identities. Here only
    // the identity is refused.
    config.bypass.is_allowed = arguments.allow_bypass;
    let now = Now::read();
    let now = Now { wall: arguments.at.unwrap_or(now.wall), ..now };
    let explained = request(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let within = runtime.enter();
    let explainer = match Explainer::new(config) {
        Ok(explainer) => explainer,
        Err(error) => {
            eprintln!("usher: {error}");
            return Ok(Exit::Config.into());
        }
    };
    drop(within);
    let explanation = runtime.block_on(Box::pin(explainer.explain(&explained, now)));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!(
            "{}",
            page::page(&explanation, crate::base::terminal::is_coloured(&std::io::stdout()))
        );
    }
    let exit = match explanation.verdict.let_in {
        Some(true) => Exit::Ok,
        Some(false) => Exit::Failed,
        None => Exit::Unavailable,
    };
    Ok(exit.into())
}

/// Reads the request from the arguments and the files that they name.
fn request(arguments: &Arguments) -> anyhow::Result<ExplainedRequest> {
    let files = [
        &arguments.headers_file,
        &arguments.token_file,
        &arguments.ticket_file,
        &arguments.cookie_file,
    ];
    if files.into_iter().flatten().filter(|file| is_stdin(file)).count() > 1 {
        return Err(ExplainUsage("only one file can be `-`, standard input".to_owned()).into());
    }
    let mut headers = Vec::new();
    for line in &arguments.headers {
        headers.push(
            header_line(line)
                .ok_or_else(|| ExplainUsage("--header must be 'NAME: VALUE'".to_owned()))?,
        );
    }
    let on_command_line = headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    if let Some(text) = read(arguments.headers_file.as_ref())? {
        headers.extend(text.lines().filter(|line| !line.trim().is_empty()).filter_map(header_line));
    }
    if let Some(origin) = &arguments.origin {
        headers.push(("Origin".to_owned(), origin.clone()));
    }
    if let Some(cookies) = read(arguments.cookie_file.as_ref())? {
        let cookies = cookies.trim();
        let value = cookies.strip_prefix("Cookie:").unwrap_or(cookies).trim().to_owned();
        headers.push(("Cookie".to_owned(), value));
    }
    let given = |text: String| Secret::from(text.trim());
    let token =
        read(arguments.token_file.as_ref())?.map(|text| GivenCredential::Token(given(text)));
    let ticket =
        read(arguments.ticket_file.as_ref())?.map(|text| GivenCredential::Ticket(given(text)));
    let may_ask = !arguments.offline;
    let request = ExplainedRequest::of(RequestFields {
        url: arguments.url.clone(),
        method: arguments.method.clone(),
        headers,
        credential: token.or(ticket),
        chosen_method: arguments.chosen_method,
        certificate: certificate(arguments.certificate_file.as_deref())?,
        peer: arguments.peer,
        listener: arguments.listener,
        scope: InspectionScope {
            fetches_keys: may_ask,
            asks_verifiers: may_ask,
            sees_memory: false,
        },
        claims: arguments.claims,
        on_command_line: Some(on_command_line),
    });
    Ok(request.map_err(ExplainUsage)?)
}

fn certificate(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, ExplainUsage> {
    let Some(file) = file else { return Ok(Vec::new()) };
    read_certificates(file)
        .map_err(|problem| ExplainUsage(format!("{}: {problem}", file.display())))
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn read(file: Option<&PathBuf>) -> anyhow::Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let text = if is_stdin(file) { read_stdin() } else { read_file(file) };
    // A usage error has its own exit code.
    text.map(Some).map_err(|error| ExplainUsage(format!("{error:#}")).into())
}

fn method(text: &str) -> Result<Method, String> {
    let names: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
    Method::ALL
        .into_iter()
        .find(|method| method.name() == text)
        .ok_or_else(|| format!("must be one of {}", names.join(", ")))
}

fn time(text: &str) -> Result<UnixMillis, String> {
    UnixMillis::from_rfc3339(text)
        .ok_or_else(|| "write the time as 2026-11-21T14:05:00Z".to_owned())
}
