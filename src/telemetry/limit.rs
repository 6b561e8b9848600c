//! The event that a configured limit was reached, for all modules.

use std::net::IpAddr;

use super::audit::AuditLine;
use super::event::{Event, FloodRefusal, client_refusal_level};
use super::family::{Word, families, words};
use super::flood::RefusalSource;
use super::metrics::Metrics;
use super::severity::log_at;

words! {
    /// The limits that can be reached: keys of `[limits]`, rates of `[tickets]`, and limits of
    /// `[store]`, `[[verifier]]` and `[[upstream]]`.
    pub enum Limit {
        Connections = "connections",
        Unauthenticated = "unauthenticated",
        UnauthenticatedPerAddress = "unauthenticated_per_address",
        HeadTimeout = "head_timeout",
        HttpIdleTimeout = "http_idle_timeout",
        StallTimeout = "stall_timeout",
        HeadBytes = "head_bytes",
        Http2Streams = "http2_streams",
        Http2Resets = "http2_resets",
        Http2ControlFrames = "http2_control_frames",
        SessionsPerUser = "sessions_per_user",
        SessionsPerAddress = "sessions_per_address",
        SessionsPerRoute = "sessions_per_route",
        UpgradesRate = "upgrades_rate",
        UpgradesRatePerAddress = "upgrades_rate_per_address",
        BufferedBytes = "buffered_bytes",
        MessageBytes = "message_bytes",
        MessagesPerSecond = "messages_per_second",
        InflatedBytes = "inflated_bytes",
        StoreInFlight = "store_in_flight",
        VerifierConcurrency = "verifier_concurrency",
        VerifierMaxWaiting = "verifier_max_waiting",
        UpstreamMaxAddresses = "upstream_max_addresses",
        Tickets = "tickets",
        TicketsPerUser = "tickets_per_user",
        TicketsPerAddress = "tickets_per_address",
        TicketsWatched = "tickets_watched",
        Revocations = "revocations",
    }
}

families! {
    /// Times that a configured limit was reached.
    LIMITS_HIT: Counter = "usher_limits_hit_total", { limit: Limit }, shown;
}

/// A configured limit was reached.
#[derive(Debug)]
pub struct LimitReached {
    pub limit: Limit,
    /// The address that reached the limit; `None` for a limit that many addresses reach together.
    pub peer: Option<IpAddr>,
}

impl LimitReached {
    /// Only counts the limit, for events that have a name and a log line of their own.
    pub fn count_only(limit: Limit, metrics: &Metrics) {
        metrics.count(&LIMITS_HIT, (limit,));
    }
}

impl Event for LimitReached {
    fn refusal(&self) -> Option<FloodRefusal> {
        let reason = self.limit.word();
        Some(FloodRefusal {
            source: RefusalSource::of(self.peer, reason),
            reason,
            keeps_audit: false,
        })
    }

    fn log(&self) {
        log_at!(
            client_refusal_level(), target: "usher", event = "limit_reached",
            limit = self.limit.word(), peer = self.peer.map(|peer| peer.to_string()),
            "limit reached"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&LIMITS_HIT, (self.limit,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        self.peer.map(|peer| AuditLine {
            event: "limit_reached",
            outcome: self.limit.word(),
            peer: Some(peer),
            ..AuditLine::default()
        })
    }
}
