//! Tests of `[store]`: accepted and rejected values, and their meaning.

use std::time::Duration;

use super::*;
use crate::config::store::HostPort;
use crate::config::{Config, for_test, parse};

const MINIMAL: &str = include_str!("../../../../config/usher.toml");

fn config(lines: &str) -> Result<Config, String> {
    let text = format!("{MINIMAL}\n[store]\n{lines}\n");
    let read = parse(&text, None, &|_| Some("sesame".repeat(8)));
    read.map(|loaded| loaded.config).map_err(|diagnostics| diagnostics.to_string())
}

fn read(lines: &str) -> Result<Store, String> {
    config(lines).map(|config| config.store)
}

fn layout(url: &str) -> (bool, RedisLayout) {
    match read(&format!("url = \"{url}\"")) {
        Ok(Store::Redis(redis)) => (redis.tls, redis.layout),
        other => unreachable!("{url}: {other:?}"),
    }
}

fn at(host: &str, port: u16) -> HostPort {
    HostPort { host: host.to_owned(), port }
}

#[test]
fn a_store_in_memory_takes_no_key_of_redis() {
    let keys = StoreTable::DECLARATION.keys().filter(|key| !MEMORY_KEYS.contains(&key.name));
    for key in keys {
        let error = read(&format!("{} = {}", key.name, key.value)).unwrap_err();
        let part = format!("`{}` needs a store in Redis", key.name);
        assert!(error.contains(&part), "{part} is not in\n{error}");
    }
}

#[test]
fn each_layout_has_its_scheme() {
    assert!(matches!(for_test("auth = []").store, Store::Memory { .. }));
    assert_eq!(
        layout("redis://[::1]:7000/3"),
        (false, RedisLayout::Single { server: at("::1", 7000), database: 3 })
    );
    assert_eq!(
        layout("rediss://db.example.com"),
        (true, RedisLayout::Single { server: at("db.example.com", 6379), database: 0 })
    );
    let sentinels = vec![at("a", 26379), at("b", 5)];
    assert_eq!(
        layout("redis+sentinel://a,b:5/chat"),
        (false, RedisLayout::Sentinel { sentinels, master: "chat".to_owned() })
    );
    assert_eq!(
        layout("rediss+cluster://a,b:5"),
        (true, RedisLayout::Cluster { nodes: vec![at("a", 6379), at("b", 5)] })
    );
}

#[test]
fn what_is_wrong_is_told() {
    for (lines, part) in [
        ("url = \"redis\"", "`url` is not a store"),
        ("url = \"http://a\"", "`http` is not a kind of store"),
        ("url = \"redis://a,b\"", "redis+cluster"),
        ("url = \"redis://a:0\"", "`a:0` is not a host with a port"),
        ("url = \"redis://a/x\"", "not a database number"),
        ("url = \"redis+sentinel://a\"", "the name of the master"),
        ("url = \"redis+cluster://a/1\"", "must not have a database"),
        ("url = \"redis://a\"\nca_file = \"x\"", "`ca_file` needs TLS"),
        ("url = \"redis://a\"\nusername = \"x\"", "needs a password"),
        ("url = \"redis://a\"\nsentinel_password_env = \"x\"", "a URL with sentinels"),
        ("url = \"redis://a\"\nwait_for_replicas = \"all\"", "a number of replicas"),
        ("url = \"redis://a\"\nprefix = \"{a}\"", "without braces"),
        ("url = \"redis://a\"\npassword = \"x\"", "never written in the file"),
        ("timeout = \"1s\"", "`timeout` needs a store in Redis"),
    ] {
        let error = read(lines).unwrap_err();
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn a_password_in_the_url_is_refused() {
    let error = read("url = \"redis://me:hunter2@a\"").unwrap_err();
    assert!(error.contains("has a user name or a password"), "{error}");
}

#[test]
fn replicas_are_counted_or_none() {
    for (written, wanted) in [("\"none\"", None), ("2", Some(2))] {
        let store = read(&format!("url = \"redis://a\"\nwait_for_replicas = {written}")).unwrap();
        assert!(matches!(store, Store::Redis(redis) if redis.acknowledge == wanted));
    }
}

#[test]
fn each_region_has_a_name_and_a_store_with_keys_of_its_own() {
    let config = config(
        "url = \"redis://here\"\nregion = \"us\"\n\
         [store.regions.eu]\nurl = \"rediss://there\"\npassword_env = \"X\"\n\
         wait_for_replicas = 1\n\
         [store.regions.ap-2]\nurl = \"redis+sentinel://a,b/chat\"\ntimeout = \"2s\"",
    )
    .unwrap();
    let Store::Redis(own) = &config.store else { panic!("{:?}", config.store) };
    assert_eq!((own.region.as_deref(), own.timeout), (Some("us"), Duration::from_millis(250)));
    let of =
        |name| config.regions.iter().find(|redis| redis.region.as_deref() == Some(name)).unwrap();
    assert!(
        of("eu").tls
            && of("eu").password.is_some()
            && of("eu").acknowledge == Some(1)
            && of("eu").timeout == Duration::from_secs(1)
    );
    assert!(
        matches!(of("ap-2").layout, RedisLayout::Sentinel { .. })
            && of("ap-2").timeout == Duration::from_secs(2)
    );
    assert_eq!(config.regions.len(), 2);
}

#[test]
fn what_is_wrong_with_regions_is_told() {
    let own = "url = \"redis://a\"\nregion = \"us\"\n";
    for (lines, part) in [
        ("url = \"redis://a\"\nregion = \"US\"", "`US` is not a valid name of a region"),
        ("url = \"redis://a\"\nregion = \"\"", "is not a valid name of a region"),
        ("region = \"us\"", "`region` needs a store in Redis"),
        (
            "region = \"us\"\n[store.regions.eu]\nurl = \"redis://b\"",
            "`regions` needs a store in Redis",
        ),
        (
            "url = \"redis://a\"\n[store.regions.eu]\nurl = \"redis://b\"",
            "`regions` needs `region`",
        ),
        (
            &format!("{own}[store.regions.us]\nurl = \"redis://b\""),
            "`us` is the name of this region",
        ),
        (&format!("{own}[store.regions.eu]\nurl = \"memory\""), "must be a Redis"),
        (&format!("{own}[store.regions.eu]\nprefix = \"a:\""), "[store.regions.eu] needs `url`"),
        (
            &format!("{own}[store.regions.\"e.u\"]\nurl = \"redis://b\""),
            "`e.u` is not a valid name of a region",
        ),
        (&format!("{own}[store.regions.seventeen-letters]\nurl = \"redis://b\""), "1 to 16"),
        (
            &format!("{own}[store.regions.eu]\nurl = \"redis://b\"\nmax_tickets = 1"),
            "unknown key `max_tickets` in [store.regions.eu]",
        ),
        (
            &format!("{own}[store.regions.eu]\nurl = \"redis://b\"\nca_file = \"x\""),
            "`ca_file` needs TLS",
        ),
        (
            &format!("{own}[store.regions.eu]\nurl = \"redis://me:hunter2@b\""),
            "has a user name or a password",
        ),
        (&format!("{own}regions = [\"eu\"]"), "`regions` must be a table"),
        (&format!("{own}[store.regions]\neu = \"redis://b\""), "`eu` must be a table"),
    ] {
        let error = config(lines).unwrap_err();
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}
