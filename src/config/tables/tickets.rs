//! `[tickets]`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::judges::JudgesTable;
use super::names::Names;
use crate::base::rate::Rate;
use crate::config::declare::table;
use crate::config::key_type::{EndpointPath, Flag, KeyType, PositiveDuration};
use crate::config::reader::{Entry, Section};
use crate::config::{Judges, Method, Origins, Route};

table! {
    /// One-time tickets for browsers.
    pub struct TicketsTable: [tickets], with judges: JudgesTable {
        /// The path where clients request tickets.
        path: EndpointPath, default "/websocket/ticket",
            because "one place for all routes",
            change_when "it collides";
        /// How long a ticket is valid.
        ttl: PositiveDuration, default "30s",
            because "from `fetch` to `new WebSocket` takes less than a second; 30 s outlives a \
                bad mobile network, and little else",
            change_when "clients sit behind slow logins";
        /// The longest that a client may ask for.
        max_ttl: PositiveDuration, default "5m",
            because "beyond that a ticket is a password in a URL",
            change_when "rarely";
        /// Allow tickets that work more than once.
        multi_use: Flag, default false,
            because "single use is what makes a leaked URL worthless",
            change_when "a client cannot fetch another one on reconnect";
        /// What a ticket is tied to: origin, ip.
        bind: TicketBindings, default [],
            because "addresses change between `fetch` and upgrade (IPv4 and IPv6, mobile \
                networks); origins differ where a page embeds another",
            change_when "all clients are on fixed networks, or on one origin";
        /// Pages that may request tickets; those of the ticket routes unless written.
        origins: Origins, optional ["https://app.example.com"];
        /// Tickets for one user.
        rate_per_user: Rate, default "60/1m",
            because "one burst of reconnects: a person with several tabs is not stopped, a loop is";
        /// Tickets for one client address.
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
    /// The cookie that a page may send instead of a bearer token.
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
                    "known here: `origin`, `ip`",
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
                format!("`ttl` ({ttl:?}) is longer than `max_ttl` ({max_ttl:?})"),
                "shorten `ttl` or raise `max_ttl`",
            );
        }
        let origins = self.origins.unwrap_or_else(|| {
            let mut union = Origins::default();
            let routes = routes.iter().filter(|route| route.auth.contains(&Method::Ticket));
            for origins in routes.filter_map(|route| route.origins.as_ref()) {
                union.extend(origins);
            }
            union
        });
        Tickets {
            path: self.path,
            ttl,
            max_ttl,
            multi_use: self.multi_use,
            bind: self.bind,
            origins,
            judges: self.judges.judges(section, verifiers),
            token_cookie: self.judges.token_cookie,
            session_cookie: self.judges.session_cookie,
            rate_per_user: self.rate_per_user,
            rate_per_address: self.rate_per_address,
        }
    }
}
