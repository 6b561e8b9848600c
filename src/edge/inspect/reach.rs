//! Checks whether the servers that the configuration names answer. Usher starts without them, so an
//! unreachable server is a warning.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::{Finding, Inspector};
use crate::auth::remote_keys::fetch::KeySetSource;
use crate::base::clock::Now;
use crate::config::store::{HostPort, Redis, Store};
use crate::config::{Config, Issuer, IssuerKeySource, RemoteKeys, Server, Verifier, VerifierKind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks every server. Blocks while it connects.
pub fn servers(config: &Config) -> Vec<Finding> {
    let mut inspector = Inspector::new(config, Now::read());
    for (index, issuer) in config.issuers.iter().enumerate() {
        if let IssuerKeySource::Remote(from) = &issuer.keys {
            let key = if inspector.locator.is_written(&format!("issuer.{index}.jwks_url")) {
                "jwks_url"
            } else {
                "discovery"
            };
            inspector.add(&format!("issuer.{index}.{key}"), published(issuer, from));
        }
    }
    for (index, verifier) in config.verifiers.iter().enumerate() {
        for finding in verifier_servers(verifier) {
            inspector.add(&format!("verifier.{index}.url"), finding);
        }
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        for (number, server) in upstream.servers.iter().enumerate() {
            inspector.add(
                &format!("upstream.{index}.servers.{number}"),
                upstream_server(&upstream.name, server),
            );
        }
    }
    if let Store::Redis(redis) = &config.store {
        for finding in store(redis, None) {
            inspector.add("store.url", finding);
        }
    }
    for redis in &config.regions {
        for finding in store(redis, redis.region.as_deref()) {
            inspector.add(
                &format!("store.regions.{}.url", redis.region.as_deref().unwrap_or_default()),
                finding,
            );
        }
    }
    if let Some(traces) = &config.traces {
        let (host, port) = (traces.endpoint.host(), traces.endpoint.port());
        let subject = format!("receiver of traces, {host}:{port}");
        let hint = "requests are served; spans are dropped until the receiver answers";
        let is_well = "reachable; nothing was sent";
        let key = if inspector.locator.is_written("traces.url") { "traces.url" } else { "traces" };
        inspector.add(key, reach_finding(subject, tcp(host, port), is_well, hint));
    }
    inspector.findings
}

/// Fetches the keys as the start does.
fn published(issuer: &Arc<Issuer>, from: &RemoteKeys) -> Finding {
    let subject = format!("keys of issuer {}", issuer.name);
    let hint = "Usher starts without these keys and retries; this issuer's tokens are refused \
                until Usher has them, or has those of an earlier start";
    let source = match KeySetSource::new(issuer, from) {
        Ok(source) => source,
        Err(error) => return Finding::warn(subject, error, hint),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Finding::warn(subject, error.to_string(), hint),
    };
    match runtime.block_on(source.fetch()) {
        Ok(set) => {
            Finding::ok(subject, format!("{} usable at {}", set.keys.len(), source.origin()))
        }
        Err(fault) => Finding::warn(subject, fault.to_string(), hint),
    }
}

fn upstream_server(upstream: &str, server: &Server) -> Finding {
    let reached = match server {
        Server::Plain { host, port } | Server::Tls { host, port } => tcp(host, *port),
        Server::Unix { path } => std::os::unix::net::UnixStream::connect(path).map(drop),
    };
    let hint = "start the server, or correct its address; clients get 502 until the server answers";
    reach_finding(format!("upstream {upstream}, {server}"), reached, "reachable", hint)
}

fn store(redis: &Redis, other_region: Option<&str>) -> Vec<Finding> {
    let (of, hint) = match other_region {
        Some(region) => (
            format!(" of region {region}"),
            format!("tickets of {region} are refused until the store answers"),
        ),
        None => (String::new(), "tickets are refused until the store answers".to_owned()),
    };
    let reach = |HostPort { host, port }: &HostPort| {
        reach_finding(format!("store{of} {host}:{port}"), tcp(host, *port), "reachable", &hint)
    };
    redis.layout.addresses().iter().map(reach).collect()
}

fn verifier_servers(verifier: &Arc<Verifier>) -> Vec<Finding> {
    let addresses = match &verifier.kind {
        VerifierKind::Http(asked) | VerifierKind::Introspection { asked, .. } => {
            vec![(asked.place.host(), asked.place.port())]
        }
        VerifierKind::Redis(keys) => keys
            .redis
            .layout
            .addresses()
            .iter()
            .map(|HostPort { host, port }| (host.as_str(), *port))
            .collect(),
    };
    let hint = "its credentials are answered with 503 until the verifier answers";
    let reach = |(host, port)| {
        let subject = format!("verifier {}, {host}:{port}", verifier.name);
        reach_finding(subject, tcp(host, port), "reachable; nothing was asked", hint)
    };
    addresses.into_iter().map(reach).collect()
}

fn reach_finding(
    subject: String,
    reached: std::io::Result<()>,
    is_well: &str,
    hint: &str,
) -> Finding {
    match reached {
        Ok(()) => Finding::ok(subject, is_well),
        Err(error) => Finding::warn(subject, error.to_string(), hint),
    }
}

fn tcp(host: &str, port: u16) -> std::io::Result<()> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
