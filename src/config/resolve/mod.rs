//! From the file to the [`Config`]: every mistake at once, each with its place.
//!
//! A value that is wrong is reported and stands at its default while the rest is read, and a config is given out only
//! where nothing was reported.

mod bypass;
mod context;
mod issuer;
mod listener;
mod migration;
mod mtls;
mod process;
mod region;
mod route;
mod session;
mod store;
mod tickets;
mod upstream;
mod verifier;

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
use crate::fetch::Place;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    parse(&read(path)?, Some(path), &|name| std::env::var(name).ok())
}

fn read(path: &Path) -> Result<String, Diagnostics> {
    std::fs::read_to_string(path).map_err(|error| Diagnostics(vec![Diagnostic::error(format!("cannot read {}: {error}", path.display()))]))
}

/// The table `[admin]` alone. Who steers a running Usher needs neither its secrets nor a file without mistakes elsewhere: the
/// process reads the file itself, and says what it thinks of it.
pub fn load_admin(path: &Path) -> Result<Option<Admin>, Diagnostics> {
    parse_admin(&read(path)?, path, &|name| std::env::var(name).ok())
}

pub(super) fn parse_admin(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Admin>, Diagnostics> {
    let reader = Reader::new(text, Some(path), env);
    let (table, syntax) = DeTable::parse_recoverable(text);
    let admin = process::admin(&Section::new(&reader, "", 0..0, Some(table.get_ref())).section("admin"));
    if admin.is_none() {
        reader.report_syntax(&syntax);
    }
    let errors: Vec<_> = reader.found.into_inner().into_iter().map(|(_, found)| found).filter(|d| d.severity == Severity::Error).collect();
    if errors.is_empty() { Ok(admin) } else { Err(Diagnostics(errors)) }
}

pub fn parse(text: &str, source: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let reader = Reader::new(text, source, env);
    let (table, syntax) = DeTable::parse_recoverable(text);
    reader.report_syntax(&syntax);
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
    let node = top.parsed("node", process::node).unwrap_or_else(process::host_name);
    let state_dir = reader.path(&top.text_or("state_dir", "./usher-state"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = top.count("threads", cores);

    let listener_sections = top.sections("listener");
    if listener_sections.is_empty() {
        reader.error(&(0..0), "no [[listener]]", "add one: `[[listener]]` with `address` and `certificates`");
    }
    let mut addresses = Names::default();
    let listeners: Vec<_> = listener_sections.iter().filter_map(|s| listener::listener(s, &mut addresses)).map(Arc::new).collect();

    let mut issuer_names = Names::default();
    let issuers: Vec<_> = top.sections("issuer").iter().filter_map(|s| issuer::issuer(s, &mut issuer_names)).map(Arc::new).collect();

    let tickets_section = top.section("tickets");
    let multi_use = tickets_section.boolean("multi_use", false);
    let (store, regions) = store::store(&top.section("store"), multi_use);
    let mut verifier_names = Names::default();
    let verifiers: Vec<_> = top
        .sections("verifier")
        .iter()
        .filter_map(|s| verifier::verifier(s, &mut verifier_names, &issuer_names, &store))
        .map(Arc::new)
        .collect();

    let mut upstream_names = Names::default();
    let upstreams: Vec<_> =
        top.sections("upstream").iter().filter_map(|s| upstream::upstream(s, &mut upstream_names)).map(Arc::new).collect();

    let route_sections = top.sections("route");
    if route_sections.is_empty() {
        reader.error(&(0..0), "no [[route]]", "add one: `[[route]]` with `path` and `upstream`");
    }
    let first_message = session::first_message_table(&top.section("first_message"));
    let reauth = session::reauth_table(&top.section("reauth"));
    let bypass = bypass::bypass(&top.section("bypass"));
    let mut context = route::RouteContext {
        bypass: &bypass,
        upstreams: &upstreams,
        upstream_names: &upstream_names,
        has_issuer: !issuer_names.0.is_empty(),
        verifier_names: &verifier_names,
        has_ticket_judge: tickets_section.value("verifier").or_else(|| tickets_section.value("session_verifier")).is_some(),
        first_message: &first_message,
        reauth: &reauth,
        seen: Names::default(),
    };
    let routes: Vec<_> = route_sections.iter().filter_map(|s| route::route(s, &mut context)).map(Arc::new).collect();

    mtls::check_listeners(&listener_sections, &listeners, &route_sections, &routes);
    let tickets = tickets::tickets(&tickets_section, &routes, &verifier_names, multi_use);
    let context_table = context::signed_context(&top.section("context"));
    let config_path = process::config_path(&top.section("migration"));
    for own in [tickets.path.as_str(), &context_table.jwks_path, &config_path] {
        check_own_path(&route_sections, own);
    }
    let revocation = process::revocation(&top.section("revocation"), &issuers, &verifiers);
    mtls::check_revocation(&top.section("revocation"), &routes);
    let config = Config {
        source: source.map(Path::to_path_buf),
        written: Written::new(reader.text, reader.files.take()),
        node,
        state_dir,
        threads,
        listeners,
        issuers,
        verifiers,
        store,
        regions,
        tickets,
        upstreams,
        routes,
        context: context_table,
        mtls: mtls::mtls(&top.section("mtls")),
        keepalive: session::keepalive(&top.section("keepalive")),
        limits: Arc::new(process::limits(&top.section("limits"))),
        revocation,
        bypass,
        drain: process::drain(&top.section("drain")),
        config_path,
        admin: process::admin(&top.section("admin")),
        log: process::log(&top.section("log")),
        audit: process::audit(reader, &top.section("audit")),
    };
    top.finish();
    Some(config)
}

/// Usher answers there itself, whatever the routes say.
fn check_own_path(routes: &[Section<'_, '_>], own: &str) {
    for (route, span) in routes.iter().filter_map(|route| Some((route, route.text("path").filter(|(path, _)| path == own)?.1))) {
        let warning = Diagnostic::warning(format!("`{own}` is a path of Usher's own, and this route is never asked"))
            .help("give the route another path, or Usher's: `tickets.path`, `context.jwks_path`, `migration.config_path`");
        route.reader.report(&span, warning);
    }
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

fn choice<T: Copy>(section: &Section<'_, '_>, key: &'static str, choices: &[(&'static str, T)], default: T) -> T {
    chosen(section, key, choices).unwrap_or(default)
}

/// `None`: it is not written, or wrong and reported.
fn chosen<T: Copy>(section: &Section<'_, '_>, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
    let (text, span) = section.text(key)?;
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names = choices.iter().map(|(name, _)| *name);
        let all: Vec<_> = names.clone().map(|name| format!("\"{name}\"")).collect();
        let near = nearest(&text, names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        section.reader.error(&span, format!("`{text}` is not a value of `{key}`"), format!("{near}it is one of {}", all.join(", ")));
    }
    found
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
