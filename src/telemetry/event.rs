//! Every domain event: one type that writes the log line, counts the metric and writes the audit line together.
//!
//! Nothing else in the program touches the metrics macros, so a log line and its counter cannot drift apart.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::auth::credential::Method;
use crate::auth::principal::Principal;
use crate::auth::renewal::NotRenewed;
use crate::auth::revocation::Revocation;
use crate::breaker::BreakerState;
use crate::clock::UnixMillis;
use crate::migration::Standing;
use crate::migration::shadow::Mismatch;
use crate::rejection::Rejection;
use crate::reload::Applied;
use crate::session::close::SessionEnd;
use crate::session::revalidation::Heard;
use crate::store::TicketFault;

#[derive(Debug)]
pub enum Event<'a> {
    /// Everything is bound and built.
    Ready {
        listeners: &'a [SocketAddr],
        admin: Option<SocketAddr>,
        config: Option<&'a Path>,
    },
    /// Test identities count in this process, on these routes.
    BypassAllowed {
        routes: &'a [&'a str],
    },
    /// A test identity was shown; without a user it was refused.
    BypassUsed {
        request_id: &'a str,
        peer: IpAddr,
        route: &'a str,
        user: Option<&'a str>,
    },
    DrainStarted {
        sessions: usize,
        window: Duration,
    },
    DrainFinished {
        remaining: usize,
    },
    ConnectionOpened,
    ConnectionClosed,
    /// A connection that has not shown who it is came, or is now known or gone.
    UnauthenticatedEntered,
    UnauthenticatedLeft,
    /// `limit` is a label of a closed set: `connections`, ...
    LimitReached {
        limit: &'static str,
        peer: Option<IpAddr>,
    },
    /// The operating system would not give us the next connection (no descriptors, no memory).
    AcceptFailed {
        error: &'a std::io::Error,
    },
    ConnectionPanicked,
    /// `reason` is a label of a closed set: `timeout`, `gone`, `protocol`.
    TlsFailed {
        peer: IpAddr,
        reason: &'static str,
        detail: &'a str,
    },
    TlsEstablished {
        resumed: bool,
        duration: Duration,
    },
    /// An upgrade, or another request on a route that asks for auth, was refused.
    UpgradeRejected {
        about: Attempt<'a>,
        rejection: &'a Rejection,
    },
    /// The same for plain HTTP.
    RequestRejected {
        about: Attempt<'a>,
        rejection: &'a Rejection,
    },
    HttpForwarded {
        about: Attempt<'a>,
        user: Option<&'a str>,
        status: u16,
        duration: Duration,
    },
    SessionStarted {
        session: SessionFacts<'a>,
        /// `None` on a public route.
        principal: Option<&'a Principal>,
        request_id: &'a str,
        server: &'a str,
        handshake: Phases,
    },
    /// A first message with a credential came, so long after the 101.
    FirstMessage {
        route: &'a str,
        waited: Duration,
    },
    /// What happened in the stream for the sake of renewing the grant.
    Reauth {
        session: SessionFacts<'a>,
        outcome: ReauthOutcome<'a>,
    },
    SessionEnded {
        session: SessionFacts<'a>,
        end: &'a SessionEnd,
    },
    TicketIssued {
        request_id: &'a str,
        ticket: &'a str,
        user: &'a str,
        issuer: &'a str,
        peer: IpAddr,
        route: &'a str,
        ttl: Duration,
    },
    TicketRefused {
        about: Attempt<'a>,
        rejection: &'a Rejection,
    },
    TicketRedeemed {
        request_id: &'a str,
        ticket: &'a str,
        user: &'a str,
        peer: IpAddr,
        route: &'a str,
        /// That the ticket names.
        region: Option<&'a str>,
    },
    TicketRedeemRefused {
        request_id: &'a str,
        ticket: Option<&'a str>,
        peer: IpAddr,
        route: &'a str,
        fault: TicketFault,
    },
    /// A ticket's client left before it was answered; the ticket is spent.
    TicketLost {
        request_id: &'a str,
        user: &'a str,
    },
    /// Tickets that nobody redeemed in time.
    TicketsExpired {
        count: u64,
    },
    TicketsHeld {
        count: usize,
    },
    /// One operation on a store outside of this process. `outcome` is `ok`, or the label of a fault.
    /// Without regions the region is empty.
    StoreOperation {
        region: &'a str,
        operation: &'static str,
        outcome: &'static str,
        duration: Option<Duration>,
    },
    StoreDialled {
        region: &'a str,
        lane: &'static str,
        outcome: &'static str,
    },
    StoreBreaker {
        region: &'a str,
        lane: &'static str,
        state: BreakerState,
    },
    /// One question to a verifier: `good`, `bad`, or the label of a fault. Without a duration it was not sent.
    VerifierAsked {
        verifier: &'a str,
        outcome: &'static str,
        duration: Option<Duration>,
    },
    /// What was remembered of a credential: `good`, `bad`, `joined` (it is being asked about) or `miss`.
    VerifierRemembers {
        verifier: &'a str,
        outcome: &'static str,
    },
    VerifierInFlight {
        verifier: &'a str,
        change: f64,
    },
    /// `fault` is what brought it about, where a fault did.
    VerifierBreaker {
        verifier: &'a str,
        state: BreakerState,
        fault: Option<&'static str>,
    },
    /// A verifier was asked again about a live session.
    Revalidated {
        session: SessionFacts<'a>,
        verifier: &'a str,
        heard: &'a Heard,
    },
    /// An order is in force, and so many live sessions were told to end.
    Revoked {
        order: &'a Revocation,
        closed: usize,
    },
    /// There was no room for it on the deny list; nothing was revoked.
    RevocationRefused {
        order: &'a Revocation,
    },
    RevocationsHeld {
        count: usize,
    },
    /// Whether this node hears what the others revoke; the label of the fault where it does not.
    FleetReading {
        fault: Option<&'static str>,
    },
    /// One entry of the fleet's stream was read; the delay is since the order was given.
    FleetHeard {
        outcome: &'static str,
        delay: Option<Duration>,
    },
    /// The fleet's stream has lost entries: it was trimmed, emptied or is another one.
    FleetGap,
    /// So many nodes beat lately, this one among them; 0 where nobody says so.
    FleetNodes {
        count: usize,
    },
    /// Orders in force here were missing in the fleet's stream, and were written to it.
    FleetTold {
        count: usize,
    },
    /// Another configuration is in force, or was refused and nothing has changed.
    Reloaded {
        cause: &'static str,
        outcome: Result<&'a Applied, &'a str>,
    },
    /// An issuer's published keys were fetched; `is_new`: they are not the ones that were held.
    IssuerKeysFetched {
        issuer: &'a str,
        keys: usize,
        is_new: bool,
        at: UnixMillis,
    },
    /// They could not be, so often in a row. `fault` is a label of a closed set.
    IssuerKeysFailed {
        issuer: &'a str,
        fault: &'static str,
        detail: &'a str,
        failures: u32,
        has_keys: bool,
    },
    /// The last good set of an earlier process is used until one is fetched.
    IssuerKeysRestored {
        issuer: &'a str,
        keys: usize,
        at: UnixMillis,
    },
    IssuerKeysNotKept {
        issuer: &'a str,
        error: &'a std::io::Error,
    },
    /// Somebody came in by a method that is to go.
    LegacyUsed {
        route: &'a str,
        method: Method,
        user: &'a str,
        deprecated: Option<UnixMillis>,
        sunset: Option<UnixMillis>,
    },
    /// Somebody came in on a route with a rollout.
    RolledOut {
        route: &'a str,
        standing: Standing,
    },
    /// What a shadow method would have said; `verdict` is of a closed set.
    Shadowed {
        route: &'a str,
        method: Method,
        verdict: &'static str,
        mismatch: Option<Mismatch>,
    },
    DialFailed {
        upstream: &'a str,
        server: &'a str,
        error: &'a str,
    },
    KeyringLoaded {
        algorithm: &'static str,
        current: &'a str,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum ReauthOutcome<'a> {
    Asked,
    Renewed { expires_at: Option<UnixMillis> },
    Refused(&'a NotRenewed),
}

/// One request as logs tell it: the path never has its query.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub request_id: &'a str,
    pub peer: IpAddr,
    pub host: &'a str,
    pub path: &'a str,
    /// The route's name, or empty where none was found.
    pub route: &'a str,
    pub method: Option<Method>,
}

#[derive(Clone, Copy, Debug)]
pub struct SessionFacts<'a> {
    /// The request that became this session.
    pub request_id: &'a str,
    pub session_id: &'a str,
    pub user: Option<&'a str>,
    pub method: Option<Method>,
    pub route: &'a str,
    pub upstream: &'a str,
    pub peer: IpAddr,
}

/// How long each phase of a successful upgrade took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    pub authenticate: Duration,
    pub dial: Duration,
    pub answer: Duration,
    /// From the complete request head to the 101.
    pub total: Duration,
}
