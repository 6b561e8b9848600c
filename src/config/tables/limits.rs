//! `[limits]`.

use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{Choice, Count, OneOf, PositiveDuration, Size};
use crate::config::reader::Section;

table! {
    /// Bounds of everything that a client could make grow.
    pub struct Limits: [limits] {
        /// Client connections in all.
        connections: Count, default 20000,
            because "a figure that a small machine holds; a ceiling that is never reached \
                protects nothing",
            change_when "you have measured; raise the descriptor limit along with it: two for \
                each session";
        /// How long a TLS handshake may take.
        tls_timeout: PositiveDuration, default "5s",
            because "inside the 15 s of `handshake_timeout`: each stage has its own, so that a \
                slow stage shows as itself in the metrics";
        /// How long a request head may take.
        head_timeout: PositiveDuration, default "5s",
            because "as `tls_timeout`";
        /// From accept to a grant; the wait for a first message has its own timeout.
        handshake_timeout: PositiveDuration, default "15s",
            because "the published bound: from accept to a grant, whatever the stages in between",
            change_when "never up";
        /// Size of a request head.
        head_bytes: Size, default "16KiB",
            because "inside the published 64 KiB; large cookies and tokens fit";
        /// Header fields of a request.
        head_fields: Count, default 100,
            because "more than a browser and two proxies write together";
        /// Size of a request target.
        target_bytes: Size, default "8KiB",
            because "inside the published 64 KiB; a token in the query fits";
        /// How long an HTTP connection may rest between requests.
        http_idle_timeout: PositiveDuration, default "15s",
            because "a browser opens a new connection in a moment";
        /// How long a client may send nothing of a body that is waited for, or read nothing of an
        /// answer.
        stall_timeout: PositiveDuration, default "30s",
            because "a phone in a tunnel comes back; a client that reads no answer holds a place \
                no longer. Only waits for the client count: a long poll or a silent stream is not \
                cut",
            change_when "clients are slower: up. It is not a time limit for a whole body";
        /// Bytes of an upstream's refusal that are passed on.
        refusal_bytes: Size, default "64KiB",
            because "enough for an error page; the rest of a refusal says nothing more";
        /// Bytes held for one direction of one session while the other side does not read them;
        /// 64KiB at most.
        buffered_bytes: Size, default "64KiB",
            because "what one side does not read is backpressure for the other; a large buffer \
                only hides a slow reader";
        /// Users and addresses whose ticket rate is remembered.
        rate_entries: Count, default 100000,
            because "the memory of strangers must not grow with their number";
        /// Audit and log lines, each, that wait for a slow disk.
        log_queue: Count, default 10000, was audit_queue until "0.3.0",
            because "what waits for a disk must not grow without end";
        /// Connections that have shown no credential, in all; at most half of `connections` unless
        /// written, and never all of them.
        unauthenticated: Count, default 10000,
            because "at most half of `connections`, and 90 % of them however it is written. A \
                stranger holds a place all its life: in the handshake, in plain HTTP, between two \
                requests, in a session on a public route. What strangers cannot take is kept for \
                clients that have shown a credential. The most that strangers hold is this times \
                the published bound",
            change_when "a public route has many sessions: raise `connections` with it";
        /// The same, from one address; at most half of `unauthenticated` unless written.
        unauthenticated_per_address: Count, default 1000,
            because "at most half of `unauthenticated`. One address may be an office; and one \
                alone never takes every place",
            change_when "many clients come from one address that is not a trusted peer";
        /// Sessions of one user at once, on all nodes that share a store; not limited unless
        /// written.
        sessions_per_user: Count, optional 5,
            because "how many pages and devices one person has is the application's to know; the \
                count is per issuer and user, over all nodes that share a store",
            change_when "accounts are shared, or a client leaks sockets";
        /// What happens to one session more than `sessions_per_user`: refuse it, or replace-oldest.
        extra_sessions: OneOf<OnLimit>, default "refuse", was on_limit until "0.3.0",
            because "it takes nothing from a connected user",
            change_when "dead connections linger, or the newest device is the one in use: \
                `replace-oldest`. Clients must not come back after `Session replaced` (1008, or \
                4409), or two pages take the place from each other for ever";
        /// The largest message of a client, as it stands on the wire.
        message_bytes: Size, default "16MiB",
            because "above what chats send, below what hurts a backend; judged by headers, \
                nothing is buffered",
            change_when "the backend has a limit of its own: to that";
        /// Messages of one client in a second; not limited unless written.
        messages_per_second: Count, optional 1000,
            because "a fitting number is the application's to know; a wrong one cuts honest \
                clients off",
            change_when "you know it: always";
        /// The largest message that is inflated for an upstream without compression.
        inflated_bytes: Size, default "16MiB",
            because "deflate can expand a thousandfold; only used where the upstream takes no \
                compression";
        /// Shadow methods that are checked at once.
        shadow_checks: Count, default 1000,
            because "checks without consequence give way to what clients wait for",
            change_when "many are `skipped`";
    }
}

/// What happens to a session more than a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLimit {
    Refuse,
    /// It is opened, and the user's oldest session ends.
    ReplaceOldest,
}

impl Choice for OnLimit {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("refuse", Self::Refuse), ("replace-oldest", Self::ReplaceOldest)]
    }
}

/// The share of all connections that clients without a credential can hold at most.
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
                    "`unauthenticated` leaves no room for clients that have shown a credential; \
                     {most} are in force"
                );
                let help = "write less than `connections`: what strangers cannot take is kept for \
                            the others";
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
