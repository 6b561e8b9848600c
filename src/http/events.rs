//! Events of a request: forwarded, switched or refused.

use std::net::IpAddr;
use std::time::Duration;

use tracing::info;

use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::model::trace_context::TraceId;
use crate::rejection::{Rejection, Side};
use crate::session::events::{SessionFacts, count_started};
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event, FloodRefusal, client_refusal_level, millis};
use crate::telemetry::family::{Label, LabelNames, Name, Word, families, words};
use crate::telemetry::limit::{Limit, LimitReached};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::refusal::{LoggedRequest, RefusedRequest};
use crate::telemetry::severity::log_at;

families! {
    /// WebSocket upgrades: accepted, or the label of the rejection.
    UPGRADES: Counter = "usher_upgrades_total",
        { route: Name, method: Option<Method>, outcome: UpgradeOutcome };
    /// WebSocket upgrades that arrived, by the protocol of the client: http1, or http2 (RFC 8441).
    UPGRADES_RECEIVED: Counter = "usher_upgrades_received_total", { protocol: Protocol }, shown;
    /// HTTP/2 connections that ended by an error: a flood of frames, another fault of the protocol,
    /// or a client that has gone without a goodbye.
    HTTP2_FAILURES: Counter = "usher_protocol_failures_total", { reason: Http2Fault }, shown;
    /// HTTP/2 streams that were reset because the client broke the protocol in them, such as by a
    /// head that HTTP/2 forbids.
    MALFORMED_STREAMS: Counter = "usher_malformed_streams_total", shown;
    /// From the complete request head to the 101, for accepted upgrades.
    UPGRADE_DURATION: Histogram = "usher_upgrade_duration_seconds", { route: Name }, shown;
    /// How long each phase of an upgrade took: authenticate, dial (a server of the upstream) and
    /// answer (of that server). Each try counts: ok, refused (by the client's fault) or failed.
    PHASE_DURATION: Histogram = "usher_upgrade_phase_duration_seconds",
        { route: Name, method: Option<Method>, phase: Phase, outcome: PhaseOutcome };
    /// From an early 101 to the first message, where one came.
    FIRST_MESSAGE_WAIT: Histogram = "usher_first_message_wait_seconds", { route: Name }, shown;
    /// Plain HTTP requests answered, by class of status.
    REQUESTS: Counter = "usher_http_requests_total", { route: Name, status: StatusClass };
    /// How long forwarded plain HTTP requests took.
    REQUEST_DURATION: Histogram = "usher_http_request_duration_seconds", { route: Name }, shown;
    /// Plain HTTP requests refused, by the label of the rejection.
    REQUESTS_REJECTED: Counter = "usher_http_requests_rejected_total",
        { route: Name, outcome: Rejection };
}

words! {
    /// The protocol of a client.
    pub enum Protocol {
        Http1 = "http1",
        Http2 = "http2",
    }
}

words! {
    /// Why an HTTP/2 connection ended by an error.
    pub enum Http2Fault {
        /// The client has sent too many frames or resets.
        Flood = "flood",
        Protocol = "protocol",
        /// The client has left.
        Gone = "gone",
    }
}

words! {
    /// A phase of an upgrade.
    pub enum Phase {
        Authenticate = "authenticate",
        Dial = "dial",
        Answer = "answer",
    }
}

words! {
    enum PhaseOutcome {
        Ok = "ok",
        Refused = "refused",
        Failed = "failed",
    }
}

words! {
    enum StatusClass {
        Informational = "1xx",
        Success = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
        Other = "other",
    }
}

impl StatusClass {
    fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::Other,
        }
    }
}

/// The outcome of an upgrade. `None`: accepted.
enum UpgradeOutcome {}

impl Label for UpgradeOutcome {
    type Value<'a> = Option<&'a Rejection>;

    fn known<'n>(label: &str, names: &'n LabelNames) -> Vec<&'n str> {
        [&[ACCEPTED], &Rejection::known(label, names)[..]].concat()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.map_or(ACCEPTED, Rejection::text)
    }
}

/// An upgrade was refused, or another request on a route with authentication.
#[derive(Debug)]
pub struct UpgradeRejected<'a> {
    pub about: LoggedRequest<'a>,
    pub rejection: &'a Rejection,
}

/// A WebSocket upgrade has arrived.
#[derive(Debug)]
pub struct UpgradeReceived {
    pub protocol: Protocol,
}

/// A connection ended because its client sent nothing for this time. Browsers open connections that
/// they do not use, so there is no line in the log.
#[derive(Debug)]
pub struct ConnectionSilent {
    pub limit: Limit,
}

/// An HTTP/2 connection ended by an error.
#[derive(Debug)]
pub struct Http2Failed<'a> {
    pub peer: IpAddr,
    pub reason: Http2Fault,
    pub detail: &'a str,
}

/// An HTTP/2 stream was reset before Usher saw a request in it: its head is malformed, or a frame
/// behind it.
#[derive(Debug)]
pub struct Http2StreamMalformed {
    pub peer: IpAddr,
}

/// A plain HTTP request was refused.
#[derive(Debug)]
pub struct RequestRejected<'a> {
    pub about: LoggedRequest<'a>,
    pub rejection: &'a Rejection,
}

/// A plain HTTP request was forwarded and answered.
#[derive(Debug)]
pub struct HttpForwarded<'a> {
    pub about: LoggedRequest<'a>,
    pub status: u16,
    pub duration: Duration,
}

/// An upgrade was accepted, and its session begins.
#[derive(Debug)]
pub struct SessionStarted<'a> {
    pub session: SessionFacts<'a>,
    /// `None` on a public route.
    pub principal: Option<&'a Principal>,
    pub server: &'a str,
    /// From the complete request head to the 101.
    pub handshake: Duration,
    /// The trace that exemplars name.
    pub exemplar: Option<TraceId>,
}

/// A phase of an upgrade has ended. A phase that the client left has no end.
#[derive(Debug)]
pub struct PhaseEnded<'a> {
    pub route: &'a str,
    pub method: Option<Method>,
    pub phase: Phase,
    pub fault: Option<&'a Rejection>,
    pub took: Duration,
    /// The trace that exemplars name.
    pub exemplar: Option<TraceId>,
}

/// A first message with a credential came this long after the 101.
#[derive(Debug)]
pub struct FirstMessageCame<'a> {
    pub route: &'a str,
    pub waited: Duration,
}

impl<'a> UpgradeRejected<'a> {
    fn request(&self) -> RefusedRequest<'a> {
        let Self { about, rejection } = *self;
        RefusedRequest { event: "upgrade_rejected", about, rejection }
    }
}

impl Event for UpgradeRejected<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(self.request().refusal())
    }

    fn log(&self) {
        self.request().log();
    }

    fn count(&self, metrics: &Metrics) {
        let LoggedRequest { route, method, .. } = self.about;
        metrics.count(&UPGRADES, (route, method, Some(self.rejection)));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(self.request().audit())
    }
}

impl<'a> RequestRejected<'a> {
    fn request(&self) -> RefusedRequest<'a> {
        let Self { about, rejection } = *self;
        RefusedRequest { event: "request_rejected", about, rejection }
    }
}

impl Event for RequestRejected<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(self.request().refusal())
    }

    fn log(&self) {
        self.request().log();
    }

    fn count(&self, metrics: &Metrics) {
        let route = self.about.route;
        let status = StatusClass::of(self.rejection.facts().status.as_u16());
        metrics.count(&REQUESTS_REJECTED, (route, self.rejection));
        metrics.count(&REQUESTS, (route, status));
        if *self.rejection == Rejection::HeadTimeout {
            LimitReached::count_only(Limit::HeadTimeout, metrics);
        }
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(self.request().audit())
    }
}

impl Event for UpgradeReceived {
    fn count(&self, metrics: &Metrics) {
        metrics.count(&UPGRADES_RECEIVED, (self.protocol,));
    }
}

impl Event for ConnectionSilent {
    fn count(&self, metrics: &Metrics) {
        LimitReached::count_only(self.limit, metrics);
    }
}

impl Event for Http2Failed<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(FloodRefusal::of(self.peer, "http2_failed"))
    }

    fn log(&self) {
        let Self { peer, reason, detail } = *self;
        log_at!(
            client_refusal_level(), target: "usher", event = "http2_failed", %peer,
            reason = reason.word(), detail, "HTTP/2 connection failed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&HTTP2_FAILURES, (self.reason,));
    }
}

impl Event for Http2StreamMalformed {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(FloodRefusal::of(self.peer, "http2_stream_malformed"))
    }

    fn log(&self) {
        log_at!(
            client_refusal_level(), target: "usher", event = "http2_stream_malformed",
            peer = %self.peer, detail = "HTTP/2 forbids the head, or a frame behind it",
            "HTTP/2 stream reset"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&MALFORMED_STREAMS, ());
    }
}

impl Event for HttpForwarded<'_> {
    fn log(&self) {
        let LoggedRequest { request_id, peer, host, path, route, method, user, trace_id } =
            self.about;
        info!(
            target: "usher", event = "http_forwarded", request_id, %peer, host, path, route,
            method = method.map(Method::name), user, status = self.status,
            duration_ms = millis(self.duration), trace_id = trace_id.map(tracing::field::display),
            "forwarded"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let route = self.about.route;
        metrics.count(&REQUESTS, (route, StatusClass::of(self.status)));
        metrics.record(&REQUEST_DURATION, (route,), self.duration);
    }
}

impl Event for SessionStarted<'_> {
    fn log(&self) {
        let SessionFacts { request_id, session_id, user, route, upstream, peer, .. } = self.session;
        let trace_id = self.session.trace_field();
        info!(
            target: "usher", event = "session_started", request_id, session_id, user,
            method = self.session.method.map(Method::name), route, upstream, server = self.server,
            %peer, duration_ms = millis(self.handshake), trace_id, "session started"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let SessionFacts { route, method, .. } = self.session;
        metrics.count(&UPGRADES, (route, method, None));
        count_started(metrics, route);
        metrics.record_traced(&UPGRADE_DURATION, (route,), self.handshake, self.exemplar);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let principal = self.principal;
        Some(AuditLine {
            issuer: principal.map(|principal| &*principal.issuer),
            token_id: principal.and_then(|principal| principal.token_id.as_deref()),
            token_session: principal.and_then(|principal| principal.issuer_session.as_deref()),
            token_issued_at: principal.map(|principal| principal.issued_at.to_rfc3339()),
            detail: Some(format!("server {}", self.server)),
            ..self.session.audit_line("session_started", ACCEPTED)
        })
    }
}

impl Event for PhaseEnded<'_> {
    fn count(&self, metrics: &Metrics) {
        let Self { route, method, phase, fault, took, exemplar } = *self;
        let outcome = match fault.map(|fault| fault.facts().side) {
            None => PhaseOutcome::Ok,
            Some(Side::Client) => PhaseOutcome::Refused,
            Some(_) => PhaseOutcome::Failed,
        };
        let labels = (route, method, phase, outcome);
        metrics.record_traced(&PHASE_DURATION, labels, took, exemplar);
    }
}

impl Event for FirstMessageCame<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.record(&FIRST_MESSAGE_WAIT, (self.route,), self.waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::close::{CloseReason, SessionEnd, Traffic};
    use crate::session;
    use crate::session::events::SessionEnded;
    use crate::telemetry::event::testing::TestOutlet;
    use crate::ws::close_code::CloseCode;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SESSION: SessionFacts<'static> = SessionFacts {
        request_id: "r1",
        session_id: "s1",
        user: Some("ann"),
        method: Some(Method::Ticket),
        route: "/ws",
        upstream: "chat",
        peer: PEER,
        trace_id: None,
    };
    const ATTEMPT: LoggedRequest<'static> = LoggedRequest {
        request_id: "r2",
        peer: PEER,
        host: "h",
        path: "/ws",
        route: "/ws",
        method: None,
        user: None,
        trace_id: None,
    };

    fn outlet() -> TestOutlet {
        TestOutlet::new(
            &[FAMILIES, session::events::FAMILIES].concat(),
            &LabelNames::default().with("route", ["/ws"]),
        )
    }

    #[test]
    fn a_session_counts_and_leaves_its_lines_under_one_request_id() {
        let outlet = outlet();
        let end = SessionEnd {
            reason: CloseReason::ClientClosed,
            code: Some(CloseCode::NORMAL),
            duration: Duration::from_secs(90),
            from_client: Traffic { bytes: 7, messages: 1 },
            from_upstream: Traffic { bytes: 900, messages: 3 },
        };
        let (handshake, exemplar) = (Duration::ZERO, None);
        let started = SessionStarted {
            session: SESSION,
            principal: None,
            server: "a:1",
            handshake,
            exemplar,
        };
        outlet.emit(&started);
        outlet.emit(&started);
        let rest = [end.from_client, end.from_upstream];
        outlet.emit(&SessionEnded { session: SESSION, end: &end, rest, since_revoked: None });
        outlet.emit(&UpgradeRejected { about: ATTEMPT, rejection: &Rejection::MissingCredential });

        let text = outlet.metrics();
        for line in [
            "usher_sessions_active{route=\"/ws\"} 1",
            "usher_upgrades_total{route=\"/ws\",method=\"ticket\",outcome=\"accepted\"} 2",
            "usher_upgrades_total{route=\"/ws\",method=\"none\",outcome=\"missing_credential\"} 1",
            "usher_session_closes_total{code=\"1000\",reason=\"client_closed\"} 1",
            "usher_relay_bytes_total{route=\"/ws\",direction=\"from_upstream\"} 900",
            "usher_session_duration_seconds_bucket{route=\"/ws\",le=\"300.0\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let lines = outlet.audit_lines();
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line["event"].as_str().unwrap(), line["request_id"].as_str().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                ("session_started", "r1"),
                ("session_started", "r1"),
                ("session_ended", "r1"),
                ("upgrade_rejected", "r2")
            ]
        );
        assert_eq!(
            (&lines[2]["outcome"], &lines[2]["from_client"]["bytes"]),
            (&"client_closed".into(), &7.into())
        );
        assert_eq!((&lines[3]["status"], &lines[3]["side"]), (&401.into(), &"client".into()));
    }

    #[test]
    fn each_try_of_a_phase_counts_by_route_method_and_outcome() {
        let outlet = outlet();
        let timeout = Rejection::UpstreamTimeout;
        let phase = |phase, fault| PhaseEnded {
            route: "/ws",
            method: Some(Method::Ticket),
            phase,
            fault,
            took: Duration::from_millis(3),
            exemplar: None,
        };
        assert!(!outlet.metrics().contains("usher_upgrade_phase_duration_seconds_count{"));
        outlet.emit(&phase(Phase::Authenticate, Some(&Rejection::MissingCredential)));
        outlet.emit(&phase(Phase::Dial, Some(&timeout)));
        outlet.emit(&phase(Phase::Dial, None));
        let text = outlet.metrics();
        let series = text
            .lines()
            .filter_map(|line| line.strip_prefix("usher_upgrade_phase_duration_seconds_count{"));
        let series: Vec<&str> = series.collect();
        assert_eq!(
            series,
            [
                "route=\"/ws\",method=\"ticket\",phase=\"authenticate\",outcome=\"refused\"} 1",
                "route=\"/ws\",method=\"ticket\",phase=\"dial\",outcome=\"failed\"} 1",
                "route=\"/ws\",method=\"ticket\",phase=\"dial\",outcome=\"ok\"} 1",
            ]
        );
    }

    #[test]
    fn events_before_telemetry_is_installed_are_harmless() {
        UpgradeRejected { about: ATTEMPT, rejection: &Rejection::Internal }.emit();
    }

    #[test]
    fn a_refusal_of_a_known_user_names_the_user_and_keeps_its_audit_line() {
        for user in [None, Some("ann")] {
            let about = LoggedRequest { user, ..ATTEMPT };
            let rejected = UpgradeRejected { about, rejection: &Rejection::StoreUnavailable };
            assert_eq!(rejected.refusal().unwrap().keeps_audit, user.is_some());
            assert_eq!(rejected.audit().unwrap().user, user);
        }
    }

    #[test]
    fn every_rejection_counts_under_its_own_label() {
        let outlet = outlet();
        for rejection in Rejection::catalogue() {
            let about = LoggedRequest { method: Some(Method::Header), ..ATTEMPT };
            outlet.emit(&UpgradeRejected { about, rejection: &rejection });
        }
        let text = outlet.metrics();
        let lines = text.lines().filter(|line| line.starts_with("usher_upgrades_total{"));
        let lines: Vec<&str> = lines
            .inspect(|line| assert!(line.ends_with(" 1") && !line.contains("other"), "{line}"))
            .collect();
        assert_eq!(lines.len(), Rejection::catalogue().len());
    }
}
