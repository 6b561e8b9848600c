//! The keys that an issuer publishes: fetched, kept fresh and saved.
//!
//! Verification reads the current set and never waits. [`Issuers::follow`] fetches in the
//! background. A token with an unknown key id may cause a fetch (`asking.rs` has the rules), and
//! waits for it for a limited time. A valid set stays until another valid set replaces it, and is
//! saved for the next process (`kept.rs`). Everything belongs to the value of the issuers: after it
//! and its future are dropped, nothing keeps running.

mod asking;
pub mod events;
pub mod fetch;
mod kept;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::rand;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::events::{IssuerKeysFailed, IssuerKeysFetched, IssuerKeysNotKept, IssuerKeysRestored};
use super::issuer_keys::{self, Jwk};
use super::jwt::{Issuers, KeySet};
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::config::{self, Issuer};
use crate::model::faults::InvalidToken;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use asking::{FetchDecision, FetchSchedule};
use fetch::{FetchedSet, KeySetFault, KeySetSource};
use kept::KeptKeys;

/// The maximum time that the start waits for keys.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failure doubles, from the first constant to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The maximum length of a fault in a log line.
const DETAIL_CHARS: usize = 500;

#[derive(Debug)]
pub struct RemoteKeys {
    issuer: Arc<Issuer>,
    source: KeySetSource,
    refresh: Duration,
    /// The path of the saved set; not set in tests and checks.
    kept_at: OnceLock<PathBuf>,
    held: RwLock<Option<FetchedKeys>>,
    health: Mutex<Health>,
    asking: Mutex<FetchSchedule>,
    wanted: Notify,
    /// The number of finished attempts.
    finished: watch::Sender<u64>,
}

#[derive(Clone)]
struct FetchedKeys {
    set: Arc<KeySet>,
    keys: Arc<[Jwk]>,
    fetched_at: UnixMillis,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    /// The fault of the last attempt, if it failed.
    fault: Option<&'static str>,
    /// This process has fetched a set itself.
    has_fetched: bool,
}

/// The state of one issuer's keys, for `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct IssuerFigures {
    pub name: String,
    /// `fresh`, `stale` (the last fetch failed) or `none`.
    pub state: &'static str,
    pub keys: usize,
    pub age_seconds: Option<u64>,
    /// The fault of the last fetch, if it failed.
    pub fault: Option<&'static str>,
}

impl Issuers {
    /// Returns the principal of a token. Only a token with an unknown key waits, for a limited
    /// time.
    pub async fn prove(&self, token: &Secret, now: Now) -> Result<Principal, Rejection> {
        match self.verify(token, now) {
            Err(InvalidToken::UnknownKey) => match self.issuers_to_refetch(token, now) {
                Some(remote) => Box::pin(self.prove_once_fetched(remote, token, now)).await,
                None => Err(InvalidToken::UnknownKey.into()),
            },
            Err(InvalidToken::NoKeys) => match self.issuers_to_refetch(token, now) {
                Some(remote) => Box::pin(self.prove_once_fetched(remote, token, now)).await,
                None => Err(InvalidToken::NoKeys.into()),
            },
            outcome => outcome.map_err(Rejection::from),
        }
    }

    async fn prove_once_fetched(
        &self,
        remote: &RemoteKeys,
        token: &Secret,
        now: Now,
    ) -> Result<Principal, Rejection> {
        let patience = now.mono + remote.source.timeout();
        // The first attempt may have begun before the key was published.
        for _ in 0..2 {
            if !remote.await_fetch(now.mono, patience).await {
                break;
            }
            match self.verify(token, now) {
                Err(InvalidToken::UnknownKey | InvalidToken::NoKeys) => {}
                outcome => return outcome.map_err(Rejection::from),
            }
        }
        Err(remote.missing())
    }

    /// Loads the saved sets of an earlier process, and saves new sets in the same directory.
    pub fn kept_in(self, state_dir: &Path) -> Self {
        for remote in self.remote() {
            remote.set_state_dir(state_dir);
        }
        self
    }

    /// Loads the saved sets and writes nothing, for `usher explain`.
    pub fn restored_from(self, state_dir: &Path) -> Self {
        for remote in self.remote() {
            remote.restore(&kept::path_in(state_dir, &remote.issuer.name));
        }
        self
    }

    /// Takes over the sets of the configuration before a reload, for the same issuers and URLs.
    /// Such a set may not be saved on disk, and the issuer may be unreachable.
    pub fn go_on_from(&self, before: &Self) {
        for remote in self.remote() {
            if let Some(same) = before.remote().find(|other| remote.has_the_set_of(other)) {
                remote.take_over(same);
            }
        }
    }

    /// Fetches every set once, within the time limit of a start.
    pub async fn prefetch(&self) {
        let mut all: JoinSet<()> = self.remote().cloned().map(RemoteKeys::prefetch).collect();
        while all.join_next().await.is_some() {}
    }

    /// Fetches every set again and again until the future is dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut all: JoinSet<()> = self.remote().cloned().map(RemoteKeys::follow).collect();
        while all.join_next().await.is_some() {}
    }

    pub fn figures(&self, now: UnixMillis) -> Vec<IssuerFigures> {
        let mut figures: Vec<_> = self.remote().map(|remote| remote.figures(now)).collect();
        figures.sort_by(|one, other| one.name.cmp(&other.name));
        figures
    }
}

impl RemoteKeys {
    pub fn new(issuer: &Arc<Issuer>, from: &config::RemoteKeys) -> Result<Self, String> {
        Ok(Self {
            issuer: Arc::clone(issuer),
            source: KeySetSource::new(issuer, from)?,
            refresh: from.refresh,
            kept_at: OnceLock::new(),
            held: RwLock::default(),
            health: Mutex::default(),
            asking: Mutex::default(),
            wanted: Notify::new(),
            finished: watch::Sender::new(0),
        })
    }

    fn has_the_set_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.issuer, &other.issuer);
        ours.issuer == theirs.issuer
            && ours.algorithms == theirs.algorithms
            && self.source.origin() == other.source.origin()
    }

    fn take_over(&self, before: &Self) {
        let theirs = before.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if theirs.as_ref().map(|held| held.fetched_at) > held.as_ref().map(|held| held.fetched_at) {
            *held = theirs;
        }
    }

    /// Returns the key set that verifies tokens now.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|held| Arc::clone(&held.set))
    }

    /// Returns the time of the last fetch, and the fault of the last attempt if it failed.
    pub(super) fn standing(&self) -> (Option<UnixMillis>, Option<&'static str>) {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        (held.as_ref().map(|held| held.fetched_at), self.health().fault)
    }

    /// Returns the rejection of a token whose key is missing. While the issuer does not answer, it
    /// is unknown whether the key belongs to it.
    pub(super) fn missing(&self) -> Rejection {
        if self.health().fault.is_some() {
            Rejection::IssuerKeysUnavailable
        } else {
            InvalidToken::UnknownKey.into()
        }
    }

    fn health(&self) -> Health {
        *lock(&self.health)
    }

    /// Waits for an attempt that may fetch the missing key. Returns false if no attempt is due, or
    /// if it takes too long.
    async fn await_fetch(&self, now: Instant, patience: Instant) -> bool {
        let answer = lock(&self.asking).ask(now);
        let attempt = match answer {
            FetchDecision::TooSoon => return false,
            FetchDecision::Wait(attempt) => attempt,
            FetchDecision::Begin(attempt) => {
                self.wanted.notify_one();
                attempt
            }
        };
        let mut finished = self.finished.subscribe();
        timeout_at(patience, finished.wait_for(|count| *count >= attempt))
            .await
            .is_ok_and(|outcome| outcome.is_ok())
    }

    pub(super) async fn prefetch(self: Arc<Self>) {
        if timeout(START_TIMEOUT, self.refresh()).await.is_err() {
            self.failed(&self.source.late(START_TIMEOUT));
        }
    }

    async fn follow(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = sleep(self.pause()) => {}
                () = self.wanted.notified() => {
                    // Another call may have fetched meanwhile.
                    if !lock(&self.asking).is_due() {
                        continue;
                    }
                }
            }
            self.refresh().await;
        }
    }

    /// Returns the time until the next attempt, up to 10 % shorter or longer, so that nodes do not
    /// fetch together.
    fn pause(&self) -> Duration {
        let health = self.health();
        let pause = match health.failures {
            0 if health.has_fetched => self.refresh,
            0 => FIRST_PAUSE,
            failures => (FIRST_PAUSE * 2u32.saturating_pow(failures - 1).min(64))
                .min(LONGEST_PAUSE)
                .min(self.refresh),
        };
        let mut byte = [0];
        let _ = rand::fill(&mut byte);
        pause.mul_f64(0.9 + f64::from(byte.first().copied().unwrap_or_default()) / 255.0 * 0.2)
    }

    pub(super) async fn refresh(&self) {
        let attempt = Attempt::begin(self);
        match self.source.fetch().await {
            Ok(set) => self.take(set).await,
            Err(fault) => self.failed(&fault),
        }
        drop(attempt);
    }

    async fn take(&self, fetched: FetchedSet) {
        let FetchedSet { text, keys } = fetched;
        let set = KeySet::of(&keys);
        let count = set.len();
        if count == 0 {
            let names: Vec<_> =
                self.issuer.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            let error = issuer_keys::KeySetError::NoUsableKey(names.join(", "));
            return self
                .failed(&KeySetFault::Set { place: self.source.origin().to_string(), error });
        }
        let now = Now::read().wall;
        let is_new = self.hold(set, keys, now);
        *lock(&self.health) = Health { has_fetched: true, ..Health::default() };
        IssuerKeysFetched { issuer: &self.issuer.name, keys: count, is_new, at: now }.emit();
        self.keep(text, now).await;
    }

    /// Stores a set, and returns true if it differs from the previous one.
    fn hold(&self, set: KeySet, keys: Vec<Jwk>, fetched_at: UnixMillis) -> bool {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = held.as_ref().is_none_or(|held| *held.keys != *keys);
        *held = Some(FetchedKeys { set: Arc::new(set), keys: keys.into(), fetched_at });
        is_new
    }

    fn failed(&self, fault: &KeySetFault) {
        let failures = {
            let mut health = lock(&self.health);
            *health = Health {
                failures: health.failures.saturating_add(1),
                fault: Some(fault.label()),
                ..*health
            };
            health.failures
        };
        let has_keys = self.current().is_some();
        // The text may contain the server's response, so it is cut.
        let detail: String = fault.to_string().chars().take(DETAIL_CHARS).collect();
        IssuerKeysFailed { issuer: &self.issuer.name, fault, detail: &detail, failures, has_keys }
            .emit();
    }

    fn set_state_dir(&self, state_dir: &Path) {
        self.restore(self.kept_at.get_or_init(|| kept::path_in(state_dir, &self.issuer.name)));
    }

    fn restore(&self, path: &Path) {
        let Some(kept) = KeptKeys::read(path, &self.issuer.issuer, self.source.origin().written())
        else {
            return;
        };
        // The configured algorithms may have changed since.
        let Ok(keys) = issuer_keys::parse(kept.set.as_bytes(), &self.issuer.algorithms) else {
            return;
        };
        let set = KeySet::of(&keys);
        let count = set.len();
        if count > 0 {
            self.hold(set, keys, kept.at());
            IssuerKeysRestored { issuer: &self.issuer.name, keys: count, at: kept.at() }.emit();
        }
    }

    async fn keep(&self, set: String, now: UnixMillis) {
        let Some(path) = self.kept_at.get().cloned() else { return };
        let (issuer, origin) =
            (self.issuer.issuer.clone(), self.source.origin().written().to_owned());
        let written = spawn_blocking(move || {
            KeptKeys { issuer, origin, fetched_at: now.0, set }.write(&path)
        })
        .await;
        if let Ok(Err(error)) = written {
            IssuerKeysNotKept { issuer: &self.issuer.name, error: &error }.emit();
        }
    }

    fn figures(&self, now: UnixMillis) -> IssuerFigures {
        let fault = self.health().fault;
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let state = match (&*held, fault) {
            (None, _) => "none",
            (Some(_), Some(_)) => "stale",
            (Some(_), None) => "fresh",
        };
        IssuerFigures {
            name: self.issuer.name.to_string(),
            state,
            keys: held.as_ref().map_or(0, |held| held.set.len()),
            age_seconds: held.as_ref().map(|held| now.since(held.fetched_at).as_secs()),
            fault,
        }
    }
}

/// A fetch in progress. Its drop always ends the attempt, so that clients do not wait for a dropped
/// one.
struct Attempt<'a>(&'a RemoteKeys);

impl<'a> Attempt<'a> {
    fn begin(keys: &'a RemoteKeys) -> Self {
        lock(&keys.asking).begin();
        Self(keys)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let finished = lock(&self.0.asking).finish();
        self.0.finished.send_replace(finished);
    }
}

impl std::fmt::Debug for FetchedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("keys", &self.set.len())
            .field("fetched_at", &self.fetched_at)
            .finish()
    }
}
