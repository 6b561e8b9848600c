//! The events of tickets, from issue to redemption.

use std::net::IpAddr;
use std::time::Duration;

use tracing::info;

use crate::model::trace_context::TraceId;
use crate::rejection::Rejection;
use crate::store::{RedeemFault, Validity};
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{
    ACCEPTED, Event, FloodRefusal, client_refusal_level, millis, non_empty,
};
use crate::telemetry::family::{Label, LabelNames, Name, families};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::refusal::{LoggedRequest, RefusedRequest};
use crate::telemetry::severity::{Severity, log_at};

families! {
    /// Tickets issued.
    ISSUED: Counter = "usher_tickets_issued_total", { route: Name }, shown;
    /// From the head of a request for a ticket to the ticket.
    ISSUE_DURATION: Histogram = "usher_ticket_issue_duration_seconds";
    /// Ticket requests refused, by the label of the rejection.
    REFUSED: Counter = "usher_tickets_refused_total", { outcome: Rejection };
    /// Tickets redeemed.
    REDEEMED: Counter = "usher_tickets_redeemed_total", { route: Name }, shown;
    /// Tickets received and not redeemed.
    REDEEM_REFUSED: Counter = "usher_tickets_redeem_refused_total",
        { route: Name, fault: RedeemFault };
    /// Ticket validations: valid, other_user, or the fault of the ticket.
    VALIDATED: Counter = "usher_tickets_validated_total", { outcome: Validity };
    /// Tickets redeemed for clients that disconnected before the answer.
    LOST: Counter = "usher_tickets_lost_total";
    /// Tickets in the store.
    HELD: Gauge = "usher_tickets_held";
}

impl Label for RedeemFault {
    type Value<'a> = Self;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        Self::labels().collect()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.label()
    }
}

impl Label for Validity {
    type Value<'a> = Self;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        Self::labels().collect()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.label()
    }
}

/// A ticket was issued.
#[derive(Debug)]
pub struct TicketIssued<'a> {
    pub request_id: &'a str,
    pub ticket: &'a str,
    pub user: &'a str,
    pub issuer: &'a str,
    pub peer: IpAddr,
    pub route: &'a str,
    pub ttl: Duration,
    /// The trace of the request, if it is recorded.
    pub trace_id: Option<TraceId>,
    /// From the complete request head to the ticket.
    pub duration: Duration,
    /// The trace that an exemplar names.
    pub exemplar: Option<TraceId>,
}

/// A request to the ticket endpoint was refused.
#[derive(Debug)]
pub struct TicketRefused<'a> {
    pub about: LoggedRequest<'a>,
    pub rejection: &'a Rejection,
}

/// A ticket was redeemed for a route.
#[derive(Debug)]
pub struct TicketRedeemed<'a> {
    pub request_id: &'a str,
    pub ticket: &'a str,
    pub user: &'a str,
    pub peer: IpAddr,
    pub route: &'a str,
    /// The region that the ticket names.
    pub region: Option<&'a str>,
}

/// A ticket was received and not redeemed.
#[derive(Debug)]
pub struct TicketRedeemRefused<'a> {
    pub request_id: &'a str,
    /// `None`: the ticket is malformed, and may be a password.
    pub ticket: Option<&'a str>,
    /// The user, if the store has the ticket.
    pub user: Option<&'a str>,
    pub peer: IpAddr,
    pub route: &'a str,
    pub fault: RedeemFault,
}

/// A client asked whether a ticket is valid.
#[derive(Debug)]
pub struct TicketValidated<'a> {
    pub request_id: &'a str,
    pub ticket: Option<&'a str>,
    /// The user who asked.
    pub user: &'a str,
    pub issuer: &'a str,
    pub peer: IpAddr,
    pub validity: Validity,
}

/// A client disconnected before it got an answer; its ticket is spent.
#[derive(Debug)]
pub struct TicketLost<'a> {
    pub request_id: &'a str,
    pub user: &'a str,
}

/// The number of tickets in the store changed.
#[derive(Debug)]
pub struct TicketsHeld {
    pub count: usize,
}

impl Event for TicketIssued<'_> {
    fn log(&self) {
        let Self { request_id, user, issuer, peer, route, .. } = *self;
        info!(
            target: "usher", event = "ticket_issued", request_id, user, issuer, %peer, route,
            ttl_ms = millis(self.ttl), trace_id = self.trace_id.map(tracing::field::display),
            "ticket issued"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&ISSUED, (self.route,));
        metrics.record_traced(&ISSUE_DURATION, (), self.duration, self.exemplar);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine {
            ticket: Some(self.ticket),
            user: Some(self.user),
            issuer: Some(self.issuer),
            route: non_empty(self.route),
            detail: Some(format!("valid for {} s", self.ttl.as_secs())),
            trace_id: self.trace_id,
            ..AuditLine::of_request("ticket_issued", ACCEPTED, self.request_id, self.peer)
        })
    }
}

impl<'a> TicketRefused<'a> {
    fn request(&self) -> RefusedRequest<'a> {
        let Self { about, rejection } = *self;
        RefusedRequest { event: "ticket_refused", about, rejection }
    }
}

impl Event for TicketRefused<'_> {
    fn refusal(&self) -> Option<FloodRefusal> {
        Some(self.request().refusal())
    }

    fn log(&self) {
        self.request().log();
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&REFUSED, (self.rejection,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(self.request().audit())
    }
}

impl Event for TicketRedeemed<'_> {
    fn log(&self) {
        let Self { request_id, user, peer, route, region, .. } = *self;
        info!(
            target: "usher", event = "ticket_redeemed", request_id, user, %peer, route, region,
            "ticket redeemed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&REDEEMED, (self.route,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine {
            ticket: Some(self.ticket),
            user: Some(self.user),
            route: Some(self.route),
            detail: self.region.map(|region| format!("region {region}")),
            ..AuditLine::of_request("ticket_redeemed", ACCEPTED, self.request_id, self.peer)
        })
    }
}

impl Event for TicketRedeemRefused<'_> {
    /// Keeps the audit line if the user is known: an unauthenticated client cannot guess a stored
    /// ticket.
    fn refusal(&self) -> Option<FloodRefusal> {
        let keeps_audit = self.user.is_some();
        Some(FloodRefusal { keeps_audit, ..FloodRefusal::of(self.peer, self.fault.label()) })
    }

    fn log(&self) {
        let Self { request_id, user, peer, route, fault, .. } = *self;
        let level = match fault {
            RedeemFault::StoreUnavailable => Severity::Warn,
            _ => client_refusal_level(),
        };
        log_at!(
            level, target: "usher", event = "ticket_redeem_refused", request_id, user, %peer,
            route, fault = fault.label(), "ticket not redeemed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&REDEEM_REFUSED, (self.route, self.fault));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let Self { request_id, peer, fault, .. } = *self;
        Some(AuditLine {
            ticket: self.ticket,
            user: self.user,
            route: Some(self.route),
            detail: Some(fault.to_string()),
            ..AuditLine::of_request("ticket_redeem_refused", fault.label(), request_id, peer)
        })
    }
}

impl Event for TicketValidated<'_> {
    fn log(&self) {
        let Self { request_id, user, issuer, peer, validity, .. } = *self;
        info!(
            target: "usher", event = "ticket_validated", request_id, user, issuer, %peer,
            outcome = validity.label(), "ticket validated"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&VALIDATED, (self.validity,));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let outcome = self.validity.label();
        Some(AuditLine {
            ticket: self.ticket,
            user: Some(self.user),
            issuer: Some(self.issuer),
            ..AuditLine::of_request("ticket_validated", outcome, self.request_id, self.peer)
        })
    }
}

impl Event for TicketLost<'_> {
    fn log(&self) {
        info!(
            target: "usher", event = "ticket_lost", request_id = self.request_id, user = self.user,
            "client disconnected while its ticket was redeemed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&LOST, ());
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine {
            event: "ticket_lost",
            outcome: "client_gone",
            request_id: Some(self.request_id),
            user: Some(self.user),
            ..AuditLine::default()
        })
    }
}

impl Event for TicketsHeld {
    fn count(&self, metrics: &Metrics) {
        metrics.set(&HELD, (), self.count as f64);
    }
}
