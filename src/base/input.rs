//! Reads the input of a command, a secret or a token: from a file, or from standard input.
//! Completes the paths of files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The longest input, in bytes.
const MAX_INPUT: u64 = 64 * 1024;

/// Returns the path from the root of the file system, for a reader in another folder.
pub fn whole_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub fn read_file(path: &Path) -> anyhow::Result<String> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    read(file).with_context(|| path.display().to_string())
}

pub fn read_stdin() -> anyhow::Result<String> {
    read(std::io::stdin()).context("standard input")
}

/// Reads the whole input. A longer one is an error: a part of a secret is another secret.
fn read(input: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.take(MAX_INPUT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_INPUT {
        anyhow::bail!("the input is longer than {} KiB", MAX_INPUT / 1024);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_input_is_an_error_and_not_cut() {
        let longest = "x".repeat(64 * 1024);
        assert_eq!(read(longest.as_bytes()).unwrap(), longest);
        let error = read((longest + "x").as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "the input is longer than 64 KiB");
    }
}
