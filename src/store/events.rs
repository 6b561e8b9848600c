//! The events of all stores.

use tracing::debug;

use super::ExpiredTicket;
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{Event, non_empty};
use crate::telemetry::family::families;
use crate::telemetry::metrics::Metrics;

families! {
    /// Tickets that expired before they were redeemed; with Redis, those that this node issued.
    EXPIRED: Counter = "usher_tickets_expired_total";
}

/// A ticket expired, and was not redeemed before.
#[derive(Debug)]
pub struct TicketExpired<'a>(pub &'a ExpiredTicket);

impl TicketExpired<'_> {
    fn outcome(&self) -> &'static str {
        if self.0.is_certain { "expired" } else { "store_unavailable" }
    }

    /// Returns the name of the route, or an empty one if the ticket is for every route.
    fn route(&self) -> &str {
        self.0.route.as_deref().unwrap_or_default()
    }
}

impl Event for TicketExpired<'_> {
    fn log(&self) {
        let (ticket, route, outcome) = (self.0, self.route(), self.outcome());
        debug!(
            target: "usher", event = "ticket_expired", user = ticket.user,
            issuer = &*ticket.issuer, route, outcome, "ticket expired"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.add(&EXPIRED, (), u64::from(self.0.is_certain));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let ticket = self.0;
        let doubt = "the store did not answer, so the ticket may have been redeemed";
        Some(AuditLine {
            event: "ticket_expired",
            outcome: self.outcome(),
            ticket: Some(ticket.name.as_str()),
            user: Some(&ticket.user),
            issuer: Some(&ticket.issuer),
            route: non_empty(self.route()),
            detail: (!ticket.is_certain).then(|| doubt.to_owned()),
            ..AuditLine::default()
        })
    }
}
