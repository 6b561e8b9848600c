//! `usher keys`: the keys that sign the contexts for the upstreams.
#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::base::clock::Now;
use crate::config::{self, ContextAlgorithm};
use crate::upstream::keyring::{Index, KeyringEntry, KeyringFolder};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the first keys
    Generate {
        #[command(flatten)]
        place: KeyringLocation,
        #[arg(long, value_enum, default_value = "ed-dsa")]
        algorithm: Algorithm,
    },
    /// List the keys
    List {
        #[command(flatten)]
        place: KeyringLocation,
        /// Print the index as JSON, or null without keys
        #[arg(long)]
        json: bool,
    },
    /// Make the next key the current one, and make a new next key
    Rotate(KeyringLocation),
}

#[derive(Debug, Args)]
struct KeyringLocation {
    /// The configuration that names the state directory
    #[arg(short, long, value_name = "FILE", conflicts_with = "state_dir")]
    config: Option<PathBuf>,
    /// The state directory
    #[arg(long, value_name = "FOLDER", default_value = "usher-state")]
    state_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Algorithm {
    #[value(alias = "EdDSA", alias = "eddsa")]
    EdDsa,
    #[value(alias = "ES256")]
    Es256,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let now = Now::read();
    match arguments.action {
        Action::Generate { place, algorithm } => {
            let algorithm = match algorithm {
                Algorithm::EdDsa => ContextAlgorithm::EdDSA,
                Algorithm::Es256 => ContextAlgorithm::ES256,
            };
            show(&place.folder()?.generate(algorithm, now)?);
        }
        Action::List { place, json: true } => {
            println!("{}", serde_json::to_string(&place.folder()?.index()?)?);
        }
        Action::List { place, json: false } => {
            let folder = place.folder()?;
            match folder.index()? {
                Some(index) => show(&index),
                None => println!(
                    "no keys in {}; `usher run` or `usher keys generate` makes them",
                    folder.path().display()
                ),
            }
        }
        Action::Rotate(place) => {
            show(&place.folder()?.rotate(now)?);
            println!(
                "\nNext: `usher reload`, so that a running Usher signs with the new current key"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl KeyringLocation {
    fn folder(&self) -> anyhow::Result<KeyringFolder> {
        let state_dir = match &self.config {
            Some(file) => config::load(file)?.config.state_dir,
            None => self.state_dir.clone(),
        };
        Ok(KeyringFolder::of(&state_dir))
    }
}

fn show(index: &Index) {
    println!("{:<10} {:<18} {:<10} created", "role", "kid", "algorithm");
    let row = |role: &str, entry: &KeyringEntry| {
        println!("{role:<10} {:<18} {:<10} {}", entry.kid, index.algorithm, entry.created);
    };
    if let Some(previous) = &index.previous {
        row("previous", previous);
    }
    row("current", &index.current);
    row("next", &index.next);
}
