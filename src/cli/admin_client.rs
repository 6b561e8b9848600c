//! One request to the admin listener of a running Usher.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::exit::Exit;
use super::token::read_file;
use crate::config::secret::Secret;

const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_ANSWER: u64 = 16 << 20;

/// Where it listens, and what it asks for: as the configuration says, unless it is said here.
#[derive(Debug, clap::Args)]
pub struct AdminArguments {
    /// Address of the admin listener, instead of the configuration's
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The environment variable that holds the admin token, where --admin is given
    #[arg(long, value_name = "NAME", requires = "admin")]
    admin_token_env: Option<String>,
    /// The file that holds the admin token, where --admin is given
    #[arg(long, value_name = "FILE", requires = "admin", conflicts_with = "admin_token_env")]
    admin_token_file: Option<PathBuf>,
    /// The configuration file; without it, `usher.toml` here, then in the system's configuration folder
    #[arg(short, long, value_name = "FILE", env = "USHER_CONFIG", conflicts_with = "admin")]
    config: Option<PathBuf>,
}

#[derive(Debug)]
pub struct AdminClient {
    address: SocketAddr,
    token: Option<Secret>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// Nobody listens there, or nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the admin listener at {0}: {1}")]
pub struct Unavailable(SocketAddr, std::io::Error);

impl AdminArguments {
    pub fn find(self) -> anyhow::Result<AdminClient> {
        let Some(written) = self.admin else {
            let file = super::find_config(self.config)?;
            let admin = crate::config::load_admin(&file)?.with_context(|| {
                format!("{} has no [admin]: a running Usher is reached at its address, or with --admin HOST:PORT", file.display())
            })?;
            return Ok(AdminClient { address: admin.address, token: admin.token });
        };
        let address = written.strip_prefix("http://").unwrap_or(&written).trim_end_matches('/');
        let address = address.to_socket_addrs().with_context(|| format!("--admin {written}: write HOST:PORT"))?.next();
        let token = match (self.admin_token_env, self.admin_token_file) {
            (Some(name), _) => Some(std::env::var(&name).with_context(|| format!("the environment has no {name}"))?),
            (None, Some(file)) => Some(read_file(&file)?),
            (None, None) => None,
        };
        let token = token.map(|token| Secret::from(token.trim_end_matches(['\r', '\n'])));
        Ok(AdminClient { address: address.with_context(|| format!("--admin {written}: the name has no address"))?, token })
    }
}

impl AdminClient {
    pub fn get(&self, target: &str) -> anyhow::Result<Answer> {
        let answer = self.ask(format!("GET {target} HTTP/1.1\r\n"), "")?;
        anyhow::ensure!(answer.exit() != Exit::Ok || answer.body.is_object(), "the answer is not whole, or longer than can be read");
        Ok(answer)
    }

    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let body = body.to_string();
        self.ask(format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len()), &body)
    }

    fn ask(&self, mut head: String, body: &str) -> anyhow::Result<Answer> {
        let _ = write!(head, "Host: {}\r\nConnection: close\r\n", self.address);
        if let Some(token) = self.token.as_ref().and_then(Secret::expose_str) {
            head.push_str("Authorization: Bearer ");
            head.push_str(token);
            head.push_str("\r\n");
        }
        let answer = self.exchange(&format!("{head}\r\n{body}")).map_err(|error| Unavailable(self.address, error))?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").context("the admin listener does not speak HTTP")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.filter(|_| head.starts_with("HTTP/1.")).context("the admin listener does not speak HTTP")?;
        Ok(Answer { status, body: serde_json::from_str(body).unwrap_or_default() })
    }

    fn exchange(&self, request: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl Answer {
    pub fn exit(&self) -> Exit {
        match self.status {
            200..=299 => Exit::Ok,
            400 => Exit::Usage,
            401 | 403 => Exit::Permission,
            _ => Exit::Failed,
        }
    }

    pub fn message(&self) -> String {
        let message = self.body.get("message").and_then(Value::as_str);
        message.map_or_else(|| format!("the admin listener answered {}", self.status), str::to_owned)
    }
}
