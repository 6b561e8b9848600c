//! Measures the memory of idle connections in the server: its resident memory before the
//! connections, with them, and after them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{BenchClient, leave};
use super::connection::{BenchConnection, Received};
use super::load;
use super::progress::Progress;
use super::tally::Tally;
use crate::base::clock::Now;

/// How long to wait after the last connection has closed, so that the server can free its memory.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct IdleRun {
    /// The processes of the server. Their memory is summed.
    pub pids: Vec<u32>,
    pub connections: u64,
    pub step: u64,
    pub hold: Duration,
}

pub struct IdleOutcome {
    pub tally: Tally,
    before_kib: u64,
    /// The open connections and the memory after each step.
    steps: Vec<(usize, u64)>,
    held_kib: u64,
    after_kib: u64,
    /// Connections that the server ended while they were held.
    pub lost: u64,
}

/// Runs on one core, because the connections are opened in steps, not as fast as possible.
pub fn run(
    client: &Arc<BenchClient>,
    idle: &IdleRun,
    progress: &Progress,
) -> anyhow::Result<IdleOutcome> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measure(client, idle, progress))
}

async fn measure(
    client: &Arc<BenchClient>,
    idle: &IdleRun,
    progress: &Progress,
) -> anyhow::Result<IdleOutcome> {
    let resident = || {
        idle.pids.iter().try_fold(0, |sum, pid| Ok::<_, anyhow::Error>(sum + resident_kib(*pid)?))
    };
    let before_kib = resident()?;
    let (mut tally, mut steps) = (Tally::new()?, Vec::new());
    let (end, ended) = watch::channel(false);
    let mut held = JoinSet::new();
    let start = Now::read().mono;
    let mut interrupted = std::pin::pin!(load::wait_for_interrupt());
    for first in
        (0..idle.connections).step_by(usize::try_from(idle.step).unwrap_or(usize::MAX).max(1))
    {
        let numbers = first..(first + idle.step).min(idle.connections);
        let opened = tokio::select! {
            opened = load::open(client, numbers, &mut tally, progress) => opened?,
            () = &mut interrupted => {
                tally.is_partial = true;
                break;
            }
        };
        for connection in opened {
            held.spawn(hold(connection, ended.clone()));
        }
        progress.show();
        steps.push((held.len(), resident()?));
    }
    tally.elapsed = start.elapsed();
    if !tally.is_partial {
        tokio::select! {
            () = sleep(idle.hold) => {}
            () = &mut interrupted => tally.is_partial = true,
        }
    }
    let held_kib = resident()?;
    let _ = end.send(true);
    let mut lost = 0;
    while let Some(was_lost) = held.join_next().await.transpose()? {
        lost += u64::from(was_lost);
    }
    sleep(SETTLE).await;
    progress.clear();
    Ok(IdleOutcome { tally, before_kib, steps, held_kib, after_kib: resident()?, lost })
}

/// Holds a connection and answers its pings until `interrupted` changes. Returns true if the server
/// closed the connection before.
async fn hold(mut connection: BenchConnection, mut interrupted: watch::Receiver<bool>) -> bool {
    loop {
        tokio::select! {
            _ = interrupted.changed() => {
                leave(connection).await;
                return false;
            }
            received = connection.receive() => {
                if !matches!(received, Ok(Received::Message(_))) {
                    return true;
                }
            }
        }
    }
}

fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse().ok());
    kib.with_context(|| format!("{path} has no VmRSS"))
}

impl IdleOutcome {
    fn kib_per_connection(&self, open: usize, kib: u64) -> f64 {
        if open == 0 { 0.0 } else { (kib as f64 - self.before_kib as f64) / open as f64 }
    }

    fn held(&self) -> usize {
        self.steps.last().map_or(0, |(open, _)| *open)
    }

    /// Returns the memory at each step.
    pub fn table(&self) -> String {
        let mut text =
            format!("{:<8} {:>9} {:>12} {:>16}\n", "", "open", "VmRSS KiB", "KiB/connection");
        let mut row = |name: &str, open: usize, kib: u64| {
            let each = if open == 0 {
                String::new()
            } else {
                format!("{:.2}", self.kib_per_connection(open, kib))
            };
            let line = format!("{name:<8} {open:>9} {kib:>12} {each:>16}");
            text.push_str(line.trim_end());
            text.push('\n');
        };
        row("before", 0, self.before_kib);
        self.steps.iter().for_each(|(open, kib)| row("step", *open, *kib));
        row("held", self.held(), self.held_kib);
        row("after", 0, self.after_kib);
        if self.lost > 0 {
            text.push_str(&format!(
                "lost: the server closed {} connections while they were held\n",
                self.lost
            ));
        }
        text
    }

    /// Returns the fields of the report about memory.
    pub fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let steps: Vec<_> =
            self.steps.iter().map(|(open, kib)| json!({ "open": open, "rss_kib": kib })).collect();
        let each = (self.kib_per_connection(self.held(), self.held_kib) * 100.0).round() / 100.0;
        for (name, value) in [
            ("lost", json!(self.lost)),
            ("before_kib", json!(self.before_kib)),
            ("steps", json!(steps)),
            ("held_kib", json!(self.held_kib)),
            ("after_kib", json!(self.after_kib)),
            ("kib_per_connection", json!(each)),
        ] {
            object.insert(name.to_owned(), value);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_for_each_connection_above_what_there_was_before() {
        let tally = Tally::new().unwrap();
        let outcome = IdleOutcome {
            tally,
            before_kib: 10_000,
            steps: vec![(100, 10_900), (200, 11_800)],
            held_kib: 12_000,
            after_kib: 10_100,
            lost: 0,
        };
        let expected = "              open    VmRSS KiB   KiB/connection
before           0        10000
step           100        10900             9.00
step           200        11800             9.00
held           200        12000            10.00
after            0        10100
";
        let table = outcome.table();
        assert!(table.starts_with(expected), "{table}");
        assert_eq!(outcome.json()["kib_per_connection"], json!(10.0));
    }

    #[test]
    fn the_memory_of_this_process_can_be_read() {
        assert!(resident_kib(std::process::id()).unwrap() > 1000);
        assert!(resident_kib(u32::MAX).is_err());
    }
}
