//! `[[upstream]]`.

use serde_json::Value as Json;

use super::names::Names;
use super::rollout::Percent;
use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{
    Choice, Count, Duration, FileToRead, KeyType, List, Nested, NonEmpty, OneOf, PositiveDuration,
    Text, TextType,
};
use crate::config::reader::{Entry, Reader, Section, Span};
use crate::config::{Balance, HealthCheck, NameAddresses, ProxyVersion, Server, Upstream};

table! {
    /// The servers behind Usher.
    pub struct UpstreamTable: [[upstream]] {
        /// The name that routes use.
        name: Text, required "chat";
        /// Servers as `http://host:port`, `https://host:port` or `unix:/path`.
        servers: NonEmpty<ServerList>, required ["http://127.0.0.1:9000"];
        /// The rule that picks a server: the one with the fewest sessions, one after the other, or
        /// always the same one for a user.
        balance: OneOf<Balance>, default "least-sessions",
            because "long sessions add up: turns alone would keep an uneven load uneven",
            change_when "a server keeps state for each user (`sticky`)";
        /// Health checks: Usher asks each server for this path.
        health: Nested<HealthTable>, optional { path = "/healthz" };
        /// Failures that eject a server: in a row, or half of its last 20 answers. Timeouts count
        /// once three users had one.
        eject_after: Count, default 3,
            at_most 20 "Usher remembers the last 20 answers of a server",
            because "one failure may be chance, and each further one is a client that waits";
        /// How long a server is ejected before one client tries it again.
        eject_for: PositiveDuration, default "5s",
            because "long enough for a restart; each failed trial doubles it";
        /// The longest time between two trials of an ejected server.
        eject_for_at_most: PositiveDuration, default "5m",
            because "one client in five minutes waits for a server that stays away";
        /// The most servers of the upstream that are ejected at the same time, in percent; 0 ejects
        /// none.
        max_ejected_percent: Percent, default 50,
            because "if most servers fail, the cause is elsewhere, and the rest must not take all \
                the load";
        /// How long a server that returned gets fewer new clients than its part.
        slow_start: Duration, default "10s",
            because "a returning server has the fewest sessions, and would get every new client",
            change_when "servers need longer to warm up; \"0s\" turns it off";
        /// The addresses of a name in `servers`: each is a server of its own, or all lead to one
        /// server and are tried in order.
        addresses: OneOf<NameAddresses>, default "servers",
            because "the name of a service stands for all of its servers. One IPv4 and one IPv6 \
                address are one server",
            change_when "the name of one server has several addresses (`one-server`)";
        /// The most addresses of a name that are used.
        max_addresses: Count, default 256,
            at_most 1024 "Usher looks at each server for each client",
            because "more servers than most services have, and a wrong DNS answer cannot use up \
                the memory",
            change_when "a service has more servers";
        /// How long the addresses of a server's name are used before it is resolved again.
        resolve_every: PositiveDuration, default "10s",
            because "the system's resolver does not give the TTL of a name. A new address is in \
                use after this time, and after a second if the old ones fail",
            change_when "the resolver is slow, or addresses change often";
        /// How long connecting may take.
        dial_timeout: PositiveDuration, default "3s",
            because "after it, Usher tries the next server, and the client waits for all attempts",
            change_when "servers are far away";
        /// How long a server may take to answer an upgrade.
        upgrade_timeout: PositiveDuration, default "3s",
            because "after it, Usher gives up this server and tries the next one",
            change_when "a backend needs more time before its 101";
        /// How long all attempts to reach a server may take together.
        reach_timeout: PositiveDuration, default "10s",
            because "the limit for all dials and all waits for a 101 of one client, from its grant";
        /// How long a server may take to begin an HTTP answer, after it has the whole request.
        answer_timeout: PositiveDuration, default "75s",
            because "long polls and BOSH wait for 60 s. The time of an upload does not count, and \
                an answer that has begun has no limit here",
            change_when "long polls are longer";
        /// Idle HTTP connections kept for each server on each thread.
        max_idle: Count, default 32,
            because "enough for a burst of page loads, without using up the server's file \
                descriptors";
        /// How long an idle HTTP connection is kept.
        idle_timeout: PositiveDuration, default "60s",
            because "shorter than the 75 s after which common servers close idle connections";
        /// PEM file of the authorities for the servers' certificates, instead of the system's.
        ca_file: FileToRead, optional "ca.pem";
        /// The name in the servers' certificates, if it is not the host in the URL.
        server_name: ServerName, optional "chat.internal";
        /// The PROXY header that names the client at the start of each connection to a server: off,
        /// v1 or v2.
        proxy_protocol: OneOf<Option<ProxyVersion>>, default "off",
            because "a server that does not expect the header answers it with an error",
            change_when "every server of the upstream requires it; v2 also carries the host name \
                of the TLS handshake";
    }
}

table! {
    /// Health checks of the servers of an upstream.
    pub struct HealthTable: [upstream.health] {
        /// The path that a healthy server answers with a status from 200 to 299.
        path: CheckPath, required "/healthz";
        /// The time between two checks of a server.
        every: PositiveDuration, default "5s",
            because "two failed checks eject a hung server, within 15 s";
        /// How long a check may take.
        timeout: PositiveDuration, default "2s",
            because "a server that needs longer for this path is not healthy";
    }
}

impl Choice for Option<ProxyVersion> {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))]
    }
}

impl Choice for Balance {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![
            ("least-sessions", Self::LeastSessions),
            ("round-robin", Self::RoundRobin),
            ("sticky", Self::Sticky),
        ]
    }
}

impl Choice for NameAddresses {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("servers", Self::Servers), ("one-server", Self::OneServer)]
    }
}

/// The path of a health check, with or without a query.
pub struct CheckPath;

impl TextType for CheckPath {
    type Value = String;
    const NAME: &str = "path";
    const PATTERN: Option<&str> = Some("^/[!-~]*$");

    fn parse(key: &str, text: &str) -> Result<String, String> {
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_path && !text.contains('#') {
            Ok(text.to_owned())
        } else {
            Err(format!("`{key}` must begin with `/` and have no spaces: \"/healthz\""))
        }
    }
}

/// Addresses of servers.
pub struct ServerList;

impl KeyType for ServerList {
    type Value = Vec<(Server, Span)>;

    fn name() -> String {
        "list of servers".to_owned()
    }

    fn schema() -> Json {
        List::<Text>::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        let read = |item: &Entry<'_>| match server(item.reader, &item.text()?) {
            Ok(server) => Some((server, item.span())),
            Err(message) => {
                item.report(Diagnostic::error(message));
                None
            }
        };
        Some(entry.texts()?.iter().filter_map(read).collect())
    }
}

/// The name in a certificate.
pub struct ServerName;

impl TextType for ServerName {
    type Value = String;
    const NAME: &str = "host name";

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        match rustls::pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!(
                "`{text}` is not a server name; write a host name or an IP address, without a port"
            )),
        }
    }
}

pub fn upstream(section: &Section<'_, '_>, seen: &mut Names) -> Option<Upstream> {
    let table = UpstreamTable::read(section);
    seen.add_name(section, "upstream", table.name.as_deref());
    let servers = table.servers.unwrap_or_default();
    if section.value("server_name").is_none() {
        check_hosts(section.reader, &servers);
    }
    let health = table.health.is_some().then(|| health(&section.section("health")));
    Some(Upstream {
        name: table.name.unwrap_or_default().into(),
        servers: servers.into_iter().map(|(server, _)| server).collect(),
        balance: table.balance,
        eject_after: table.eject_after,
        eject_for: table.eject_for,
        eject_for_at_most: table.eject_for_at_most.max(table.eject_for),
        max_ejected_percent: table.max_ejected_percent,
        slow_start: table.slow_start,
        addresses: table.addresses,
        max_addresses: table.max_addresses,
        resolve_every: table.resolve_every,
        health,
        dial_timeout: table.dial_timeout,
        upgrade_timeout: table.upgrade_timeout,
        reach_timeout: table.reach_timeout,
        answer_timeout: table.answer_timeout,
        max_idle: table.max_idle,
        idle_timeout: table.idle_timeout,
        ca_file: table.ca_file,
        server_name: table.server_name,
        proxy_protocol: table.proxy_protocol,
    })
}

fn health(section: &Section<'_, '_>) -> HealthCheck {
    let HealthTable { path, every, timeout } = HealthTable::read(section);
    HealthCheck { path: path.unwrap_or_default(), every, timeout }
}

/// Rejects hosts that cannot be names in a certificate. Without `server_name`, the host of a server
/// is the name that its certificate must have.
fn check_hosts(reader: &Reader<'_>, servers: &[(Server, Span)]) {
    for (server, span) in servers {
        let Server::Tls { host, .. } = server else { continue };
        if let Err(message) = ServerName::parse("server_name", host) {
            reader.report(span, Diagnostic::error(message));
        }
    }
}

fn server(reader: &Reader<'_>, text: &str) -> Result<Server, String> {
    let wrong = || {
        format!(
            "`{text}` is not a server; write \"http://host:port\", \"https://host:port\" or \
             \"unix:/path\""
        )
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err(wrong())
        } else {
            Ok(Server::Unix { path: reader.path(path) })
        };
    }
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or_else(wrong)?;
    if !matches!(uri.path(), "" | "/")
        || uri.query().is_some()
        || authority.as_str().contains('@')
        || authority.host().is_empty()
    {
        return Err(format!(
            "`{text}` has more than a host and a port; remove the path, the query and the user"
        ));
    }
    let host = authority.host().to_owned();
    match scheme {
        "http" => Ok(Server::Plain { host, port: authority.port_u16().unwrap_or(80) }),
        "https" => Ok(Server::Tls { host, port: authority.port_u16().unwrap_or(443) }),
        _ => Err(wrong()),
    }
}
