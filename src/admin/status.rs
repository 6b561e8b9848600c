//! `/status` and `/sessions`: the state of this node, and the open sessions of this node or of all
//! nodes.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Admin, ReadinessStage, answer_error, answer_json, set};
use crate::acme::AcmeFigures;
use crate::auth::decoded;
use crate::auth::remote_keys::IssuerFigures;
use crate::auth::verifier::VerifierFigures;
use crate::base::clock::Now;
use crate::edge::expiry::CertificateFigures;
use crate::fleet::{Completeness, Gathered};
use crate::migration::uses::LegacyUse;
use crate::session::filter::SessionFilter;
use crate::upstream::ServerFigures;

/// The figures that are not in the registry.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    pub connections: usize,
    pub unauthenticated: usize,
    /// `None`: only the store knows the number.
    pub tickets: Option<usize>,
    pub revocations: usize,
    /// `None`: this node has no shared store, or the store does not answer.
    pub nodes: Option<Vec<String>>,
    pub store: StoreFigures,
    /// The issuers with published keys.
    pub issuers: Vec<IssuerFigures>,
    pub verifiers: Vec<VerifierFigures>,
    /// The servers of all upstreams.
    pub servers: Vec<ServerFigures>,
    /// The files with certificates.
    pub certificates: Vec<CertificateFigures>,
    /// The use of legacy methods.
    pub legacy: Vec<LegacyUse>,
    /// The routes with a rollout.
    pub rollouts: Vec<RolloutFigures>,
    /// `None`: no certificate is ordered.
    pub acme: Option<AcmeFigures>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreFigures {
    pub kind: &'static str,
    /// `None`: the store is in this process, without a breaker.
    pub breaker: Option<&'static str>,
    /// The name of this region, if regions are configured.
    pub region: Option<String>,
    /// The breakers of the stores of other regions.
    pub regions: BTreeMap<String, Option<&'static str>>,
}

/// The rollout of a route.
#[derive(Clone, Debug, Serialize)]
pub struct RolloutFigures {
    pub route: String,
    pub shares: Vec<ShareFigures>,
    /// Whether clients in a share are refused with a legacy method.
    pub enforced: bool,
}

/// The share of the clients for a new method.
#[derive(Clone, Debug, Serialize)]
pub struct ShareFigures {
    pub method: &'static str,
    pub percent: u8,
}

const SESSIONS_LISTED: usize = 1000;

/// The metrics behind [`Admin::warnings`].
pub(super) const CONFIG_IS_CURRENT: &str = "usher_config_is_current";
pub(super) const READS_REVOCATIONS: &str = "usher_revocation_stream_reading";
pub(super) const BYPASS_ALLOWED: &str = "usher_bypass_allowed";

impl Admin {
    pub(super) async fn sessions(&self, query: &str) -> Response<Full<Bytes>> {
        let Some((filter, is_fleet)) = read(query) else {
            let message = "the parameters are `limit` (a number), `user`, `route`, `method` and \
                           `fleet` (true or false), each at most once";
            return answer_error(StatusCode::BAD_REQUEST, "BAD_REQUEST", message);
        };
        match &self.revoking.fleet {
            Some(fleet) if is_fleet => match fleet.sessions(&filter).await {
                Some(gathered) => answer_json(StatusCode::OK, &fleet_sessions_json(&gathered)),
                None => answer_error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "BUSY",
                    "too many requests about the whole fleet",
                ),
            },
            _ => answer_json(StatusCode::OK, &self.own_sessions(&filter, is_fleet)),
        }
    }

    fn own_sessions(&self, filter: &SessionFilter, is_fleet: bool) -> Value {
        let (total, sessions) = self.registry.snapshot(filter.limit, |handle| filter.holds(handle));
        let mut body = json!({ "total": total, "sessions": sessions });
        if is_fleet {
            set(&mut body, "fleet", "alone");
            for row in body.get_mut("sessions").and_then(Value::as_array_mut).into_iter().flatten()
            {
                set(row, "node", self.summary.node.as_str());
            }
        }
        body
    }

    pub(super) fn status(&self) -> Response<Full<Bytes>> {
        let started = self.telemetry.started();
        let uptime = Now::read().mono.saturating_duration_since(started.mono);
        let stage = self.readiness.stage();
        let Figures {
            connections,
            unauthenticated,
            tickets,
            revocations,
            nodes,
            store,
            issuers,
            verifiers,
            servers,
            certificates,
            legacy,
            rollouts,
            acme,
        } = (self.figures)();
        answer_json(
            StatusCode::OK,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "node": self.summary.node,
                "nodes": nodes,
                "started": started.wall.to_rfc3339(),
                "uptime_seconds": uptime.as_secs(),
                "needs_token": self.token.is_some(),
                "stage": stage.name(),
                "draining": stage == ReadinessStage::Draining,
                "connections": connections,
                "unauthenticated": unauthenticated,
                "sessions": self.registry.len(),
                "sessions_by": self.registry.tally(),
                "tickets": tickets,
                "revocations": revocations,
                "store": store,
                "issuers": issuers,
                "verifiers": verifiers,
                "servers": servers,
                "certificates": certificates,
                "legacy": legacy,
                "rollouts": rollouts,
                "acme": acme,
                "listeners": self.summary.listeners,
                "routes": self.summary.routes,
                "upstreams": self.summary.upstreams,
                "config": self.summary.config,
                "warnings": self.warnings(),
                "state_dir": self.summary.state_dir,
            }),
        )
    }

    /// Returns a sentence for each state that needs an operator, and that no other figure shows.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.telemetry.gauge(CONFIG_IS_CURRENT) == Some(0.0) {
            warnings.push(
                "The last reload was refused: the configuration in force is older than the file."
                    .to_owned(),
            );
        }
        if self.revoking.fleet.is_some() && self.telemetry.gauge(READS_REVOCATIONS) == Some(0.0) {
            warnings.push("Revocations of other nodes do not arrive here.".to_owned());
        }
        if self.telemetry.gauge(BYPASS_ALLOWED).is_some_and(|allowed| allowed > 0.0) {
            warnings.push("Test identities are accepted (--allow-bypass).".to_owned());
        }
        let lost = self.telemetry.audit_lines_lost();
        if lost > 0 {
            warnings.push(format!("{lost} lines of the audit log were lost since the start."));
        }
        warnings
    }
}

fn fleet_sessions_json(gathered: &Gathered) -> Value {
    let Gathered { whole, total, sessions, nodes } = gathered;
    let mut body =
        json!({ "total": total, "sessions": sessions, "fleet": whole.name(), "nodes": nodes });
    if *whole == Completeness::Unknown {
        set(
            &mut body,
            "message",
            "the store does not answer: the list has only the sessions of this node",
        );
    }
    body
}

/// Reads the query: the filter, and whether the request is about all nodes.
fn read(query: &str) -> Option<(SessionFilter, bool)> {
    let (mut limit, mut user, mut route, mut method, mut fleet) = (None, None, None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = decoded(value)?;
        let is_second = match name {
            "limit" => limit.replace(value.parse().ok()?).is_some(),
            "user" => user.replace(value).is_some(),
            "route" => route.replace(value).is_some(),
            "method" => method.replace(value).is_some(),
            "fleet" => fleet.replace(value.parse().ok()?).is_some(),
            _ => return None,
        };
        if is_second {
            return None;
        }
    }
    Some((
        SessionFilter { limit: limit.unwrap_or(SESSIONS_LISTED), user, route, method },
        fleet.unwrap_or(false),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_a_form_and_refused_where_it_is_not_clear() {
        let (filter, is_fleet) =
            read("user=a%26b+c%2F%C3%A9&route=%2Fws&method=header&limit=7&fleet=true").unwrap();
        assert!(is_fleet && !read("fleet=false").unwrap().1);
        assert_eq!(
            filter,
            SessionFilter {
                limit: 7,
                user: Some("a&b c/é".into()),
                route: Some("/ws".into()),
                method: Some("header".into())
            }
        );
        assert_eq!(read("").unwrap().0.limit, SESSIONS_LISTED);
        for query in [
            "limit=many",
            "limit",
            "user=a&user=b",
            "users=a",
            "user=%f",
            "user=%ff",
            "fleet=yes",
            "fleet",
        ] {
            assert_eq!(read(query), None, "{query}");
        }
    }
}
