//! Events of the process and of its client connections.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tracing::{error, info, warn};

use super::drain::{Share, ShareSize};
use crate::base::clock::{Now, UnixMillis};
use crate::config::AdminAddress;
use crate::config::certificate_files::CertificatePurpose;
use crate::config::diagnostic::Diagnostic;
use crate::net::tls::dates::{DateState, Dates};
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event, millis};
use crate::telemetry::family::{Name, Word, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// 1 while this process takes new clients, 0 before and while it drains.
    READY: Gauge = "usher_ready";
    /// Client connections accepted.
    CONNECTIONS: Counter = "usher_connections_total";
    /// Client connections open now.
    CONNECTIONS_OPEN: Gauge = "usher_connections_open";
    /// Streams of HTTP/2 connections open now: requests and sessions.
    HTTP2_STREAMS: Gauge = "usher_streams_open";
    /// The most client connections that this process accepts at the same time.
    CONNECTIONS_LIMIT: Gauge = "usher_connections_limit";
    /// Connections ended by a panic in Usher.
    CONNECTION_PANICS: Counter = "usher_connection_panics_total";
    /// Connections open now that have shown no credential.
    UNAUTHENTICATED: Gauge = "usher_unauthenticated_open";
    /// The most connections without a credential that this process accepts at the same time.
    UNAUTHENTICATED_LIMIT: Gauge = "usher_unauthenticated_limit";
    /// Connections without a credential that were closed between two requests, to make room for a
    /// newcomer.
    DISPLACED: Counter = "usher_unauthenticated_displaced_total";
    /// Configurations read while running: applied or refused.
    RELOADS: Counter = "usher_reloads_total", { outcome: ReloadOutcome }, shown;
    /// When the configuration in force was read, in seconds since the Unix epoch.
    CONFIG_LOADED: Gauge = "usher_config_loaded_timestamp_seconds";
    /// 0 after a refused reload: the file differs from the configuration in force.
    CONFIG_CURRENT: Gauge = "usher_config_is_current";
    /// When the first certificate in a file expires, in seconds since the Unix epoch.
    CERTIFICATE_EXPIRY: Gauge = "usher_certificate_expiry_timestamp_seconds",
        { purpose: CertificatePurpose, file: Name };
    /// When the OCSP answer that a listener staples for a certificate expires, in seconds since the
    /// Unix epoch. Without a staple there is no series.
    STAPLE_EXPIRY: Gauge = "usher_ocsp_staple_expiry_timestamp_seconds", { file: Name };
    /// OCSP answers fetched, or why there was none.
    OCSP_FETCHES: Counter = "usher_ocsp_fetches_total", { outcome: OcspOutcome }, shown;
    /// Live sessions ended because a CRL of a reload revokes their client certificate.
    REVOKED_CERTIFICATE_SESSIONS: Counter = "usher_revoked_certificate_sessions_total";
}

words! {
    /// The origin of a reload.
    pub enum ReloadCause {
        Signal = "signal",
        Watch = "watch",
        Admin = "admin",
    }
}

words! {
    enum ReloadOutcome {
        Applied = "applied",
        Refused = "refused",
    }
}

words! {
    /// The result of asking an OCSP responder.
    pub enum OcspOutcome {
        Stapled = "stapled",
        Timeout = "timeout",
        Unreachable = "unreachable",
        /// An HTTP status that is not a success.
        Status = "status",
        TooLarge = "too_large",
        Malformed = "malformed",
        /// The responder does not answer this question.
        Refused = "refused",
        /// Neither the issuer nor a responder of it signed the answer.
        Signature = "signature",
        OtherCertificate = "other_certificate",
        /// The answer has expired or is not valid yet.
        Dates = "dates",
        /// The responder does not know the certificate.
        Unknown = "unknown",
        /// The certificate of the listener is revoked.
        Revoked = "revoked",
    }
}

/// The process is ready: all sockets are bound and everything is built.
#[derive(Debug)]
pub struct Ready<'a> {
    pub listeners: &'a [SocketAddr],
    pub admin: Option<&'a AdminAddress>,
    pub config: Option<&'a Path>,
}

/// The service manager cannot be notified. It may believe that the process has not started.
#[derive(Debug)]
pub struct ServiceManagerLost<'a> {
    pub why: &'a str,
}

/// The process was told to stop. It is not ready, and accepts clients for this long.
#[derive(Debug)]
pub struct DrainAnnounced {
    pub delay: Duration,
}

/// An operator closes a share of the sessions while the process goes on.
#[derive(Debug)]
pub struct ShareDrainStarted<'a> {
    pub size: ShareSize,
    pub share: Share<'a>,
    pub window: Duration,
}

/// The process takes no new clients and closes its sessions.
#[derive(Debug)]
pub struct DrainStarted {
    pub sessions: usize,
    pub window: Duration,
}

#[derive(Debug)]
pub struct DrainFinished {
    pub remaining: usize,
}

/// A further signal ended the stop at once.
#[derive(Debug)]
pub struct DrainForced {
    pub remaining: usize,
}

/// A warning about the configuration in force, at the start or after a reload.
#[derive(Debug)]
pub struct ConfigWarning<'a>(pub &'a Diagnostic);

/// A file of the configuration has been changing for a minute, or a program has it open.
#[derive(Debug)]
pub struct ConfigUnfinished<'a> {
    pub path: &'a Path,
}

/// Another configuration came into force.
#[derive(Debug)]
pub struct ConfigApplied<'a> {
    pub cause: ReloadCause,
    pub changed: &'a [String],
    /// Keys whose new value takes effect at the next start.
    pub restart: &'a [&'static str],
}

/// A configuration was refused, and nothing has changed.
#[derive(Debug)]
pub struct ConfigRefused<'a> {
    pub cause: ReloadCause,
    pub why: &'a str,
}

/// The dates of a file's certificates were read.
#[derive(Debug)]
pub struct CertificateDated<'a> {
    pub purpose: CertificatePurpose,
    pub file: &'a str,
    pub ends: UnixMillis,
}

/// A reload removed a file with certificates from the configuration.
#[derive(Debug)]
pub struct CertificateForgotten<'a> {
    pub purpose: CertificatePurpose,
    pub file: &'a str,
}

/// A certificate has expired or ends soon. Repeated once a day.
#[derive(Debug)]
pub struct CertificateExpires<'a> {
    pub purpose: CertificatePurpose,
    pub file: &'a str,
    pub dates: &'a Dates,
    pub state: DateState,
    pub now: Now,
}

/// A listener staples an OCSP answer from now on.
#[derive(Debug)]
pub struct Stapled<'a> {
    /// The file of the certificate.
    pub file: &'a str,
    pub ends: UnixMillis,
    /// False for an answer from a file.
    pub is_fetched: bool,
}

/// An OCSP answer expired before there was another one, or the certificate is revoked.
#[derive(Debug)]
pub struct StapleDropped<'a> {
    pub file: &'a str,
}

/// A reload removed a certificate, or its OCSP answer.
#[derive(Debug)]
pub struct StapleForgotten<'a> {
    pub file: &'a str,
}

/// A responder gave no good answer.
#[derive(Debug)]
pub struct OcspFetchFailed<'a> {
    pub file: &'a str,
    pub outcome: OcspOutcome,
    pub why: &'a str,
    /// The end of the answer that is still stapled.
    pub ends: Option<UnixMillis>,
    /// The time until the next try.
    pub pause: Duration,
}

/// A reload brought a list of revoked certificates, and this many live sessions were closed.
#[derive(Debug)]
pub struct CertificatesRevoked {
    pub closed: usize,
}

/// The limits on connections came into force.
#[derive(Debug)]
pub struct ConnectionLimitsSet {
    pub connections: usize,
    pub unauthenticated: usize,
}

/// A client connection was accepted.
#[derive(Debug)]
pub struct ConnectionOpened;

/// A client connection ended.
#[derive(Debug)]
pub struct ConnectionClosed;

/// A stream of an HTTP/2 connection has begun.
#[derive(Debug)]
pub struct StreamOpened;

/// A stream of an HTTP/2 connection has ended.
#[derive(Debug)]
pub struct StreamClosed;

/// The task of a connection panicked.
#[derive(Debug)]
pub struct ConnectionPanicked;

/// A connection without a credential takes a place.
#[derive(Debug)]
pub struct UnauthenticatedEntered;

/// A connection without a credential showed one, or ended.
#[derive(Debug)]
pub struct UnauthenticatedLeft;

/// A connection without a credential was idle between two requests, and a new connection took its
/// place.
#[derive(Debug)]
pub struct UnauthenticatedDisplaced;

fn count_current(metrics: &Metrics) {
    metrics.set(&CONFIG_CURRENT, (), 1.0);
    metrics.set(&CONFIG_LOADED, (), Now::read().wall.0 as f64 / 1000.0);
}

impl Event for ServiceManagerLost<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "service_manager_lost", why = self.why,
            "cannot notify the service manager"
        );
    }
}

impl Event for Ready<'_> {
    fn log(&self) {
        info!(
            target: "usher", event = "ready", listeners = ?self.listeners,
            admin = self.admin.map(ToString::to_string),
            config = self.config.map(|path| path.display().to_string()), "ready"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&READY, (), 1.0);
        count_current(metrics);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = concat!("version ", env!("CARGO_PKG_VERSION"));
        Some(AuditLine::of_process("ready", ACCEPTED, detail))
    }
}

impl Event for DrainAnnounced {
    fn log(&self) {
        info!(
            target: "usher", event = "drain_announced", delay_ms = millis(self.delay),
            "drain announced; still accepting"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&READY, (), 0.0);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("accepts clients for {} ms more", millis(self.delay));
        Some(AuditLine::of_process("drain_announced", ACCEPTED, detail))
    }
}

impl Event for ShareDrainStarted<'_> {
    fn log(&self) {
        let Self { size, share, window } = *self;
        info!(
            target: "usher", event = "share_drain_started", sessions = size.closing,
            of = size.total, percent = share.percent, route = share.route,
            window_ms = millis(window), "closing a share of the sessions"
        );
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let Self { size, share, .. } = self;
        let route = share.route.map(|route| format!(" of {route}")).unwrap_or_default();
        let detail = format!("{} of {} sessions{route}", size.closing, size.total);
        Some(AuditLine::of_process("share_drain_started", ACCEPTED, detail))
    }
}

impl Event for DrainStarted {
    fn log(&self) {
        info!(
            target: "usher", event = "drain_started", sessions = self.sessions,
            window_ms = millis(self.window), "drain started"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&READY, (), 0.0);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} sessions", self.sessions);
        Some(AuditLine::of_process("drain_started", ACCEPTED, detail))
    }
}

impl Event for DrainFinished {
    fn log(&self) {
        info!(
            target: "usher", event = "drain_finished", remaining = self.remaining,
            "drain finished"
        );
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} sessions remain", self.remaining);
        Some(AuditLine::of_process("drain_finished", ACCEPTED, detail))
    }
}

impl Event for DrainForced {
    fn log(&self) {
        warn!(
            target: "usher", event = "drain_forced", remaining = self.remaining,
            "drain ended by a further signal"
        );
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} sessions remain", self.remaining);
        Some(AuditLine::of_process("drain_forced", ACCEPTED, detail))
    }
}

impl Event for ConfigWarning<'_> {
    fn log(&self) {
        let Diagnostic { message, help, place, .. } = self.0;
        warn!(
            target: "usher", event = "config_warning", problem = message, help = help.as_deref(),
            file = place.as_ref().map(|place| place.file.as_str()),
            line = place.as_ref().map(|place| place.line), "configuration warning"
        );
    }
}

impl Event for ConfigUnfinished<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "config_unfinished", path = %self.path.display(),
            "configuration file still being written; not loaded"
        );
    }
}

impl Event for ConfigApplied<'_> {
    fn log(&self) {
        let (cause, changed) = (self.cause.word(), self.changed.join(", "));
        let restart = self.restart.join(", ");
        info!(
            target: "usher", event = "config_applied", cause, changed, restart,
            "configuration applied"
        );
        if !restart.is_empty() {
            warn!(
                target: "usher", event = "config_needs_restart", restart,
                "some keys need a restart to take effect"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&RELOADS, (ReloadOutcome::Applied,));
        count_current(metrics);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let (changed, restart) = (self.changed.join(", "), self.restart.join(", "));
        let detail =
            format!("by {}; changed: {changed}; needs a restart: {restart}", self.cause.word());
        Some(AuditLine::of_process("config_applied", ACCEPTED, detail))
    }
}

impl Event for ConfigRefused<'_> {
    fn log(&self) {
        let (cause, why) = (self.cause.word(), self.why);
        error!(
            target: "usher", event = "config_refused", cause, why,
            "configuration refused; the current one stays in force"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&RELOADS, (ReloadOutcome::Refused,));
        metrics.set(&CONFIG_CURRENT, (), 0.0);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("by {}", self.cause.word());
        Some(AuditLine::of_process("config_refused", "refused", detail))
    }
}

impl Event for CertificateDated<'_> {
    fn count(&self, metrics: &Metrics) {
        let ends = self.ends.as_secs() as f64;
        metrics.set(&CERTIFICATE_EXPIRY, (self.purpose, self.file), ends);
    }
}

impl Event for CertificateForgotten<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.withdraw(&CERTIFICATE_EXPIRY, (self.purpose, self.file));
    }
}

impl Event for CertificateExpires<'_> {
    fn log(&self) {
        let Self { purpose, file, dates, state, now } = *self;
        warn!(
            target: "usher", event = "certificate_expires", purpose = purpose.word(), file,
            subject = dates.subject, state = state.name(), expires = dates.ends.to_rfc3339(),
            days_left = dates.days_left(now.wall), "certificate has expired or ends soon"
        );
    }
}

impl Event for Stapled<'_> {
    fn log(&self) {
        let Self { file, ends, is_fetched } = *self;
        info!(
            target: "usher", event = "ocsp_stapled", file, expires = ends.to_rfc3339(),
            is_fetched, "OCSP answer stapled"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.set(&STAPLE_EXPIRY, (self.file,), self.ends.as_secs() as f64);
        if self.is_fetched {
            metrics.count(&OCSP_FETCHES, (OcspOutcome::Stapled,));
        }
    }
}

impl Event for StapleDropped<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "ocsp_staple_dropped", file = self.file,
            "no OCSP answer is stapled any more"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.withdraw(&STAPLE_EXPIRY, (self.file,));
    }
}

impl Event for StapleForgotten<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.withdraw(&STAPLE_EXPIRY, (self.file,));
    }
}

impl Event for OcspFetchFailed<'_> {
    fn log(&self) {
        let Self { file, outcome, why, ends, pause } = *self;
        let stapled_until = ends.map(UnixMillis::to_rfc3339);
        if outcome == OcspOutcome::Revoked {
            error!(
                target: "usher", event = "certificate_is_revoked", file, why,
                "the authority has revoked the certificate of a listener"
            );
        } else {
            warn!(
                target: "usher", event = "ocsp_fetch_failed", file, reason = outcome.word(), why,
                stapled_until, next_try_ms = millis(pause), "OCSP answer not fetched"
            );
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&OCSP_FETCHES, (self.outcome,));
    }
}

impl Event for CertificatesRevoked {
    fn log(&self) {
        info!(
            target: "usher", event = "certificates_revoked", closed = self.closed,
            "sessions of revoked certificates closed"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.add(&REVOKED_CERTIFICATE_SESSIONS, (), self.closed as u64);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let detail = format!("{} sessions closed", self.closed);
        Some(AuditLine::of_process("certificates_revoked", ACCEPTED, detail))
    }
}

impl Event for ConnectionLimitsSet {
    fn count(&self, metrics: &Metrics) {
        metrics.set(&CONNECTIONS_LIMIT, (), self.connections as f64);
        metrics.set(&UNAUTHENTICATED_LIMIT, (), self.unauthenticated as f64);
    }
}

impl Event for ConnectionOpened {
    fn count(&self, metrics: &Metrics) {
        metrics.count(&CONNECTIONS, ());
        metrics.change(&CONNECTIONS_OPEN, (), 1.0);
    }
}

impl Event for ConnectionClosed {
    fn count(&self, metrics: &Metrics) {
        metrics.change(&CONNECTIONS_OPEN, (), -1.0);
    }
}

impl Event for StreamOpened {
    fn count(&self, metrics: &Metrics) {
        metrics.change(&HTTP2_STREAMS, (), 1.0);
    }
}

impl Event for StreamClosed {
    fn count(&self, metrics: &Metrics) {
        metrics.change(&HTTP2_STREAMS, (), -1.0);
    }
}

impl Event for ConnectionPanicked {
    fn log(&self) {
        error!(
            target: "usher", event = "connection_panicked", "connection task panicked"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&CONNECTION_PANICS, ());
    }
}

impl Event for UnauthenticatedEntered {
    fn count(&self, metrics: &Metrics) {
        metrics.change(&UNAUTHENTICATED, (), 1.0);
    }
}

impl Event for UnauthenticatedLeft {
    fn count(&self, metrics: &Metrics) {
        metrics.change(&UNAUTHENTICATED, (), -1.0);
    }
}

impl Event for UnauthenticatedDisplaced {
    fn count(&self, metrics: &Metrics) {
        metrics.count(&DISPLACED, ());
    }
}
