//! `[[route]]`.

use super::*;

pub(super) struct RouteContext<'a> {
    pub upstreams: &'a [Arc<Upstream>],
    pub upstream_names: &'a Names,
    pub has_issuer: bool,
    pub verifier_names: &'a Names,
    /// The ticket endpoint has a verifier of its own.
    pub has_ticket_judge: bool,
    pub bypass: &'a Bypass,
    pub first_message: &'a session::FirstMessageTable,
    pub reauth: &'a session::ReauthTable,
    pub seen: Names,
}

pub(super) fn route(section: &Section<'_, '_>, context: &mut RouteContext<'_>) -> Option<Route> {
    let reader = section.reader;
    let written = section.required("path", "`/exact`, `/prefix/*`, or with `{name}` segments");
    let path = section.parsed("path", PathPattern::parse);
    let hosts = section.parsed_list("hosts", HostPattern::parse);
    if let (Some((_, span)), Some(path)) = (&written, &path) {
        let hosts: Vec<_> = if hosts.is_empty() { vec![String::new()] } else { hosts.iter().map(|host| format!("{host}")).collect() };
        for host in hosts {
            // What a segment is called makes no difference to a request.
            context.seen.add(reader, "route", &format!("{host}{}", path.without_names()), span);
        }
    }
    let upstream = section.required("upstream", "the `name` of an [[upstream]]");
    if let Some((name, span)) = upstream.as_ref().filter(|(name, _)| !context.upstream_names.0.contains_key(name)) {
        let names = context.upstream_names.0.keys().map(String::as_str);
        let help = if names.len() == 0 { "add an [[upstream]] of that name".to_owned() } else { suggest(name, names) };
        reader.error(span, format!("no upstream is named `{name}`"), help);
    }
    let upstream = upstream.and_then(|(name, _)| context.upstreams.iter().find(|u| *u.name == *name).cloned());
    let judges = verifier::judges(section, context.verifier_names);
    let auth = methods(section, context, &judges);
    let origins = section.list("origins").map(|_| origins(section));
    let ticket_parameter = section.text_or("ticket_parameter", "ticket");
    let token_parameter = section.text_or("token_parameter", "access_token");
    let token_cookie = token_name(section, "token_cookie", "access_token");
    let session_cookie = token_name(section, "session_cookie", "session");
    if token_cookie == session_cookie && auth.contains(&Method::Cookie) && auth.contains(&Method::Session) {
        let span = section.value("auth").map_or_else(|| section.span.clone(), toml::Spanned::span);
        reader.error(&span, "tokens and sessions stand in the same cookie", "give `session_cookie` another name");
    }
    let places = (&auth[..], origins.as_ref(), ticket_parameter == token_parameter);
    check_places(section, places);
    let mut identity_headers = Vec::new();
    for (name, claim, span) in section.pairs("identity_headers") {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) => identity_headers.push((header, claim)),
            Err(_) => reader.report(&span, Diagnostic::error(format!("`{name}` is not a header name"))),
        }
    }
    let first_message = session::first_message_table(&section.section("first_message")).over(context.first_message).finish(reader);
    let preset = first_message.preset;
    let reauth = session::reauth_table(&section.section("reauth")).over(context.reauth).finish(reader, preset);
    let reject_mode = choice(section, "reject_mode", &[("http", RejectMode::Http), ("close", RejectMode::Close)], RejectMode::Http);
    let close_codes = choice(section, "close_codes", &[("rfc", CloseCodes::Rfc), ("http", CloseCodes::Http)], preset.close_codes());
    let subprotocols = match section.list("subprotocols") {
        Some(_) => section.parsed_list("subprotocols", subprotocol),
        None => preset.subprotocols().iter().map(|name| (*name).to_owned()).collect(),
    };
    let require = required_permissions(section, path.as_ref(), &auth);
    let migration = migration::migration(section, &auth);
    if let Some(value) = section.value("shadow").filter(|_| migration.shadow.contains(&Method::Session) && judges.sessions.is_none()) {
        let help = "name the [[verifier]] that knows sessions: `session_verifier = \"...\"`";
        reader.error(&value.span(), "`session` needs a verifier, in the shadow too", help);
    }
    section.finish();
    Some(Route {
        name: written?.0.into(),
        hosts,
        path: path?,
        upstream: upstream?,
        auth,
        judges,
        origins,
        ticket_parameter,
        token_parameter,
        token_cookie,
        session_cookie,
        bypass_header: context.bypass.header.clone(),
        identity_headers,
        first_message: Arc::new(first_message),
        reauth,
        reject_mode,
        close_codes,
        subprotocols,
        require,
        migration,
    })
}

/// Left out is a mistake: a public route says `auth = []`.
fn methods(section: &Section<'_, '_>, context: &RouteContext<'_>, judges: &Judges) -> Vec<Method> {
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
                let is_test = method == Method::Bypass;
                if is_test && context.bypass.secret.is_none() {
                    let help = "add `[bypass]` with `secret_env` or `secret_file`";
                    section.reader.error(&span, "`bypass` needs a secret", help);
                } else if is_test {
                    let warning = Diagnostic::warning("whoever knows the secret of `[bypass]` gets in here as anybody")
                        .help("for end-to-end tests alone; it counts only with `usher run --allow-bypass`");
                    section.reader.report(&span, warning);
                }
                let is_judged = context.has_issuer
                    || match method {
                        Method::Session | Method::Bypass | Method::Mtls => true,
                        Method::Ticket => context.has_ticket_judge,
                        _ => judges.tokens.is_some(),
                    };
                if !is_judged {
                    section.reader.error(&span, format!("`{text}` needs an issuer"), "add an [[issuer]] that says whose tokens are good");
                }
                if method == Method::Session && judges.sessions.is_none() {
                    let help = "name the [[verifier]] that knows sessions: `session_verifier = \"...\"`";
                    section.reader.error(&span, "`session` needs a verifier", help);
                }
                methods.push(method);
            }
            None => section.reader.error(&span, format!("`{text}` is not a method"), suggest(&text, Method::ALL.map(Method::name))),
        }
    }
    methods
}

/// Where a route's credentials stand, and from whom they are taken.
fn check_places(section: &Section<'_, '_>, (auth, origins, is_one_parameter): (&[Method], Option<&Origins>, bool)) {
    let reader = section.reader;
    let span_of = |key| section.value(key).map_or_else(|| section.span.clone(), toml::Spanned::span);
    if let Some(method) = auth.iter().find(|method| method.is_sent_by_browsers()) {
        let name = method.name();
        match origins {
            None => reader.error(
                &span_of("auth"),
                format!("`{name}` needs `origins`"),
                "a browser sends it for every page that asks: list the origins of your own pages",
            ),
            Some(origins) if origins.allows_any() => {
                let warning = Diagnostic::warning(format!("with `{name}` every web page may open a socket here in the user's name"))
                    .help("list the origins of your own pages instead of \"*\"");
                reader.report(&span_of("origins"), warning);
            }
            Some(_) => {}
        }
    }
    if is_one_parameter && auth.contains(&Method::Ticket) && auth.contains(&Method::Query) {
        reader.error(&span_of("auth"), "tickets and tokens stand in the same query parameter", "give `token_parameter` another name");
    }
}

/// The name of a cookie is a token (RFC 6265, section 4.1.1).
pub(super) fn token_name(section: &Section<'_, '_>, key: &'static str, default: &str) -> String {
    let parse = |text: &str| match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("`{text}` is not the name of a cookie")),
    };
    section.parsed(key, parse).unwrap_or_else(|| default.to_owned())
}

fn required_permissions(section: &Section<'_, '_>, path: Option<&PathPattern>, auth: &[Method]) -> Vec<RequiredPermission> {
    let Some(path) = path else {
        section.list("require");
        return Vec::new();
    };
    let require = section.parsed_list("require", |text| RequiredPermission::parse(text, path));
    // Where `auth` is missing, that is the mistake.
    if let Some(written) = section.value("require").filter(|_| !require.is_empty() && auth.is_empty() && section.value("auth").is_some()) {
        let help = "name the methods that tell who may come in, or take `require` away";
        section.reader.error(&written.span(), "a public route gives no grant that could have permissions", help);
    }
    require
}

pub(super) fn origins(section: &Section<'_, '_>) -> Origins {
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

/// RFC 6455, section 4.1: the elements "MUST all be unique strings" of the characters of a token.
fn subprotocol(text: &str) -> Result<String, String> {
    // Header names are tokens too.
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("`{text}` is not the name of a subprotocol")),
    }
}
