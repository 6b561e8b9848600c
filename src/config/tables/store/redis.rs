//! The keys of a store in Redis: those of `[store]` and of `[store.regions.NAME]`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::config::declare::table;
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{
    Count, FileToRead, KeyType, SecretFile, SecretVariable, Text, TextType,
};
use crate::config::reader::{Entry, Section, Span};
use crate::config::store::{HostPort, Redis, RedisLayout};
use crate::model::secret::Secret;

table! {
    /// A Redis.
    pub struct RedisTable: [] {
        /// PEM file of the authorities for the certificates of Redis, instead of the system's.
        ca_file: FileToRead, optional "redis-ca.pem";
        /// The user name at Redis, if it is not the default user.
        username: Text, optional "usher";
        /// Environment variable with the password of Redis.
        password_env: SecretVariable, optional "USHER_REDIS_PASSWORD";
        /// File with the password of Redis, instead of `password_env`.
        password_file: SecretFile, optional "redis-password";
        /// Environment variable with the password of the sentinels.
        sentinel_password_env: SecretVariable, optional "USHER_SENTINEL_PASSWORD";
        /// File with the password of the sentinels, instead of `sentinel_password_env`.
        sentinel_password_file: SecretFile, optional "sentinel-password";
        /// The prefix of every key in Redis.
        prefix: KeyPrefix, default "usher:" commented,
            because "it separates the keys from those of other programs",
            change_when "two separate installations share a Redis";
        /// none, or the number of replicas that must record that a ticket is redeemed before the
        /// client is accepted.
        wait_for_replicas: Replicas, default "none" commented, was acknowledge until "0.3.0",
            because "to use a ticket twice, an attacker needs the ticket and a failover within its \
                30 seconds",
            change_when "a ticket that is used twice is worse than a refused one, and there are \
                two replicas";
        /// Concurrent operations on Redis, for each thread.
        max_in_flight: Count, default 256 commented,
            because "more operations make one connection slower, not faster",
            change_when "only after you have measured";
    }
}

/// The prefix of every key. Rejects braces: they would put all keys into one slot of a cluster.
pub struct KeyPrefix;

impl TextType for KeyPrefix {
    type Value = String;
    const NAME: &str = "string";
    const PATTERN: Option<&str> = Some("^[!-z|~]{1,64}$");

    fn parse(key: &str, text: &str) -> Result<String, String> {
        let is_fine = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}');
        match is_fine {
            true => Ok(text.to_owned()),
            false => {
                Err(format!("`{key}` must be 1 to 64 visible ASCII characters without braces"))
            }
        }
    }
}

/// `"none"`, or a number of replicas.
pub struct Replicas;

impl KeyType for Replicas {
    type Value = Option<usize>;

    fn name() -> String {
        "`\"none\"` or number".to_owned()
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "none" }, { "type": "integer", "minimum": 1 }] })
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        if entry.value.get_ref().is_integer() {
            return Count::read(entry).map(Some);
        }
        if entry.value.get_ref().as_str() != Some("none") {
            entry.error(
                format!("`{}` must be \"none\" or a number of replicas", entry.key),
                format!("for example `{} = 1`", entry.key),
            );
        }
        Some(None)
    }
}

/// Settings of a Redis that come from other keys.
pub struct RedisRole {
    pub region: Option<Arc<str>>,
    pub timeout: Duration,
    pub watched: Option<usize>,
    pub multi_use: bool,
}

impl RedisTable {
    /// Returns the store at a URL that is already parsed. `None` if the URL had a mistake.
    pub fn finish(
        self,
        section: &Section<'_, '_>,
        url: Option<(bool, RedisLayout)>,
        role: RedisRole,
    ) -> Option<Redis> {
        let reader = section.reader;
        let password = section
            .one_of(("password_env", self.password_env), ("password_file", self.password_file));
        let sentinel_password = section.one_of(
            ("sentinel_password_env", self.sentinel_password_env),
            ("sentinel_password_file", self.sentinel_password_file),
        );
        let (tls, layout) = url?;
        if let Some(value) = section.value("ca_file").filter(|_| !tls) {
            let help = "begin the URL with `rediss`, or remove `ca_file`";
            reader.error(&value.span(), "`ca_file` needs TLS", help);
        }
        if let Some(value) = section.value("username").filter(|_| password.is_none()) {
            let help = "add `password_env` or `password_file`";
            reader.error(&value.span(), "`username` needs a password", help);
        }
        let has_sentinels = matches!(layout, RedisLayout::Sentinel { .. });
        if let Some((_, span)) = sentinel_password.as_ref().filter(|_| !has_sentinels) {
            let help = "write `url = \"redis+sentinel://...\"`, or remove the password";
            reader.error(span, "the password of the sentinels needs a URL with sentinels", help);
        }
        check_text(section, password.as_ref());
        check_text(section, sentinel_password.as_ref());
        Some(Redis {
            region: role.region,
            layout,
            tls,
            ca_file: self.ca_file,
            username: self.username,
            password: password.and_then(|(password, _)| password),
            sentinel_password: sentinel_password.and_then(|(password, _)| password),
            prefix: self.prefix,
            timeout: role.timeout,
            acknowledge: self.wait_for_replicas,
            max_in_flight: self.max_in_flight,
            watched: role.watched,
            multi_use: role.multi_use,
        })
    }
}

/// Rejects a password that is not text.
pub fn check_text(section: &Section<'_, '_>, password: Option<&(Option<Secret>, Span)>) {
    if let Some((Some(secret), span)) = password
        && secret.expose_str().is_none()
    {
        section.reader.report(span, Diagnostic::error("the password must be UTF-8"));
    }
}

/// Returns whether the URL means TLS, and the servers that it names.
pub fn parse_url(url: &str) -> Result<(bool, RedisLayout), (String, String)> {
    const SCHEMES: [&str; 6] =
        ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];
    let wrong = |message: String| {
        (
            message,
            "write \"redis://127.0.0.1:6379\", \"redis+sentinel://a:26379,b:26379/master\" or \
             \"redis+cluster://a:6379,b:6379\""
                .to_owned(),
        )
    };
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| wrong("`url` is not a store".to_owned()))?;
    if !SCHEMES.contains(&scheme) {
        return Err(wrong(format!(
            "`{scheme}` is not a kind of store; the kinds are \"memory\" and {}",
            SCHEMES.join(", ")
        )));
    }
    // The message does not repeat the URL, because it may contain a password.
    if rest.contains('@') {
        let help = "use `username`, and `password_env` or `password_file`: a secret is never \
                    written in the file";
        return Err((
            "the URL of the store has a user name or a password".to_owned(),
            help.to_owned(),
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(wrong("the URL of a store must not have a query".to_owned()));
    }
    let (addresses, path) = rest.split_once('/').unwrap_or((rest, ""));
    let default_port = if scheme.ends_with("sentinel") { 26379 } else { 6379 };
    let mut servers = addresses.split(',').map(|one| {
        host_port(one, default_port)
            .ok_or_else(|| wrong(format!("`{one}` is not a host with a port")))
    });
    let layout = if scheme.ends_with("sentinel") {
        if path.is_empty() || path.contains('/') {
            return Err(wrong(
                "the URL needs the name of the master after the sentinels".to_owned(),
            ));
        }
        RedisLayout::Sentinel {
            sentinels: servers.collect::<Result<_, _>>()?,
            master: path.to_owned(),
        }
    } else if scheme.ends_with("cluster") {
        if !path.is_empty() {
            return Err(wrong("the URL of a cluster must not have a database".to_owned()));
        }
        RedisLayout::Cluster { nodes: servers.collect::<Result<_, _>>()? }
    } else {
        let server = servers.next().ok_or_else(|| wrong("the URL has no server".to_owned()))??;
        if servers.next().is_some() {
            return Err(wrong(
                "several servers need `redis+cluster://` or `redis+sentinel://`".to_owned(),
            ));
        }
        let database = if path.is_empty() { Some(0) } else { path.parse::<u16>().ok() };
        RedisLayout::Single {
            server,
            database: i64::from(
                database.ok_or_else(|| wrong(format!("`{path}` is not a database number")))?,
            ),
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
