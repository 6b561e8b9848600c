//! Events of accepting a connection.

use std::net::IpAddr;
use std::time::Duration;

use tracing::{debug, warn};

use crate::http::events::Protocol;
use crate::telemetry::event::{Event, FloodRefusal, client_refusal_level, millis};
use crate::telemetry::family::{Word, families, words};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::severity::log_at;

families! {
    /// Connections that could not be accepted for lack of descriptors or memory.
    ACCEPT_FAILURES: Counter = "usher_accept_failures_total";
    /// TLS handshakes: full, resumed, or why they failed.
    TLS_HANDSHAKES: Counter = "usher_tls_handshakes_total", { outcome: TlsOutcome }, shown;
    /// PROXY headers on listeners that require one, and connections closed for lack of one.
    PROXY_HEADERS: Counter = "usher_proxy_headers_total", { outcome: ProxyOutcome }, shown;
    /// Client connections by the protocol that was agreed on: http1 or http2.
    PROTOCOLS: Counter = "usher_connection_protocols_total", { protocol: Protocol }, shown;
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
        /// A CRL revokes the client's certificate.
        Revoked = "revoked",
        /// The certificate of `[acme]` was not issued yet.
        NotIssued = "not_issued",
        /// The client checks a challenge, and none is pending for the name.
        NoChallenge = "no_challenge",
    }
}

words! {
    /// The result of reading a PROXY header, on a listener that requires one.
    pub enum ProxyOutcome {
        /// A header that names the client.
        Client = "client",
        /// A header without addresses: the proxy's own connection, or a client that it does not
        /// know.
        Local = "local",
        /// The socket's address is not in `proxy_peers`.
        NotListed = "not_listed",
        /// No whole header within `head_timeout`.
        Timeout = "timeout",
        /// The peer left before its header was whole.
        Gone = "gone",
        /// The bytes are not a header, or have two meanings.
        Malformed = "malformed",
        /// The header is larger than 4 KiB.
        TooLarge = "too_large",
        /// The checksum is wrong.
        Checksum = "checksum",
    }
}

/// The next connection could not be accepted: no descriptors, or no memory.
#[derive(Debug)]
pub struct AcceptFailed<'a> {
    pub error: &'a std::io::Error,
}

/// A PROXY header was read.
#[derive(Debug)]
pub struct ProxyHeaderRead {
    /// The address of the socket.
    pub peer: IpAddr,
    /// The client that the header names.
    pub client: Option<IpAddr>,
}

/// A connection was closed because it does not begin with a PROXY header of a listed proxy.
#[derive(Debug)]
pub struct ProxyHeaderRefused<'a> {
    /// The address of the socket.
    pub peer: IpAddr,
    pub reason: ProxyOutcome,
    pub detail: &'a str,
}

/// A TLS handshake failed.
#[derive(Debug)]
pub struct TlsFailed<'a> {
    pub peer: IpAddr,
    pub reason: TlsOutcome,
    pub detail: &'a str,
}

/// A connection begins to speak this protocol.
#[derive(Debug)]
pub struct ProtocolChosen {
    pub protocol: Protocol,
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

impl Event for ProxyHeaderRead {
    fn log(&self) {
        debug!(
            target: "usher", event = "proxy_header_read", peer = %self.peer,
            client = self.client.map(|client| client.to_string()), "PROXY header read"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let outcome =
            if self.client.is_some() { ProxyOutcome::Client } else { ProxyOutcome::Local };
        metrics.count(&PROXY_HEADERS, (outcome,));
    }
}

impl Event for ProxyHeaderRefused<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(FloodRefusal::of(self.peer, "proxy_header_refused"))
    }

    fn log(&self) {
        let Self { peer, reason, detail } = *self;
        log_at!(
            client_refusal_level(), target: "usher", event = "proxy_header_refused", %peer,
            reason = reason.word(), detail, "PROXY header refused"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&PROXY_HEADERS, (self.reason,));
    }
}

impl Event for TlsFailed<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(FloodRefusal::of(self.peer, "tls_failed"))
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

impl Event for ProtocolChosen {
    fn count(&self, metrics: &Metrics) {
        metrics.count(&PROTOCOLS, (self.protocol,));
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
