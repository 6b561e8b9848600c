//! The whole program: builds it from a config, and runs it until a signal stops it.
//!
//! `build` binds every socket (`sockets.rs`) and opens everything that can fail, so that `run` only
//! has to serve. Each core gets a thread with its own runtime (`workers.rs`). One more thread has
//! the admin listener (`admin_context.rs`), the signals (`stop.rs`) and periodic tasks
//! (`background.rs`), so that probes are answered when the other threads are busy. `replacement.rs`
//! takes over from a running process, and leaves to the next one.

mod admin_context;
mod background;
mod replacement;
mod replacer;
mod sockets;
mod stop;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::admin_context::AdminContext;
use self::background::{Following, follow_orders, follow_rotations, keep_history, run_upkeep};
use self::replacement::{PredecessorLink, estate, leave_to, take_over, wait_for_successor};
use self::replacer::Replacer;
use self::sockets::{PendingAdmin, TakeoverSocket, bind_all};
use self::stop::{
    StopCause, announce_end, end_at_once, report_lost_manager, stop_in_order, unless_forced,
    wait_for_stop,
};
use self::workers::spawn_worker;
use crate::admin::{Admin, Explaining, Readiness};
use crate::auth::events::BypassAllowed;
use crate::base::clock::Now;
use crate::base::signal::{RotationSignal, Signals};
use crate::config::{AdminAddress, Config};
use crate::edge::events::Ready;
use crate::edge::reload::{ConfigLoader, Orders, Reloader};
use crate::edge::watch::Watcher;
use crate::edge::{Current, Edge, EdgeError};
use crate::listener::Bound;
use crate::net::admin_socket::{AdminBindError, AdminSocket};
use crate::net::bind::BindError;
use crate::net::passed::{PassedError, PassedSockets};
use crate::net::service_manager::ServiceState;
use crate::store::redis::RevocationReader;
use crate::takeover::{self, Closed, FormerSessions, Predecessor, TakeoverError};
use crate::telemetry::{Event, Telemetry};
use crate::telemetry_setup;

/// How the configuration is reloaded.
#[derive(Default)]
pub struct Reloading {
    /// `None`: there is no file, so the configuration cannot change.
    pub load: Option<ConfigLoader>,
    /// Whether to reload when the files change.
    pub watch: bool,
}

#[derive(Debug)]
pub struct App {
    current: Current,
    /// The sockets of each thread.
    threads: Vec<Vec<Bound>>,
    admin: Option<PendingAdmin>,
    takeover: Option<TakeoverSocket>,
    /// The process that this one replaces.
    predecessor: Option<Predecessor>,
    /// The sessions that it still serves.
    former: Arc<FormerSessions>,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    addresses: BoundAddresses,
}

#[derive(Clone, Debug)]
pub struct BoundAddresses {
    pub listeners: Vec<SocketAddr>,
    pub admin: Option<AdminAddress>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Admin(#[from] AdminBindError),
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error(transparent)]
    Passed(#[from] PassedError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    Telemetry(#[from] crate::telemetry::InstallError),
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("a worker thread has died")]
    WorkerDied,
    #[error("stopped by a second signal")]
    Forced,
    #[error("the process that took over has failed")]
    SuccessorFailed,
}

impl App {
    /// `passed` has the sockets from the service manager. The sockets of the predecessor are taken
    /// when the program runs.
    pub fn build(
        config: Config,
        mut passed: PassedSockets,
        predecessor: Option<Predecessor>,
    ) -> Result<Self, BuildError> {
        let telemetry = Arc::new(telemetry_setup::install(&config)?);
        if config.bypass.is_allowed {
            BypassAllowed { routes: &config.bypass_routes() }.emit();
        }
        let edge = Edge::open(config, Now::read())?;
        let (threads, listeners) = bind_all(&edge.config, &mut passed, predecessor.as_ref())?;
        let admin = edge
            .config
            .admin
            .as_ref()
            .map(|admin| PendingAdmin::bind(&admin.address, &mut passed, predecessor.as_ref()))
            .transpose()?;
        passed.check_all_used()?;
        let takeover = edge
            .config
            .takeover
            .as_ref()
            .map(|path| TakeoverSocket::bind(path, predecessor.is_some()))
            .transpose()?;
        let admin_address = admin.as_ref().and_then(PendingAdmin::address);
        let addresses = BoundAddresses { listeners, admin: admin_address };
        let current = Arc::new(ArcSwap::from_pointee(edge));
        Ok(Self {
            current,
            threads,
            admin,
            takeover,
            predecessor,
            former: Arc::default(),
            telemetry,
            readiness: Arc::default(),
            addresses,
        })
    }

    pub fn addresses(&self) -> &BoundAddresses {
        &self.addresses
    }

    /// Serves until SIGTERM or SIGINT, or until another process takes over, then drains.
    pub fn run(mut self, reloading: Reloading) -> Result<(), RunError> {
        let (stop, _) = watch::channel(false);
        let main = runtime::Builder::new_current_thread().enable_all().build()?;
        // Rotations are followed until the exit, also in a drain of many minutes.
        let rotations = main.block_on(async { RotationSignal::listen() })?;
        main.spawn(follow_rotations(rotations, Arc::clone(&self.telemetry)));
        let edge = self.current.load_full();
        let joined = edge.fleet.as_ref().and_then(|fleet| main.block_on(fleet.join()));
        main.block_on(edge.authenticator.issuers().prefetch());
        if let Some(acme) = &edge.acme {
            main.block_on(acme.prefetch());
        }
        let mut link = None;
        if let Some(predecessor) = self.predecessor.take() {
            let (threads, admin) = (&mut self.threads, &mut self.admin);
            link =
                Some(main.block_on(take_over(predecessor, threads, admin, &edge, &self.former))?);
        }
        let admin = self.admin.take().map(PendingAdmin::ready).transpose()?;
        let takeover = self.takeover.take().map(TakeoverSocket::place).transpose()?;
        let estate = match takeover {
            Some(_) => Some(estate(&self.current, &self.threads, admin.as_ref(), &self.former)?),
            None => None,
        };
        let mut workers = Vec::new();
        for (index, sockets) in std::mem::take(&mut self.threads).into_iter().enumerate() {
            let current = Arc::clone(&self.current);
            workers.push(spawn_worker(index, sockets, current, stop.subscribe())?);
        }
        let outcome = main.block_on(async {
            let mut signals = Signals::listen()?;
            self.begin_tasks(&edge, joined, link);
            let (admin_task, orders) = self.begin_steering(&edge, admin, reloading)?;
            self.readiness.set_ready();
            self.announce(&edge);
            report_lost_manager(ServiceState::Ready.send());
            let successor = wait_for_successor(takeover, estate.clone());
            let mut successor = Box::pin(successor);
            let replacer = Replacer::new(estate.is_some());
            let stop =
                wait_for_stop(&mut signals, &workers, orders.as_ref(), &replacer, &edge.drain);
            let mut cause = tokio::select! {
                cause = stop => cause?,
                successor = &mut successor => StopCause::Successor(Box::new(successor?)),
            };
            self.readiness.set_draining();
            if let Some(estate) = estate
                && estate.close() == Closed::AfterHandOver
                && !matches!(cause, StopCause::Successor(_))
            {
                // Another process took over in the moment of the signal.
                cause = StopCause::Successor(Box::new(successor.as_mut().await?));
            }
            if !matches!(cause, StopCause::Successor(_)) {
                // Closes the takeover socket: a process that starts now must not wait at it.
                drop(successor);
            }
            let edge = self.current.load_full();
            announce_end(&cause, &edge);
            match cause {
                StopCause::Signal => unless_forced(1, stop_in_order(&edge), &mut signals).await,
                // The first signal asks for the stop that has begun.
                StopCause::Order => unless_forced(2, stop_in_order(&edge), &mut signals).await,
                StopCause::Successor(successor) => {
                    if let Some(task) = admin_task {
                        task.abort();
                    }
                    let (former, current) = (Arc::clone(&self.former), Arc::clone(&self.current));
                    let leaving = leave_to(*successor, &edge, former, current, &replacer);
                    let leaving = Box::pin(leaving);
                    // The process is leaving already, so the first signal changes nothing.
                    unless_forced(2, leaving, &mut signals).await?
                }
            }
        });
        if matches!(outcome, Ok(()) | Err(RunError::SuccessorFailed)) {
            stop.send_replace(true);
            for worker in workers {
                worker.join().map_err(|_| RunError::WorkerDied)?;
            }
            main.block_on(edge.spans.close());
        } else if matches!(outcome, Err(RunError::Forced)) {
            main.block_on(end_at_once(&self.current.load(), &workers, &stop));
        }
        self.telemetry.flush(Duration::from_secs(2));
        // A process that was about to take over is not waited for.
        main.shutdown_background();
        outcome
    }

    /// Begins the tasks that run until the exit: upkeep, and the links to other processes.
    fn begin_tasks(
        &self,
        edge: &Edge,
        joined: Option<RevocationReader>,
        link: Option<PredecessorLink>,
    ) {
        let (current, telemetry) = (Arc::clone(&self.current), Arc::clone(&self.telemetry));
        tokio::spawn(run_upkeep(current, telemetry, Arc::clone(&self.readiness)));
        edge.export_traces();
        tokio::spawn(Arc::clone(&edge.spans).run());
        if let Some(fleet) = &edge.fleet {
            tokio::spawn(Arc::clone(fleet).follow(joined));
            tokio::spawn(Arc::clone(fleet).beat_on());
            if let Some(fleet_places) = fleet.fleet_places() {
                tokio::spawn(Arc::clone(fleet_places).keep());
            }
        }
        if let Some((channel, outgoing)) = link {
            let (former, current) = (Arc::clone(&self.former), Arc::clone(&self.current));
            tokio::spawn(takeover::follow(channel, outgoing, former, current));
        }
    }

    /// Begins the admin listener and the reloads. Returns the task of an admin listener that ends
    /// when another process takes over, and the sender of reloads.
    fn begin_steering(
        &self,
        edge: &Arc<Edge>,
        socket: Option<AdminSocket>,
        reloading: Reloading,
    ) -> Result<(Option<JoinHandle<()>>, Option<Orders>), RunError> {
        let (orders, ordered) = Orders::channel();
        let context = AdminContext {
            current: Arc::clone(&self.current),
            telemetry: Arc::clone(&self.telemetry),
            readiness: Arc::clone(&self.readiness),
            listeners: self.addresses.listeners.clone(),
            orders: orders.clone(),
            logins: Arc::default(),
            history: Arc::default(),
            explaining: Explaining::new(Some(Arc::clone(&self.current))),
        };
        let admin = Arc::new(ArcSwap::from_pointee(context.admin()));
        let mut admin_task = None;
        if let Some(socket) = socket {
            let is_file = socket.address().is_ok_and(|address| address.tcp().is_none());
            tokio::spawn(keep_history(Arc::clone(&admin)));
            let task = tokio::spawn(Admin::serve(Arc::clone(&admin), socket.listen()?));
            // A file at the same path is the successor's. Clients of this one are served here.
            admin_task = (!is_file).then_some(task);
        }
        let following = Following::begin(edge);
        let Some(load) = reloading.load else {
            // The receiver is dropped here, so that `Orders::give` fails at once.
            return Ok((admin_task, None));
        };
        if let (true, Some(source)) = (reloading.watch, edge.config.source.clone()) {
            // The watcher starts before the process is ready, so that it misses no change.
            let watcher = Watcher::new(source, Arc::clone(edge));
            tokio::spawn(watcher.run(Arc::clone(&self.current), orders.clone()));
        }
        let reloader = Reloader::new(load, Arc::clone(&self.current), Arc::clone(&self.telemetry));
        tokio::spawn(follow_orders(ordered, reloader, context, admin, following));
        Ok((admin_task, Some(orders)))
    }

    fn announce(&self, edge: &Edge) {
        let config = edge.config.source.as_deref();
        let BoundAddresses { listeners, admin } = &self.addresses;
        edge.publish_limits();
        Ready { listeners, admin: admin.as_ref(), config }.emit();
    }
}
