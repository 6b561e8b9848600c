//! The progress of a run, with an estimate of the time that is left.

use std::io::{IsTerminal, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::tally::Failure;
use crate::base::clock::Now;
use crate::base::lock::lock;

/// How often a line is printed without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
const BAR: usize = 20;
/// The longest line on a terminal, so that it never wraps.
const WIDTH: usize = 79;

/// The end of the run, for the estimate.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    Connections(u64),
    Time(Duration),
}

/// Shows the progress on standard error. On a terminal it updates one line; elsewhere it prints a
/// line every [`LINE_EVERY`].
#[derive(Debug)]
pub struct Progress {
    goal: Goal,
    is_quiet: bool,
    start: Instant,
    done: AtomicU64,
    failed: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    failure: Option<Failure>,
    line: Option<Instant>,
}

impl Progress {
    pub fn new(goal: Goal, is_quiet: bool) -> Self {
        Self {
            goal,
            is_quiet,
            start: Now::read().mono,
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    pub fn count(&self, failure: Option<Failure>) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if let Some(failure) = failure {
            self.failed.fetch_add(1, Ordering::Relaxed);
            lock(&self.last).failure = Some(failure);
        }
    }

    /// Shows the progress if a line is due. A closed standard error ends no measurement.
    pub fn show(&self) {
        if self.is_quiet {
            return;
        }
        let now = Now::read().mono;
        let _ = if is_terminal() {
            let line: String = self.line(now).chars().take(WIDTH).collect();
            write!(std::io::stderr(), "\r{line}\x1b[K")
        } else if self.is_due(now) {
            writeln!(std::io::stderr(), "usher bench: {}", self.line(now))
        } else {
            Ok(())
        };
    }

    pub fn clear(&self) {
        if !self.is_quiet && is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&self, now: Instant) -> String {
        let (done, failed) =
            (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let elapsed = now.saturating_duration_since(self.start);
        let share = match self.goal {
            Goal::Connections(all) => done as f64 / all.max(1) as f64,
            Goal::Time(whole) => elapsed.as_secs_f64() / whole.as_secs_f64().max(0.001),
        }
        .min(1.0);
        let filled = (share * BAR as f64) as usize;
        let of = match self.goal {
            Goal::Connections(all) => format!(" of {all}"),
            Goal::Time(_) => String::new(),
        };
        let failure = lock(&self.last).failure;
        let failure = failure.map(|failure| format!(" (last: {failure})")).unwrap_or_default();
        format!(
            "[{}{}] {:3.0} %{}, {done}{of} connections, {failed} failed{failure}",
            "#".repeat(filled),
            ".".repeat(BAR - filled),
            share * 100.0,
            time_left(elapsed, share),
        )
    }

    /// Returns true if a line is due. The first line is due after one whole interval.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = lock(&self.last);
        let since = *last.line.get_or_insert(now);
        let is_due = now.duration_since(since) >= LINE_EVERY;
        if is_due {
            last.line = Some(now);
        }
        is_due
    }
}

/// Returns true if one line can be written again and again.
fn is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Estimates the time that is left from the share that is done. The first second tells too little.
fn time_left(elapsed: Duration, share: f64) -> String {
    if elapsed < Duration::from_secs(1) || !(0.01..1.0).contains(&share) {
        return String::new();
    }
    let seconds = (elapsed.as_secs_f64() * (1.0 - share) / share).round().max(1.0);
    match seconds {
        ..120.0 => format!(", {seconds:.0} s left"),
        ..7200.0 => format!(", {:.0} min left", (seconds / 60.0).ceil()),
        _ => format!(", {:.0} h left", (seconds / 3600.0).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::AttemptPhase;
    use super::*;

    #[test]
    fn without_a_terminal_a_line_comes_every_five_seconds_and_names_the_last_failure() {
        let progress = Progress::new(Goal::Connections(8), false);
        let start = progress.start;
        progress.count(None);
        progress.count(Some(Failure::Timeout(AttemptPhase::Echo)));
        assert_eq!(
            progress.line(start + Duration::from_secs(10)),
            "[#####...............]  25 %, 30 s left, 2 of 8 connections, 1 failed (last: timeout \
             echo)"
        );
        let due: Vec<_> = (0..=44)
            .filter(|quarter| progress.is_due(start + Duration::from_millis(250 * quarter)))
            .collect();
        assert_eq!(due, [20, 40]);
    }

    #[test]
    fn the_estimate_follows_the_share_or_the_clock() {
        let progress = Progress::new(Goal::Time(Duration::from_secs(600)), true);
        let at = |seconds| progress.line(progress.start + Duration::from_secs(seconds));
        assert!(at(0).starts_with("[....................]   0 %, 0 connections"), "{}", at(0));
        assert!(at(60).contains("10 %, 9 min left,"), "{}", at(60));
        assert!(at(590).contains("98 %, 10 s left,"), "{}", at(590));
        assert!(at(700).contains("100 %, 0 connections"), "late, and no time is left");
        assert!(at(6).contains(", 10 min left"), "{}", at(6));
    }
}
