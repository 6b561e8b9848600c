//! The list of every live session of this process, on all threads.
//!
//! Drain, the admin listener and limits find sessions in the [`Registry`]. A session's own task
//! holds a [`SessionGuard`] and polls it for a request to close.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use tokio::time::Instant;

use super::changes::{CountedSession, SessionChange, SessionChanges};
use super::events::{Relayed, SessionFacts};
use crate::auth::revocation::Identity;
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::config::Route;
use crate::model::method::Method;
use crate::model::request_id::{HexId, RequestId};
use crate::model::revocation::Revocation;
use crate::model::trace_context::TraceId;
use crate::rejection::close::{CloseReason, Traffic};
use crate::telemetry::Event;

/// 128 random bits as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(HexId);

#[derive(Debug, Default)]
pub struct Registry {
    shards: [Mutex<HashMap<SessionId, Arc<SessionHandle>>>; 16],
    count: AtomicUsize,
    /// The certificates of the sessions that logged in with one. They are not in the handle, which
    /// every session has.
    certificates: Mutex<HashMap<SessionId, Arc<CertificateDer<'static>>>>,
    /// The process that replaces this one counts the sessions that are left here.
    follower: Mutex<Option<SessionChanges>>,
}

/// One session as the rest of the process sees it.
#[derive(Debug)]
pub struct SessionHandle {
    pub id: SessionId,
    /// `None` on a public route.
    pub issuer: Option<Arc<str>>,
    pub user: Option<Box<str>>,
    /// The identity by which a revocation finds the session.
    pub identity: Identity,
    pub method: Option<Method>,
    pub route: Arc<Route>,
    /// The server of the upstream that serves the session.
    pub server: Arc<str>,
    pub peer: IpAddr,
    pub request_id: RequestId,
    /// The trace of the upgrade, if it is recorded. Boxed, because most sessions have none.
    pub trace_id: Option<Box<TraceId>>,
    pub started: UnixMillis,
    /// Unix milliseconds; 0: the session has no end of its own. A renewal changes it.
    pub expires_at: AtomicU64,
    /// The time of the last bytes, in milliseconds after the start. The session's task writes it,
    /// and lists of sessions read it.
    pub active_until: AtomicU64,
    /// From the client, and from the upstream.
    pub traffic: [TrafficMeter; 2],
    pub signal: CloseSignal,
}

/// The traffic of one direction of a session. The session's task writes it, and the metrics take
/// the new part.
#[derive(Debug, Default)]
pub struct TrafficMeter {
    bytes: Meter,
    messages: Meter,
}

#[derive(Debug, Default)]
struct Meter {
    moved: AtomicU64,
    /// The part of `moved` that was already counted.
    counted: AtomicU64,
}

/// A request that a session should close. The first reason stays.
#[derive(Debug, Default)]
pub struct CloseSignal {
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// The reason, and when it was given. Boxed, because every session has a slot.
    request: Option<Box<(CloseReason, Instant)>>,
    waker: Option<Waker>,
}

/// A session's place in the registry. Dropping it removes the session.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<Registry>,
    handle: Arc<SessionHandle>,
}

/// A session as `/sessions` lists it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionRow {
    pub id: String,
    pub user: Option<String>,
    pub method: Option<&'static str>,
    pub route: String,
    pub upstream: String,
    pub server: String,
    pub peer: IpAddr,
    pub request_id: String,
    pub since: String,
    pub last_activity: String,
    pub expires_at: Option<String>,
}

/// One line of `/status`; without a method on a public route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionCount {
    pub route: String,
    pub method: Option<&'static str>,
    pub sessions: usize,
}

impl Registry {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn open(self: &Arc<Self>, handle: SessionHandle) -> SessionGuard {
        let handle = Arc::new(handle);
        if let Some(mut shard) = self.shard(handle.id)
            && shard.insert(handle.id, Arc::clone(&handle)).is_none()
        {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.notify_follower(|| SessionChange::Began(CountedSession::of(&handle)));
        SessionGuard { registry: Arc::clone(self), handle }
    }

    /// Sends every change from now on. `None`: no process replaces this one.
    pub fn tell_changes(&self, follower: Option<SessionChanges>) {
        *lock(&self.follower) = follower;
    }

    fn notify_follower(&self, change: impl FnOnce() -> SessionChange) {
        if let Some(follower) = &*lock(&self.follower) {
            // If the other process has gone, no process counts.
            let _ = follower.send(change());
        }
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn find(&self, id: SessionId) -> Option<Arc<SessionHandle>> {
        self.shard(id)?.get(&id).cloned()
    }

    /// Returns every open session. Locks one shard at a time: sessions may come and go meanwhile.
    pub fn handles(&self) -> Vec<Arc<SessionHandle>> {
        let mut handles = Vec::with_capacity(self.len());
        for shard in &self.shards {
            handles.extend(lock(shard).values().cloned());
        }
        handles
    }

    /// Asks every session to end whose client logged in with a revoked certificate. Returns how
    /// many were not ending already.
    pub fn close_revoked_certificates(
        &self,
        is_revoked: impl Fn(&CertificateDer<'static>) -> bool,
    ) -> usize {
        let certificates: Vec<_> = lock(&self.certificates)
            .iter()
            .map(|(id, certificate)| (*id, Arc::clone(certificate)))
            .collect();
        let hit = certificates.iter().filter(|(_, certificate)| is_revoked(certificate));
        hit.filter_map(|(id, _)| self.find(*id))
            .filter(|handle| handle.close(CloseReason::Revoked))
            .count()
    }

    /// Asks every session that the revocation concerns to end. Returns how many were not ending
    /// already.
    pub fn close_revoked(&self, revocation: &Revocation) -> usize {
        let aim = revocation.aim();
        let is_hit = |handle: &&Arc<SessionHandle>| {
            aim.hits(handle.id.as_str(), handle.user.as_deref(), &handle.identity)
        };
        let mut closed = 0;
        for shard in &self.shards {
            let hit: Vec<_> = lock(shard).values().filter(is_hit).cloned().collect();
            closed += hit.iter().filter(|handle| handle.close(CloseReason::Revoked)).count();
        }
        closed
    }

    /// Counts the traffic of live sessions since the last call. Sessions do not count it while they
    /// run.
    pub fn count_traffic(&self) {
        let mut routes: HashMap<Arc<str>, [Traffic; 2]> = HashMap::new();
        for shard in &self.shards {
            for handle in lock(shard).values() {
                let rest = handle.uncounted_traffic();
                if rest != [Traffic::default(); 2] {
                    let sums = routes.entry(Arc::clone(&handle.route.name)).or_default();
                    sums.iter_mut().zip(rest).for_each(|(sum, one)| {
                        sum.bytes += one.bytes;
                        sum.messages += one.messages;
                    });
                }
            }
        }
        for (route, [from_client, from_upstream]) in routes {
            Relayed { route: &route, from_client, from_upstream }.emit();
        }
    }

    /// Returns the number of wanted sessions, and at most `limit` of them, the oldest first.
    pub fn snapshot(
        &self,
        limit: usize,
        is_wanted: impl Fn(&SessionHandle) -> bool,
    ) -> (usize, Vec<SessionRow>) {
        let mut handles = self.handles();
        handles.retain(|handle| is_wanted(handle));
        handles.sort_by_key(|handle| handle.started);
        (handles.len(), handles.iter().take(limit).map(|handle| handle.row()).collect())
    }

    /// Returns the number of open sessions for each route and method that has any.
    pub fn tally(&self) -> Vec<SessionCount> {
        let mut counts: BTreeMap<(Arc<str>, Option<&'static str>), usize> = BTreeMap::new();
        for shard in &self.shards {
            for handle in lock(shard).values() {
                *counts
                    .entry((Arc::clone(&handle.route.name), handle.method.map(Method::name)))
                    .or_default() += 1;
            }
        }
        counts
            .into_iter()
            .map(|((route, method), sessions)| SessionCount {
                route: route.to_string(),
                method,
                sessions,
            })
            .collect()
    }

    fn shard(
        &self,
        id: SessionId,
    ) -> Option<MutexGuard<'_, HashMap<SessionId, Arc<SessionHandle>>>> {
        self.shards.get(id.0.first_digit()).map(lock)
    }
}

impl SessionHandle {
    /// Asks the session to end, from any thread. Only the first reason counts. Returns true if this
    /// was the first.
    pub fn close(&self, reason: CloseReason) -> bool {
        self.signal.close(reason)
    }

    /// Completes when the session was asked to end. For the session's own task alone: one waker is
    /// kept.
    pub fn poll_close(&self, context: &mut Context<'_>) -> Poll<CloseReason> {
        self.signal.poll(context)
    }

    /// Returns the time since the session was asked to end for this reason.
    pub fn closing_for(&self, reason: CloseReason, now: Now) -> Option<Duration> {
        let slot = lock(&self.signal.slot);
        let (_, at) = **slot.request.as_ref().filter(|request| request.0 == reason)?;
        Some(now.mono.saturating_duration_since(at))
    }

    /// Returns the reason for which the session was asked to end.
    pub fn asked_to_close(&self) -> Option<CloseReason> {
        lock(&self.signal.slot).request.as_ref().map(|request| request.0)
    }

    /// Notes that bytes came from either side, at this time after the start of the session.
    pub fn touch(&self, after: Duration) {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.active_until.store(millis, Ordering::Relaxed);
    }

    /// Sets the traffic since the session began, from the client and from the upstream.
    pub fn set_traffic(&self, moved: [Traffic; 2]) {
        self.traffic.iter().zip(moved).for_each(|(meter, moved)| {
            meter.bytes.moved.store(moved.bytes, Ordering::Relaxed);
            meter.messages.moved.store(moved.messages, Ordering::Relaxed);
        });
    }

    /// Returns the traffic that the session reported last, from the client and from the upstream.
    pub fn traffic(&self) -> [Traffic; 2] {
        let moved = |meter: &Meter| meter.moved.load(Ordering::Relaxed);
        self.traffic
            .each_ref()
            .map(|meter| Traffic { bytes: moved(&meter.bytes), messages: moved(&meter.messages) })
    }

    /// Takes the traffic that has not been counted. Each byte is taken once, also by callers that
    /// race.
    pub fn uncounted_traffic(&self) -> [Traffic; 2] {
        let [client, upstream] = &self.traffic;
        [client, upstream]
            .map(|meter| Traffic { bytes: meter.bytes.take(), messages: meter.messages.take() })
    }

    fn last_activity(&self) -> UnixMillis {
        self.started + Duration::from_millis(self.active_until.load(Ordering::Relaxed))
    }

    pub fn expires_at(&self) -> Option<UnixMillis> {
        Some(UnixMillis(self.expires_at.load(Ordering::Relaxed))).filter(|at| at.0 > 0)
    }

    pub fn set_expires_at(&self, at: Option<UnixMillis>) {
        self.expires_at.store(at.map_or(0, |at| at.0), Ordering::Relaxed);
    }

    pub fn facts(&self) -> SessionFacts<'_> {
        SessionFacts {
            request_id: self.request_id.as_str(),
            session_id: self.id.as_str(),
            user: self.user.as_deref(),
            method: self.method,
            route: &self.route.name,
            upstream: &self.route.upstream.name,
            peer: self.peer,
            trace_id: self.trace_id.as_deref().copied(),
        }
    }

    fn row(&self) -> SessionRow {
        SessionRow {
            id: self.id.to_string(),
            user: self.user.as_deref().map(str::to_owned),
            method: self.method.map(Method::name),
            route: self.route.name.to_string(),
            upstream: self.route.upstream.name.to_string(),
            server: self.server.to_string(),
            peer: self.peer,
            request_id: self.request_id.to_string(),
            since: self.started.to_rfc3339(),
            last_activity: self.last_activity().to_rfc3339(),
            expires_at: self.expires_at().map(UnixMillis::to_rfc3339),
        }
    }
}

impl Meter {
    fn take(&self) -> u64 {
        let moved = self.moved.load(Ordering::Relaxed);
        if moved == self.counted.load(Ordering::Relaxed) {
            return 0;
        }
        // Another caller may have read a later value meanwhile, and has taken more.
        moved.saturating_sub(self.counted.fetch_max(moved, Ordering::Relaxed))
    }
}

impl CloseSignal {
    fn close(&self, reason: CloseReason) -> bool {
        let mut slot = lock(&self.slot);
        let is_first = slot.request.is_none();
        slot.request.get_or_insert_with(|| Box::new((reason, Now::read().mono)));
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
        is_first
    }

    /// Returns the reason, or keeps the waker, under one lock. A reason that is set before is seen
    /// here; one that is set after finds the waker. So no wake-up is lost.
    fn poll(&self, context: &mut Context<'_>) -> Poll<CloseReason> {
        let mut slot = lock(&self.slot);
        if let Some(request) = &slot.request {
            return Poll::Ready(request.0);
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl SessionId {
    pub fn random() -> Self {
        Self(HexId::random())
    }

    /// Reads an id of 32 hexadecimal digits. `None`: the text is not an id.
    pub fn read(text: &str) -> Option<Self> {
        // `from_str_radix` also reads a leading `+`.
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| is_id)?;
        Some(Self(HexId::from_bytes(bits.to_be_bytes())))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Deref for SessionGuard {
    type Target = Arc<SessionHandle>;

    fn deref(&self) -> &Self::Target {
        &self.handle
    }
}

impl SessionGuard {
    /// Notes the certificate that the client logged in with, so that its revocation ends the
    /// session.
    pub fn note_certificate(&self, certificate: Arc<CertificateDer<'static>>) {
        lock(&self.registry.certificates).insert(self.handle.id, certificate);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if self.handle.method == Some(Method::Mtls) {
            lock(&self.registry.certificates).remove(&self.handle.id);
        }
        if let Some(mut shard) = self.registry.shard(self.handle.id)
            && shard.remove(&self.handle.id).is_some()
        {
            self.registry.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.registry.notify_follower(|| SessionChange::Ended(self.handle.id));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::{Barrier, LazyLock};
    use std::task::Wake;
    use std::thread::{self, Thread};

    static ROUTE: LazyLock<Arc<Route>> =
        LazyLock::new(|| Arc::clone(&crate::config::for_test("auth = [\"ticket\"]").routes[0]));

    pub(crate) fn handle(user: &str, started: u64) -> SessionHandle {
        SessionHandle {
            id: SessionId::random(),
            issuer: Some("main".into()),
            user: Some(user.into()),
            identity: Identity::default(),
            method: Some(Method::Ticket),
            route: Arc::clone(&ROUTE),
            server: "http://127.0.0.1:9000".into(),
            peer: Ipv4Addr::LOCALHOST.into(),
            request_id: RequestId::random(),
            trace_id: None,
            started: UnixMillis(started),
            expires_at: AtomicU64::new(0),
            active_until: AtomicU64::new(0),
            traffic: Default::default(),
            signal: CloseSignal::default(),
        }
    }

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Runs as a task would: polls, and sleeps until it is woken. Hangs if a wake-up is lost.
    fn wait(handle: &SessionHandle) -> CloseReason {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            match handle.poll_close(&mut Context::from_waker(&waker)) {
                Poll::Ready(reason) => return reason,
                Poll::Pending => thread::park(),
            }
        }
    }

    #[test]
    fn no_wake_up_is_lost_however_close_and_poll_race() {
        for _ in 0..2_000 {
            let handle = Arc::new(handle("ann", 0));
            let start = Arc::new(Barrier::new(2));
            let (theirs, their_start) = (Arc::clone(&handle), Arc::clone(&start));
            let task = thread::spawn(move || {
                their_start.wait();
                wait(&theirs)
            });
            start.wait();
            handle.close(CloseReason::Draining);
            assert_eq!(task.join().unwrap(), CloseReason::Draining);
        }
    }

    /// Every session has a handle, also an idle one.
    #[test]
    fn a_handle_takes_no_more_than_304_bytes() {
        assert!(size_of::<SessionHandle>() <= 304, "{}", size_of::<SessionHandle>());
    }

    #[test]
    fn what_moved_is_taken_once_however_many_ask() {
        let handle = Arc::new(handle("ann", 0));
        let taken: u64 = thread::scope(|scope| {
            let takers: Vec<_> = (0..3)
                .map(|_| {
                    let handle = Arc::clone(&handle);
                    scope.spawn(move || {
                        (0..5_000).map(|_| handle.uncounted_traffic()[1].bytes).sum::<u64>()
                    })
                })
                .collect();
            for moved in 1..=5_000 {
                handle.set_traffic([
                    Traffic::default(),
                    Traffic { bytes: moved * 7, messages: moved },
                ]);
            }
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        let [from_client, from_upstream] = handle.uncounted_traffic();
        assert_eq!((taken + from_upstream.bytes, from_client), (35_000, Traffic::default()));
        assert_eq!(handle.uncounted_traffic(), [Traffic::default(); 2]);
    }

    #[test]
    fn the_first_reason_stays() {
        let handle = handle("ann", 0);
        handle.close(CloseReason::SessionExpired);
        handle.close(CloseReason::Draining);
        assert_eq!(wait(&handle), CloseReason::SessionExpired);
        assert_eq!(wait(&handle), CloseReason::SessionExpired);
    }

    #[test]
    fn a_session_is_listed_for_as_long_as_its_guard_lives() {
        let registry = Registry::new();
        let guards: Vec<SessionGuard> =
            (0..100).map(|n| registry.open(handle(&format!("user-{n}"), 1_000 - n))).collect();
        assert_eq!((registry.len(), registry.handles().len()), (100, 100));
        let (total, rows) = registry.snapshot(2, |_| true);
        assert_eq!(total, 100);
        assert_eq!(
            rows.iter().map(|row| row.user.as_deref().unwrap()).collect::<Vec<_>>(),
            ["user-99", "user-98"]
        );
        let id = guards[0].id;
        assert_eq!((SessionId::read(id.as_str()), SessionId::read("7")), (Some(id), None));
        let signed = id.as_str().replacen(|_: char| true, "+", 1);
        assert_eq!(SessionId::read(&signed), None, "a sign is not a digit");
        assert!(registry.find(id).is_some());
        drop(guards);
        assert!(
            registry.find(id).is_none() && registry.is_empty() && registry.handles().is_empty()
        );
    }
}
