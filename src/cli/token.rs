//! `usher token`: makes and reads tokens, for development.
//!
//! Secrets come from standard input, a file or the environment, never from arguments: the history
//! of the shell and the list of processes would show them.
#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use crate::base::input::read_file;
use crate::base::input::read_stdin;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::auth::jwt::sign_for_development;
use crate::base::clock::{Now, UnixMillis};
use crate::base::text::distance;
use crate::config::value;
use crate::model::algorithm::{Algorithm, KeyFamily};
use crate::model::secret::Secret;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Sign a token as an issuer would
    Mint(Box<MintArguments>),
    /// Show the claims of a token from standard input, without checking its signature: `echo
    /// "$TOKEN" | usher token inspect`
    Inspect {
        /// The file with the token, instead of standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("key").required(true))]
struct MintArguments {
    /// The environment variable with the shared secret
    #[arg(long, value_name = "NAME", group = "key")]
    secret_env: Option<String>,
    /// The file with the shared secret
    #[arg(long, value_name = "FILE", group = "key")]
    secret_file: Option<PathBuf>,
    /// Read the shared secret from standard input
    #[arg(long, group = "key")]
    secret_stdin: bool,
    /// The private key (PEM) for RS, PS, ES and EdDSA
    #[arg(long, value_name = "FILE", group = "key")]
    key_file: Option<PathBuf>,
    /// HS256, HS384, HS512, RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA
    #[arg(long, default_value = "HS256", value_parser = algorithm)]
    algorithm: Algorithm,
    /// The `kid` in the header
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// The user: the claim `sub`
    #[arg(long)]
    subject: String,
    /// The claim `iss`, the same as `issuer` in `[[issuer]]`
    #[arg(long)]
    issuer: String,
    /// The claim `aud`; may be given more than once
    #[arg(long, required = true)]
    audience: Vec<String>,
    /// How long the token is valid
    #[arg(long, default_value = "15m", value_parser = value::duration)]
    ttl: Duration,
    /// A permission; may be given more than once
    #[arg(long = "permission", value_name = "NAME")]
    permissions: Vec<String>,
    /// Another claim; a value that is not JSON becomes a string
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Mint(mint) => println!("{}", mint.sign(Now::read())?),
        Action::Inspect { token_file } => {
            let text = match token_file {
                Some(file) => read_file(&file)?,
                None => read_stdin()?,
            };
            print!("{}", inspect(text.trim(), Now::read())?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    let names: Vec<_> = Algorithm::ALL.iter().map(|one| one.name()).collect();
    Algorithm::ALL
        .into_iter()
        .find(|one| one.name() == text)
        .ok_or_else(|| format!("the possible values are {}", names.join(", ")))
}

impl MintArguments {
    fn sign(&self, now: Now) -> anyhow::Result<String> {
        let is_shared = self.algorithm.family() == KeyFamily::Hmac;
        if is_shared == self.key_file.is_some() {
            bail!(
                "{} needs {}",
                self.algorithm.name(),
                if is_shared {
                    "a shared secret: --secret-file"
                } else {
                    "a private key: --key-file"
                }
            );
        }
        let key = self.key()?;
        let least = self.algorithm.least_secret();
        if key.len() < least {
            bail!(
                "the secret has {} bytes; {} needs at least {least}; make one with \
                 `openssl rand -hex 64`",
                key.len(),
                self.algorithm.name()
            );
        }
        let claims = Value::Object(self.claims(now)?);
        Ok(sign_for_development(self.algorithm, &key, self.key_id.as_deref(), &claims)?)
    }

    fn key(&self) -> anyhow::Result<Secret> {
        let text = match (&self.secret_env, self.secret_file.as_ref().or(self.key_file.as_ref())) {
            (Some(name), _) => std::env::var(name)
                .with_context(|| format!("the environment variable {name} is not set"))?,
            (None, Some(file)) => read_file(file)?,
            (None, None) => read_stdin()?,
        };
        Ok(Secret::from(text.trim_end_matches(['\r', '\n'])))
    }

    fn claims(&self, now: Now) -> anyhow::Result<Map<String, Value>> {
        let mut id = [0; 12];
        rand::fill(&mut id)?;
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!(self.issuer));
        claims.insert(
            "aud".to_owned(),
            if let [one] = self.audience.as_slice() { json!(one) } else { json!(self.audience) },
        );
        claims.insert("sub".to_owned(), json!(self.subject));
        claims.insert("iat".to_owned(), json!(now.wall.as_secs()));
        claims.insert("exp".to_owned(), json!((now.wall + self.ttl).as_secs()));
        claims.insert("jti".to_owned(), json!(URL_SAFE_NO_PAD.encode(id)));
        if !self.permissions.is_empty() {
            claims.insert("permissions".to_owned(), json!(self.permissions));
        }
        for claim in &self.claims {
            let (name, value) = claim
                .split_once('=')
                .with_context(|| format!("--claim {claim}: write NAME=VALUE"))?;
            claims.insert(
                name.to_owned(),
                serde_json::from_str(value).unwrap_or_else(|_| json!(value)),
            );
        }
        Ok(claims)
    }
}

/// Returns the header, the claims and the times of a token as text.
fn inspect(token: &str, now: Now) -> anyhow::Result<String> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("the input is not a token: a compact JWS has three parts, separated by dots");
    };
    let object = |part: &str, what: &str| -> anyhow::Result<Map<String, Value>> {
        let bytes = URL_SAFE_NO_PAD
            .decode(part)
            .with_context(|| format!("the {what} is not base64url without padding"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("the {what} is not a JSON object"))
    };
    let (header, claims) = (object(header, "header")?, object(claims, "payload")?);
    let mut text = format!("header  {}\n", serde_json::to_string_pretty(&header)?);
    text.push_str(&format!("claims  {}\n", serde_json::to_string_pretty(&claims)?));
    for (name, words) in [("iat", "issued"), ("nbf", "not valid before"), ("exp", "expires")] {
        if let Some(seconds) = claims.get(name).and_then(Value::as_u64) {
            let at = UnixMillis::from_secs(seconds);
            text.push_str(&format!(
                "{words:<17} {} ({})\n",
                at.to_rfc3339(),
                distance(at, now.wall)
            ));
        }
    }
    text.push_str("The signature was not checked: the token may be forged.\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_in_words() {
        let now = Now { wall: UnixMillis(1_700_000_000_000), ..Now::read() };
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"ada","exp":1700000600}"#);
        let text =
            inspect(&format!("{}.{claims}.x", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#)), now)
                .unwrap();
        assert!(text.contains("expires           2023-11-14T22:23:20.000Z (in 10 min)"), "{text}");
        assert!(text.contains("not checked"));
        assert!(inspect("a.b", now).is_err());
    }
}
