//! `[tickets]`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::credential_verifiers::CredentialVerifiersTable;
use super::names::Names;
use crate::base::rate::Rate;
use crate::config::declare::table;
use crate::config::key_type::{EndpointPath, Flag, KeyType, PositiveDuration};
use crate::config::reader::{Entry, Section};
use crate::config::{CredentialVerifiers, Method, Origins, Route};

table! {
    /// One-time tickets for browsers.
    pub struct TicketsTable: [tickets], with credential_verifiers: CredentialVerifiersTable {
        /// The path where clients request tickets.
        path: EndpointPath, default "/websocket/ticket",
            because "one endpoint for all routes",
            change_when "the application uses this path";
        /// How long a ticket is valid.
        ttl: PositiveDuration, default "30s",
            because "the time from `fetch` to `new WebSocket` is less than a second; 30 s is \
                enough for a bad mobile network",
            change_when "clients wait for a slow login in between";
        /// The longest lifetime that a client may ask for.
        max_ttl: PositiveDuration, default "5m",
            because "a ticket that is valid for longer is like a password in a URL",
            change_when "almost never";
        /// Allow tickets that work more than once.
        multi_use: Flag, default false,
            because "a leaked URL is worthless once its ticket is used",
            change_when "a client cannot fetch a new ticket to reconnect";
        /// Properties that must be the same at the request and at the upgrade: origin, ip.
        bind: TicketBindings, default [],
            because "addresses change between `fetch` and upgrade (IPv4 and IPv6, mobile \
                networks); origins differ where a page embeds another",
            change_when "all clients are on fixed networks, or on one origin";
        /// Pages that may request tickets; by default the origins of all routes with tickets.
        origins: Origins, optional ["https://app.example.com"];
        /// How many tickets one user may request.
        rate_per_user: Rate, default "60/1m",
            because "enough for a person with several tabs that reconnect, too little for a loop";
        /// How many tickets one client address may request.
        rate_per_address: Rate, default "600/1m",
            because "ten times `rate_per_user`",
            change_when "many users share one address";
    }
}

#[derive(Debug)]
pub struct Tickets {
    pub path: String,
    pub ttl: Duration,
    pub max_ttl: Duration,
    pub multi_use: bool,
    pub bind: TicketBindings,
    /// The pages that may request tickets.
    pub origins: Origins,
    /// The pages that may ask which methods a route takes: those, and the pages of each route that
    /// takes credentials.
    pub asking_origins: Origins,
    /// The cookie that a page may send instead of a bearer token.
    pub token_cookie: String,
    /// The cookie with a session id. It is read only where a verifier of sessions is named.
    pub session_cookie: String,
    pub credential_verifiers: CredentialVerifiers,
    pub rate_per_user: Rate,
    pub rate_per_address: Rate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicketBindings {
    pub origin: bool,
    pub ip: bool,
}

impl KeyType for TicketBindings {
    type Value = Self;

    fn name() -> String {
        "list of `\"origin\"`, `\"ip\"`".to_owned()
    }

    fn schema() -> Json {
        serde_json::json!({ "type": "array", "items": { "enum": ["origin", "ip"] } })
    }

    fn read(entry: &Entry<'_>) -> Option<Self> {
        let mut bindings = Self::default();
        for item in entry.texts()? {
            match item.text()?.as_str() {
                "origin" => bindings.origin = true,
                "ip" => bindings.ip = true,
                other => item.error(
                    format!("a ticket cannot be bound to `{other}`"),
                    "the possible values are `origin` and `ip`",
                ),
            }
        }
        Some(bindings)
    }
}

impl TicketsTable {
    pub fn finish(
        self,
        section: &Section<'_, '_>,
        routes: &[Arc<Route>],
        verifiers: &Names,
    ) -> Tickets {
        let (ttl, max_ttl) = (self.ttl, self.max_ttl);
        if ttl > max_ttl {
            let span = section
                .value("ttl")
                .or_else(|| section.value("max_ttl"))
                .map_or(0..0, toml::Spanned::span);
            section.reader.error(
                &span,
                format!("`ttl` ({ttl:?}) must not be longer than `max_ttl` ({max_ttl:?})"),
                "shorten `ttl` or raise `max_ttl`",
            );
        }
        let origins = self
            .origins
            .unwrap_or_else(|| origins_of(routes, |route| route.auth.contains(&Method::Ticket)));
        let mut asking_origins = origins_of(routes, |route| !route.auth.is_empty());
        asking_origins.extend(&origins);
        Tickets {
            path: self.path,
            ttl,
            max_ttl,
            multi_use: self.multi_use,
            bind: self.bind,
            origins,
            asking_origins,
            credential_verifiers: self
                .credential_verifiers
                .credential_verifiers(section, verifiers),
            token_cookie: self.credential_verifiers.token_cookie,
            session_cookie: self.credential_verifiers.session_cookie,
            rate_per_user: self.rate_per_user,
            rate_per_address: self.rate_per_address,
        }
    }
}

/// Returns the pages of these routes together.
fn origins_of(routes: &[Arc<Route>], is_meant: impl Fn(&Route) -> bool) -> Origins {
    let mut union = Origins::default();
    let meant = routes.iter().filter(|route| is_meant(route));
    for origins in meant.filter_map(|route| route.origins.as_ref()) {
        union.extend(origins);
    }
    union
}
