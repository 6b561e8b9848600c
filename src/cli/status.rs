//! `usher status`: shows the state of a running Usher.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::process::ExitCode;

use serde_json::Value;

use super::sessions::printable_or_dash;
use crate::admin_client;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the answer of the admin listener as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: admin_client::AdminArguments,
}

const LINES: [&str; 13] = [
    "version",
    "node",
    "nodes",
    "started",
    "stage",
    "connections",
    "unauthenticated",
    "sessions",
    "tickets",
    "revocations",
    "listeners",
    "upstreams",
    "config",
];

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let answer = arguments.admin.find()?.get("/status")?;
    let exit = answer.exit();
    if exit != Exit::Ok {
        eprintln!("usher: {}", answer.message());
    } else if arguments.json {
        println!("{}", answer.body);
    } else {
        print!("{}", page(&answer.body));
    }
    Ok(exit.into())
}

/// Formats the status, one line for each figure. Below `sessions` is a line for each route and
/// method with sessions.
fn page(status: &Value) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: &str| page.push_str(&format!("{name:<16} {value}\n"));
    for name in LINES {
        line(name, &plain(status.get(name)));
        if name == "sessions" {
            for tally in status.get("sessions_by").and_then(Value::as_array).into_iter().flatten() {
                let of = |key| plain(tally.get(key));
                line("", &format!("{} by {} on {}", of("sessions"), of("method"), of("route")));
            }
        }
    }
    for warning in status.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        line("warning", &plain(Some(warning)));
    }
    let of = |key| status.get("store").and_then(|store| store.get(key));
    match of("breaker").and_then(Value::as_str) {
        Some(breaker) => line("store", &format!("{}, breaker {breaker}", plain(of("kind")))),
        None => line("store", &plain(of("kind"))),
    }
    for (region, breaker) in of("regions").and_then(Value::as_object).into_iter().flatten() {
        line("", &format!("region {region}, breaker {}", plain(Some(breaker))));
    }
    for legacy in status.get("legacy").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| plain(legacy.get(key));
        line(
            "legacy",
            &format!(
                "{} uses of {} on {}, last {}",
                of("uses"),
                of("method"),
                of("route"),
                of("last_used")
            ),
        );
        let users = legacy.get("recent_users").and_then(Value::as_array).into_iter().flatten();
        line(
            "",
            &format!(
                "by {}",
                users.map(|user| printable_or_dash(Some(user))).collect::<Vec<_>>().join(", ")
            ),
        );
    }
    for issuer in status.get("issuers").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| plain(issuer.get(key));
        let fault = issuer
            .get("fault")
            .and_then(Value::as_str)
            .map(|fault| format!(", last fetch: {fault}"))
            .unwrap_or_default();
        let keys = match of("keys").as_str() {
            "1" => "1 key".to_owned(),
            count => format!("{count} keys"),
        };
        line(
            "issuer",
            &format!("{}, {keys}, {}, {} s old{fault}", of("name"), of("state"), of("age_seconds")),
        );
    }
    for verifier in status.get("verifiers").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| plain(verifier.get(key));
        line(
            "verifier",
            &format!(
                "{}, {}, breaker {}, {} requests in flight",
                of("name"),
                of("kind"),
                of("breaker"),
                of("asking")
            ),
        );
    }
    if let Some(acme) = status.get("acme").filter(|acme| acme.is_object()) {
        let of = |key| plain(acme.get(key));
        let state = match of("state").as_str() {
            "none" => "no certificate yet".to_owned(),
            state => {
                format!("{state}, expires {}, renewal {}", of("expires"), of("renewal"))
            }
        };
        line("acme", &format!("{}: {state}", of("domains")));
        if acme.get("fault").is_some_and(Value::is_string) {
            let detail = printable_or_dash(acme.get("detail"));
            line(
                "",
                &format!("failures: {}, next try at {}: {detail}", of("failures"), of("retry")),
            );
        }
    }
    for server in status.get("servers").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| plain(server.get(key));
        let fault = server
            .get("fault")
            .and_then(Value::as_str)
            .map(|fault| format!(" for {} s by fault: {fault}", of("away_seconds")))
            .unwrap_or_default();
        let state = of("state").replace('_', " ");
        line(
            "server",
            &format!("{} of {}, {state}{fault}, {} busy", of("server"), of("upstream"), of("busy")),
        );
    }
    for certificate in status.get("certificates").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| plain(certificate.get(key));
        let when = match of("state").as_str() {
            "expired" => format!("expired {}", of("expires")),
            "not_yet_valid" => "not valid yet".to_owned(),
            _ => format!("expires {}, {} days left", of("expires"), of("days_left")),
        };
        let mark = if of("state") == "ends_soon" { " (ends soon)" } else { "" };
        let ocsp = match of("ocsp_expires").as_str() {
            "-" => String::new(),
            until => format!(", OCSP until {until}"),
        };
        line("certificate", &format!("{} of {}, {when}{mark}{ocsp}", of("file"), of("purpose")));
    }
    page
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(all)) => {
            all.iter().map(|one| plain(Some(one))).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_has_a_line_for_each_figure() {
        let by = json!([
            { "route": "/ws", "method": "ticket", "sessions": 2 },
            { "route": "/open", "method": null, "sessions": 1 },
        ]);
        let legacy = json!([{
            "route": "/ws",
            "method": "header",
            "uses": 7,
            "last_used": "2026-11-21T10:00:00.000Z",
            "recent_users": ["ada", "b\u{7}"],
        }]);
        let issuers = json!([{
            "name": "main", "state": "stale", "keys": 2, "age_seconds": 700, "fault": "timeout",
        }]);
        let page = page(&json!({ "sessions": 3, "sessions_by": by, "tickets": null,
            "store": { "kind": "redis", "breaker": "open", "regions": { "eu": "closed" } },
            "legacy": legacy, "issuers": issuers,
            "servers": [
                { "upstream": "chat", "server": "http://a:1", "state": "slow_start", "busy": 4,
                  "fault": null, "away_seconds": null },
                { "upstream": "chat", "server": "http://b:1", "state": "ejected", "busy": 0,
                  "fault": "timeout", "away_seconds": 7 },
            ],
            "certificates": [
                { "purpose": "listener", "file": "cert.pem", "state": "ends_soon",
                  "expires": "2026-12-01T00:00:00.000Z", "days_left": 2,
                  "ocsp_expires": "2026-11-30T00:00:00.000Z" },
                { "purpose": "client_ca", "file": "clients.pem", "state": "expired",
                  "expires": "2026-11-01T00:00:00.000Z", "days_left": 0 },
            ],
            "acme": { "domains": ["a.example.com"], "state": "none", "expires": null,
                "renewal": null, "failures": 2, "fault": "refused", "detail": "no\u{7}",
                "retry": "2026-11-21T10:00:00.000Z" },
            "verifiers": [{ "name": "login", "kind": "http", "breaker": "open", "asking": 2 }] }));
        for wanted in [
            "sessions         3\n",
            "  2 by ticket on /ws\n",
            "  1 by - on /open\n",
            "tickets          -\n",
            "redis, breaker open\n",
            concat!(
                "legacy           7 uses of header on /ws, last 2026-11-21T10:00:00.000Z\n",
                "                 by ada, b\\u{7}\n",
            ),
            "  region eu, breaker closed\n",
            "verifier         login, http, breaker open, 2 requests in flight\n",
            "server           http://a:1 of chat, slow start, 4 busy\n",
            "server           http://b:1 of chat, ejected for 7 s by fault: timeout, 0 busy\n",
            concat!(
                "certificate      cert.pem of listener, expires 2026-12-01T00:00:00.000Z, ",
                "2 days left (ends soon), OCSP until 2026-11-30T00:00:00.000Z\n",
                "certificate      clients.pem of client_ca, expired 2026-11-01T00:00:00.000Z\n",
            ),
            "acme             a.example.com: no certificate yet\n",
            "  failures: 2, next try at 2026-11-21T10:00:00.000Z: no\\u{7}\n",
            "issuer           main, 2 keys, stale, 700 s old, last fetch: timeout\n",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }
}
