//! The configuration: the meaning of the file.
//!
//! `tables/` declares each key once. The parser, the JSON schema (`schema.rs`), the reference and
//! the tables of the documents (`pages.rs`) use these declarations. `load.rs` turns the text into
//! the [`Config`] below and reports every mistake at once. No other module reads the file: the
//! program uses one `Arc<Config>`, and a session keeps the one that it was opened with.

mod admin;
pub mod bypass;
pub mod certificate_files;
pub mod declare;
pub mod diagnostic;
pub mod header_name;
pub mod key_type;
pub mod label_names;
mod load;
pub mod locate;
pub mod migration;
#[cfg(test)]
mod pages;
pub mod reader;
mod route_match;
pub mod schema;
pub mod session;
pub mod store;
pub mod tables;
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

use crate::model::algorithm::Algorithm;
use crate::model::host_pattern::HostPattern;
use crate::model::listening_address::PortSharing;
use crate::model::method::Method;
use crate::model::origin::Origins;
use crate::model::path::PathPattern;
use crate::model::permission::RequiredPermission;
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;
use crate::model::upstream_path::UpstreamPath;
use crate::rejection::close::CloseCodes;
pub use bypass::Bypass;
pub use migration::{Migration, Rollout, Sticky};
pub use route_match::RouteMatch;
pub use session::{FirstMessage, Forward, Preset, Reauth, ReauthMode, RejectMode, UpstreamLogin};
pub use store::Store;
pub use tables::acme::{AccountBinding, Acme, AcmeChallenge};
pub use tables::certificates::Certificates;
pub use tables::context::{Context, ContextAlgorithm, ContextSigning};
pub use tables::drain::Drain;
pub use tables::keepalive::Keepalive;
pub use tables::limits::{ExtraSessions, Limits};
pub use tables::log::{Log, LogFormat, RefusalLevel};
pub use tables::mtls::{CertificateUser, Mtls};
pub use tables::revocation::Revocation;
pub use tables::tickets::{TicketBindings, Tickets};
pub use tables::traces::Traces;
pub use verifier::{CredentialVerifiers, SessionKeys, Verifier, VerifierEndpoint, VerifierKind};
pub use written::ConfigText;

#[derive(Debug)]
pub struct Config {
    /// The file of the configuration, if there is one.
    pub source: Option<PathBuf>,
    pub written: ConfigText,
    /// The name of this node.
    pub node: String,
    pub state_dir: PathBuf,
    /// The socket at which a new process takes over.
    pub takeover: Option<PathBuf>,
    /// Runtime threads.
    pub threads: usize,
    pub listeners: Vec<Arc<Listener>>,
    pub acme: Option<Acme>,
    pub issuers: Vec<Arc<Issuer>>,
    pub verifiers: Vec<Arc<Verifier>>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub routes: Vec<Arc<Route>>,
    pub tickets: Tickets,
    pub store: Store,
    /// The stores of other regions. The `region` of each is set.
    pub regions: Vec<store::Redis>,
    pub context: Context,
    pub mtls: Mtls,
    pub keepalive: Arc<Keepalive>,
    pub limits: Arc<Limits>,
    pub revocation: Revocation,
    pub bypass: Bypass,
    pub drain: Drain,
    pub certificates: Certificates,
    /// The path where clients ask which method to use.
    pub config_path: String,
    pub admin: Option<Admin>,
    pub log: Log,
    pub audit: Option<PathBuf>,
    /// `None`: nothing is traced.
    pub traces: Option<Box<Traces>>,
}

#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    /// Whether other processes may listen at this address.
    pub sharing: PortSharing,
    /// `None` only with `plain = true`.
    pub tls: Option<Tls>,
    /// The networks of the proxies that write a PROXY header, and that alone may connect. `None`:
    /// connections begin with TLS or HTTP.
    pub proxy_peers: Option<Vec<IpNet>>,
    /// Proxies whose `X-Forwarded-*` or `Forwarded` names the client.
    pub trusted_peers: Vec<IpNet>,
    pub forwarding_header: ForwardingHeader,
}

/// The header in which trusted peers name the client. The other one may come from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`, or `Forwarded` in a request without it.
    Auto,
    XForwardedFor,
    Forwarded,
}

#[derive(Debug)]
pub struct Tls {
    /// Empty only with `has_acme`. The first one is for clients that name no host, or a host that
    /// no certificate covers.
    pub certificates: Vec<CertificateFiles>,
    /// Whether the listener serves the certificate of `[acme]`.
    pub has_acme: bool,
    /// `None`: clients are not asked for a certificate.
    pub clients: Option<ClientCertificates>,
    pub min_version: TlsVersion,
    /// Whether clients may choose HTTP/2.
    pub http2: bool,
}

/// The client certificates that a listener accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    pub ca_file: PathBuf,
    /// Lists of revoked certificates. Empty: no certificate is revoked.
    pub crl_files: Vec<PathBuf>,
    /// Whether a certificate is accepted if no list is of its authority.
    pub accepts_without_crl: bool,
    /// Whether a handshake without a certificate fails.
    pub is_required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// `None`: handshakes carry no OCSP answer.
    pub ocsp: Option<OcspSource>,
}

/// The source of the OCSP answer for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OcspSource {
    File(PathBuf),
    /// The responder that the certificate names.
    Fetch,
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
    /// The `aud` of a token must contain at least one of these. Never empty.
    pub audience: Vec<String>,
    /// The accepted algorithms: all with a shared secret, or all with public keys. Never empty.
    pub algorithms: Vec<Algorithm>,
    pub keys: IssuerKeySource,
    pub leeway: Duration,
    pub required_claims: Vec<String>,
    pub user_claim: String,
    pub permissions_claim: String,
    pub session_claim: String,
    pub max_token_bytes: usize,
    /// The longest remaining lifetime of a token; one that expires later is rejected.
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

/// The keys that an issuer publishes.
#[derive(Debug)]
pub struct RemoteKeys {
    pub origin: KeyOrigin,
    pub refresh: Duration,
    /// How long one fetch may take, and how long a client may wait for it.
    pub timeout: Duration,
    pub ca_file: Option<PathBuf>,
    pub allow_plain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// The URL of the key set.
    Url(ServiceUrl),
    /// The URL of the discovery document, which names the URL of the key set.
    Discovery(ServiceUrl),
}

#[derive(Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    /// Never empty.
    pub servers: Vec<Server>,
    pub balance: Balance,
    /// The number of failures that eject a server.
    pub eject_after: usize,
    /// The pause before the first trial of an ejected server.
    pub eject_for: Duration,
    pub eject_for_at_most: Duration,
    pub max_ejected_percent: u8,
    pub slow_start: Duration,
    pub addresses: NameAddresses,
    /// The most addresses of a name that are used.
    pub max_addresses: usize,
    /// How long the addresses of a server's name are used.
    pub resolve_every: Duration,
    /// `None`: servers are judged by their clients alone.
    pub health: Option<HealthCheck>,
    pub dial_timeout: Duration,
    /// How long a server may take to answer an upgrade.
    pub upgrade_timeout: Duration,
    /// How long all attempts for one client may take together.
    pub reach_timeout: Duration,
    /// How long a server may take to begin an HTTP answer after it has the request, and how long it
    /// may stop reading the request.
    pub answer_timeout: Duration,
    /// Idle HTTP connections kept for each server on each thread.
    pub max_idle: usize,
    pub idle_timeout: Duration,
    pub ca_file: Option<PathBuf>,
    /// The name in the certificate, if it is not the host in the server's URL.
    pub server_name: Option<String>,
    /// The PROXY header that connections to its servers begin with.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text with the addresses.
    V1,
    /// Binary, with the host that the client named in its TLS handshake.
    V2,
}

/// The rule that picks a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    LeastSessions,
    RoundRobin,
    /// By user: the same server as long as it serves.
    Sticky,
}

/// The meaning of the addresses of a name in `servers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameAddresses {
    /// Each is a server.
    Servers,
    /// All lead to one server.
    OneServer,
}

/// A request that asks each server for its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub path: String,
    pub every: Duration,
    pub timeout: Duration,
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
    /// The path as written in the file: the name of the route in metrics, logs and tickets.
    pub name: Arc<str>,
    /// Empty for every host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    pub upstream: Arc<Upstream>,
    pub upstream_path: UpstreamPath,
    /// In order of preference. Empty for a public route.
    pub auth: Vec<Method>,
    /// The verifiers of credentials.
    pub credential_verifiers: CredentialVerifiers,
    /// `None`: the `Origin` header is not checked.
    pub origins: Option<Origins>,
    /// The query parameter that carries a ticket.
    pub ticket_parameter: String,
    /// The query parameter that carries a token.
    pub token_parameter: String,
    /// The cookie that carries a token.
    pub token_cookie: String,
    /// The cookie that carries a session id.
    pub session_cookie: String,
    /// The header of test identities, the same for all routes.
    pub bypass_header: HeaderName,
    /// Unsigned headers for the upstream: the name of the header, and the claim that it carries.
    pub identity_headers: Vec<(HeaderName, String)>,
    pub first_message: Arc<FirstMessage>,
    pub reauth: Arc<Reauth>,
    pub reject_mode: RejectMode,
    pub close_codes: CloseCodes,
    /// The subprotocols that an early 101 may choose from.
    pub subprotocols: Vec<String>,
    /// The permissions that a grant must have. Empty for a public route.
    pub require: Vec<RequiredPermission>,
    pub migration: Migration,
}

impl Listener {
    /// Returns true for a proxy whose forwarding headers are trusted. Its client certificate
    /// identifies the proxy, not the client behind it.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_peers.iter().any(|network| network.contains(&peer))
    }

    /// Returns true if connections begin with a PROXY header.
    pub fn requires_proxy_header(&self) -> bool {
        self.proxy_peers.is_some()
    }

    /// Returns true for the address of a socket that may connect: any address, or with
    /// `proxy_protocol` that of a listed proxy.
    pub fn admits(&self, socket: IpAddr) -> bool {
        let listed = self.proxy_peers.as_ref();
        listed.is_none_or(|peers| peers.iter().any(|network| network.contains(&socket)))
    }
}

impl Route {
    /// Returns true if the other route would accept every request that this one accepts. Compares
    /// methods, verifiers, permissions and origins.
    pub fn asks_for_as_much_as(&self, other: &Self) -> bool {
        let is_known = self.auth.iter().all(|method| other.auth.contains(method))
            && !self.auth.is_empty()
            && self.credential_verifiers == other.credential_verifiers;
        let is_permitted = other.require.iter().all(|permission| self.require.contains(permission));
        let is_from_a_page_of_theirs = other.origins.is_none() || self.origins == other.origins;
        (other.auth.is_empty() || is_known) && is_permitted && is_from_a_page_of_theirs
    }

    /// Returns true for a method of the route, including shadow methods.
    pub fn looks_at(&self, method: Method) -> bool {
        self.auth.contains(&method) || self.migration.shadow.contains(&method)
    }
}

impl Config {
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| &*upstream.name == name)
    }

    /// Returns the issuer of client certificates, if a listener accepts them.
    pub fn certificate_issuer(&self) -> Option<Arc<str>> {
        let is_taken = self
            .listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref())
            .any(|tls| tls.clients.is_some());
        is_taken.then(|| crate::model::principal::CERTIFICATE_ISSUER.into())
    }

    /// Returns the region of this node and the other regions, if the file names any.
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

pub use admin::{Admin, AdminAddress, LoginRules};
pub use load::{BrokenFile, Loaded, load, load_admin, load_audit, load_parts, parse};

/// Returns a config with one issuer, one upstream and one route, to which `route` adds lines.
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
