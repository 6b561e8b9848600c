//! `usher drain`: stops a running Usher in good order, or closes a share of its sessions.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::admin_client;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Close this share of the sessions, chosen at random, and go on
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: Option<u8>,
    /// Close only sessions of this route, by its path in the configuration, and go on
    #[arg(long, value_name = "PATH")]
    route: Option<String>,
    /// Print the answer of the admin listener as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: admin_client::AdminArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut order = Map::new();
    if let Some(percent) = arguments.percent {
        order.insert("percent".to_owned(), json!(percent));
    }
    if let Some(route) = arguments.route {
        order.insert("route".to_owned(), json!(route));
    }
    let answer = arguments.admin.find()?.post("/drain", &Value::Object(order))?;
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
    let number = |key| answer.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let (sessions, window) = (number("sessions"), number("window_seconds"));
    if answer.get("outcome").is_some_and(|outcome| outcome == "closing") {
        return format!("closing {sessions} of {} sessions over {window} s", number("of"));
    }
    let delay = match number("delay_seconds") {
        delay if delay > 0.0 => format!(" after {delay} s"),
        _ => String::new(),
    };
    format!("stopping: {sessions} sessions close over {window} s{delay}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_closes_and_when() {
        let stop = |delay: f64| {
            json!({ "outcome": "stopping", "sessions": 3, "delay_seconds": delay,
                    "window_seconds": 30.0 })
        };
        assert_eq!(carried_out(&stop(0.0)), "stopping: 3 sessions close over 30 s");
        assert_eq!(carried_out(&stop(5.0)), "stopping: 3 sessions close over 30 s after 5 s");
        let share = json!({ "outcome": "closing", "sessions": 2, "of": 10, "window_seconds": 1.5 });
        assert_eq!(carried_out(&share), "closing 2 of 10 sessions over 1.5 s");
    }
}
