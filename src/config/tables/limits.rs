//! `[limits]`.

use crate::base::rate::Rate;
use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{Choice, Count, OneOf, PositiveDuration, Size};
use crate::config::reader::Section;

table! {
    /// Limits on everything that clients can make grow.
    pub struct Limits: [limits] {
        /// Open client connections.
        connections: Count, default 20000,
            because "a small machine can hold this many; a limit that is never reached protects \
                nothing",
            change_when "you have measured; raise the limit of file descriptors with it: two for \
                each session";
        /// How long a TLS handshake may take.
        tls_timeout: PositiveDuration, default "5s",
            because "within the 15 s of `handshake_timeout`; each stage has its own timeout, so \
                that the metrics show which stage is slow";
        /// How long a request head may take.
        head_timeout: PositiveDuration, default "5s",
            because "as `tls_timeout`";
        /// The longest time from accept to a grant; the wait for a first message has its own
        /// timeout.
        handshake_timeout: PositiveDuration, default "15s",
            because "the published limit: from accept to a grant, for all stages together",
            change_when "never raise it";
        /// The largest request head.
        head_bytes: Size, default "16KiB",
            because "within the published 64 KiB; large cookies and tokens fit";
        /// The most header fields of a request.
        head_fields: Count, default 100,
            because "more than a browser and two proxies send together";
        /// The largest request target.
        target_bytes: Size, default "8KiB",
            because "within the published 64 KiB; a token in the query fits";
        /// Concurrent streams of an HTTP/2 connection: requests and sessions.
        http2_streams: Count, default 100,
            because "the number that browsers and other servers are used to; each stream beside \
                the first counts as one of `connections`, and each one without a credential as one \
                of `unauthenticated`",
            change_when "a proxy in front of Usher carries many clients on one HTTP/2 connection: \
                raise it";
        /// Streams that an HTTP/2 client may reset in a time, for each connection.
        http2_resets: Rate, default "200/10s",
            because "a browser resets all requests of a page that is left; an attacker resets \
                thousands in a second, to cause work that it does not wait for",
            change_when "a proxy in front of Usher carries many clients on one HTTP/2 connection: \
                raise it";
        /// Frames without a request or data that an HTTP/2 client may send in a time, for each
        /// connection: SETTINGS, PING, PRIORITY, and WINDOW_UPDATE beyond what the answers explain.
        http2_control_frames: Rate, default "1000/10s",
            because "a client sends a few with each answer; a flood of them costs Usher work, and \
                the client nothing",
            change_when "clients are closed with `ENHANCE_YOUR_CALM`";
        /// How long an HTTP connection may be idle between requests.
        http_idle_timeout: PositiveDuration, default "15s",
            because "a browser opens a new connection quickly";
        /// How long a client may pause while it sends a request body or reads an answer.
        stall_timeout: PositiveDuration, default "30s",
            because "a phone may lose its network for a short time; a client that stops reading \
                does not keep its connection for longer. Only waits for the client count: a long \
                poll or a silent stream is not cut",
            change_when "clients are slower: raise it. It does not limit the time of a whole body";
        /// The most bytes of an upstream's refusal that are sent to the client.
        refusal_bytes: Size, default "64KiB",
            because "enough for an error page";
        /// Bytes buffered for one direction of one session while the other side does not read;
        /// 64KiB at most.
        buffered_bytes: Size, default "64KiB",
            because "bytes that one side does not read become backpressure for the other; a larger \
                buffer only hides a slow reader";
        /// Users and addresses whose rates of tickets and upgrades are tracked.
        rate_entries: Count, default 100000,
            because "the memory for unknown clients must not grow with their number";
        /// Lines that wait for a slow disk, for each of the log and the audit log.
        log_queue: Count, default 10000, was audit_queue until "0.3.0",
            because "the queue for a slow disk must not grow without limit";
        /// Open connections without an accepted credential. The default is at most half of
        /// `connections`; a written value is limited to 90 % of them.
        unauthenticated: Count, default 10000,
            because "at most half of `connections`, and never more than 90 % of them. A client \
                without a credential counts as long as it is connected: in the handshake, in plain \
                HTTP, between two requests, and in a session on a public route. The other \
                connections are kept for authenticated clients. Unauthenticated clients use at \
                most this number times the published 64 KiB",
            change_when "a public route has many sessions: raise `connections` with it";
        /// The same limit for one address; the default is at most half of `unauthenticated`.
        unauthenticated_per_address: Count, default 1000,
            because "at most half of `unauthenticated`. Many clients of an office may share one \
                address, but one address never takes all connections",
            change_when "many clients come from one address that is not a trusted peer";
        /// Concurrent sessions of one user on all nodes that share a store; not limited by default.
        sessions_per_user: Count, optional 5,
            because "only the application knows how many pages and devices one person uses; the \
                count is per issuer and user, over all nodes that share a store",
            change_when "accounts are shared, or a client leaks sockets";
        /// The action for a session above `sessions_per_user`: refuse it, or replace-oldest.
        extra_sessions: OneOf<ExtraSessions>, default "refuse", was on_limit until "0.3.0",
            because "it does not disturb a session that is already open",
            change_when "dead connections remain open, or users work on their newest device: \
                `replace-oldest`. Clients must not reconnect after `Session replaced` (1008 or \
                4409); otherwise two pages replace each other for ever";
        /// Concurrent sessions of one address on this node; not limited by default. An IPv6 network
        /// of 64 bits counts as one address.
        sessions_per_address: Count, optional 100,
            because "an office or a mobile network may have thousands of clients behind an address",
            change_when "you know how many of your clients share an address at most";
        /// Concurrent sessions of each route on this node; not limited by default.
        sessions_per_route: Count, optional 5000,
            because "`connections` limits all routes together",
            change_when "the backend of one route holds fewer sessions than this node";
        /// Upgrades in a time, from all clients together; not limited by default.
        upgrades_rate: Rate, optional "500/1s",
            because "only a measurement shows how many logins your issuers and backends stand",
            change_when "a reconnect storm overloads what is behind Usher";
        /// Upgrades of one address in a time; not limited by default.
        upgrades_rate_per_address: Rate, optional "20/1s",
            because "as `sessions_per_address`",
            change_when "single addresses try credentials, or clients reconnect without a pause";
        /// The largest message of a client, as sent on the wire.
        message_bytes: Size, default "16MiB",
            because "larger than chat messages, smaller than messages that overload a backend; the \
                frame headers decide, so nothing is buffered",
            change_when "the backend has its own limit: use the same";
        /// Messages of one client per second; not limited by default.
        messages_per_second: Count, optional 1000,
            because "only the application knows the right number; a wrong one disconnects honest \
                clients",
            change_when "you know how many messages your clients send";
        /// The largest message after decompression, for an upstream without compression.
        inflated_bytes: Size, default "16MiB",
            because "deflate can expand data a thousand times; the limit applies only where the \
                upstream does not use compression";
        /// Concurrent checks of shadow methods.
        shadow_checks: Count, default 1000,
            because "clients do not wait for these checks, so other work comes first",
            change_when "many checks are `skipped`";
    }
}

/// The action for a session above the limit of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraSessions {
    Refuse,
    /// Opens the new session and ends the oldest session of the user.
    ReplaceOldest,
}

impl Choice for ExtraSessions {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("refuse", Self::Refuse), ("replace-oldest", Self::ReplaceOldest)]
    }
}

/// The largest share of all connections for unauthenticated clients, in percent.
const MOST_UNAUTHENTICATED_PERCENT: usize = 90;

pub fn limits(section: &Section<'_, '_>) -> Limits {
    let mut limits = Limits::read(section);
    let connections = limits.connections;
    match section.value("unauthenticated") {
        None => limits.unauthenticated = limits.unauthenticated.min(connections.div_ceil(2)),
        Some(value) => {
            let most = (connections * MOST_UNAUTHENTICATED_PERCENT / 100).max(1);
            if limits.unauthenticated > most {
                let message = format!(
                    "`unauthenticated` leaves no room for authenticated clients; {most} is used \
                     instead"
                );
                let help = "write less than `connections`: the rest is kept for authenticated \
                            clients";
                let warning = Diagnostic::warning(message).help(help);
                section.reader.report(&value.span(), warning);
                limits.unauthenticated = most;
            }
        }
    }
    if section.value("unauthenticated_per_address").is_none() {
        let half = limits.unauthenticated.div_ceil(2);
        limits.unauthenticated_per_address = limits.unauthenticated_per_address.min(half);
    }
    limits
}
