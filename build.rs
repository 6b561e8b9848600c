//! Records the commit, the target and the compiler, for `usher --version`.
//!
//! The commit is looked for in this order: `USHER_COMMIT`, the file that `cargo package` adds, the
//! file that `git archive` fills in, and git itself. A debug build does not ask git, because each
//! commit would compile the library anew.
#![allow(clippy::print_stdout, reason = "cargo reads these lines")]

use std::path::Path;
use std::process::Command;

const PACKAGED: &str = ".cargo_vcs_info.json";
const ARCHIVED: &str = ".git-archival.txt";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=USHER_COMMIT");
    let root = variable("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root);
    let commit = variable("USHER_COMMIT")
        .or_else(|| packaged(root))
        .or_else(|| archived(root))
        .or_else(|| (variable("PROFILE")? == "release").then(|| from_git(root))?);
    set("USHER_COMMIT", commit);
    set("USHER_TARGET", variable("TARGET"));
    set("USHER_FEATURES", variable("CARGO_CFG_FEATURE"));
    set("USHER_RUSTC", output(&variable("RUSTC").unwrap_or_default(), &["--version"], root));
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn set(name: &str, value: Option<String>) {
    if let Some(value) = value.filter(|value| !value.contains('\n')) {
        println!("cargo::rustc-env={name}={value}");
    }
}

fn read(root: &Path, name: &str) -> Option<String> {
    let path = root.join(name);
    let text = std::fs::read_to_string(&path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text)
}

fn packaged(root: &Path) -> Option<String> {
    let text = read(root, PACKAGED)?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}

fn archived(root: &Path) -> Option<String> {
    let text = read(root, ARCHIVED)?;
    let commit = text.lines().find_map(|line| line.strip_prefix("node: "))?.trim().to_owned();
    commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(commit)
}

/// Returns the commit of this folder's own repository. The repository of a folder above, which only
/// contains these sources, has other commits.
fn from_git(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| output("git", arguments, root);
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let log = root.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    let watched = [log, root.join("src"), root.join("Cargo.toml"), root.join("Cargo.lock")];
    for path in watched.iter().filter(|path| path.exists()) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
    Some(if is_changed { format!("{commit}-dirty") } else { commit })
}

/// Returns the output of a command, `None` if it fails or prints nothing.
fn output(program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
