//! The events of test identities.

use std::net::IpAddr;

use tracing::warn;

use crate::model::method::Method;
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event, FloodRefusal};
use crate::telemetry::family::{Name, Word, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// 1 if this process accepts test identities; 0 in production.
    BYPASS_ALLOWED: Gauge = "usher_bypass_allowed";
    /// Test identities received: accepted or refused.
    BYPASS_USED: Counter = "usher_bypass_used_total", { route: Name, outcome: BypassOutcome };
}

words! {
    enum BypassOutcome {
        Accepted = "accepted",
        Refused = "refused",
    }
}

/// Test identities are accepted in this process, on these routes.
#[derive(Debug)]
pub struct BypassAllowed<'a> {
    pub routes: &'a [&'a str],
}

/// A client sent a test identity.
#[derive(Debug)]
pub struct BypassUsed<'a> {
    pub request_id: &'a str,
    pub peer: IpAddr,
    pub route: &'a str,
    /// `None`: the identity was refused.
    pub user: Option<&'a str>,
}

impl Event for BypassAllowed<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "bypass_allowed", routes = ?self.routes,
            "bypass enabled: its secret impersonates any user"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&BYPASS_ALLOWED, (), 1.0);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine::of_process("bypass_allowed", ACCEPTED, self.routes.join(", ")))
    }
}

impl BypassUsed<'_> {
    fn outcome(&self) -> BypassOutcome {
        if self.user.is_some() { BypassOutcome::Accepted } else { BypassOutcome::Refused }
    }
}

impl Event for BypassUsed<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        self.user.is_none().then(|| FloodRefusal::of(self.peer, "bypass_refused"))
    }

    fn log(&self) {
        let Self { request_id, peer, route, user } = *self;
        warn!(
            target: "usher", event = "bypass_used", request_id, %peer, route, user,
            outcome = self.outcome().word(), "test identity received"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&BYPASS_USED, (self.route, self.outcome()));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let outcome = self.outcome().word();
        Some(AuditLine {
            method: Some(Method::Bypass.name()),
            user: self.user,
            route: Some(self.route),
            ..AuditLine::of_request("bypass_used", outcome, self.request_id, self.peer)
        })
    }
}
