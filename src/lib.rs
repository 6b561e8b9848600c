//! Usher, an edge reverse proxy that terminates WebSocket authentication.
//!
//! # The life of a connection
//!
//! 1. A thread accepts the connection ([`listener`]) and terminates TLS. Each core has one thread.
//! 2. A strict parser reads the first bytes as a request head ([`net::http1::head`]). It rejects a
//!    head that another parser could read differently.
//! 3. Plain HTTP goes through a guard to the HTTP library, and is forwarded ([`http::forward`]).
//! 4. An upgrade is handled by Usher itself ([`http::upgrade`]). Usher finds the route and removes
//!    the credential from the request. The credential becomes a principal, and the principal a
//!    [`auth::grant::Grant`]. A client without a credential in its request may send one in its
//!    first message, in one of several dialects ([`auth::first_message`]).
//! 5. An upstream can be dialled only with a grant ([`upstream::connect`]). It gets the upgrade
//!    with a signed context that names the user. The session opens only after a correct 101.
//! 6. From then on, the two sockets are a session. Its rules are a state machine without I/O
//!    ([`session::state`]). One future moves its bytes, and owns no buffer while it is idle
//!    ([`session::relay`]).
//! 7. Before the grant expires, Usher asks the client for a new credential in the stream
//!    ([`session::conversation`]).
//! 8. A session ends once, for one reason, and emits one event about it ([`telemetry::Event`]).
//!
//! # The modules
//!
//! A module imports only from the floors below its own; `tests/floors.rs` checks this. From the
//! lowest floor up:
//!
//! - [`base`] and [`ws`] import no other module of the program. [`base`] has the clock, locks and
//!   rates; [`ws`] has WebSocket frames.
//! - [`model`] has the common types, [`rejection`] every refusal and close reason, [`telemetry`]
//!   metrics and logs, and [`config`] the configuration.
//! - [`net`] moves bytes, [`store`] keeps tickets, [`acme`] orders certificates, and [`auth`] turns
//!   a credential into a grant.
//! - [`upstream`] dials with a grant, [`session`] is the open connection, [`fleet`] the other
//!   nodes, and [`migration`] the way from old methods to new ones.
//! - [`edge`] is one configuration ready to serve, [`http`] is a client's connection, [`listener`]
//!   accepts connections, [`admin`] is the admin listener, and [`takeover`] replaces a running
//!   process.
//! - [`app`] builds and runs the program, and [`cli`] is the command line.

pub mod acme;
pub mod admin;
pub mod admin_client;
pub mod app;
pub mod auth;
pub mod base;
pub mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod edge;
pub mod exit;
pub mod explain;
pub mod fleet;
pub mod http;
pub mod listener;
pub mod migration;
pub mod model;
pub mod net;
pub mod rejection;
pub mod session;
pub mod store;
pub mod takeover;
pub mod telemetry;
pub mod telemetry_setup;
pub mod traces;
pub mod upstream;
pub mod ws;
