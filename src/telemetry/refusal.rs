//! Refused requests: the log line, the metrics and the audit line for the events of all modules.

use std::net::IpAddr;

use super::audit::AuditLine;
use super::event::{FloodRefusal, client_refusal_level, non_empty};
use super::family::{Label, LabelNames, Word};
use super::severity::{Severity, log_at};
use crate::model::method::Method;
use crate::model::trace_context::TraceId;
use crate::rejection::{Rejection, Side};

/// One request, for logs. The path never includes the query.
#[derive(Clone, Copy, Debug)]
pub struct LoggedRequest<'a> {
    pub request_id: &'a str,
    pub peer: IpAddr,
    pub host: &'a str,
    pub path: &'a str,
    /// The name of the route, or empty if no route was found.
    pub route: &'a str,
    pub method: Option<Method>,
    /// The user that the credential proved.
    pub user: Option<&'a str>,
    /// The trace of the request, if it is recorded.
    pub trace_id: Option<TraceId>,
}

/// A refused request, with the name of its event.
#[derive(Clone, Copy, Debug)]
pub struct RefusedRequest<'a> {
    pub event: &'static str,
    pub about: LoggedRequest<'a>,
    pub rejection: &'a Rejection,
}

impl<'a> RefusedRequest<'a> {
    pub fn refusal(&self) -> FloodRefusal {
        let LoggedRequest { peer, method, user, .. } = self.about;
        let keeps_audit = user.is_some() || self.rejection.is_after_login(method);
        FloodRefusal { keeps_audit, ..FloodRefusal::of(peer, self.rejection.facts().label) }
    }

    /// Logs at the level of `[log] refusals` if the client caused the refusal, else as a warning.
    pub fn log(&self) {
        let LoggedRequest { request_id, peer, host, path, route, method, user, trace_id } =
            self.about;
        let (event, facts) = (self.event, self.rejection.facts());
        let level = match facts.side {
            Side::Client => client_refusal_level(),
            _ => Severity::Warn,
        };
        log_at!(
            level, target: "usher", event, request_id, %peer, host, path, route,
            method = method.map(Method::name), user, outcome = facts.label,
            status = facts.status.as_u16(), side = facts.side.name(),
            detail = self.rejection.detail(), trace_id = trace_id.map(tracing::field::display),
            "refused"
        );
    }

    pub fn audit(&self) -> AuditLine<'a> {
        let (about, facts) = (self.about, self.rejection.facts());
        AuditLine {
            user: about.user,
            method: about.method.map(Method::name),
            route: non_empty(about.route),
            host: non_empty(about.host),
            path: non_empty(about.path),
            status: Some(facts.status.as_u16()),
            side: Some(facts.side.name()),
            detail: Some(self.rejection.detail()),
            trace_id: about.trace_id,
            ..AuditLine::of_request(self.event, facts.label, about.request_id, about.peer)
        }
    }
}

impl Label for Rejection {
    type Value<'a> = &'a Self;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        Self::catalogue().iter().map(|rejection| rejection.facts().label).collect()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.facts().label
    }
}

impl Word for Method {
    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn word(self) -> &'static str {
        self.name()
    }

    fn position(self) -> usize {
        self as usize
    }
}
