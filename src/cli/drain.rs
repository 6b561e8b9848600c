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
    let count = |key| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
    let seconds = |key| answer.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let (sessions, window) = (count("sessions"), seconds("window_seconds"));
    if answer.get("outcome").is_some_and(|outcome| outcome == "closing") {
        return match count("of") {
            0 => "no session is open".to_owned(),
            of => format!("closing {sessions} of {of} sessions over {window} s"),
        };
    }
    let delay = match seconds("delay_seconds") {
        delay if delay > 0.0 => format!(" after {delay} s"),
        _ => String::new(),
    };
    match sessions {
        0 => format!("stopping{delay}: no session is open"),
        1 => format!("stopping: 1 session closes over {window} s{delay}"),
        _ => format!("stopping: {sessions} sessions close over {window} s{delay}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_closes_and_when() {
        let stop = |sessions: usize, delay: f64| {
            carried_out(&json!({
                "outcome": "stopping", "sessions": sessions, "delay_seconds": delay,
                "window_seconds": 30.0,
            }))
        };
        assert_eq!(stop(3, 0.0), "stopping: 3 sessions close over 30 s");
        assert_eq!(stop(3, 5.0), "stopping: 3 sessions close over 30 s after 5 s");
        assert_eq!(stop(1, 0.0), "stopping: 1 session closes over 30 s");
        assert_eq!(stop(0, 0.0), "stopping: no session is open");
        assert_eq!(stop(0, 5.0), "stopping after 5 s: no session is open");
        let share = json!({ "outcome": "closing", "sessions": 2, "of": 10, "window_seconds": 1.5 });
        assert_eq!(carried_out(&share), "closing 2 of 10 sessions over 1.5 s");
        let none = json!({ "outcome": "closing", "sessions": 0, "of": 0, "window_seconds": 1.5 });
        assert_eq!(carried_out(&none), "no session is open");
    }
}
