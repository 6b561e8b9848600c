//! `[store]`.

use super::*;
use crate::config::store::{HostPort, Redis, RedisLayout};

/// The own store, and those of other regions.
pub(super) fn store(section: &Section<'_, '_>, multi_use: bool) -> (Store, Vec<Redis>) {
    let url = section.text("url").filter(|(url, _)| url != "memory");
    let max_tickets = section.count("max_tickets", 100_000);
    let written = url.as_ref().and_then(|(url, span)| match parse_url(url) {
        Ok(found) => Some(found),
        Err((message, help)) => {
            section.reader.error(span, message, help);
            None
        }
    });
    let own = region::own(section);
    let regions = region::others(section, own.as_deref(), multi_use);
    let store = redis(section, written, Terms { region: own, timeout: 250 * MILLISECOND, multi_use });
    if url.is_none() {
        for key in REDIS_KEYS {
            if let Some(value) = section.value(key) {
                section.reader.error(&value.span(), format!("`{key}` is for a store in Redis"), "write `url`, or remove this key");
            }
        }
    }
    section.finish();
    (store.map_or(Store::Memory { max_tickets }, |redis| Store::Redis(Box::new(redis))), regions)
}

const REDIS_KEYS: [&str; 12] = [
    "ca_file",
    "username",
    "password_env",
    "password_file",
    "sentinel_password_env",
    "sentinel_password_file",
    "prefix",
    "timeout",
    "acknowledge",
    "max_in_flight",
    "region",
    "regions",
];

/// What its table does not say of a store.
pub(super) struct Terms {
    pub(super) region: Option<Arc<str>>,
    /// Unless it is written.
    pub(super) timeout: Duration,
    pub(super) multi_use: bool,
}

pub(super) fn redis(section: &Section<'_, '_>, written: Option<(bool, RedisLayout)>, terms: Terms) -> Option<Redis> {
    let reader = section.reader;
    let ca_file = section.text("ca_file");
    let username = section.text("username");
    let (password, password_written) =
        (section.secret("password_env", "password_file"), section.value("password_env").or_else(|| section.value("password_file")));
    let sentinel_password = section.secret("sentinel_password_env", "sentinel_password_file");
    let prefix = section.parsed("prefix", |text| {
        // A brace would put every key into one slot of a cluster.
        let fine = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}');
        if fine { Ok(text.to_owned()) } else { Err("`prefix` is 1 to 64 visible ASCII characters without braces".to_owned()) }
    });
    let timeout = positive(section, "timeout", terms.timeout);
    let acknowledge = acknowledge(section);
    let max_in_flight = section.count("max_in_flight", 256);

    let (tls, layout) = written?;
    if let Some((_, span)) = ca_file.as_ref().filter(|_| !tls) {
        reader.error(span, "`ca_file` is for TLS", "begin the URL with `rediss`, or remove it");
    }
    if let Some((_, span)) = username.as_ref().filter(|_| password_written.is_none()) {
        reader.error(span, "`username` needs a password", "add `password_env` or `password_file`");
    }
    let sentinel_written = section.value("sentinel_password_env").or_else(|| section.value("sentinel_password_file"));
    if let Some(value) = sentinel_written.filter(|_| !matches!(layout, RedisLayout::Sentinel { .. })) {
        reader.error(&value.span(), "there are no sentinels to show it to", "write `url = \"redis+sentinel://...\"`, or remove it");
    }
    text_only(section, password.as_ref(), password_written);
    text_only(section, sentinel_password.as_ref(), sentinel_written);
    Some(Redis {
        region: terms.region,
        layout,
        tls,
        ca_file: ca_file.map(|(file, _)| reader.file(&file)),
        username: username.map(|(name, _)| name),
        password,
        sentinel_password,
        prefix: prefix.unwrap_or_else(|| "usher:".to_owned()),
        timeout,
        acknowledge,
        max_in_flight,
        multi_use: terms.multi_use,
    })
}

pub(super) fn text_only(section: &Section<'_, '_>, secret: Option<&Secret>, value: Option<&toml::Spanned<toml::de::DeValue<'_>>>) {
    if let (Some(secret), Some(value)) = (secret, value)
        && secret.expose_str().is_none()
    {
        section.reader.report(&value.span(), Diagnostic::error("the password is not UTF-8"));
    }
}

fn acknowledge(section: &Section<'_, '_>) -> Option<usize> {
    let value = section.value("acknowledge")?;
    if value.get_ref().is_integer() {
        return Some(section.count("acknowledge", 1));
    }
    if value.get_ref().as_str() != Some("none") {
        section.reader.error(&value.span(), "`acknowledge` is \"none\" or a number of replicas", "such as `acknowledge = 1`");
    }
    None
}

/// TLS or not, and where the servers are.
pub(super) fn parse_url(url: &str) -> Result<(bool, RedisLayout), (String, String)> {
    const SCHEMES: [&str; 6] = ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];
    let wrong = |message: String| {
        (
            message,
            "such as \"redis://127.0.0.1:6379\", \"redis+sentinel://a:26379,b:26379/master\" or \"redis+cluster://a:6379,b:6379\""
                .to_owned(),
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("this is not a store".to_owned()))?;
    if !SCHEMES.contains(&scheme) {
        return Err(wrong(format!("`{scheme}` is not a kind of store; there are \"memory\" and {}", SCHEMES.join(", "))));
    }
    // Not repeated in the message: what stands there may be a password.
    if rest.contains('@') {
        let help = "use `username`, and `password_env` or `password_file`: a secret is never written in the file";
        return Err(("the URL of the store holds a name or a password".to_owned(), help.to_owned()));
    }
    if rest.contains(['?', '#']) {
        return Err(wrong("the URL of a store has no query".to_owned()));
    }
    let (addresses, path) = rest.split_once('/').unwrap_or((rest, ""));
    let default_port = if scheme.ends_with("sentinel") { 26379 } else { 6379 };
    let mut servers =
        addresses.split(',').map(|one| host_port(one, default_port).ok_or_else(|| wrong(format!("`{one}` is not a host and a port"))));
    let layout = if scheme.ends_with("sentinel") {
        if path.is_empty() || path.contains('/') {
            return Err(wrong("the name of the master is missing after the sentinels".to_owned()));
        }
        RedisLayout::Sentinel { sentinels: servers.collect::<Result<_, _>>()?, master: path.to_owned() }
    } else if scheme.ends_with("cluster") {
        if !path.is_empty() {
            return Err(wrong("a cluster has no databases".to_owned()));
        }
        RedisLayout::Cluster { nodes: servers.collect::<Result<_, _>>()? }
    } else {
        let server = servers.next().ok_or_else(|| wrong("the URL names no server".to_owned()))??;
        if servers.next().is_some() {
            return Err(wrong("several servers are a `redis+cluster://` or a `redis+sentinel://`".to_owned()));
        }
        let database = if path.is_empty() { Some(0) } else { path.parse::<u16>().ok() };
        RedisLayout::Single {
            server,
            database: i64::from(database.ok_or_else(|| wrong(format!("`{path}` is not the number of a database")))?),
        }
    };
    Ok((scheme.starts_with("rediss"), layout))
}

fn host_port(text: &str, default_port: u16) -> Option<HostPort> {
    let authority: http::uri::Authority = text.parse().ok()?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = match authority.port() {
        Some(port) => port.as_str().parse().ok().filter(|port| *port > 0)?,
        None if text.ends_with(':') => return None,
        None => default_port,
    };
    (!host.is_empty()).then(|| HostPort { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::for_test;

    fn read(lines: &str) -> Result<Store, String> {
        let base = include_str!("../../../config/usher.toml");
        let text = format!("{base}\n[store]\n{lines}\n");
        let read = crate::config::parse(&text, None, &|_| Some("0123456789abcdef0123456789abcdef".to_owned()));
        read.map(|loaded| loaded.config.store).map_err(|diagnostics| diagnostics.to_string())
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
    fn each_layout_has_its_scheme() {
        assert!(matches!(for_test("auth = []").store, Store::Memory { .. }));
        assert_eq!(layout("redis://[::1]:7000/3"), (false, RedisLayout::Single { server: at("::1", 7000), database: 3 }));
        assert_eq!(layout("rediss://db.example.com"), (true, RedisLayout::Single { server: at("db.example.com", 6379), database: 0 }));
        let sentinels = vec![at("a", 26379), at("b", 5)];
        assert_eq!(layout("redis+sentinel://a,b:5/chat"), (false, RedisLayout::Sentinel { sentinels, master: "chat".to_owned() }));
        assert_eq!(layout("rediss+cluster://a,b:5"), (true, RedisLayout::Cluster { nodes: vec![at("a", 6379), at("b", 5)] }));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (lines, part) in [
            ("url = \"redis\"", "not a store"),
            ("url = \"http://a\"", "`http` is not a kind of store"),
            ("url = \"redis://a,b\"", "redis+cluster"),
            ("url = \"redis://a:0\"", "`a:0` is not a host and a port"),
            ("url = \"redis://a/x\"", "not the number of a database"),
            ("url = \"redis+sentinel://a\"", "the name of the master"),
            ("url = \"redis+cluster://a/1\"", "no databases"),
            ("url = \"redis://a\"\nca_file = \"x\"", "`ca_file` is for TLS"),
            ("url = \"redis://a\"\nusername = \"x\"", "needs a password"),
            ("url = \"redis://a\"\nsentinel_password_env = \"x\"", "no sentinels"),
            ("url = \"redis://a\"\nacknowledge = \"all\"", "a number of replicas"),
            ("url = \"redis://a\"\nprefix = \"{a}\"", "without braces"),
            ("url = \"redis://a\"\npassword = \"x\"", "never written in the file"),
            ("timeout = \"1s\"", "is for a store in Redis"),
        ] {
            let error = read(lines).unwrap_err();
            assert!(error.contains(part), "{part} is not in\n{error}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused() {
        let error = read("url = \"redis://me:hunter2@a\"").unwrap_err();
        assert!(error.contains("holds a name or a password"), "{error}");
    }

    #[test]
    fn replicas_are_counted_or_none() {
        for (written, wanted) in [("\"none\"", None), ("2", Some(2))] {
            let store = read(&format!("url = \"redis://a\"\nacknowledge = {written}")).unwrap();
            assert!(matches!(store, Store::Redis(redis) if redis.acknowledge == wanted));
        }
    }
}
