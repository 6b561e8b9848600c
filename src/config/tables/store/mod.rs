//! `[store]` and `[store.regions.NAME]`: where the tickets of this node are, and where those of
//! other regions are.

pub mod redis;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::redis::{RedisRole, RedisTable, parse_url};
use crate::config::Store;
use crate::config::declare::{Table, table};
use crate::config::key_type::{Count, NestedByName, PositiveDuration, Text};
use crate::config::reader::{Section, Span};
use crate::config::store::{Redis, RedisLayout, is_region_name};

table! {
    /// Where tickets are kept.
    pub struct StoreTable: [store], with redis: RedisTable {
        /// memory, or `redis://host:port/database`, `redis+sentinel://host:port,.../master`,
        /// `redis+cluster://host:port,...`; `rediss` with TLS.
        url: Text, default "memory",
            because "nothing else to run",
            change_when "there is more than one node";
        /// Tickets valid at once, in memory; with Redis, tickets of this node whose end is watched.
        max_tickets: Count, default 100000,
            because "what waits for clients must not grow with their number";
        /// How long one operation on Redis may take.
        timeout: PositiveDuration, default "250ms" commented,
            because "a Redis that is well answers in one; a client that is refused soon can try \
                another method",
            change_when "Redis is far away";
        /// The name of this region, which its tickets carry: 1 to 16 of a-z, 0-9 and -.
        region: Text, optional "us";
        /// The stores of other regions: a table for each, by its name.
        regions: NestedByName<RegionTable>,
            optional { eu = { url = "rediss://redis.eu.internal:6379", ca_file = "redis-ca.pem" } };
    }
}

table! {
    /// The store of another region.
    pub struct RegionTable: [store.regions.NAME], with redis: RedisTable {
        /// As `store.url`, and not memory.
        url: Text, required "rediss://redis.eu.internal:6379";
        /// How long one operation on Redis may take.
        timeout: PositiveDuration, default "1s",
            because "around the world and back is 0.3 s, and a new connection takes some of these",
            change_when "the regions are neighbours";
    }
}

/// The keys of `[store]` that have no use in memory.
const REDIS_KEYS: [&str; 12] = [
    "ca_file",
    "username",
    "password_env",
    "password_file",
    "sentinel_password_env",
    "sentinel_password_file",
    "prefix",
    "timeout",
    "wait_for_replicas",
    "max_in_flight",
    "region",
    "regions",
];

/// Returns the store of this node, and those of other regions.
pub fn store(section: &Section<'_, '_>, multi_use: bool) -> (Store, Vec<Redis>) {
    let table = StoreTable::read(section);
    let is_memory = table.url == "memory";
    let url = (!is_memory).then(|| redis_url(section, &table.url)).flatten();
    let own = table.region.as_deref().and_then(|name| {
        let span = section.value("region").map_or(0..0, toml::Spanned::span);
        region_name(section, name, &span)
    });
    let regions = other_regions(section, own.as_deref(), multi_use);
    let max_tickets = table.max_tickets;
    let role =
        RedisRole { region: own, timeout: table.timeout, watched: Some(max_tickets), multi_use };
    let redis = table.redis.finish(section, url, role);
    if is_memory {
        for value in REDIS_KEYS.into_iter().filter_map(|key| Some((key, section.value(key)?))) {
            section.reader.error(
                &value.1.span(),
                format!("`{}` is for a store in Redis", value.0),
                "write `url`, or remove this key",
            );
        }
    }
    let store = redis.map_or(Store::Memory { max_tickets }, |redis| Store::Redis(Box::new(redis)));
    (store, regions)
}

fn redis_url(section: &Section<'_, '_>, url: &str) -> Option<(bool, RedisLayout)> {
    let report = |(message, help): (String, String)| {
        let span = section.value("url").map_or(0..0, toml::Spanned::span);
        section.reader.error(&span, message, help);
    };
    parse_url(url).map_err(report).ok()
}

fn other_regions(section: &Section<'_, '_>, own: Option<&str>, multi_use: bool) -> Vec<Redis> {
    if let Some(regions) = section.value("regions").filter(|_| section.value("region").is_none()) {
        section.reader.error(
            &regions.span(),
            "`regions` needs `region`: this one has no name itself",
            "write `region`, the name that tickets from here carry",
        );
    }
    section
        .tables("regions")
        .iter()
        .filter_map(|(name, span, table)| other_region(table, name, span, own, multi_use))
        .collect()
}

fn other_region(
    section: &Section<'_, '_>,
    name: &str,
    span: &Span,
    own: Option<&str>,
    multi_use: bool,
) -> Option<Redis> {
    let table = RegionTable::read(section);
    let region = region_name(section, name, span);
    if own == Some(name) {
        section.reader.error(
            span,
            format!("`{name}` is the name of the own region"),
            "its store is [store] itself: remove this table",
        );
    }
    let url = match table.url.as_deref() {
        Some("memory") => {
            let span = section.value("url").map_or(0..0, toml::Spanned::span);
            section.reader.error(
                &span,
                "the store of another region is a Redis",
                "another process cannot look into the memory of this one",
            );
            None
        }
        url => url.and_then(|url| redis_url(section, url)),
    };
    let role = RedisRole { region, timeout: table.timeout, watched: None, multi_use };
    table.redis.finish(section, url, role).filter(|redis| redis.region.is_some())
}

fn region_name(section: &Section<'_, '_>, name: &str, span: &Span) -> Option<Arc<str>> {
    if !is_region_name(name) {
        section.reader.error(
            span,
            format!("`{name}` is not the name of a region"),
            "1 to 16 of the characters a-z, 0-9 and `-`",
        );
        return None;
    }
    Some(name.into())
}
