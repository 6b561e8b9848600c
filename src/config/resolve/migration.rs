//! The keys of a `[[route]]` that move it from old methods to new ones.

use super::*;
use crate::clock::UnixMillis;

const STICKY: [(&str, Sticky); 2] = [("user", Sticky::User), ("address", Sticky::Address)];

pub(super) fn migration(section: &Section<'_, '_>, auth: &[Method]) -> Migration {
    let reader = section.reader;
    let legacy = listed(section, "legacy");
    for (method, span) in legacy.iter().filter(|(method, _)| !auth.contains(method)) {
        let name = method.name();
        reader.error(
            span,
            format!("`{name}` is no method of this route"),
            format!("a legacy method still works: name it in `auth` too, or take `{name}` out"),
        );
    }
    if let Some((_, span)) = legacy.iter().find(|(method, _)| *method == Method::Message) {
        reader.error(span, "`message` cannot be a legacy method", "the early 101 is answered before anybody knows who it is for");
    }
    let deprecated = day(section, "deprecated");
    let sunset = day(section, "sunset");
    let link = section.parsed("migration_link", |text| {
        match HeaderValue::from_str(&format!("<{text}>; rel=\"deprecation\"; type=\"text/html\"")) {
            Ok(value) if !text.contains(['<', '>', ' ']) && text.parse::<http::Uri>().is_ok() => Ok(value),
            _ => Err(format!("`{text}` is not a URL")),
        }
    });
    match (legacy.first(), section.value("deprecated")) {
        (Some((_, span)), None) => {
            reader.error(
                span,
                "`legacy` needs `deprecated`",
                "the day since which these methods are not to be used: `deprecated = \"2026-11-01\"`",
            );
        }
        (None, Some(value)) => reader.error(&value.span(), "`deprecated` is for legacy methods", "write `legacy = [...]`, or remove it"),
        _ => {}
    }
    if let (Some(since), Some(until), Some(value)) = (deprecated, sunset, section.value("sunset"))
        && until <= since
    {
        reader.error(&value.span(), "`sunset` is before `deprecated`", "the day on which the legacy methods are to be gone");
    }
    let legacy: Vec<_> = legacy.into_iter().map(|(method, _)| method).collect();
    let shadow = shadow(section, auth);
    let rollout = rollout(&section.section("rollout"), auth, &legacy);
    Migration { legacy, deprecated, sunset, link, rollout, shadow }
}

fn listed(section: &Section<'_, '_>, key: &'static str) -> Vec<(Method, Span)> {
    let mut methods: Vec<(Method, Span)> = Vec::new();
    for (text, span) in section.list(key).unwrap_or_default() {
        match Method::ALL.into_iter().find(|method| method.name() == text) {
            Some(method) if methods.iter().any(|(other, _)| *other == method) => {
                section.reader.error(&span, format!("`{text}` stands twice"), "name each method once");
            }
            Some(method) => methods.push((method, span)),
            None => section.reader.error(&span, format!("`{text}` is not a method"), suggest(&text, Method::ALL.map(Method::name))),
        }
    }
    methods
}

fn shadow(section: &Section<'_, '_>, auth: &[Method]) -> Vec<Method> {
    let mut methods = Vec::new();
    for (method, span) in listed(section, "shadow") {
        let name = method.name();
        match method {
            Method::Message | Method::Bypass => {
                section.reader.error(
                    &span,
                    format!("`{name}` cannot be looked at in the shadow"),
                    "it decides how the upgrade is answered",
                );
            }
            _ if auth.contains(&method) => {
                section.reader.error(&span, format!("`{name}` is a method of this route already"), "take it out of `shadow`, or of `auth`");
            }
            _ => methods.push(method),
        }
    }
    methods
}

fn rollout(section: &Section<'_, '_>, auth: &[Method], legacy: &[Method]) -> Rollout {
    let reader = section.reader;
    let (mut shares, mut sum) = (Vec::new(), 0);
    for (key, method) in [("message", Method::Message), ("ticket", Method::Ticket)] {
        let Some(value) = section.value(key) else { continue };
        let percent = value.get_ref().as_integer().and_then(|number| number.as_str().parse::<u8>().ok()).filter(|percent| *percent <= 100);
        let Some(percent) = percent else {
            reader.error(&value.span(), format!("`{key}` is a share of the clients"), "a whole number from 0 to 100, in percent");
            continue;
        };
        sum += u16::from(percent);
        if !auth.contains(&method) {
            reader.error(
                &value.span(),
                format!("`{key}` is no method of this route"),
                format!("name `{key}` in `auth`, or remove the share"),
            );
        }
        shares.push((method, percent));
    }
    if sum > 100 {
        reader.error(&section.span, format!("the shares make {sum} %"), "together they are at most 100");
    }
    let sticky = choice(section, "sticky", &STICKY, Sticky::User);
    let enforce = section.boolean("enforce", false);
    if let Some(value) = section.value("enforce").filter(|_| enforce && (legacy.is_empty() || shares.is_empty())) {
        reader.error(
            &value.span(),
            "there is nothing to enforce",
            "name the methods that are to go in `legacy`, and a share in `ticket` or `message`",
        );
    }
    section.finish();
    Rollout { shares, sticky, enforce }
}

/// A day, from its beginning in UTC, or a moment.
fn day(section: &Section<'_, '_>, key: &'static str) -> Option<UnixMillis> {
    section.parsed(key, |text| {
        let moment = UnixMillis::from_rfc3339(&format!("{text}T00:00:00Z")).or_else(|| UnixMillis::from_rfc3339(text));
        moment.ok_or_else(|| format!("`{text}` is not a day; write one like \"2026-11-01\""))
    })
}
