//! `usher sessions`: lists the open sessions of a running Usher.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::fmt::Write;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use serde_json::Value;

use crate::admin_client;
use crate::base::text::{self, encoded};
use crate::exit::Exit;
use crate::model::method::Method;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only sessions of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only sessions of this route, by its path in the configuration
    #[arg(long, value_name = "PATH")]
    route: Option<String>,
    /// Only sessions that authenticated with this method
    #[arg(
        long,
        value_name = "METHOD",
        value_parser = PossibleValuesParser::new(Method::ALL.map(Method::name)),
    )]
    method: Option<String>,
    /// Sessions of all nodes that share the store
    #[arg(long)]
    all: bool,
    /// The most sessions to list, the oldest first
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    limit: usize,
    /// Print the answer of the admin listener as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: admin_client::AdminArguments,
}

const COLUMNS: [(&str, &str); 8] = [
    ("NODE", "node"),
    ("USER", "user"),
    ("ROUTE", "route"),
    ("METHOD", "method"),
    ("SINCE", "since"),
    ("LAST ACTIVITY", "last_activity"),
    ("PEER", "peer"),
    ("ID", "id"),
];

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut target = format!("/sessions?limit={}", arguments.limit);
    for (name, value) in
        [("user", &arguments.user), ("route", &arguments.route), ("method", &arguments.method)]
    {
        if let Some(value) = value {
            let _ = write!(target, "&{name}={}", encoded(value));
        }
    }
    if arguments.all {
        target.push_str("&fleet=true");
    }
    let answer = arguments.admin.find()?.get(&target)?;
    let mut exit = answer.exit();
    if exit != Exit::Ok {
        eprintln!("usher: {}", answer.message());
    } else if arguments.json {
        println!("{}", answer.body);
    } else {
        let none = Vec::new();
        let sessions = answer.body.get("sessions").and_then(Value::as_array).unwrap_or(&none);
        let total = answer.body.get("total").and_then(Value::as_u64).unwrap_or(0);
        let columns: Vec<_> =
            COLUMNS.into_iter().filter(|(_, key)| arguments.all || *key != "node").collect();
        let head = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let rows = sessions.iter().map(|session| {
            columns.iter().map(|(_, key)| printable_or_dash(session.get(key))).collect()
        });
        print!("{}", table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
        println!("{} of {total} sessions listed", sessions.len());
    }
    if exit == Exit::Ok && arguments.all {
        for gap in gaps(&answer.body) {
            eprintln!("usher: {gap}");
            exit = Exit::Unavailable;
        }
    }
    Ok(exit.into())
}

/// Returns the reasons why the list is not complete.
fn gaps(answer: &Value) -> Vec<String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let nodes = answer.get("nodes").and_then(Value::as_array).into_iter().flatten();
    let silent = nodes.filter(|node| node.get("answered").and_then(Value::as_bool) == Some(false));
    let mut gaps: Vec<String> = silent
        .map(|node| format!("no answer from node {}", printable_or_dash(node.get("node"))))
        .collect();
    if answer.get("fleet").and_then(Value::as_str) == Some("unknown") {
        gaps.push(
            text(answer.get("message"))
                .unwrap_or_else(|| "the sessions of the other nodes are unknown".to_owned()),
        );
    }
    gaps
}

/// Formats a table. Each column but the last is as wide as its widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn printable_or_dash(value: Option<&Value>) -> String {
    text::printable(value.and_then(Value::as_str).unwrap_or("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::decoded;
    use serde_json::json;

    #[test]
    fn what_is_encoded_is_read_back() {
        for text in ["ada", "a b&c=d+e%", "/ws/{room}", "é\r\n\u{1b}"] {
            assert_eq!(decoded(&encoded(text)).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_table_lines_up_and_a_name_cannot_steer_the_terminal() {
        let name = printable_or_dash(Some(&json!("\u{1b}[2J\u{202e}")));
        assert_eq!(name, "\\u{1b}[2J\\u{202e}");
        let rows = [["USER", "ID"], ["ada", "1"], ["grâce", "2"]]
            .map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "USER   ID\nada    1\ngrâce  2\n");
        assert_eq!(printable_or_dash(Some(&Value::Null)), "-");
    }

    #[test]
    fn a_list_says_which_nodes_are_not_in_it() {
        let nodes = json!([
            { "node": "edge-1", "answered": true },
            { "node": "edge-2", "answered": false },
        ]);
        assert_eq!(
            gaps(&json!({ "fleet": "partial", "nodes": nodes })),
            ["no answer from node edge-2"]
        );
        assert_eq!(
            gaps(&json!({ "fleet": "unknown", "message": "the store does not answer" })),
            ["the store does not answer"]
        );
        assert!(gaps(&json!({ "fleet": "alone" })).is_empty());
    }
}
