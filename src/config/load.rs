//! Turns the text of the file into the [`Config`], and reports every mistake with its place.
//!
//! A wrong value is reported and replaced by its default, so that the rest can be read. The config
//! is returned only if no error was reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::declare::Table as _;
use super::diagnostic::{Diagnostic, DiagnosticSeverity, Diagnostics};
use super::reader::{Reader, Section};
use super::tables::names::Names;
use super::tables::{
    acme, admin, bypass, context, first_message, issuer, keepalive, limits, listener, log,
    migration, mtls, reauth, revocation, route, store, tickets, top, traces, upstream, verifier,
};
use super::{Admin, Certificates, Config, ConfigText, Drain, Log, Mtls};

#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

/// A file with mistakes.
#[derive(Debug)]
pub struct BrokenFile {
    pub errors: Diagnostics,
    /// The parts without mistakes, to check what they name. A wrong value has its default, and a
    /// list of tables is empty if one of them could not be read. `None`: no part is clear.
    pub parts: Option<Box<Config>>,
}

pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    load_parts(path).map_err(|broken| broken.errors)
}

/// Does the same as [`load`], and keeps the readable parts of a file with mistakes.
pub fn load_parts(path: &Path) -> Result<Loaded, BrokenFile> {
    let text = read(path).map_err(|errors| BrokenFile { errors, parts: None })?;
    parse_parts(&text, Some(path), &|name| std::env::var(name).ok())
}

fn read(path: &Path) -> Result<String, Diagnostics> {
    std::fs::read_to_string(path).map_err(|error| {
        let diagnostic = Diagnostic::error(format!("cannot read `{}`: {error}", path.display()));
        Diagnostics(vec![diagnostic.because(&error)])
    })
}

/// Reads only the table `[admin]`. A command to a running Usher does not need the secrets of the
/// file, nor a file without mistakes: the process reads the file itself and reports its mistakes.
pub fn load_admin(path: &Path) -> Result<Option<Admin>, Diagnostics> {
    parse_admin(&read(path)?, path, &|name| std::env::var(name).ok())
}

/// Reads only the path of the audit log, like [`load_admin`].
pub fn load_audit(path: &Path) -> Result<Option<PathBuf>, Diagnostics> {
    let text = read(path)?;
    let reader = Reader::new(&text, Some(path), &|_| None);
    let (table, syntax) = DeTable::parse_recoverable(&text);
    let top = Section::new(&reader, "", 0..0, Some(table.get_ref()));
    let audit = log::AuditTable::read(&top.section("audit")).file;
    if audit.is_none() {
        reader.report_syntax(&syntax);
    }
    let found = reader.found.into_inner().into_iter().map(|(_, found)| found);
    let errors: Vec<_> =
        found.filter(|found| found.severity == DiagnosticSeverity::Error).collect();
    if errors.is_empty() { Ok(audit) } else { Err(Diagnostics(errors)) }
}

pub(super) fn parse_admin(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Admin>, Diagnostics> {
    let reader = Reader::new(text, Some(path), env);
    let (table, syntax) = DeTable::parse_recoverable(text);
    let top = Section::new(&reader, "", 0..0, Some(table.get_ref()));
    let admin = admin::admin(&top.section("admin"));
    if admin.is_none() {
        reader.report_syntax(&syntax);
    }
    let found = reader.found.into_inner().into_iter().map(|(_, found)| found);
    let errors: Vec<_> =
        found.filter(|found| found.severity == DiagnosticSeverity::Error).collect();
    if errors.is_empty() { Ok(admin) } else { Err(Diagnostics(errors)) }
}

pub fn parse(
    text: &str,
    source: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Diagnostics> {
    parse_parts(text, source, env).map_err(|broken| broken.errors)
}

pub(super) fn parse_parts(
    text: &str,
    source: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, BrokenFile> {
    let reader = Reader::new(text, source, env);
    let (table, syntax) = DeTable::parse_recoverable(text);
    reader.report_syntax(&syntax);
    // With broken syntax, the meaning of the rest is not clear.
    let config = if syntax.is_empty() { config(&reader, table.get_ref(), source) } else { None };
    let mut found = reader.found.into_inner();
    found.sort_by_key(|(span, _)| span.start);
    let mut unique: Vec<Diagnostic> = Vec::new();
    for (_, diagnostic) in found {
        // Some keys are read twice.
        if !unique.contains(&diagnostic) {
            unique.push(diagnostic);
        }
    }
    let (errors, warnings): (Vec<_>, Vec<_>) =
        unique.into_iter().partition(|diagnostic| diagnostic.severity == DiagnosticSeverity::Error);
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings }),
        _ if errors.is_empty() => {
            let error = Diagnostic::error("the configuration is incomplete");
            Err(BrokenFile { errors: Diagnostics(vec![error]), parts: None })
        }
        parts => Err(BrokenFile { errors: Diagnostics(errors), parts: parts.map(Box::new) }),
    }
}

/// Returns the tables of a list if all could be read: a finding about one of them has its place by
/// the position in the list.
fn whole<T>(read: Vec<T>, sections: &[Section<'_, '_>]) -> Vec<T> {
    if read.len() == sections.len() { read } else { Vec::new() }
}

fn config<'r>(
    reader: &'r Reader<'r>,
    table: &'r DeTable<'r>,
    source: Option<&Path>,
) -> Option<Config> {
    let file = Section::new(reader, "", 0..0, Some(table));
    let listener_sections = file.sections("listener");
    if listener_sections.is_empty() {
        reader.error(
            &(0..0),
            "the configuration has no [[listener]]",
            "add `[[listener]]` with `address` and `certificates`",
        );
    }
    let mut addresses = listener::ListenerAddresses::default();
    let listeners: Vec<_> = listener_sections
        .iter()
        .filter_map(|section| listener::listener(section, &mut addresses))
        .map(Arc::new)
        .collect();
    let acme_section = file.section("acme");
    let acme = acme::acme(&acme_section);
    acme::check_listeners(&acme_section, acme.as_ref(), &listener_sections, &listeners);

    let mut issuer_names = issuer::IssuerNames::default();
    let issuers: Vec<_> = file
        .sections("issuer")
        .iter()
        .filter_map(|section| issuer::issuer(section, &mut issuer_names))
        .map(Arc::new)
        .collect();
    let issuer_names = issuer_names.names;

    let tickets_section = file.section("tickets");
    let tickets_table = tickets::TicketsTable::read(&tickets_section);
    let (store, regions) = store::store(&file.section("store"), tickets_table.multi_use);
    let mut verifier_names = Names::default();
    let verifiers: Vec<_> = file
        .sections("verifier")
        .iter()
        .filter_map(|section| {
            verifier::verifier(section, &mut verifier_names, &issuer_names, &store)
        })
        .map(Arc::new)
        .collect();

    let mut upstream_names = Names::default();
    let upstreams: Vec<_> = file
        .sections("upstream")
        .iter()
        .filter_map(|section| upstream::upstream(section, &mut upstream_names))
        .map(Arc::new)
        .collect();

    let route_sections = file.sections("route");
    if route_sections.is_empty() {
        let help = "add `[[route]]` with `path` and `upstream`";
        reader.error(&(0..0), "the configuration has no [[route]]", help);
    }
    let (first_message, reauth) = (file.section("first_message"), file.section("reauth"));
    first_message::check(&first_message);
    reauth::ReauthTable::read(&reauth);
    let context = context::context(&file.section("context"));
    let bypass = bypass::bypass(&file.section("bypass"), &context.header);
    let mut route_context = route::RouteContext {
        bypass: &bypass,
        signed_context: &context.header,
        upstreams: &upstreams,
        upstream_names: &upstream_names,
        has_issuer: !issuer_names.is_empty(),
        verifier_names: &verifier_names,
        has_ticket_judge: tickets_section
            .value("verifier")
            .or_else(|| tickets_section.value("session_verifier"))
            .is_some(),
        first_message: &first_message,
        reauth: &reauth,
        seen: Names::default(),
    };
    let routes: Vec<_> = route_sections
        .iter()
        .filter_map(|section| route::route(section, &mut route_context))
        .map(Arc::new)
        .collect();

    route::check_reach(&route_sections, &routes);
    mtls::check_listeners(&listener_sections, &listeners, &route_sections, &routes);
    let tickets = tickets_table.finish(&tickets_section, &routes, &verifier_names);
    let config_path = migration::MigrationTable::read(&file.section("migration")).config_path;
    for own in [tickets.path.as_str(), &context.jwks_path, &config_path] {
        check_own_path(&route_sections, own);
    }
    let revocation_section = file.section("revocation");
    let revocation = revocation::revocation(&revocation_section, &issuers, &verifiers);
    mtls::check_revocation(&revocation_section, &routes);
    let admin_section = file.section("admin");
    let admin = admin::admin(&admin_section);
    admin::check_port(&admin_section, admin.as_ref(), &listeners);
    let keepalive = Arc::new(keepalive::keepalive(&file.section("keepalive")));
    let limits = Arc::new(limits::limits(&file.section("limits")));
    let drain = Drain::read(&file.section("drain"));
    let certificates = Certificates::read(&file.section("certificates"));
    let mtls = Mtls::read(&file.section("mtls"));
    let log = Log::read(&file.section("log"));
    let audit_section = file.section("audit");
    let audit = log::AuditTable::read(&audit_section).file;
    log::check_files(&audit_section, &log, audit.as_deref());
    let traces_section = file.section("traces");
    let traces = traces::traces(&traces_section).map(Box::new);
    // This comes last, because it reports every table that was not read before.
    let top = top::Top::read(&file);
    Some(Config {
        source: source.map(Path::to_path_buf),
        written: ConfigText::new(reader.text, reader.files.take()),
        node: top.node_name(),
        threads: top.thread_count(),
        state_dir: top.state_dir,
        takeover: top.takeover,
        listeners: whole(listeners, &listener_sections),
        acme,
        issuers: whole(issuers, &file.sections("issuer")),
        verifiers: whole(verifiers, &file.sections("verifier")),
        store,
        regions,
        tickets,
        upstreams: whole(upstreams, &file.sections("upstream")),
        routes: whole(routes, &route_sections),
        context,
        mtls,
        keepalive,
        limits,
        revocation,
        bypass,
        drain,
        certificates,
        config_path,
        admin,
        log,
        audit,
        traces,
    })
}

/// Warns of a route at a path that Usher answers itself.
fn check_own_path(routes: &[Section<'_, '_>], own: &str) {
    for route in routes {
        let path = route.value("path");
        let Some(value) = path.filter(|value| value.get_ref().as_str() == Some(own)) else {
            continue;
        };
        let warning = Diagnostic::warning(format!(
            "Usher answers `{own}` itself: requests never reach this route"
        ))
        .help(
            "change the path of the route, or that of Usher: `tickets.path`, `context.jwks_path` \
             or `migration.config_path`",
        );
        route.reader.report(&value.span(), warning);
    }
}
