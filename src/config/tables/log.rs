//! `[log]` and `[audit]`.

use std::path::Path;

use crate::config::declare::table;
use crate::config::diagnostic::nearest;
use crate::config::key_type::{Choice, Count, OneOf, PathToWrite, TextType};
use crate::config::reader::Section;

table! {
    /// The log.
    pub struct Log: [log] {
        /// The file that log lines are appended to; without it, they go to stderr. SIGUSR1 opens it
        /// again after a rotation.
        file: PathToWrite, optional "usher.log";
        /// json, text, or auto: text on a terminal, JSON elsewhere.
        format: OneOf<LogFormat>, default "auto",
            because "people read a terminal, programs read the rest";
        /// A level, or a list of target=level.
        filter: LogFilter, default "info",
            because "it shows what happens to clients and servers, without every step";
        /// The level of refusals that the client caused: info, warn, error or critical. Refusals
        /// that Usher, the store or the upstream caused are always warn.
        refusals: OneOf<RefusalLevel>, default "info",
            because "a mistake of a client is not a fault of the server",
            change_when "the filter is `warn`, but the log must have these refusals; or a rule of \
                the log pipeline looks for a level";
        /// Lines per second about refusals of one address, in the log and the audit log; the
        /// rest is counted in one line.
        refusal_lines: Count, default 5,
            because "enough to see the client's mistake; no client can fill the disk",
            change_when "a proxy that is not in `trusted_peers` gives all clients one address: \
                raise it";
    }
}

table! {
    /// The audit trail.
    pub struct AuditTable: [audit] {
        /// The file that audit lines are appended to; without it, there is no audit log. SIGUSR1
        /// opens it again after a rotation.
        file: PathToWrite, optional "audit.jsonl";
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalLevel {
    Info,
    Warn,
    Error,
    /// An error, written as CRITICAL.
    Critical,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// Rejects one file for both logs: no reader could tell their lines apart.
pub fn check_files(audit_section: &Section<'_, '_>, log: &Log, audit: Option<&Path>) {
    let Some(value) = audit_section.value("file") else { return };
    if audit.is_some() && log.file.as_deref() == audit {
        let message = "`[log] file` and `[audit] file` are the same file";
        audit_section.reader.error(&value.span(), message, "give each log a file of its own");
    }
}

impl Choice for LogFormat {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("auto", Self::Auto), ("json", Self::Json), ("text", Self::Text)]
    }
}

impl Choice for RefusalLevel {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![
            ("info", Self::Info),
            ("warn", Self::Warn),
            ("error", Self::Error),
            ("critical", Self::Critical),
        ]
    }
}

/// A level, or a list of `target=level`.
pub struct LogFilter;

impl TextType for LogFilter {
    type Value = String;
    const NAME: &str = "log filter";

    /// Rejects a word that is not a level: the filter would take it as a target, and nothing else
    /// would be logged.
    fn parse(_key: &str, text: &str) -> Result<String, String> {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        let mut directives = text.split(',').map(str::trim);
        let names_a_part = |one: &str| one.contains(['=', '[']) && !one.starts_with('=');
        if let Some(wrong) = directives.find(|one| !names_a_part(one) && !is_level(one)) {
            let near = nearest(wrong, LEVELS)
                .map(|near| format!("did you mean `{near}`? "))
                .unwrap_or_default();
            return Err(format!(
                "`{wrong}` is not a log level; {near}the levels are {}; \"info,usher=debug\" sets \
                 a level for one target",
                LEVELS.join(", ")
            ));
        }
        match text.parse::<tracing_subscriber::filter::Targets>() {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("`{text}` is not a filter: {error}")),
        }
    }
}
