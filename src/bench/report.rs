//! The report of a run: one target or two, as text, JSON or HTML.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::compare::{self, Ratio, Round};
use super::facts::{CpuTime, RunFacts};
use super::html;
use super::tally::Tally;

/// The results of one target.
pub struct Measured {
    /// The URL, without values of its query.
    pub url: String,
    pub tally: Tally,
    pub cpu: CpuTime,
}

/// The results of the other target, and the rounds of both.
pub struct Compared {
    pub other: Measured,
    pub rounds: Vec<Round>,
    pub ratios: Vec<Ratio>,
}

/// The part of a report that only the mode `idle` has.
pub struct MemoryReport {
    pub table: String,
    pub fields: Map<String, Value>,
    /// Connections that the server closed while they were held.
    pub lost: u64,
}

pub struct Report {
    pub facts: RunFacts,
    pub first: Measured,
    pub compared: Option<Compared>,
    pub memory: Option<MemoryReport>,
}

impl Report {
    /// Returns the targets with their letters.
    pub fn targets(&self) -> impl Iterator<Item = (&'static str, &Measured)> {
        let other = self.compared.as_ref().map(|compared| ("B", &compared.other));
        std::iter::once(("A", &self.first)).chain(other)
    }

    pub fn is_partial(&self) -> bool {
        self.targets().any(|(_, target)| target.tally.is_partial)
    }

    /// Returns the number of connections that failed or were lost.
    pub fn failed(&self) -> u64 {
        let failed: u64 = self.targets().map(|(_, target)| target.tally.failed()).sum();
        failed + self.memory.as_ref().map_or(0, |memory| memory.lost)
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(memory) = &self.memory {
            let _ = writeln!(text, "{}", memory.table);
        }
        for (letter, target) in self.targets() {
            if self.compared.is_some() {
                let _ = writeln!(text, "{letter}: {}\n", target.url);
            }
            let _ = write!(text, "{}{}", target.tally.table(), cpu_line(target));
            let plot = target.tally.plot();
            if self.memory.is_none() && !plot.is_empty() {
                let _ = write!(text, "\n{plot}");
            }
            if self.compared.is_some() {
                text.push('\n');
            }
        }
        if let Some(Compared { rounds, ratios, .. }) = &self.compared {
            text.push_str(&compare::table(ratios, rounds.len()));
        }
        text
    }

    pub fn json(&self) -> Value {
        let mut object = self.facts.json();
        match &self.compared {
            None => object.extend(target_json(&self.first)),
            Some(Compared { other, rounds, ratios }) => {
                object.insert("rounds".to_owned(), json!(rounds.len()));
                object.insert("partial".to_owned(), json!(self.is_partial()));
                object.insert("a".to_owned(), Value::Object(target_json(&self.first)));
                object.insert("b".to_owned(), Value::Object(target_json(other)));
                object.insert("ratios".to_owned(), compare::json(ratios));
            }
        }
        object.extend(self.memory.iter().flat_map(|memory| memory.fields.clone()));
        Value::Object(object)
    }

    pub fn html(&self) -> String {
        html::page(self)
    }
}

fn target_json(target: &Measured) -> Map<String, Value> {
    let Measured { url, tally, cpu } = target;
    let mut object = tally.json();
    object.insert("target".to_owned(), json!(url));
    object.insert("client_cpu_ms".to_owned(), json!(cpu.client.as_millis() as u64));
    let server = cpu.server.map(|time| time.as_millis() as u64);
    object.insert("server_cpu_ms".to_owned(), json!(server));
    object
}

/// Returns the CPU time as a line.
fn cpu_line(target: &Measured) -> String {
    format!("CPU time: {}\n", cpu_text(target))
}

/// Returns the CPU time of both sides, in all and for each connection or message.
pub fn cpu_text(Measured { tally, cpu, .. }: &Measured) -> String {
    let count = tally.count(tally.main_phase());
    let unit = if tally.message_bytes.is_some() { "message" } else { "connection" };
    let side = |name: &str, seconds: f64| {
        let each = match count {
            0 => String::new(),
            count => format!(" ({:.1} µs for each {unit})", seconds * 1e6 / count as f64),
        };
        format!("{name} {seconds:.2} s{each}")
    };
    let client = side("client", cpu.client.as_secs_f64());
    match cpu.server {
        Some(time) => format!("{client}, server {}", side("", time.as_secs_f64()).trim_start()),
        None => format!("{client}; --pid adds that of the server"),
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::super::client::{AttemptPhase, PhaseTimes};
    use super::super::load::Pace;
    use super::super::tally::Failure;
    use super::*;
    use crate::base::clock::Now;

    fn tally(millis: u64) -> Tally {
        let (start, mut tally) = (Now::read().mono, Tally::new().unwrap());
        for number in 1..=200 {
            let mut times = PhaseTimes::begin(None, start);
            times.lap(AttemptPhase::Connect, start + Duration::from_micros(90));
            times.lap(
                AttemptPhase::Upgrade,
                start + Duration::from_micros(millis * 1000 + number * number),
            );
            times.finish();
            tally.connection(&times, None);
        }
        let times = PhaseTimes::begin(None, start);
        tally.connection(&times, Some(Failure::Upgrade(Some(429))));
        tally.elapsed = Duration::from_secs(1);
        tally
    }

    fn measured(url: &str, tally: Tally) -> Measured {
        let client = Duration::from_millis(40);
        let cpu = CpuTime { client, server: Some(Duration::from_millis(20)) };
        Measured { url: url.to_owned(), tally, cpu }
    }

    /// Returns a report whose texts have characters that HTML would take for its own.
    pub fn known(is_compared: bool) -> Report {
        let facts = RunFacts {
            mode: "connect",
            pace: Some(Pace::Closed),
            arguments: vec!["bench".to_owned(), "--origin".to_owned(), "<b>&\"'".to_owned()],
            started: "2026-11-29T12:00:00Z".to_owned(),
            cpus: 2,
        };
        let rounds: Vec<_> = (0..8).map(|n| Round { a: tally(5), b: tally(6 + n % 2) }).collect();
        let sum = |of: fn(&Round) -> &Tally| {
            let mut sum = Tally::new().unwrap();
            rounds.iter().for_each(|round| sum.append(of(round)));
            sum
        };
        let first = measured("ws://localhost/<x>", sum(|round| &round.a));
        let other = measured("ws://localhost:81/&", sum(|round| &round.b));
        let ratios = compare::ratios(&rounds, false);
        let compared = is_compared.then_some(Compared { other, rounds, ratios });
        Report { facts, first, compared, memory: None }
    }

    #[test]
    fn the_text_has_the_table_the_plot_and_the_ratios() {
        let text = known(false).text();
        for part in [
            "1600 of 1608 connections",
            "failed: upgrade 429",
            "total, up to ms",
            "CPU time: client 0.04 s (25.0 µs for each connection), server 0.02 s",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let text = known(true).text();
        for part in [
            "A: ws://localhost/<x>\n",
            "B: ws://localhost:81/&\n",
            "B / A in 8 rounds",
            "total p50",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_names_its_format_and_targets() {
        let json = known(false).json();
        assert_eq!((&json["format"], &json["target"]), (&json!(1), &json!("ws://localhost/<x>")));
        assert_eq!((&json["loop"], &json["server_cpu_ms"]), (&json!("closed"), &json!(20)));
        let json = known(true).json();
        assert_eq!((&json["rounds"], &json["a"]["opened"]), (&json!(8), &json!(1600)));
        let ratios = json["ratios"].as_array().unwrap();
        let measures: Vec<_> = ratios.iter().map(|row| row["measure"].as_str().unwrap()).collect();
        assert_eq!(
            measures,
            ["per_second", "connect p50", "upgrade p50", "total p50", "total p90", "total p99"]
        );
        let of = |measure: &str| ratios.iter().find(|row| row["measure"] == measure).unwrap();
        assert_eq!(of("connect p50")["is_noise"], json!(true));
        assert_eq!(of("total p50")["is_noise"], json!(false));
    }
}
