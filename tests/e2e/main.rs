//! The real binary, seen from outside: real sockets, real TLS, clients and servers that are not ours.
//!
//! Files are behaviours. `support` starts Usher on free ports and holds the two oracles: the ledger (no message lost,
//! doubled, reordered or under another's name) and the door book (nobody got in who had not been let in).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test fails by panicking, and its futures are few"
)]

mod auth;
mod bench;
mod clients;
mod compression;
mod demo;
mod drain;
mod explain;
mod first_message;
mod fleet_sessions;
mod fleet_storm;
mod http_proxy;
mod issuers;
mod limits;
mod methods;
mod migration;
mod mtls;
mod permissions;
mod presets;
mod reauth;
mod relay;
mod reload;
mod revocation;
mod revocation_fleet;
mod seeing;
mod session_cookies;
mod sessions;
mod store_cluster;
mod store_failover;
mod store_faults;
mod store_redis;
mod store_regions;
mod support;
mod tickets;
mod tls;
mod tokens;
mod upgrade_strict;
mod upstreams;
mod verifier_servers;
mod verifiers;
