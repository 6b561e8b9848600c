//! The results of one target, as a table for people and as JSON for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde_json::{Map, Value, json};

use super::client::{AttemptPhase, PhaseTimes};
use super::plot;

/// The longest time in a histogram, in microseconds. Values have three significant digits.
const LONGEST: u64 = 3_600_000_000;
pub const PERCENTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The reason why a connection failed, with the HTTP status or the close code if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Connect,
    Tls,
    /// With the status of an answer that was not a success.
    Ticket(Option<u16>),
    /// With the status of an answer other than 101; `None` if the answer was not HTTP.
    Upgrade(Option<u16>),
    /// With the code of the close frame.
    Auth(Option<u16>),
    Echo,
    /// A timeout in this phase.
    Timeout(AttemptPhase),
}

impl Failure {
    /// Returns what the user can try, for failures with a likely cause.
    fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::Timeout(AttemptPhase::Echo) | Self::Echo => {
                "the endpoint did not echo the first message: add --no-echo if it does not echo, \
                 or --auth message if it waits for a credential"
            }
            Self::Timeout(AttemptPhase::Message) => {
                "the endpoint stopped echoing: check that the backend is an echo server"
            }
            Self::Timeout(AttemptPhase::Auth) => {
                "the first message was not answered: add --no-ack if the endpoint does not \
                 answer it, or choose its --preset"
            }
            Self::Timeout(AttemptPhase::Upgrade) => {
                "the upgrade was not answered: check the upstream, or raise --timeout"
            }
            Self::Timeout(AttemptPhase::Connect | AttemptPhase::Tls) | Self::Connect => {
                "cannot connect to the endpoint: check its address, and whether it uses TLS \
                 (wss) or not (ws)"
            }
            Self::Timeout(AttemptPhase::Ticket) => {
                "the ticket request was not answered: check --ticket-path, or raise --timeout"
            }
            Self::Auth(Some(1008)) => "the credential was rejected: check the log of the server",
            Self::Ticket(Some(429)) => {
                "tickets are limited for each user and address: raise [tickets] rate_per_user"
            }
            Self::Ticket(Some(401)) | Self::Upgrade(Some(401)) => {
                "the token was rejected: `usher explain` shows why"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, number) = match self {
            Self::Connect => ("connect", None),
            Self::Tls => ("tls", None),
            Self::Ticket(status) => ("ticket", *status),
            Self::Upgrade(status) => ("upgrade", *status),
            Self::Auth(code) => ("auth", *code),
            Self::Echo => ("echo", None),
            Self::Timeout(phase) => return f.pad(&format!("timeout {}", phase.word())),
        };
        match number {
            Some(number) => f.pad(&format!("{word} {number}")),
            None => f.pad(word),
        }
    }
}

pub struct Tally {
    /// The histograms in the order of `AttemptPhase::ALL`.
    phases: Vec<Histogram<u64>>,
    failures: BTreeMap<Failure, u64>,
    pub attempts: u64,
    /// The TLS handshakes that resumed an earlier session, including those for tickets.
    pub resumed: u64,
    /// Whether the user stopped the run early.
    pub is_partial: bool,
    /// The duration of the part for which throughput is computed.
    pub elapsed: Duration,
    /// The bytes of each message. Set if messages are measured.
    pub message_bytes: Option<usize>,
}

impl Tally {
    pub fn new() -> Result<Self, CreationError> {
        let phases = AttemptPhase::ALL
            .iter()
            .map(|_| Histogram::new_with_bounds(1, LONGEST, 3))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            phases,
            failures: BTreeMap::new(),
            attempts: 0,
            resumed: 0,
            is_partial: false,
            elapsed: Duration::ZERO,
            message_bytes: None,
        })
    }

    /// Adds one connection: the phases that it completed, and why it failed, if it did.
    pub fn connection(&mut self, times: &PhaseTimes, failure: Option<Failure>) {
        self.attempts += 1;
        self.resumed += times.resumed;
        for (phase, time) in &times.times {
            self.time(*phase, *time);
        }
        if let Some(failure) = failure {
            self.fail(failure);
        }
    }

    pub fn time(&mut self, phase: AttemptPhase, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        if let Some(histogram) = self.phases.get_mut(phase as usize) {
            histogram.saturating_record(micros);
        }
    }

    pub fn fail(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.phases.iter_mut().zip(&other.phases) {
            // Both have the same bounds, so this cannot fail.
            let _ = mine.add(theirs);
        }
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.attempts += other.attempts;
        self.resumed += other.resumed;
        self.is_partial |= other.is_partial;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.message_bytes = self.message_bytes.or(other.message_bytes);
    }

    /// Returns the plot of the main phase.
    pub fn plot(&self) -> String {
        let main = self.main_phase();
        let mut seen = self.seen().filter(|(phase, _)| *phase == main);
        seen.next().map(|(_, histogram)| plot::text(main.word(), histogram)).unwrap_or_default()
    }

    /// Marks the run as stopped early.
    pub fn stop(&mut self, elapsed: Duration) {
        self.is_partial = true;
        self.elapsed = elapsed;
    }

    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub fn count(&self, phase: AttemptPhase) -> u64 {
        self.phases.get(phase as usize).map_or(0, Histogram::len)
    }

    /// Returns the phases that have at least one value.
    pub fn seen(&self) -> impl Iterator<Item = (AttemptPhase, &Histogram<u64>)> {
        AttemptPhase::ALL
            .into_iter()
            .zip(&self.phases)
            .filter(|(_, histogram)| !histogram.is_empty())
    }

    /// Returns the phase that the load is made of.
    pub fn main_phase(&self) -> AttemptPhase {
        if self.message_bytes.is_some() { AttemptPhase::Message } else { AttemptPhase::Total }
    }

    /// Returns this quantile of a phase in microseconds, or 0 without a value.
    pub fn quantile(&self, phase: AttemptPhase, quantile: f64) -> f64 {
        let histogram = self.phases.get(phase as usize).filter(|histogram| !histogram.is_empty());
        histogram.map_or(0.0, |histogram| histogram.value_at_quantile(quantile) as f64)
    }

    /// Adds the results of a later round.
    pub fn append(&mut self, later: &Self) {
        let elapsed = self.elapsed + later.elapsed;
        self.merge(later);
        self.elapsed = elapsed;
    }

    pub fn failures(&self) -> &BTreeMap<Failure, u64> {
        &self.failures
    }

    pub fn per_second(&self) -> f64 {
        let phase = self.main_phase();
        if self.elapsed.is_zero() {
            0.0
        } else {
            self.count(phase) as f64 / self.elapsed.as_secs_f64()
        }
    }

    pub fn table(&self) -> String {
        let mut text = format!("{:<8} {:>9}", "ms", "count");
        for name in PERCENTILES.iter().map(|(name, _)| *name).chain(["max"]) {
            let _ = write!(text, " {name:>10}");
        }
        for (phase, histogram) in self.seen() {
            let _ = write!(text, "\n{:<8} {:>9}", phase.word(), histogram.len());
            for micros in PERCENTILES
                .iter()
                .map(|(_, quantile)| histogram.value_at_quantile(*quantile))
                .chain([histogram.max()])
            {
                let _ = write!(text, " {:>10.3}", micros as f64 / 1000.0);
            }
        }
        let _ = write!(text, "\n\n{}", self.summary());
        if self.resumed > 0 {
            let _ = writeln!(text, "{} TLS handshakes resumed a session", self.resumed);
        }
        if self.is_partial {
            text.push_str("stopped early: the results are incomplete\n");
        }
        for (failure, count) in &self.failures {
            let _ = writeln!(text, "failed: {failure:<12} {count:>9}");
        }
        let remedies: BTreeSet<_> =
            self.failures.keys().filter_map(|failure| failure.remedy()).collect();
        for remedy in remedies {
            let _ = writeln!(text, "  help: {remedy}");
        }
        text
    }

    /// Returns what was opened or sent, and how fast.
    pub fn summary(&self) -> String {
        let (seconds, rate) = (self.elapsed.as_secs_f64(), self.per_second());
        let (opened, attempts) = (self.count(AttemptPhase::Total), self.attempts);
        let Some(bytes) = self.message_bytes else {
            return format!(
                "{opened} of {attempts} connections in {seconds:.2} s, {rate:.1} a second\n"
            );
        };
        let mebibytes = rate * bytes as f64 / f64::from(1 << 20);
        let messages = self.count(AttemptPhase::Message);
        format!(
            "{messages} messages of {bytes} B and their echoes on {opened} of {attempts} \
             connections in {seconds:.2} s: {rate:.1} a second, {mebibytes:.2} MiB/s each way\n"
        )
    }

    pub fn json(&self) -> Map<String, Value> {
        let mut phases = Map::new();
        for (phase, histogram) in self.seen() {
            let mut row = Map::new();
            row.insert("count".to_owned(), json!(histogram.len()));
            for (name, quantile) in PERCENTILES {
                row.insert(
                    format!("{}_us", name.replace('.', "_")),
                    json!(histogram.value_at_quantile(quantile)),
                );
            }
            row.insert("max_us".to_owned(), json!(histogram.max()));
            phases.insert(phase.word().to_owned(), Value::Object(row));
        }
        let failures: Map<_, _> = self
            .failures
            .iter()
            .map(|(failure, count)| (failure.to_string(), json!(count)))
            .collect();
        let mut object = Map::new();
        object.insert("attempts".to_owned(), json!(self.attempts));
        object.insert("opened".to_owned(), json!(self.count(AttemptPhase::Total)));
        object.insert("failed".to_owned(), json!(self.failed()));
        object.insert("failures".to_owned(), Value::Object(failures));
        object.insert("tls_resumed".to_owned(), json!(self.resumed));
        object.insert("partial".to_owned(), json!(self.is_partial));
        object.insert(
            "elapsed_ms".to_owned(),
            json!(u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX)),
        );
        object.insert("per_second".to_owned(), json!((self.per_second() * 10.0).round() / 10.0));
        if let Some(bytes) = self.message_bytes {
            object.insert("message_bytes".to_owned(), json!(bytes));
        }
        object.insert("phases".to_owned(), Value::Object(phases));
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;

    /// Returns a tally of 100 connections that took 1 to 100 ms, and of two that failed.
    fn known() -> Tally {
        let (start, mut tally) = (Now::read().mono, Tally::new().unwrap());
        for millis in 1..=100 {
            let mut times = PhaseTimes::begin(None, start);
            times.lap(AttemptPhase::Connect, start + Duration::from_micros(500));
            times.lap(AttemptPhase::Upgrade, start + Duration::from_millis(millis));
            times.finish();
            tally.connection(&times, None);
        }
        for failure in [Failure::Upgrade(Some(403)), Failure::Timeout(AttemptPhase::Upgrade)] {
            let mut times = PhaseTimes::begin(None, start);
            times.lap(AttemptPhase::Connect, start + Duration::from_micros(500));
            tally.connection(&times, Some(failure));
        }
        tally.elapsed = Duration::from_secs(2);
        tally
    }

    #[test]
    fn the_table_of_a_known_set_is_known() {
        let expected = "\
ms           count        p50        p90        p99      p99.9        max
connect        102      0.500      0.500      0.500      0.500      0.500
upgrade        100     49.503     89.535     98.559     99.519     99.519
total          100     50.015     90.047     99.007    100.031    100.031

100 of 102 connections in 2.00 s, 50.0 a second
failed: upgrade 403          1
failed: timeout upgrade         1
  help: the upgrade was not answered: check the upstream, or raise --timeout
";
        assert_eq!(known().table(), expected);
    }

    #[test]
    fn the_json_of_a_known_set_is_known() {
        let json = Value::Object(known().json());
        assert_eq!(
            (&json["attempts"], &json["opened"], &json["failed"]),
            (&json!(102), &json!(100), &json!(2))
        );
        assert_eq!(json["failures"], json!({ "upgrade 403": 1, "timeout upgrade": 1 }));
        assert_eq!((&json["elapsed_ms"], &json["per_second"]), (&json!(2000), &json!(50.0)));
        let connect = json!({
            "count": 102, "p50_us": 500, "p90_us": 500, "p99_us": 500, "p99_9_us": 500,
            "max_us": 500,
        });
        assert_eq!(json["phases"]["connect"], connect);
        assert_eq!(
            json["phases"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["connect", "upgrade", "total"]
        );
    }

    #[test]
    fn merged_halves_are_the_whole() {
        let mut both = known();
        both.merge(&known());
        assert_eq!((both.attempts, both.failed(), both.count(AttemptPhase::Total)), (204, 4, 200));
        assert_eq!(both.elapsed, Duration::from_secs(2));
        let mut rounds = known();
        rounds.append(&known());
        assert_eq!((rounds.attempts, rounds.elapsed), (204, Duration::from_secs(4)));
    }
}
