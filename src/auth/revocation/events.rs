//! The events of revocations.

use tracing::{info, warn};

use crate::model::revocation::{Revocation, RevocationKind, RevocationScope};
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event};
use crate::telemetry::family::{Word, families};
use crate::telemetry::limit::{Limit, LimitReached};
use crate::telemetry::metrics::Metrics;

families! {
    /// Revocations applied on this node, by kind.
    REVOCATIONS: Counter = "usher_revocations_total", { kind: RevocationKind }, shown;
    /// Revocations in force on this node.
    REVOCATIONS_HELD: Gauge = "usher_revocations_held";
    /// Live sessions ended by revocations.
    REVOKED_SESSIONS: Counter = "usher_revoked_sessions_total";
}

impl Word for RevocationKind {
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

/// An order is in force, and this many live sessions were closed.
#[derive(Debug)]
pub struct Revoked<'a> {
    pub order: &'a Revocation,
    pub closed: usize,
}

/// The deny list is full. The order was not applied.
#[derive(Debug)]
pub struct RevocationRefused<'a> {
    pub order: &'a Revocation,
}

/// The number of entries in the deny list changed.
#[derive(Debug)]
pub struct RevocationsHeld {
    pub count: usize,
}

/// Returns the user, session, token id or time that an order names.
fn named(order: &Revocation) -> String {
    match &order.what {
        RevocationScope::User(name)
        | RevocationScope::Session(name)
        | RevocationScope::TokenId(name) => name.clone(),
        RevocationScope::IssuedBefore { before, user: None } => before.to_rfc3339(),
        RevocationScope::IssuedBefore { before, user: Some(user) } => {
            format!("{} of {user}", before.to_rfc3339())
        }
    }
}

fn audit_line<'a>(event: &'static str, outcome: &'a str, order: &'a Revocation) -> AuditLine<'a> {
    let mut line = AuditLine {
        event,
        outcome,
        order: Some(&order.id),
        ordered_at: Some(order.at.to_rfc3339()),
        issuer: order.issuer.as_deref(),
        ..AuditLine::default()
    };
    match &order.what {
        RevocationScope::User(user) => line.user = Some(user),
        RevocationScope::Session(session) => line.session_id = Some(session),
        RevocationScope::TokenId(token) => line.token_id = Some(token),
        RevocationScope::IssuedBefore { before, user } => {
            line.issued_before = Some(before.to_rfc3339());
            line.user = user.as_deref();
        }
    }
    line
}

impl Event for Revoked<'_> {
    fn log(&self) {
        let Self { order, closed } = *self;
        info!(
            target: "usher", event = "revoked", id = order.id, kind = order.kind().name(),
            named = named(order), issuer = order.issuer.as_deref(),
            until = order.until.to_rfc3339(), closed, "revoked"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&REVOCATIONS, (self.order.kind(),));
        metrics.add(&REVOKED_SESSIONS, (), self.closed as u64);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let Self { order, closed } = *self;
        let (kind, named, until) = (order.kind().name(), named(order), order.until.to_rfc3339());
        let detail =
            format!("{} {kind} {named}; until {until}; {closed} sessions closed", order.id);
        Some(AuditLine { detail: Some(detail), ..audit_line("revoked", ACCEPTED, order) })
    }
}

impl Event for RevocationRefused<'_> {
    fn log(&self) {
        let order = self.order;
        warn!(
            target: "usher", event = "revocation_refused", id = order.id,
            kind = order.kind().name(), named = named(order), "deny list full"
        );
    }

    fn count(&self, metrics: &Metrics) {
        LimitReached::count_only(Limit::Revocations, metrics);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let order = self.order;
        let detail = format!("{} {} {}", order.id, order.kind().name(), named(order));
        Some(AuditLine { detail: Some(detail), ..audit_line("revocation_refused", "full", order) })
    }
}

impl Event for RevocationsHeld {
    fn count(&self, metrics: &Metrics) {
        metrics.set(&REVOCATIONS_HELD, (), self.count as f64);
    }
}
