//! The audit log: user, event, outcome and time, as one JSON object for each line.
//!
//! Lines are only appended. Each upgrade ends in exactly one line whose event is `upgrade_rejected`
//! or `session_ended`; both have the request id that the client received. No line has a credential.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::line_sink::LineSink;
use super::{InstallError, LogKind, log_file};
use crate::model::trace_context::TraceId;

/// Every event of the audit log, in alphabetical order.
pub const EVENTS: [&str; 45] = [
    "acme_certificate",
    "acme_failed",
    "admin_login",
    "admin_order",
    "bypass_allowed",
    "bypass_used",
    "certificates_revoked",
    "config_applied",
    "config_refused",
    "drain_announced",
    "drain_finished",
    "drain_forced",
    "drain_started",
    "hand_over_failed",
    "handed_over",
    "issuer_keys",
    "issuer_keys_restored",
    "keyring_loaded",
    "keyring_rotated",
    "keyring_rotation_failed",
    "limit_reached",
    "ready",
    "reauth_asked",
    "reauth_refused",
    "reauth_renewed",
    "refusals_summarised",
    "replacement_ended",
    "replacement_not_started",
    "request_rejected",
    "revalidated",
    "revocation_refused",
    "revoked",
    "session_ended",
    "session_started",
    "share_drain_started",
    "successor_lost",
    "taken_over",
    "ticket_expired",
    "ticket_issued",
    "ticket_lost",
    "ticket_redeem_refused",
    "ticket_redeemed",
    "ticket_refused",
    "ticket_validated",
    "upgrade_rejected",
];

pub struct AuditLog {
    sink: LineSink,
    path: PathBuf,
}

/// One line. Fields without a value are left out.
#[derive(Debug, Default, Serialize)]
pub struct AuditLine<'a> {
    pub time: String,
    pub event: &'static str,
    /// `accepted`, or the label of the rejection, fault or close reason.
    pub outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// Half of the ticket's hash: the same in every line about the ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// The `jti`, the login session and the `iat` of a token. In a line about a revocation, they
    /// are those of the revoked token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_issued_at: Option<String>,
    /// The id of a revocation, and when the first node received it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordered_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The side at fault for a rejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The number of lines that this one summarises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_client: Option<TrafficLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_upstream: Option<TrafficLine>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct TrafficLine {
    pub bytes: u64,
    pub messages: u64,
}

impl<'a> AuditLine<'a> {
    /// Returns a line about one request.
    pub fn of_request(
        event: &'static str,
        outcome: &'a str,
        request_id: &'a str,
        peer: IpAddr,
    ) -> Self {
        Self { event, outcome, request_id: Some(request_id), peer: Some(peer), ..Self::default() }
    }

    /// Returns a line about this process, with a detail.
    pub fn of_process(event: &'static str, outcome: &'a str, detail: impl Into<String>) -> Self {
        Self { event, outcome, detail: Some(detail.into()), ..Self::default() }
    }
}

impl AuditLog {
    /// Opens the file. Only the owner can read a new file; an existing file keeps its mode.
    pub fn open(path: &Path, capacity: usize) -> Result<Self, InstallError> {
        let file = log_file::open(LogKind::Audit, path)?;
        let sink = LineSink::start("usher-audit", capacity, file)
            .map_err(|why| InstallError::Thread { purpose: "the audit log", why })?;
        Ok(Self { sink, path: path.to_owned() })
    }

    /// Opens the path again: the file may have been moved away.
    pub fn reopen(&self) {
        log_file::reopen(LogKind::Audit, &self.path, &self.sink);
    }

    pub fn write(&self, line: &AuditLine<'_>) {
        match serde_json::to_vec(line) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                self.sink.push(bytes);
            }
            Err(_) => self.sink.count_dropped(),
        }
    }

    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    pub fn flush(&self, patience: Duration) -> bool {
        self.sink.flush(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log_events::sources;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    /// The events that are not literals where their lines are made.
    const RENEWALS: [&str; 3] = ["reauth_asked", "reauth_refused", "reauth_renewed"];

    #[test]
    fn the_list_of_events_is_what_the_source_writes() {
        let mut found = BTreeSet::from(RENEWALS.map(str::to_owned));
        for path in sources() {
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.split("\n#[cfg(test)]").next().unwrap();
            let audits = text.contains("AuditLine") || text.contains("RefusedRequest");
            for start in ["of_process(", "of_request(", "audit_line(", " event: "] {
                let calls = text.split(start).skip(1).filter(|_| audits);
                let names = calls.filter_map(|rest| rest.trim_start().strip_prefix('"'));
                found.extend(names.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
            }
        }
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), EVENTS);
    }

    #[test]
    fn the_file_is_private_and_only_appended_to() {
        let path = std::env::temp_dir()
            .join(format!("usher-audit-{}", crate::model::request_id::RequestId::random()));
        for event in ["ready", "drain_started"] {
            let audit = AuditLog::open(&path, 8).unwrap();
            audit.write(&AuditLine {
                event,
                outcome: "accepted",
                user: Some("a\n\"b\""),
                ..AuditLine::default()
            });
            assert!(audit.flush(Duration::from_secs(30)));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mode, 0o600);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[1]["event"], &lines[1]["user"]),
            (&"drain_started".into(), &"a\n\"b\"".into())
        );
        assert!(lines[0].get("session_id").is_none());
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let path = std::env::temp_dir()
            .join(format!("usher-audit-{}", crate::model::request_id::RequestId::random()));
        let moved = path.with_extension("1");
        let audit = AuditLog::open(&path, 8).unwrap();
        let write = |event| {
            audit.write(&AuditLine { event, ..AuditLine::default() });
            assert!(audit.flush(Duration::from_secs(30)));
        };
        write("first");
        std::fs::rename(&path, &moved).unwrap();
        write("second");
        audit.reopen();
        write("third");
        let events = |path: &Path| std::fs::read_to_string(path).unwrap().matches("event").count();
        assert_eq!((events(&moved), events(&path)), (2, 1));
        // A folder in the place of the file cannot be opened.
        std::fs::rename(&path, path.with_extension("2")).unwrap();
        std::fs::create_dir(&path).unwrap();
        audit.reopen();
        write("fourth");
        assert_eq!(events(&path.with_extension("2")), 2, "the file that was open is kept");
        let _ = (std::fs::remove_dir(&path), std::fs::remove_file(path.with_extension("2")));
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&moved));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let path = Path::new("/nowhere/at/all/audit.jsonl");
        let Err(InstallError::LogFile { path: named, .. }) = AuditLog::open(path, 8) else {
            panic!("the file was opened");
        };
        assert_eq!(named, path);
    }
}
