//! `usher revoke`: closes sessions of a running Usher, and rejects their credentials.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::admin_client;
use crate::exit::Exit;
use crate::model::revocation::RevocationKind;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what")
    .required(true)
    .multiple(true)
    .args(["user", "session", "token_id", "issued_before"]))]
pub struct Arguments {
    /// All credentials of this user; with --issued-before, only the older ones
    #[arg(long, value_name = "USER", conflicts_with_all = ["session", "token_id"])]
    user: Option<String>,
    /// The id of a session in `usher sessions`, or of a login session in tokens
    #[arg(long, value_name = "ID", conflicts_with_all = ["token_id", "issued_before"])]
    session: Option<String>,
    /// The `jti` of a token
    #[arg(long, value_name = "JTI", conflicts_with = "issued_before")]
    token_id: Option<String>,
    /// All tokens issued before this time: RFC 3339, milliseconds since 1970, or now
    #[arg(long, value_name = "TIME")]
    issued_before: Option<String>,
    /// Only credentials of this issuer, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// When the revocation ends; by default after `revocation.ttl`
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print the answer of the admin listener as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: admin_client::AdminArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let order = order(&arguments);
    let answer = arguments.admin.find()?.post("/revoke", &order)?;
    let exit = answer.exit();
    if arguments.json {
        println!("{}", answer.body);
    } else if exit == Exit::Ok {
        println!("{}", carried_out(&answer.body));
    } else {
        eprintln!("usher: {}", answer.message());
    }
    Ok(exit.into())
}

fn carried_out(answer: &Value) -> String {
    let until = answer.get("until").and_then(Value::as_str).unwrap_or_default();
    let closed = answer.get("closed").and_then(Value::as_u64).unwrap_or(0);
    // With a shared store, `closed` counts only the sessions of this node, so the text says so.
    let is_fleet = answer.get("fleet").and_then(Value::as_bool) == Some(true);
    let (here, others) = match is_fleet {
        true => (" on this node", "; the other nodes are notified"),
        false => ("", ""),
    };
    // The id may be that of a login session, or mistyped.
    if closed == 0 && answer.get("kind").is_some_and(|kind| kind == RevocationKind::Session.name())
    {
        return format!(
            "no open session{here} has this id; tokens of a login session with it are refused \
             until {until}{others}"
        );
    }
    let sessions = if closed == 1 { "session" } else { "sessions" };
    format!("revoked until {until}; {closed} {sessions} closed{here}{others}")
}

fn order(arguments: &Arguments) -> Value {
    let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
    // A number means milliseconds. The admin listener parses all other values.
    let time = |value: &Option<String>| {
        value
            .as_ref()
            .map(|value| value.parse::<u64>().map_or_else(|_| json!(value), |millis| json!(millis)))
    };
    let fields = [
        ("user", text(&arguments.user)),
        ("session", text(&arguments.session)),
        ("token_id", text(&arguments.token_id)),
        ("issued_before", time(&arguments.issued_before)),
        ("issuer", text(&arguments.issuer)),
        ("until", time(&arguments.until)),
    ];
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_of_this_node_where_there_are_others() {
        let until = "2026-12-21T13:42:46.954Z";
        let alone = carried_out(&json!({ "until": until, "closed": 3 }));
        assert_eq!(alone, format!("revoked until {until}; 3 sessions closed"));
        let among_others = carried_out(&json!({ "until": until, "closed": 1, "fleet": true }));
        assert_eq!(
            among_others,
            format!(
                "revoked until {until}; 1 session closed on this node; the other nodes are notified"
            )
        );
        let no_session = carried_out(&json!({ "until": until, "closed": 0, "kind": "user" }));
        assert_eq!(no_session, format!("revoked until {until}; 0 sessions closed"));
    }

    #[test]
    fn an_unknown_session_is_named_as_one() {
        let until = "2026-12-21T13:42:46.954Z";
        let mut answer = json!({ "until": until, "closed": 0, "kind": "session" });
        let rest = format!("tokens of a login session with it are refused until {until}");
        assert_eq!(carried_out(&answer), format!("no open session has this id; {rest}"));
        answer["fleet"] = json!(true);
        assert_eq!(
            carried_out(&answer),
            format!(
                "no open session on this node has this id; {rest}; the other nodes are notified"
            )
        );
        answer["closed"] = json!(1);
        assert!(carried_out(&answer).contains("1 session closed on this node"));
    }
}
