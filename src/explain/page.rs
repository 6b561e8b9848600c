//! Prints an explanation as text: one line for each check, the verdict at the end.

use std::fmt::Write;

use serde_json::Value;

use super::report::{Explanation, Mark, Step};
use crate::base::text::printable;

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[1;31m";
const YELLOW: &str = "\u{1b}[33m";
const DIM: &str = "\u{1b}[2m";

/// Writes text with or without colours.
struct PageWriter {
    text: String,
    is_coloured: bool,
}

pub fn page(told: &Explanation, is_coloured: bool) -> String {
    let mut pen = PageWriter { text: String::new(), is_coloured };
    pen.text.push_str(&format!("{}\n\n", told.url));
    for step in told.steps.iter().filter(|step| !step.is_quiet) {
        pen.step(step);
    }
    pen.text.push('\n');
    pen.verdict(told);
    for warning in &told.warnings {
        pen.line(YELLOW, "warning", warning);
    }
    pen.text
}

impl PageWriter {
    fn step(&mut self, step: &Step) {
        let (colour, mark) = match step.result {
            Mark::Ok => (GREEN, "ok"),
            Mark::Fail => (RED, "FAIL"),
            Mark::Skipped => (DIM, "-"),
            Mark::Note => ("", ""),
        };
        let mark = self.painted(colour, &format!("{mark:<4}"));
        let detail = if step.result == Mark::Skipped {
            self.painted(DIM, &step.detail)
        } else {
            step.detail.clone()
        };
        self.text.push_str(format!("{mark}  {:<12} {detail}", step.name).trim_end());
        self.text.push('\n');
    }

    fn verdict(&mut self, told: &Explanation) {
        let verdict = &told.verdict;
        let status = verdict.status.map(|status| status.to_string());
        match verdict.let_in {
            None => {
                let status = status.map(|status| format!("{status}; ")).unwrap_or_default();
                self.line(YELLOW, "undecided", &format!("{status}{}", verdict.message));
            }
            Some(true) => {
                self.line(
                    GREEN,
                    "let in",
                    &format!(
                        "{}{}",
                        status.map(|status| format!("{status}, ")).unwrap_or_default(),
                        verdict.message
                    ),
                );
            }
            Some(false) => {
                let close = match (verdict.close_code, &verdict.close_reason) {
                    (Some(code), Some(reason)) => format!(", then close {code} \"{reason}\""),
                    _ => String::new(),
                };
                let code = verdict.code.unwrap_or_default();
                let answer = status.map(|status| format!("{status} {code}: ")).unwrap_or_default();
                self.line(RED, "refused", &format!("{answer}{}{close}", verdict.message));
            }
        }
        if let Some(detail) = verdict.detail.as_ref().filter(|detail| **detail != verdict.message) {
            self.line("", "in the log", &printable(detail));
        }
        if let Some(advice) = &verdict.advice {
            self.line("", "to do", advice);
        }
        if let Some(upstream) = &told.upstream {
            self.line(
                "",
                "upstream",
                &format!("{} gets {}", upstream.name, upstream.headers.join(", ")),
            );
            if !upstream.removed.is_empty() {
                self.line("", "", &format!("and does not get {}", upstream.removed.join(", ")));
            }
            if let Some(Value::Object(context)) = &upstream.context {
                for (index, (name, value)) in context.iter().enumerate() {
                    self.line(
                        "",
                        if index == 0 { "context" } else { "" },
                        &format!("{name:<12} {}", words(value)),
                    );
                }
            }
        }
    }

    fn line(&mut self, colour: &str, head: &str, rest: &str) {
        let head = self.painted(colour, &format!("{head:<10}"));
        let _ = writeln!(self.text, "{head}  {rest}");
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.is_coloured && !colour.is_empty() {
            format!("{colour}{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}
