//! From the file to the [`Config`]: every mistake at once, each with its place.
//!
//! A value that is wrong is reported and stands at its default while the rest is read, and a config is given out only
//! where nothing was reported.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Diagnostics, Severity, nearest, suggest};
use super::reader::{Reader, Section, Span};
use super::*;
use crate::auth::algorithm::Family;

const SECOND: Duration = Duration::from_secs(1);
const LATER_METHODS: [&str; 6] = ["message", "cookie", "subprotocol", "query", "basic", "mtls"];

#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Diagnostics(vec![Diagnostic::error(format!("cannot read {}: {error}", path.display()))]))?;
    parse(&text, Some(path), &|name| std::env::var(name).ok())
}

pub fn parse(text: &str, source: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let file = source.map_or_else(|| "usher.toml".to_owned(), |path| path.display().to_string());
    let base = source.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    let reader = Reader { file, text, base, env, found: Default::default() };
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        reader.report(&error.span().unwrap_or(0..0), Diagnostic::error(error.message().to_owned()));
    }
    // Past broken syntax the rest would be guesswork.
    let config = if syntax.is_empty() { top(&reader, table.get_ref(), source) } else { None };
    let mut found = reader.found.into_inner();
    found.sort_by_key(|(span, _)| span.start);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        found.into_iter().map(|(_, diagnostic)| diagnostic).partition(|d| d.severity == Severity::Error);
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings }),
        _ if errors.is_empty() => Err(Diagnostics(vec![Diagnostic::error("the configuration is incomplete")])),
        _ => Err(Diagnostics(errors)),
    }
}

fn top<'r>(reader: &'r Reader<'r>, table: &'r DeTable<'r>, source: Option<&Path>) -> Option<Config> {
    let top = Section::new(reader, "", 0..0, Some(table));
    let state_dir = reader.path(&top.text_or("state_dir", "./usher-state"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = top.count("threads", cores);

    let listener_sections = top.sections("listener");
    if listener_sections.is_empty() {
        reader.error(&(0..0), "no [[listener]]", "add one: `[[listener]]` with `address` and `certificates`");
    }
    let mut addresses = Names::default();
    let listeners = listener_sections.iter().filter_map(|s| listener(s, &mut addresses)).map(Arc::new).collect();

    let mut issuer_names = Names::default();
    let issuers: Vec<_> = top.sections("issuer").iter().filter_map(|s| issuer(s, &mut issuer_names)).map(Arc::new).collect();

    let mut upstream_names = Names::default();
    let upstreams: Vec<_> = top.sections("upstream").iter().filter_map(|s| upstream(s, &mut upstream_names)).map(Arc::new).collect();

    let route_sections = top.sections("route");
    if route_sections.is_empty() {
        reader.error(&(0..0), "no [[route]]", "add one: `[[route]]` with `path` and `upstream`");
    }
    let mut context = RouteContext {
        upstreams: &upstreams,
        upstream_names: &upstream_names,
        has_issuer: !issuer_names.0.is_empty(),
        seen: Names::default(),
    };
    let routes: Vec<_> = route_sections.iter().filter_map(|s| route(s, &mut context)).map(Arc::new).collect();

    let config = Config {
        source: source.map(Path::to_path_buf),
        state_dir,
        threads,
        listeners,
        issuers,
        tickets: tickets(&top.section("tickets"), &routes),
        upstreams,
        routes,
        store: store(&top.section("store")),
        context: signed_context(&top.section("context")),
        keepalive: keepalive(&top.section("keepalive")),
        limits: Arc::new(limits(&top.section("limits"))),
        drain: drain(&top.section("drain")),
        admin: admin(&top.section("admin")),
        log: log(&top.section("log")),
        audit: audit(reader, &top.section("audit")),
    };
    top.finish();
    Some(config)
}

/// Names that may stand once, and where they stood first.
#[derive(Default)]
struct Names(BTreeMap<String, Span>);

impl Names {
    fn add(&mut self, reader: &Reader<'_>, what: &str, name: &str, span: &Span) {
        if let Some(first) = self.0.get(name) {
            let line = reader.text.get(..first.start).unwrap_or_default().matches('\n').count() + 1;
            reader.error(span, format!("{what} `{name}` stands twice"), format!("it stands on line {line} already"));
        } else {
            self.0.insert(name.to_owned(), span.clone());
        }
    }
}

fn listener(section: &Section<'_, '_>, seen: &mut Names) -> Option<Listener> {
    let reader = section.reader;
    let written = section.required("address", "such as `address = \"0.0.0.0:8443\"`");
    let address = section.parsed("address", socket_address);
    // Port 0 is another port each time.
    if let (Some((_, span)), Some(address)) = (written, address.filter(|address| address.port() != 0)) {
        seen.add(reader, "address", &address.to_string(), &span);
    }
    let mut certificates = Vec::new();
    for pair in section.sections("certificates") {
        let cert = pair.required("cert", "the PEM file of the certificate and its chain");
        let key = pair.required("key", "the PEM file of the private key");
        pair.finish();
        if let (Some((cert, _)), Some((key, _))) = (cert, key) {
            certificates.push(CertificateFiles { cert: reader.path(&cert), key: reader.path(&key) });
        }
    }
    let plain = section.boolean("plain", false);
    let min_version = choice(section, "min_tls", &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)], TlsVersion::Tls12);
    let trusted_peers = section.parsed_list("trusted_peers", network);
    let has_certificates = section.value("certificates").is_some();
    section.finish();
    if plain && has_certificates {
        reader.error(&section.span, "`plain = true` and `certificates` cannot stand together", "keep one of them");
    }
    if !plain && certificates.is_empty() {
        let help =
            "add `certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]`, or `plain = true` behind a proxy that terminates TLS";
        reader.error(&section.span, "[[listener]] has no certificates", help);
    }
    let tls = (!plain).then_some(Tls { certificates, min_version });
    Some(Listener { address: address?, tls, trusted_peers })
}

fn issuer(section: &Section<'_, '_>, seen: &mut Names) -> Option<Issuer> {
    let reader = section.reader;
    let name = section.required("name", "such as `name = \"main\"`");
    if let Some((name, span)) = &name {
        seen.add(reader, "issuer", name, span);
    }
    let issuer = section.required("issuer", "the `iss` that its tokens carry");
    let audience = section.list("audience").unwrap_or_default();
    if audience.is_empty() {
        section.missing("audience", "name at least one `aud` that tokens for this service carry: `audience = [\"chat\"]`");
    }
    let algorithms = algorithms(section);
    let secret_written = section.value("secret_env").or_else(|| section.value("secret_file"));
    let secret = section.secret("secret_env", "secret_file");
    let jwks = section.text("jwks_file");
    let hmac = algorithms.first().map(|a| a.family() == Family::Hmac);
    match (hmac, secret_written, &jwks) {
        (_, Some(_), Some((_, span))) => reader.error(
            span,
            "a secret and `jwks_file` cannot stand together",
            "HS* takes a secret, every other algorithm takes `jwks_file`",
        ),
        (Some(true), None, _) => {
            section.missing("secret_env", "HS256, HS384 and HS512 check with a shared secret: `secret_env` or `secret_file`");
        }
        (Some(false), _, None) => section.missing("jwks_file", "public-key algorithms check with the keys of a `jwks_file`"),
        _ => {}
    }
    if let (Some(true), Some(value), Some(secret)) = (hmac, secret_written, &secret)
        && secret.len() < 32
    {
        reader.error(
            &value.span(),
            format!("the secret has {} bytes; an HMAC secret has at least 32", secret.len()),
            "make one: `openssl rand -hex 32`",
        );
    }
    let leeway = section.duration("leeway", 30 * SECOND);
    let required_claims = section.parsed_list("required_claims", |text| Ok(text.to_owned()));
    let (user_claim, permissions_claim) = (section.text_or("user_claim", "sub"), section.text_or("permissions_claim", "permissions"));
    let session_claim = section.text_or("session_claim", "sid");
    let max_token_bytes = section.size("max_token_bytes", 8 << 10);
    let max_lifetime = positive(section, "max_lifetime", 30 * 86_400 * SECOND);
    section.finish();
    let keys = match (secret, jwks) {
        (Some(secret), _) => IssuerKeySource::Secret(secret),
        (None, Some((file, _))) => IssuerKeySource::JwksFile(reader.path(&file)),
        (None, None) => return None,
    };
    Some(Issuer {
        name: name?.0.into(),
        issuer: issuer?.0,
        audience: audience.into_iter().map(|(text, _)| text).collect(),
        algorithms,
        keys,
        leeway,
        required_claims,
        user_claim,
        permissions_claim,
        session_claim,
        max_token_bytes,
        max_lifetime,
    })
}

fn algorithms(section: &Section<'_, '_>) -> Vec<Algorithm> {
    let written = section.list("algorithms").unwrap_or_default();
    if written.is_empty() {
        section.missing("algorithms", "name what its tokens are signed with: `algorithms = [\"RS256\"]`");
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for (text, span) in written {
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.name() == text) else {
            let help = suggest(&text, Algorithm::ALL.iter().map(|a| a.name()));
            section.reader.error(&span, format!("`{text}` is not an algorithm that Usher accepts"), help);
            continue;
        };
        if algorithms.first().is_some_and(|first| first.family() != algorithm.family()) {
            let help = "one issuer's algorithms are of one family; write a second [[issuer]] for the other";
            section.reader.error(&span, format!("`{text}` is of another family than the algorithms before it"), help);
        }
        algorithms.push(algorithm);
    }
    algorithms
}

fn upstream(section: &Section<'_, '_>, seen: &mut Names) -> Option<Upstream> {
    let name = section.required("name", "such as `name = \"chat\"`");
    if let Some((name, span)) = &name {
        seen.add(section.reader, "upstream", name, span);
    }
    if section.list("servers").is_none_or(|servers| servers.is_empty()) {
        section.missing("servers", "name at least one: `servers = [\"http://127.0.0.1:9000\"]`");
    }
    let upstream = Upstream {
        name: name.map(|(name, _)| name).unwrap_or_default().into(),
        servers: section.parsed_list("servers", |text| server(section.reader, text)),
        dial_timeout: positive(section, "dial_timeout", 3 * SECOND),
        answer_timeout: positive(section, "answer_timeout", 10 * SECOND),
        max_idle: section.count("max_idle", 32),
        idle_timeout: positive(section, "idle_timeout", 60 * SECOND),
        ca_file: section.text("ca_file").map(|(file, _)| section.reader.path(&file)),
        server_name: section.text("server_name").map(|(name, _)| name),
    };
    section.finish();
    Some(upstream)
}

fn server(reader: &Reader<'_>, text: &str) -> Result<Server, String> {
    let wrong = || format!("`{text}` is not a server; write \"http://host:port\", \"https://host:port\" or \"unix:/path\"");
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err(wrong()) } else { Ok(Server::Unix { path: reader.path(path) }) };
    }
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or_else(wrong)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(format!("`{text}` has more than a host and a port; a server takes neither path, query nor user"));
    }
    let host = authority.host().to_owned();
    match scheme {
        "http" => Ok(Server::Plain { host, port: authority.port_u16().unwrap_or(80) }),
        "https" => Ok(Server::Tls { host, port: authority.port_u16().unwrap_or(443) }),
        _ => Err(wrong()),
    }
}

struct RouteContext<'a> {
    upstreams: &'a [Arc<Upstream>],
    upstream_names: &'a Names,
    has_issuer: bool,
    seen: Names,
}

fn route(section: &Section<'_, '_>, context: &mut RouteContext<'_>) -> Option<Route> {
    let reader = section.reader;
    let written = section.required("path", "`/exact`, `/prefix/*`, or with `{name}` segments");
    let path = section.parsed("path", PathPattern::parse);
    let hosts = section.parsed_list("hosts", HostPattern::parse);
    if let Some((path, span)) = &written {
        let hosts: Vec<_> = if hosts.is_empty() { vec![String::new()] } else { hosts.iter().map(|host| format!("{host}")).collect() };
        for host in hosts {
            context.seen.add(reader, "route", &format!("{host}{path}"), span);
        }
    }
    let upstream = section.required("upstream", "the `name` of an [[upstream]]");
    if let Some((name, span)) = upstream.as_ref().filter(|(name, _)| !context.upstream_names.0.contains_key(name)) {
        let names = context.upstream_names.0.keys().map(String::as_str);
        let help = if names.len() == 0 { "add an [[upstream]] of that name".to_owned() } else { suggest(name, names) };
        reader.error(span, format!("no upstream is named `{name}`"), help);
    }
    let upstream = upstream.and_then(|(name, _)| context.upstreams.iter().find(|u| *u.name == *name).cloned());
    let auth = methods(section, context.has_issuer);
    let origins = section.list("origins").map(|_| origins(section));
    let ticket_parameter = section.text_or("ticket_parameter", "ticket");
    let mut identity_headers = Vec::new();
    for (name, claim, span) in section.pairs("identity_headers") {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) => identity_headers.push((header, claim)),
            Err(_) => reader.report(&span, Diagnostic::error(format!("`{name}` is not a header name"))),
        }
    }
    section.finish();
    Some(Route { name: written?.0.into(), hosts, path: path?, upstream: upstream?, auth, origins, ticket_parameter, identity_headers })
}

/// Left out is a mistake: a public route says `auth = []`.
fn methods(section: &Section<'_, '_>, has_issuer: bool) -> Vec<Method> {
    let Some(written) = section.list("auth") else {
        if section.value("auth").is_none() {
            section.missing("auth", "such as `auth = [\"ticket\", \"header\"]`, or `auth = []` for a public route");
        }
        return Vec::new();
    };
    let mut methods = Vec::new();
    for (text, span) in written {
        match Method::ALL.into_iter().find(|method| method.name() == text) {
            Some(method) if methods.contains(&method) => {
                section.reader.error(&span, format!("`{text}` stands twice"), "name each method once");
            }
            Some(method) => {
                if !has_issuer {
                    section.reader.error(&span, format!("`{text}` needs an issuer"), "add an [[issuer]] that says whose tokens are good");
                }
                methods.push(method);
            }
            None if LATER_METHODS.contains(&text.as_str()) => {
                section.reader.error(
                    &span,
                    format!("the method `{text}` is not available in this version"),
                    "available: `ticket`, `header`",
                );
            }
            None => section.reader.error(&span, format!("`{text}` is not a method"), suggest(&text, Method::ALL.map(Method::name))),
        }
    }
    methods
}

fn origins(section: &Section<'_, '_>) -> Origins {
    let mut all = Origins::default();
    for (text, span) in section.list("origins").unwrap_or_default() {
        match Origins::parse([text.as_str()]) {
            Ok(one) => {
                if one.allows_any() {
                    let warning = Diagnostic::warning("every web page may open a socket here")
                        .help("list the origins of your own pages instead of \"*\"");
                    section.reader.report(&span, warning);
                }
                all.extend(&one);
            }
            Err(message) => section.reader.report(&span, Diagnostic::error(message)),
        }
    }
    all
}

fn tickets(section: &Section<'_, '_>, routes: &[Arc<Route>]) -> Tickets {
    let path = absolute_path(section, "path", "/websocket/ticket");
    let (ttl, max_ttl) = (positive(section, "ttl", 30 * SECOND), positive(section, "max_ttl", 300 * SECOND));
    if ttl > max_ttl {
        let span = section.value("ttl").or_else(|| section.value("max_ttl")).map_or(0..0, toml::Spanned::span);
        section.reader.error(&span, format!("`ttl` ({ttl:?}) is longer than `max_ttl` ({max_ttl:?})"), "shorten `ttl` or raise `max_ttl`");
    }
    let mut bind = TicketBindings::default();
    for (text, span) in section.list("bind").unwrap_or_default() {
        match text.as_str() {
            "origin" => bind.origin = true,
            "ip" => bind.ip = true,
            _ => section.reader.error(&span, format!("a ticket cannot be bound to `{text}`"), "known here: `origin`, `ip`"),
        }
    }
    let origins = if section.value("origins").is_some() {
        origins(section)
    } else {
        let mut union = Origins::default();
        for origins in routes.iter().filter(|r| r.auth.contains(&Method::Ticket)).filter_map(|r| r.origins.as_ref()) {
            union.extend(origins);
        }
        union
    };
    let tickets = Tickets {
        path,
        ttl,
        max_ttl,
        multi_use: section.boolean("multi_use", false),
        bind,
        origins,
        rate_per_user: section.with_unit("rate_per_user", Rate { count: 60, per: 60 * SECOND }, value::rate),
        rate_per_address: section.with_unit("rate_per_address", Rate { count: 600, per: 60 * SECOND }, value::rate),
    };
    section.finish();
    tickets
}

fn store(section: &Section<'_, '_>) -> Store {
    if let Some((url, span)) = section.text("url").filter(|(url, _)| url != "memory") {
        let message = if url.starts_with("redis") {
            "a Redis store is not available in this version".to_owned()
        } else {
            format!("`{url}` is not a store")
        };
        section.reader.error(&span, message, "available: `memory`");
    }
    let store = Store::Memory { max_tickets: section.count("max_tickets", 100_000) };
    section.finish();
    store
}

fn signed_context(section: &Section<'_, '_>) -> Context {
    let header =
        section.parsed("header", |text| HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not a header name")));
    let algorithm = choice(section, "algorithm", &[("EdDSA", "EdDSA"), ("ES256", "ES256"), ("HS256", "HS256")], "EdDSA");
    let secret_written = section.value("secret_env").or_else(|| section.value("secret_file"));
    let secret = section.secret("secret_env", "secret_file");
    let files: Vec<_> = section.list("key_files").unwrap_or_default().iter().map(|(file, _)| section.reader.path(file)).collect();
    let at = section.value("algorithm").or(secret_written).map_or(0..0, toml::Spanned::span);
    let reader = section.reader;
    if algorithm == "HS256" {
        match (&secret, secret_written) {
            (_, None) => reader.error(&at, "HS256 needs a secret shared with the upstream", "add `secret_env` or `secret_file`"),
            (Some(secret), Some(value)) if secret.len() < 32 => {
                reader.error(
                    &value.span(),
                    format!("the secret has {} bytes; an HMAC secret has at least 32", secret.len()),
                    "make one: `openssl rand -hex 32`",
                );
            }
            _ => {}
        }
        if let Some(value) = section.value("key_files") {
            reader.error(&value.span(), "`key_files` has no use with HS256", "remove it");
        }
    } else if let Some(value) = secret_written {
        reader.error(&value.span(), format!("a secret has no use with {algorithm}"), "remove it, or set `algorithm = \"HS256\"`");
    }
    let asymmetric = if algorithm == "ES256" { ContextAlgorithm::ES256 } else { ContextAlgorithm::EdDSA };
    let signing = match secret {
        Some(secret) => ContextSigning::Shared { secret },
        None if files.is_empty() => ContextSigning::Generated { algorithm: asymmetric },
        None => ContextSigning::Files { algorithm: asymmetric, files },
    };
    let context = Context {
        header: header.unwrap_or(HeaderName::from_static("x-user-context")),
        issuer: section.text_or("issuer", "usher"),
        ttl: positive(section, "ttl", 60 * SECOND),
        claims: section.parsed_list("claims", |text| Ok(text.to_owned())),
        signing,
        jwks_path: absolute_path(section, "jwks_path", "/.well-known/usher/jwks.json"),
    };
    section.finish();
    context
}

fn keepalive(section: &Section<'_, '_>) -> Keepalive {
    let keepalive = Keepalive {
        ping: positive(section, "ping", 25 * SECOND),
        idle_timeout: positive(section, "idle_timeout", 75 * SECOND),
        close_timeout: positive(section, "close_timeout", 5 * SECOND),
    };
    if keepalive.ping >= keepalive.idle_timeout {
        let span = section.value("ping").or_else(|| section.value("idle_timeout")).map_or(0..0, toml::Spanned::span);
        let message = format!("`ping` ({:?}) is not shorter than `idle_timeout` ({:?})", keepalive.ping, keepalive.idle_timeout);
        section.reader.error(&span, message, "a client must be pinged before it counts as gone");
    }
    section.finish();
    keepalive
}

fn limits(section: &Section<'_, '_>) -> Limits {
    let limits = Limits {
        connections: section.count("connections", 20_000),
        tls_timeout: positive(section, "tls_timeout", 5 * SECOND),
        head_timeout: positive(section, "head_timeout", 5 * SECOND),
        handshake_timeout: positive(section, "handshake_timeout", 15 * SECOND),
        head_bytes: section.size("head_bytes", 16 << 10),
        head_fields: section.count("head_fields", 100),
        target_bytes: section.size("target_bytes", 8 << 10),
        http_idle_timeout: positive(section, "http_idle_timeout", 60 * SECOND),
        refusal_bytes: section.size("refusal_bytes", 64 << 10),
        buffered_bytes: section.size("buffered_bytes", 256 << 10),
        rate_entries: section.count("rate_entries", 100_000),
        audit_queue: section.count("audit_queue", 10_000),
    };
    section.finish();
    limits
}

fn drain(section: &Section<'_, '_>) -> Drain {
    let drain = Drain { window: section.duration("window", 30 * SECOND) };
    section.finish();
    drain
}

fn admin(section: &Section<'_, '_>) -> Option<Admin> {
    let written = section.value("token_env").or_else(|| section.value("token_file")).is_some();
    let (address, token) = (section.parsed("address", socket_address), section.secret("token_env", "token_file"));
    section.finish();
    if section.is_written() && section.value("address").is_none() {
        section.missing("address", "such as `address = \"127.0.0.1:9090\"`");
    }
    let address = address?;
    // A bearer token must be able to stand in a header.
    if let (Some(token), Some(value)) = (&token, section.value("token_env").or_else(|| section.value("token_file")))
        && HeaderValue::from_bytes(token.expose()).is_err()
    {
        section.reader.report(&value.span(), Diagnostic::error("the token holds characters that a header cannot carry"));
    }
    if let Some(value) = section.value("address").filter(|_| !address.ip().is_loopback() && !written) {
        section.reader.error(
            &value.span(),
            "an admin address that others can reach needs a token",
            "add `token_env` or `token_file`, or listen on 127.0.0.1",
        );
    }
    Some(Admin { address, token })
}

fn log(section: &Section<'_, '_>) -> Log {
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    let filter = section.parsed("filter", |text| match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}` is not a filter: {error}")),
    });
    let log = Log { format: choice(section, "format", &formats, LogFormat::Auto), filter: filter.unwrap_or_else(|| "info".to_owned()) };
    section.finish();
    log
}

fn audit(reader: &Reader<'_>, section: &Section<'_, '_>) -> Option<PathBuf> {
    let file = section.text("file").map(|(file, _)| reader.path(&file));
    section.finish();
    file
}

fn choice<T: Copy>(section: &Section<'_, '_>, key: &'static str, choices: &[(&'static str, T)], default: T) -> T {
    let parse = |text: &str| choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let Some((text, span)) = section.text(key) else { return default };
    parse(&text).unwrap_or_else(|| {
        let names = choices.iter().map(|(name, _)| *name);
        let all: Vec<_> = names.clone().map(|name| format!("\"{name}\"")).collect();
        let near = nearest(&text, names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        section.reader.error(&span, format!("`{text}` is not a value of `{key}`"), format!("{near}it is one of {}", all.join(", ")));
        default
    })
}

fn positive(section: &Section<'_, '_>, key: &'static str, default: Duration) -> Duration {
    let value = section.duration(key, default);
    if let Some(written) = section.value(key).filter(|_| value.is_zero()) {
        section.reader.report(&written.span(), Diagnostic::error(format!("`{key}` is longer than zero")));
    }
    value
}

fn absolute_path(section: &Section<'_, '_>, key: &'static str, default: &str) -> String {
    let check = |text: &str| match PathPattern::parse(text) {
        Ok(_) if !text.contains(['*', '{']) => Ok(text.to_owned()),
        Ok(_) => Err(format!("`{key}` is one exact path, without '*' or '{{name}}'")),
        Err(message) => Err(message),
    };
    section.parsed(key, check).unwrap_or_else(|| default.to_owned())
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an address; write an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\""))
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| format!("`{text}` is not a network; write \"10.0.0.0/8\" or one address"))
}
