//! The events between this node and the other nodes.

use std::time::Duration;

use tracing::{info, warn};

use crate::model::store_fault::StoreFault;
use crate::telemetry::event::Event;
use crate::telemetry::family::{families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// 1 while this node reads the revocations of other nodes; always 0 without a shared store.
    READING: Gauge = "usher_revocation_stream_reading";
    /// Entries read from the stream of revocations: new, known, over, full or unreadable.
    ENTRIES: Counter = "usher_revocation_stream_entries_total", { outcome: EntryOutcome };
    /// The time from a revocation at another node until it is in force here, by the two clocks.
    DELAY: Histogram = "usher_revocation_stream_delay_seconds";
    /// Times that the stream of revocations had lost entries and was read again.
    GAPS: Counter = "usher_revocation_stream_gaps_total";
    /// Nodes that share the store of this node, including itself; 0 while the store does not
    /// answer, or without a shared store.
    NODES: Gauge = "usher_fleet_nodes";
    /// Revocations in force here that were missing in the stream and were written to it.
    RESTORED: Counter = "usher_revocation_stream_restored_total";
}

words! {
    /// The outcome for an entry of the stream.
    pub enum EntryOutcome {
        New = "new",
        Known = "known",
        /// The revocation has expired.
        Over = "over",
        /// The deny list is full.
        Full = "full",
        Unreadable = "unreadable",
    }
}

/// This node reads the stream of revocations, or cannot read it.
#[derive(Debug)]
pub struct StreamReading {
    /// Whether the same fault was not reported a moment ago.
    pub is_news: bool,
    /// `None`: the node reads the stream.
    pub fault: Option<StoreFault>,
}

/// One entry of the stream was read.
#[derive(Debug)]
pub struct StreamEntryRead {
    pub outcome: EntryOutcome,
    /// The time since the revocation was given; `None` for an old or a known one.
    pub delay: Option<Duration>,
}

/// The stream has lost entries, because it was trimmed, emptied or replaced.
#[derive(Debug)]
pub struct StreamGap;

/// The number of nodes with a recent heartbeat, including this one; 0 if the store does not answer.
#[derive(Debug)]
pub struct NodesCounted {
    pub count: usize,
}

/// Revocations in force here were missing in the stream, and were written to it.
#[derive(Debug)]
pub struct StreamRestored {
    pub count: usize,
}

impl Event for StreamReading {
    fn log(&self) {
        match self.fault {
            None => info!(
                target: "usher", event = "fleet_reading", "reading the revocation stream"
            ),
            Some(fault) if self.is_news => warn!(
                target: "usher", event = "fleet_deaf", fault = fault.label(),
                "cannot read the revocation stream"
            ),
            Some(_) => {}
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&READING, (), f64::from(u8::from(self.fault.is_none())));
    }
}

impl Event for StreamEntryRead {
    fn log(&self) {
        if self.outcome == EntryOutcome::Unreadable {
            warn!(
                target: "usher", event = "fleet_unreadable",
                "unreadable entry in the revocation stream"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&ENTRIES, (self.outcome,));
        if let Some(delay) = self.delay {
            metrics.record(&DELAY, (), delay);
        }
    }
}

impl Event for StreamGap {
    fn log(&self) {
        warn!(
            target: "usher", event = "fleet_gap",
            "revocation stream lost entries; reading it again"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&GAPS, ());
    }
}

impl Event for NodesCounted {
    fn count(&self, metrics: &Metrics) {
        metrics.set(&NODES, (), self.count as f64);
    }
}

impl Event for StreamRestored {
    fn log(&self) {
        info!(
            target: "usher", event = "fleet_told", count = self.count,
            "missing revocations written to the revocation stream"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.add(&RESTORED, (), self.count as u64);
    }
}
