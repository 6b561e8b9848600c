//! The ticket endpoint: `POST {path}`, `GET {path}/{id}/validate`, and the preflight of both.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use super::{Asking, Issued, Request, Tickets};
use crate::auth;
use crate::auth::credential::{self, Credential, Proof};
use crate::auth::principal::Principal;
use crate::clock::Now;
use crate::config::Route;
use crate::config::secret::Secret;
use crate::http::response;
use crate::rejection::Rejection;
use crate::store::TicketHash;
use crate::telemetry::event::{Attempt, Event};

/// The longest request body that is read.
pub const MAX_BODY: usize = 4096;

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub peer: IpAddr,
    pub request_id: &'a str,
    /// The Host header, with its port.
    pub host: &'a str,
    pub secure: bool,
}

enum Endpoint<'a> {
    Issue,
    Validate(&'a str),
}

impl Tickets {
    /// Is this path ours? Everything below the ticket path is, whether there is something or not.
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(&self.config.tickets.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The path as logs may show it: what stands below ours may be a ticket.
    pub fn shown_path<'a>(&'a self, path: &'a str) -> &'a str {
        if self.owns(path) { &self.config.tickets.path } else { path }
    }

    pub async fn answer(&self, request: http::Request<Bytes>, asked: Asked<'_>, now: Now) -> Response<Bytes> {
        let origin = request.headers().get(ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
        let outcome = self.respond(request, origin.as_deref(), asked, now).await;
        let mut answer = outcome.unwrap_or_else(|rejection| {
            self.tell_refused(asked, &rejection);
            refusal(&rejection, asked.request_id)
        });
        self.allow_origin(origin.as_deref(), answer.headers_mut());
        answer
    }

    async fn respond(
        &self,
        request: http::Request<Bytes>,
        origin: Option<&str>,
        asked: Asked<'_>,
        now: Now,
    ) -> Result<Response<Bytes>, Rejection> {
        let (mut parts, body) = request.into_parts();
        self.check_origin(origin)?;
        let path = parts.uri.path().to_owned();
        let endpoint = self.endpoint(&path).ok_or(Rejection::NoRoute)?;
        let (method, allow, allowed) = match endpoint {
            Endpoint::Issue => (Method::POST, "POST, OPTIONS", HeaderValue::from_static("POST, OPTIONS")),
            Endpoint::Validate(_) => (Method::GET, "GET, OPTIONS", HeaderValue::from_static("GET, OPTIONS")),
        };
        if parts.method == Method::OPTIONS {
            return Ok(preflight(allowed));
        }
        if parts.method != method {
            return Err(Rejection::MethodNotAllowed { allow });
        }
        let principal = self.asker(&mut parts, origin, asked.peer, now).await?.ok_or(Rejection::MissingCredential)?;
        match endpoint {
            Endpoint::Issue => {
                let traceparent = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
                let asking = Asking { origin, peer: asked.peer, traceparent };
                self.issue_one(principal, &body, asking, asked, now).await
            }
            Endpoint::Validate(ticket) => self.validate_one(&Secret::from(ticket), &principal, now).await,
        }
    }

    pub(crate) fn tell_refused(&self, asked: Asked<'_>, rejection: &Rejection) {
        let Asked { request_id, peer, host, .. } = asked;
        let about = Attempt { request_id, peer, host, path: &self.config.tickets.path, route: "", method: None };
        Event::TicketRefused { about, rejection }.emit();
    }

    pub(crate) fn check_origin(&self, origin: Option<&str>) -> Result<(), Rejection> {
        let origins = &self.config.tickets.origins;
        match origin {
            Some(origin) if !origins.is_empty() && !origins.allow(origin) => Err(Rejection::ForbiddenOrigin),
            _ => Ok(()),
        }
    }

    /// Who asks, where a credential says so.
    pub(crate) async fn asker(
        &self,
        parts: &mut Parts,
        origin: Option<&str>,
        peer: IpAddr,
        now: Now,
    ) -> Result<Option<Principal>, Rejection> {
        let Some(Credential { method, proof }) = self.credential(parts, origin)? else { return Ok(None) };
        let judges = &self.config.tickets.judges;
        let asking = auth::Asking { issuers: &self.issuers, verifiers: &self.verifiers, judges, place: &self.place };
        let principal = match proof {
            Proof::Token(token) => asking.token(method, &token, peer, now).await?.principal,
            Proof::Session(id) => asking.session(&id, peer).await?.principal,
            Proof::Ticket(_) | Proof::Bypass(_) | Proof::Certificate(_) => return Ok(None),
        };
        match self.revocations.find(&principal, now.wall) {
            None => Ok(Some(principal)),
            Some(kind) => Err(Rejection::Revoked(kind)),
        }
    }

    /// A bearer token, or a cookie from a page of ours: with a token, or with a session id. A page that `*` alone allows has
    /// no name, and gets no ticket for whoever happens to look at it.
    fn credential(&self, parts: &mut Parts, origin: Option<&str>) -> Result<Option<Credential>, Rejection> {
        use credential::Method::{Cookie, Header, Session};
        let config = &self.config.tickets;
        if let Some(token) = auth::take_bearer(&mut parts.headers)? {
            return Ok(Some(Credential { method: Header, proof: Proof::Token(token) }));
        }
        let token = auth::take_cookie(&mut parts.headers, &config.token_cookie)?;
        let session = config.judges.sessions.as_ref().map(|_| auth::take_cookie(&mut parts.headers, &config.session_cookie));
        let session = session.transpose()?.flatten().map(|id| Credential { method: Session, proof: Proof::Session(id) });
        let cookie = token.map(|token| Credential { method: Cookie, proof: Proof::Token(token) }).or(session);
        match origin {
            Some(origin) if cookie.is_some() && !config.origins.names(origin) => Err(Rejection::ForbiddenOrigin),
            None if cookie.is_some() && !parts.method.is_safe() => Err(Rejection::MissingOrigin),
            _ => Ok(cookie),
        }
    }

    fn endpoint<'a>(&self, path: &'a str) -> Option<Endpoint<'a>> {
        match path.strip_prefix(&self.config.tickets.path)? {
            "" => Some(Endpoint::Issue),
            rest => rest.strip_prefix('/')?.strip_suffix("/validate").filter(|id| !id.contains('/')).map(Endpoint::Validate),
        }
    }

    async fn issue_one(
        &self,
        principal: Principal,
        body: &[u8],
        asking: Asking<'_>,
        asked: Asked<'_>,
        now: Now,
    ) -> Result<Response<Bytes>, Rejection> {
        let request: Request = if body.iter().all(u8::is_ascii_whitespace) {
            Request::default()
        } else {
            serde_json::from_slice(body).map_err(|_| {
                Rejection::InvalidRequest("the body is not JSON of the fields ttl_seconds, single_use, permissions and route")
            })?
        };
        let (user, issuer) = (principal.subject.clone(), principal.issuer.clone());
        let issued = self.issue(principal, request, asking, now).await?;
        let ttl = issued.expires_at.since(issued.created_at);
        let route = issued.route.as_ref().map_or("", |route| &*route.name);
        let name = TicketHash::of(&issued.ticket).name();
        let (request_id, peer) = (asked.request_id, asked.peer);
        Event::TicketIssued { request_id, ticket: name.as_str(), user: &user, issuer: &issuer, peer, route, ttl }.emit();
        let ticket = issued.ticket.expose_str().unwrap_or_default();
        Ok(json_answer(
            StatusCode::CREATED,
            &json!({
                "ticket_id": ticket,
                "expires_at": issued.expires_at.0,
                "created_at": issued.created_at.0,
                "ttl_seconds": ttl.as_millis().div_ceil(1000) as u64,
                "single_use": issued.single_use,
                "websocket_url": self.websocket_url(&issued, ticket, asked),
            }),
        ))
    }

    /// A URL that can be opened as it is, where the config leaves no doubt about the path.
    fn websocket_url(&self, issued: &Issued, ticket: &str, asked: Asked<'_>) -> Option<String> {
        let opens = |route: &&std::sync::Arc<Route>| route.looks_at(credential::Method::Ticket) && route.path.is_literal();
        let route = match &issued.route {
            Some(route) => Some(route).filter(opens),
            None => self.config.routes.iter().find(opens),
        }?;
        let scheme = if asked.secure { "wss" } else { "ws" };
        Some(format!("{scheme}://{}{}?{}={ticket}", asked.host, route.path, route.ticket_parameter))
    }

    async fn validate_one(&self, ticket: &Secret, owner: &Principal, now: Now) -> Result<Response<Bytes>, Rejection> {
        let found = self.validate(ticket, owner, now).await?;
        Ok(json_answer(
            StatusCode::OK,
            &json!({
                "valid": found.is_some(),
                "expires_at": found.as_ref().map(|record| record.expires_at.0),
                "single_use": found.as_ref().map(|record| record.single_use),
            }),
        ))
    }

    pub(crate) fn allow_origin(&self, origin: Option<&str>, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin
            && self.config.tickets.origins.allow(origin)
            && let Ok(value) = HeaderValue::from_str(origin)
        {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
            if self.config.tickets.origins.names(origin) {
                // The page may show its cookie.
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

pub(crate) fn preflight(methods: HeaderValue) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

/// A rejection as this endpoint writes it: `{"message", "code", "recoverable", "request_id"}`.
pub fn refusal(rejection: &Rejection, request_id: &str) -> Response<Bytes> {
    let facts = rejection.facts();
    let body = json!({
        "message": rejection.message(),
        "code": facts.code,
        "recoverable": facts.recoverable,
        "request_id": request_id,
    });
    let mut answer = json_answer(facts.status, &body);
    // What else a status calls for stands in the same place as for every other refusal.
    let like = response::problem(rejection, request_id);
    for (name, value) in like.headers() {
        if name != CONTENT_TYPE {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    answer
}

pub(crate) fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
