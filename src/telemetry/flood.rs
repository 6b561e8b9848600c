//! Limits the lines about refusals, so that one address cannot fill the disk.
//!
//! The first few refusals of each address in a second get lines. The others are counted by reason
//! and summarised in one line. The table is bounded: addresses that do not fit share one entry. The
//! module does no I/O and reads no clock.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::lock::lock;
use crate::base::rate::network_of;

const WINDOW: Duration = Duration::from_secs(1);

/// The refusals of the last second, by their source.
#[derive(Debug)]
pub struct FloodControl {
    /// The most lines of one source in a second.
    max_lines: u64,
    /// The most sources in the table.
    max_sources: usize,
    table: Mutex<HashMap<RefusalSource, Window>>,
}

/// The source of refusals, by which lines are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalSource {
    /// An IPv4 address, or an IPv6 network of 64 bits.
    Address(IpAddr),
    /// A limit that many addresses reach together.
    Limit(&'static str),
    /// All addresses that do not fit into the table.
    Others,
}

/// The lines of one source in one second.
#[derive(Debug)]
struct Window {
    began: Instant,
    written: u64,
    suppressed: BTreeMap<&'static str, SuppressedLines>,
}

/// Lines that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuppressedLines {
    pub log: u64,
    pub audit: u64,
}

/// The suppressed lines of one source, by reason.
#[derive(Debug, PartialEq, Eq)]
pub struct RefusalSummary {
    pub source: RefusalSource,
    pub reasons: BTreeMap<&'static str, SuppressedLines>,
}

/// The lines that an event may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedLines {
    pub log: bool,
    pub audit: bool,
}

impl AllowedLines {
    pub const ALL: Self = Self { log: true, audit: true };
}

impl RefusalSource {
    pub fn of(peer: Option<IpAddr>, limit: &'static str) -> Self {
        peer.map_or(Self::Limit(limit), |peer| Self::Address(network_of(peer)))
    }
}

impl FloodControl {
    pub fn new(max_lines: usize, max_sources: usize) -> Self {
        Self { max_lines: max_lines as u64, max_sources, table: Mutex::default() }
    }

    /// Counts one refusal. Returns the lines that it may write, and the summary of the second
    /// before if that is not written yet. With `keeps_audit`, the audit line is always written.
    pub fn judge(
        &self,
        source: RefusalSource,
        reason: &'static str,
        keeps_audit: bool,
        now: Instant,
    ) -> (AllowedLines, Option<RefusalSummary>) {
        let mut table = lock(&self.table);
        let source = self.entry_of(&mut table, source, now);
        let window = table.entry(source).or_insert_with(|| Window::new(now));
        let summary = if window.is_over(now) {
            std::mem::replace(window, Window::new(now)).summary(source)
        } else {
            None
        };
        if window.written < self.max_lines {
            window.written += 1;
            return (AllowedLines::ALL, summary);
        }
        let count = window.suppressed.entry(reason).or_default();
        count.log += 1;
        count.audit += u64::from(!keeps_audit);
        (AllowedLines { log: false, audit: keeps_audit }, summary)
    }

    /// Returns the source itself, or [`RefusalSource::Others`] if the table is full.
    fn entry_of(
        &self,
        table: &mut HashMap<RefusalSource, Window>,
        source: RefusalSource,
        now: Instant,
    ) -> RefusalSource {
        if table.len() < self.max_sources || table.contains_key(&source) {
            return source;
        }
        // Sources with suppressed lines stay until the summary is written.
        table.retain(|_, window| !window.is_over(now) || !window.suppressed.is_empty());
        if table.len() < self.max_sources { source } else { RefusalSource::Others }
    }

    /// Removes the sources whose second is over, and returns their summaries.
    pub fn sweep(&self, now: Instant) -> Vec<RefusalSummary> {
        let mut table = lock(&self.table);
        let over = table.extract_if(|_, window| window.is_over(now));
        let summaries = over.filter_map(|(source, window)| window.summary(source)).collect();
        if table.is_empty() {
            table.shrink_to(64);
        }
        summaries
    }

    /// Removes all sources, and returns their summaries. Called when the process ends.
    pub fn finish(&self) -> Vec<RefusalSummary> {
        let table = std::mem::take(&mut *lock(&self.table));
        table.into_iter().filter_map(|(source, window)| window.summary(source)).collect()
    }
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, written: 0, suppressed: BTreeMap::new() }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }

    fn summary(self, source: RefusalSource) -> Option<RefusalSummary> {
        let reasons = self.suppressed;
        (!reasons.is_empty()).then_some(RefusalSummary { source, reasons })
    }
}

impl RefusalSummary {
    pub fn total(&self) -> SuppressedLines {
        let counts = self.reasons.values();
        SuppressedLines {
            log: counts.clone().map(|count| count.log).sum(),
            audit: counts.map(|count| count.audit).sum(),
        }
    }

    /// Returns `invalid_token: 812, no_route: 3`, with the counts of the log or of the audit log.
    pub fn describe(&self, count_of: impl Fn(&SuppressedLines) -> u64) -> String {
        let counts = self
            .reasons
            .iter()
            .map(|(reason, count)| (reason, count_of(count)))
            .filter(|(_, count)| *count > 0);
        counts.map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join(", ")
    }

    pub fn peer(&self) -> Option<IpAddr> {
        match self.source {
            RefusalSource::Address(address) => Some(address),
            RefusalSource::Limit(_) | RefusalSource::Others => None,
        }
    }

    pub fn limit(&self) -> Option<&'static str> {
        if let RefusalSource::Limit(limit) = self.source { Some(limit) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;

    const ADDRESS: RefusalSource =
        RefusalSource::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn the_first_few_of_a_second_have_lines_and_the_others_a_summary() {
        let (flood, start) = (FloodControl::new(2, 10), Now::read().mono);
        let judge = |reason, keeps, at: u64| {
            flood.judge(ADDRESS, reason, keeps, start + Duration::from_millis(at))
        };
        assert_eq!(judge("a", false, 0), (AllowedLines::ALL, None));
        assert_eq!(judge("a", false, 1), (AllowedLines::ALL, None));
        assert_eq!(judge("a", false, 2), (AllowedLines { log: false, audit: false }, None));
        assert_eq!(judge("b", true, 3), (AllowedLines { log: false, audit: true }, None));
        let other = RefusalSource::of(Some([192, 0, 2, 1].into()), "");
        assert_eq!(
            flood.judge(other, "a", false, start),
            (AllowedLines::ALL, None),
            "another address has lines of its own"
        );
        // The next second begins with the summary of the one before.
        let (lines, summary) = judge("a", false, 1_000);
        let summary = summary.unwrap();
        assert_eq!(
            (lines, summary.total()),
            (AllowedLines::ALL, SuppressedLines { log: 2, audit: 1 })
        );
        assert_eq!(
            (summary.describe(|count| count.log), summary.describe(|count| count.audit)),
            ("a: 1, b: 1".into(), "a: 1".into())
        );
        assert_eq!(
            flood.sweep(start + Duration::from_secs(3)),
            Vec::new(),
            "no summary is written twice"
        );
    }

    #[test]
    fn a_flood_that_ends_is_summarised_by_the_sweep() {
        let (flood, start) = (FloodControl::new(1, 10), Now::read().mono);
        for _ in 0..1000 {
            flood.judge(ADDRESS, "a", false, start);
        }
        assert_eq!(flood.sweep(start), Vec::new(), "its second is not over");
        let summaries = flood.sweep(start + WINDOW);
        assert_eq!(
            summaries.iter().map(RefusalSummary::total).collect::<Vec<_>>(),
            [SuppressedLines { log: 999, audit: 999 }]
        );
        flood.judge(ADDRESS, "a", false, start + WINDOW);
        flood.judge(ADDRESS, "a", false, start + WINDOW);
        assert_eq!(flood.finish().len(), 1);
    }

    #[test]
    fn the_table_is_bounded_and_loses_no_count() {
        let (flood, start) = (FloodControl::new(1, 100), Now::read().mono);
        let mut written = 0;
        for number in 0..10_000_u32 {
            let source = RefusalSource::of(Some(IpAddr::from(number.to_be_bytes())), "");
            for _ in 0..2 {
                written += u64::from(flood.judge(source, "a", false, start).0.log);
            }
        }
        assert!(flood.table.lock().unwrap().len() <= 101);
        assert_eq!(written, 101);
        let counted: u64 = flood.finish().iter().map(|summary| summary.total().log).sum();
        assert_eq!(written + counted, 20_000);
    }
}
