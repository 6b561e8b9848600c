//! `usher reload`: makes a running Usher reload its configuration.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::admin_client;
use crate::config::diagnostic::FaultKind;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the answer of the admin listener as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: admin_client::AdminArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let answer = arguments.admin.find()?.post("/reload", &json!({}))?;
    let is_refused = answer.body.get("outcome").is_some_and(|outcome| outcome == "refused");
    let exit = if is_refused { refusal_exit(&answer.body) } else { answer.exit() };
    if arguments.json {
        println!("{}", answer.body);
    } else if is_refused {
        eprint!("{}", text(&answer.body, "text"));
        eprintln!("usher: {}", answer.message());
    } else if exit == Exit::Ok {
        print!("{}", applied(&answer.body));
    } else {
        eprintln!("usher: {}", answer.message());
    }
    Ok(exit.into())
}

/// Returns the same exit code as `usher check` and `usher run`.
fn refusal_exit(body: &Value) -> Exit {
    let errors = body.get("errors").and_then(Value::as_array).into_iter().flatten();
    let faults = errors.filter_map(|error| FaultKind::named(text(error, "kind")));
    faults.max().unwrap_or_default().into()
}

fn applied(body: &Value) -> String {
    let list = |key| {
        let items = body.get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut page = match list("changed") {
        changed if changed.is_empty() => {
            "applied: no changes in the file; keys and certificates were reloaded\n".to_owned()
        }
        changed => format!("applied: {changed}\n"),
    };
    for warning in body.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        page.push_str(&format!("warning: {}\n", text(warning, "message")));
    }
    match list("needs_restart") {
        restart if restart.is_empty() => {}
        restart => page.push_str(&format!("needs a restart: {restart}\n")),
    }
    page
}

fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_start_is_said_apart() {
        let body = json!({
            "changed": ["route", "threads"],
            "needs_restart": ["threads"],
            "warnings": [{ "message": "m" }],
        });
        assert_eq!(
            applied(&body),
            "applied: route, threads\nwarning: m\nneeds a restart: threads\n"
        );
        assert_eq!(
            applied(&json!({ "changed": [] })),
            "applied: no changes in the file; keys and certificates were reloaded\n"
        );
    }
}
