//! Generates `docs/log-events.md` from the calls that write log lines, as they stand in the source.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LogCall {
    event: String,
    levels: Vec<String>,
    message: String,
}

const MACROS: [&str; 6] = ["error!(", "warn!(", "info!(", "debug!(", "trace!(", "log_at!("];
/// Calls whose event is not a literal, by file, and their events.
const SHARED: &[(&str, &[&str])] = &[
    ("telemetry/refusal.rs", &["request_rejected", "ticket_refused", "upgrade_rejected"]),
    ("session/events.rs", &["reauth_asked", "reauth_refused", "reauth_renewed"]),
];

fn page(calls: &BTreeSet<LogCall>) -> String {
    let mut page = String::from(
        "# Find the level of a log line\n\n\
         Each line of the log has an `event`. This is every one of them, with its level and its \
         message.\n\
         `refusals` is the level of `[log] refusals`. [logs.md](logs.md#levels) has the rule by \
         which levels are chosen.\n\
         Generated from the source by `USHER_WRITE_DOCS=1 cargo test --lib log_events`.\n\n\
         | event | level | message |\n|---|---|---|\n",
    );
    for LogCall { event, levels, message } in calls {
        let levels: Vec<String> = levels.iter().map(|level| format!("`{level}`")).collect();
        let _ = writeln!(page, "| `{event}` | {} | {message} |", levels.join(" or "));
    }
    page
}

/// Returns the calls in a file, and the number of those that could not be read.
fn calls(file: &str, text: &str) -> (Vec<LogCall>, usize) {
    let text = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let (mut found, mut unread) = (Vec::new(), 0);
    for (name, at) in
        MACROS.iter().flat_map(|name| positions(text, name).map(move |at| (*name, at)))
    {
        let (before, rest) = text.split_at(at);
        let call = inside_parentheses(&rest[name.len()..]);
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            || !call.contains("target: \"usher\"")
        {
            continue;
        }
        let literal = call.split_once("event = \"").and_then(|(_, rest)| rest.split('"').next());
        let shared = SHARED.iter().find(|(path, _)| file.ends_with(path));
        let events = match (literal, shared) {
            (Some(event), _) => vec![event],
            (None, Some((_, events))) => events.to_vec(),
            (None, None) => {
                unread += 1;
                continue;
            }
        };
        let message = call.trim_end_matches([',', '\n', ' ']).trim_end_matches('"');
        let message = message.rsplit('"').next().unwrap_or_default();
        for event in events {
            let levels = levels(name, before, call);
            found.push(LogCall { event: event.to_owned(), levels, message: message.to_owned() });
        }
    }
    (found, unread)
}

/// Returns the levels that a call may have.
fn levels(name: &str, before: &str, call: &str) -> Vec<String> {
    if name != "log_at!(" {
        return vec![name.trim_end_matches("!(").to_owned()];
    }
    let choice = before.rsplit("let level = ").next().unwrap_or_default();
    let source = if call.trim_start().starts_with("level") { choice } else { call };
    let words = [
        ("client_refusal_level()", "refusals"),
        ("Severity::Info", "info"),
        ("Severity::Warn", "warn"),
        ("Severity::Error", "error"),
    ];
    let is_in = |(code, _): &(&str, &str)| source.contains(code);
    words.into_iter().filter(is_in).map(|(_, word)| word.to_owned()).collect()
}

fn positions<'a>(text: &'a str, part: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(part).map(|(at, _)| at)
}

/// Returns the text up to the parenthesis that closes the one before it.
fn inside_parentheses(text: &str) -> &str {
    let (mut depth, mut is_quoted) = (1, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '(' if !is_quoted => depth += 1,
            ')' if !is_quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// Returns the files of `src`.
pub(crate) fn sources() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn the_page_of_log_events_is_what_the_source_says() {
    let (mut all, mut texts) = (BTreeSet::new(), String::new());
    for path in sources().iter().filter(|path| !path.ends_with(file!())) {
        let text = std::fs::read_to_string(path).unwrap();
        let (found, unread) = calls(&path.to_string_lossy(), &text);
        assert_eq!(unread, 0, "{}: the event of a log line is not a literal", path.display());
        all.extend(found);
        texts.push_str(&text);
    }
    for event in SHARED.iter().flat_map(|(_, events)| *events) {
        assert!(texts.contains(&format!("\"{event}\"")), "no event is called {event}");
    }
    for call in &all {
        assert!(!call.levels.is_empty() && !call.message.is_empty(), "{call:?}");
    }
    let page = page(&all);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/log-events.md");
    if std::env::var_os("USHER_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/log-events.md differs from the source; run USHER_WRITE_DOCS=1 cargo test --lib \
         log_events"
    );
}

#[test]
fn a_call_is_read_with_its_level_and_message() {
    let source = r#"
        let level = match fault {
            Fault::Store => Severity::Warn,
            _ => client_refusal_level(),
        };
        log_at!(level, target: "usher", event = "a", why = why(1), "did (not) go");
        debug!(
            target: "usher", event = "b",
            "went"
        );
        info!("no event of Usher");
    "#;
    let call = |event: &str, levels: &[&str], message: &str| LogCall {
        event: event.to_owned(),
        levels: levels.iter().map(|&level| level.to_owned()).collect(),
        message: message.to_owned(),
    };
    let (mut found, unread) = calls("x.rs", source);
    found.sort();
    let expected =
        [call("a", &["refusals", "warn"], "did (not) go"), call("b", &["debug"], "went")];
    assert_eq!((found, unread), (expected.to_vec(), 0));
}
