//! The configuration as it is meant.
//!
//! `resolve/` turns the text into the [`Config`] below and reports every mistake at once; `file.rs` is its JSON schema.
//! Nothing past this module ever sees the file: the program reads one `Arc<Config>`, and a session keeps the one it
//! opened with.

pub mod bypass;
pub mod check;
pub mod diagnostic;
pub mod file;
pub mod migration;
pub mod reader;
pub mod resolve;
pub mod secret;
pub mod session;
pub mod store;
#[cfg(test)]
mod tests;
pub mod value;
pub mod verifier;
pub mod written;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::auth::algorithm::Algorithm;
use crate::auth::credential::Method;
use crate::auth::origin::Origins;
use crate::auth::permission::RequiredPermission;
use crate::fetch::Place;
use crate::http::route::{HostPattern, PathPattern};
pub use bypass::Bypass;
pub use migration::{Migration, Rollout, Sticky};
use secret::Secret;
pub use session::{CloseCodes, FirstMessage, Forward, OnLimit, Preset, Reauth, ReauthMode, RejectMode};
pub use store::Store;
pub use verifier::{Asked, Judges, SessionKeys, Verifier, VerifierKind};
pub use written::Written;

#[derive(Debug)]
pub struct Config {
    /// The file that this was read from, if it was read from one.
    pub source: Option<PathBuf>,
    pub written: Written,
    /// What people call this process.
    pub node: String,
    pub state_dir: PathBuf,
    /// Runtime threads; one per core unless the file says otherwise.
    pub threads: usize,
    pub listeners: Vec<Arc<Listener>>,
    pub issuers: Vec<Arc<Issuer>>,
    pub verifiers: Vec<Arc<Verifier>>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub routes: Vec<Arc<Route>>,
    pub tickets: Tickets,
    pub store: Store,
    /// The stores of other regions, each with its name.
    pub regions: Vec<store::Redis>,
    pub context: Context,
    pub mtls: Mtls,
    pub keepalive: Keepalive,
    pub limits: Arc<Limits>,
    pub revocation: Revocation,
    pub bypass: Bypass,
    pub drain: Drain,
    /// Where clients ask which way in they are to use.
    pub config_path: String,
    pub admin: Option<Admin>,
    pub log: Log,
    pub audit: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    /// `None` only where the file says `plain = true`.
    pub tls: Option<Tls>,
    /// Peers whose `X-Forwarded-*` and `Forwarded` headers are believed.
    pub trusted_peers: Vec<IpNet>,
}

#[derive(Debug)]
pub struct Tls {
    /// At least one; the first serves a client that names no host, or a host that no certificate covers.
    pub certificates: Vec<CertificateFiles>,
    /// `None`: clients are not asked for a certificate.
    pub clients: Option<ClientCertificates>,
    pub min_version: TlsVersion,
}

/// Whose certificates clients may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    pub ca_file: PathBuf,
    /// A handshake without one is ended.
    pub is_required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

#[derive(Debug)]
pub struct Issuer {
    pub name: Arc<str>,
    /// The `iss` that its tokens must carry.
    pub issuer: String,
    /// A token's `aud` must hold at least one of these. Never empty.
    pub audience: Vec<String>,
    /// Pinned, all of one family. Never empty.
    pub algorithms: Vec<Algorithm>,
    pub keys: IssuerKeySource,
    pub leeway: Duration,
    pub required_claims: Vec<String>,
    pub user_claim: String,
    pub permissions_claim: String,
    pub session_claim: String,
    pub max_token_bytes: usize,
    /// A token that says it is good for longer than this from now is refused.
    pub max_lifetime: Duration,
}

#[derive(Debug)]
pub enum IssuerKeySource {
    Secret(Secret),
    JwksFile(PathBuf),
    Remote(Box<RemoteKeys>),
}

impl IssuerKeySource {
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

/// Keys that the issuer publishes.
#[derive(Debug)]
pub struct RemoteKeys {
    pub origin: KeyOrigin,
    pub refresh: Duration,
    /// For one fetch, and for a client that waits for it.
    pub timeout: Duration,
    pub ca_file: Option<PathBuf>,
    pub allow_plain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// The set itself.
    Url(Place),
    /// The document that says where the set is.
    Discovery(Place),
}

#[derive(Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    /// Never empty.
    pub servers: Vec<Server>,
    pub dial_timeout: Duration,
    /// How long a server may take to answer an upgrade, or to begin an HTTP answer.
    pub answer_timeout: Duration,
    /// Idle HTTP connections kept for each server on each thread.
    pub max_idle: usize,
    pub idle_timeout: Duration,
    pub ca_file: Option<PathBuf>,
    /// The name to ask for and to verify, where it is not the host in the server's URL.
    pub server_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// `http://host:port`
    Plain { host: String, port: u16 },
    /// `https://host:port`
    Tls { host: String, port: u16 },
    /// `unix:/path/to.sock`
    Unix { path: PathBuf },
}

#[derive(Debug)]
pub struct Route {
    /// The path as written: the route's name in metrics, logs and tickets.
    pub name: Arc<str>,
    /// Empty: every host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    pub upstream: Arc<Upstream>,
    /// In order of preference. Empty: public on purpose.
    pub auth: Vec<Method>,
    /// Who judges what is shown.
    pub judges: Judges,
    /// `None`: the Origin header is not looked at.
    pub origins: Option<Origins>,
    /// The query parameter that carries a ticket.
    pub ticket_parameter: String,
    /// The query parameter that carries a token.
    pub token_parameter: String,
    /// The cookie that carries a token.
    pub token_cookie: String,
    /// The cookie that carries a session id.
    pub session_cookie: String,
    /// The same for all routes.
    pub bypass_header: HeaderName,
    /// Unsigned convenience headers: header name to claim name.
    pub identity_headers: Vec<(HeaderName, String)>,
    pub first_message: Arc<FirstMessage>,
    pub reauth: Reauth,
    pub reject_mode: RejectMode,
    pub close_codes: CloseCodes,
    /// What an early 101 may choose from.
    pub subprotocols: Vec<String>,
    /// What a grant must give. Empty on a public route.
    pub require: Vec<RequiredPermission>,
    pub migration: Migration,
}

#[derive(Debug)]
pub struct Tickets {
    pub path: String,
    pub ttl: Duration,
    pub max_ttl: Duration,
    pub multi_use: bool,
    pub bind: TicketBindings,
    /// Who may ask for tickets from a browser page; the union of the ticket routes' origins unless written.
    pub origins: Origins,
    /// The cookie that a page may show instead of a bearer token.
    pub token_cookie: String,
    /// The cookie with a session id, which counts where a verifier judges those.
    pub session_cookie: String,
    pub judges: Judges,
    pub rate_per_user: Rate,
    pub rate_per_address: Rate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicketBindings {
    pub origin: bool,
    pub ip: bool,
}

/// `"30/1m"`: thirty at once, thirty a minute in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

#[derive(Debug)]
pub struct Context {
    pub header: HeaderName,
    pub issuer: String,
    pub ttl: Duration,
    /// Claims of the token that the signed context carries on.
    pub claims: Vec<String>,
    pub signing: ContextSigning,
    pub jwks_path: String,
}

#[derive(Debug)]
pub enum ContextSigning {
    /// Keys made by Usher and kept in `state_dir`.
    Generated { algorithm: ContextAlgorithm },
    /// PKCS#8 PEM files: current first, then next and previous ones to publish.
    Files { algorithm: ContextAlgorithm, files: Vec<PathBuf> },
    /// HS256: one secret shared with the upstream, never published.
    Shared { secret: Secret },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextAlgorithm {
    EdDSA,
    ES256,
}

/// Who a client certificate stands for.
#[derive(Clone, Debug)]
pub struct Mtls {
    pub user: CertificateUser,
    /// What every certificate gives.
    pub permissions: Vec<String>,
}

/// Where a certificate says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUser {
    CommonName,
    SanUri,
    SanDns,
    SanEmail,
}

#[derive(Debug)]
pub struct Keepalive {
    /// A client that has sent nothing for this long is pinged.
    pub ping: Duration,
    /// A client that has sent nothing, not even a pong, for this long is closed.
    pub idle_timeout: Duration,
    /// How long a close handshake, or the last bytes to a peer that is leaving, may take.
    pub close_timeout: Duration,
}

#[derive(Debug)]
pub struct Limits {
    /// Client connections in all.
    pub connections: usize,
    pub tls_timeout: Duration,
    pub head_timeout: Duration,
    /// From accept to a grant, whatever the stages in between.
    pub handshake_timeout: Duration,
    pub head_bytes: usize,
    pub head_fields: usize,
    pub target_bytes: usize,
    pub http_idle_timeout: Duration,
    /// Bytes of an upstream's refusal that are passed on to the client.
    pub refusal_bytes: usize,
    /// Bytes held for one direction of one session while the other side does not take them.
    pub buffered_bytes: usize,
    /// Users and addresses whose ticket rate is remembered.
    pub rate_entries: usize,
    /// Audit and log lines waiting for a slow disk.
    pub audit_queue: usize,
    /// Connections that have not shown who they are: in all, and from one address.
    pub unauthenticated: usize,
    pub unauthenticated_per_address: usize,
    /// Of one user, on this node.
    pub sessions_per_user: Option<usize>,
    pub on_limit: OnLimit,
    /// The largest message of a client, as it stands on the wire.
    pub message_bytes: usize,
    pub messages_per_second: Option<usize>,
    /// The largest message that is inflated for an upstream that takes no compression.
    pub inflated_bytes: usize,
    /// Looks at shadow methods at once.
    pub shadow_checks: usize,
}

#[derive(Debug)]
pub struct Revocation {
    /// How long an order is in force; as long as a token can live unless written.
    pub keep: Duration,
    /// Orders in force at once.
    pub max_entries: usize,
}

#[derive(Debug)]
pub struct Drain {
    pub window: Duration,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub address: SocketAddr,
    /// Required unless the address is loopback.
    pub token: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A level, or a list of `target=level`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

impl Listener {
    /// Is this a proxy whose forwarded headers are believed, and whose certificate is its own and not its clients'?
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_peers.iter().any(|network| network.contains(&peer))
    }
}

impl Route {
    /// Is it one of its methods, if only in the shadow?
    pub fn looks_at(&self, method: Method) -> bool {
        self.auth.contains(&method) || self.migration.shadow.contains(&method)
    }
}

impl Config {
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| &*upstream.name == name)
    }

    /// What vouches for client certificates, where they are taken.
    pub fn certificate_issuer(&self) -> Option<Arc<str>> {
        let is_taken = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).any(|tls| tls.clients.is_some());
        is_taken.then(|| crate::auth::certificate::ISSUER.into())
    }

    /// The own region and the others; none unless the file names them.
    pub fn region_names(&self) -> impl Iterator<Item = &str> {
        let own = match &self.store {
            Store::Memory { .. } => None,
            Store::Redis(redis) => redis.region.as_deref(),
        };
        own.into_iter().chain(self.regions.iter().filter_map(|redis| redis.region.as_deref()))
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain { host, port } => write!(f, "http://{host}:{port}"),
            Self::Tls { host, port } => write!(f, "https://{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

pub use resolve::{Loaded, load, load_admin, parse};

/// A config with one issuer, one upstream and one route of these lines, for tests of what stands behind it.
#[cfg(test)]
pub(crate) fn for_test(route: &str) -> Config {
    let text = format!(
        r#"
        [[listener]]
        address = "127.0.0.1:0"
        plain = true
        [[issuer]]
        name = "main"
        issuer = "https://id.example.com"
        audience = ["chat"]
        algorithms = ["HS256"]
        secret_env = "KEY"
        [[upstream]]
        name = "chat"
        servers = ["http://127.0.0.1:9000"]
        [[route]]
        path = "/ws"
        upstream = "chat"
        {route}
        "#
    );
    parse(&text, None, &|_| Some(TEST_SECRET.to_owned())).unwrap().config
}

#[cfg(test)]
pub(crate) const TEST_SECRET: &str = "0123456789012345678901234567890123456789";
