//! `POST {path}`, `GET {path}/{id}/validate`, and the preflight of both.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tokio::time::timeout_at;

use super::{allow_origin, json_answer, preflight, refusal};
use crate::auth::ticket::events::TicketIssued;
use crate::auth::ticket::events::TicketRefused;
use crate::auth::ticket::{self, Issued, TicketAsker};
use crate::base::clock::Now;
use crate::base::strict_json;
use crate::config::{Config, Route};
use crate::edge::Edge;
use crate::http::admit::{Admission, check_asking_origin, check_endpoint_origin};
use crate::http::pending::PendingRequest;
use crate::http::request::{Request, origin_of};
use crate::http::traced::TraceEnd;
use crate::http::witness::UnwatchedAdmission;
use crate::model::method::Method as LoginMethod;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::net::http1::host::Authority;
use crate::rejection::Rejection;
use crate::store::TicketHash;
use crate::telemetry::Event;
use crate::telemetry::refusal::LoggedRequest;
use crate::upstream::bodies::RequestBody;

/// The longest request body that is read, in bytes.
const MAX_BODY: usize = 4096;

enum Operation {
    Issue,
    Validate(Secret),
}

pub(super) async fn answer(
    request: &mut Request,
    body: RequestBody,
    edge: &Edge,
) -> Response<Bytes> {
    if request.parts.method != Method::OPTIONS {
        request.begin_trace(edge);
    }
    let mut pending = PendingRequest::new(request, edge, report_refused);
    let outcome = respond(&mut pending, body, edge).await;
    pending.end();
    let mut answer = match outcome {
        Ok(answer) => {
            end_trace(request, edge, TraceEnd::Answered(answer.status().as_u16()));
            answer
        }
        Err(rejection) => {
            report_refused(request, edge, &rejection);
            refusal(&rejection, request.request_id.as_str())
        }
    };
    let origins = &edge.config.tickets.asking_origins;
    allow_origin(origins, request.origin.as_deref(), answer.headers_mut());
    answer
}

fn report_refused(request: &Request, edge: &Edge, rejection: &Rejection) {
    end_trace(request, edge, TraceEnd::Rejected(rejection));
    // The path of a validation has the ticket.
    let about =
        LoggedRequest { host: host_of(request), ..request.attempt(&edge.config.tickets.path) };
    TicketRefused { about, rejection }.emit();
}

fn end_trace(request: &Request, edge: &Edge, end: TraceEnd<'_>) {
    let path = &edge.config.tickets.path;
    if request.parts.uri.path() == path {
        request.end_trace_at(Some(path), end);
    } else {
        request.end_trace_at(Some(&format!("{path}/{{ticket}}/validate")), end);
    }
}

async fn respond(
    request: &mut Request,
    body: RequestBody,
    edge: &Edge,
) -> Result<Response<Bytes>, Rejection> {
    request.origin = origin_of(&request.parts.headers)?;
    let whole = timeout_at(request.deadline, Limited::new(body, MAX_BODY).collect()).await;
    let Ok(Ok(body)) = whole else {
        return Err(Rejection::AmbiguousRequest(
            "the body is too long, or did not arrive whole in time",
        ));
    };
    // A preflight does not name the route.
    check_asking_origin(request, &edge.config.tickets, &mut UnwatchedAdmission)?;
    let path = request.parts.uri.path();
    let operation = operation_at(path, &edge.config.tickets.path).ok_or(Rejection::NoRoute)?;
    let (method, allow) = match operation {
        Operation::Issue => (Method::POST, "POST, OPTIONS"),
        Operation::Validate(_) => (Method::GET, "GET, OPTIONS"),
    };
    if request.parts.method == Method::OPTIONS {
        return Ok(preflight(HeaderValue::from_static(allow)));
    }
    if request.parts.method != method {
        return Err(Rejection::MethodNotAllowed { allow });
    }
    match operation {
        Operation::Issue => issue(request, &body.to_bytes(), edge).await,
        Operation::Validate(ticket) => validate(request, &ticket, edge).await,
    }
}

fn operation_at(path: &str, endpoint: &str) -> Option<Operation> {
    match path.strip_prefix(endpoint)? {
        "" => Some(Operation::Issue),
        rest => rest
            .strip_prefix('/')?
            .strip_suffix("/validate")
            .filter(|id| !id.contains('/'))
            .map(|id| Operation::Validate(Secret::from(id))),
    }
}

async fn identify(request: &mut Request, edge: &Edge) -> Result<Principal, Rejection> {
    let (pages, witness) = (&edge.config.tickets.origins, &mut UnwatchedAdmission);
    check_endpoint_origin(request, pages, witness)?;
    let identified = Admission::of(edge).identify(request, &edge.tickets, pages, witness).await?;
    identified.ok_or(Rejection::MissingCredential)
}

async fn issue(
    request: &mut Request,
    body: &[u8],
    edge: &Edge,
) -> Result<Response<Bytes>, Rejection> {
    let wanted = read_request(body)?;
    // Checked before the credential, and before the pages that may request tickets: a client can
    // then fall back to another method at once.
    edge.tickets.check_takes_tickets(wanted.route.as_deref())?;
    let principal = identify(request, edge).await?;
    let issuer = principal.issuer.clone();
    let traceparent = request.trace_for_ticket();
    let peer = request.address();
    let traceparent = traceparent.as_deref();
    let asking = TicketAsker { origin: request.origin.as_deref(), peer, traceparent };
    let issued = edge.tickets.issue(principal, wanted, asking, request.started).await?;
    let ttl = issued.expires_at.since(issued.created_at);
    let name = TicketHash::of(&issued.ticket).name();
    TicketIssued {
        request_id: request.request_id.as_str(),
        ticket: name.as_str(),
        user: request.user.as_deref().unwrap_or_default(),
        issuer: &issuer,
        peer,
        route: issued.route.as_ref().map_or("", |route| &*route.name),
        ttl,
        trace_id: request.trace_id(),
        duration: Now::read().mono.saturating_duration_since(request.started.mono),
        exemplar: request.exemplar(),
    }
    .emit();
    let ticket = issued.ticket.expose_str().unwrap_or_default();
    Ok(json_answer(
        StatusCode::CREATED,
        &json!({
            "ticket_id": ticket,
            "expires_at": issued.expires_at.0,
            "created_at": issued.created_at.0,
            "ttl_seconds": ttl.as_millis().div_ceil(1000) as u64,
            "single_use": issued.single_use,
            "websocket_url": websocket_url(&issued, ticket, request, &edge.config),
        }),
    ))
}

/// Returns a URL that can be opened as it is, if the configuration determines the path.
fn websocket_url(
    issued: &Issued,
    ticket: &str,
    request: &Request,
    config: &Config,
) -> Option<String> {
    let opens = |route: &&std::sync::Arc<Route>| {
        route.looks_at(LoginMethod::Ticket) && route.path.is_literal()
    };
    let route = match &issued.route {
        Some(route) => Some(route).filter(opens),
        None => config.routes.iter().find(opens),
    }?;
    let host = request.forwarding.host();
    if host.is_empty() {
        return None;
    }
    let scheme = if request.forwarding.is_secure() { "wss" } else { "ws" };
    Some(format!("{scheme}://{host}{}?{}={ticket}", route.path, route.ticket_parameter))
}

async fn validate(
    request: &mut Request,
    ticket: &Secret,
    edge: &Edge,
) -> Result<Response<Bytes>, Rejection> {
    let owner = identify(request, edge).await?;
    let asked = (request.request_id.as_str(), request.address());
    let found = edge.tickets.validate(ticket, &owner, asked, request.started).await?;
    Ok(json_answer(
        StatusCode::OK,
        &json!({
            "valid": found.is_some(),
            "expires_at": found.as_ref().map(|record| record.expires_at.0),
            "single_use": found.as_ref().map(|record| record.single_use),
        }),
    ))
}

fn read_request(body: &[u8]) -> Result<ticket::TicketRequest, Rejection> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(ticket::TicketRequest::default());
    }
    let wrong = Rejection::InvalidRequest(
        "the body is not a JSON object with the fields ttl_seconds, single_use, permissions and \
         route",
    );
    strict_json::record(body).map_err(|_| wrong)
}

/// Returns the Host header with its port; empty if the request has none.
fn host_of(request: &Request) -> &str {
    request.authority.as_ref().map_or("", Authority::as_str)
}
