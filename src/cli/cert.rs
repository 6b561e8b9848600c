//! `usher cert`: a self-signed certificate for this machine.
//!
//! There is no authority whose key would have to be protected. A client trusts only this
//! certificate.
#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use crate::net::tls::self_signed::self_signed;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use rustls::pki_types::DnsName;

use crate::base::clock::{Now, UnixMillis};
use crate::exit::Exit;

/// The validity of the certificate, which begins one day ago. Browsers accept at most 397 days from
/// a public authority, and at most 825 days from others.
const DAYS: i64 = 397;
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Host names and IP addresses that clients connect to
    #[arg(
        value_name = "NAME",
        value_parser = host_name,
        default_values = ["localhost", "127.0.0.1", "::1"],
    )]
    names: Vec<String>,
    /// The file for the certificate
    #[arg(long, value_name = "FILE", default_value = "cert.pem")]
    cert: PathBuf,
    /// The file for the private key, which only you can read
    #[arg(long, value_name = "FILE", default_value = "key.pem")]
    key: PathBuf,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { names, cert, key, force } = arguments;
    ensure!(place(&cert) != place(&key), "--cert and --key name the same file");
    if !force {
        refuse_to_overwrite(&[&cert, &key])?;
    }
    let pair = self_signed(&names, "Usher local certificate", DAYS, Now::read())?;
    write(&key, &pair.key, KEY_MODE)?;
    write(&cert, &pair.certificate, CERTIFICATE_MODE).inspect_err(|_| {
        // A key without its certificate would make the next `usher cert` fail.
        if !force {
            let _ = std::fs::remove_file(&key);
        }
    })?;
    print!("{}", next_steps(&names, &cert, &key, pair.expires));
    Ok(Exit::Ok.into())
}

fn host_name(text: &str) -> Result<String, String> {
    let is_address = text.parse::<IpAddr>().is_ok();
    let is_name = DnsName::try_from(text.strip_prefix("*.").unwrap_or(text)).is_ok();
    if is_address || is_name {
        return Ok(text.to_owned());
    }
    Err("write a host name or an IP address, without scheme, port or brackets".to_owned())
}

/// Returns the folder and the name of a file, the same for every spelling of its path.
fn place(path: &Path) -> (PathBuf, Option<&OsStr>) {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (folder.canonicalize().unwrap_or_else(|_| folder.to_owned()), path.file_name())
}

/// Rejects existing files. A symbolic link without a target counts as existing too.
fn refuse_to_overwrite(paths: &[&Path]) -> anyhow::Result<()> {
    let there: Vec<_> = paths
        .iter()
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| path.display().to_string())
        .collect();
    if !there.is_empty() {
        let (exist, them) = if there.len() == 1 { ("exists", "it") } else { ("exist", "them") };
        bail!(
            "{} {exist} already; add `--force` to replace {them}, or choose other files with \
             --cert and --key",
            there.join(" and ")
        );
    }
    Ok(())
}

/// Writes a file in one step. A running Usher that reads it at the same time gets the whole old
/// file or the whole new one.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut name = path
        .file_name()
        .with_context(|| format!("{} does not name a file", path.display()))?
        .to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn next_steps(names: &[String], cert: &Path, key: &Path, expires: UnixMillis) -> String {
    let day = expires.to_rfc3339().chars().take(10).collect::<String>();
    let (cert, key, names_shown) = (cert.display(), key.display(), names.join(", "));
    let first = names.first().map_or("localhost", String::as_str).replacen("*.", "www.", 1);
    let host = if first.contains(':') { format!("[{first}]") } else { first };
    format!(
        r#"wrote {cert}: for {names_shown}; ECDSA P-256, until {day}
wrote {key}: the private key, which only you can read

Put them into [[listener]], relative to the folder of usher.toml:
  certificates = [{{ cert = "{cert}", key = "{key}" }}]

Next:
  usher check
  usher run
  curl --cacert {cert} https://{host}:8443/

Make clients trust the certificate:
  Node      export NODE_EXTRA_CA_CERTS={cert}
  Python    export SSL_CERT_FILE={cert}
  Chromium  certutil -d sql:$HOME/.pki/nssdb -A -t P,, -n usher -i {cert}
  Firefox   open https://{host}:8443/ once and accept the warning
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_addresses() {
        for good in [
            "localhost",
            "chat.example.com",
            "*.example.com",
            "127.0.0.1",
            "::1",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(host_name(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "https://localhost",
            "localhost:8443",
            "[::1]",
            "a b",
            "*.",
            "*.*.example.com",
            "bücher.example",
        ] {
            assert!(host_name(bad).is_err(), "{bad}");
        }
    }
}
