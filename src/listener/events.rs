//! Events of accepting a connection.

use std::net::IpAddr;
use std::time::Duration;

use tracing::{debug, warn};

use crate::telemetry::event::{Event, Refusal, client_refusal_level, log_at, millis};
use crate::telemetry::family::{Word, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Connections that could not be accepted for lack of descriptors or memory.
    ACCEPT_FAILURES: Counter = "usher_accept_failures_total";
    /// TLS handshakes: full, resumed, or why they failed.
    TLS_HANDSHAKES: Counter = "usher_tls_handshakes_total", { outcome: TlsOutcome }, shown;
    /// How long successful TLS handshakes took.
    TLS_DURATION: Histogram = "usher_tls_handshake_duration_seconds";
}

words! {
    /// How a TLS handshake ended.
    pub enum TlsOutcome {
        Full = "full",
        Resumed = "resumed",
        Timeout = "timeout",
        /// The client left.
        Gone = "gone",
        Protocol = "protocol",
        /// The client's certificate was refused, or it has none.
        Certificate = "certificate",
    }
}

/// The next connection could not be accepted: no descriptors, or no memory.
#[derive(Debug)]
pub struct AcceptFailed<'a> {
    pub error: &'a std::io::Error,
}

/// A TLS handshake failed.
#[derive(Debug)]
pub struct TlsFailed<'a> {
    pub peer: IpAddr,
    pub reason: TlsOutcome,
    pub detail: &'a str,
}

/// A TLS handshake is complete.
#[derive(Debug)]
pub struct TlsEstablished {
    pub resumed: bool,
    pub duration: Duration,
}

impl Event for AcceptFailed<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "accept_failed", error = %self.error,
            "accept failed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&ACCEPT_FAILURES, ());
    }
}

impl Event for TlsFailed<'_> {
    fn refusal(&self) -> Option<Refusal> {
        Some(Refusal::of(self.peer, "tls_failed"))
    }

    fn log(&self) {
        let Self { peer, reason, detail } = *self;
        log_at!(
            client_refusal_level(), target: "usher", event = "tls_failed", %peer,
            reason = reason.word(), detail, "TLS handshake failed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&TLS_HANDSHAKES, (self.reason,));
    }
}

impl Event for TlsEstablished {
    fn log(&self) {
        debug!(
            target: "usher", event = "tls_established", resumed = self.resumed,
            duration_ms = millis(self.duration), "TLS established"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let outcome = if self.resumed { TlsOutcome::Resumed } else { TlsOutcome::Full };
        metrics.count(&TLS_HANDSHAKES, (outcome,));
        metrics.record(&TLS_DURATION, (), self.duration);
    }
}
