//! Writes `docs/errors.md` from the tables of rejections and close reasons.
//!
//! A test compares the committed page with this function; `USHER_WRITE_DOCS=1 cargo test --lib
//! pages` writes it again.

use std::fmt::Write;

use super::Rejection;
use super::close::{CloseCodes, CloseReason};
use crate::ws::close_code::CloseCode;

pub fn errors_page() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Generated from `src/rejection/mod.rs` and `src/rejection/close.rs` by \
         `USHER_WRITE_DOCS=1 cargo test --lib pages`.\n\n\
         ## How a request is refused\n\n\
         `code` is in the body of the response; the label is the `outcome` in metrics, logs and \
         audit lines. Side: the side at fault.\n\
         Recoverable: the same client may succeed by trying again, perhaps with a new \
         credential.\n\n\
         After an early 101, and on routes with `reject_mode = \"close\"`, the client gets a close \
         code and a reason instead of the status;\n\
         `close_codes = \"http\"` sends the code in brackets. None: the rejection is always a \
         status, because it comes before the route of an upgrade is known, from an endpoint of \
         Usher, or is about a client that has left.\n\n\
         | code | status | close | label | side | recoverable | message to the client |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for rejection in Rejection::catalogue() {
        let facts = rejection.facts();
        let (status, message) = match rejection {
            Rejection::UpstreamDeclined(_) => {
                ("the upstream's".to_owned(), "the upstream's own response is passed on".to_owned())
            }
            ref other => (facts.status.as_u16().to_string(), other.message()),
        };
        let recoverable = match rejection {
            Rejection::Revoked(_) => "yes, unless the user is revoked",
            _ if facts.recoverable => "yes",
            _ => "no",
        };
        let ((rfc, reason), (http, _)) =
            (rejection.close(CloseCodes::Rfc), rejection.close(CloseCodes::Http));
        let close = match rejection.can_follow_101() {
            false => "none".to_owned(),
            true if rfc == http => format!("{rfc} {reason}"),
            true => format!("{rfc} ({http}) {reason}"),
        };
        let (code, label, side) = (facts.code, facts.label, facts.side.name());
        let _ = writeln!(
            page,
            "| `{code}` | {status} | {close} | `{label}` | {side} | {recoverable} | {message} |"
        );
    }
    page.push_str(
        "\n## `AUTH_FAILED`\n\n\
         Usher sends the more specific code. A client that knows one code for every failed login, \
         often `AUTH_FAILED`, maps these to it:\n",
    );
    let rejections = Rejection::catalogue();
    let mut codes: Vec<&str> = Vec::new();
    for code in rejections.iter().filter(|one| one.is_failed_login()).map(|one| one.facts().code) {
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    let codes: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let _ = writeln!(page, "{}.", codes.join(", "));
    page.push_str(
        "\n## Error frames\n\n\
         After the 101, a client that speaks the route's dialect gets an error frame before the \
         close frame ([live-auth.md](live-auth.md)):\n\
         `{\"type\":\"error\",\"id\",\"timestamp\",\"payload\":{\"code\",\"message\",\
         \"recoverable\",\"details\",\"request_id\"}}`.\n\
         `details` is an object and always has `status`, the HTTP status of the error.\n\n\
         | in `details` | type | with the codes |\n|---|---|---|\n\
         | `status` | number | all |\n\
         | `permission` | string, the missing permission | `MISSING_PERMISSION` |\n\
         | `method` | string, the method to use instead | `LEGACY_METHOD` |\n\
         | `attempts_left` | number, failed attempts before the session ends | refused renewals, \
         except `OTHER_SUBJECT` |\n\
         | `expires_at` | number, milliseconds since 1970 | `SESSION_EXPIRED` |\n",
    );
    page.push_str(
        "\n## How a session ends\n\n\
         The label is the `reason` in metrics and the `outcome` of the audit line \
         `session_ended`. If Usher ends the session, it sends each side\n\
         this close code and reason; in brackets the code of `close_codes = \"http\"`. \
         Recoverable: the client may reconnect by itself.\n\n\
         | label | error frame | recoverable | to the client | to the upstream |\n\
         |---|---|---|---|---|\n",
    );
    for reason in CloseReason::ALL {
        let facts = reason.facts();
        let http = reason.to_client(CloseCodes::Http).filter(|http| Some(*http) != facts.to_client);
        let http = http.map(|(code, _)| format!(" ({code})")).unwrap_or_default();
        let (code, recoverable) = match facts.error {
            None => ("none".to_owned(), ""),
            Some(error) => {
                (format!("`{}`", error.code), if error.recoverable { "yes" } else { "no" })
            }
        };
        let (client, upstream) = (close_cell(facts.to_client), close_cell(facts.to_upstream));
        let _ = writeln!(
            page,
            "| `{}` | {code} | {recoverable} | {client}{http} | {upstream} |",
            facts.label
        );
    }
    page
}

fn close_cell(close: Option<(CloseCode, &'static str)>) -> String {
    close.map_or_else(|| "no close frame".to_owned(), |(code, reason)| format!("{code} `{reason}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::faults::FirstMessageFault;
    use crate::model::faults::InvalidToken;
    use std::path::Path;

    fn hold(page: &str, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        if std::env::var_os("USHER_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/{name} differs from the tables; run USHER_WRITE_DOCS=1 cargo test --lib pages"
        );
    }

    #[test]
    fn the_errors_page_is_what_the_tables_say() {
        hold(&errors_page(), "errors.md");
    }

    #[test]
    fn the_catalogue_has_every_rejection() {
        // Add a new variant to `Rejection::catalogue` too.
        let number = |rejection: &Rejection| match rejection {
            Rejection::AmbiguousRequest(_) => 0,
            Rejection::HeadTooLarge => 1,
            Rejection::HeadTimeout => 2,
            Rejection::BodyTimeout => 41,
            Rejection::UpgradeMethod => 3,
            Rejection::UpgradeMalformed(_) => 4,
            Rejection::UpgradeVersion => 5,
            Rejection::NoRoute => 6,
            Rejection::ForbiddenOrigin => 7,
            Rejection::MissingCredential => 8,
            Rejection::InvalidTicket(_) => 10,
            Rejection::TicketBinding(_) => 11,
            Rejection::InvalidRequest(_) => 12,
            Rejection::MethodNotAllowed { .. } => 13,
            Rejection::PermissionDenied => 14,
            Rejection::RateLimited { .. } => 15,
            Rejection::StoreUnavailable => 16,
            Rejection::UpstreamUnavailable => 17,
            Rejection::UpstreamTimeout => 18,
            Rejection::UpstreamProtocol(_) => 19,
            Rejection::UpstreamDeclined(_) => 20,
            Rejection::TooManyConnections => 21,
            Rejection::Draining => 22,
            Rejection::ClientGone => 23,
            Rejection::Internal => 24,
            Rejection::FirstMessage(FirstMessageFault::NotAuth) => 25,
            Rejection::FirstMessage(FirstMessageFault::MissingToken) => 26,
            Rejection::FirstMessage(FirstMessageFault::TooBig) => 27,
            Rejection::FirstMessage(FirstMessageFault::Timeout) => 28,
            Rejection::FirstMessage(FirstMessageFault::Protocol) => 29,
            Rejection::Revoked(_) => 30,
            Rejection::TooManySessions => 31,
            Rejection::TooManyUpgrades { .. } => 44,
            Rejection::TooManyAddressSessions => 45,
            Rejection::MissingOrigin => 32,
            Rejection::InvalidCertificate(_) => 33,
            Rejection::MissingPermission(_) => 34,
            Rejection::IssuerKeysUnavailable => 35,
            Rejection::LegacyMethod(_) => 36,
            Rejection::VerifierUnavailable(_) => 37,
            Rejection::FirstMessage(FirstMessageFault::TwoCredentials) => 38,
            Rejection::InvalidToken(InvalidToken::Bound) => 39,
            Rejection::InvalidToken(_) => 9,
            Rejection::UnfitClaim(_) => 40,
            Rejection::TicketsOff(_) => 42,
            Rejection::PathSpelling(_) => 43,
        };
        let mut numbers: Vec<usize> = Rejection::catalogue().iter().map(number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..46).collect::<Vec<_>>());
    }
}
