//! `/status` and `/sessions`: how this node stands, and who is connected.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

use super::{Admin, Stage, answer_error, answer_json};
use crate::auth::decoded;
use crate::auth::remote_keys::IssuerFigures;
use crate::clock::Now;
use crate::session::registry::SessionHandle;

/// What is counted outside of the registry.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    pub connections: usize,
    pub unauthenticated: usize,
    /// `None`: only the store itself knows.
    pub tickets: Option<usize>,
    pub revocations: usize,
    pub store: StoreFigures,
    /// Those that publish their keys.
    pub issuers: Vec<IssuerFigures>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreFigures {
    pub kind: &'static str,
    /// `None`: it is in this process, and has none.
    pub breaker: Option<&'static str>,
    /// What the own region is called, where there are regions.
    pub region: Option<String>,
    /// The breakers of the others' stores.
    pub regions: BTreeMap<String, Option<&'static str>>,
}

const SESSIONS_LISTED: usize = 1000;

/// What `/sessions` is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    limit: usize,
    user: Option<String>,
    route: Option<String>,
}

impl Admin {
    pub(super) fn sessions(&self, query: &str) -> Response<Full<Bytes>> {
        let Some(wanted) = Wanted::read(query) else {
            let message = "the parameters are `limit`, a number, `user` and `route`, each at most once";
            return answer_error(StatusCode::BAD_REQUEST, "BAD_REQUEST", message);
        };
        let (total, sessions) = self.registry.snapshot(wanted.limit, |handle| wanted.holds(handle));
        answer_json(StatusCode::OK, &json!({ "total": total, "sessions": sessions }))
    }

    pub(super) fn status(&self) -> Response<Full<Bytes>> {
        let started = self.telemetry.started();
        let uptime = Now::read().mono.saturating_duration_since(started.mono);
        let stage = self.readiness.stage();
        let Figures { connections, unauthenticated, tickets, revocations, store, issuers } = (self.figures)();
        answer_json(
            StatusCode::OK,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "started": started.wall.to_rfc3339(),
                "uptime_seconds": uptime.as_secs(),
                "stage": stage.name(),
                "draining": stage == Stage::Draining,
                "connections": connections,
                "unauthenticated": unauthenticated,
                "sessions": self.registry.len(),
                "sessions_by": self.registry.tally(),
                "tickets": tickets,
                "revocations": revocations,
                "store": store,
                "issuers": issuers,
                "listeners": self.summary.listeners,
                "routes": self.summary.routes,
                "upstreams": self.summary.upstreams,
                "config": self.summary.config,
            }),
        )
    }
}

impl Wanted {
    fn read(query: &str) -> Option<Self> {
        let (mut limit, mut user, mut route) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = decoded(value)?;
            let is_second = match name {
                "limit" => limit.replace(value.parse().ok()?).is_some(),
                "user" => user.replace(value).is_some(),
                "route" => route.replace(value).is_some(),
                _ => return None,
            };
            if is_second {
                return None;
            }
        }
        Some(Self { limit: limit.unwrap_or(SESSIONS_LISTED), user, route })
    }

    fn holds(&self, handle: &SessionHandle) -> bool {
        let is_user = self.user.as_ref().is_none_or(|user| handle.user.as_deref() == Some(user));
        is_user && self.route.as_ref().is_none_or(|route| *handle.route == **route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_a_form_and_refused_where_it_is_not_clear() {
        let wanted = Wanted::read("user=a%26b+c%2F%C3%A9&route=%2Fws&limit=7").unwrap();
        assert_eq!(wanted, Wanted { limit: 7, user: Some("a&b c/é".into()), route: Some("/ws".into()) });
        assert_eq!(Wanted::read("").unwrap().limit, SESSIONS_LISTED);
        for query in ["limit=many", "limit", "user=a&user=b", "users=a", "user=%f", "user=%ff"] {
            assert_eq!(Wanted::read(query), None, "{query}");
        }
    }
}
