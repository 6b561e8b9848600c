//! The span of a request: where it begins, its phases, and what it tells the receiver of traces.
//!
//! Attributes have the names of OpenTelemetry's conventions for HTTP servers, or begin with
//! `usher.`. None has a path, a query, a user or a credential: the route's pattern stands for the
//! path.

use std::sync::Arc;

use http::{HeaderMap, Method, Version};

use super::request::Request;
use crate::edge::Edge;
use crate::model::trace_context::TraceContext;
use crate::rejection::{Rejection, Side};
use crate::traces::proto::KeyValue;
use crate::traces::recording::{OpenPhase, TRACEPARENT, TRACESTATE, TraceFault};
use crate::traces::{IncomingTrace, Recording, RequestPhase, RequestSummary};

/// The longest `tracestate` that goes on: W3C Trace Context section 3.3.1.5.
const MOST_STATE: usize = 512;

/// How a traced request ended.
#[derive(Clone, Copy, Debug)]
pub enum TraceEnd<'a> {
    /// A session has begun.
    Session {
        session_id: &'a str,
        upstream: &'a str,
        server: &'a str,
    },
    Rejected(&'a Rejection),
    /// The answer has this status.
    Answered(u16),
}

impl Request {
    /// Begins the span of the request, if requests are traced.
    pub fn begin_trace(&mut self, edge: &Edge) {
        if let Some(tracer) = &edge.tracer {
            let caller = self.caller();
            self.trace = tracer.begin(caller, self.started).map(Box::new);
        }
    }

    /// Begins a phase. `None`: nothing is traced.
    pub fn begin_phase(&self, phase: RequestPhase) -> Option<OpenPhase> {
        self.trace.as_ref()?.begin(phase)
    }

    pub fn end_phase(&self, open: Option<OpenPhase>, fault: Option<&Rejection>) {
        if let (Some(trace), Some(open)) = (&self.trace, open) {
            trace.end(open, fault.map(fault_of));
        }
    }

    /// Notes the server that a phase is about.
    pub fn note_server(&self, open: Option<OpenPhase>, server: impl FnOnce() -> Arc<str>) {
        if let (Some(trace), Some(open)) = (&self.trace, open) {
            trace.note_server(open, &server());
        }
    }

    /// Sets the headers that tell the upstream its place in the trace. Without tracing, those of
    /// the client go on.
    pub fn write_trace(&self, open: Option<OpenPhase>, headers: &mut HeaderMap) {
        if let Some(trace) = &self.trace {
            trace.write_headers(open, headers);
        }
    }

    /// Returns the trace that a ticket for this request keeps, as `traceparent` has it. A stranger
    /// must not choose which redemptions are recorded.
    pub fn trace_for_ticket(&self) -> Option<String> {
        let context = match &self.trace {
            Some(trace) => trace.context(),
            None => {
                let IncomingTrace { context, is_trusted, .. } = self.caller()?;
                TraceContext { is_sampled: context.is_sampled && is_trusted, ..context }
            }
        };
        Some(context.to_string())
    }

    /// Ends the span of a request on a route.
    pub fn end_trace(&self, end: TraceEnd<'_>) {
        let route = self.route.as_ref().map(|route| &*route.name);
        self.end_trace_at(route, end);
    }

    /// Ends the span of a request. `route` is the pattern of its path, if there is one.
    pub fn end_trace_at(&self, route: Option<&str>, end: TraceEnd<'_>) {
        if let Some(trace) = &self.trace {
            trace.finish(|| self.summary(trace, route, end));
        }
    }

    fn summary(&self, trace: &Recording, route: Option<&str>, end: TraceEnd<'_>) -> RequestSummary {
        let method = known_method(&self.parts.method);
        let scheme = if self.forwarding.is_secure() { "https" } else { "http" };
        let mut attributes = vec![
            KeyValue::text("http.request.method", method),
            KeyValue::text("url.scheme", scheme),
            KeyValue::text("usher.request.id", self.request_id.as_str()),
        ];
        let mut add = |key, value: Option<&str>| {
            attributes.extend(value.map(|value| KeyValue::text(key, value)));
        };
        add("http.route", route);
        add("server.address", Some(self.host()).filter(|host| !host.is_empty()));
        add("network.protocol.version", Some(protocol_version(self.parts.version)));
        add("usher.upgrade", self.is_upgrade().then_some("websocket"));
        add("usher.auth.method", self.method.map(crate::model::method::Method::name));
        let address = trace.has_client_address().then(|| self.address().to_string());
        add("client.address", address.as_deref());
        let (status, fault) = match end {
            TraceEnd::Session { session_id, upstream, server } => {
                add("usher.session.id", Some(session_id));
                add("usher.upstream", Some(upstream));
                add("usher.server", Some(server));
                (Some(if self.parts.version == Version::HTTP_2 { 200 } else { 101 }), None)
            }
            TraceEnd::Rejected(rejection) => {
                let status = rejection.facts().status.as_u16();
                let is_answered = *rejection != Rejection::ClientGone;
                (is_answered.then_some(status), Some(fault_of(rejection)))
            }
            TraceEnd::Answered(status) => {
                (Some(status), (status >= 500).then_some(TraceFault::Answered(status)))
            }
        };
        if let Some(status) = status {
            attributes.push(KeyValue::number("http.response.status_code", status));
        }
        let name = match route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        };
        RequestSummary { name, attributes, fault }
    }

    /// Returns the trace that the request came with.
    fn caller(&self) -> Option<IncomingTrace<'_>> {
        let headers = &self.parts.headers;
        let context = single(headers, &TRACEPARENT).and_then(TraceContext::parse)?;
        let state = single(headers, &TRACESTATE).filter(|state| state.len() <= MOST_STATE);
        Some(IncomingTrace { context, state, is_trusted: self.forwarding.is_trusted() })
    }
}

/// Returns the fault of a rejection. A client's mistake is not an error of this service, but a
/// client that has left may have waited for too long.
fn fault_of(rejection: &Rejection) -> TraceFault {
    let facts = rejection.facts();
    let is_error = facts.side != Side::Client || *rejection == Rejection::ClientGone;
    TraceFault::Rejected { label: facts.label, is_error }
}

/// Returns the value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Returns a method of HTTP. The name of any other method is the client's, and could be anything.
fn known_method(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT"
        | "TRACE") => known,
        _ => "_OTHER",
    }
}

fn protocol_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
