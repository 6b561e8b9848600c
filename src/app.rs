//! The whole program: builds it from a config, and runs it until a signal stops it.
//!
//! `build` binds every socket and opens everything that can fail, so that `run` only has to serve.
//! Each core gets a thread with its own runtime. One more thread serves the admin listener, the
//! signals and periodic tasks, so that probes are answered when the other threads are busy.

use crate::edge::worker::Worker;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};

use crate::admin::{Admin, Draining, Figures, Readiness, Revoking, StoreFigures, Summary};
use crate::auth::events::BypassAllowed;
use crate::auth::revocation::events::RevocationsHeld;
use crate::base::clock::Now;
use crate::base::memory::MemoryTrim;
use crate::base::signal::{SignalAction, Signals};
use crate::config::{AdminAddress, Config};
use crate::edge::drain::{self, Drain};
use crate::edge::events::{DrainAnnounced, Ready};
use crate::edge::expiry::ExpiryWatch;
use crate::edge::reload::{Cause, Load, Order, Orders, Reloader};
use crate::edge::watch::Watcher;
use crate::edge::{Current, Edge, EdgeError};
use crate::listener::{self, Bound, SocketOwner};
use crate::model::revocation::Revocation;
use crate::net::admin_socket::{
    AdminBindError, AdminSocket, PreparedSocket, SocketFile, bind_file,
};
use crate::net::bind::{BindError, bind};
use crate::net::handover::Channel;
use crate::net::passed::{PassedError, PassedSockets};
use crate::store::redis::BreakerState;
use crate::takeover::events::{SuccessorLost, TakenOver};
use crate::takeover::{self, Estate, HeldSocket, Predecessor, Successor, TakeoverError};
use crate::telemetry::Event;
use crate::telemetry::Telemetry;
use crate::telemetry_setup;
use crate::upstream::keyring::Rotation;

/// How long a stopping node may take to leave the fleet.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the configuration is reloaded.
#[derive(Default)]
pub struct Reloading {
    /// `None`: there is no file, so the configuration cannot change.
    pub load: Option<Load>,
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
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    addresses: Addresses,
}

#[derive(Clone, Debug)]
pub struct Addresses {
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
        let addresses = Addresses { listeners, admin: admin_address };
        let current = Arc::new(ArcSwap::from_pointee(edge));
        Ok(Self {
            current,
            threads,
            admin,
            takeover,
            predecessor,
            telemetry,
            readiness: Arc::default(),
            addresses,
        })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until SIGTERM or SIGINT, or until another process takes over, then drains.
    pub fn run(mut self, reloading: Reloading) -> Result<(), RunError> {
        let (stop, _) = watch::channel(false);
        let main = runtime::Builder::new_current_thread().enable_all().build()?;
        let edge = self.current.load_full();
        let joined = edge.fleet.as_ref().and_then(|fleet| main.block_on(fleet.join()));
        main.block_on(edge.authenticator.issuers().prefetch());
        let mut link = None;
        if let Some(predecessor) = self.predecessor.take() {
            link = Some(main.block_on(self.take_over(predecessor, &edge))?);
        }
        let admin = self.admin.take().map(PendingAdmin::ready).transpose()?;
        let takeover = self.takeover.take().map(TakeoverSocket::place).transpose()?;
        let estate = takeover.is_some().then(|| self.estate(admin.as_ref())).transpose()?;
        let mut workers = Vec::new();
        for (index, sockets) in self.threads.into_iter().enumerate() {
            workers.push(spawn_worker(
                index,
                sockets,
                Arc::clone(&self.current),
                stop.subscribe(),
            )?);
        }
        let outcome = main.block_on(async {
            let mut signals = Signals::listen()?;
            tokio::spawn(run_upkeep(
                Arc::clone(&self.current),
                Arc::clone(&self.telemetry),
                Arc::clone(&self.readiness),
            ));
            let following = Following::begin(&edge);
            if let Some(fleet) = &edge.fleet {
                tokio::spawn(Arc::clone(fleet).follow(joined));
                tokio::spawn(Arc::clone(fleet).beat_on());
                if let Some(fleet_places) = fleet.fleet_places() {
                    tokio::spawn(Arc::clone(fleet_places).keep());
                }
            }
            let (orders, ordered) = Orders::channel();
            let context = AdminContext {
                current: Arc::clone(&self.current),
                telemetry: Arc::clone(&self.telemetry),
                readiness: Arc::clone(&self.readiness),
                listeners: self.addresses.listeners.clone(),
                orders: orders.clone(),
            };
            if let Some((channel, revocations)) = link {
                let current = Arc::clone(&self.current);
                tokio::spawn(takeover::follow(channel, None, revocations, current));
            }
            let admin_socket = admin;
            let admin = Arc::new(ArcSwap::from_pointee(context.admin()));
            let mut admin_task = None;
            if let Some(socket) = admin_socket {
                let is_file = socket.address().is_ok_and(|address| address.tcp().is_none());
                let task = tokio::spawn(Admin::serve(Arc::clone(&admin), socket.listen()?));
                // A file at the same path is the successor's. Clients of this one are served here.
                admin_task = (!is_file).then_some(task);
            }
            let can_reload = reloading.load.is_some();
            if let (true, Some(source)) =
                (reloading.watch && can_reload, edge.config.source.clone())
            {
                // The watcher starts before the process is ready, so that it misses no change.
                let watcher = Watcher::new(source, self.current.load_full());
                tokio::spawn(watcher.run(Arc::clone(&self.current), orders.clone()));
            }
            match reloading.load {
                Some(load) => {
                    let reloader =
                        Reloader::new(load, Arc::clone(&self.current), Arc::clone(&self.telemetry));
                    tokio::spawn(follow_orders(ordered, reloader, context, admin, following));
                }
                // Drops the receiver, so that `Orders::give` fails at once.
                None => drop(ordered),
            }
            self.readiness.set_ready();
            let config = edge.config.source.as_deref();
            Ready {
                listeners: &self.addresses.listeners,
                admin: self.addresses.admin.as_ref(),
                config,
            }
            .emit();

            let orders = can_reload.then_some(&orders);
            let successor = wait_for_successor(takeover, estate.as_ref());
            let mut is_ordered = false;
            let successor = tokio::select! {
                watched = watch_over(&mut signals, &workers, orders, &edge.drain) => {
                    is_ordered = watched? == StopCause::Order;
                    None
                }
                successor = successor => Some(successor?),
            };
            self.readiness.set_draining();
            let edge = self.current.load_full();
            let Some(successor) = successor else {
                if let Some(estate) = estate {
                    estate.close();
                }
                let forced = async {
                    if is_ordered {
                        // The first signal asks for the stop that has begun.
                        signals.stop().await;
                    }
                    signals.stop().await;
                };
                return tokio::select! {
                    () = stop_in_order(&edge) => Ok(()),
                    () = forced => Err(RunError::Forced),
                };
            };
            if let Some(task) = admin_task {
                task.abort();
            }
            let twice = async {
                // The process is leaving already, so the first signal changes nothing.
                signals.stop().await;
                signals.stop().await;
            };
            tokio::select! {
                () = leave_to(successor, &edge, Arc::clone(&self.current)) => Ok(()),
                () = twice => Err(RunError::Forced),
            }
        });
        if outcome.is_ok() {
            stop.send_replace(true);
            for worker in workers {
                worker.join().map_err(|_| RunError::WorkerDied)?;
            }
        }
        self.telemetry.flush(Duration::from_secs(2));
        outcome
    }
}

impl App {
    /// Takes over from the running process. After this returns, the other process does not accept
    /// any more. Returns the channel to it, and the revocations for it.
    async fn take_over(
        &mut self,
        predecessor: Predecessor,
        edge: &Edge,
    ) -> Result<(Channel, mpsc::Receiver<Revocation>), RunError> {
        let listeners = edge.config.listeners.iter().enumerate();
        let is_missing =
            |index: usize| !self.threads.iter().flatten().any(|one| one.listener_index == index);
        let deferred: Vec<_> = listeners
            .filter(|(index, _)| is_missing(*index))
            .map(|(index, listener)| (index, listener.address))
            .collect();
        let mut addresses: Vec<_> = deferred.iter().map(|(_, address)| *address).collect();
        if let Some(PendingAdmin::Deferred(address)) = self.admin {
            addresses.push(address);
        }
        let mut inheritance = predecessor.take(addresses.clone())?;
        for (index, address) in deferred {
            spread(&mut self.threads, index, inheritance.sockets(address))?;
        }
        if let Some(PendingAdmin::Deferred(address)) = self.admin {
            let socket = inheritance.sockets(address).pop();
            self.admin = socket.map(|(_, socket)| PendingAdmin::Bound(AdminSocket::Tcp(socket)));
        }
        let (tickets, now) = inheritance.take_tickets();
        let ticket_count = tickets.len();
        let imported = edge.tickets.stores().own().import(tickets, now).await;
        imported.map_err(|error| std::io::Error::other(format!("cannot keep tickets: {error}")))?;
        let orders = std::mem::take(&mut inheritance.revocations);
        for order in &orders {
            let applied = edge.revocations.apply(order.clone(), now);
            applied.map_err(|full| std::io::Error::other(full.to_string()))?;
        }
        let revocations = edge.revocations.watch();
        let channel = inheritance.commit()?;
        TakenOver { addresses: &addresses, tickets: ticket_count, revocations: orders.len() }
            .emit();
        Ok((channel, revocations))
    }

    /// Returns copies of the sockets, for a process that takes over.
    fn estate(&self, admin: Option<&AdminSocket>) -> std::io::Result<Arc<Estate>> {
        let held = |socket: &TcpListener, owner, is_admin| {
            let address = socket.local_addr()?;
            Ok::<_, std::io::Error>(HeldSocket {
                address,
                owner,
                is_admin,
                socket: socket.try_clone()?,
            })
        };
        let mut sockets = Vec::new();
        for bound in self.threads.iter().flatten() {
            sockets.push(held(&bound.socket, bound.owner, false)?);
        }
        if let Some(AdminSocket::Tcp(socket)) = admin {
            sockets.push(held(socket, SocketOwner::ThisProcess, true)?);
        }
        Ok(Estate::new(Arc::clone(&self.current), sockets))
    }
}

/// Gives each socket to a thread, and each thread a socket: some threads get several, or several
/// threads share one.
fn spread(
    threads: &mut [Vec<Bound>],
    listener_index: usize,
    sockets: Vec<(SocketOwner, TcpListener)>,
) -> std::io::Result<()> {
    let count = threads.len().max(sockets.len());
    let turns = threads.len().max(1);
    for (place, (owner, socket)) in sockets.iter().cycle().take(count).enumerate() {
        if let Some(thread) = threads.get_mut(place % turns) {
            let socket = socket.try_clone()?;
            thread.push(Bound { socket, listener_index, owner: *owner });
        }
    }
    Ok(())
}

/// Waits for a process that takes over. Without a takeover socket, none can.
async fn wait_for_successor(
    takeover: Option<(UnixListener, SocketFile)>,
    estate: Option<&Arc<Estate>>,
) -> std::io::Result<Successor> {
    let (Some((socket, _file)), Some(estate)) = (takeover, estate) else {
        return std::future::pending().await;
    };
    let socket = tokio::net::UnixListener::from_std(socket)?;
    Ok(takeover::wait_for_successor(socket, Arc::clone(estate)).await)
}

/// Drains after another process has taken over, and asks it about tickets meanwhile. If that
/// process ends first, revocations cannot reach this one, so the sessions close at once.
async fn leave_to(successor: Successor, edge: &Edge, current: Current) {
    let Successor { channel, questions, revocations } = successor;
    let close_timeout = edge.config.keepalive.close_timeout;
    let open = || edge.ceiling.open();
    let window = edge.config.drain.window;
    let leaving =
        drain::leave_to_successor(&edge.drain, &edge.registry, open, window, close_timeout);
    let link = takeover::follow(channel, Some(questions), revocations, current);
    let lost = async {
        // The reason does not matter: the other process cannot be reached any more.
        let _ = link.await;
    };
    let is_lost = tokio::select! {
        () = leaving => false,
        () = lost => true,
    };
    if is_lost {
        SuccessorLost.emit();
        edge.drain.begin();
        drain::close_sessions(&edge.registry, Duration::ZERO, close_timeout).await;
    }
    finish(edge, Now::read().mono).await;
}

/// The admin listener's socket before the program runs.
#[derive(Debug)]
enum PendingAdmin {
    Bound(AdminSocket),
    /// Takes the place of the predecessor's file.
    Prepared(PreparedSocket, AdminAddress),
    /// The predecessor has the socket of this address.
    Deferred(SocketAddr),
}

impl PendingAdmin {
    fn bind(
        address: &AdminAddress,
        passed: &mut PassedSockets,
        predecessor: Option<&Predecessor>,
    ) -> Result<Self, AdminBindError> {
        match address {
            AdminAddress::Tcp(tcp) => {
                if let Some(socket) = passed.remove(*tcp) {
                    return Ok(Self::Bound(AdminSocket::Tcp(socket)));
                }
                if predecessor.is_some_and(|predecessor| predecessor.has_admin(*tcp)) {
                    return Ok(Self::Deferred(*tcp));
                }
            }
            AdminAddress::Unix(path) => {
                if predecessor.is_some() {
                    let prepared = PreparedSocket::new(path)
                        .map_err(|error| AdminBindError::File { path: path.clone(), error })?;
                    return Ok(Self::Prepared(prepared, address.clone()));
                }
            }
        }
        AdminSocket::bind(address).map(Self::Bound)
    }

    fn address(&self) -> Option<AdminAddress> {
        match self {
            Self::Bound(socket) => socket.address().ok(),
            Self::Prepared(_, address) => Some(address.clone()),
            Self::Deferred(address) => Some(AdminAddress::Tcp(*address)),
        }
    }

    fn ready(self) -> std::io::Result<AdminSocket> {
        match self {
            Self::Bound(socket) => Ok(socket),
            Self::Prepared(prepared, _) => {
                prepared.place().map(|(socket, file)| AdminSocket::Unix(socket, file))
            }
            Self::Deferred(_) => Err(std::io::Error::other("the admin socket was not handed over")),
        }
    }
}

/// The takeover socket before the program runs.
#[derive(Debug)]
enum TakeoverSocket {
    Placed(UnixListener, SocketFile),
    /// Takes the place of the predecessor's file.
    Prepared(PreparedSocket),
}

impl TakeoverSocket {
    fn bind(path: &Path, has_predecessor: bool) -> Result<Self, TakeoverError> {
        let bound = match has_predecessor {
            true => PreparedSocket::new(path).map(Self::Prepared),
            false => bind_file(path).map(|(socket, file)| Self::Placed(socket, file)),
        };
        bound.map_err(|error| TakeoverError::Listen {
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    fn place(self) -> std::io::Result<(UnixListener, SocketFile)> {
        match self {
            Self::Placed(socket, file) => Ok((socket, file)),
            Self::Prepared(prepared) => prepared.place(),
        }
    }
}

/// The parts from which a new [`Admin`] is made for each edge.
struct AdminContext {
    current: Current,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    listeners: Vec<SocketAddr>,
    orders: Orders,
}

impl AdminContext {
    fn admin(&self) -> Admin {
        let edge = self.current.load_full();
        let config = &edge.config;
        Admin {
            telemetry: Arc::clone(&self.telemetry),
            registry: Arc::clone(&edge.registry),
            readiness: Arc::clone(&self.readiness),
            draining: Draining { drain: Arc::clone(&edge.drain), rules: config.drain.clone() },
            token: config.admin.as_ref().and_then(|admin| admin.token.clone()),
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
            summary: Summary {
                listeners: self.listeners.clone(),
                node: config.node.clone(),
                routes: config.routes.iter().map(|route| route.name.to_string()).collect(),
                upstreams: config
                    .upstreams
                    .iter()
                    .map(|upstream| upstream.name.to_string())
                    .collect(),
                config: config.source.as_ref().map(|source| source.display().to_string()),
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

/// The tasks that follow the services of one edge: they fetch the published keys of issuers, and
/// check the health of upstream servers.
struct Following {
    issuers: tokio::task::JoinHandle<()>,
    servers: tokio::task::JoinHandle<()>,
}

impl Following {
    fn begin(edge: &Arc<Edge>) -> Self {
        let checked = Arc::clone(edge);
        Self {
            issuers: tokio::spawn(Arc::clone(edge.authenticator.issuers()).follow()),
            servers: tokio::spawn(async move { checked.upstreams.follow_checks().await }),
        }
    }

    fn end(self) {
        self.issuers.abort();
        self.servers.abort();
    }
}

/// Carries out the orders, one after the other. `following` belongs to the current edge.
async fn follow_orders(
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

/// Binds a socket for each listener on each thread. The threads share a passed socket.
fn bind_all(
    config: &Config,
    passed: &mut PassedSockets,
    predecessor: Option<&Predecessor>,
) -> Result<(Vec<Vec<Bound>>, Vec<SocketAddr>), BindError> {
    let count = config.threads.max(1);
    let mut threads: Vec<Vec<Bound>> = (0..count).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for (listener_index, listener) in config.listeners.iter().enumerate() {
        let (bound, owner) = match passed.remove(listener.address) {
            Some(socket) => (copies(&socket, count), SocketOwner::ServiceManager),
            None if predecessor.is_some_and(|old| old.has_listener(listener.address)) => {
                // Its sockets come when the program runs.
                addresses.push(listener.address);
                continue;
            }
            None => {
                let bound = bind(listener.address, count, listener.sharing)?;
                (Ok(bound), SocketOwner::ThisProcess)
            }
        };
        let bound = bound.map_err(|error| BindError { address: listener.address, error })?;
        let address = bound.first().and_then(|socket| socket.local_addr().ok());
        addresses.push(address.unwrap_or(listener.address));
        for (sockets, socket) in threads.iter_mut().zip(bound) {
            sockets.push(Bound { socket, listener_index, owner });
        }
    }
    Ok((threads, addresses))
}

fn copies(socket: &TcpListener, count: usize) -> std::io::Result<Vec<TcpListener>> {
    (0..count).map(|_| socket.try_clone()).collect()
}

fn spawn_worker(
    index: usize,
    sockets: Vec<Bound>,
    current: Current,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let drain = &current.load().drain;
    let sockets: Vec<_> = sockets.into_iter().map(|bound| (bound, drain.accepting())).collect();
    std::thread::Builder::new().name(format!("usher-{index}")).spawn(move || {
        // The random generator of a thread gathers entropy at its first use, which takes tens of
        // milliseconds. Here, no handshake waits for it. An error here is ignored, because it
        // occurs again in the handshake.
        let _ = rand::fill(&mut [0]);
        runtime.block_on(async move {
            let worker = Worker { edge: current.load_full(), pool: Arc::default(), current };
            for (bound, accepting) in sockets {
                tokio::spawn(listener::accept(bound, worker.clone(), accepting));
            }
            // The worker also stops if the sender is dropped.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        // The runtime drops the remaining tasks; each session still emits its end event.
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopCause {
    Signal,
    /// `usher drain` or `POST /drain`.
    Order,
}

/// Completes at the first signal or order to stop, and fails if a worker thread ends before. A
/// hangup signal reloads the configuration. Without a file it stops the process, because the
/// terminal is closed.
async fn watch_over(
    signals: &mut Signals,
    workers: &[JoinHandle<()>],
    orders: Option<&Orders>,
    drain: &Drain,
) -> Result<StopCause, RunError> {
    let mut stop_ordered = std::pin::pin!(drain.stop_ordered());
    let mut check = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            asked = signals.next() => match (asked, orders.cloned()) {
                (SignalAction::Reload, Some(orders)) => {
                    tokio::spawn(async move { orders.give(Cause::Signal).await });
                }
                _ => return Ok(StopCause::Signal),
            },
            () = &mut stop_ordered => return Ok(StopCause::Order),
            _ = check.tick() => {
                if workers.iter().any(JoinHandle::is_finished) {
                    return Err(RunError::WorkerDied);
                }
            }
        }
    }
}

/// Accepts clients for the delay, so that balancers can notice the stop. Then drains.
async fn stop_in_order(edge: &Edge) {
    let delay = edge.config.drain.delay;
    if !delay.is_zero() {
        DrainAnnounced { delay }.emit();
        sleep(delay).await;
    }
    edge.drain.begin();
    leave(edge).await;
}

/// Closes the sessions. Then waits for plain HTTP answers that have begun, as long as a session may
/// take.
async fn leave(edge: &Edge) {
    let close_timeout = edge.config.keepalive.close_timeout;
    let window_ends = Now::read().mono + edge.config.drain.window;
    drain::close_sessions(&edge.registry, edge.config.drain.window, close_timeout).await;
    finish(edge, window_ends).await;
}

/// Waits for the connections that are open, and leaves the fleet.
async fn finish(edge: &Edge, window_ends: Instant) {
    let close_timeout = edge.config.keepalive.close_timeout;
    // Connections in the queue of the operating system count as open only after accept.
    let _ = timeout(close_timeout, edge.drain.all_closed()).await;
    let deadline = window_ends.max(Now::read().mono) + close_timeout;
    while edge.ceiling.open() > 0 && Now::read().mono < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    if let Some(fleet) = &edge.fleet {
        // The wait for the store is short. The entries of this node in the store expire anyway.
        let _ = timeout(FAREWELL, fleet.leave()).await;
    }
}

async fn run_upkeep(current: Current, telemetry: Arc<Telemetry>, readiness: Arc<Readiness>) {
    let mut every = interval(Telemetry::UPKEEP);
    let mut trim = MemoryTrim::default();
    let mut rotation = Rotation::default();
    let mut expiry = ExpiryWatch::default();
    loop {
        every.tick().await;
        telemetry.upkeep();
        let (edge, now) = (current.load_full(), Now::read());
        readiness.set_store(edge.tickets.sweep(now).await);
        RevocationsHeld { count: edge.revocations.sweep(now) }.emit();
        edge.upstreams.publish_states(now);
        expiry.look(&edge, now);
        trim.look(edge.ceiling.open());
        let config = &edge.config;
        rotation.rotate_due_keys(&config.context, &config.state_dir, &edge.signing_keys, now);
    }
}
