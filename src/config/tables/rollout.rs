//! `[route.rollout]`, and the keys of a `[[route]]` that move it from old methods to new ones.

use http::HeaderValue;
use serde_json::{Value as Json, json};

use crate::base::clock::UnixMillis;
use crate::config::declare::{Table, table};
use crate::config::key_type::{Choice, Flag, KeyType, OneOf, TextType};
use crate::config::reader::{Entry, Section, Span};
use crate::config::{Method, Migration, Rollout, Sticky};

table! {
    /// The share of the clients that use a new method.
    pub struct RolloutTable: [route.rollout] {
        /// Percent of the clients that authenticate with their first message.
        message: Percent, optional 10;
        /// Percent of the clients that use a ticket.
        ticket: Percent, optional 10;
        /// The property that assigns a client to a share: user or address.
        sticky: OneOf<Sticky>, default "user",
            because "all devices of a person get the same method; addresses change",
            change_when "clients cannot send their user name before they connect";
        /// Reject legacy methods from clients in a share.
        enforce: Flag, default false,
            because "rejecting is a separate step of the migration",
            change_when "no client is `lagging` any more";
    }
}

impl Choice for Sticky {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("user", Self::User), ("address", Self::Address)]
    }
}

/// A share of the clients.
pub struct Percent;

impl KeyType for Percent {
    type Value = u8;

    fn name() -> String {
        "percent".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0, "maximum": 100 })
    }

    fn read(entry: &Entry<'_>) -> Option<u8> {
        let percent = entry.integer().and_then(|number| u8::try_from(number).ok());
        let percent = percent.filter(|percent| *percent <= 100);
        if percent.is_none() {
            entry.error(
                format!("`{}` must be a whole number from 0 to 100", entry.key),
                "it is a share in percent",
            );
        }
        percent
    }
}

/// A day, which begins at midnight UTC, or a moment.
pub struct Day;

impl TextType for Day {
    type Value = UnixMillis;
    const NAME: &str = "day";
    const PATTERN: Option<&str> = Some("^[0-9]{4}-[0-9]{2}-[0-9]{2}");

    fn parse(_key: &str, text: &str) -> Result<UnixMillis, String> {
        UnixMillis::from_rfc3339(&format!("{text}T00:00:00Z"))
            .or_else(|| UnixMillis::from_rfc3339(text))
            .ok_or_else(|| format!("`{text}` is not a day; write one like \"2026-11-01\""))
    }
}

/// The value of a `Link` header.
pub struct MigrationLink;

impl TextType for MigrationLink {
    type Value = HeaderValue;
    const NAME: &str = "URL";

    fn parse(_key: &str, text: &str) -> Result<HeaderValue, String> {
        match HeaderValue::from_str(&format!("<{text}>; rel=\"deprecation\"; type=\"text/html\"")) {
            Ok(value) if !text.contains(['<', '>', ' ']) && text.parse::<http::Uri>().is_ok() => {
                Ok(value)
            }
            _ => Err(format!("`{text}` is not a URL")),
        }
    }
}

/// Keys of a route.
pub struct RouteKeys {
    pub legacy: Vec<(Method, Span)>,
    pub deprecated: Option<UnixMillis>,
    pub sunset: Option<UnixMillis>,
    pub link: Option<HeaderValue>,
    pub shadow: Vec<(Method, Span)>,
}

pub fn migration(section: &Section<'_, '_>, auth: &[Method], keys: RouteKeys) -> Migration {
    check_legacy(section, auth, &keys);
    let legacy: Vec<_> = keys.legacy.into_iter().map(|(method, _)| method).collect();
    let rollout = rollout(&section.section("rollout"), auth, &legacy);
    Migration {
        shadow: shadow(section, auth, keys.shadow),
        legacy,
        deprecated: keys.deprecated,
        sunset: keys.sunset,
        link: keys.link,
        rollout,
    }
}

fn check_legacy(section: &Section<'_, '_>, auth: &[Method], keys: &RouteKeys) {
    let reader = section.reader;
    for (method, span) in keys.legacy.iter().filter(|(method, _)| !auth.contains(method)) {
        let name = method.name();
        reader.error(
            span,
            format!("`{name}` is not a method of this route"),
            format!("a legacy method still works: add it to `auth` too, or remove `{name}`"),
        );
    }
    if let Some((_, span)) = keys.legacy.iter().find(|(method, _)| *method == Method::Message) {
        reader.error(
            span,
            "`message` cannot be a legacy method",
            "Usher sends the early 101 before it knows the method of the client",
        );
    }
    match (keys.legacy.first(), section.value("deprecated")) {
        (Some((_, span)), None) => reader.error(
            span,
            "`legacy` needs `deprecated`",
            "add the day from which these methods are deprecated: `deprecated = \"2026-11-01\"`",
        ),
        (None, Some(value)) => reader.error(
            &value.span(),
            "`deprecated` needs `legacy`",
            "write `legacy = [...]`, or remove it",
        ),
        _ => {}
    }
    if let (Some(since), Some(until), Some(value)) =
        (keys.deprecated, keys.sunset, section.value("sunset"))
        && until <= since
    {
        reader.error(
            &value.span(),
            "`sunset` must be after `deprecated`",
            "`sunset` is the day on which the legacy methods stop working",
        );
    }
}

fn shadow(section: &Section<'_, '_>, auth: &[Method], written: Vec<(Method, Span)>) -> Vec<Method> {
    let mut methods = Vec::new();
    for (method, span) in written {
        let name = method.name();
        match method {
            Method::Message | Method::Bypass => section.reader.error(
                &span,
                format!("`{name}` cannot be a shadow method"),
                "it changes how Usher answers the upgrade; remove it from `shadow`",
            ),
            _ if auth.contains(&method) => section.reader.error(
                &span,
                format!("`{name}` is a method of this route already"),
                "remove it from `shadow` or from `auth`",
            ),
            _ => methods.push(method),
        }
    }
    methods
}

fn rollout(section: &Section<'_, '_>, auth: &[Method], legacy: &[Method]) -> Rollout {
    let reader = section.reader;
    let table = RolloutTable::read(section);
    let mut shares = Vec::new();
    for (key, method, percent) in
        [("message", Method::Message, table.message), ("ticket", Method::Ticket, table.ticket)]
    {
        let (Some(percent), Some(value)) = (percent, section.value(key)) else { continue };
        if !auth.contains(&method) {
            reader.error(
                &value.span(),
                format!("`{key}` is not a method of this route"),
                format!("add `{key}` to `auth`, or remove the share"),
            );
        }
        shares.push((method, percent));
    }
    let sum: u16 = shares.iter().map(|(_, percent)| u16::from(*percent)).sum();
    if sum > 100 {
        let message = format!("the sum of the shares is {sum} %");
        reader.error(&section.span, message, "write shares with a sum of at most 100");
    }
    if let Some(value) = section
        .value("enforce")
        .filter(|_| table.enforce && (legacy.is_empty() || shares.is_empty()))
    {
        reader.error(
            &value.span(),
            "`enforce` needs `legacy` and a share",
            "list the methods that will be removed in `legacy`, and set `ticket` or `message`",
        );
    }
    Rollout { shares, sticky: table.sticky, enforce: table.enforce }
}
