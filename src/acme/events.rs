//! Events of certificates that an authority issues over ACME.

use std::net::IpAddr;

use tracing::{info, warn};

use super::fault::AcmeFault;
use crate::base::clock::UnixMillis;
use crate::config::AcmeChallenge;
use crate::telemetry::audit::AuditLine;
use crate::telemetry::event::{ACCEPTED, Event};
use crate::telemetry::family::{Word, families, words};
use crate::telemetry::metrics::Metrics;

families! {
    /// Orders of certificates by this node: issued, or why they failed.
    ORDERS: Counter = "usher_acme_orders_total", { outcome: OrderOutcome }, shown;
    /// Answers to challenges of the authority.
    CHALLENGES: Counter = "usher_acme_challenges_total", { challenge: Challenge }, shown;
    /// When the certificate of `[acme]` will be renewed, in seconds since the Unix epoch; 0 without
    /// a certificate.
    RENEWAL: Gauge = "usher_acme_renewal_timestamp_seconds";
    /// When the certificate of `[acme]` expires, in seconds since the Unix epoch; 0 without a
    /// certificate.
    EXPIRY: Gauge = "usher_acme_certificate_expiry_timestamp_seconds";
}

words! {
    /// How an order ended.
    pub enum OrderOutcome {
        Issued = "issued",
        /// The authority could not be reached.
        Unreachable = "unreachable",
        Timeout = "timeout",
        /// The answer of the authority cannot be used.
        Malformed = "malformed",
        /// The authority refused the request.
        Refused = "refused",
        RateLimited = "rate_limited",
        /// The authority could not validate a name.
        Validation = "validation",
        /// The issued certificate cannot be used.
        Certificate = "certificate",
        /// The account or the certificate could not be read or written.
        State = "state",
        /// Another node has taken over the order.
        LockLost = "lock_lost",
    }
}

words! {
    /// The kind of a challenge.
    pub enum Challenge {
        TlsAlpn01 = "tls-alpn-01",
        Http01 = "http-01",
    }
}

impl From<AcmeChallenge> for Challenge {
    fn from(challenge: AcmeChallenge) -> Self {
        match challenge {
            AcmeChallenge::TlsAlpn01 => Self::TlsAlpn01,
            AcmeChallenge::Http01 => Self::Http01,
        }
    }
}

/// The reason of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderReason {
    First,
    Renewal,
    /// The configuration has other domains than the certificate.
    OtherDomains,
}

impl OrderReason {
    fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Renewal => "renewal",
            Self::OtherDomains => "other_domains",
        }
    }
}

/// This node begins to order a certificate.
#[derive(Debug)]
pub struct CertificateOrdered<'a> {
    pub directory: &'a str,
    pub domains: &'a [String],
    pub reason: OrderReason,
}

/// A certificate is in force: ordered by this node, by another one, or stored before the start.
#[derive(Debug)]
pub struct CertificateInForce<'a> {
    pub origin: CertificateOrigin,
    pub domains: &'a [String],
    pub serial: &'a str,
    pub expires: UnixMillis,
    pub renewal: UnixMillis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateOrigin {
    Issued,
    OtherNode,
    Stored,
}

impl CertificateOrigin {
    fn word(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::OtherNode => "other_node",
            Self::Stored => "stored",
        }
    }
}

/// An order failed. The certificate in force stays.
#[derive(Debug)]
pub struct OrderFailed<'a> {
    pub fault: &'a AcmeFault,
    pub failures: u32,
    /// When the next attempt may begin.
    pub retry: UnixMillis,
    pub has_certificate: bool,
}

/// A listener starts without a certificate.
#[derive(Debug)]
pub struct CertificateMissing<'a> {
    pub domains: &'a [String],
}

/// The state could not be read or written outside of an order.
#[derive(Debug)]
pub struct AcmeStateFailed<'a> {
    pub error: &'a str,
}

/// The authority checked a challenge, and this node answered.
#[derive(Debug)]
pub struct ChallengeAnswered {
    pub challenge: AcmeChallenge,
    pub peer: IpAddr,
}

impl Event for CertificateOrdered<'_> {
    fn log(&self) {
        let Self { directory, domains, reason } = *self;
        info!(
            target: "usher", event = "acme_order", directory, domains = domains.join(" "),
            reason = reason.word(), "ordering a certificate"
        );
    }
}

impl Event for CertificateInForce<'_> {
    fn log(&self) {
        let Self { origin, domains, serial, expires, renewal } = *self;
        info!(
            target: "usher", event = "acme_certificate", origin = origin.word(),
            domains = domains.join(" "), serial, expires = expires.to_rfc3339(),
            renewal = renewal.to_rfc3339(), "certificate in force"
        );
    }

    fn count(&self, metrics: &Metrics) {
        if self.origin == CertificateOrigin::Issued {
            metrics.count(&ORDERS, (OrderOutcome::Issued,));
        }
        metrics.set(&RENEWAL, (), self.renewal.as_secs() as f64);
        metrics.set(&EXPIRY, (), self.expires.as_secs() as f64);
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        let Self { origin, domains, serial, expires, .. } = *self;
        let detail = format!(
            "{}, serial {serial}, expires {}, {}",
            domains.join(" "),
            expires.to_rfc3339(),
            origin.word()
        );
        Some(AuditLine::of_process("acme_certificate", ACCEPTED, detail))
    }
}

impl Event for OrderFailed<'_> {
    fn log(&self) {
        let Self { fault, failures, retry, has_certificate } = *self;
        warn!(
            target: "usher", event = "acme_failed", fault = fault.outcome().word(),
            detail = %fault, failures, retry = retry.to_rfc3339(), has_certificate,
            "certificate not issued; trying again"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&ORDERS, (self.fault.outcome(),));
    }

    fn audit(&self) -> Option<AuditLine<'_>> {
        Some(AuditLine::of_process("acme_failed", "failed", self.fault.to_string()))
    }
}

impl Event for CertificateMissing<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "acme_missing", domains = self.domains.join(" "),
            "no certificate yet; handshakes for these names are refused until one is issued"
        );
    }
}

impl Event for AcmeStateFailed<'_> {
    fn log(&self) {
        warn!(
            target: "usher", event = "acme_state_failed", error = self.error,
            "state of certificates not read; trying again"
        );
    }
}

impl Event for ChallengeAnswered {
    fn log(&self) {
        let Self { challenge, peer } = *self;
        info!(
            target: "usher", event = "acme_challenge", challenge = challenge.name(), %peer,
            "challenge answered"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.count(&CHALLENGES, (self.challenge.into(),));
    }
}
