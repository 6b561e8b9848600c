//! `region` and `[store.regions.NAME]`: whose tickets the own store holds, and where those of other regions are.

use super::store::{Terms, parse_url, redis};
use super::*;
use crate::config::store::{Redis, is_region_name};

/// The name of the own region.
pub(super) fn own(section: &Section<'_, '_>) -> Option<Arc<str>> {
    let (name, span) = section.text("region")?;
    checked(section, &name, &span)
}

pub(super) fn others(section: &Section<'_, '_>, own: Option<&str>, multi_use: bool) -> Vec<Redis> {
    if let Some(regions) = section.value("regions").filter(|_| section.value("region").is_none()) {
        let help = "write `region`, the name that tickets from here carry";
        section.reader.error(&regions.span(), "`regions` needs `region`: this one has no name itself", help);
    }
    section.tables("regions").iter().filter_map(|(name, span, table)| other(table, name, span, own, multi_use)).collect()
}

fn other(table: &Section<'_, '_>, name: &str, span: &Span, own: Option<&str>, multi_use: bool) -> Option<Redis> {
    let checked = checked(table, name, span);
    if own == Some(name) {
        table.reader.error(span, format!("`{name}` is the name of the own region"), "its store is [store] itself: remove this table");
    }
    let written = table.required("url", "where the store of that region is").and_then(|(url, span)| {
        if url == "memory" {
            table.reader.error(&span, "the store of another region is a Redis", "nobody else can look into the memory of a process");
            return None;
        }
        parse_url(&url).map_err(|(message, help)| table.reader.error(&span, message, help)).ok()
    });
    let found = redis(table, written, Terms { region: checked, timeout: SECOND, multi_use });
    table.finish();
    found.filter(|redis| redis.region.is_some())
}

fn checked(section: &Section<'_, '_>, name: &str, span: &Span) -> Option<Arc<str>> {
    if !is_region_name(name) {
        section.reader.error(span, format!("`{name}` is not the name of a region"), "1 to 16 of the characters a-z, 0-9 and `-`");
        return None;
    }
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::store::RedisLayout;

    fn read(lines: &str) -> Result<Config, String> {
        let text = format!("{}\n[store]\n{lines}\n", include_str!("../../../config/usher.toml"));
        let read = crate::config::parse(&text, None, &|_| Some("sesame".repeat(8)));
        read.map(|loaded| loaded.config).map_err(|diagnostics| diagnostics.to_string())
    }

    #[test]
    fn each_region_has_a_name_and_a_store_with_keys_of_its_own() {
        let config = read(
            "url = \"redis://here\"\nregion = \"us\"\n[store.regions.eu]\nurl = \"rediss://there\"\npassword_env = \"X\"\nacknowledge = 1\n\
             [store.regions.ap-2]\nurl = \"redis+sentinel://a,b/chat\"\ntimeout = \"2s\"",
        )
        .unwrap();
        assert!(matches!(&config.store, Store::Redis(own) if own.region.as_deref() == Some("us") && own.timeout == 250 * MILLISECOND));
        let of = |name| config.regions.iter().find(|redis| redis.region.as_deref() == Some(name)).unwrap();
        assert!(of("eu").tls && of("eu").password.is_some() && of("eu").acknowledge == Some(1) && of("eu").timeout == SECOND);
        assert!(matches!(of("ap-2").layout, RedisLayout::Sentinel { .. }) && of("ap-2").timeout == 2 * SECOND);
        assert_eq!(config.regions.len(), 2);
    }

    #[test]
    fn what_is_wrong_with_regions_is_told() {
        let own = "url = \"redis://a\"\nregion = \"us\"\n";
        for (lines, part) in [
            ("url = \"redis://a\"\nregion = \"US\"", "`US` is not the name of a region"),
            ("url = \"redis://a\"\nregion = \"\"", "is not the name of a region"),
            ("region = \"us\"", "`region` is for a store in Redis"),
            ("region = \"us\"\n[store.regions.eu]\nurl = \"redis://b\"", "`regions` is for a store in Redis"),
            ("url = \"redis://a\"\n[store.regions.eu]\nurl = \"redis://b\"", "`regions` needs `region`"),
            (&format!("{own}[store.regions.us]\nurl = \"redis://b\""), "`us` is the name of the own region"),
            (&format!("{own}[store.regions.eu]\nurl = \"memory\""), "is a Redis"),
            (&format!("{own}[store.regions.eu]\nprefix = \"a:\""), "[store.regions.eu] needs `url`"),
            (&format!("{own}[store.regions.\"e.u\"]\nurl = \"redis://b\""), "`e.u` is not the name of a region"),
            (&format!("{own}[store.regions.seventeen-letters]\nurl = \"redis://b\""), "1 to 16"),
            (&format!("{own}[store.regions.eu]\nurl = \"redis://b\"\nmax_tickets = 1"), "unknown key `max_tickets` in [store.regions.eu]"),
            (&format!("{own}[store.regions.eu]\nurl = \"redis://b\"\nca_file = \"x\""), "`ca_file` is for TLS"),
            (&format!("{own}[store.regions.eu]\nurl = \"redis://me:hunter2@b\""), "holds a name or a password"),
            (&format!("{own}regions = [\"eu\"]"), "`regions` is a table"),
            (&format!("{own}[store.regions]\neu = \"redis://b\""), "`eu` is a table"),
        ] {
            let error = read(lines).unwrap_err();
            assert!(error.contains(part), "{part} is not in\n{error}");
        }
    }
}
