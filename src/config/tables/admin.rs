//! `[admin]`.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::Value as Json;

use crate::base::rate::Rate;
use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{Count, KeyType, PositiveDuration, SecretFile, SecretVariable, Text};
use crate::config::reader::{Entry, Section};
use crate::config::{Admin, AdminAddress, Listener, LoginRules};
use crate::model::listening_address::overlap;

table! {
    /// The address for metrics, health checks and administration; not served without this table.
    pub struct AdminTable: [admin] {
        /// IP address and port, loopback unless a token is set; or unix:PATH, a socket that only
        /// its owner can open.
        address: AdminAddress, required "127.0.0.1:9090";
        /// Environment variable with the bearer token.
        token_env: SecretVariable, optional "USHER_ADMIN_TOKEN";
        /// File with the bearer token, instead of `token_env`.
        token_file: SecretFile, optional "admin-token.txt";
        /// How long a login to the admin page lasts.
        login_ttl: PositiveDuration, default "12h",
            because "a shift; a forgotten browser is logged out the next day";
        /// How long a login to the admin page lasts without a request. An open page sends requests.
        login_idle: PositiveDuration, default "30m",
            because "a tab that was closed stays logged in only this long";
        /// Logins to the admin page at the same time; a newer one replaces the one that is idle for
        /// the longest time.
        max_logins: Count, default 32,
            because "more people than look after one node at once";
        /// How many wrong tokens one address may send, to the admin page or as a bearer token.
        /// Further ones get 429. The right token is always accepted.
        login_rate_per_address: Rate, default "10/1m",
            because "enough for typing errors; against guesses only a random token helps",
            change_when "many operators share the address of a proxy";
    }
}

impl KeyType for AdminAddress {
    type Value = Self;

    fn name() -> String {
        "address or `unix:` path".to_owned()
    }

    fn schema() -> Json {
        Text::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Self> {
        let parsed = Self::parse(&entry.text()?, &entry.reader.path(""));
        parsed.map_err(|message| entry.report(Diagnostic::error(message))).ok()
    }
}

pub fn admin(section: &Section<'_, '_>) -> Option<Admin> {
    let table = AdminTable::read(section);
    let token = section.one_of(("token_env", table.token_env), ("token_file", table.token_file));
    let is_written = token.is_some();
    let address = table.address?;
    let token = token.and_then(|(token, span)| {
        if token.as_ref().is_some_and(|token| HeaderValue::from_bytes(token.expose()).is_err()) {
            let message = "the token has characters that a header cannot carry";
            section.reader.report(&span, Diagnostic::error(message));
        }
        token
    });
    if let Some(value) = section.value("address").filter(|_| !address.is_local() && !is_written) {
        section.reader.error(
            &value.span(),
            "an admin address that other machines can reach needs a token",
            "add `token_env` or `token_file`, or listen on 127.0.0.1 or on \"unix:/path\"",
        );
    }
    let logins = LoginRules {
        ttl: table.login_ttl,
        idle: table.login_idle,
        most: table.max_logins,
        wrong_rate: table.login_rate_per_address,
    };
    Some(Admin { address, token, logins })
}

/// Rejects the port of a listener: chance would decide which of the two a client reaches.
pub fn check_port(section: &Section<'_, '_>, admin: Option<&Admin>, listeners: &[Arc<Listener>]) {
    let (Some(admin), Some(value)) = (admin, section.value("address")) else { return };
    let Some(address) = admin.address.tcp() else { return };
    let overlaps = |listener: &&Arc<Listener>| overlap(listener.address, address);
    if let Some(listener) = listeners.iter().find(overlaps) {
        let message = format!(
            "the admin address and the [[listener]] at {} have the same port",
            listener.address
        );
        section.reader.error(&value.span(), message, "give one of them another port");
    }
}
