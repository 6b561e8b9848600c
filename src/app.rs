//! The whole program: built from a config, then run until it is told to stop.
//!
//! `build` binds every socket and opens everything that can fail, so that `run` has only to serve. Each core gets a thread
//! with a runtime of its own; one more serves the admin listener, the signals and the housekeeping, so that probes are
//! answered however busy the others are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use http::HeaderMap;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::admin::{Admin, Figures, Readiness, Revoking, StoreFigures, Summary};
use crate::auth::Authenticator;
use crate::auth::grant::Grant;
use crate::auth::jwt::Issuers;
use crate::auth::revocation::Revocations;
use crate::clock::Now;
use crate::config::{Config, Limits};
use crate::drain::{self, Drain};
use crate::fleet::Fleet;
use crate::fleet::places::Places;
use crate::http::headers::ReservedNames;
use crate::http::route::Router;
use crate::keyring::Keyring;
use crate::listener::waiting_room::WaitingRoom;
use crate::listener::{self, Bound, Ceiling};
use crate::memory::Trim;
use crate::session::registry::Registry;
use crate::signal::Signals;
use crate::store::redis::BreakerState;
use crate::telemetry::Telemetry;
use crate::telemetry::event::Event;
use crate::ticket::Tickets;
use crate::tls::server;
use crate::upstream::Upstreams;
use crate::upstream::pool::Pool;
use crate::upstream::signed_context::{ContextRequest, SignedContext, identity_headers};

/// How long a node that stops may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// What all threads share.
#[derive(Debug)]
pub struct Edge {
    pub config: Arc<Config>,
    pub limits: Arc<Limits>,
    pub router: Router,
    pub reserved: ReservedNames,
    pub authenticator: Arc<Authenticator>,
    pub tickets: Arc<Tickets>,
    pub revocations: Arc<Revocations>,
    pub upstreams: Upstreams,
    pub jwks: Bytes,
    pub registry: Arc<Registry>,
    pub fleet: Option<Arc<Fleet>>,
    pub ceiling: Arc<Ceiling>,
    pub waiting_room: Arc<WaitingRoom>,
    /// `None`: users may have as many sessions as they like.
    pub places: Option<Places>,
    pub drain: Drain,
    signed_context: SignedContext,
}

/// What one thread has.
#[derive(Clone, Debug)]
pub struct Worker {
    pub edge: Arc<Edge>,
    pub pool: Arc<Pool>,
}

#[derive(Debug)]
pub struct App {
    edge: Arc<Edge>,
    /// For each thread, its sockets.
    threads: Vec<Vec<Bound>>,
    admin: Option<std::net::TcpListener>,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    addresses: Addresses,
}

#[derive(Clone, Debug)]
pub struct Addresses {
    pub listeners: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot listen on {address}: {error}")]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Tls(#[from] server::TlsError),
    #[error(transparent)]
    Issuer(#[from] crate::auth::jwt::LoadError),
    #[error(transparent)]
    Keyring(#[from] crate::keyring::KeyringError),
    #[error(transparent)]
    Upstream(#[from] crate::upstream::BuildError),
    #[error(transparent)]
    Store(#[from] crate::store::OpenError),
    #[error(transparent)]
    Telemetry(#[from] crate::telemetry::InstallError),
    #[error("the state directory {path} cannot be made: {error}")]
    StateDir { path: PathBuf, error: std::io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the runtime could not be started: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("a worker thread has died")]
    WorkerDied,
    #[error("stopped by a second signal")]
    Forced,
}

impl Edge {
    /// Says to the upstream who the client is; on a public route there is nobody to speak of.
    pub fn set_identity(&self, headers: &mut HeaderMap, grant: &Grant, about: ContextRequest<'_>, now: Now) {
        if let Some(value) = self.signed_context.header_value(grant, about, now) {
            headers.insert(self.config.context.header.clone(), value);
        }
        for (name, value) in identity_headers(grant.route(), grant) {
            headers.insert(name, value);
        }
    }

    fn figures(&self) -> Figures {
        let store = self.tickets.store();
        Figures {
            connections: self.ceiling.open(),
            unauthenticated: self.waiting_room.waiting(),
            tickets: store.held(),
            revocations: self.revocations.len(),
            nodes: self.fleet.as_ref().and_then(|fleet| fleet.nodes()),
            store: StoreFigures { kind: store.kind(), breaker: store.breaker().map(BreakerState::name) },
        }
    }

    fn revoking(&self) -> Revoking {
        Revoking {
            revocations: Arc::clone(&self.revocations),
            keep: self.config.revocation.keep,
            issuers: self.config.issuers.iter().map(|issuer| Arc::clone(&issuer.name)).collect(),
            fleet: self.fleet.clone(),
        }
    }
}

impl App {
    pub fn build(config: Config) -> Result<Self, BuildError> {
        let telemetry = Arc::new(Telemetry::install(&config)?);
        let now = Now::read();
        let config = Arc::new(config);
        let issuers = Arc::new(Issuers::load(&config.issuers, &config.context.claims)?);
        std::fs::create_dir_all(&config.state_dir).map_err(|error| BuildError::StateDir { path: config.state_dir.clone(), error })?;
        let keyring = Arc::new(Keyring::open(&config.context, &config.state_dir, now)?);
        let revocations = Arc::new(Revocations::new(config.revocation.max_entries));
        let tickets = Arc::new(Tickets::new(&config, Arc::clone(&issuers), Arc::clone(&revocations))?);
        let registry = Registry::new();
        let fleet = Fleet::open(&config, &registry, &revocations)?;
        let ledger = fleet.as_ref().and_then(|fleet| fleet.ledger()).cloned();
        let edge = Arc::new(Edge {
            limits: Arc::clone(&config.limits),
            router: Router::new(&config.routes),
            reserved: ReservedNames::of(&config),
            authenticator: Arc::new(Authenticator::new(issuers, Arc::clone(&tickets), Arc::clone(&revocations))),
            tickets,
            revocations,
            upstreams: Upstreams::build(&config.upstreams)?,
            jwks: Bytes::from(keyring.jwks().to_string()),
            registry,
            fleet,
            ceiling: Ceiling::new(config.limits.connections),
            waiting_room: WaitingRoom::new(config.limits.unauthenticated, config.limits.unauthenticated_per_address),
            places: config.limits.sessions_per_user.map(|most| Places::new(most, config.limits.on_limit, ledger.as_ref())),
            drain: Drain::default(),
            signed_context: SignedContext::new(&config.context, keyring),
            config,
        });
        let (threads, listeners) = bind_all(&edge.config)?;
        let admin = edge.config.admin.as_ref().map(|admin| bind(admin.address)).transpose()?;
        let admin_address = admin.as_ref().and_then(|socket| socket.local_addr().ok());
        let addresses = Addresses { listeners, admin: admin_address };
        Ok(Self { edge, threads, admin, telemetry, readiness: Arc::default(), addresses })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    fn summary(&self) -> Summary {
        let config = &self.edge.config;
        Summary {
            listeners: self.addresses.listeners.clone(),
            routes: config.routes.iter().map(|route| route.name.to_string()).collect(),
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.to_string()).collect(),
            config: config.source.as_ref().map(|source| source.display().to_string()),
            node: config.node.clone(),
        }
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub fn run(self) -> Result<(), RunError> {
        let (stop, _) = watch::channel(false);
        let summary = self.summary();
        let main = runtime::Builder::new_current_thread().enable_all().build()?;
        let joined = self.edge.fleet.as_ref().and_then(|fleet| main.block_on(fleet.join()));
        let mut workers = Vec::new();
        for (index, sockets) in self.threads.into_iter().enumerate() {
            workers.push(spawn_worker(index, sockets, Arc::clone(&self.edge), stop.subscribe())?);
        }
        let outcome = main.block_on(async {
            let mut signals = Signals::listen()?;
            tokio::spawn(keep_house(Arc::clone(&self.edge), Arc::clone(&self.telemetry), Arc::clone(&self.readiness)));
            if let Some(fleet) = &self.edge.fleet {
                tokio::spawn(Arc::clone(fleet).follow(joined));
                tokio::spawn(Arc::clone(fleet).beat_on());
                if let Some(ledger) = fleet.ledger() {
                    tokio::spawn(Arc::clone(ledger).keep());
                }
            }
            if let Some(socket) = self.admin {
                let counted = Arc::clone(&self.edge);
                let admin = Admin {
                    telemetry: Arc::clone(&self.telemetry),
                    registry: Arc::clone(&self.edge.registry),
                    readiness: Arc::clone(&self.readiness),
                    token: self.edge.config.admin.as_ref().and_then(|admin| admin.token.clone()),
                    revoking: self.edge.revoking(),
                    summary,
                    figures: Box::new(move || counted.figures()),
                };
                tokio::spawn(Arc::new(admin).serve(tokio::net::TcpListener::from_std(socket)?));
            }
            self.readiness.set_ready();
            let config = self.edge.config.source.as_deref();
            Event::Ready { listeners: &self.addresses.listeners, admin: self.addresses.admin, config }.emit();

            watch_over(&mut signals, &workers).await?;
            self.readiness.set_draining();
            self.edge.drain.begin();
            tokio::select! {
                () = leave(&self.edge) => Ok(()),
                () = signals.stop() => Err(RunError::Forced),
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

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, BuildError> {
    listener::bind(address).map_err(|error| BuildError::Bind { address, error })
}

/// One socket for each listener on each thread. The first thread's decides the port where the config leaves it open.
fn bind_all(config: &Config) -> Result<(Vec<Vec<Bound>>, Vec<SocketAddr>), BuildError> {
    let mut threads: Vec<Vec<Bound>> = (0..config.threads.max(1)).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let tls = listener.tls.as_ref().map(server::config).transpose()?;
        let mut address = listener.address;
        for (index, sockets) in threads.iter_mut().enumerate() {
            let socket = bind(address)?;
            if index == 0 {
                address = socket.local_addr().map_err(|error| BuildError::Bind { address, error })?;
                addresses.push(address);
            }
            sockets.push(Bound { socket, config: Arc::clone(listener), tls: tls.clone() });
        }
    }
    Ok((threads, addresses))
}

fn spawn_worker(index: usize, sockets: Vec<Bound>, edge: Arc<Edge>, mut stop: watch::Receiver<bool>) -> std::io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("usher-{index}")).spawn(move || {
        // The random generator of a thread gathers entropy at its first use, for some tens of milliseconds. Here no handshake
        // waits for it. A failure shows again there.
        let _ = rand::fill(&mut [0]);
        runtime.block_on(async {
            let worker = Worker { edge, pool: Arc::default() };
            for bound in sockets {
                tokio::spawn(listener::accept(bound, worker.clone()));
            }
            // A sender that is gone stops us too.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        // Dropping the runtime drops what is left; each session still tells its end.
    })
}

/// Completes at the first signal; fails if a worker thread ends before that.
async fn watch_over(signals: &mut Signals, workers: &[JoinHandle<()>]) -> Result<(), RunError> {
    let mut check = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = signals.stop() => return Ok(()),
            _ = check.tick() => if workers.iter().any(JoinHandle::is_finished) { return Err(RunError::WorkerDied) },
        }
    }
}

/// Sessions first, then what plain HTTP is still being answered.
async fn leave(edge: &Edge) {
    let close_timeout = edge.config.keepalive.close_timeout;
    drain::close_sessions(&edge.registry, edge.config.drain.window, close_timeout).await;
    let deadline = Instant::now() + close_timeout;
    while edge.ceiling.open() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    if let Some(fleet) = &edge.fleet {
        // Nobody waits for a store that is away: what it holds of ours ends by itself.
        let _ = timeout(FAREWELL, fleet.leave()).await;
    }
}

async fn keep_house(edge: Arc<Edge>, telemetry: Arc<Telemetry>, readiness: Arc<Readiness>) {
    let mut every = interval(Telemetry::UPKEEP);
    let mut trim = Trim::default();
    loop {
        every.tick().await;
        telemetry.upkeep();
        let now = Now::read();
        readiness.set_store(edge.tickets.sweep(now).await);
        Event::RevocationsHeld { count: edge.revocations.sweep(now.wall) }.emit();
        trim.look(edge.ceiling.open());
    }
}
