//! One request to the admin listener of a running Usher.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::base::input::{read_file, whole_path};
use crate::base::text::printable;
use crate::config::{Admin, AdminAddress, Config};
use crate::edge::inspect::OtherUsher;
use crate::exit::Exit;
use crate::model::secret::Secret;

const PATIENCE: Duration = Duration::from_secs(10);
/// The limit for a question about an address that another program may have.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_ANSWER: u64 = 16 << 20;

/// The address and the token of the admin listener. They come from the configuration, or from these
/// arguments.
#[derive(Debug, clap::Args)]
pub struct AdminArguments {
    /// The address of the admin listener, HOST:PORT or unix:PATH, instead of the configuration's
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The environment variable with the admin token, for --admin
    #[arg(long, value_name = "NAME", requires = "admin")]
    admin_token_env: Option<String>,
    /// The file with the admin token, for --admin
    #[arg(long, value_name = "FILE", requires = "admin", conflicts_with = "admin_token_env")]
    admin_token_file: Option<PathBuf>,
    /// The configuration file; by default `usher.toml` here or in /etc/usher [env: USHER_CONFIG]
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
}

#[derive(Debug)]
pub struct AdminClient {
    address: AdminAddress,
    token: Option<Secret>,
    patience: Duration,
}

/// The Usher that answers at the admin address of a configuration.
#[derive(Debug)]
pub struct RunningUsher {
    /// The addresses that it has bound, with that of its admin listener.
    pub addresses: Vec<SocketAddr>,
    /// `None`: it runs without a file.
    config: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

/// An answer of the admin listener.
#[derive(Debug)]
pub struct AdminAnswer {
    pub status: u16,
    /// `Null` if the answer is not JSON.
    pub body: Value,
    pub text: String,
}

/// The admin listener is not there, or does not answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the admin listener at {0}: {1}")]
pub struct Unavailable(AdminAddress, std::io::Error);

impl AdminArguments {
    pub fn find(self) -> anyhow::Result<AdminClient> {
        let Some(written) = self.admin else {
            let file = find_config(self.config)?;
            let admin = crate::config::load_admin(&file)?.with_context(|| {
                format!(
                    "{} has no [admin] with the address of a running Usher; add `[admin]`, or give \
                     --admin HOST:PORT or --admin unix:PATH",
                    file.display()
                )
            })?;
            return Ok(AdminClient::of(&admin));
        };
        let address = if written.starts_with(AdminAddress::UNIX) {
            AdminAddress::parse(&written, Path::new(""))
                .map_err(|why| anyhow::anyhow!("--admin {written}: {why}"))?
        } else {
            let address = written.strip_prefix("http://").unwrap_or(&written).trim_end_matches('/');
            let address = address
                .to_socket_addrs()
                .with_context(|| format!("--admin {written}: write HOST:PORT or unix:PATH"))?
                .next();
            AdminAddress::Tcp(
                address
                    .with_context(|| format!("--admin {written}: the host name has no address"))?,
            )
        };
        let token = match (self.admin_token_env, self.admin_token_file) {
            (Some(name), _) => Some(
                std::env::var(&name)
                    .with_context(|| format!("the environment variable {name} is not set"))?,
            ),
            (None, Some(file)) => Some(read_file(&file)?),
            (None, None) => None,
        };
        let token = token.map(|token| Secret::from(token.trim_end_matches(['\r', '\n'])));
        Ok(AdminClient { address, token, patience: PATIENCE })
    }
}

impl AdminClient {
    pub fn of(admin: &Admin) -> Self {
        let (address, token) = (admin.address.clone(), admin.token.clone());
        Self { address, token, patience: PATIENCE }
    }

    /// Returns a client for an admin listener without a token.
    pub fn at(address: SocketAddr) -> Self {
        Self { address: AdminAddress::Tcp(address), token: None, patience: PATIENCE }
    }

    pub fn get(&self, target: &str) -> anyhow::Result<AdminAnswer> {
        let answer = self.ask(format!("GET {target} HTTP/1.1\r\n"), "")?;
        anyhow::ensure!(
            answer.exit() != Exit::Ok || answer.body.is_object(),
            "the answer of the admin listener is incomplete or longer than {} MiB",
            LONGEST_ANSWER >> 20
        );
        Ok(answer)
    }

    /// Gets an answer that is text. Its last line has an end.
    pub fn get_text(&self, target: &str) -> anyhow::Result<AdminAnswer> {
        let answer = self.ask(format!("GET {target} HTTP/1.1\r\n"), "")?;
        anyhow::ensure!(
            answer.exit() != Exit::Ok || answer.text.ends_with('\n'),
            "the answer of the admin listener is incomplete or longer than {} MiB",
            LONGEST_ANSWER >> 20
        );
        Ok(answer)
    }

    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<AdminAnswer> {
        let body = body.to_string();
        self.ask(
            format!(
                "POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ),
            &body,
        )
    }

    fn ask(&self, mut head: String, body: &str) -> anyhow::Result<AdminAnswer> {
        let host = self
            .address
            .tcp()
            .map_or_else(|| "localhost".to_owned(), |address| address.to_string());
        let _ = write!(head, "Host: {host}\r\nConnection: close\r\n");
        if let Some(token) = self.token.as_ref().and_then(Secret::expose_str) {
            head.push_str("Authorization: Bearer ");
            head.push_str(token);
            head.push_str("\r\n");
        }
        let answer = self
            .exchange(&format!("{head}\r\n{body}"))
            .map_err(|error| Unavailable(self.address.clone(), error))?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, text) = answer
            .split_once("\r\n\r\n")
            .context("the answer of the admin listener is not HTTP")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status
            .filter(|_| head.starts_with("HTTP/1."))
            .context("the answer of the admin listener is not HTTP")?;
        let body = serde_json::from_str(text).unwrap_or_default();
        Ok(AdminAnswer { status, body, text: text.to_owned() })
    }

    fn exchange(&self, request: &str) -> std::io::Result<Vec<u8>> {
        match &self.address {
            AdminAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, self.patience)?;
                stream.set_read_timeout(Some(self.patience))?;
                stream.set_write_timeout(Some(self.patience))?;
                exchange(stream, request)
            }
            AdminAddress::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(self.patience))?;
                stream.set_write_timeout(Some(self.patience))?;
                exchange(stream, request)
            }
        }
    }
}

impl RunningUsher {
    /// Asks the admin address of this configuration. `None`: no Usher answers there.
    pub fn at_admin_of(config: &Config) -> Option<Self> {
        let admin = config.admin.as_ref()?;
        let client = AdminClient { patience: SHORT_PATIENCE, ..AdminClient::of(admin) };
        let answer = client.get("/status").ok().filter(|answer| answer.exit() == Exit::Ok)?;
        let text = |name: &str| answer.body.get(name).and_then(Value::as_str);
        let listeners = answer.body.get("listeners")?.as_array()?;
        let addresses = listeners.iter().filter_map(|one| one.as_str()?.parse().ok());
        Some(Self {
            addresses: addresses.chain(admin.address.tcp()).collect(),
            config: text("config").map(PathBuf::from),
            state_dir: text("state_dir").map(PathBuf::from),
        })
    }

    /// Returns true if this is the process of the configuration: it runs with the same file, or
    /// with the same state directory.
    pub fn is_of(&self, config: &Config) -> bool {
        let same = |theirs: &Option<PathBuf>, own: Option<&PathBuf>| match (theirs, own) {
            // Earlier versions answer with a path as on their command line.
            (Some(theirs), Some(own)) => {
                let resolved = |path: &Path| path.canonicalize().ok();
                theirs.is_relative()
                    || *theirs == whole_path(own)
                    || resolved(theirs).is_some_and(|theirs| resolved(own) == Some(theirs))
            }
            _ => false,
        };
        same(&self.config, config.source.as_ref()) || same(&self.state_dir, Some(&config.state_dir))
    }

    /// Returns this Usher if it is that of another configuration.
    pub fn other_than(&self, config: &Config) -> Option<OtherUsher> {
        let shown = || self.config.as_ref().map(|path| printable(&path.display().to_string()));
        (!self.is_of(config)).then(|| OtherUsher {
            config: shown().unwrap_or_else(|| "no file".to_owned()),
            addresses: self.addresses.clone(),
        })
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

impl AdminAnswer {
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
        message
            .map_or_else(|| format!("the admin listener answered {}", self.status), str::to_owned)
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "no configuration: neither ./usher.toml nor /etc/usher/usher.toml exists\n  \
     try Usher without a configuration:  usher demo\n  \
     write a first configuration:        usher init --plain"
)]
pub struct NoConfig;

/// Returns the path of the configuration: the given one, or else that of `USHER_CONFIG`, or
/// `usher.toml` in the working directory, or the one in `/etc/usher`.
pub fn find_config(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let variable =
        || std::env::var_os("USHER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = given.or_else(variable) {
        return Ok(path);
    }
    let usual = ["usher.toml", "/etc/usher/usher.toml"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.is_file());
    Ok(usual.ok_or(NoConfig)?.to_path_buf())
}
