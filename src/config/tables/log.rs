//! `[log]` and `[audit]`.

use crate::config::declare::table;
use crate::config::diagnostic::nearest;
use crate::config::key_type::{Choice, Count, OneOf, PathToWrite, TextType};

table! {
    /// The log.
    pub struct Log: [log] {
        /// json, text, or auto: text on a terminal, JSON elsewhere.
        format: OneOf<LogFormat>, default "auto",
            because "text on a terminal, JSON elsewhere";
        /// A level, or a list of target=level.
        filter: LogFilter, default "info",
            because "what happens to clients and servers, without the steps in between";
        /// The level of refusals that are the client's doing: info or warn. Those of Usher, the
        /// store and the upstream are warn.
        refusals: OneOf<RefusalLevel>, default "info",
            because "a client's mistake is not a fault of the server",
            change_when "the filter is `warn` and refusals are still wanted";
        /// Lines about refusals of one address in a second, in the log and the audit log; the
        /// others are counted in one line.
        refusal_lines: Count, default 5,
            because "enough to see what a client does wrong; a stranger cannot fill the disk",
            change_when "a proxy that is not in `trusted_peers` gives all clients one address: up";
    }
}

table! {
    /// The audit trail.
    pub struct AuditTable: [audit] {
        /// The file that audit lines are appended to; none unless written.
        file: PathToWrite, optional "audit.jsonl";
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalLevel {
    Info,
    Warn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

impl Choice for LogFormat {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("auto", Self::Auto), ("json", Self::Json), ("text", Self::Text)]
    }
}

impl Choice for RefusalLevel {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("info", Self::Info), ("warn", Self::Warn)]
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
                "`{wrong}` is not a log level; {near}the levels are {}, and \
                 \"info,usher=debug\" sets one of them for a part",
                LEVELS.join(", ")
            ));
        }
        match text.parse::<tracing_subscriber::filter::Targets>() {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("`{text}` is not a filter: {error}")),
        }
    }
}
