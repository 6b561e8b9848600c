//! The parts of the program that the admin listener shows and steers.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::admin::{
    Admin, ConfigSummary, Draining, Explaining, Figures, History, Logins, Readiness, Revoking,
    RolloutFigures, ShareFigures, StoreFigures,
};
use crate::base::clock::Now;
use crate::base::input::whole_path;
use crate::config::{LoginRules, Rollout, Route};
use crate::edge::reload::Orders;
use crate::edge::{Current, Edge};
use crate::model::method::Method;
use crate::store::redis::BreakerState;
use crate::telemetry::Telemetry;

/// The parts from which a new [`Admin`] is made for each edge.
pub(super) struct AdminContext {
    pub(super) current: Current,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) listeners: Vec<SocketAddr>,
    pub(super) orders: Orders,
    pub(super) logins: Arc<Logins>,
    pub(super) history: Arc<History>,
    pub(super) explaining: Arc<Explaining>,
}

impl AdminContext {
    pub(super) fn admin(&self) -> Admin {
        let edge = self.current.load_full();
        let config = &edge.config;
        let settings = config.admin.as_ref();
        Admin {
            telemetry: Arc::clone(&self.telemetry),
            registry: Arc::clone(&edge.registry),
            readiness: Arc::clone(&self.readiness),
            draining: Draining { drain: Arc::clone(&edge.drain), rules: config.drain.clone() },
            token: settings.and_then(|admin| admin.token.clone()),
            logins: Arc::clone(&self.logins),
            login_rules: settings.map_or(LoginRules::NONE, |admin| admin.logins),
            history: Arc::clone(&self.history),
            explaining: Arc::clone(&self.explaining),
            revoking: Revoking {
                revocations: Arc::clone(&edge.revocations),
                keep: config.revocation.keep,
                issuers: config
                    .issuers
                    .iter()
                    .map(|issuer| Arc::clone(&issuer.name))
                    .chain(config.verifiers.iter().map(|verifier| Arc::clone(&verifier.name)))
                    .chain(config.certificate_issuer())
                    .collect(),
                fleet: edge.fleet.clone(),
            },
            summary: ConfigSummary {
                listeners: self.listeners.clone(),
                node: config.node.clone(),
                routes: config.routes.iter().map(|route| route.name.to_string()).collect(),
                upstreams: config
                    .upstreams
                    .iter()
                    .map(|upstream| upstream.name.to_string())
                    .collect(),
                config: config.source.as_ref().map(|path| whole_path(path).display().to_string()),
                state_dir: whole_path(&config.state_dir).display().to_string(),
            },
            orders: self.orders.clone(),
            figures: Box::new(move || figures(&edge)),
        }
    }
}

fn figures(edge: &Edge) -> Figures {
    let stores = edge.tickets.stores();
    let (store, others) = (stores.own(), stores.others());
    Figures {
        connections: edge.ceiling.open(),
        unauthenticated: edge.waiting_room.waiting(),
        tickets: store.held(),
        revocations: edge.revocations.len(),
        issuers: edge.authenticator.issuers().figures(Now::read().wall),
        verifiers: edge.verifiers.figures(),
        servers: edge.upstreams.figures(Now::read()),
        certificates: edge.certificate_figures(Now::read()),
        nodes: edge.fleet.as_ref().and_then(|fleet| fleet.nodes()),
        legacy: edge.legacy_uses.lines(),
        rollouts: edge.config.routes.iter().filter_map(|route| rollout(route)).collect(),
        acme: edge.acme.as_ref().map(|acme| acme.figures(Now::read().wall)),
        store: StoreFigures {
            kind: store.kind(),
            breaker: store.breaker().map(BreakerState::name),
            region: stores.own_name().map(str::to_owned),
            regions: others
                .iter()
                .map(|other| {
                    (other.name.to_string(), other.store.breaker().map(BreakerState::name))
                })
                .collect(),
        },
    }
}

/// Returns the rollout of a route, if it has shares.
fn rollout(route: &Route) -> Option<RolloutFigures> {
    let Rollout { shares, enforce, .. } = &route.migration.rollout;
    let share = |(method, percent): &(Method, u8)| ShareFigures {
        method: method.name(),
        percent: *percent,
    };
    (!shares.is_empty()).then(|| RolloutFigures {
        route: route.name.to_string(),
        shares: shares.iter().map(share).collect(),
        enforced: *enforce,
    })
}
