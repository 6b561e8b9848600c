//! A request of a client, and the facts about it that become known on its way to an upstream.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Uri};
use tokio::time::Instant;

use super::events::{self, PhaseEnded};
use super::forwarding::Forwarding;
use super::headers;
use super::switch::UpgradeOffer;
use crate::auth::Presented;
use crate::base::clock::Now;
use crate::config::RouteMatch;
use crate::config::{Limits, Route};
use crate::migration::shadow::Shadow;
use crate::model::method::Method;
use crate::model::request_id::RequestId;
use crate::model::trace_context::{TraceContext, TraceId};
use crate::net::http1::host::Authority;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::refusal::LoggedRequest;
use crate::traces::Recording;
use crate::upstream::reserved_names::ReservedNames;

/// A request whose head was read.
#[derive(Debug)]
pub struct Request {
    pub kind: RequestKind,
    /// The head. Credentials are removed from it when they are found.
    pub parts: Parts,
    /// The Host header, or the host of an absolute target. `None` in HTTP/1.0 only.
    pub authority: Option<Authority>,
    pub forwarding: Forwarding,
    pub request_id: RequestId,
    pub started: Now,
    /// When the credential arrived: with the head, or in the first message.
    pub credential_at: Now,
    /// The deadline for the verification of the credential.
    pub deadline: Instant,

    /// The route that matched.
    pub route: Option<Arc<Route>>,
    /// The recorded trace of which the client says that the request is a part.
    pub client_trace: Option<TraceId>,
    /// The method of the credential, good or not.
    pub method: Option<Method>,
    /// The user that the credential proved.
    pub user: Option<Box<str>>,
    pub origin: Option<String>,
    /// The credentials that the route's shadow methods found.
    pub shadow: Shadow,
    /// Usher's own 101 for a well-formed upgrade on a route.
    pub switch: Option<UpgradeOffer>,
    /// `None`: nothing is traced.
    pub trace: Option<Box<Recording>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Upgrade,
    PlainHttp,
}

impl Request {
    pub fn new(
        kind: RequestKind,
        parts: Parts,
        authority: Option<Authority>,
        forwarding: Forwarding,
        started: Now,
        limits: &Limits,
    ) -> Self {
        Self {
            kind,
            client_trace: trace_of(&parts.headers),
            request_id: headers::request_id(&parts.headers, forwarding.is_trusted()),
            parts,
            authority,
            forwarding,
            started,
            credential_at: started,
            deadline: started.mono + limits.handshake_timeout,
            route: None,
            method: None,
            user: None,
            origin: None,
            shadow: Shadow::default(),
            switch: None,
            trace: None,
        }
    }

    pub fn is_upgrade(&self) -> bool {
        self.kind == RequestKind::Upgrade
    }

    /// Returns true if a browser may send the request without naming the page, and the request
    /// changes nothing.
    pub fn is_safe(&self) -> bool {
        self.kind == RequestKind::PlainHttp && self.parts.method.is_safe()
    }

    /// Returns the address of the client, which a trusted proxy may have named.
    pub fn address(&self) -> IpAddr {
        self.forwarding.client()
    }

    /// Returns the host by which routes are chosen; empty if the request names none.
    pub fn host(&self) -> &str {
        self.authority.as_ref().map_or("", Authority::name)
    }

    /// Returns true if the credential may come in the first message.
    pub fn takes_first_message(&self, route: &Route) -> bool {
        self.is_upgrade() && route.auth.contains(&Method::Message)
    }

    /// Returns the facts that a credential is verified with.
    pub fn presented(&self) -> Presented<'_> {
        Presented {
            request_id: self.request_id.as_str(),
            origin: self.origin.as_deref(),
            peer: self.address(),
            now: self.credential_at,
        }
    }

    /// Prepares the headers for the upstream, and returns the target that it is asked for.
    pub fn prepare_for_upstream(
        &mut self,
        matched: &RouteMatch,
        reserved: &ReservedNames,
    ) -> Result<Uri, Rejection> {
        headers::prepare(
            &mut self.parts.headers,
            &matched.route,
            reserved,
            &self.forwarding,
            &self.request_id,
        );
        matched.upstream_target(&self.parts.uri)
    }

    /// Returns the request as events name it. `path` is the path as logs may show it.
    pub fn attempt<'a>(&'a self, path: &'a str) -> LoggedRequest<'a> {
        LoggedRequest {
            request_id: self.request_id.as_str(),
            peer: self.address(),
            host: self.host(),
            path,
            route: self.route.as_ref().map(|route| &*route.name).unwrap_or_default(),
            method: self.method,
            user: self.user.as_deref(),
            trace_id: self.trace_id(),
        }
    }

    /// Reports the end of a phase that began then.
    pub fn report_phase(&self, phase: events::Phase, began: Instant, fault: Option<&Rejection>) {
        PhaseEnded {
            route: self.route.as_ref().map(|route| &*route.name).unwrap_or_default(),
            method: self.method,
            phase,
            fault,
            took: began.elapsed(),
            exemplar: self.exemplar(),
        }
        .emit();
    }

    /// Returns the id of the trace, if the request is recorded.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace.as_ref()?.recorded()
    }

    /// Returns the trace that exemplars name: Usher's, or else the client's.
    pub fn exemplar(&self) -> Option<TraceId> {
        self.trace_id().or(self.client_trace)
    }
}

/// Returns the recorded trace that one `traceparent` names.
fn trace_of(headers: &HeaderMap) -> Option<TraceId> {
    let mut values = headers.get_all("traceparent").iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let context = TraceContext::parse(value.to_str().ok()?)?;
    context.is_sampled.then_some(context.trace_id)
}

/// Returns the origin of the page. Rejects two `Origin` headers: which one was checked would be
/// left to chance.
pub fn origin_of(headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(None),
        (Some(origin), None) => Ok(Some(String::from_utf8_lossy(origin.as_bytes()).into_owned())),
        _ => Err(Rejection::AmbiguousRequest("a request has at most one Origin")),
    }
}

/// Returns the Host header, or the host of an absolute target. The strict reader checked both.
pub fn authority_of(parts: &Parts) -> Option<Authority> {
    let host = match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => parts.uri.authority().map(http::uri::Authority::as_str),
    };
    host.and_then(Authority::parse)
}
