//! Writes how the JavaScript client reacts to close frames: `clients/js/src/codes.ts` and a table
//! in `clients/js/README.md`. The source is the tables that Usher itself uses.
//!
//! Tests compare the committed files with these functions; `USHER_WRITE_DOCS=1 cargo test --lib
//! client_codes` writes the files again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::rejection::Rejection;
use crate::rejection::close::CloseCodes;
use crate::rejection::close::CloseReason;
use crate::ws::close_code::CloseCode;

/// The meaning of the end of a connection for a client. The order is from permanent to temporary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseKind {
    Normal,
    Replaced,
    Denied,
    Rejected,
    Busy,
    Unavailable,
    Network,
    GoingAway,
}

/// A close code, and its reason if the reason adds information.
type CloseFrame = (u16, Option<String>);

impl CloseKind {
    /// Every code with its own meaning. Usher never sends 1012: it comes from an upstream.
    const CODES: [u16; 14] =
        [1000, 1001, 1008, 1011, 1012, 1013, 1014, 4400, 4401, 4403, 4408, 4409, 4429, 4503];

    /// Returns the meaning of a code without a reason or an error frame.
    fn of_code(code: u16) -> Self {
        match code {
            1000 => Self::Normal,
            1001 | 1012 => Self::GoingAway,
            1011 | 1013 | 1014 | 4503 => Self::Unavailable,
            1008 | 4401 | 4408 => Self::Rejected,
            4400 | 4403 => Self::Denied,
            4409 => Self::Replaced,
            4429 => Self::Busy,
            _ => Self::Network,
        }
    }

    /// Returns the meaning of a close frame from Usher. `code` is its code with `close_codes =
    /// "http"`, which distinguishes more cases.
    fn of_end(code: u16, is_recoverable: Option<bool>) -> Self {
        match (Self::of_code(code), is_recoverable) {
            (Self::Rejected | Self::Network, Some(false)) => Self::Denied,
            // Another credential helps, except for code 4400: there the request itself is wrong.
            (Self::Denied, Some(true)) if code != 4400 => Self::Rejected,
            (kind, _) => kind,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Replaced => "replaced",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Network => "network",
            Self::GoingAway => "going_away",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Normal => "stops",
            Self::Replaced => "stops: two clients would replace each other for ever",
            Self::Denied => "stops",
            Self::Rejected => {
                "fetches a new credential and connects at once; the second time in a row it backs \
                 off first"
            }
            Self::Busy => "backs off for longer, then connects",
            Self::Unavailable | Self::Network => "backs off, then connects",
            Self::GoingAway => {
                "backs off, then connects, within the time that the reason names \
                 (`retry_after_ms=N`)"
            }
        }
    }
}

/// Returns each code, and each close frame of Usher whose reason has another meaning than its code.
///
/// Leaves out frames that this client does not act on: it gets an error frame before every refusal
/// of a first message, and it sends no certificate.
fn close_frames() -> BTreeMap<CloseFrame, CloseKind> {
    let mut ends: Vec<(u16, u16, String, Option<bool>)> = Vec::new();
    for rejection in Rejection::catalogue() {
        let ((rfc, reason), (http, _)) =
            (rejection.close(CloseCodes::Rfc), rejection.close(CloseCodes::Http));
        let is_left_out =
            matches!(rejection, Rejection::FirstMessage(_) | Rejection::InvalidCertificate(_));
        // Reasons that are not fixed are for people, not for programs.
        if !is_left_out && reason != rejection.message() {
            ends.push((rfc.0, http.0, reason, Some(rejection.facts().recoverable)));
        }
    }
    for end in CloseReason::ALL {
        let (rfc, http) = (end.to_client(CloseCodes::Rfc), end.to_client(CloseCodes::Http));
        if let (Some((rfc, reason)), Some((http, _))) = (rfc, http) {
            ends.push((
                rfc.0,
                http.0,
                reason.to_owned(),
                end.facts().error.map(|error| error.recoverable),
            ));
        }
    }
    let mut frames = BTreeMap::new();
    for (rfc, http, reason, is_recoverable) in ends {
        let kind = CloseKind::of_end(http, is_recoverable);
        for code in [rfc, http] {
            // If several cases share a frame, the client acts on the most temporary one. A
            // permanent case says so in its error frame.
            let known = frames.entry((code, Some(reason.clone()))).or_insert(kind);
            *known = kind.max(*known);
        }
    }
    frames.retain(|(code, _), kind| *kind != CloseKind::of_code(*code));
    frames.extend(CloseKind::CODES.map(|code| ((code, None), CloseKind::of_code(code))));
    frames
}

/// Returns each kind with the prefixes of its frames, `CODE REASON`. The first prefix that matches
/// decides.
fn rows() -> Vec<(CloseKind, Vec<String>)> {
    // The row for 1008 without a known reason comes after all of its reasons.
    let policy = (CloseCode::POLICY.0, None);
    let mut rows: BTreeMap<Reverse<CloseKind>, Vec<String>> = BTreeMap::new();
    for ((code, reason), kind) in close_frames().into_iter().filter(|(frame, _)| *frame != policy) {
        let text = reason.map_or_else(|| code.to_string(), |reason| format!("{code} {reason}"));
        rows.entry(Reverse(kind)).or_default().push(text);
    }
    let mut rows: Vec<_> = rows.into_iter().map(|(Reverse(kind), texts)| (kind, texts)).collect();
    rows.push((CloseKind::of_code(policy.0), vec![policy.0.to_string()]));
    rows.push((CloseKind::Network, vec![String::new()]));
    rows
}

/// Returns `clients/js/src/codes.ts`.
pub fn typescript() -> String {
    let mut file = String::from(
        "// Generated from src/rejection/mod.rs and src/rejection/close.rs by \
         `USHER_WRITE_DOCS=1 cargo test --lib client_codes`.\n\n\
         import type { CloseKind } from './machine.js'\n\n\
         /** The meaning of a close code and reason. The first pattern that matches decides. */\n\
         export const KINDS: [CloseKind, RegExp][] = [\n",
    );
    for (kind, texts) in rows() {
        let pattern =
            if texts.len() == 1 { texts.concat() } else { format!("({})", texts.join("|")) };
        let _ = writeln!(file, "  ['{}', /^{pattern}/],", kind.name());
    }
    file.push_str("]\n");
    file
}

/// Returns the table of `clients/js/README.md`.
pub fn markdown() -> String {
    let mut table =
        String::from("| close code | reason | `kind` | the client |\n|---|---|---|---|\n");
    for ((code, reason), kind) in close_frames() {
        let reason = reason.map(|reason| format!("`{reason}`")).unwrap_or_default();
        let _ =
            writeln!(table, "| {code} | {reason} | `{}` | {} |", kind.name(), kind.consequence());
    }
    let other = CloseKind::Network;
    let _ = writeln!(table, "| any other | | `{}` | {} |", other.name(), other.consequence());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BEGIN: &str =
        "<!-- close codes: generated by USHER_WRITE_DOCS=1 cargo test --lib client_codes -->\n";
    const END: &str = "<!-- end of the close codes -->\n";

    fn hold(name: &str, wanted: impl Fn(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js").join(name);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = wanted(&committed);
        if std::env::var_os("USHER_WRITE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
            return;
        }
        assert!(
            committed == wanted,
            "clients/js/{name} differs from the tables; run \
             USHER_WRITE_DOCS=1 cargo test --lib client_codes"
        );
    }

    #[test]
    fn the_clients_codes_are_what_the_tables_say() {
        hold("src/codes.ts", |_| typescript());
    }

    #[test]
    fn the_clients_page_has_the_table_of_codes() {
        hold("README.md", |page| {
            let (before, rest) = page
                .split_once(BEGIN)
                .expect("clients/js/README.md has no start mark of the close codes");
            let (_, after) = rest
                .split_once(END)
                .expect("clients/js/README.md has no end mark of the close codes");
            format!("{before}{BEGIN}{}{END}{after}", markdown())
        });
    }

    #[test]
    fn a_reason_stands_in_the_table_only_where_it_says_more_than_its_code() {
        let frames = close_frames();
        let kind = |code, reason: &str| frames.get(&(code, Some(reason.to_owned()))).copied();
        assert_eq!(kind(1008, "Missing permission"), Some(CloseKind::Denied));
        assert_eq!(kind(1008, "Session replaced"), Some(CloseKind::Replaced));
        assert_eq!(kind(4403, "Invalid token"), Some(CloseKind::Rejected));
        assert_eq!(kind(1008, "Too many messages"), Some(CloseKind::Busy));
        assert_eq!(kind(1008, "Invalid token"), None);
    }

    #[test]
    fn the_first_pattern_that_fits_a_close_frame_says_what_it_means() {
        let rows = rows();
        for ((code, reason), kind) in close_frames() {
            // The format of the client, with a request id after the reason.
            let text = reason
                .map_or_else(|| format!("{code} "), |reason| format!("{code} {reason} (0bcb)"));
            let first = rows.iter().find(|(_, beginnings)| {
                beginnings.iter().any(|beginning| text.starts_with(beginning.as_str()))
            });
            assert_eq!(first.map(|(kind, _)| *kind), Some(kind), "{text}");
        }
        let is_plain = |text: &String| {
            text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-'))
        };
        assert!(
            rows.iter().all(|(_, texts)| texts.iter().all(is_plain)),
            "a prefix has a character that is special in a pattern"
        );
    }
}
