//! The end of a refused upgrade: its event, and the answer to the client.

use bytes::Bytes;
use http::Response;

use super::client_end::ClientEnd;
use super::last_answer::write_and_close;
use super::request::Request;
use super::traced::TraceEnd;
use crate::auth::grant::Grant;
use crate::auth::ticket::events::TicketLost;
use crate::config::RejectMode;
use crate::edge::Edge;
use crate::http::events::UpgradeRejected;
use crate::net::http1::response;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::ws::frame::{self, Sender};

/// The answer to a client that gets no session.
#[derive(Debug)]
pub struct Refusal {
    pub rejection: Rejection,
    /// The upstream's own answer, if the upstream declined.
    pub answer: Option<Response<Bytes>>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, answer: None }
    }
}

/// Returns the reason of a close frame that is the whole answer to the client.
pub(super) fn with_request_id(reason: &str, request_id: &str) -> String {
    format!("{reason} ({request_id})")
}

impl Request {
    /// Reports the one end of an upgrade that is rejected.
    pub fn report_rejected(&self, edge: &Edge, rejection: &Rejection) {
        let about = self.attempt(edge.tickets.shown_path(self.parts.uri.path()));
        UpgradeRejected { about, rejection }.emit();
        self.end_trace(TraceEnd::Rejected(rejection));
    }

    /// Reports that a ticket was redeemed for a client that has left.
    pub fn report_lost_ticket(&self, grant: &Grant) {
        if let Some(principal) = grant.principal() {
            let request_id = self.request_id.as_str();
            TicketLost { request_id, user: &principal.subject }.emit();
        }
    }

    /// Reports the end of an upgrade and answers it before any 101. The answer is a status, or a
    /// 101 and a close frame if the route's `reject_mode` is `close`.
    pub async fn refuse(&self, edge: &Edge, end: ClientEnd, refusal: Refusal) {
        self.report_rejected(edge, &refusal.rejection);
        let request_id = self.request_id.as_str();
        if let (Some(route), Some(switch)) = (&self.route, &self.switch)
            && route.reject_mode == RejectMode::Close
        {
            debug_assert!(refusal.rejection.can_follow_101(), "{}", refusal.rejection);
            let (code, reason) = refusal.rejection.close(route.close_codes);
            // A client that has left needs no answer.
            let Ok(mut switched) = end.switch(&switch.answer(None, request_id)) else { return };
            switched.stream.note_refusal();
            let mut wire = switched.answer;
            let reason = with_request_id(&reason, request_id);
            wire.extend(frame::close(code, &reason, Sender::Upstream));
            return write_and_close(switched.stream, &wire).await;
        }
        let mut answer =
            refusal.answer.unwrap_or_else(|| response::problem(&refusal.rejection, request_id));
        if let Some(route) = &self.route {
            route.migration.mark(self.method, answer.headers_mut());
        }
        end.refuse(&answer).await;
    }
}
