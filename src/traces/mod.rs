//! Traces: spans of requests, sent to a receiver by OTLP over HTTP.
//!
//! A [`Tracer`] begins a [`Recording`] for a request. When the request has its answer, the
//! recording becomes spans, and the spans wait in the [`SpanQueue`]. One task ([`SpanQueue::run`])
//! sends them, in batches, to the receiver of the configuration in force. A receiver that is away
//! delays no request: the queue is bounded, and spans beyond it are dropped and counted.

pub mod events;
pub mod export;
pub mod proto;
pub mod queue;
pub mod recording;

use std::sync::Arc;

use aws_lc_rs::rand;

pub use self::queue::SpanQueue;
pub use self::recording::{Recording, RequestPhase, RequestSummary};
use crate::base::clock::Now;
use crate::config;
use crate::model::trace_context::{SpanId, TraceContext, TraceId};

/// Begins the recordings of one configuration.
#[derive(Debug)]
pub struct Tracer {
    queue: Arc<SpanQueue>,
    /// Traces whose random part is not below this are recorded.
    threshold: u64,
    has_client_address: bool,
}

/// The trace that a request came with.
#[derive(Clone, Copy, Debug)]
pub struct IncomingTrace<'a> {
    pub context: TraceContext,
    /// The header `tracestate`, if it is short and plain.
    pub state: Option<&'a str>,
    /// Whether the peer is trusted: the request is then part of its trace. A stranger must not
    /// choose which requests are recorded, nor add spans to the trace of another client.
    pub is_trusted: bool,
}

/// The number of values of the random part of a trace id.
const RANDOM_PARTS: u64 = 1 << 56;

impl Tracer {
    pub fn new(config: &config::Traces, queue: &Arc<SpanQueue>) -> Self {
        Self {
            queue: Arc::clone(queue),
            threshold: threshold(config.sample_ratio),
            has_client_address: config.client_address,
        }
    }

    /// Returns true if spans have the client's address.
    pub fn has_client_address(&self) -> bool {
        self.has_client_address
    }

    /// Begins the recording of a request. A request of a trusted peer continues its trace and
    /// follows its decision to record. Any other request begins a trace; the caller's is linked.
    pub fn begin(
        self: &Arc<Self>,
        caller: Option<IncomingTrace<'_>>,
        started: Now,
    ) -> Option<Recording> {
        let span_id = new_span_id()?;
        let trusted = caller.filter(|caller| caller.is_trusted);
        let own = match trusted {
            Some(IncomingTrace { context, .. }) => TraceContext { span_id, ..context },
            None => {
                let trace_id = new_trace_id()?;
                let is_sampled = trace_id.random_part() >= self.threshold;
                TraceContext { trace_id, span_id, is_sampled }
            }
        };
        Some(Recording::new(Arc::clone(self), own, caller, started))
    }

    fn queue(&self) -> &SpanQueue {
        &self.queue
    }
}

/// Returns the smallest random part that is recorded, as in consistent probability sampling: all
/// programs with the same ratio choose the same traces.
fn threshold(ratio: f64) -> u64 {
    let recorded = (ratio * RANDOM_PARTS as f64) as u64;
    RANDOM_PARTS.saturating_sub(recorded)
}

/// Returns `None` if the system has no randomness: then nothing is traced.
fn new_trace_id() -> Option<TraceId> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    TraceId::from_bytes(bytes)
}

fn new_span_id() -> Option<SpanId> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).ok()?;
    SpanId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(ratio: f64) -> Arc<Tracer> {
        let queue = SpanQueue::new();
        Arc::new(Tracer { queue, threshold: threshold(ratio), has_client_address: false })
    }

    fn caller(is_trusted: bool, header: &str) -> Option<IncomingTrace<'_>> {
        let context = TraceContext::parse(header).unwrap();
        Some(IncomingTrace { context, state: Some("vendor=1"), is_trusted })
    }

    #[test]
    fn a_trusted_peer_decides_for_its_own_trace() {
        let context = TraceContext::parse(SAMPLED).unwrap();
        let followed = tracer(0.0).begin(caller(true, SAMPLED), Now::read()).unwrap();
        assert_eq!(followed.recorded(), Some(context.trace_id));
        let unsampled = SAMPLED.replace("-01", "-00");
        let followed = tracer(1.0).begin(caller(true, &unsampled), Now::read()).unwrap();
        assert_eq!(followed.recorded(), None);
    }

    #[test]
    fn a_stranger_neither_forces_a_record_nor_joins_a_trace() {
        let context = TraceContext::parse(SAMPLED).unwrap();
        let forced = tracer(0.0).begin(caller(false, SAMPLED), Now::read()).unwrap();
        assert_eq!(forced.recorded(), None);
        let own = tracer(1.0).begin(caller(false, SAMPLED), Now::read()).unwrap();
        assert!(own.recorded().is_some_and(|trace_id| trace_id != context.trace_id));
    }

    #[test]
    fn the_share_of_recorded_traces_is_the_ratio() {
        for (ratio, expected) in [(0.0, 0..=0), (0.25, 400..=600), (1.0, 2000..=2000)] {
            let tracer = tracer(ratio);
            let begun = (0..2000).filter_map(|_| tracer.begin(None, Now::read()));
            let recorded = begun.filter(|one| one.recorded().is_some()).count();
            assert!(expected.contains(&recorded), "{ratio}: {recorded}");
        }
    }
}
