//! An upgrade, from its head to a session.
//!
//! `admit.rs` takes it to a grant, `reach.rs` to an upstream that accepts it, `open_session.rs` to
//! a session. A client without a credential goes to `first_message.rs` if the route takes one in
//! the first message. Each upgrade ends in exactly one rejection or one session end.

use super::admit::{Admission, Admitted};
use super::client_end::{ClientEnd, Switched};
use super::connection::ClientConnection;
use super::first_message;
use super::open_session::{ClientSide, open_session};
use super::pending::PendingRequest;
use super::reach::{OpenedUpstream, reach};
use super::refusal::Refusal;
use super::request::{Request, RequestKind};
use super::witness::UnwatchedAdmission;
use crate::auth::first_message::Dialect;
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::config::RouteMatch;
use crate::edge::Edge;
use crate::edge::worker::Worker;
use crate::http::events::UpgradeReceived;
use crate::model::client_certificate::ClientCertificate;
use crate::model::method::Method;
use crate::net::http1::head::RequestHead;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::ws::deflate;

/// Serves an upgrade to its end, or to the session that it becomes.
pub async fn run(
    mut end: ClientEnd,
    head: RequestHead,
    connection: ClientConnection,
    worker: Worker,
) {
    let edge = &*worker.edge;
    let mut request = request_of(head, &connection, edge);
    request.begin_trace(edge);
    UpgradeReceived { protocol: end.protocol() }.emit();
    let (peer, now) = (request.address(), request.started.mono);
    if let Err(retry_after) = edge.upgrade_rates.allow(peer, now) {
        let rejection = Rejection::TooManyUpgrades { retry_after };
        return request.refuse(edge, end, rejection.into()).await;
    }
    let mut pending = PendingRequest::new(&mut request, edge, Request::report_rejected);
    let outcome = match Admission::of(edge).admit(&mut pending, &mut UnwatchedAdmission).await {
        Ok(Admitted::AwaitsFirstMessage(matched)) => {
            pending.end();
            return Box::pin(first_message::run(end, request, matched, connection, edge)).await;
        }
        Ok(Admitted::Granted { grant, matched }) => {
            let reached = open_granted(&mut end, &mut pending, &grant, &matched, &connection, edge);
            reached.await.map(|reached| (grant, reached))
        }
        Err(rejection) => Err(rejection.into()),
    };
    pending.end();
    match outcome {
        Ok((grant, mut reached)) => {
            if grant.is_renewed_by_message() {
                deflate::make_readable(&mut reached.headers);
            }
            grant.route().migration.mark(grant.method(), &mut reached.headers);
            if let Some(switch) = &request.switch {
                switch.choose_marker(&mut reached.headers);
            }
            let Ok(Switched { stream, answer, early }) = end.switch(&reached.headers) else {
                if grant.method() == Some(Method::Ticket) {
                    request.report_lost_ticket(&grant);
                }
                return request.report_rejected(edge, &Rejection::ClientGone);
            };
            let side = ClientSide {
                stream,
                answer,
                ahead: Vec::new(),
                early: early.to_vec(),
                welcome: None,
                dialect: Dialect::new(&grant.route().first_message),
                inflates: false,
                permit: connection.permit,
                certificate: connection
                    .certificate
                    .filter(|_| grant.method() == Some(Method::Mtls))
                    .map(ClientCertificate::into_leaf),
                stranger: connection.standing.take_place(),
            };
            open_session(side, grant, reached, request, edge).await;
        }
        Err(refusal) => request.refuse(edge, end, refusal).await,
    }
}

fn request_of(head: RequestHead, connection: &ClientConnection, edge: &Edge) -> Request {
    let RequestHead { mut parts, host, .. } = head;
    let forwarding = connection.forwarding(&parts.headers, host.as_ref());
    connection.attach_certificate(edge, &mut parts);
    let request =
        Request::new(RequestKind::Upgrade, parts, host, forwarding, Now::read(), &edge.limits);
    Request { deadline: connection.deadline, ..request }
}

/// Reaches the upstream of a granted upgrade. If the client leaves meanwhile, the dial is dropped.
async fn open_granted(
    end: &mut ClientEnd,
    request: &mut Request,
    grant: &Grant,
    matched: &RouteMatch,
    connection: &ClientConnection,
    edge: &Edge,
) -> Result<OpenedUpstream, Refusal> {
    connection.note_grant(grant, request.address())?;
    if grant.is_renewed_by_message() {
        deflate::keep_readable_offers(&mut request.parts.headers);
    }
    tokio::select! {
        biased;
        reached = Box::pin(reach(grant, matched, request, connection, edge)) => reached,
        () = end.client_gone() => {
            if grant.method() == Some(Method::Ticket) {
                request.report_lost_ticket(grant);
            }
            Err(Rejection::ClientGone.into())
        }
    }
}
