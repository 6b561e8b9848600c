//! Counts instructions with callgrind, and compares them with the saved counts.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{FEW, MANY};

/// The file of the saved counts, which is committed.
const SAVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

/// Prints the table. It never fails because of a count: a person compares them.
pub fn run(names: &[String], filter: Option<&str>, save: bool) {
    let folder = std::env::temp_dir().join(format!("usher-callgrind-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let counts = count(&folder, filter);
    let _ = fs::remove_dir_all(&folder);
    let Some(counts) = counts else { return };
    assert_eq!(counts.len(), names.len() * 2, "callgrind must report two runs for each operation");
    let earlier = earlier();
    let mut table = String::new();
    println!("{:<44} {:>12} {:>12} {:>9}", "operation", "instructions", "last time", "change");
    for (name, pair) in names.iter().zip(counts.chunks_exact(2)) {
        let each = (pair[1] - pair[0]) / (MANY - FEW) as f64;
        let _ = writeln!(table, "{name:<44} {each:>12.0}");
        match earlier.get(name) {
            Some(before) if *before > 0.0 => {
                println!(
                    "{name:<44} {each:>12.0} {before:>12.0} {:>+8.2}%",
                    (each / before - 1.0) * 100.0
                );
            }
            _ => println!("{name:<44} {each:>12.0}"),
        }
    }
    // A filtered run is not saved: the saved counts must be complete.
    if save && filter.is_none() {
        fs::write(SAVED, table).unwrap();
        println!("saved in {SAVED}");
    }
}

/// Returns the counts of all runs in their order; `None` if callgrind is not installed.
fn count(folder: &Path, filter: Option<&str>) -> Option<Vec<f64>> {
    let out = folder.join("out");
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--quiet",
        "--toggle-collect=*measured*",
        "--dump-after=*support*measured*",
    ]);
    command
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .arg("--counted")
        .args(filter);
    match command.stdout(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            println!("callgrind ended with {status}");
            return None;
        }
        Err(error) => {
            println!("cannot run callgrind, a part of valgrind: {error}");
            return None;
        }
    }
    let dumps = (1..)
        .map(|number| folder.join(format!("out.{number}")))
        .map_while(|dump| fs::read_to_string(dump).ok());
    Some(dumps.filter_map(|dump| total(&dump)).collect())
}

fn total(dump: &str) -> Option<f64> {
    let line = dump
        .lines()
        .find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")))?;
    line.split_whitespace().next()?.parse().ok().filter(|total| *total > 0.0)
}

fn earlier() -> HashMap<String, f64> {
    let text = fs::read_to_string(SAVED).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, count)| Some((name.trim().to_owned(), count.parse().ok()?)))
        .collect()
}
