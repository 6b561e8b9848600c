//! The tasks beside the serving threads: reloads, the services of each configuration, upkeep.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::admin_context::AdminContext;
use crate::acme::Acme;
use crate::admin::{self, Admin, Readiness};
use crate::auth::revocation::events::RevocationsHeld;
use crate::base::clock::Now;
use crate::base::memory::MemoryTrim;
use crate::base::signal::RotationSignal;
use crate::edge::reload::{ReloadOrder, Reloader};
use crate::edge::{Current, Edge, staples};
use crate::telemetry::{Event, Telemetry};
use crate::upstream::keyring::Rotation;

/// The tasks that follow the services of one edge: they fetch the published keys of issuers and
/// OCSP answers, check the health of upstream servers, and order certificates.
pub(super) struct Following {
    issuers: tokio::task::JoinHandle<()>,
    servers: tokio::task::JoinHandle<()>,
    staples: tokio::task::JoinHandle<()>,
    acme: Option<(Arc<Acme>, tokio::task::JoinHandle<()>)>,
}

impl Following {
    pub(super) fn begin(edge: &Arc<Edge>) -> Self {
        Self::after(None, edge)
    }

    /// Ends the tasks, and begins those of the next edge. An order of the same certificate goes on.
    fn next(self, edge: &Arc<Edge>) -> Self {
        self.issuers.abort();
        self.servers.abort();
        self.staples.abort();
        Self::after(self.acme, edge)
    }

    fn after(before: Option<(Arc<Acme>, tokio::task::JoinHandle<()>)>, edge: &Arc<Edge>) -> Self {
        let is_same = |(before, _): &(Arc<Acme>, _)| {
            edge.acme.as_ref().is_some_and(|next| Arc::ptr_eq(before, next))
        };
        let acme = match before {
            Some(same) if is_same(&same) => Some(same),
            other => {
                if let Some((_, task)) = other {
                    task.abort();
                }
                edge.acme.as_ref().map(|acme| {
                    let ordering = order_certificates(Arc::clone(acme), Arc::clone(edge));
                    (Arc::clone(acme), tokio::spawn(ordering))
                })
            }
        };
        let followed = Arc::clone(edge);
        Self {
            acme,
            issuers: tokio::spawn(Arc::clone(edge.authenticator.issuers()).follow()),
            servers: tokio::spawn(async move { followed.upstreams.follow().await }),
            staples: tokio::spawn(staples::follow(
                Arc::clone(&edge.staples),
                edge.config.certificates.ocsp_timeout,
            )),
        }
    }
}

/// Orders certificates until this process stops, or another one takes over.
async fn order_certificates(acme: Arc<Acme>, edge: Arc<Edge>) {
    tokio::select! {
        () = acme.follow() => {}
        () = edge.drain.begun() => {}
        () = edge.drain.replaced() => {}
    }
}

/// Carries out the orders, one after the other. `following` belongs to the current edge.
pub(super) async fn follow_orders(
    mut ordered: mpsc::Receiver<ReloadOrder>,
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
            following = following.next(&edge);
            admin.store(Arc::new(context.admin()));
        }
    }
}

/// Keeps the history of the admin page.
pub(super) async fn keep_history(admin: Arc<ArcSwap<Admin>>) {
    let mut every = interval(admin::INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        admin.load().tick(Now::read());
    }
}

/// Opens the log files again at each signal. Signals in a short time may count as one.
pub(super) async fn follow_rotations(mut signal: RotationSignal, telemetry: Arc<Telemetry>) {
    loop {
        signal.next().await;
        let telemetry = Arc::clone(&telemetry);
        // Opening a file may block.
        let _ = tokio::task::spawn_blocking(move || telemetry.follow_rotation()).await;
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
