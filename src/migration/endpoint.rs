//! `GET /websocket/config?route=`: tells a client which way in it is to use now.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderValue, Method as HttpMethod, Response, StatusCode};
use serde_json::json;

use super::share::Client;
use crate::auth::credential::Method;
use crate::auth::decoded;
use crate::auth::principal::Principal;
use crate::clock::Now;
use crate::config::{Config, Route, Sticky};
use crate::edge::Edge;
use crate::http::forward::host_of;
use crate::rejection::Rejection;
use crate::telemetry::event::{Attempt, Event};
use crate::ticket::endpoint::{Asked, json_answer, preflight, refusal};

pub async fn answer(edge: &Edge, mut parts: Parts, asked: Asked<'_>, now: Now) -> Response<Bytes> {
    let origin = parts.headers.get(ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    let mut answer = respond(edge, &mut parts, origin.as_deref(), asked, now).await.unwrap_or_else(|rejection| {
        let path = parts.uri.path();
        let about = Attempt { request_id: asked.request_id, peer: asked.peer, host: asked.host, path, route: "", method: None };
        Event::RequestRejected { about, rejection: &rejection }.emit();
        refusal(&rejection, asked.request_id)
    });
    edge.tickets.allow_origin(origin.as_deref(), answer.headers_mut());
    answer
}

async fn respond(edge: &Edge, parts: &mut Parts, origin: Option<&str>, asked: Asked<'_>, now: Now) -> Result<Response<Bytes>, Rejection> {
    edge.tickets.check_origin(origin)?;
    match parts.method {
        HttpMethod::OPTIONS => return Ok(preflight(HeaderValue::from_static("GET, OPTIONS"))),
        HttpMethod::GET => {}
        _ => return Err(Rejection::MethodNotAllowed { allow: "GET, OPTIONS" }),
    }
    let route = route_asked_for(edge, asked.host, parts.uri.query().unwrap_or_default())?;
    let principal = edge.tickets.asker(parts, origin, asked.peer, now).await?;
    let body = told(&edge.config, route, principal.as_ref(), asked.peer)?;
    Ok(json_answer(StatusCode::OK, &body))
}

/// By its path as the configuration writes it; without a name, the only one that asks for a credential. Where several hosts
/// have a route of this name, it is that of the host at which the client asks.
fn route_asked_for<'a>(edge: &'a Edge, authority: &str, query: &str) -> Result<&'a Route, Rejection> {
    let mut names = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == "route");
    let routes = edge.config.routes.iter().filter(|route| !route.auth.is_empty());
    let mut found: Vec<_> = match (names.next(), names.next()) {
        (None, _) => routes.collect(),
        (Some((_, name)), None) => {
            let name = decoded(name).ok_or(Rejection::InvalidRequest("the route is not well written"))?;
            let same: Vec<_> = routes.filter(|route| *route.name == *name).collect();
            let host = host_of(authority);
            let here = same.iter().find(|route| route.hosts.iter().any(|pattern| pattern.matches(&host)));
            here.or_else(|| same.iter().find(|route| route.hosts.is_empty())).or(same.first()).copied().into_iter().collect()
        }
        _ => return Err(Rejection::InvalidRequest("one route at a time")),
    };
    match (found.pop(), found.pop()) {
        (Some(route), None) => Ok(route),
        _ => Err(Rejection::InvalidRequest("say which route: ?route=, with a path as the configuration writes it")),
    }
}

/// What the client at this address is told.
pub fn told(config: &Config, route: &Route, principal: Option<&Principal>, peer: IpAddr) -> Result<serde_json::Value, Rejection> {
    let migration = &route.migration;
    let assigned = match (migration.rollout.sticky, principal) {
        _ if migration.rollout.shares.iter().all(|(_, percent)| *percent == 0) => None,
        (Sticky::User, None) => return Err(Rejection::MissingCredential),
        (Sticky::User, Some(principal)) => migration.assigned(&route.name, &Client::User(principal)),
        (Sticky::Address, _) => migration.assigned(&route.name, &Client::at(peer)),
    };
    // Test identities are nobody's way in, and nothing to tell strangers of.
    let offered = || route.auth.iter().copied().filter(|method| *method != Method::Bypass);
    let first = |is_wanted: &dyn Fn(Method) -> bool| offered().find(|method| is_wanted(*method));
    // Outside of every share a client goes on as before. Without any share the preferred way that is not to go is for all.
    let method = match assigned {
        Some(method) => Some(method),
        None if migration.rollout.shares.is_empty() => first(&|method| !migration.is_legacy(method)),
        None => first(&|method| migration.is_legacy(method)),
    };
    let method = method.or_else(|| offered().next()).ok_or(Rejection::NoRoute)?;
    let day = |at: Option<crate::clock::UnixMillis>| at.map(crate::clock::UnixMillis::to_rfc3339);
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
