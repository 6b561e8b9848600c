//! Whether what a good configuration names is there: certificates, keys, servers, directories.
//!
//! `usher check` runs this; the program itself meets the same things when it starts.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::store::{HostPort, Redis, Store};
use super::{CertificateFiles, Config, Issuer, IssuerKeySource, RemoteKeys, Server, Verifier, VerifierKind};
use crate::auth::remote_keys::fetch::Source;
use crate::auth::{self, issuer_keys};
use crate::clock::Now;
use crate::tls::server::{self, TlsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const EXPIRES_SOON_DAYS: i64 = 14;

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub subject: String,
    pub detail: String,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// Blocks: it connects to every server.
pub fn environment(config: &Config, now: Now) -> Vec<Finding> {
    let mut findings = Vec::new();
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        findings.extend(tls.certificates.iter().map(|files| certificate(files, now)));
        findings.extend(tls.clients.as_ref().map(|clients| client_authorities(&clients.ca_file)));
    }
    for issuer in &config.issuers {
        match &issuer.keys {
            IssuerKeySource::Secret(_) => {}
            IssuerKeySource::JwksFile(path) => findings.push(jwks(issuer, path)),
            IssuerKeySource::Remote(from) => findings.push(published(issuer, from)),
        }
    }
    for one in &config.verifiers {
        findings.extend(verifier(one));
    }
    for upstream in &config.upstreams {
        findings.extend(upstream.servers.iter().map(|server| reach(&upstream.name, server)));
    }
    if let Store::Redis(redis) = &config.store {
        findings.extend(store(redis, false));
    }
    findings.extend(config.regions.iter().flat_map(|redis| store(redis, true)));
    findings.push(state_dir(&config.state_dir));
    findings
}

fn certificate(files: &CertificateFiles, now: Now) -> Finding {
    let subject = format!("certificate {}", files.cert.display());
    match inspect(files, now) {
        Ok((days, names)) if days < EXPIRES_SOON_DAYS => warn(subject, format!("{names}, expires in {days} days"), "renew it"),
        Ok((days, names)) => ok(subject, format!("{names}, good for {days} more days, matches its key")),
        Err((detail, hint)) => fail(subject, detail, hint),
    }
}

fn client_authorities(path: &Path) -> Finding {
    let subject = format!("client authorities {}", path.display());
    match server::authorities(path) {
        Ok(roots) if roots.len() == 1 => ok(subject, "one certificate".to_owned()),
        Ok(roots) => ok(subject, format!("{} certificates", roots.len())),
        Err(error) => fail(subject, error.problem, "a PEM file with the certificates of those who sign your clients'"),
    }
}

/// The days that are left, and the names. Loads the pair as the start does.
fn inspect(files: &CertificateFiles, now: Now) -> Result<(i64, String), (String, &'static str)> {
    let hint = "PEM files: the certificate first and its chain after it, and the private key that belongs to it";
    // The finding names the certificate already; a key is named.
    let what = |error: TlsError| if error.file == files.cert.display().to_string() { error.problem } else { error.to_string() };
    let (names, certified) = server::load(files).map_err(|error| (what(error), hint))?;
    let leaf = certified.end_entity_cert().map_err(|error| (error.to_string(), hint))?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| (error.to_string(), hint))?;
    let validity = parsed.validity();
    let now_seconds = i64::try_from(now.wall.as_secs()).unwrap_or(i64::MAX);
    let left = validity.not_after.timestamp() - now_seconds;
    if left <= 0 {
        return Err((format!("it expired on {}", validity.not_after), "renew it"));
    }
    if validity.not_before.timestamp() > now_seconds {
        return Err((format!("it is not good before {}", validity.not_before), "look at this machine's clock"));
    }
    Ok((left / 86_400, if names.is_empty() { "no host names".to_owned() } else { names.join(", ") }))
}

fn jwks(issuer: &Issuer, path: &Path) -> Finding {
    let subject = format!("keys of issuer {}", issuer.name);
    match issuer_keys::read(path, &issuer.algorithms) {
        Ok(keys) => ok(subject, format!("{} usable in {}", keys.len(), path.display())),
        Err(error) => {
            fail(subject, format!("{}: {error}", path.display()), "a JSON Web Key Set with a public key for one of the issuer's algorithms")
        }
    }
}

/// As the start does it.
fn published(issuer: &Arc<Issuer>, from: &RemoteKeys) -> Finding {
    let subject = format!("keys of issuer {}", issuer.name);
    let hint =
        "Usher starts without them and tries on; until it has them, or the last ones of an earlier start, this issuer's tokens are refused";
    let source = match Source::new(issuer, from) {
        Ok(source) => source,
        Err(error) => return fail(subject, error, "PEM files that the user who runs Usher may read"),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(subject, error.to_string(), hint),
    };
    match runtime.block_on(source.fetch()) {
        Ok(set) => ok(subject, format!("{} usable at {}", set.keys.len(), source.origin())),
        Err(fault) => fail(subject, fault.to_string(), hint),
    }
}

fn reach(upstream: &str, server: &Server) -> Finding {
    let subject = format!("upstream {upstream}, {server}");
    let reached = match server {
        Server::Plain { host, port } | Server::Tls { host, port } => reach_tcp(host, *port),
        Server::Unix { path } => std::os::unix::net::UnixStream::connect(path).map(drop),
    };
    match reached {
        Ok(()) => ok(subject, "reachable".to_owned()),
        Err(error) => fail(subject, error.to_string(), "is it running, and is the address right?"),
    }
}

/// Usher starts without its store, so one that is away is a warning; a file that is missing keeps it from starting.
fn store(redis: &Redis, is_another_region: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (of, hint) = match redis.region.as_deref().filter(|_| is_another_region) {
        Some(region) => (format!(" of region {region}"), format!("tickets of {region} are refused until it is there")),
        None => (String::new(), "tickets are refused until it is there".to_owned()),
    };
    if let Some(path) = &redis.ca_file {
        let subject = format!("store{of} authorities {}", path.display());
        findings.push(match std::fs::read(path) {
            Ok(_) => ok(subject, "there".to_owned()),
            Err(error) => fail(subject, error.to_string(), "a PEM file that the user who runs Usher may read"),
        });
    }
    for HostPort { host, port } in redis.layout.addresses() {
        let subject = format!("store{of} {host}:{port}");
        findings.push(match reach_tcp(host, *port) {
            Ok(()) => ok(subject, "reachable".to_owned()),
            Err(error) => warn(subject, error.to_string(), &hint),
        });
    }
    findings
}

/// As with the store: one that is away keeps Usher from nothing, a file that is missing does.
fn verifier(verifier: &Arc<Verifier>) -> Vec<Finding> {
    let subject = format!("verifier {}", verifier.name);
    if let Err(error) = auth::verifier::Verifier::open(verifier, &[]) {
        return vec![fail(subject, error.to_string(), "PEM files that the user who runs Usher may read")];
    }
    let addresses = match &verifier.kind {
        VerifierKind::Http(asked) | VerifierKind::Introspection { asked, .. } => vec![(asked.place.host(), asked.place.port())],
        VerifierKind::Redis(keys) => keys.redis.layout.addresses().iter().map(|HostPort { host, port }| (host.as_str(), *port)).collect(),
    };
    let reach = |(host, port)| {
        let subject = format!("{subject}, {host}:{port}");
        match reach_tcp(host, port) {
            Ok(()) => ok(subject, "reachable; nothing was asked".to_owned()),
            Err(error) => warn(subject, error.to_string(), "what it judges is answered 503 until it is there"),
        }
    };
    addresses.into_iter().map(reach).collect()
}

fn reach_tcp(host: &str, port: u16) -> std::io::Result<()> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Looks and makes nothing: a directory made by whoever checks could belong to the wrong user.
fn state_dir(path: &Path) -> Finding {
    let subject = format!("state_dir {}", path.display());
    let hint = "make it, and give it to the user that runs Usher";
    let nearest = path.ancestors().map(|a| if a.as_os_str().is_empty() { Path::new(".") } else { a }).find(|a| a.exists());
    match nearest.map(|there| (there, there.metadata())) {
        Some((there, Ok(metadata))) if !metadata.is_dir() => fail(subject, format!("{} is not a directory", there.display()), hint),
        Some((there, Ok(metadata))) if metadata.permissions().readonly() => {
            fail(subject, format!("{} is read-only", there.display()), hint)
        }
        Some((there, Ok(_))) if there == path => ok(subject, "there".to_owned()),
        Some((_, Ok(_))) => ok(subject, "will be made at the first start".to_owned()),
        Some((_, Err(error))) => fail(subject, error.to_string(), hint),
        None => fail(subject, "no part of the path is there".to_owned(), hint),
    }
}

fn ok(subject: String, detail: String) -> Finding {
    Finding { verdict: Verdict::Ok, subject, detail, hint: None }
}

fn warn(subject: String, detail: String, hint: &str) -> Finding {
    Finding { verdict: Verdict::Warn, subject, detail, hint: Some(hint.to_owned()) }
}

fn fail(subject: String, detail: String, hint: &str) -> Finding {
    Finding { verdict: Verdict::Fail, subject, detail, hint: Some(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A pair of files whose certificate is good until so many days from now, with its own key or another.
    fn finding(name: &str, days: i64, own_key: bool) -> Finding {
        let now = Now::read();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["chat.example.com".to_owned()]).unwrap();
        let at = |days: i64| time::OffsetDateTime::from_unix_timestamp(now.wall.as_secs() as i64 + days * 86_400 + 3600).unwrap();
        (params.not_before, params.not_after) = (at(days - 90), at(days));
        let cert = params.self_signed(&key).unwrap().pem();
        let key = if own_key { key } else { rcgen::KeyPair::generate().unwrap() };
        let folder = std::env::temp_dir().join(format!("usher-check-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = CertificateFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        fs::write(&files.cert, cert).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        let found = certificate(&files, now);
        fs::remove_dir_all(folder).unwrap();
        found
    }

    #[test]
    fn a_region_that_is_away_concerns_its_own_tickets_alone() {
        let lines = "[store]\nurl = \"redis://127.0.0.1:1\"\nregion = \"us\"\n[store.regions.eu]\nurl = \"redis://127.0.0.1:1\"\n";
        let text = format!("{}\n{lines}", include_str!("../../config/usher.toml"));
        let config = crate::config::parse(&text, None, &|_| Some("0123456789abcdef".repeat(4))).unwrap().config;
        let told: Vec<_> = environment(&config, Now::read())
            .into_iter()
            .filter(|finding| finding.subject.starts_with("store"))
            .map(|finding| (finding.verdict, finding.subject, finding.hint.unwrap()))
            .collect();
        let wanted = [
            (Verdict::Warn, "store 127.0.0.1:1", "tickets are refused until it is there"),
            (Verdict::Warn, "store of region eu 127.0.0.1:1", "tickets of eu are refused until it is there"),
        ];
        assert_eq!(told, wanted.map(|(verdict, subject, hint)| (verdict, subject.to_owned(), hint.to_owned())));
    }

    #[test]
    fn authorities_of_clients_are_read_as_the_start_reads_them() {
        let file = std::env::temp_dir().join(format!("usher-check-{}-authorities.pem", std::process::id()));
        let one = rcgen::generate_simple_self_signed(["clients".to_owned()]).unwrap();
        let found = |text: &str| {
            fs::write(&file, text).unwrap();
            let finding = client_authorities(&file);
            (finding.verdict, finding.detail)
        };
        assert_eq!(found(&one.cert.pem()), (Verdict::Ok, "one certificate".to_owned()));
        assert_eq!(found(&one.cert.pem().repeat(2)), (Verdict::Ok, "2 certificates".to_owned()));
        for text in ["", "clients", &one.signing_key.serialize_pem()] {
            assert_eq!(found(text), (Verdict::Fail, "it holds no certificate".to_owned()));
        }
        let (verdict, detail) = found("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(verdict == Verdict::Fail && !detail.is_empty(), "{detail}");
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_certificate_is_held_against_its_key_and_the_date() {
        let good = finding("good", 60, true);
        assert_eq!((good.verdict, good.detail.as_str()), (Verdict::Ok, "chat.example.com, good for 60 more days, matches its key"));
        assert_eq!(finding("soon", 5, true).verdict, Verdict::Warn);
        let expired = finding("expired", -1, true);
        assert!(expired.verdict == Verdict::Fail && expired.detail.contains("it expired on"), "{expired:?}");
        let other = finding("other", 60, false);
        assert!(other.verdict == Verdict::Fail && other.detail.contains("does not belong to"), "{other:?}");
    }
}
