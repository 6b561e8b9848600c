//! The keys that an issuer publishes, held and kept fresh.
//!
//! Verifying reads the set that is there and waits for nobody. [`Issuers::follow`] fetches in the
//! background; a token whose key id is unknown may have it fetch at once (`asking.rs` says when)
//! and waits a bounded time for that. What was good stays until something good replaces it, and
//! outlives the process (`kept.rs`). All of it belongs to the value of the issuers: who drops it,
//! and the future, has nothing left running.

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
use fetch::{Fault, FetchedSet, Source};
use kept::KeptKeys;

/// How long the start waits for keys.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failure doubles from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Of a fault, in a log line.
const DETAIL_CHARS: usize = 500;

#[derive(Debug)]
pub struct RemoteKeys {
    issuer: Arc<Issuer>,
    source: Source,
    refresh: Duration,
    /// Where the last good set is kept; nowhere in tests and checks.
    kept_at: OnceLock<PathBuf>,
    held: RwLock<Option<FetchedKeys>>,
    health: Mutex<Health>,
    asking: Mutex<FetchSchedule>,
    wanted: Notify,
    /// How many attempts have finished.
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
    /// Why the last attempt failed, if it did.
    fault: Option<&'static str>,
    /// A set of this process' own fetching is held.
    has_fetched: bool,
}

/// How one issuer's keys stand, for `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct IssuerFigures {
    pub name: String,
    /// `fresh`, `stale` (the last fetch failed) or `none`.
    pub state: &'static str,
    pub keys: usize,
    pub age_seconds: Option<u64>,
    /// Why the last fetch failed, if it did.
    pub fault: Option<&'static str>,
}

impl Issuers {
    /// Who a token belongs to. Only one whose key is not here waits, and only for so long.
    pub async fn prove(&self, token: &Secret, now: Now) -> Result<Principal, Rejection> {
        match self.verify(token, now) {
            Err(InvalidToken::UnknownKey) => match self.who_may_have_its_key(token, now) {
                Some(remote) => Box::pin(self.prove_once_fetched(remote, token, now)).await,
                None => Err(InvalidToken::UnknownKey.into()),
            },
            Err(InvalidToken::NoKeys) => match self.who_may_have_its_key(token, now) {
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
        // The first wait may be for an attempt that had begun before the key was published.
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

    /// Reads the last good sets of an earlier process, and keeps those to come there.
    pub fn kept_in(self, state_dir: &Path) -> Self {
        for remote in self.remote() {
            remote.keep_in(state_dir);
        }
        self
    }

    /// The same, and writes nothing there: for who only looks.
    pub fn restored_from(self, state_dir: &Path) -> Self {
        for remote in self.remote() {
            remote.restore(&kept::path_in(state_dir, &remote.issuer.name));
        }
        self
    }

    /// What those of before the reload hold is held here too, where it is the set of the same
    /// issuer at the same address: it may be on no disk, and the issuer may be away.
    pub fn go_on_from(&self, before: &Self) {
        for remote in self.remote() {
            if let Some(same) = before.remote().find(|other| remote.has_the_set_of(other)) {
                remote.take_over(same);
            }
        }
    }

    /// Fetches every set once, for as long as a start may take.
    pub async fn prefetch(&self) {
        let mut all: JoinSet<()> = self.remote().cloned().map(RemoteKeys::prefetch).collect();
        while all.join_next().await.is_some() {}
    }

    /// Keeps every set fresh until it is dropped.
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
            source: Source::new(issuer, from)?,
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

    /// What verifies tokens now.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|held| Arc::clone(&held.set))
    }

    /// When that was fetched, and why the last attempt failed, if it did.
    pub(super) fn standing(&self) -> (Option<UnixMillis>, Option<&'static str>) {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        (held.as_ref().map(|held| held.fetched_at), self.health().fault)
    }

    /// What becomes of a token whose key is not here, and cannot be had. While the issuer does not
    /// answer, nobody knows whether the key is one of its own.
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

    /// Waits for an attempt that may bring what is missing. False: there is none, or it takes too
    /// long.
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
                    // Somebody else may have fetched since.
                    if !lock(&self.asking).is_due() {
                        continue;
                    }
                }
            }
            self.refresh().await;
        }
    }

    /// Until the next attempt, a tenth earlier or later than the next node's.
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
            return self.failed(&Fault::Set { place: self.source.origin().to_string(), error });
        }
        let now = Now::read().wall;
        let is_new = self.hold(set, keys, now);
        *lock(&self.health) = Health { has_fetched: true, ..Health::default() };
        IssuerKeysFetched { issuer: &self.issuer.name, keys: count, is_new, at: now }.emit();
        self.keep(text, now).await;
    }

    /// Says whether it differs from what was held.
    fn hold(&self, set: KeySet, keys: Vec<Jwk>, fetched_at: UnixMillis) -> bool {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = held.as_ref().is_none_or(|held| *held.keys != *keys);
        *held = Some(FetchedKeys { set: Arc::new(set), keys: keys.into(), fetched_at });
        is_new
    }

    fn failed(&self, fault: &Fault) {
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
        // It may quote what the server said.
        let detail: String = fault.to_string().chars().take(DETAIL_CHARS).collect();
        IssuerKeysFailed { issuer: &self.issuer.name, fault, detail: &detail, failures, has_keys }
            .emit();
    }

    fn keep_in(&self, state_dir: &Path) {
        self.restore(self.kept_at.get_or_init(|| kept::path_in(state_dir, &self.issuer.name)));
    }

    fn restore(&self, path: &Path) {
        let Some(kept) = KeptKeys::read(path, &self.issuer.issuer, self.source.origin().written())
        else {
            return;
        };
        // The pins may have changed since.
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

/// One fetch on its way. It ends however it ends, so that nobody waits for one that was dropped.
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
