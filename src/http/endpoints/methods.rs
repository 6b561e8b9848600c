//! `GET /websocket/config?route=`: tells a client which method to use now.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, Response, StatusCode};
use serde_json::json;

use super::{allow_origin, json_answer, preflight, refusal};
use crate::auth::decoded;
use crate::base::clock::UnixMillis;
use crate::config::{Config, Route, Sticky};
use crate::edge::Edge;
use crate::http::admit::{Admission, check_asking_origin};
use crate::http::events::RequestRejected;
use crate::http::request::Request;
use crate::http::witness::UnwatchedAdmission;
use crate::migration::share::ShareKey;
use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::net::http1::host::Authority;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::refusal::LoggedRequest;

pub(super) async fn answer(request: &mut Request, edge: &Edge) -> Response<Bytes> {
    let outcome = respond(request, edge).await;
    let mut answer = outcome.unwrap_or_else(|rejection| {
        let host = request.authority.as_ref().map_or("", Authority::as_str);
        let about = LoggedRequest { host, ..request.attempt(request.parts.uri.path()) };
        RequestRejected { about, rejection: &rejection }.emit();
        refusal(&rejection, request.request_id.as_str())
    });
    let origins = &edge.config.tickets.asking_origins;
    allow_origin(origins, request.origin.as_deref(), answer.headers_mut());
    answer
}

async fn respond(request: &mut Request, edge: &Edge) -> Result<Response<Bytes>, Rejection> {
    let witness = &mut UnwatchedAdmission;
    check_asking_origin(request, &edge.config.tickets, witness)?;
    match request.parts.method {
        HttpMethod::OPTIONS => return Ok(preflight(HeaderValue::from_static("GET, OPTIONS"))),
        HttpMethod::GET => {}
        _ => return Err(Rejection::MethodNotAllowed { allow: "GET, OPTIONS" }),
    }
    let query = request.parts.uri.query().unwrap_or_default();
    let route = requested_route(&edge.config, request.host(), query)?;
    let pages = &edge.config.tickets.asking_origins;
    let principal = Admission::of(edge).identify(request, &edge.tickets, pages, witness).await?;
    let body = client_config(&edge.config, route, principal.as_ref(), request.address())?;
    Ok(json_answer(StatusCode::OK, &body))
}

/// Finds the route by its path in the configuration; without a name, the only route that takes
/// credentials. If several hosts have a route of this name, the host of the request decides.
fn requested_route<'a>(
    config: &'a Config,
    host: &str,
    query: &str,
) -> Result<&'a Route, Rejection> {
    let mut names =
        query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == "route");
    let routes = config.routes.iter().filter(|route| !route.auth.is_empty());
    let mut found: Vec<_> = match (names.next(), names.next()) {
        (None, _) => routes.collect(),
        (Some((_, name)), None) => {
            let name = decoded(name)
                .ok_or(Rejection::InvalidRequest("the route is not encoded correctly"))?;
            let same: Vec<_> = routes.filter(|route| *route.name == *name).collect();
            let here =
                same.iter().find(|route| route.hosts.iter().any(|pattern| pattern.matches(host)));
            here.or_else(|| same.iter().find(|route| route.hosts.is_empty()))
                .or(same.first())
                .copied()
                .into_iter()
                .collect()
        }
        _ => return Err(Rejection::InvalidRequest("name only one route")),
    };
    match (found.pop(), found.pop()) {
        (Some(route), None) => Ok(route),
        _ => Err(Rejection::InvalidRequest(
            "name the route with ?route=, by its path in the configuration",
        )),
    }
}

/// Returns the answer for the client at this address.
pub fn client_config(
    config: &Config,
    route: &Route,
    principal: Option<&Principal>,
    peer: IpAddr,
) -> Result<serde_json::Value, Rejection> {
    let migration = &route.migration;
    let assigned = match (migration.rollout.sticky, principal) {
        _ if migration.rollout.shares.iter().all(|(_, percent)| *percent == 0) => None,
        (Sticky::User, None) => return Err(Rejection::MissingCredential),
        (Sticky::User, Some(principal)) => {
            migration.assigned_method(&route.name, &ShareKey::User(principal))
        }
        (Sticky::Address, _) => migration.assigned_method(&route.name, &ShareKey::at(peer)),
    };
    // Test identities are not offered to strangers.
    let offered = || route.auth.iter().copied().filter(|method| *method != Method::Bypass);
    let first = |is_wanted: &dyn Fn(Method) -> bool| offered().find(|method| is_wanted(*method));
    // A client outside every share keeps its legacy method. Without shares, all clients get the
    // preferred method that is not legacy.
    let method = match assigned {
        Some(method) => Some(method),
        None if migration.rollout.shares.is_empty() => {
            first(&|method| !migration.is_legacy(method))
        }
        None => first(&|method| migration.is_legacy(method)),
    };
    let method = method.or_else(|| offered().next()).ok_or(Rejection::NoRoute)?;
    let day = |at: Option<UnixMillis>| at.map(UnixMillis::to_rfc3339);
    Ok(json!({
        "route": &*route.name,
        "method": method.name(),
        "legacy": migration.is_legacy(method),
        "methods": offered().map(Method::name).collect::<Vec<_>>(),
        "legacy_methods": migration.legacy.iter().map(|method| method.name()).collect::<Vec<_>>(),
        "enforced": migration.rollout.enforce,
        "deprecated": day(migration.deprecated),
        "sunset": day(migration.sunset),
        "ticket_path": config.tickets.path,
        "first_message": route.first_message.preset.name(),
    }))
}
