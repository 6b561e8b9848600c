//! The load on one server, or on two servers in turns.

use std::sync::Arc;
use std::time::Duration;

use super::arguments::Comparison;
use super::client::BenchClient;
use super::compare::{self, Round};
use super::facts::{CpuTime, RunFacts, harmless_url};
use super::load::{self, LoadPlan, Pace};
use super::progress::{Goal, Progress};
use super::report::{Compared, Measured, Report};
use super::tally::Tally;
use crate::ws::frame::Message;

/// The load on each server.
pub enum Work {
    Connect(LoadPlan),
    Messages { connections: usize, message: Message, duration: Duration },
}

pub struct BenchServer {
    url: String,
    client: Arc<BenchClient>,
    /// The processes whose CPU time is read.
    pids: Vec<u32>,
}

/// The servers, and how often they take turns.
pub struct Plan {
    first: BenchServer,
    other: Option<(BenchServer, u64)>,
}

impl BenchServer {
    pub fn new(url: &str, client: BenchClient, pids: &[u32]) -> Self {
        Self { url: harmless_url(url), client: Arc::new(client), pids: pids.to_vec() }
    }

    fn measure(&self, work: &Work, progress: &Arc<Progress>) -> anyhow::Result<(Tally, CpuTime)> {
        let before = CpuTime::read(&self.pids)?;
        let tally = match work {
            Work::Connect(load) => load::connect(&self.client, load, progress)?,
            Work::Messages { connections, message, duration } => {
                load::messages(&self.client, *connections, message, *duration, progress)?
            }
        };
        Ok((tally, CpuTime::read(&self.pids)?.since(before)))
    }
}

impl Work {
    /// Returns the share of one round. The shares of all rounds are the load.
    fn part(&self, round: u64, rounds: u64) -> Self {
        match self {
            Self::Connect(LoadPlan { connections, concurrency, pace }) => {
                let more = u64::from(round < connections % rounds);
                let connections = connections / rounds + more;
                Self::Connect(LoadPlan { connections, concurrency: *concurrency, pace: *pace })
            }
            Self::Messages { connections, message, duration } => Self::Messages {
                connections: *connections,
                message: message.clone(),
                duration: duration.div_f64(rounds as f64),
            },
        }
    }

    fn goal(&self, servers: u32) -> Goal {
        match self {
            Self::Connect(load) => Goal::Connections(load.connections * u64::from(servers)),
            Self::Messages { duration, .. } => Goal::Time(*duration * servers),
        }
    }

    fn is_open_loop(&self) -> bool {
        matches!(self, Self::Connect(LoadPlan { pace: Pace::Open { .. }, .. }))
    }
}

impl Plan {
    /// Makes the servers by this function, from their URL, if it is not the first one, and their
    /// processes.
    pub fn of(
        comparison: &Comparison,
        server: impl Fn(Option<&str>, &[u32]) -> anyhow::Result<BenchServer>,
    ) -> anyhow::Result<Self> {
        let first = server(None, &comparison.pids)?;
        let other = comparison.compare.as_deref();
        let other = other.map(|url| server(Some(url), &comparison.compare_pids)).transpose()?;
        Ok(Self { first, other: other.map(|other| (other, u64::from(comparison.rounds))) })
    }

    pub fn run(&self, work: &Work, facts: RunFacts, is_quiet: bool) -> anyhow::Result<Report> {
        let Self { first, other } = self;
        let Some((other, rounds)) = other else {
            let progress = Arc::new(Progress::new(work.goal(1), is_quiet));
            let (tally, cpu) = first.measure(work, &progress)?;
            let first = Measured { url: first.url.clone(), tally, cpu };
            return Ok(Report { facts, first, compared: None, memory: None });
        };
        let progress = Arc::new(Progress::new(work.goal(2), is_quiet));
        let mut a = Measured::nothing(&first.url)?;
        let mut b = Measured::nothing(&other.url)?;
        let mut done = Vec::new();
        for number in 0..*rounds {
            let part = work.part(number, *rounds);
            // The order changes each time, so that a machine that becomes slower favours neither.
            let (of_a, of_b) = if number % 2 == 0 {
                let of_a = first.measure(&part, &progress)?;
                (of_a, other.measure(&part, &progress)?)
            } else {
                let of_b = other.measure(&part, &progress)?;
                (first.measure(&part, &progress)?, of_b)
            };
            a.add(&of_a);
            b.add(&of_b);
            if of_a.0.is_partial || of_b.0.is_partial {
                break;
            }
            done.push(Round { a: of_a.0, b: of_b.0 });
        }
        let ratios = compare::ratios(&done, work.is_open_loop());
        let compared = Some(Compared { other: b, rounds: done, ratios });
        Ok(Report { facts, first: a, compared, memory: None })
    }
}

impl Measured {
    fn nothing(url: &str) -> anyhow::Result<Self> {
        Ok(Self { url: url.to_owned(), tally: Tally::new()?, cpu: CpuTime::default() })
    }

    fn add(&mut self, (tally, cpu): &(Tally, CpuTime)) {
        self.tally.append(tally);
        self.cpu.add(*cpu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_rounds_are_the_load() {
        let load = LoadPlan { connections: 1003, concurrency: 8, pace: Pace::Closed };
        let parts = (0..10).map(|round| match Work::Connect(load).part(round, 10) {
            Work::Connect(part) => part.connections,
            Work::Messages { .. } => panic!(),
        });
        let parts: Vec<_> = parts.collect();
        assert_eq!((parts.iter().sum::<u64>(), parts[0], parts[9]), (1003, 101, 100));
    }
}
