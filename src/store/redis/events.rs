//! The events between this node and Redis.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::base::breaker::BreakerState;
use crate::model::store_fault::StoreFault;
use crate::telemetry::event::{Event, millis, non_empty};
use crate::telemetry::family::{Label, LabelNames, OptionalName, Word, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Operations on a store outside of this process: ok, or the fault.
    OPERATIONS: Counter = "usher_store_operations_total",
        { operation: Operation, outcome: Outcome, region: OptionalName };
    /// The duration of operations on the store, including failed ones.
    OPERATION_DURATION: Histogram = "usher_store_operation_duration_seconds",
        { operation: Operation, region: OptionalName };
    /// Attempts to connect to the store: ok, or the fault.
    CONNECTIONS: Counter = "usher_store_connections_total",
        { lane: Purpose, outcome: Outcome, region: OptionalName };
    /// 0 while the breaker is closed, 2 while it is open, 1 while it is half open.
    BREAKER: Gauge = "usher_store_breaker_state", { lane: Purpose, region: OptionalName };
}

words! {
    /// The purpose of a connection: the label `lane`.
    pub enum Purpose {
        Tickets = "tickets",
        /// Operations that wait for replicas.
        Acknowledged = "acknowledged",
        Revocations = "revocations",
        Fleet = "fleet",
        /// Sessions that another program stores.
        Sessions = "sessions",
        /// Certificates that one node orders for all.
        Certificates = "certificates",
    }
}

words! {
    pub enum Operation {
        Put = "put",
        Take = "take",
        Peek = "peek",
        Probe = "probe",
        Expire = "expire",
        Revoke = "revoke",
        Beat = "beat",
        Notify = "notify",
        Answer = "answer",
        Place = "place",
        Renew = "renew",
        GiveBack = "give_back",
        Session = "session",
        ReadShared = "read_shared",
        WriteShared = "write_shared",
    }
}

/// The outcome of an operation. No fault is written as `ok`.
enum Outcome {}

impl Label for Outcome {
    type Value<'a> = Option<StoreFault>;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        std::iter::once("ok").chain(StoreFault::ALL.map(StoreFault::label)).collect()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.map_or("ok", StoreFault::label)
    }
}

/// An operation ended. The region is empty if no regions are configured.
#[derive(Debug)]
pub struct OperationEnded<'a> {
    pub region: &'a str,
    pub operation: Operation,
    pub fault: Option<StoreFault>,
    /// `None`: the operation was not sent.
    pub duration: Option<Duration>,
}

/// A connection to Redis was made, or the attempt failed.
#[derive(Debug)]
pub struct StoreDialled<'a> {
    pub region: &'a str,
    pub purpose: Purpose,
    /// Whether the same fault was not reported a moment ago.
    pub is_news: bool,
    pub fault: Option<StoreFault>,
}

/// The state of the circuit breaker has changed.
#[derive(Debug)]
pub struct StoreBreakerChanged<'a> {
    pub region: &'a str,
    pub purpose: Purpose,
    pub state: BreakerState,
}

impl Event for OperationEnded<'_> {
    fn log(&self) {
        let (region, operation) = (non_empty(self.region), self.operation.word());
        let duration_ms = self.duration.map(millis);
        let outcome = Outcome::text(self.fault);
        match self.fault {
            None | Some(StoreFault::BreakerOpen) => debug!(
                target: "usher", event = "store_operation", region, operation, outcome,
                duration_ms, "store operation"
            ),
            Some(_) => warn!(
                target: "usher", event = "store_failed", region, operation, outcome, duration_ms,
                "store operation failed"
            ),
        }
    }

    fn count(&self, metrics: &Metrics) {
        let Self { region, operation, fault, duration } = *self;
        metrics.count(&OPERATIONS, (operation, fault, region));
        if let Some(duration) = duration {
            metrics.record(&OPERATION_DURATION, (operation, region), duration);
        }
    }
}

impl Event for StoreDialled<'_> {
    fn log(&self) {
        let (region, lane) = (non_empty(self.region), self.purpose.word());
        match self.fault {
            None => info!(
                target: "usher", event = "store_connected", region, lane,
                "connected to the store"
            ),
            Some(fault) if self.is_news => warn!(
                target: "usher", event = "store_unreachable", region, lane,
                outcome = fault.label(), "store dial failed"
            ),
            Some(_) => {}
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&CONNECTIONS, (self.purpose, self.fault, self.region));
    }
}

impl Event for StoreBreakerChanged<'_> {
    fn log(&self) {
        let (region, lane) = (non_empty(self.region), self.purpose.word());
        let state = self.state.name();
        match self.state {
            BreakerState::Open => warn!(
                target: "usher", event = "store_breaker", region, lane, state,
                "store circuit breaker open"
            ),
            _ => info!(
                target: "usher", event = "store_breaker", region, lane, state,
                "store circuit breaker changed"
            ),
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&BREAKER, (self.purpose, self.region), f64::from(self.state.number()));
    }
}
