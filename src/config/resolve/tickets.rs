//! `[tickets]`.

use super::route::{self, origins};
use super::*;

pub(super) fn tickets(section: &Section<'_, '_>, routes: &[Arc<Route>], verifiers: &Names, multi_use: bool) -> Tickets {
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
        multi_use,
        bind,
        origins,
        token_cookie: route::token_name(section, "token_cookie", "access_token"),
        session_cookie: route::token_name(section, "session_cookie", "session"),
        judges: verifier::judges(section, verifiers),
        rate_per_user: section.with_unit("rate_per_user", Rate { count: 60, per: 60 * SECOND }, value::rate),
        rate_per_address: section.with_unit("rate_per_address", Rate { count: 600, per: 60 * SECOND }, value::rate),
    };
    section.finish();
    tickets
}
