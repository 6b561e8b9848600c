//! The recording of one request: its span, and those of its phases.

use std::sync::{Arc, Mutex};

use http::header::HeaderValue;
use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::proto::{HAS_IS_REMOTE, IS_REMOTE, KeyValue, Link, Span, SpanKind, Status, StatusCode};
use super::{IncomingTrace, Tracer, new_span_id};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::model::trace_context::{SpanId, TraceContext, TraceId};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The most phases of one request. Each try of a server has two.
const MOST_PHASES: u8 = 32;

/// A part of a request, with a span of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPhase {
    /// The wait for a first message, from the early 101 on.
    FirstMessage,
    Authenticate,
    /// The connection to a server of the upstream.
    Dial,
    /// The upgrade at that server.
    Upgrade,
    /// A plain request at the upstream, from the choice of a server to the head of the answer.
    Forward,
}

/// The spans of a request until its answer. It is kept also when it is not recorded: the upstream
/// gets a context, and a ticket may make it recorded.
#[derive(Debug)]
pub struct Recording {
    tracer: Arc<Tracer>,
    own: TraceContext,
    /// The caller's span, if its trace goes on.
    parent: Option<SpanId>,
    /// The caller's `tracestate`, if its trace goes on.
    state: String,
    started: Now,
    growing: Mutex<Growing>,
}

/// The part that grows on the way of the request.
#[derive(Debug)]
struct Growing {
    is_sampled: bool,
    links: Vec<(TraceContext, &'static str)>,
    phases: Vec<PhaseRecord>,
}

#[derive(Debug)]
struct PhaseRecord {
    phase: RequestPhase,
    span_id: SpanId,
    begun: Instant,
    /// `None`: it ends with the request.
    ended: Option<Instant>,
    fault: Option<TraceFault>,
    server: Option<Arc<str>>,
}

/// A phase that has begun. It is small, because it is part of each upgrade's future.
#[derive(Clone, Copy, Debug)]
pub struct OpenPhase {
    index: u8,
    span_id: SpanId,
}

/// The facts about a request that has ended.
#[derive(Debug)]
pub struct RequestSummary {
    pub name: String,
    pub attributes: Vec<KeyValue>,
    pub fault: Option<TraceFault>,
}

/// Why a request or a phase failed.
#[derive(Clone, Copy, Debug)]
pub enum TraceFault {
    Rejected {
        label: &'static str,
        /// Whether a server is at fault, or the client has left. A client's mistake is not an error
        /// of this service.
        is_error: bool,
    },
    /// The upstream has answered a plain request with this status.
    Answered(u16),
}

impl RequestPhase {
    fn name(self) -> &'static str {
        match self {
            Self::FirstMessage => "first_message",
            Self::Authenticate => "authenticate",
            Self::Dial => "dial",
            Self::Upgrade => "upgrade",
            Self::Forward => "forward",
        }
    }

    fn kind(self) -> SpanKind {
        match self {
            Self::FirstMessage | Self::Authenticate | Self::Dial => SpanKind::Internal,
            Self::Upgrade | Self::Forward => SpanKind::Client,
        }
    }
}

impl Recording {
    pub(super) fn new(
        tracer: Arc<Tracer>,
        own: TraceContext,
        caller: Option<IncomingTrace<'_>>,
        started: Now,
    ) -> Self {
        let trusted = caller.filter(|caller| caller.is_trusted);
        let stranger = caller.filter(|caller| !caller.is_trusted);
        let links = stranger.map(|caller| (caller.context, "client")).into_iter().collect();
        Self {
            tracer,
            own,
            parent: trusted.map(|caller| caller.context.span_id),
            state: trusted.and_then(|caller| caller.state).unwrap_or_default().to_owned(),
            started,
            growing: Mutex::new(Growing { is_sampled: own.is_sampled, links, phases: Vec::new() }),
        }
    }

    /// Returns the id of the trace, if the request is recorded.
    pub fn recorded(&self) -> Option<TraceId> {
        lock(&self.growing).is_sampled.then_some(self.own.trace_id)
    }

    /// Returns the span of the request.
    pub fn context(&self) -> TraceContext {
        TraceContext { is_sampled: lock(&self.growing).is_sampled, ..self.own }
    }

    /// Returns true if the span has the client's address.
    pub fn has_client_address(&self) -> bool {
        self.tracer.has_client_address()
    }

    /// Links the span in which the ticket of this request was issued. If that one is recorded, this
    /// one is too.
    pub fn link_ticket(&self, issued: TraceContext) {
        let mut growing = lock(&self.growing);
        growing.is_sampled |= issued.is_sampled;
        growing.links.push((issued, "ticket"));
    }

    /// Begins a phase. `None`: the request has too many already.
    pub fn begin(&self, phase: RequestPhase) -> Option<OpenPhase> {
        let span_id = new_span_id()?;
        let mut growing = lock(&self.growing);
        let index = u8::try_from(growing.phases.len()).ok()?;
        (index < MOST_PHASES).then(|| {
            let begun = Now::read().mono;
            growing.phases.push(PhaseRecord {
                phase,
                span_id,
                begun,
                ended: None,
                fault: None,
                server: None,
            });
            OpenPhase { index, span_id }
        })
    }

    pub fn end(&self, open: OpenPhase, fault: Option<TraceFault>) {
        if let Some(record) = lock(&self.growing).phases.get_mut(usize::from(open.index)) {
            record.ended = Some(Now::read().mono);
            record.fault = fault;
        }
    }

    /// Notes the server that a phase is about.
    pub fn note_server(&self, open: OpenPhase, server: &Arc<str>) {
        if let Some(record) = lock(&self.growing).phases.get_mut(usize::from(open.index)) {
            record.server = Some(Arc::clone(server));
        }
    }

    /// Sets the headers for the upstream: the phase is the parent of the upstream's span. The
    /// client's `tracestate` goes on only with its trace.
    pub fn write_headers(&self, open: Option<OpenPhase>, headers: &mut HeaderMap) {
        let own = self.context();
        let span_id = open.map_or(own.span_id, |open| open.span_id);
        let context = TraceContext { span_id, ..own };
        if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }

    /// Ends the request, and queues its spans if it is recorded.
    pub fn finish(&self, summary: impl FnOnce() -> RequestSummary) {
        let growing = lock(&self.growing);
        if !growing.is_sampled {
            return;
        }
        let ended = Now::read().mono;
        let RequestSummary { name, mut attributes, fault } = summary();
        let mut spans = Vec::with_capacity(growing.phases.len() + 1);
        let status = fault.and_then(|fault| fault.describe(&mut attributes));
        spans.push(Span {
            parent_span_id: id(self.parent),
            name,
            kind: SpanKind::Server.into(),
            attributes,
            links: growing.links.iter().map(link).collect(),
            status,
            flags: self.flags(true),
            ..self.span(self.own.span_id, self.started.mono, ended)
        });
        for record in &growing.phases {
            let PhaseRecord { phase, span_id, begun, fault, .. } = *record;
            let mut attributes = Vec::new();
            let status = fault.and_then(|fault| fault.describe(&mut attributes));
            if let Some(server) = &record.server {
                attributes.push(KeyValue::text("usher.server", server));
            }
            spans.push(Span {
                parent_span_id: id(Some(self.own.span_id)),
                name: phase.name().to_owned(),
                kind: phase.kind().into(),
                attributes,
                status,
                flags: self.flags(false),
                ..self.span(span_id, begun, record.ended.unwrap_or(ended))
            });
        }
        drop(growing);
        self.tracer.queue().push(spans, ended);
    }

    fn span(&self, span_id: SpanId, begun: Instant, ended: Instant) -> Span {
        Span {
            trace_id: self.own.trace_id.as_bytes().to_vec(),
            span_id: span_id.as_bytes().to_vec(),
            trace_state: self.state.clone(),
            start_time_unix_nano: self.nanos(begun),
            end_time_unix_nano: self.nanos(ended),
            ..Span::default()
        }
    }

    /// Returns the flags of a span. The parent of the request's own span is of another program.
    fn flags(&self, is_root: bool) -> u32 {
        let remote = if is_root && self.parent.is_some() { IS_REMOTE } else { 0 };
        u32::from(TraceContext { is_sampled: true, ..self.own }.flags()) | HAS_IS_REMOTE | remote
    }

    /// Returns nanoseconds since the Unix epoch. All times of a request are counted from its start,
    /// so that a clock that is set does not tear its spans apart.
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started.mono).as_nanos();
        let started = self.started.wall.0.saturating_mul(1_000_000);
        started.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

fn id(span_id: Option<SpanId>) -> Vec<u8> {
    span_id.map(|span_id| span_id.as_bytes().to_vec()).unwrap_or_default()
}

impl TraceFault {
    /// Adds the attributes of the fault, and returns the status of the span.
    fn describe(self, attributes: &mut Vec<KeyValue>) -> Option<Status> {
        let kind = match self {
            Self::Rejected { label, is_error } => {
                attributes.push(KeyValue::text("usher.rejection", label));
                is_error.then(|| label.to_owned())
            }
            Self::Answered(status) => Some(status.to_string()),
        };
        kind.map(|kind| {
            attributes.push(KeyValue::text("error.type", &kind));
            Status { message: kind, code: StatusCode::Error.into() }
        })
    }
}

fn link((context, relation): &(TraceContext, &'static str)) -> Link {
    Link {
        trace_id: context.trace_id.as_bytes().to_vec(),
        span_id: context.span_id.as_bytes().to_vec(),
        attributes: vec![KeyValue::text("usher.link", relation)],
        flags: u32::from(context.flags()) | HAS_IS_REMOTE | IS_REMOTE,
    }
}
