//! The state that all threads share.
//!
//! An [`Edge`] is one configuration, ready to serve: routes, issuers' keys, certificates,
//! upstreams. It never changes. A reload makes the next one, which takes over everything that
//! outlives a configuration: sessions, counts, the deny list, the store. [`Current`] holds the edge
//! in force. A task takes the edge from there when it begins, and keeps it to the end.

pub mod ceiling;
pub mod drain;
pub mod events;
pub mod expiry;
pub mod inspect;
pub mod judge;
pub mod reload;
mod revoked_certificates;
pub mod router;
pub mod staples;
pub mod upgrade_rates;
pub mod waiting_room;
pub mod watch;
pub mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use rustls::{RootCertStore, ServerConfig};

use crate::acme::{Acme, AcmeError};
use crate::auth::Authenticator;
use crate::auth::grant::Grant;
use crate::auth::jwt::Issuers;
use crate::auth::revocation::Revocations;
use crate::auth::ticket::Tickets;
use crate::auth::verifier::Verifiers;
use crate::base::clock::Now;
use crate::config::{self, Config, Limits};
use crate::edge::ceiling::Ceiling;
use crate::edge::drain::Drain;
use crate::edge::events::CertificatesRevoked;
use crate::edge::events::ConnectionLimitsSet;
use crate::edge::revoked_certificates::RevokedCertificates;
use crate::edge::router::Router;
use crate::edge::upgrade_rates::UpgradeRates;
use crate::edge::waiting_room::WaitingRoom;
use crate::fleet::Fleet;
use crate::fleet::places::SessionPlaces;
use crate::migration::shadow::Shadows;
use crate::migration::uses::LegacyUses;
use crate::net::tls::crl::{CrlFiles, RevocationLists};
use crate::net::tls::server;
use crate::net::tls::stapling::Staples;
use crate::session::registry::Registry;
use crate::session::session_counts::{MostSessions, SessionCounts};
use crate::telemetry::Event;
use crate::traces::export::Exporter;
use crate::traces::{SpanQueue, Tracer};
use crate::upstream::Upstreams;
use crate::upstream::keyring::{Keyring, SigningKeys};
use crate::upstream::reserved_names::ReservedNames;
use crate::upstream::signed_context::{ContextRequest, SignedContext, identity_headers};

/// A listener in one configuration: its settings, its TLS, and the authorities of its clients.
#[derive(Clone, Debug)]
pub struct ListenerTerms {
    pub config: Arc<config::Listener>,
    pub tls: Option<Arc<ServerConfig>>,
    /// The authorities that may sign clients' certificates, if the listener asks for these.
    pub authorities: Option<Arc<RootCertStore>>,
    /// Their lists of revoked certificates, if the listener has some.
    pub revoked: Option<Arc<RevocationLists>>,
}

#[derive(Debug)]
pub struct Edge {
    pub config: Arc<Config>,
    pub limits: Arc<Limits>,
    /// The listeners, in the order in which their addresses are bound.
    pub listeners: Vec<ListenerTerms>,
    pub router: Router,
    pub reserved: ReservedNames,
    pub authenticator: Arc<Authenticator>,
    /// The authenticator of the edge in force, for sessions that outlive the edge that they began
    /// with.
    pub in_force: Arc<ArcSwap<Authenticator>>,
    /// The lists of the edge in force, for sessions that outlive the edge that they began with.
    pub revoked_certificates: Arc<RevokedCertificates>,
    /// Follows `certificates` over all edges.
    expiry_watch: Arc<Mutex<expiry::CertificateExpiryWatch>>,
    pub tickets: Arc<Tickets>,
    pub verifiers: Arc<Verifiers>,
    pub revocations: Arc<Revocations>,
    pub upstreams: Upstreams,
    pub signing_keys: Arc<SigningKeys>,
    pub registry: Arc<Registry>,
    pub fleet: Option<Arc<Fleet>>,
    pub ceiling: Arc<Ceiling>,
    pub waiting_room: Arc<WaitingRoom>,
    /// `None`: the sessions of a user are not limited.
    pub places: Option<Arc<SessionPlaces>>,
    pub session_counts: Arc<SessionCounts>,
    pub upgrade_rates: Arc<UpgradeRates>,
    pub drain: Arc<Drain>,
    /// The clients that still use legacy methods.
    pub legacy_uses: Arc<LegacyUses>,
    pub shadows: Arc<Shadows>,
    /// The dates of the certificates that the configuration names.
    pub certificates: Vec<expiry::DatedFile>,
    /// The OCSP answers for them.
    pub staples: Arc<Staples>,
    /// `None`: no certificate is ordered.
    pub acme: Option<Arc<Acme>>,
    signed_context: SignedContext,
    /// `None`: nothing is traced.
    pub tracer: Option<Arc<Tracer>>,
    /// Sends what `tracer` records.
    exporter: Option<Arc<Exporter>>,
    /// The spans that wait, over all edges.
    pub spans: Arc<SpanQueue>,
}

/// The edge in force.
pub type Current = Arc<ArcSwap<Edge>>;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error(transparent)]
    Tls(#[from] server::TlsError),
    #[error(transparent)]
    Acme(#[from] AcmeError),
    #[error(transparent)]
    Issuer(#[from] crate::auth::jwt::LoadError),
    #[error(transparent)]
    Verifier(#[from] crate::auth::verifier::VerifierOpenError),
    #[error(transparent)]
    Keyring(#[from] crate::upstream::keyring::KeyringError),
    #[error(transparent)]
    Upstream(#[from] crate::upstream::UpstreamBuildError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreOpenError),
    #[error("the receiver of traces: {0}")]
    Traces(String),
    #[error("the state directory {path} cannot be created: {error}")]
    StateDir { path: PathBuf, error: std::io::Error },
}

/// The state that outlives a configuration.
struct Shared {
    /// `None` before the first configuration.
    in_force: Option<Arc<ArcSwap<Authenticator>>>,
    revoked_certificates: Arc<RevokedCertificates>,
    expiry_watch: Arc<Mutex<expiry::CertificateExpiryWatch>>,
    revocations: Arc<Revocations>,
    registry: Arc<Registry>,
    fleet: Option<Arc<Fleet>>,
    ceiling: Arc<Ceiling>,
    waiting_room: Arc<WaitingRoom>,
    places: Option<Arc<SessionPlaces>>,
    session_counts: Arc<SessionCounts>,
    /// Those of the configuration before.
    upgrade_rates: Arc<UpgradeRates>,
    drain: Arc<Drain>,
    legacy_uses: Arc<LegacyUses>,
    shadows: Arc<Shadows>,
    /// That of the configuration before.
    acme: Option<Arc<Acme>>,
    spans: Arc<SpanQueue>,
}

impl Edge {
    /// Opens the first edge of a process.
    pub fn open(config: Config, now: Now) -> Result<Self, EdgeError> {
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|error| EdgeError::StateDir { path: config.state_dir.clone(), error })?;
        let config = Arc::new(config);
        let issuers = issuers(&config)?;
        let verifiers = Arc::new(Verifiers::open(&config, None)?);
        let lasting = Shared::new(&config)?;
        let tickets = Tickets::new(&config)?;
        let upstreams = Upstreams::build(&config.upstreams, None, now)?;
        let first = Self::build(config, issuers, verifiers, tickets, upstreams, lasting, now)?;
        first.publish_revocation_lists();
        Ok(first)
    }

    /// Builds the next edge: another configuration over the same sessions, counts and store.
    pub fn next(&self, config: Config, now: Now) -> Result<Self, EdgeError> {
        let config = Arc::new(config);
        let issuers = issuers(&config)?;
        issuers.go_on_from(self.authenticator.issuers());
        let verifiers = Arc::new(Verifiers::open(&config, Some(&self.verifiers))?);
        let tickets = self.tickets.next(&config);
        let upstreams = Upstreams::build(&config.upstreams, Some(&self.upstreams), now)?;
        let lasting = Shared::of(self);
        let next = Self::build(config, issuers, verifiers, tickets, upstreams, lasting, now)?;
        next.check_lists_not_older(self)?;
        next.staples.adopt(&self.staples, now.wall);
        Ok(next)
    }

    fn build(
        config: Arc<Config>,
        issuers: Arc<Issuers>,
        verifiers: Arc<Verifiers>,
        tickets: Tickets,
        upstreams: Upstreams,
        lasting: Shared,
        now: Now,
    ) -> Result<Self, EdgeError> {
        let Shared {
            in_force,
            revoked_certificates,
            expiry_watch,
            revocations,
            registry,
            fleet,
            ceiling,
            waiting_room,
            places,
            session_counts,
            upgrade_rates,
            drain,
            legacy_uses,
            shadows,
            acme,
            spans,
        } = lasting;
        let acme = config
            .acme
            .as_ref()
            .map(|next| Acme::open(next, &config.store, &config.state_dir, acme.as_ref()))
            .transpose()?;
        let exporter = config
            .traces
            .as_ref()
            .map(|traces| Exporter::open(traces, &config.node).map(Arc::new))
            .transpose()
            .map_err(EdgeError::Traces)?;
        let signing_keys =
            SigningKeys::new(Keyring::open(&config.context, &config.state_dir, now)?);
        let staples = Arc::new(Staples::open(&config, now.wall)?);
        let tickets = Arc::new(tickets);
        let authenticator = Authenticator::new(
            issuers,
            Arc::clone(&tickets),
            Arc::clone(&revocations),
            config.mtls.clone(),
        );
        let authenticator = Arc::new(
            authenticator.with_bypass(&config.bypass).with_verifiers(Arc::clone(&verifiers)),
        );
        let in_force =
            in_force.unwrap_or_else(|| Arc::new(ArcSwap::new(Arc::clone(&authenticator))));
        Ok(Self {
            limits: Arc::clone(&config.limits),
            listeners: listener_terms(&config, &staples, acme.as_deref())?,
            router: Router::new(&config.routes),
            reserved: ReservedNames::of(&config),
            authenticator,
            in_force,
            revoked_certificates,
            expiry_watch,
            tickets,
            verifiers,
            revocations,
            upstreams,
            registry,
            fleet,
            ceiling,
            waiting_room,
            places,
            session_counts,
            upgrade_rates: Arc::new(UpgradeRates::of(&config.limits, &upgrade_rates)),
            drain,
            legacy_uses,
            shadows,
            acme,
            signed_context: SignedContext::new(&config.context, Arc::clone(&signing_keys)),
            signing_keys,
            certificates: expiry::read(&config),
            staples,
            tracer: config.traces.as_ref().map(|traces| Arc::new(Tracer::new(traces, &spans))),
            exporter,
            spans,
            config,
        })
    }

    /// Puts this edge's limits into force for everything that is counted over all configurations.
    /// Its issuers judge renewals from now on.
    pub fn take_over(&self) {
        self.in_force.store(Arc::clone(&self.authenticator));
        self.publish_revocation_lists();
        self.ceiling.set_limit(self.limits.connections);
        self.publish_limits();
        self.shadows.set_most(self.limits.shadow_checks);
        if let Some(fleet) = &self.fleet {
            fleet.keep_revocations_for(self.config.revocation.keep);
        }
        self.waiting_room
            .set_limits(self.limits.unauthenticated, self.limits.unauthenticated_per_address);
        self.session_counts.set_most(most_sessions(&self.limits));
        self.verifiers.publish_breakers();
        self.export_traces();
    }

    /// Sends the spans to this edge's receiver from now on, if it has one.
    pub fn export_traces(&self) {
        self.spans.send_to(self.exporter.clone());
    }

    fn revocation_lists(&self) -> impl Iterator<Item = &Arc<RevocationLists>> {
        self.listeners.iter().filter_map(|terms| terms.revoked.as_ref())
    }

    fn publish_revocation_lists(&self) {
        self.revoked_certificates.publish(self.revocation_lists().cloned().collect());
    }

    /// Returns an error if a list of revoked certificates is older than that of the same listener
    /// before.
    fn check_lists_not_older(&self, before: &Self) -> Result<(), server::TlsError> {
        // Reloads keep the order of the listeners.
        let both = self.listeners.iter().zip(&before.listeners);
        both.filter_map(|(next, before)| Some((next.revoked.as_ref()?, before.revoked.as_ref()?)))
            .try_for_each(|(next, before)| next.check_not_older(before))
    }

    /// Ends the sessions that logged in with a certificate that the lists in force revoke. This
    /// edge must be in force: a session that opens at the same time looks at its lists.
    pub fn end_sessions_of_revoked_certificates(&self, now: Now) {
        let is_revoked = |certificate: &CertificateDer<'static>| self.is_revoked(certificate, now);
        let closed = self.registry.close_revoked_certificates(is_revoked);
        if closed > 0 {
            CertificatesRevoked { closed }.emit();
        }
    }

    /// Puts the lists of the process that has replaced this one into force.
    pub fn follow_lists(&self, files: Vec<CrlFiles>, now: Now) -> Result<(), server::TlsError> {
        self.revoked_certificates.read(files)?;
        self.end_sessions_of_revoked_certificates(now);
        Ok(())
    }

    /// Returns true if a list in force, of any listener, revokes the certificate.
    pub fn is_revoked(&self, certificate: &CertificateDer<'_>, now: Now) -> bool {
        self.revoked_certificates.is_revoked(certificate, now)
    }

    /// Reports the limits on connections as metrics.
    pub fn publish_limits(&self) {
        let Limits { connections, unauthenticated, .. } = *self.limits;
        ConnectionLimitsSet { connections, unauthenticated }.emit();
    }

    /// Sets the headers that identify the client to the upstream. On a public route there are none.
    pub fn set_identity(
        &self,
        headers: &mut HeaderMap,
        grant: &Grant,
        about: ContextRequest<'_>,
        now: Now,
    ) {
        if let Some(value) = self.signed_context.header_value(grant, about, now) {
            headers.insert(self.config.context.header.clone(), value);
        }
        for (name, value) in identity_headers(grant.route(), grant) {
            headers.insert(name, value);
        }
    }
}

impl Shared {
    fn new(config: &Config) -> Result<Self, EdgeError> {
        let limits = &config.limits;
        let revocations = Arc::new(Revocations::new(config.revocation.max_entries));
        let registry = Registry::new();
        let fleet = Fleet::open(config, &registry, &revocations)?;
        let fleet_places = fleet.as_ref().and_then(|fleet| fleet.fleet_places());
        Ok(Self {
            in_force: None,
            revoked_certificates: Arc::default(),
            expiry_watch: Arc::default(),
            places: limits.sessions_per_user.map(|most| {
                Arc::new(SessionPlaces::new(most, limits.extra_sessions, fleet_places))
            }),
            revocations,
            registry,
            fleet,
            ceiling: Ceiling::new(limits.connections),
            waiting_room: WaitingRoom::new(
                limits.unauthenticated,
                limits.unauthenticated_per_address,
            ),
            session_counts: SessionCounts::new(most_sessions(limits)),
            upgrade_rates: Arc::default(),
            drain: Arc::default(),
            legacy_uses: Arc::default(),
            shadows: Shadows::new(limits.shadow_checks),
            acme: None,
            spans: SpanQueue::new(),
        })
    }

    fn of(edge: &Edge) -> Self {
        Self {
            in_force: Some(Arc::clone(&edge.in_force)),
            revoked_certificates: Arc::clone(&edge.revoked_certificates),
            expiry_watch: Arc::clone(&edge.expiry_watch),
            revocations: Arc::clone(&edge.revocations),
            registry: Arc::clone(&edge.registry),
            fleet: edge.fleet.clone(),
            ceiling: Arc::clone(&edge.ceiling),
            waiting_room: Arc::clone(&edge.waiting_room),
            places: edge.places.clone(),
            session_counts: Arc::clone(&edge.session_counts),
            upgrade_rates: Arc::clone(&edge.upgrade_rates),
            drain: Arc::clone(&edge.drain),
            legacy_uses: Arc::clone(&edge.legacy_uses),
            shadows: Arc::clone(&edge.shadows),
            acme: edge.acme.clone(),
            spans: Arc::clone(&edge.spans),
        }
    }
}

fn most_sessions(limits: &Limits) -> MostSessions {
    MostSessions { per_address: limits.sessions_per_address, per_route: limits.sessions_per_route }
}

fn issuers(config: &Config) -> Result<Arc<Issuers>, EdgeError> {
    Ok(Arc::new(Issuers::load(&config.issuers, &config.context.claims)?.kept_in(&config.state_dir)))
}

fn listener_terms(
    config: &Config,
    staples: &Arc<Staples>,
    acme: Option<&Acme>,
) -> Result<Vec<ListenerTerms>, EdgeError> {
    let acme = acme.map(Acme::listener);
    let terms = |listener: &Arc<crate::config::Listener>| {
        let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let authorities =
            clients.map(|clients| server::authorities(&clients.ca_file)).transpose()?.map(Arc::new);
        let revoked = clients.map(RevocationLists::of).transpose()?.flatten().map(Arc::new);
        let tls = listener
            .tls
            .as_ref()
            .map(|tls| {
                let (authorities, revoked) = (authorities.as_ref(), revoked.as_deref());
                server::config(tls, authorities, revoked, staples, acme.as_ref())
            })
            .transpose()?;
        Ok(ListenerTerms { config: Arc::clone(listener), tls, authorities, revoked })
    };
    config.listeners.iter().map(terms).collect()
}
