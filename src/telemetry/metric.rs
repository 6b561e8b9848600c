//! Every metric: its name, kind, labels and meaning in one table, and the handles that events count with.
//!
//! Labels are closed sets: routes and upstreams come from the config, outcomes from the tables of rejections and close
//! reasons. What is in no set counts as `other`, so that nothing a client sends can make a new time series. Handles are
//! taken once and held, because looking one up costs seven times what counting costs.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::InstallError;
use crate::auth::credential::Method;
use crate::auth::remote_keys::fetch::Fault;
use crate::auth::revocation::Kind as Revoked;
use crate::auth::verifier::Fault as VerifierFault;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::lock::lock;
use crate::migration::Standing;
use crate::migration::shadow::{Mismatch, Shadow};
use crate::rejection::Rejection;
use crate::session::close::CloseReason;
use crate::store::{TicketFault, redis};
use crate::ws::close_code::CloseCode;

/// A row of the table.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// From a tenth of a millisecond, which is what a ticket costs, to the timeouts.
pub const HANDSHAKE_BUCKETS: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// From a second to a day.
pub const SESSION_BUCKETS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

macro_rules! table {
    ($($row:ident: $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(pub static $row: Definition = Definition { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        /// Every metric, in the order of a connection's life.
        pub static ALL: &[&Definition] = &[$(&$row),*];
    };
}

table! {
    BUILD_INFO: "usher_build_info", Kind::Gauge, ["version"], "Always 1; the label tells the version.";
    START_TIME: "usher_start_time_seconds", Kind::Gauge, [], "When this process started, in seconds since the Unix epoch.";
    READY: "usher_ready", Kind::Gauge, [], "1 while this process takes new clients, 0 before and while it drains.";
    BYPASS_ALLOWED: "usher_bypass_allowed", Kind::Gauge, [], "1 while test identities count in this process; 0 wherever real users are.";
    BYPASS_USED: "usher_bypass_used_total", Kind::Counter, ["route", "outcome"], "Test identities shown: accepted or refused.";
    CONNECTIONS: "usher_connections_total", Kind::Counter, [], "Client connections accepted.";
    CONNECTIONS_OPEN: "usher_connections_open", Kind::Gauge, [], "Client connections open now.";
    ACCEPT_FAILURES: "usher_accept_failures_total", Kind::Counter, [], "Connections that the operating system could not give us, for want of descriptors or memory.";
    CONNECTION_PANICS: "usher_connection_panics_total", Kind::Counter, [], "Connections that a fault of ours ended.";
    UNAUTHENTICATED: "usher_unauthenticated_open", Kind::Gauge, [], "Connections open now that have not shown who they are.";
    LIMITS_HIT: "usher_limits_hit_total", Kind::Counter, ["limit"], "Times that a configured limit was reached.";
    TLS_HANDSHAKES: "usher_tls_handshakes_total", Kind::Counter, ["outcome"], "TLS handshakes: full, resumed, or why they failed.";
    TLS_DURATION: "usher_tls_handshake_duration_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), [], "How long successful TLS handshakes took.";
    UPGRADES: "usher_upgrades_total", Kind::Counter, ["route", "method", "outcome"], "WebSocket upgrades: accepted, or the label of the rejection.";
    UPGRADE_DURATION: "usher_upgrade_duration_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), ["route"], "From the complete request head to the 101, for accepted upgrades.";
    UPGRADE_PHASE_DURATION: "usher_upgrade_phase_duration_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), ["phase"], "How long each phase of an accepted upgrade took: authenticate, dial, answer.";
    FIRST_MESSAGE_WAIT: "usher_first_message_wait_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), ["route"], "From an early 101 to the first message, where one came.";
    DIAL_FAILURES: "usher_upstream_dial_failures_total", Kind::Counter, ["upstream"], "Dials of an upstream server that failed, retried or not.";
    TICKETS_ISSUED: "usher_tickets_issued_total", Kind::Counter, ["route"], "Tickets issued.";
    TICKETS_REFUSED: "usher_tickets_refused_total", Kind::Counter, ["outcome"], "Ticket requests refused, by the label of the rejection.";
    TICKETS_REDEEMED: "usher_tickets_redeemed_total", Kind::Counter, ["route"], "Tickets redeemed.";
    TICKETS_REDEEM_REFUSED: "usher_tickets_redeem_refused_total", Kind::Counter, ["route", "fault"], "Tickets that were shown and not redeemed.";
    TICKETS_EXPIRED: "usher_tickets_expired_total", Kind::Counter, [], "Tickets that nobody redeemed in time.";
    TICKETS_LOST: "usher_tickets_lost_total", Kind::Counter, [], "Tickets redeemed for a client that left before it was answered.";
    TICKETS_HELD: "usher_tickets_held", Kind::Gauge, [], "Tickets that the store holds now.";
    STORE_OPERATIONS: "usher_store_operations_total", Kind::Counter, ["operation", "outcome", "region"], "Operations on a store outside of this process: ok, or what was wrong.";
    STORE_DURATION: "usher_store_operation_duration_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), ["operation", "region"], "How long operations on the store took, failed ones included.";
    STORE_CONNECTIONS: "usher_store_connections_total", Kind::Counter, ["lane", "outcome", "region"], "Connections to the store: ok, or why there was none.";
    STORE_BREAKER: "usher_store_breaker_state", Kind::Gauge, ["lane", "region"], "0 while the store is asked, 2 while it is not, 1 while it is tried.";
    SESSIONS_ACTIVE: "usher_sessions_active", Kind::Gauge, ["route"], "Sessions open now.";
    SESSION_DURATION: "usher_session_duration_seconds", Kind::Histogram(SESSION_BUCKETS), ["route"], "How long sessions lasted.";
    SESSION_CLOSES: "usher_session_closes_total", Kind::Counter, ["code", "reason"], "Sessions ended, by the close code that the client sent or got and by the reason.";
    REAUTH: "usher_reauth_total", Kind::Counter, ["route", "outcome"], "Re-authentication in the stream: clients asked, grants renewed, credentials refused.";
    VERIFIER_QUESTIONS: "usher_verifier_questions_total", Kind::Counter, ["verifier", "outcome"], "Questions to a verifier: good, bad, or why there was no answer.";
    VERIFIER_DURATION: "usher_verifier_question_duration_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), ["verifier"], "How long questions to a verifier took, the wait for a place and failed ones included.";
    VERIFIER_CACHE: "usher_verifier_cache_total", Kind::Counter, ["verifier", "outcome"], "Credentials looked for among remembered answers: good or bad was remembered, joined waited for a question on its way, miss asked.";
    VERIFIER_IN_FLIGHT: "usher_verifier_in_flight", Kind::Gauge, ["verifier"], "Questions to a verifier on their way now.";
    VERIFIER_BREAKER: "usher_verifier_breaker_state", Kind::Gauge, ["verifier"], "0 while the verifier is asked, 2 while it is not, 1 while it is tried.";
    REVALIDATIONS: "usher_revalidations_total", Kind::Counter, ["verifier", "outcome"], "Times that a verifier was asked again about a live session: good, revoked, away or away_too_long.";
    REVOCATIONS: "usher_revocations_total", Kind::Counter, ["kind"], "Revocations carried out here, by what they name.";
    REVOCATIONS_HELD: "usher_revocations_held", Kind::Gauge, [], "Revocations in force, as far as this node knows.";
    REVOKED_SESSIONS: "usher_revoked_sessions_total", Kind::Counter, [], "Live sessions that a revocation told to end.";
    FLEET_READING: "usher_revocation_stream_reading", Kind::Gauge, [], "1 while this node hears what other nodes revoke; always 0 without a shared store.";
    FLEET_HEARD: "usher_revocation_stream_entries_total", Kind::Counter, ["outcome"], "Entries read from the fleet's stream of revocations: new, known, over, full or unreadable.";
    FLEET_DELAY: "usher_revocation_stream_delay_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), [], "From another node's order to its being in force here, by the two clocks.";
    FLEET_GAPS: "usher_revocation_stream_gaps_total", Kind::Counter, [], "Times that the fleet's stream had lost entries and was read anew.";
    FLEET_NODES: "usher_fleet_nodes", Kind::Gauge, [], "Nodes that share this node's store, itself included; 0 while the store does not say, or is this node's own.";
    FLEET_TOLD: "usher_revocation_stream_restored_total", Kind::Counter, [], "Revocations in force here that the fleet's stream did not have and that were written to it.";
    ISSUER_KEYS: "usher_issuer_keys", Kind::Gauge, ["issuer"], "Published keys of the issuer that are held; 0: its tokens are refused.";
    ISSUER_KEYS_FETCHED: "usher_issuer_keys_fetched_timestamp_seconds", Kind::Gauge, ["issuer"], "When the keys that are held were fetched, in seconds since the Unix epoch.";
    ISSUER_FETCHES: "usher_issuer_key_fetches_total", Kind::Counter, ["issuer", "outcome"], "Fetches of the issuer's keys: ok, or what was wrong.";
    RELAY_BYTES: "usher_relay_bytes_total", Kind::Counter, ["route", "direction"], "Bytes relayed, frame headers included; counted when a session ends.";
    RELAY_MESSAGES: "usher_relay_messages_total", Kind::Counter, ["route", "direction"], "WebSocket messages relayed; counted when a session ends.";
    RELOADS: "usher_reloads_total", Kind::Counter, ["outcome"], "Configurations read while running: applied or refused.";
    CONFIG_LOADED: "usher_config_loaded_timestamp_seconds", Kind::Gauge, [], "When the configuration in force was read, in seconds since the Unix epoch.";
    CONFIG_CURRENT: "usher_config_is_current", Kind::Gauge, [], "0 after a reload that was refused: the file is not what is in force.";
    LEGACY_UPGRADES: "usher_legacy_upgrades_total", Kind::Counter, ["route", "method"], "Upgrades let in by a method that is to go.";
    ROLLOUT_UPGRADES: "usher_rollout_upgrades_total", Kind::Counter, ["route", "standing"], "Upgrades let in on a route with a rollout: in a share and by the new way (followed), in a share and by a legacy method (lagging), or outside of every share.";
    SHADOW_VERDICTS: "usher_shadow_verdicts_total", Kind::Counter, ["route", "method", "verdict"], "What methods in the shadow said: accepted, the label of a rejection, absent, or skipped for want of room.";
    SHADOW_MISMATCHES: "usher_shadow_mismatches_total", Kind::Counter, ["route", "method", "mismatch"], "Verdicts of the shadow that do not fit what really happened.";
    HTTP_REQUESTS: "usher_http_requests_total", Kind::Counter, ["route", "status"], "Plain HTTP requests answered, by class of status.";
    HTTP_DURATION: "usher_http_request_duration_seconds", Kind::Histogram(HANDSHAKE_BUCKETS), ["route"], "How long forwarded plain HTTP requests took.";
    HTTP_REJECTIONS: "usher_http_requests_rejected_total", Kind::Counter, ["route", "outcome"], "Plain HTTP requests refused, by the label of the rejection.";
    AUDIT_LINES_DROPPED: "usher_audit_lines_dropped_total", Kind::Counter, [], "Audit lines lost because the disk was too slow or full.";
    LOG_LINES_DROPPED: "usher_log_lines_dropped_total", Kind::Counter, [], "Log lines lost because nobody took them in time.";
}

/// The handles, one field for each row.
pub(super) struct Metrics {
    pub(super) ready: Gauge,
    pub(super) bypass_allowed: Gauge,
    pub(super) bypass_used: Family<Counter>,
    pub(super) connections: Counter,
    pub(super) connections_open: Gauge,
    pub(super) accept_failures: Counter,
    pub(super) connection_panics: Counter,
    pub(super) unauthenticated: Gauge,
    pub(super) limits_hit: Words,
    pub(super) tls_handshakes: Words,
    pub(super) tls_duration: Histogram,
    pub(super) upgrades: Family<Counter>,
    pub(super) upgrade_duration: Family<Histogram>,
    pub(super) phase_duration: Family<Histogram>,
    pub(super) first_message_wait: Family<Histogram>,
    pub(super) dial_failures: Family<Counter>,
    pub(super) tickets_issued: Family<Counter>,
    pub(super) tickets_refused: Family<Counter>,
    pub(super) tickets_redeemed: Family<Counter>,
    pub(super) tickets_redeem_refused: Family<Counter>,
    pub(super) tickets_expired: Counter,
    pub(super) tickets_lost: Counter,
    pub(super) tickets_held: Gauge,
    pub(super) store_operations: Family<Counter>,
    pub(super) store_duration: Family<Histogram>,
    pub(super) store_connections: Family<Counter>,
    pub(super) store_breaker: Family<Gauge>,
    pub(super) sessions_active: Family<Gauge>,
    pub(super) session_duration: Family<Histogram>,
    pub(super) session_closes: Family<Counter>,
    pub(super) reauth: Family<Counter>,
    pub(super) verifier_questions: Family<Counter>,
    pub(super) verifier_duration: Family<Histogram>,
    pub(super) verifier_cache: Family<Counter>,
    pub(super) verifier_in_flight: Family<Gauge>,
    pub(super) verifier_breaker: Family<Gauge>,
    pub(super) revalidations: Family<Counter>,
    pub(super) revocations: Family<Counter>,
    pub(super) revocations_held: Gauge,
    pub(super) revoked_sessions: Counter,
    pub(super) fleet_reading: Gauge,
    pub(super) fleet_heard: Family<Counter>,
    pub(super) fleet_delay: Histogram,
    pub(super) fleet_gaps: Counter,
    pub(super) fleet_nodes: Gauge,
    pub(super) fleet_told: Counter,
    pub(super) issuer_keys: Family<Gauge>,
    pub(super) issuer_keys_fetched: Family<Gauge>,
    pub(super) issuer_fetches: Family<Counter>,
    pub(super) relay_bytes: Family<Counter>,
    pub(super) relay_messages: Family<Counter>,
    pub(super) reloads: Family<Counter>,
    pub(super) config_loaded: Gauge,
    pub(super) config_current: Gauge,
    pub(super) legacy_upgrades: Family<Counter>,
    pub(super) rollout_upgrades: Family<Counter>,
    pub(super) shadow_verdicts: Family<Counter>,
    pub(super) shadow_mismatches: Family<Counter>,
    pub(super) http_requests: Family<Counter>,
    pub(super) http_duration: Family<Histogram>,
    pub(super) http_rejections: Family<Counter>,
    audit_lines_dropped: Counter,
    log_lines_dropped: Counter,
}

/// The names of a configuration that stand in labels.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) routes: BTreeSet<String>,
    pub(super) upstreams: BTreeSet<String>,
    pub(super) regions: BTreeSet<String>,
    /// Those that publish their keys.
    pub(super) issuers: BTreeSet<String>,
    pub(super) verifiers: BTreeSet<String>,
}

impl Names {
    pub(super) fn new(routes: &[&str], upstreams: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self { routes: owned(routes), upstreams: owned(upstreams), ..Self::default() }
    }

    pub(super) fn of(config: &Config) -> Self {
        Self {
            routes: config.routes.iter().map(|route| route.name.to_string()).collect(),
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.to_string()).collect(),
            // A store is never another one while the process runs.
            regions: config.region_names().map(str::to_owned).collect(),
            issuers: config.issuers.iter().filter(|issuer| issuer.keys.is_remote()).map(|issuer| issuer.name.to_string()).collect(),
            verifiers: config.verifiers.iter().map(|verifier| verifier.name.to_string()).collect(),
        }
    }

    /// Says whether any of them is new.
    pub(super) fn add(&mut self, other: Self) -> bool {
        let count = |names: &Self| names.routes.len() + names.upstreams.len() + names.issuers.len() + names.verifiers.len();
        let before = count(self);
        self.routes.extend(other.routes);
        self.upstreams.extend(other.upstreams);
        self.issuers.extend(other.issuers);
        self.verifiers.extend(other.verifiers);
        before < count(self)
    }
}

/// Where all series stand, and how they are written out.
pub(super) struct Exposition {
    recorder: Arc<PrometheusRecorder>,
    pub(super) handle: PrometheusHandle,
}

impl Exposition {
    pub(super) fn new(started: UnixMillis) -> Result<Self, InstallError> {
        let mut builder = PrometheusBuilder::new();
        for definition in ALL {
            // Without buckets of its own a histogram would be a summary, which cannot be added up over processes.
            if let Kind::Histogram(buckets) = definition.kind {
                let matcher = Matcher::Full(definition.name.to_owned());
                builder = builder.set_buckets_for_metric(matcher, buckets).map_err(|why| InstallError::Metrics(why.to_string()))?;
            }
        }
        let recorder = Arc::new(builder.build_recorder());
        for definition in ALL {
            let (name, help) = (definition.name.into(), definition.help.into());
            match definition.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        Gauge::register(&recorder, &BUILD_INFO, vec![Label::new("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Gauge::register(&recorder, &START_TIME, Vec::new()).set(started.0 as f64 / 1000.0);
        Ok(Self { handle: recorder.handle(), recorder })
    }

    /// Series that are there already go on where they stand.
    pub(super) fn metrics(&self, names: &Names) -> Metrics {
        Metrics::over(&self.recorder, names)
    }
}

impl Metrics {
    fn over(recorder: &Arc<PrometheusRecorder>, names: &Names) -> Self {
        let [routes, upstreams, regions, issuers, verifiers] =
            [&names.routes, &names.upstreams, &names.regions, &names.issuers, &names.verifiers]
                .map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        let (routes, upstreams, regions, issuers) = (routes.as_slice(), upstreams.as_slice(), regions.as_slice(), issuers.as_slice());
        let verifiers = verifiers.as_slice();
        let rejections: Vec<&str> = Rejection::catalogue().iter().map(|rejection| rejection.facts().label).collect();
        let outcomes: Vec<&str> = std::iter::once(ACCEPTED).chain(rejections.iter().copied()).collect();
        let methods = Method::ALL.map(Method::name);
        let verdicts: Vec<&str> = outcomes.iter().copied().chain([Shadow::ABSENT, Shadow::SKIPPED]).collect();
        let reasons = CloseReason::ALL.map(|reason| reason.facts().label);
        let codes: Vec<&str> = (1000..=1014).chain([3000, 4000]).map(|code| CloseCode(code).label()).collect();
        let faults = TICKET_FAULTS.map(ticket_fault_label);
        let directions = [FROM_CLIENT, FROM_UPSTREAM];
        let verifier_outcomes: Vec<&str> = ["good", "bad"].into_iter().chain(VerifierFault::LABELS).collect();
        let store_outcomes: Vec<&str> = std::iter::once("ok").chain(redis::Fault::ALL.map(redis::Fault::label)).collect();
        let fetch_outcomes: Vec<&str> = std::iter::once("ok").chain(Fault::labels()).collect();

        let counter = |row| Counter::register(recorder, row, Vec::new());
        let gauge = |row| Gauge::register(recorder, row, Vec::new());
        let family = |row, sets: &[&[&str]]| Family::<Counter>::new(recorder, row, sets);
        let histograms = |row, sets: &[&[&str]]| Family::<Histogram>::new(recorder, row, sets).shown();
        Self {
            ready: gauge(&READY),
            bypass_allowed: gauge(&BYPASS_ALLOWED),
            bypass_used: family(&BYPASS_USED, &[routes, &[ACCEPTED, "refused"]]),
            connections: counter(&CONNECTIONS),
            connections_open: gauge(&CONNECTIONS_OPEN),
            accept_failures: counter(&ACCEPT_FAILURES),
            connection_panics: counter(&CONNECTION_PANICS),
            unauthenticated: gauge(&UNAUTHENTICATED),
            limits_hit: Words::new(recorder, &LIMITS_HIT, LIMITS),
            tls_handshakes: Words::new(recorder, &TLS_HANDSHAKES, &["full", "resumed", "timeout", "gone", "protocol", "certificate"]),
            tls_duration: Histogram::register(recorder, &TLS_DURATION, Vec::new()),
            upgrades: family(&UPGRADES, &[routes, &methods, &outcomes]),
            upgrade_duration: histograms(&UPGRADE_DURATION, &[routes]),
            phase_duration: histograms(&UPGRADE_PHASE_DURATION, &[&["authenticate", "dial", "answer"]]),
            first_message_wait: histograms(&FIRST_MESSAGE_WAIT, &[routes]),
            dial_failures: family(&DIAL_FAILURES, &[upstreams]).shown(),
            tickets_issued: family(&TICKETS_ISSUED, &[routes]).shown(),
            tickets_refused: family(&TICKETS_REFUSED, &[&rejections]),
            tickets_redeemed: family(&TICKETS_REDEEMED, &[routes]).shown(),
            tickets_redeem_refused: family(&TICKETS_REDEEM_REFUSED, &[routes, &faults]),
            tickets_expired: counter(&TICKETS_EXPIRED),
            tickets_lost: counter(&TICKETS_LOST),
            tickets_held: gauge(&TICKETS_HELD),
            store_operations: family(&STORE_OPERATIONS, &[&redis::OPERATIONS, &store_outcomes, regions]),
            store_duration: Family::<Histogram>::new(recorder, &STORE_DURATION, &[&redis::OPERATIONS, regions]),
            store_connections: family(&STORE_CONNECTIONS, &[&redis::LANES, &store_outcomes, regions]),
            store_breaker: Family::<Gauge>::new(recorder, &STORE_BREAKER, &[&redis::LANES, regions]),
            sessions_active: Family::<Gauge>::new(recorder, &SESSIONS_ACTIVE, &[routes]).shown(),
            session_duration: histograms(&SESSION_DURATION, &[routes]),
            session_closes: family(&SESSION_CLOSES, &[&codes, &reasons]),
            reauth: family(&REAUTH, &[routes, &["asked", "renewed", "refused", "other_subject", "no_longer"]]).shown(),
            verifier_questions: family(&VERIFIER_QUESTIONS, &[verifiers, &verifier_outcomes]).shown(),
            verifier_duration: histograms(&VERIFIER_DURATION, &[verifiers]),
            verifier_cache: family(&VERIFIER_CACHE, &[verifiers, &["good", "bad", "joined", "miss"]]).shown(),
            verifier_in_flight: Family::<Gauge>::new(recorder, &VERIFIER_IN_FLIGHT, &[verifiers]).shown(),
            verifier_breaker: Family::<Gauge>::new(recorder, &VERIFIER_BREAKER, &[verifiers]).shown(),
            revalidations: family(&REVALIDATIONS, &[verifiers, &["good", "revoked", "away", "away_too_long"]]).shown(),
            revocations: family(&REVOCATIONS, &[&Revoked::ALL.map(Revoked::name)]).shown(),
            revocations_held: gauge(&REVOCATIONS_HELD),
            revoked_sessions: counter(&REVOKED_SESSIONS),
            fleet_reading: gauge(&FLEET_READING),
            fleet_heard: family(&FLEET_HEARD, &[&["new", "known", "over", "full", "unreadable"]]),
            fleet_delay: Histogram::register(recorder, &FLEET_DELAY, Vec::new()),
            fleet_gaps: counter(&FLEET_GAPS),
            fleet_nodes: gauge(&FLEET_NODES),
            fleet_told: counter(&FLEET_TOLD),
            issuer_keys: Family::<Gauge>::new(recorder, &ISSUER_KEYS, &[issuers]).shown(),
            issuer_keys_fetched: Family::<Gauge>::new(recorder, &ISSUER_KEYS_FETCHED, &[issuers]),
            issuer_fetches: family(&ISSUER_FETCHES, &[issuers, &fetch_outcomes]).shown(),
            relay_bytes: family(&RELAY_BYTES, &[routes, &directions]).shown(),
            relay_messages: family(&RELAY_MESSAGES, &[routes, &directions]).shown(),
            reloads: family(&RELOADS, &[&["applied", "refused"]]).shown(),
            config_loaded: gauge(&CONFIG_LOADED),
            config_current: gauge(&CONFIG_CURRENT),
            legacy_upgrades: family(&LEGACY_UPGRADES, &[routes, &methods]),
            rollout_upgrades: family(&ROLLOUT_UPGRADES, &[routes, &Standing::ALL.map(Standing::name)]),
            shadow_verdicts: family(&SHADOW_VERDICTS, &[routes, &methods, &verdicts]),
            shadow_mismatches: family(&SHADOW_MISMATCHES, &[routes, &methods, &Mismatch::ALL.map(Mismatch::name)]),
            http_requests: family(&HTTP_REQUESTS, &[routes, &["1xx", "2xx", "3xx", "4xx", "5xx"]]),
            http_duration: histograms(&HTTP_DURATION, &[routes]),
            http_rejections: family(&HTTP_REJECTIONS, &[routes, &rejections]),
            audit_lines_dropped: counter(&AUDIT_LINES_DROPPED),
            log_lines_dropped: counter(&LOG_LINES_DROPPED),
        }
    }

    pub(super) fn lines_dropped(&self, audit: u64, log: u64) {
        self.audit_lines_dropped.absolute(audit);
        self.log_lines_dropped.absolute(log);
    }
}

/// The keys of `[limits]`, the rates of `[tickets]` and the bound of `[store]` that can be reached.
const LIMITS: &[&str] = &[
    "connections",
    "unauthenticated",
    "unauthenticated_per_address",
    "sessions_per_user",
    "message_bytes",
    "messages_per_second",
    "inflated_bytes",
    "store_in_flight",
    "verifier_concurrency",
    "verifier_max_waiting",
    "tickets",
    "tickets_per_user",
    "tickets_per_address",
    "revocations",
];

pub(super) const ACCEPTED: &str = "accepted";
pub(super) const FROM_CLIENT: &str = "from_client";
pub(super) const FROM_UPSTREAM: &str = "from_upstream";
/// Nothing was found or shown: no route, no method, no close code.
const NONE: &str = "none";
/// The label that only a fleet of several regions has.
const REGION: &str = "region";
/// In no set that we know.
const OTHER: &str = "other";

const TICKET_FAULTS: [TicketFault; 5] =
    [TicketFault::Malformed, TicketFault::Unknown, TicketFault::Expired, TicketFault::Used, TicketFault::UnknownRegion];

pub(super) fn ticket_fault_label(fault: TicketFault) -> &'static str {
    match fault {
        TicketFault::Malformed => "malformed",
        TicketFault::Unknown => "unknown",
        TicketFault::Expired => "expired",
        TicketFault::Used => "used",
        TicketFault::UnknownRegion => "unknown_region",
    }
}

pub(super) fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => OTHER,
    }
}

/// One metric over closed sets of label values; a series exists from the first time that it is asked for.
pub(super) struct Family<H> {
    recorder: Arc<PrometheusRecorder>,
    definition: &'static Definition,
    dimensions: Vec<Dimension>,
    cells: Vec<OnceLock<H>>,
}

struct Dimension {
    values: Vec<String>,
    places: HashMap<String, usize>,
}

impl Dimension {
    fn new(values: &[&str]) -> Self {
        let mut dimension = Self { values: Vec::new(), places: HashMap::new() };
        for value in values.iter().chain([&NONE, &OTHER]) {
            if !dimension.places.contains_key(*value) {
                dimension.places.insert((*value).to_owned(), dimension.values.len());
                dimension.values.push((*value).to_owned());
            }
        }
        dimension
    }

    fn place(&self, value: &str) -> usize {
        let value = if value.is_empty() { NONE } else { value };
        self.places.get(value).or_else(|| self.places.get(OTHER)).copied().unwrap_or(0)
    }
}

impl<H: Register> Family<H> {
    fn new(recorder: &Arc<PrometheusRecorder>, definition: &'static Definition, sets: &[&[&str]]) -> Self {
        let dimensions: Vec<Dimension> = sets.iter().map(|values| Dimension::new(values)).collect();
        let size = dimensions.iter().map(|dimension| dimension.values.len()).product();
        let cells = std::iter::repeat_with(OnceLock::new).take(size).collect();
        Self { recorder: Arc::clone(recorder), definition, dimensions, cells }
    }

    /// Makes every series of a known value exist from the start, so that its first event is an increase that a rate can see.
    fn shown(self) -> Self {
        for cell in 0..self.cells.len() {
            let values = self.values_of(cell);
            if !values.iter().any(|value| *value == NONE || *value == OTHER) {
                self.handle(cell);
            }
        }
        self
    }

    /// The series of these label values, in the order of the definition's labels.
    pub(super) fn with<const N: usize>(&self, values: [&str; N]) -> Option<&H> {
        let mut cell = 0;
        for (dimension, value) in self.dimensions.iter().zip(values) {
            cell = cell * dimension.values.len() + dimension.place(value);
        }
        self.handle(cell)
    }

    fn handle(&self, cell: usize) -> Option<&H> {
        let slot = self.cells.get(cell)?;
        Some(slot.get_or_init(|| {
            let values = self.values_of(cell);
            // Where there are no regions, there is nothing to tell apart by one.
            let is_said = |(label, value): &(&&str, &str)| **label != REGION || *value != NONE;
            let labels = self.definition.labels.iter().zip(values).filter(is_said);
            let labels = labels.map(|(label, value)| Label::new(*label, value.to_owned()));
            H::register(&self.recorder, self.definition, labels.collect())
        }))
    }

    fn values_of(&self, mut cell: usize) -> Vec<&str> {
        let mut values = Vec::new();
        for dimension in self.dimensions.iter().rev() {
            let count = dimension.values.len();
            values.push(dimension.values.get(cell % count).map_or(OTHER, String::as_str));
            cell /= count;
        }
        values.reverse();
        values
    }
}

/// A counter with one label whose values are words of the program's text, and for that reason few.
pub(super) struct Words {
    recorder: Arc<PrometheusRecorder>,
    definition: &'static Definition,
    counters: Mutex<HashMap<&'static str, Counter>>,
}

impl Words {
    fn new(recorder: &Arc<PrometheusRecorder>, definition: &'static Definition, known: &[&'static str]) -> Self {
        let words = Self { recorder: Arc::clone(recorder), definition, counters: Mutex::default() };
        for word in known {
            let _ = words.with(word);
        }
        words
    }

    pub(super) fn with(&self, word: &'static str) -> Counter {
        let mut counters = lock(&self.counters);
        let make = || {
            let labels = self.definition.labels.iter().map(|label| Label::new(*label, word));
            Counter::register(&self.recorder, self.definition, labels.collect())
        };
        counters.entry(word).or_insert_with(make).clone()
    }
}

pub(super) trait Register {
    fn register(recorder: &PrometheusRecorder, definition: &Definition, labels: Vec<Label>) -> Self;
}

const METADATA: Metadata<'static> = Metadata::new("usher", Level::INFO, None);

impl Register for Counter {
    fn register(recorder: &PrometheusRecorder, definition: &Definition, labels: Vec<Label>) -> Self {
        recorder.register_counter(&Key::from_parts(definition.name, labels), &METADATA)
    }
}

impl Register for Gauge {
    fn register(recorder: &PrometheusRecorder, definition: &Definition, labels: Vec<Label>) -> Self {
        recorder.register_gauge(&Key::from_parts(definition.name, labels), &METADATA)
    }
}

impl Register for Histogram {
    fn register(recorder: &PrometheusRecorder, definition: &Definition, labels: Vec<Label>) -> Self {
        recorder.register_histogram(&Key::from_parts(definition.name, labels), &METADATA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_what_prometheus_asks_names_to_be() {
        let names: BTreeSet<&str> = ALL.iter().map(|definition| definition.name).collect();
        assert_eq!(names.len(), ALL.len(), "each name once");
        for Definition { name, kind, labels, help } in ALL.iter().copied() {
            assert!(name.starts_with("usher_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix)), "{name}");
            assert!(!matches!(kind, Kind::Histogram(_)) || name.ends_with("_seconds"), "{name}");
            assert!(help.ends_with('.'), "{name}");
            assert!(!labels.iter().any(|label| ["le", "quantile", "user", "path", "origin"].contains(label)), "{name}");
        }
    }

    #[test]
    fn histograms_are_rendered_with_our_buckets() {
        let exposition = Exposition::new(UnixMillis(1_000)).unwrap();
        let metrics = exposition.metrics(&Names::new(&["/ws"], &[]));
        metrics.upgrade_duration.with(["/ws"]).unwrap().record(0.0002);
        metrics.session_duration.with(["/ws"]).unwrap().record(400.0);
        let text = exposition.handle.render();
        assert!(text.contains("usher_upgrade_duration_seconds_bucket{route=\"/ws\",le=\"0.0001\"} 0"), "{text}");
        assert!(text.contains("usher_upgrade_duration_seconds_bucket{route=\"/ws\",le=\"0.00025\"} 1"), "{text}");
        assert!(text.contains("usher_session_duration_seconds_bucket{route=\"/ws\",le=\"900\"} 1"), "{text}");
        assert!(text.contains("usher_start_time_seconds 1\n"), "{text}");
        assert!(!text.contains("quantile"), "{text}");
    }

    #[test]
    fn a_value_of_no_known_set_makes_no_new_series() {
        let exposition = Exposition::new(UnixMillis(0)).unwrap();
        let metrics = exposition.metrics(&Names::new(&["/ws"], &[]));
        for n in 0..100 {
            metrics.upgrades.with([&format!("/made-up-{n}"), "", "accepted"]).unwrap().increment(1);
        }
        let text = exposition.handle.render();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("usher_upgrades_total{")).collect();
        assert_eq!(lines, ["usher_upgrades_total{route=\"other\",method=\"none\",outcome=\"accepted\"} 100"]);
    }

    #[test]
    fn stores_are_told_apart_by_region_where_there_are_regions() {
        let exposition = Exposition::new(UnixMillis(0)).unwrap();
        let regions = ["us", "eu"].map(str::to_owned).into();
        let metrics = exposition.metrics(&Names { regions, ..Names::default() });
        metrics.store_breaker.with(["tickets", "eu"]).unwrap().set(2.0);
        metrics.store_breaker.with(["tickets", ""]).unwrap().set(1.0);
        let text = exposition.handle.render();
        for line in ["usher_store_breaker_state{lane=\"tickets\",region=\"eu\"} 2\n", "usher_store_breaker_state{lane=\"tickets\"} 1\n"] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn series_that_rates_are_taken_of_exist_from_the_start() {
        let exposition = Exposition::new(UnixMillis(0)).unwrap();
        let _metrics = exposition.metrics(&Names::new(&["/ws"], &["chat"]));
        let text = exposition.handle.render();
        for line in [
            "usher_sessions_active{route=\"/ws\"} 0",
            "usher_relay_bytes_total{route=\"/ws\",direction=\"from_client\"} 0",
            "usher_upstream_dial_failures_total{upstream=\"chat\"} 0",
            "usher_limits_hit_total{limit=\"connections\"} 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
