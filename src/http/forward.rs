//! Plain HTTP: Usher's own endpoints. Everything else is forwarded with streamed bodies.

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Full;

use super::admit::{Admission, Admitted};
use super::connection::ClientConnection;
use super::endpoints::{self, OwnEndpoint};
use super::pending::PendingRequest;
use super::request::{Request, RequestKind, authority_of};
use super::traced::TraceEnd;
use super::witness::UnwatchedAdmission;
use crate::base::clock::Now;
use crate::edge::Edge;
use crate::edge::worker::Worker;
use crate::http::events::HttpForwarded;
use crate::http::events::RequestRejected;
use crate::model::request_id::HexId;
use crate::net::http1::{hop_by_hop, response};
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::traces::RequestPhase;
use crate::upstream::bodies::{AnswerBody, RequestBody};
use crate::upstream::pick::ClientKey;
use crate::upstream::signed_context::ContextRequest;

/// Answers one request. The answer carries the request's id, also if the request is refused.
pub async fn answer(
    request: http::Request<RequestBody>,
    connection: &ClientConnection,
    worker: &Worker,
) -> Response<AnswerBody> {
    let (mut parts, body) = request.into_parts();
    let edge = &worker.edge;
    let authority = authority_of(&parts);
    let forwarding = connection.forwarding(&parts.headers, authority.as_ref());
    connection.attach_certificate(edge, &mut parts);
    let now = Now::read();
    let mut request =
        Request::new(RequestKind::PlainHttp, parts, authority, forwarding, now, &edge.limits);
    let Parts { method, uri, .. } = &request.parts;
    let challenge = edge.acme.as_ref().and_then(|acme| acme.http_answer(method, uri.path()));
    let endpoint = OwnEndpoint::at(uri.path(), method, &edge.config, &edge.tickets);
    let mut answer = match (challenge, endpoint) {
        (Some(challenge), _) => {
            let answer = endpoints::challenge_answer(challenge, request.address());
            whole(settle(connection, false, answer))
        }
        (None, Some(endpoint)) => {
            let answer = endpoint.answer(&mut request, body, edge).await;
            let is_good =
                answer.status().is_success() && endpoint.asks_for_credential(&request.parts.method);
            whole(settle(connection, is_good, answer))
        }
        (None, None) => forward_or_refuse(&mut request, body, connection, worker).await,
    };
    response::set_request_id(answer.headers_mut(), request.request_id.as_str());
    if edge.drain.is_replaced() {
        // The client's next request goes to the process that has taken over.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn forward_or_refuse(
    request: &mut Request,
    body: RequestBody,
    connection: &ClientConnection,
    worker: &Worker,
) -> Response<AnswerBody> {
    let edge = &*worker.edge;
    request.begin_trace(edge);
    let mut pending = PendingRequest::new(request, edge, report_rejected);
    let outcome = forward(&mut pending, body, connection, worker).await;
    pending.end();
    match outcome {
        Ok(answer) => {
            let duration = Now::read().mono - request.started.mono;
            let status = answer.status().as_u16();
            request.end_trace(TraceEnd::Answered(status));
            let about = request.attempt(request.parts.uri.path());
            HttpForwarded { about, status, duration }.emit();
            answer
        }
        Err(rejection) => {
            report_rejected(request, edge, &rejection);
            let mut answer = response::problem(&rejection, request.request_id.as_str());
            // The client can show another certificate only in another handshake.
            if matches!(
                rejection,
                Rejection::AmbiguousRequest(_)
                    | Rejection::InvalidCertificate(_)
                    | Rejection::TooManyConnections
            ) {
                close_connection(&mut answer);
            } else if request.user.is_none() {
                answer = settle(connection, false, answer);
            }
            whole(answer)
        }
    }
}

fn report_rejected(request: &Request, _: &Edge, rejection: &Rejection) {
    request.end_trace(TraceEnd::Rejected(rejection));
    let about = request.attempt(request.parts.uri.path());
    RequestRejected { about, rejection }.emit();
}

/// Admits a request and forwards it.
async fn forward(
    request: &mut Request,
    body: RequestBody,
    connection: &ClientConnection,
    worker: &Worker,
) -> Result<Response<AnswerBody>, Rejection> {
    let edge = &worker.edge;
    let admitted = Admission::of(edge).admit(request, &mut UnwatchedAdmission).await?;
    let Admitted::Granted { grant, matched } = admitted else { return Err(Rejection::Internal) };
    connection.note_credential(request.user.is_some())?;

    let upstream = edge.upstreams.of(&matched.route.upstream).ok_or(Rejection::Internal)?;
    let target = request.prepare_for_upstream(&matched, &edge.reserved)?;
    let mut headers = std::mem::take(&mut request.parts.headers);
    // hyper has sent 100 (Continue) to the client by the time that the body is read.
    headers.remove(EXPECT);
    upstream.name_host(&mut headers);
    // An exchange counts as a session of one request. Its id is not the request id, which a trusted
    // peer may have chosen.
    let session_id = HexId::random();
    let about = ContextRequest {
        session_id: session_id.as_str(),
        upstream: upstream.name(),
        client: request.address(),
        host: request.host(),
        path: request.parts.uri.path(),
    };
    edge.set_identity(&mut headers, &grant, about, request.started);

    let phase = request.begin_phase(RequestPhase::Forward);
    request.write_trace(phase, &mut headers);
    let mut forwarded = http::Request::new(body);
    *forwarded.method_mut() = request.parts.method.clone();
    *forwarded.uri_mut() = target;
    *forwarded.headers_mut() = headers;
    let client = ClientKey::of(&grant, request.address());
    let proxy_header = upstream.proxy_header(|| connection.proxy_header(request.address()));
    let exchange = worker.pool.exchange(&grant, client, upstream, proxy_header, forwarded);
    let exchanged = exchange.await;
    request.end_phase(phase, exchanged.as_ref().err());
    let (answer, place) = exchanged?;
    let (mut parts, body) = answer.into_parts();
    hop_by_hop::strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, AnswerBody::Streamed(body, place)))
}

/// Notes whether the request had a good credential. A stranger without a place in the waiting room
/// gets its answer, and then the connection closes.
fn settle(
    connection: &ClientConnection,
    is_good: bool,
    mut answer: Response<Bytes>,
) -> Response<Bytes> {
    if connection.note_credential(is_good).is_err() {
        close_connection(&mut answer);
    }
    answer
}

fn close_connection(answer: &mut Response<Bytes>) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

fn whole(answer: Response<Bytes>) -> Response<AnswerBody> {
    answer.map(|body| AnswerBody::Whole(Full::new(body)))
}
