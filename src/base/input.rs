//! Reads what a person gives a command: a file, or standard input, up to a bound.

use std::io::Read;
use std::path::Path;

use anyhow::Context;

/// The longest thing that is read as a secret or a token.
const MAX_INPUT: u64 = 64 * 1024;

pub fn read_file(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    file.take(MAX_INPUT).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    Ok(text)
}

pub fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(MAX_INPUT).read_to_string(&mut text).context("standard input")?;
    Ok(text)
}
