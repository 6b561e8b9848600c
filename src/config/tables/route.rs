//! `[[route]]`.

use std::sync::Arc;

use http::HeaderName;
use serde_json::Value as Json;

use super::credential_verifiers::CredentialVerifiersTable;
use super::first_message::{self, FirstMessageTable};
use super::names::Names;
use super::reauth::{self, ReauthTable};
use super::rollout::{self, Day, MigrationLink, RolloutTable};
use crate::config::declare::{Table, table};
use crate::config::diagnostic::{Diagnostic, suggest};
use crate::config::header_name;
use crate::config::key_type::{
    Choice, KeyType, List, LocatedTexts, Member, Nested, OneOf, SetOf, StringsByName, Text,
    TextType,
};
use crate::config::reader::{Entry, Section, Span};
use crate::config::{
    Bypass, CloseCodes, CredentialVerifiers, Forward, HostPattern, Method, Origins, PathPattern,
    RejectMode, RequiredPermission, Route, Upstream, UpstreamPath,
};

table! {
    /// Paths, their upstreams, and the clients that may use them; at least one.
    pub struct RouteTable: [[route]], with credential_verifiers: CredentialVerifiersTable {
        /// An exact path, /prefix/*, or a path with {name} segments.
        path: PathPattern, required "/ws";
        /// Hosts of the route; an empty list means all hosts.
        hosts: List<HostPattern>, default [],
            because "most installations have one host";
        /// The name of an upstream.
        upstream: Text, required "chat";
        /// The first segments of `path`, which are removed for the upstream; it gets them in
        /// X-Forwarded-Prefix.
        strip_prefix: Text, optional "/ws";
        /// The path for the upstream, instead of an exact `path`; by default the client's path.
        upstream_path: Text, optional "/socket";
        /// Methods in order of preference; an empty list makes the route public.
        auth: SetOf<Method>, required ["ticket", "message", "header"],
            because "a route is public or authenticated on purpose, never by omission";
        /// Permissions that a client needs; {name} stands for a parameter of the path.
        require: LocatedTexts, default [],
            because "any valid credential opens the route",
            change_when "there are rooms, roles or scopes";
        /// Web pages that may connect. By default, any page with a valid ticket or token may; the
        /// methods cookie and session need this list.
        origins: Origins, optional ["https://app.example.com"],
            because "any page, with a warning where pages can use the route. Browsers do not send \
                tickets and bearer tokens by themselves, so the origin is a second check, not the \
                first. For credentials that browsers send by themselves, the list is required \
                ([origins](credentials.md#origins))",
            change_when "always: list your pages, or write `[]` if no page connects";
        /// The query parameter that carries a ticket.
        ticket_parameter: Text, default "ticket",
            because "the name that the specification gives it";
        /// The query parameter that carries a token, for the method query.
        token_parameter: Text, default "access_token",
            because "the name in RFC 6750";
        /// Unsigned headers for the upstream, each with the claim that it carries.
        identity_headers: StringsByName, optional { "X-User-Id" = "sub" };
        /// Subprotocols that an early 101 may choose; by default those of the preset.
        subprotocols: List<Subprotocol>, optional ["chat.v1"];
        /// How a refused upgrade is answered: http (a status) or close (a 101 and a close frame,
        /// which a page can read).
        reject_mode: OneOf<RejectMode>, default "http",
            because "tools and libraries expect a status",
            change_when "pages must read the reason";
        /// Close codes: rfc (1008) or http (4401, 4403, 4408).
        close_codes: OneOf<CloseCodes>, derived "rfc",
            because "`http` for the preset graphql-transport-ws, whose protocol uses these codes; \
                `rfc` for all others",
            change_when "pages must distinguish the reasons";
        /// Methods of this route that will be removed: they still work, with a warning to clients
        /// and operators.
        legacy: SetOf<Method>, optional ["header"];
        /// The day from which the legacy methods are deprecated.
        deprecated: Day, optional "2026-11-01";
        /// The day on which the legacy methods stop working.
        sunset: Day, optional "2027-03-01";
        /// A web page about the change, linked in the answers to legacy clients.
        migration_link: MigrationLink, optional "https://example.com/login";
        /// Methods that are checked and counted, but do not decide.
        shadow: SetOf<Method>, optional ["query"];
        /// The share of the clients that use ticket or message.
        rollout: Nested<RolloutTable>,
            optional { ticket = 10, message = 0, sticky = "user", enforce = false };
        /// The table first_message, for this route.
        first_message: Nested<FirstMessageTable>, optional { preset = "json" };
        /// The table reauth, for this route.
        reauth: Nested<ReauthTable>, optional { mode = "close" };
    }
}

impl Choice for Method {
    fn choices() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|method| (method.name(), method)).to_vec()
    }
}

impl Member for Method {
    const NOUN: &str = "a method";
}

impl Choice for RejectMode {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("http", Self::Http), ("close", Self::Close)]
    }
}

impl Choice for CloseCodes {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("rfc", Self::Rfc), ("http", Self::Http)]
    }
}

impl TextType for PathPattern {
    type Value = Self;
    const NAME: &str = "path";
    const PATTERN: Option<&str> = Some("^/");

    fn parse(_key: &str, text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl TextType for HostPattern {
    type Value = Self;
    const NAME: &str = "host";

    fn parse(_key: &str, text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// The name of a subprotocol: a token of HTTP (RFC 6455 section 4.1).
pub struct Subprotocol;

impl TextType for Subprotocol {
    type Value = String;
    const NAME: &str = "subprotocol";

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        // A header name is a token too.
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!("`{text}` is not a valid subprotocol name")),
        }
    }
}

impl KeyType for Origins {
    type Value = Self;

    fn name() -> String {
        "list of origins, or `\"*\"`".to_owned()
    }

    fn schema() -> Json {
        List::<Text>::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Self> {
        let mut all = Self::default();
        for item in entry.texts()? {
            match Self::parse([item.text()?.as_str()]) {
                Ok(one) => {
                    if one.allows_any() {
                        let warning = Diagnostic::warning("every web page may open a socket here")
                            .help("list the origins of your own pages instead of \"*\"");
                        item.report(warning);
                    }
                    all.extend(&one);
                }
                Err(message) => item.report(Diagnostic::error(message)),
            }
        }
        Some(all)
    }
}

/// The parts of other tables that a route needs.
pub struct RouteContext<'a> {
    pub upstreams: &'a [Arc<Upstream>],
    pub upstream_names: &'a Names,
    pub has_issuer: bool,
    pub verifier_names: &'a Names,
    /// Whether `[tickets]` names a verifier.
    pub has_ticket_judge: bool,
    pub bypass: &'a Bypass,
    pub signed_context: &'a HeaderName,
    /// `[first_message]` and `[reauth]` at the top of the file.
    pub first_message: &'a Section<'a, 'a>,
    pub reauth: &'a Section<'a, 'a>,
    pub seen: Names,
}

pub fn route(section: &Section<'_, '_>, context: &mut RouteContext<'_>) -> Option<Route> {
    let reader = section.reader;
    let table = RouteTable::read(section);
    if let Some(path) = &table.path {
        add_path(section, context, path, &table.hosts);
    }
    let upstream = find_upstream(section, context, table.upstream.as_deref());
    let upstream_path = upstream_path(section, &table);
    let credential_verifiers =
        table.credential_verifiers.credential_verifiers(section, context.verifier_names);
    let methods = table.auth.unwrap_or_default();
    check_methods(section, context, &credential_verifiers, &methods);
    let auth: Vec<_> = methods.into_iter().map(|(method, _)| method).collect();
    let (token_cookie, session_cookie) =
        (table.credential_verifiers.token_cookie, table.credential_verifiers.session_cookie);
    if token_cookie == session_cookie
        && auth.contains(&Method::Cookie)
        && auth.contains(&Method::Session)
    {
        reader.error(
            &span_of(section, "auth"),
            "tokens and sessions use the same cookie",
            "give `session_cookie` another name",
        );
    }
    check_origins(section, &auth, table.origins.as_ref());
    if table.ticket_parameter == table.token_parameter
        && auth.contains(&Method::Ticket)
        && auth.contains(&Method::Query)
    {
        reader.error(
            &span_of(section, "auth"),
            "tickets and tokens use the same query parameter",
            "give `token_parameter` another name",
        );
    }
    let own_first_message = section.section("first_message");
    let first_message = first_message::first_message(&own_first_message, context.first_message);
    if first_message.forward == Forward::Replace {
        check_login(section, &auth, own_first_message.value("forward").is_some());
    }
    let preset = first_message.preset;
    let reauth = reauth::reauth(&section.section("reauth"), context.reauth, preset).into();
    let preset_subprotocols = || preset.subprotocols().iter().map(|name| (*name).to_owned());
    let require = required_permissions(section, table.path.as_ref(), table.require, &auth);
    let migration = rollout::migration(
        section,
        &auth,
        rollout::RouteKeys {
            legacy: table.legacy.unwrap_or_default(),
            deprecated: table.deprecated,
            sunset: table.sunset,
            link: table.migration_link,
            shadow: table.shadow.unwrap_or_default(),
        },
    );
    if let Some(value) = section.value("shadow").filter(|_| {
        migration.shadow.contains(&Method::Session) && credential_verifiers.sessions.is_none()
    }) {
        let help = "name the [[verifier]] of sessions: `session_verifier = \"...\"`";
        reader.error(&value.span(), "the shadow method `session` needs a verifier", help);
    }
    let name = section.value("path").and_then(|value| value.get_ref().as_str()).map(Arc::from);
    Some(Route {
        name: name?,
        identity_headers: identity_headers(
            section,
            context,
            table.identity_headers.unwrap_or_default(),
        ),
        hosts: table.hosts,
        path: table.path?,
        upstream: upstream?,
        upstream_path,
        auth,
        credential_verifiers,
        origins: table.origins,
        ticket_parameter: table.ticket_parameter,
        token_parameter: table.token_parameter,
        token_cookie,
        session_cookie,
        bypass_header: context.bypass.header.clone(),
        first_message: Arc::new(first_message),
        reauth,
        reject_mode: table.reject_mode,
        close_codes: table.close_codes.unwrap_or_else(|| preset.close_codes()),
        subprotocols: table.subprotocols.unwrap_or_else(|| preset_subprotocols().collect()),
        require,
        migration,
    })
}

/// Returns the place of a key, or of the table if the key is not written.
fn span_of(section: &Section<'_, '_>, key: &'static str) -> Span {
    section.value(key).map_or_else(|| section.span.clone(), toml::Spanned::span)
}

/// Rejects a path that appears twice for one host.
fn add_path(
    section: &Section<'_, '_>,
    context: &mut RouteContext<'_>,
    path: &PathPattern,
    hosts: &[HostPattern],
) {
    let span = span_of(section, "path");
    let mut hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    if hosts.is_empty() {
        hosts.push(String::new());
    }
    for host in hosts {
        // The name of a segment makes no difference: `/{a}` and `/{b}` match the same requests.
        let name = format!("{host}{}", path.without_names());
        context.seen.add(section.reader, "route", &name, &span);
    }
}

fn find_upstream(
    section: &Section<'_, '_>,
    context: &RouteContext<'_>,
    name: Option<&str>,
) -> Option<Arc<Upstream>> {
    let name = name?;
    if !context.upstream_names.contains(name) {
        let help = match context.upstream_names.is_empty() {
            true => "add an [[upstream]] with that name".to_owned(),
            false => suggest(name, context.upstream_names.iter()),
        };
        let message = format!("no upstream is named `{name}`");
        section.reader.error(&span_of(section, "upstream"), message, help);
    }
    context.upstreams.iter().find(|upstream| *upstream.name == *name).cloned()
}

fn upstream_path(section: &Section<'_, '_>, table: &RouteTable) -> UpstreamPath {
    if table.strip_prefix.is_some() && table.upstream_path.is_some() {
        section.reader.error(
            &span_of(section, "upstream_path"),
            "`strip_prefix` and `upstream_path` cannot be combined: both set the upstream's path",
            "remove one of them",
        );
    }
    // A route without a valid path is already reported.
    let Some(path) = &table.path else { return UpstreamPath::AsSent };
    let parsed =
        |key, text: &Option<String>, parse: fn(&str, &PathPattern) -> Result<_, String>| {
            let report = |message| {
                section.reader.report(&span_of(section, key), Diagnostic::error(message));
            };
            parse(text.as_deref()?, path).map_err(report).ok()
        };
    let cut = parsed("strip_prefix", &table.strip_prefix, UpstreamPath::stripped);
    let fixed = parsed("upstream_path", &table.upstream_path, UpstreamPath::fixed);
    cut.or(fixed).unwrap_or_default()
}

/// Warns of a route that reaches paths of an upstream that another route protects more strictly. A
/// rewritten path is not looked up in the routes again.
pub fn check_reach(sections: &[Section<'_, '_>], routes: &[Arc<Route>]) {
    // A route with a mistake is not in the list, and is already reported.
    if sections.len() != routes.len() {
        return;
    }
    for (section, route) in sections.iter().zip(routes) {
        let reached = route.upstream_path.pattern(&route.path);
        // A route with one exact path is assumed to be intended.
        if reached.is_literal() {
            continue;
        }
        let is_opened = |other: &&Arc<Route>| {
            let guarded = other.upstream_path.pattern(&other.path);
            let is_rewritten =
                [route, *other].iter().any(|one| one.upstream_path != UpstreamPath::AsSent);
            let is_same = route.upstream.name == other.upstream.name
                && is_rewritten
                && !reached.is_more_specific_than(&guarded);
            // If the protected paths have a route of their own, it takes their requests. That route
            // gets its own check.
            let is_taken = |one: &Arc<Route>| {
                one.path == guarded && one.hosts == route.hosts && !Arc::ptr_eq(one, route)
            };
            let is_elsewhere =
                route.upstream_path == UpstreamPath::AsSent && routes.iter().any(is_taken);
            is_same
                && !is_elsewhere
                && reached.overlaps(&guarded)
                && !route.asks_for_as_much_as(other)
        };
        let Some(opened) = routes.iter().find(is_opened) else { continue };
        let (span, upstream) = (
            section.value("path").map_or_else(|| section.span.clone(), toml::Spanned::span),
            &route.upstream.name,
        );
        let warning = Diagnostic::warning(format!(
            "this route reaches paths of `{upstream}` that the route `{}` protects more strictly",
            opened.name
        ))
        .help(
            "use the same checks, list the paths one by one, or use another upstream for one route",
        );
        section.reader.report(&span, warning);
    }
}

/// Returns the identity headers. Rejects a name, in any spelling, that could replace a header that
/// the upstream trusts for another reason.
fn identity_headers(
    section: &Section<'_, '_>,
    context: &RouteContext<'_>,
    written: Vec<(String, String, Span)>,
) -> Vec<(HeaderName, String)> {
    let mut headers: Vec<(HeaderName, String)> = Vec::new();
    let own = [
        (context.signed_context, "the header of the signed context"),
        (&context.bypass.header, "the header of test identities"),
        (&Bypass::HEADER, "the header of test identities"),
    ];
    for (name, claim, span) in written {
        let checked = header_name::parse(&name).and_then(|header| {
            let taken = own
                .iter()
                .find(|(own, _)| header_name::is_same(own, &header))
                .map(|(_, what)| *what);
            let twice = headers
                .iter()
                .any(|(other, _)| header_name::is_same(other, &header))
                .then_some("listed twice in this table");
            match taken.or(twice) {
                Some(what) => Err(format!("`{name}` is {what}")),
                None => Ok(header),
            }
        });
        match checked {
            Ok(header) => headers.push((header, claim)),
            Err(message) => {
                section.reader.error(&span, message, "choose another name, such as \"X-User-Id\"");
            }
        }
    }
    headers
}

/// Reports methods whose credentials nothing can verify.
fn check_methods(
    section: &Section<'_, '_>,
    context: &RouteContext<'_>,
    credential_verifiers: &CredentialVerifiers,
    methods: &[(Method, Span)],
) {
    let reader = section.reader;
    for (method, span) in methods {
        let is_test = *method == Method::Bypass;
        if is_test && context.bypass.secret.is_none() {
            let help = "add `[bypass]` with `secret_env` or `secret_file`";
            reader.error(span, "`bypass` needs a secret", help);
        } else if is_test {
            let warning = Diagnostic::warning(
                "`bypass`: the secret of `[bypass]` impersonates any user here",
            )
            .help("use it only for end-to-end tests; it needs `usher run --allow-bypass`");
            reader.report(span, warning);
        }
        let is_judged = context.has_issuer
            || match method {
                Method::Session | Method::Bypass | Method::Mtls => true,
                Method::Ticket => context.has_ticket_judge,
                _ => credential_verifiers.tokens.is_some(),
            };
        if !is_judged {
            reader.error(
                span,
                format!("`{}` needs an issuer", method.name()),
                "add an [[issuer]] whose tokens are accepted",
            );
        }
        if *method == Method::Session && credential_verifiers.sessions.is_none() {
            let help = "name the [[verifier]] of sessions: `session_verifier = \"...\"`";
            reader.error(span, "`session` needs a verifier", help);
        }
    }
}

/// Reports `origins` that do not fit the methods of the route.
fn check_origins(section: &Section<'_, '_>, auth: &[Method], origins: Option<&Origins>) {
    let reader = section.reader;
    if let Some(method) = auth.iter().find(|method| method.is_sent_by_browsers()) {
        let name = method.name();
        match origins {
            None => reader.error(
                &span_of(section, "auth"),
                format!("`{name}` needs `origins`"),
                "browsers send this credential for every page: list the origins of your own pages",
            ),
            Some(origins) if origins.allows_any() => {
                let warning = Diagnostic::warning(format!(
                    "with `{name}` every web page may open a socket here in the user's name"
                ))
                .help("list the origins of your own pages instead of \"*\"");
                reader.report(&span_of(section, "origins"), warning);
            }
            Some(_) => {}
        }
    } else if origins.is_none() && auth.iter().any(|method| method.is_shown_by_pages()) {
        let path = section.value("path").and_then(|value| value.get_ref().as_str());
        let path = path.map_or_else(String::new, |path| format!(" `{path}`"));
        let message = format!(
            "route{path} has no `origins`: a page of any site may open a socket here, if it has a \
             valid ticket or token"
        );
        let help = "list your own pages: `origins = [\"https://app.example.com\"]`, or \
                    `origins = []` if no page uses it";
        reader.report(&span_of(section, "auth"), Diagnostic::warning(message).help(help));
    }
}

/// Rejects `forward = "replace"` beside other methods. Usher writes the login of the service into
/// the message that carries the credential; a client with a credential in its upgrade could send a
/// login of its own.
fn check_login(section: &Section<'_, '_>, auth: &[Method], is_named_here: bool) {
    let Some(written) = section.value("auth") else { return };
    let other = auth.iter().find(|method| **method != Method::Message);
    match (auth.contains(&Method::Message), other) {
        (true, Some(other)) => {
            let message = format!(
                "clients with the method `{}` could send the upstream a login of their own",
                other.name()
            );
            let help = "with `forward = \"replace\"` write `auth = [\"message\"]`, and add another \
                        route for the other methods";
            section.reader.error(&written.span(), message, help);
        }
        (false, _) if is_named_here => {
            let message = "`forward = \"replace\"` needs the method `message`";
            section.reader.error(
                &written.span(),
                message,
                "write `auth = [\"message\"]`, or remove `forward` and the login",
            );
        }
        _ => {}
    }
}

fn required_permissions(
    section: &Section<'_, '_>,
    path: Option<&PathPattern>,
    written: Vec<(String, Span)>,
    auth: &[Method],
) -> Vec<RequiredPermission> {
    let Some(path) = path else { return Vec::new() };
    let is_required = !written.is_empty();
    // A missing `auth` is already reported.
    if is_required && auth.is_empty() && section.value("auth").is_some() {
        section.reader.error(
            &span_of(section, "require"),
            "a public route cannot require permissions",
            "list the methods of the route in `auth`, or remove `require`",
        );
    }
    let parse = |(text, span): (String, Span)| {
        RequiredPermission::parse(&text, path)
            .map_err(|message| section.reader.report(&span, Diagnostic::error(message)))
            .ok()
    };
    written.into_iter().filter_map(parse).collect()
}
