//! Events of a session after the 101.

use std::net::IpAddr;
use std::time::Duration;

use tracing::field::{DisplayValue, display};
use tracing::{debug, info};

use super::revalidation::RevalidationResult;
use crate::auth::renewal::NotRenewed;
use crate::base::clock::UnixMillis;
use crate::model::method::Method;
use crate::model::trace_context::TraceId;
use crate::rejection::close::{CloseReason, SessionEnd, Traffic};
use crate::telemetry::audit::{AuditLine, TrafficLine};
use crate::telemetry::event::{Event, millis};
use crate::telemetry::family::{Label, LabelNames, Name, Word, families, words};
use crate::telemetry::limit::{Limit, LimitReached};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::severity::{Severity, log_at};
use crate::ws::close_code::CloseCode;

/// From one second to one day.
const SESSION_BUCKETS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];
/// From a machine beside Usher to the interval of the pings.
const ROUND_TRIP_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0];

families! {
    /// Sessions open now.
    ACTIVE: Gauge = "usher_sessions_active", { route: Name }, shown;
    /// How long sessions lasted.
    DURATION: Histogram = "usher_session_duration_seconds",
        { route: Name }, shown, buckets(SESSION_BUCKETS);
    /// Sessions ended, by the close code that the client sent or got and by the reason.
    CLOSES: Counter = "usher_session_closes_total",
        { code: Option<CloseCode>, reason: CloseReason };
    /// Re-authentication in the stream: clients asked, grants renewed, credentials refused.
    REAUTH: Counter = "usher_reauth_total", { route: Name, outcome: ReauthLabel }, shown;
    /// From a client's credential in the stream to Usher's verdict about it.
    REAUTH_DURATION: Histogram = "usher_reauth_duration_seconds", { route: Name }, shown;
    /// Times that a verifier was asked again about a live session: good, revoked, away or
    /// away_too_long.
    REVALIDATIONS: Counter = "usher_revalidations_total",
        { verifier: Name, outcome: RevalidationLabel }, shown;
    /// Bytes relayed, frame headers included; those of live sessions too.
    RELAY_BYTES: Counter = "usher_relay_bytes_total",
        { route: Name, direction: Direction }, shown;
    /// WebSocket messages relayed; those of live sessions too.
    RELAY_MESSAGES: Counter = "usher_relay_messages_total",
        { route: Name, direction: Direction }, shown;
    /// From Usher's ping to the client's pong, with the wait behind bytes that the client had not
    /// taken. Only clients that are silent for `keepalive.ping` are pinged.
    PING_ROUND_TRIP: Histogram = "usher_ping_round_trip_seconds",
        { route: Name }, shown, buckets(ROUND_TRIP_BUCKETS);
    /// From an order to revoke, on this node, to the end of a live session that it concerns.
    REVOCATION_CLOSE: Histogram = "usher_revocation_close_duration_seconds";
}

words! {
    enum Direction {
        FromClient = "from_client",
        FromUpstream = "from_upstream",
    }
}

words! {
    enum ReauthLabel {
        Asked = "asked",
        Renewed = "renewed",
        Refused = "refused",
        OtherSubject = "other_subject",
        NoLonger = "no_longer",
    }
}

words! {
    enum RevalidationLabel {
        Good = "good",
        Revoked = "revoked",
        Away = "away",
        AwayTooLong = "away_too_long",
    }
}

impl Label for CloseCode {
    type Value<'a> = Self;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        (1000..=1014).chain([3000, 4000]).map(|code| Self(code).label()).collect()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.label()
    }
}

impl Word for CloseReason {
    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn word(self) -> &'static str {
        self.facts().label
    }

    fn position(self) -> usize {
        self as usize
    }
}

/// A session, as its log and audit lines name it.
#[derive(Clone, Copy, Debug)]
pub struct SessionFacts<'a> {
    /// The request that became this session.
    pub request_id: &'a str,
    pub session_id: &'a str,
    pub user: Option<&'a str>,
    pub method: Option<Method>,
    pub route: &'a str,
    pub upstream: &'a str,
    pub peer: IpAddr,
    /// The trace of the upgrade, if it is recorded.
    pub trace_id: Option<TraceId>,
}

impl<'a> SessionFacts<'a> {
    /// Returns the trace id as a field of a log line.
    pub fn trace_field(&self) -> Option<DisplayValue<TraceId>> {
        self.trace_id.map(display)
    }

    pub fn audit_line(&self, event: &'static str, outcome: &'a str) -> AuditLine<'a> {
        AuditLine {
            session_id: Some(self.session_id),
            user: self.user,
            method: self.method.map(Method::name),
            route: Some(self.route),
            upstream: Some(self.upstream),
            trace_id: self.trace_id,
            ..AuditLine::of_request(event, outcome, self.request_id, self.peer)
        }
    }
}

/// The traffic of a route's live sessions since the last event.
#[derive(Debug)]
pub struct Relayed<'a> {
    pub route: &'a str,
    pub from_client: Traffic,
    pub from_upstream: Traffic,
}

/// The client was asked for a new credential, or sent one.
#[derive(Debug)]
pub struct ReauthEvent<'a> {
    pub session: SessionFacts<'a>,
    pub outcome: ReauthOutcome<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum ReauthOutcome<'a> {
    Asked,
    Renewed { expires_at: Option<UnixMillis> },
    Refused(&'a NotRenewed),
}

/// A credential in the stream was judged, well or badly.
#[derive(Debug)]
pub struct CredentialJudged<'a> {
    pub route: &'a str,
    pub duration: Duration,
}

/// A client has answered Usher's ping.
#[derive(Debug)]
pub struct PingAnswered<'a> {
    pub route: &'a str,
    pub round_trip: Duration,
}

/// One side does not take what Usher has read from the other, and reading has stopped. Reported
/// once for each direction of a session, and before the session for the bytes behind a first
/// message.
#[derive(Debug)]
pub struct BufferFilled;

/// A verifier was asked again about a live session.
#[derive(Debug)]
pub struct Revalidated<'a> {
    pub session: SessionFacts<'a>,
    pub verifier: &'a str,
    pub heard: &'a RevalidationResult,
}

/// The one end of a session.
#[derive(Debug)]
pub struct SessionEnded<'a> {
    pub session: SessionFacts<'a>,
    pub end: &'a SessionEnd,
    /// The part of its traffic that no [`Relayed`] has counted.
    pub rest: [Traffic; 2],
    /// The time since the order that revoked the session; `None`: it ended in another way.
    pub since_revoked: Option<Duration>,
}

/// Counts a session that begins. Its [`SessionEnded`] subtracts it again.
pub fn count_started(metrics: &Metrics, route: &str) {
    metrics.change(&ACTIVE, (route,), 1.0);
}

fn count_traffic(metrics: &Metrics, route: &str, from_client: Traffic, from_upstream: Traffic) {
    let directions =
        [(Direction::FromClient, from_client), (Direction::FromUpstream, from_upstream)];
    for (direction, traffic) in directions {
        metrics.add(&RELAY_BYTES, (route, direction), traffic.bytes);
        metrics.add(&RELAY_MESSAGES, (route, direction), traffic.messages);
    }
}

impl Event for Relayed<'_> {
    fn count(&self, metrics: &Metrics) {
        count_traffic(metrics, self.route, self.from_client, self.from_upstream);
    }
}

impl ReauthEvent<'_> {
    fn event(&self) -> &'static str {
        match self.outcome {
            ReauthOutcome::Asked => "reauth_asked",
            ReauthOutcome::Renewed { .. } => "reauth_renewed",
            ReauthOutcome::Refused(_) => "reauth_refused",
        }
    }

    fn label(&self) -> ReauthLabel {
        match self.outcome {
            ReauthOutcome::Asked => ReauthLabel::Asked,
            ReauthOutcome::Renewed { .. } => ReauthLabel::Renewed,
            ReauthOutcome::Refused(NotRenewed::OtherSubject) => ReauthLabel::OtherSubject,
            ReauthOutcome::Refused(NotRenewed::NoLonger) => ReauthLabel::NoLonger,
            ReauthOutcome::Refused(NotRenewed::Refused(_)) => ReauthLabel::Refused,
        }
    }

    fn detail(&self) -> Option<String> {
        match self.outcome {
            ReauthOutcome::Renewed { expires_at } => {
                expires_at.map(|at| format!("until {}", at.to_rfc3339()))
            }
            ReauthOutcome::Refused(NotRenewed::Refused(rejection)) => Some(rejection.detail()),
            _ => None,
        }
    }
}

impl Event for ReauthEvent<'_> {
    fn log(&self) {
        let SessionFacts { request_id, session_id, user, route, peer, .. } = self.session;
        let trace_id = self.session.trace_field();
        info!(
            target: "usher", event = self.event(), request_id, session_id, user, route, %peer,
            outcome = self.label().word(), detail = self.detail(), trace_id, "re-authentication"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&REAUTH, (self.session.route, self.label()));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let line = self.session.audit_line(self.event(), self.label().word());
        Some(AuditLine { detail: self.detail(), ..line })
    }
}

impl Event for CredentialJudged<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.record(&REAUTH_DURATION, (self.route,), self.duration);
    }
}

impl Event for PingAnswered<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.record(&PING_ROUND_TRIP, (self.route,), self.round_trip);
    }
}

impl Event for BufferFilled {
    fn count(&self, metrics: &Metrics) {
        LimitReached::count_only(Limit::BufferedBytes, metrics);
    }
}

impl Revalidated<'_> {
    fn label(&self) -> RevalidationLabel {
        match self.heard {
            RevalidationResult::Good { .. } => RevalidationLabel::Good,
            RevalidationResult::Revoked => RevalidationLabel::Revoked,
            RevalidationResult::Away { too_long: false } => RevalidationLabel::Away,
            RevalidationResult::Away { too_long: true } => RevalidationLabel::AwayTooLong,
        }
    }
}

impl Event for Revalidated<'_> {
    fn log(&self) {
        let SessionFacts { request_id, session_id, user, route, peer, .. } = self.session;
        let (verifier, outcome) = (self.verifier, self.label());
        let trace_id = self.session.trace_field();
        match outcome {
            RevalidationLabel::Good => debug!(
                target: "usher", event = "revalidated", request_id, session_id, user, route, %peer,
                verifier, outcome = outcome.word(), trace_id, "session revalidated"
            ),
            _ => info!(
                target: "usher", event = "revalidated", request_id, session_id, user, route, %peer,
                verifier, outcome = outcome.word(), trace_id, "session not revalidated"
            ),
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&REVALIDATIONS, (self.verifier, self.label()));
    }

    /// Successful revalidations are not audited: they would be most of the log.
    fn audit(&self) -> Option<AuditLine<'_>> {
        let outcome = self.label();
        (outcome != RevalidationLabel::Good).then(|| AuditLine {
            issuer: Some(self.verifier),
            ..self.session.audit_line("revalidated", outcome.word())
        })
    }
}

impl Event for SessionEnded<'_> {
    fn log(&self) {
        let SessionFacts { request_id, session_id, user, route, upstream, peer, .. } = self.session;
        let trace_id = self.session.trace_field();
        let end = self.end;
        // The operator chooses the login that the upstream gets, so its refusal is a warning.
        let level = match end.reason {
            CloseReason::LoginRefused => Severity::Warn,
            _ => Severity::Info,
        };
        log_at!(
            level, target: "usher", event = "session_ended", request_id, session_id, user,
            method = self.session.method.map(Method::name), route, upstream, %peer,
            reason = end.reason.word(), close_code = end.code.map(|code| code.0),
            duration_ms = millis(end.duration),
            client_bytes = end.from_client.bytes, client_messages = end.from_client.messages,
            upstream_bytes = end.from_upstream.bytes,
            upstream_messages = end.from_upstream.messages, trace_id, "session ended"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let (route, end) = (self.session.route, self.end);
        metrics.change(&ACTIVE, (route,), -1.0);
        metrics.record(&DURATION, (route,), end.duration);
        metrics.count(&CLOSES, (end.code, end.reason));
        let [from_client, from_upstream] = self.rest;
        count_traffic(metrics, route, from_client, from_upstream);
        if let Some(duration) = self.since_revoked {
            metrics.record(&REVOCATION_CLOSE, (), duration);
        }
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let end = self.end;
        let traffic = |Traffic { bytes, messages }| Some(TrafficLine { bytes, messages });
        Some(AuditLine {
            close_code: end.code.map(|code| code.0),
            duration_ms: Some(millis(end.duration)),
            from_client: traffic(end.from_client),
            from_upstream: traffic(end.from_upstream),
            ..self.session.audit_line("session_ended", end.reason.word())
        })
    }
}
