//! The real binary, tested from outside: with real sockets, real TLS, and clients and servers of
//! other projects.
//!
//! Each file tests one behaviour. `support` starts Usher on free ports and holds the two oracles.
//! The ledger checks that no message is lost, doubled, reordered or given to another client. The
//! door book checks that only clients that were let in reach the upstream.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test fails by panicking, and its futures are few"
)]

mod acme;
mod address_limits;
mod admin_page;
mod admin_socket;
mod answers;
mod auth;
mod bench;
mod brokers;
mod certificates;
mod clients;
mod compression;
mod crls;
mod demo;
mod departures;
mod documents;
mod drain;
mod explain;
mod explain_live;
mod farewell;
mod figures;
mod first_message;
mod first_steps;
mod fleet_sessions;
mod forwarding;
mod help;
mod http2;
mod http2_floods;
mod http2_sessions;
mod http_heads;
mod http_proxy;
mod issuers;
mod limits;
mod log_rotation;
mod methods;
mod migration;
mod mtls;
mod name_addresses;
mod observability;
mod ocsp;
mod passed_sockets;
mod paths;
mod permissions;
mod pinned;
mod ports;
mod presets;
mod proxy_protocol;
mod reauth;
mod refusals;
mod relay;
mod reload;
mod revocation;
mod revocation_fleet;
mod service_manager;
mod session_cookies;
mod sessions;
mod sick_servers;
mod soak;
mod socketio;
mod store_cluster;
mod store_failover;
mod store_faults;
mod store_redis;
mod store_regions;
mod strangers;
mod support;
mod takeover;
mod takeover_limits;
mod takeover_peers;
mod ticket_audit;
mod tickets;
mod tls;
mod tokens;
mod traces;
mod traces_receiver;
mod traces_takeover;
mod upgrade_strict;
mod upstreams;
mod verdicts;
mod verifier_servers;
mod verifiers;
