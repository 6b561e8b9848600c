//! Whether what a good configuration names is there: certificates, keys, servers, directories.
//!
//! `usher check` runs this; the program itself meets the same things when it starts.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateFiles, Config, IssuerKeySource, Server};
use crate::clock::Now;

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
    }
    for issuer in &config.issuers {
        if let IssuerKeySource::JwksFile(path) = &issuer.keys {
            findings.push(jwks(&issuer.name, path));
        }
    }
    for upstream in &config.upstreams {
        findings.extend(upstream.servers.iter().map(|server| reach(&upstream.name, server)));
    }
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

/// The days that are left, and the names.
fn inspect(files: &CertificateFiles, now: Now) -> Result<(i64, String), (String, &'static str)> {
    let pem_hint = "a PEM file with the certificate first and its chain after it";
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| (error.to_string(), pem_hint))?;
    let Some(first) = chain.first().cloned() else { return Err(("there is no certificate in it".to_owned(), pem_hint)) };
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.map_err(|error| (format!("its key {}: {error}", files.key.display()), "a PEM file with the private key"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        (format!("it does not go with {}: {error}", files.key.display()), "name the key that the certificate was made with")
    })?;
    let (_, parsed) = X509Certificate::from_der(&first).map_err(|error| (error.to_string(), pem_hint))?;
    let now_seconds = i64::try_from(now.wall.as_secs()).unwrap_or(i64::MAX);
    let left = parsed.validity().not_after.timestamp() - now_seconds;
    if left <= 0 {
        return Err((format!("it expired on {}", parsed.validity().not_after), "renew it"));
    }
    if parsed.validity().not_before.timestamp() > now_seconds {
        return Err((format!("it is not good before {}", parsed.validity().not_before), "look at this machine's clock"));
    }
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address_text(bytes),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    Ok((left / 86_400, if names.is_empty() { "no names".to_owned() } else { names.join(", ") }))
}

fn address_text(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|b| std::net::IpAddr::from(b).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|b| std::net::IpAddr::from(b).to_string())).ok()
}

fn jwks(issuer: &str, path: &Path) -> Finding {
    let subject = format!("keys of issuer {issuer}");
    let hint = "a JSON Web Key Set: {\"keys\": [...]}";
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return fail(subject, format!("{}: {error}", path.display()), hint),
    };
    let set: serde_json::Value = match serde_json::from_slice(&text) {
        Ok(set) => set,
        Err(error) => return fail(subject, format!("{}: {error}", path.display()), hint),
    };
    let keys = set.get("keys").and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let public = |key: &&serde_json::Value| matches!(key.get("kty").and_then(serde_json::Value::as_str), Some("RSA" | "EC" | "OKP"));
    match keys.iter().filter(public).count() {
        0 => fail(subject, format!("{} holds no public key", path.display()), hint),
        count => ok(subject, format!("{count} in {}", path.display())),
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
