//! The tasks beside the serving threads: reloads, the services of each configuration, upkeep.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::admin_context::AdminContext;
use crate::admin::{Admin, Readiness};
use crate::auth::revocation::events::RevocationsHeld;
use crate::base::clock::Now;
use crate::base::memory::MemoryTrim;
use crate::edge::reload::{Order, Reloader};
use crate::edge::{Current, Edge, staples};
use crate::telemetry::{Event, Telemetry};
use crate::upstream::keyring::Rotation;

/// The tasks that follow the services of one edge: they fetch the published keys of issuers and
/// OCSP answers, and check the health of upstream servers.
pub(super) struct Following {
    issuers: tokio::task::JoinHandle<()>,
    servers: tokio::task::JoinHandle<()>,
    staples: tokio::task::JoinHandle<()>,
}

impl Following {
    pub(super) fn begin(edge: &Arc<Edge>) -> Self {
        let checked = Arc::clone(edge);
        Self {
            issuers: tokio::spawn(Arc::clone(edge.authenticator.issuers()).follow()),
            servers: tokio::spawn(async move { checked.upstreams.follow_checks().await }),
            staples: tokio::spawn(staples::follow(
                Arc::clone(&edge.staples),
                edge.config.certificates.ocsp_timeout,
            )),
        }
    }

    fn end(self) {
        self.issuers.abort();
        self.servers.abort();
        self.staples.abort();
    }
}

/// Carries out the orders, one after the other. `following` belongs to the current edge.
pub(super) async fn follow_orders(
    mut ordered: mpsc::Receiver<Order>,
    reloader: Reloader,
    context: AdminContext,
    admin: Arc<ArcSwap<Admin>>,
    mut following: Following,
) {
    while let Some(order) = ordered.recv().await {
        let before = context.current.load_full();
        reloader.carry_out(order).await;
        let edge = context.current.load_full();
        if !Arc::ptr_eq(&before, &edge) {
            following.end();
            following = Following::begin(&edge);
            admin.store(Arc::new(context.admin()));
        }
    }
}
pub(super) async fn run_upkeep(
    current: Current,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
) {
    let mut every = interval(Telemetry::UPKEEP);
    let mut trim = MemoryTrim::default();
    let mut rotation = Rotation::default();
    loop {
        every.tick().await;
        telemetry.upkeep();
        let (edge, now) = (current.load_full(), Now::read());
        readiness.set_store(edge.tickets.sweep(now).await);
        RevocationsHeld { count: edge.revocations.sweep(now) }.emit();
        edge.upstreams.publish_states(now);
        edge.watch_expiry(now);
        trim.look(edge.ceiling.open());
        let config = &edge.config;
        rotation.rotate_due_keys(&config.context, &config.state_dir, &edge.signing_keys, now);
    }
}
