//! The configuration: each mistake is reported with its place, a comment changes nothing, and Usher
//! can start with every configuration that `usher check` accepts.

use std::path::Path;

use super::settings::SECRET;
use usher::base::clock::Now;
use usher::config::diagnostic::{Diagnostic, Diagnostics};
use usher::config::{self, Config, ContextSigning, IssuerKeySource, Loaded, Store};
use usher::edge::Edge;

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let outcome = parse(text);
    let diagnostics = diagnostics(&outcome);
    assert!(outcome.is_ok() || !diagnostics.is_empty(), "rejected without a diagnostic");
    for diagnostic in diagnostics {
        check_place(text, diagnostic);
        assert!(diagnostic.render(true).contains(&diagnostic.message));
    }
    check_comment(text, &outcome);
    if let Ok(loaded) = outcome
        && needs_nothing(&loaded.config)
    {
        check_start(loaded.config);
    }
}

fn parse(text: &str) -> Result<Loaded, Diagnostics> {
    config::parse(text, Some(Path::new("usher.toml")), &|_| Some(SECRET.to_owned()))
}

fn diagnostics(outcome: &Result<Loaded, Diagnostics>) -> &[Diagnostic] {
    match outcome {
        Ok(loaded) => &loaded.warnings,
        Err(errors) => &errors.0,
    }
}

fn check_place(text: &str, diagnostic: &Diagnostic) {
    let Some(place) = &diagnostic.place else { return };
    assert!(place.line >= 1 && place.column >= 1 && place.width >= 1, "{place:?}");
    let line = text.split('\n').nth(place.line - 1).expect("the place is in the text");
    assert_eq!(line.trim_end_matches('\r'), place.text.trim_end_matches('\r'), "{diagnostic:?}");
    let length = line.chars().count();
    // The place one character after the end means that something is missing.
    assert!(place.column <= length + 1, "{diagnostic:?}");
    assert!(place.column + place.width <= length.max(1) + 2, "{diagnostic:?}");
}

/// Checks that a comment in the first line moves each place by one line, and changes nothing else.
fn check_comment(text: &str, outcome: &Result<Loaded, Diagnostics>) {
    // A byte order mark is valid only at the beginning.
    if text.starts_with('\u{feff}') {
        return;
    }
    let commented = parse(&format!("# comment\n{text}"));
    assert_eq!(commented.is_ok(), outcome.is_ok(), "a comment changes the verdict");
    let moved = diagnostics(&commented).iter().map(|diagnostic| {
        let mut diagnostic = diagnostic.clone();
        if let Some(place) = &mut diagnostic.place
            && place.line > 1
        {
            place.line -= 1;
        }
        (diagnostic.message, diagnostic.place.map(|place| (place.line, place.column, place.width)))
    });
    let before = diagnostics(outcome).iter().map(|diagnostic| {
        let place = diagnostic.place.as_ref();
        (diagnostic.message.clone(), place.map(|place| (place.line, place.column, place.width)))
    });
    // A missing table has its place at the beginning of both texts.
    let (mut moved, mut before): (Vec<_>, Vec<_>) = (moved.collect(), before.collect());
    moved.sort();
    before.sort();
    // The TOML parser may report its limit of nesting before or after another fault of the line.
    let is_nested = moved.iter().chain(&before).any(|(message, _)| message == "recursion limit");
    assert!(
        is_nested || moved == before,
        "a comment changes the diagnostics: {before:?} {moved:?}"
    );
    if let (Ok(one), Ok(other)) = (outcome, &commented) {
        let differences = one.config.written.differences(&other.config.written);
        assert!(differences.is_empty(), "a comment is a difference: {differences:?}");
    }
}

/// Returns true if the config names no file, folder or server.
fn needs_nothing(config: &Config) -> bool {
    config.listeners.iter().all(|listener| listener.tls.is_none())
        && config.issuers.iter().all(|issuer| matches!(issuer.keys, IssuerKeySource::Secret(_)))
        && config.upstreams.iter().all(|upstream| upstream.ca_file.is_none())
        && config.verifiers.is_empty()
        && config.regions.is_empty()
        && matches!(config.store, Store::Memory { .. })
        && !matches!(config.context.signing, ContextSigning::Files { .. })
}

fn check_start(config: Config) {
    let folder = std::env::temp_dir().join(format!("usher-fuzz-{}", std::process::id()));
    let opened = Edge::open(Config { state_dir: folder.clone(), ..config }, Now::read());
    assert!(opened.is_ok(), "accepted, but Usher cannot start: {:?}", opened.err());
    std::fs::remove_dir_all(folder).expect("the folder was made");
}
