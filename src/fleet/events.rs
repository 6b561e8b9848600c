//! What happens between this node and the others.

use std::time::Duration;

use tracing::{info, warn};

use crate::model::store_fault::StoreFault;
use crate::telemetry::event::Event;
use crate::telemetry::family::{families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// 1 while this node hears what other nodes revoke; always 0 without a shared store.
    READING: Gauge = "usher_revocation_stream_reading";
    /// Entries read from the fleet's stream of revocations: new, known, over, full or unreadable.
    ENTRIES: Counter = "usher_revocation_stream_entries_total", { outcome: EntryOutcome };
    /// From another node's order to its being in force here, by the two clocks.
    DELAY: Histogram = "usher_revocation_stream_delay_seconds";
    /// Times that the fleet's stream had lost entries and was read anew.
    GAPS: Counter = "usher_revocation_stream_gaps_total";
    /// Nodes that share this node's store, itself included; 0 while the store does not say, or is
    /// this node's own.
    NODES: Gauge = "usher_fleet_nodes";
    /// Revocations in force here that the fleet's stream did not have and that were written to it.
    RESTORED: Counter = "usher_revocation_stream_restored_total";
}

words! {
    /// What became of an entry of the stream.
    pub enum EntryOutcome {
        New = "new",
        Known = "known",
        /// Its order has ended.
        Over = "over",
        /// The deny list has no room.
        Full = "full",
        Unreadable = "unreadable",
    }
}

/// This node reads the stream of revocations, or cannot.
#[derive(Debug)]
pub struct StreamReading {
    /// `None`: it reads.
    pub fault: Option<StoreFault>,
}

/// One entry of the stream was read.
#[derive(Debug)]
pub struct StreamEntryRead {
    pub outcome: EntryOutcome,
    /// Since the order was given; `None` for an old or a known one.
    pub delay: Option<Duration>,
}

/// The stream has lost entries: it was trimmed, emptied or replaced.
#[derive(Debug)]
pub struct StreamGap;

/// This many nodes beat lately, this one among them; 0 if the store does not say.
#[derive(Debug)]
pub struct NodesCounted {
    pub count: usize,
}

/// Orders in force here were missing in the stream, and were written to it.
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
            Some(fault) => warn!(
                target: "usher", event = "fleet_deaf", fault = fault.label(),
                "revocation stream not readable"
            ),
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
