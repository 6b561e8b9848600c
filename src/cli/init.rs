//! `usher init`: a first configuration with comments, and a secret to try it with. Existing files
//! are never overwritten.
#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use aws_lc_rs::rand;

use crate::exit::Exit;

pub const STARTING_CONFIG: &str = include_str!("../../config/usher.toml");

/// The lines of [`STARTING_CONFIG`] that an option replaces.
const TLS: &str = r#"address = "0.0.0.0:8443"
certificates = [{ cert = "cert.pem", key = "key.pem" }]
# `usher cert` makes both files for this machine. For a file without TLS, use `usher init --plain`.
"#;
const PLAIN: &str = r#"# Without TLS: only for this machine, or behind a proxy that terminates TLS.
# Behind a proxy, list its addresses, so that its forwarding headers are trusted:
# trusted_peers = ["127.0.0.1"]
address = "127.0.0.1:8080"
plain = true
"#;
const SECRET_FROM_ENVIRONMENT: &str = r#"secret_env = "USHER_JWT_SECRET"
"#;
const SECRET_FROM_FILE: &str = r#"# `usher init` made a first secret:
# replace it by the secret that signs your tokens.
secret_file = "jwt-secret"
"#;

const VARIABLE: &str = "USHER_JWT_SECRET";
const SECRET_FILE: &str = "jwt-secret";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file to write
    #[arg(default_value = "usher.toml")]
    path: PathBuf,
    /// Listen on loopback without TLS, for a first try or behind a proxy that terminates TLS
    #[arg(long)]
    plain: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { path, plain } = arguments;
    let shown = path.display();
    let has_variable = std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
    let text = starting_config(plain, has_variable);
    write_new(&path, &text, 0o644).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AlreadyExists => " (existing files are never overwritten)".to_owned(),
            ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new("")).display();
                format!(" (make the folder first: mkdir -p {folder})")
            }
            _ => String::new(),
        };
        anyhow::Error::new(error).context(format!("cannot write {shown}{hint}"))
    })?;
    println!("wrote {shown}");
    let mint = if has_variable {
        println!("the secret is read from the environment variable {VARIABLE}");
        format!("--secret-env {VARIABLE}")
    } else {
        let file = path.with_file_name(SECRET_FILE);
        make_secret(&file)?;
        format!("--secret-file {}", file.display())
    };
    let named =
        if path == Path::new("usher.toml") { String::new() } else { format!(" -c {shown}") };
    println!(
        "\nEdit the file: set the address of your backend (`servers`), the issuer of your tokens \
         (`[[issuer]]`) and the pages that may connect (`origins`)."
    );
    println!("\nNext:");
    if !plain {
        println!(
            "  {:<26} # or put your own cert.pem and key.pem next to {shown}",
            cert_command(&path)
        );
    }
    println!("  usher check{named}");
    println!("  usher run{named}");
    println!(
        "  usher token mint {mint} --issuer https://id.example.com --audience chat --subject ada"
    );
    Ok(Exit::Ok.into())
}

/// Returns the command that makes the certificate files where the configuration expects them: paths
/// in a configuration are relative to its folder.
fn cert_command(config: &Path) -> String {
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| config.with_file_name(name));
    if cert == Path::new("cert.pem") {
        "usher cert".to_owned()
    } else {
        format!("usher cert --cert {} --key {}", cert.display(), key.display())
    }
}

fn starting_config(plain: bool, has_variable: bool) -> String {
    let mut text = STARTING_CONFIG.to_owned();
    if plain {
        text = text.replacen(TLS, PLAIN, 1);
    }
    if !has_variable {
        text = text.replacen(SECRET_FROM_ENVIRONMENT, SECRET_FROM_FILE, 1);
    }
    text
}

/// Makes a secret. Keeps an existing one, because tokens may be signed with it.
fn make_secret(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match write_new(path, &format!("{hex}\n"), 0o600) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            println!("kept {shown}: the file exists already");
        }
        written => {
            written.with_context(|| format!("cannot write {shown}"))?;
            println!("wrote {shown}: a first secret, which only you can read");
        }
    }
    Ok(())
}

fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_missing_folder_is_named_with_the_command_that_makes_it() {
        let path = std::env::temp_dir().join("usher-init-no-such-folder/usher.toml");
        let folder = path.parent().unwrap().display().to_string();
        let error = run(Arguments { path, plain: true }).unwrap_err().to_string();
        assert!(error.contains(&format!("mkdir -p {folder})")), "{error}");
    }

    #[test]
    fn every_form_is_whole_and_warns_of_nothing() {
        assert_eq!(starting_config(false, true), STARTING_CONFIG);
        for (plain, has_variable) in [(false, true), (true, true), (false, false), (true, false)] {
            let text = starting_config(plain, has_variable);
            assert_eq!(
                (text.contains("plain = true"), text.contains("secret_env = ")),
                (plain, has_variable),
                "{text}"
            );
            if has_variable {
                let loaded = parse(&text, None, &|_| Some("0123456789abcdef".repeat(4))).unwrap();
                assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            }
        }
    }
}
