//! `[store]` and `[store.regions.NAME]`: the store of this node, and the stores of other regions.

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
    /// The store of tickets.
    pub struct StoreTable: [store], with redis: RedisTable {
        /// memory, or `redis://host:port/database`, `redis+sentinel://host:port,.../master`,
        /// `redis+cluster://host:port,...`; `rediss` with TLS.
        url: Text, default "memory",
            because "it needs no other server",
            change_when "there is more than one node";
        /// The most valid tickets in memory; with Redis, the most tickets of this node whose expiry
        /// is watched.
        max_tickets: Count, default 100000,
            because "the memory for tickets must not grow with the number of clients";
        /// How long one operation on Redis may take.
        timeout: PositiveDuration, default "250ms" commented,
            because "a healthy Redis answers in one millisecond; a client that is refused early \
                can try another method",
            change_when "Redis is far away";
        /// The name of this region, which its tickets begin with: 1 to 16 of a-z, 0-9 and -.
        region: Text, optional "us";
        /// The stores of other regions: one table for each, under the name of the region.
        regions: NestedByName<RegionTable>,
            optional { eu = { url = "rediss://redis.eu.internal:6379", ca_file = "redis-ca.pem" } };
    }
}

table! {
    /// The store of another region.
    pub struct RegionTable: [store.regions.NAME], with redis: RedisTable {
        /// As `store.url`, but not memory.
        url: Text, required "rediss://redis.eu.internal:6379";
        /// How long one operation on Redis may take.
        timeout: PositiveDuration, default "1s",
            because "a round trip around the world takes 0.3 s, and a new connection needs several",
            change_when "the regions are close to each other";
    }
}

/// The keys of `[store]` that a store in memory uses. All others need Redis.
const MEMORY_KEYS: [&str; 2] = ["url", "max_tickets"];

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
        report_redis_keys(section);
    }
    let store = redis.map_or(Store::Memory { max_tickets }, |redis| Store::Redis(Box::new(redis)));
    (store, regions)
}

fn report_redis_keys(section: &Section<'_, '_>) {
    let keys = StoreTable::DECLARATION.keys().map(|key| key.name);
    for key in keys.filter(|key| !MEMORY_KEYS.contains(key)) {
        if let Some(value) = section.value(key) {
            section.reader.error(
                &value.span(),
                format!("`{key}` needs a store in Redis"),
                "add `url`, or remove this key",
            );
        }
    }
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
            "`regions` needs `region`, the name of this region",
            "add `region`: the tickets of this region begin with it",
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
            format!("`{name}` is the name of this region"),
            "the store of this region is [store]: remove this table",
        );
    }
    let url = match table.url.as_deref() {
        Some("memory") => {
            let span = section.value("url").map_or(0..0, toml::Spanned::span);
            section.reader.error(
                &span,
                "the store of another region must be a Redis",
                "another node cannot read the memory of this one",
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
            format!("`{name}` is not a valid name of a region"),
            "write 1 to 16 of the characters a-z, 0-9 and `-`",
        );
        return None;
    }
    Some(name.into())
}
