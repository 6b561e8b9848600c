//! Certificates from an authority over ACME (RFC 8555): ordered, renewed, and shared by a fleet.
//!
//! One task on each node looks at the stored state (`state.rs`): which certificate is in force, and
//! which challenges are pending. Every node answers these, because the authority may reach any of
//! them. If a certificate is due, one node takes the lock and orders it (`order.rs`, over
//! `client.rs` and `jws.rs`); the others find it at their next look. `schedule.rs` has the times.
//! While the authority is away, the certificate in force stays.

mod client;
pub mod events;
mod fault;
mod jws;
mod order;
mod schedule;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use self::events::{
    AcmeStateFailed, CertificateInForce, CertificateMissing, CertificateOrdered, CertificateOrigin,
    OrderFailed, OrderReason,
};
use self::fault::AcmeFault;
use self::jws::digest_of;
use self::order::{ORDER_LIMIT, json_of};
use self::state::{
    AcmeState, CertificateRecord, ChallengesRecord, Lock, PendingChallenge, Slot, StatusRecord,
    fingerprint,
};
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock as lock_of;
use crate::config::store::Store;
use crate::config::{Acme as Config, AcmeChallenge};
use crate::model::secret::Secret;
use crate::net::fetch::{FetchConfig, Fetcher};
use crate::net::tls::acme::{AcmeCertificates, IssuedCertificate};
use crate::net::tls::server::ListenerAcme;
use crate::store::StoreOpenError;
use crate::telemetry::Event;
use crate::telemetry::family::Word as _;

/// The time between two looks at the stored state.
const LOOK: Duration = Duration::from_millis(500);
/// The largest answer of an authority. A chain of ten certificates has 20 KiB.
const MOST_BODY: usize = 128 << 10;
/// How long challenges are answered if the node that published them dies.
const CHALLENGES_LIVE: Duration = ORDER_LIMIT;

#[derive(Debug)]
pub struct Acme {
    config: Config,
    keeper: AcmeState,
    fetcher: Fetcher,
    certificates: Arc<AcmeCertificates>,
    /// The answers to pending http-01 challenges, by token.
    tokens: ArcSwap<HashMap<String, Bytes>>,
    held: Mutex<HeldCertificate>,
    /// When the operator last reloaded, in Unix milliseconds: the pause after an earlier failure
    /// has ended. 0 when an order has begun since.
    wanted: AtomicU64,
}

/// The facts about the certificate in force, and the stored state at the last look.
#[derive(Debug, Default)]
struct HeldCertificate {
    fingerprint: Option<String>,
    /// The certificate as it is stored.
    record: Option<Secret>,
    /// Since when a node could use it.
    received: UnixMillis,
    renewal: UnixMillis,
    /// The pending challenges as they were read.
    challenges: Vec<u8>,
    status: StatusRecord,
    /// The last failure of this node, in case that it could not be stored.
    own: StatusRecord,
    is_ordering: bool,
    /// Whether the state could not be read at the last look.
    is_blind: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    #[error("[acme] `ca_file`: {0}")]
    Authorities(String),
    #[error(transparent)]
    Store(#[from] StoreOpenError),
}

/// The state of the certificate, for `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct AcmeFigures {
    pub domains: Vec<String>,
    /// `none`, `issued`, `due` or `expired`.
    pub state: &'static str,
    pub serial: Option<String>,
    pub expires: Option<String>,
    pub renewal: Option<String>,
    /// Whether this node orders a certificate now.
    pub ordering: bool,
    /// The consecutive failures of the fleet, the last fault, and when it is tried again.
    pub failures: u32,
    pub fault: Option<String>,
    pub detail: Option<String>,
    pub retry: Option<String>,
}

impl Acme {
    /// Opens the state, and puts the stored certificate into force.
    pub fn open(
        config: &Config,
        store: &Store,
        state_dir: &Path,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, AcmeError> {
        if let Some(before) = before.filter(|before| before.config == *config) {
            // The operator may have removed the cause of a failure.
            before.wanted.store(Now::read().wall.0, Ordering::Relaxed);
            return Ok(Arc::clone(before));
        }
        let fetcher = Fetcher::new(FetchConfig {
            ca_file: config.ca_file.clone(),
            timeout: config.timeout,
            max_body: MOST_BODY,
            // A request on a kept connection may be sent twice.
            max_idle: 0,
        })
        .map_err(AcmeError::Authorities)?;
        let acme = Self {
            config: config.clone(),
            keeper: AcmeState::open(state_dir, config.directory.written(), &config.domains, store)?,
            fetcher,
            certificates: Arc::default(),
            tokens: ArcSwap::default(),
            held: Mutex::default(),
            wanted: AtomicU64::new(before.map_or(0, |_| Now::read().wall.0)),
        };
        if let Some(bytes) = acme.keeper.local_certificate() {
            acme.adopt(&bytes, CertificateOrigin::Stored);
        } else {
            // Until the next one is issued. It may be for other domains, or of another authority.
            let other = before.and_then(|before| before.certificates.issued());
            let stored = || acme.keeper.other_certificate().and_then(|bytes| read(&bytes));
            acme.certificates
                .set_issued(other.or_else(|| stored().map(|(_, issued)| Arc::new(issued))));
        }
        Ok(Arc::new(acme))
    }

    /// Reads the certificate that a fleet shares. Waits as long as one operation of the store.
    pub async fn prefetch(&self) {
        self.look(CertificateOrigin::Stored).await;
        if self.certificates.issued().is_none() {
            CertificateMissing { domains: &self.config.domains }.emit();
        }
    }

    /// Follows the stored state, and orders certificates that are due, until the future is dropped.
    pub async fn follow(self: Arc<Self>) {
        loop {
            self.look(CertificateOrigin::OtherNode).await;
            if self.may_order(Now::read()) {
                Box::pin(self.order_with_lock()).await;
            }
            sleep(LOOK).await;
        }
    }

    /// Returns the certificates as a listener serves them.
    pub fn listener(&self) -> ListenerAcme {
        of_listener(&self.config, Arc::clone(&self.certificates))
    }

    /// Returns the answer to a pending http-01 challenge. `None`: the path is not of one.
    pub fn http_answer(&self, method: &Method, path: &str) -> Option<Bytes> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        let token = path.strip_prefix("/.well-known/acme-challenge/")?;
        self.tokens.load().get(token).cloned()
    }

    pub fn figures(&self, now: UnixMillis) -> AcmeFigures {
        let issued = self.certificates.issued();
        let held = lock_of(&self.held);
        let state = match &issued {
            None => "none",
            Some(issued) if issued.not_after <= now => "expired",
            Some(issued) if held.is_due(issued, &self.config.domains, now) => "due",
            Some(_) => "issued",
        };
        let status = held.last_failure();
        AcmeFigures {
            domains: self.config.domains.clone(),
            state,
            serial: issued.as_ref().map(|issued| issued.serial.clone()),
            expires: issued.as_ref().map(|issued| issued.not_after.to_rfc3339()),
            renewal: issued.as_ref().map(|_| held.renewal.to_rfc3339()),
            ordering: held.is_ordering,
            failures: status.failures,
            fault: status.fault.clone(),
            detail: status.detail.clone(),
            retry: (status.failures > 0).then(|| UnixMillis(status.retry).to_rfc3339()),
        }
    }

    /// Reads the stored state, and follows its changes.
    async fn look(&self, origin: CertificateOrigin) {
        let read = self.keeper.read([Slot::Challenges, Slot::Status]).await;
        let [challenges, status] = match read {
            Ok(read) => read,
            Err(fault) => return self.note_blind(Some(&fault)),
        };
        self.note_blind(None);
        self.answer(challenges.unwrap_or_default());
        let status: StatusRecord =
            status.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let is_other = {
            let mut held = lock_of(&self.held);
            let is_other = status.certificate.is_some() && status.certificate != held.fingerprint;
            held.status = status;
            is_other
        };
        if is_other && let Ok([Some(bytes)]) = self.keeper.read([Slot::Certificate]).await {
            let is_held = lock_of(&self.held).fingerprint == Some(fingerprint(&bytes));
            if !is_held && !self.is_outdated(&bytes, Now::read().wall) {
                self.adopt(&bytes, origin);
            }
        }
    }

    /// Returns true for a stored certificate that is worse than the one in force: it ends earlier,
    /// and is expired or was not issued later. A store that was set back has such a one.
    fn is_outdated(&self, bytes: &[u8], now: UnixMillis) -> bool {
        let (Some(issued), Some((received, other))) = (self.certificates.issued(), read(bytes))
        else {
            return false;
        };
        let held = lock_of(&self.held);
        // Until then the one in force is of another set of domains.
        held.fingerprint.is_some()
            && issued.is_for_all(&self.config.domains)
            && other.not_after < issued.not_after
            && (received <= held.received || other.not_after <= now)
    }

    fn note_blind(&self, fault: Option<&AcmeFault>) {
        let was_blind = std::mem::replace(&mut lock_of(&self.held).is_blind, fault.is_some());
        if let (Some(fault), false) = (fault, was_blind) {
            AcmeStateFailed { error: &fault.to_string() }.emit();
        }
    }

    /// Puts a stored certificate into force. A value that is not a certificate is passed over.
    fn adopt(&self, bytes: &[u8], origin: CertificateOrigin) {
        let Some((received, issued)) = read(bytes) else { return };
        let renewal =
            schedule::renewal(received, issued.not_after, self.config.renew_before, chance());
        {
            let mut held = lock_of(&self.held);
            (held.received, held.renewal) = (received, renewal);
            held.own = StatusRecord::default();
            held.fingerprint = Some(fingerprint(bytes));
            held.record = Some(Secret::new(bytes));
        }
        let issued = Arc::new(issued);
        self.certificates.set_issued(Some(Arc::clone(&issued)));
        if origin != CertificateOrigin::Stored
            && let Err(fault) = self.keeper.keep_copy(bytes)
        {
            AcmeStateFailed { error: &fault.to_string() }.emit();
        }
        CertificateInForce {
            origin,
            domains: &self.config.domains,
            serial: &issued.serial,
            expires: issued.not_after,
            renewal,
        }
        .emit();
    }

    /// Answers the pending challenges of a record, and no others.
    fn answer(&self, challenges: Vec<u8>) {
        let record: ChallengesRecord = serde_json::from_slice(&challenges).unwrap_or_default();
        let is_over = record.expires <= Now::read().wall.0;
        let (bytes, pending) =
            if is_over { (Vec::new(), Vec::new()) } else { (challenges, record.pending) };
        if std::mem::replace(&mut lock_of(&self.held).challenges, bytes.clone()) == bytes {
            return;
        }
        match self.config.challenge {
            AcmeChallenge::Http01 => {
                let answers = pending.into_iter().map(|one| (one.token, one.key_authorization));
                let answers = answers.map(|(token, answer)| (token, Bytes::from(answer)));
                self.tokens.store(Arc::new(answers.collect()));
            }
            AcmeChallenge::TlsAlpn01 => {
                let digests: Vec<_> = pending
                    .iter()
                    .map(|one| (one.domain.as_str(), digest_of(&one.key_authorization)))
                    .collect();
                let digests = digests.iter().map(|(name, digest)| (*name, digest));
                if let Err(error) = self.certificates.set_challenges(digests) {
                    AcmeStateFailed { error: &error }.emit();
                }
            }
        }
    }

    /// Makes these challenges the ones that every node answers.
    async fn publish(
        &self,
        lock: &Lock,
        pending: impl Iterator<Item = &PendingChallenge>,
    ) -> Result<(), AcmeFault> {
        let record = ChallengesRecord {
            expires: (Now::read().wall + CHALLENGES_LIVE).0,
            pending: pending.cloned().collect(),
        };
        let bytes = json_of(&record)?;
        self.keeper.write(lock, Slot::Challenges, &bytes, Some(CHALLENGES_LIVE)).await?;
        self.answer(bytes);
        Ok(())
    }

    /// Returns true if an order is due, and the pause after the last failure has ended.
    fn may_order(&self, now: Now) -> bool {
        let issued = self.certificates.issued();
        let held = lock_of(&self.held);
        let is_due = issued.is_none_or(|issued| {
            held.is_due(&issued, &self.config.domains, now.wall)
                // The fleet has lost the certificate that this node has.
                || held.status.certificate != held.fingerprint
        });
        is_due && !held.is_blind && held.may_try(self.wanted.load(Ordering::Relaxed), now.wall)
    }

    async fn order_with_lock(&self) {
        let lock = match self.keeper.try_lock().await {
            Ok(Some(lock)) => lock,
            Ok(None) => return,
            Err(fault) => {
                self.wanted.store(0, Ordering::Relaxed);
                return self.note_failure(None, &fault).await;
            }
        };
        // Another node may have ordered while this one came for the lock.
        self.look(CertificateOrigin::OtherNode).await;
        if self.may_order(Now::read()) {
            self.wanted.store(0, Ordering::Relaxed);
            let outcome = tokio::select! {
                outcome = self.order_or_restore(&lock) => outcome,
                lost = self.keeper.keep(&lock) => Err(lost),
            };
            // A lost lock ends the order at any point.
            lock_of(&self.held).is_ordering = false;
            if let Err(fault) = outcome {
                self.note_failure(Some(&lock), &fault).await;
            }
        }
        self.keeper.unlock(lock).await;
    }

    /// Writes the certificate of this node, if the fleet has lost it. Otherwise orders one.
    async fn order_or_restore(&self, lock: &Lock) -> Result<(), AcmeFault> {
        let (issued, now) = (self.certificates.issued(), Now::read().wall);
        let reason = match &issued {
            None => OrderReason::First,
            Some(issued) if !issued.is_for_all(&self.config.domains) => OrderReason::OtherDomains,
            Some(_) if lock_of(&self.held).renewal <= now => OrderReason::Renewal,
            // The fleet has lost it.
            Some(_) => {
                let Some(record) = lock_of(&self.held).record.clone() else { return Ok(()) };
                self.keeper.write(lock, Slot::Certificate, record.expose(), None).await?;
                self.write_status(lock, success(record.expose())).await?;
                lock_of(&self.held).own = StatusRecord::default();
                return Ok(());
            }
        };
        let directory = self.config.directory.written();
        CertificateOrdered { directory, domains: &self.config.domains, reason }.emit();
        lock_of(&self.held).is_ordering = true;
        let ordered = timeout(ORDER_LIMIT, Box::pin(self.order(lock))).await;
        lock_of(&self.held).is_ordering = false;
        let bytes = ordered.unwrap_or(Err(AcmeFault::Timeout(ORDER_LIMIT)))?;
        self.adopt(&bytes, CertificateOrigin::Issued);
        self.keeper.remove_old_files();
        self.write_status(lock, success(&bytes)).await
    }

    /// Begins the pause after a failure: for all nodes, or without the lock for this one. Without
    /// the lock the authority was not asked.
    async fn note_failure(&self, lock: Option<&Lock>, fault: &AcmeFault) {
        let (mut status, before) = {
            let held = lock_of(&self.held);
            (held.status.clone(), held.own.failures)
        };
        status.failures = status.failures.max(before).saturating_add(1);
        let pause = schedule::pause(
            status.failures,
            lock.is_none() || fault.is_outage(),
            fault.retry_after(),
            chance(),
        );
        let now = Now::read().wall;
        let retry = now + pause;
        (status.failed, status.retry) = (now.0, retry.0);
        let wish = fault.retry_after().map(|wish| now + wish.min(schedule::LONGEST_WISH));
        status.wish = wish.unwrap_or_default().0;
        status.fault = Some(fault.outcome().word().to_owned());
        status.detail = Some(fault::shown(&fault.to_string()));
        lock_of(&self.held).own = status.clone();
        let has_certificate = self.certificates.issued().is_some();
        OrderFailed { fault, failures: status.failures, retry, has_certificate }.emit();
        // If this fails too, the pause holds on this node alone.
        if let Some(lock) = lock {
            let _ = self.write_status(lock, status).await;
        }
    }

    async fn write_status(&self, lock: &Lock, status: StatusRecord) -> Result<(), AcmeFault> {
        let bytes = json_of(&status)?;
        lock_of(&self.held).status = status;
        self.keeper.write(lock, Slot::Status, &bytes, None).await
    }
}

impl HeldCertificate {
    fn is_due(&self, issued: &IssuedCertificate, domains: &[String], now: UnixMillis) -> bool {
        now >= self.renewal || !issued.is_for_all(domains)
    }

    /// Returns true after the pauses of the fleet and of this node. A reload at `wanted` ends the
    /// pause after an earlier failure, unless the authority asked for it.
    fn may_try(&self, wanted: u64, now: UnixMillis) -> bool {
        [&self.status, &self.own].into_iter().all(|status| {
            schedule::has_passed(UnixMillis(status.retry), now)
                || (wanted > status.failed && schedule::has_passed(UnixMillis(status.wish), now))
        })
    }

    fn last_failure(&self) -> &StatusRecord {
        if self.own.failures > self.status.failures { &self.own } else { &self.status }
    }
}

/// Returns the certificate in `state_dir` as a listener would serve it. Writes nothing.
pub fn stored(config: &Config, store: &Store, state_dir: &Path) -> Option<ListenerAcme> {
    let directory = config.directory.written();
    let keeper = AcmeState::open(state_dir, directory, &config.domains, store).ok()?;
    let certificates = AcmeCertificates::default();
    let bytes = keeper.local_certificate().or_else(|| keeper.other_certificate());
    let issued = bytes.and_then(|bytes| read(&bytes)).map(|(_, issued)| Arc::new(issued));
    certificates.set_issued(issued);
    Some(of_listener(config, Arc::new(certificates)))
}

fn of_listener(config: &Config, certificates: Arc<AcmeCertificates>) -> ListenerAcme {
    ListenerAcme {
        certificates,
        domains: config.domains.as_slice().into(),
        answers_challenges: config.challenge == AcmeChallenge::TlsAlpn01,
    }
}

/// Reads a stored certificate, and since when a node could use it.
fn read(bytes: &[u8]) -> Option<(UnixMillis, IssuedCertificate)> {
    let record: CertificateRecord = serde_json::from_slice(bytes).ok()?;
    let issued = IssuedCertificate::from_pem(&record.chain, &Secret::new(record.key)).ok()?;
    Some((UnixMillis(record.received).max(issued.not_before), issued))
}

fn success(certificate: &[u8]) -> StatusRecord {
    StatusRecord { certificate: Some(fingerprint(certificate)), ..StatusRecord::default() }
}

/// Returns a random number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}
